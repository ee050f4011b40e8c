/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The settings of a machine that somebody else starts, through `overbook-qemu`. */
#ifndef OB_CLI_MACHINE_SETTINGS_H
#define OB_CLI_MACHINE_SETTINGS_H

#include "cli/arena.h"
#include "cli/run_options.h"

struct ob_machine_settings {
	struct ob_run_options options;
	unsigned limit_percent, reservation_percent; /* of the machine's memory; 0: options say it */
	const char *emulator, *rundir;               /* NULL: not given */
	int disabled;      /* leave the machine alone */
	int plain;         /* what cannot be run with Overbook runs without */
	int add_devices;   /* balloon and port, as `overbook run` does */
};

/*
 * Reads them for a machine of that name (NULL: it has none, so only what is for all). Returns 0, or -errno with the
 * reason. The texts belong to the arena.
 */
int ob_machine_settings_read(struct ob_arena *arena, const char *name, struct ob_machine_settings *ret_settings,
			     struct ob_error *err) OB_MUST_CHECK;

/*
 * Turns percentages into bytes, and takes a limit or reservation of more than the machine has for all of it: defaults are
 * for machines of every size. Returns 0, or -EINVAL with the reason.
 */
int ob_machine_settings_fit(struct ob_machine_settings *settings, uint64_t ram_bytes, struct ob_error *err) OB_MUST_CHECK;

#endif
