/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between the parts of the plan (qemu_args.c, qemu_refuse.c, qemu_memory.c, qemu_devices.c); nobody else includes it. */
#ifndef OB_CLI_QEMU_PLAN_H
#define OB_CLI_QEMU_PLAN_H

#include "cli/qemu_args.h"

struct ob_qemu_planner {
	struct ob_qemu_opts *opts;
	const struct ob_qemu_plan_config *config;
	struct ob_qemu_plan *plan;
	const char *type; /* the machine type; NULL: the default one */
	struct ob_qemu_machine machine;
	const char **added; /* words behind the user's own */
	size_t n_added;
};

void ob_qemu_refuse(struct ob_qemu_planner *planner, const char *fmt, ...) OB_PRINTF(2, 3);
void ob_qemu_note(struct ob_qemu_planner *planner, const char *fmt, ...) OB_PRINTF(2, 3);
void ob_qemu_append(struct ob_qemu_planner *planner, const char *option, const char *fmt, ...) OB_PRINTF(3, 4);

/* The magic number of the file system that a path lies on; 0: unknown. */
long ob_qemu_fs_type(const struct ob_qemu_plan_config *config, const char *path);

/* Every option that must not be there, a refusal each. */
void ob_qemu_check_options(struct ob_qemu_planner *planner);
/* Puts all of the guest's RAM behind files in the machine's directory, and adds it up. */
void ob_qemu_place_memory(struct ob_qemu_planner *planner);
/* Monitor, balloon and guest port. */
void ob_qemu_add_devices(struct ob_qemu_planner *planner);

#endif
