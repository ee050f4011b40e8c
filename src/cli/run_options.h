/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `overbook run`. */
#ifndef OB_CLI_RUN_OPTIONS_H
#define OB_CLI_RUN_OPTIONS_H

#include <stdint.h>

#include "base/error.h"

struct ob_run_options {
	const char *name, *domain, *swap, *balloon; /* NULL: not given */
	uint64_t limit_bytes, reservation_bytes; /* 0: not given */
	uint32_t shares;
	int no_swap, share_mapped, keep_affinity, require, force, dry_run, json, help;
	int first; /* index of QEMU's program in argv */
};

/* Returns 0, or -EINVAL with the reason. */
int ob_run_options_parse(int argc, char **argv, struct ob_run_options *ret_options, struct ob_error *err) OB_MUST_CHECK;

/*
 * Sets what an option with a value says; option is its name as messages are to call it, with or without dashes in front
 * ("--limit", "limit"). The value is kept, not copied. Returns 0, -EINVAL with the reason, or -ENOENT for another option.
 */
int ob_run_options_set(struct ob_run_options *options, const char *option, const char *value,
		       struct ob_error *err) OB_MUST_CHECK;

/* What can only be judged when the size of the machine is known. Returns 0, or -EINVAL with the reason. */
int ob_run_options_check(const struct ob_run_options *options, uint64_t ram_bytes, struct ob_error *err) OB_MUST_CHECK;

void ob_run_options_print_help(void);

#endif
