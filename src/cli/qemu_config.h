/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's configuration files, as -readconfig reads them. */
#ifndef OB_CLI_QEMU_CONFIG_H
#define OB_CLI_QEMU_CONFIG_H

#include "cli/qemu_opts.h"

#define OB_QEMU_CONFIG_MAX (256 * 1024) /* bytes of the largest file that is read */

/* Appends the file's sections to opts. Returns 0, or -errno with the reason, which names file and line. */
int ob_qemu_config_read(struct ob_qemu_opts *opts, const char *file, struct ob_error *err) OB_MUST_CHECK;

#endif
