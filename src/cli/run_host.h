/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `overbook run` and `overbook doctor` find on the host: the agent's file and the swap directory. */
#ifndef OB_CLI_RUN_HOST_H
#define OB_CLI_RUN_HOST_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The agent: beside this program's build tree, or where it is installed. Returns 0, or -errno with the reason. */
int ob_host_find_agent(char *ret_path, size_t size, struct ob_error *err) OB_MUST_CHECK;

/* The default swap directory's path, which may not exist yet. Returns 0, or -ENOENT with the reason. */
int ob_host_default_swap(char *ret_path, size_t size, struct ob_error *err) OB_MUST_CHECK;

/*
 * The swap directory as an absolute path: given must exist; NULL means the default, which is made (mode
 * 0700) where make is set. A file is made there to see whether that works, and is gone at once. Returns 0, or -errno with the reason.
 */
int ob_host_find_swap(const char *given, int make, char *ret_path, size_t size, struct ob_error *err) OB_MUST_CHECK;

/* Whether RLIMIT_FSIZE lets QEMU make its RAM file; it would be killed at the attempt. Returns 0, or -EFBIG with the reason. */
int ob_host_check_file_size(uint64_t ram_bytes, struct ob_error *err) OB_MUST_CHECK;

#endif
