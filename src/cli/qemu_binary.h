/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QEMU program: which file it is, whether an agent can be preloaded into it, and what it says about itself. */
#ifndef OB_CLI_QEMU_BINARY_H
#define OB_CLI_QEMU_BINARY_H

#include <limits.h>
#include <stddef.h>

#include "base/error.h"

struct ob_qemu_binary {
	char path[PATH_MAX];     /* what is executed, symbolic links as they are */
	char target[32];         /* "x86_64" */
	const char *default_type; /* of its machines; NULL: the target's usual one */
	int enable_kvm;          /* stands in for a script that adds -enable-kvm */
};

/*
 * Finds word as a shell would. Returns 0, -ENOENT when there is no such program, -EINVAL with the reason when it is none
 * that we can run under: not QEMU, a script, static, set-user-ID, or with file capabilities.
 */
int ob_qemu_binary_find(const char *word, struct ob_qemu_binary *ret_binary, struct ob_error *err) OB_MUST_CHECK;

/*
 * Asks the program over QMP what the RAM of a machine type is called (NULL: of its default type). Starts it for a
 * moment with an empty machine. Returns 0, -ENOENT when it has no such type, or -errno; each with the reason.
 */
int ob_qemu_binary_ask_ram_id(const struct ob_qemu_binary *binary, const char *type, char *ret_id, size_t size,
			      struct ob_error *err) OB_MUST_CHECK;

/* The first line of `PROGRAM -version`. Returns 0 or -errno with the reason. */
int ob_qemu_binary_ask_version(const char *path, char *ret_text, size_t size, struct ob_error *err) OB_MUST_CHECK;

#endif
