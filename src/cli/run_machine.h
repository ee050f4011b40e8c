/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A machine on its way to QEMU: what `overbook run` and `overbook-qemu` share. */
#ifndef OB_CLI_RUN_MACHINE_H
#define OB_CLI_RUN_MACHINE_H

#include "cli/machine_dir.h"
#include "cli/qemu_args.h"
#include "cli/qemu_binary.h"
#include "cli/run_options.h"

struct ob_run {
	struct ob_run_options options;
	struct ob_qemu_binary binary;
	struct ob_qemu_opts opts;
	struct ob_qemu_plan plan;
	struct ob_arena arena;
	char **user_argv; /* QEMU's, as the user wrote it (or as the kvm script would have) */
	const char *name;
	const char *rundir;
	const char *require_word; /* how the user calls options.require */
	int keep_devices;         /* add nothing that the guest can see */
	int lenient; /* whatever the host lacks: QEMU runs without us, or without that, unless options.require */
	const char *const *private_variables; /* for us alone: QEMU does not see them; NULL at its end, or none at all */
	struct ob_machine_dir dir;
	char agent[PATH_MAX];
	char swap[PATH_MAX]; /* "": no swap store */
	char socket[PATH_MAX];
	uint64_t limit_bytes;
	int no_large; /* no new large pages of guest RAM before overbookd allows them */
};

void ob_run_init(struct ob_run *run);
void ob_run_free(struct ob_run *run);

/* Keeps QEMU's words, argv[0] being the program; where a kvm script was meant, with what it would have added. */
void ob_run_set_words(struct ob_run *run, int argc, char *const *argv);

/* Finds the run directory and makes name the machine's. Returns 0 or -errno with the reason. */
int ob_run_set_name(struct ob_run *run, const char *name, struct ob_error *err) OB_MUST_CHECK;

/* Makes the plan from run->opts; refusals are in it. */
void ob_run_make_plan(struct ob_run *run);
int ob_run_print_refusals(const struct ob_run *run);

/* What would be set in the environment of QEMU, into our own. NULL at its end. */
extern const char *const ob_run_variables[];
void ob_run_set_environment(struct ob_run *run);
/* Where the agent will look for overbookd when it has not said so itself. */
void ob_run_default_socket(struct ob_run *run);

/* The following become QEMU. They return an exit code when they fail, and have said why. */
int ob_run_exec_plainly(struct ob_run *run);
/* The host cannot run the machine with us: without us, unless that is forbidden. */
int ob_run_exec_without(struct ob_run *run, const char *why);
int ob_run_exec_machine(struct ob_run *run);

#endif
