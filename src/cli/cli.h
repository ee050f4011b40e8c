/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the subcommands of `overbook` share. A subcommand is one file, cmd_NAME.c, and one row of the table in main.c. */
#ifndef OB_CLI_CLI_H
#define OB_CLI_CLI_H

#include <stdint.h>

#include "base/error.h"

/* Exit codes of every subcommand, as its man page lists them. `run` ends with QEMU's own status instead, once it is QEMU. */
enum ob_exit {
	OB_EXIT_OK = 0,
	OB_EXIT_FAILED = 1,      /* what was asked for did not work; one line on stderr says why */
	OB_EXIT_USAGE = 2,       /* the command line is wrong */
	OB_EXIT_NO_DAEMON = 3,   /* overbookd does not answer */
	OB_EXIT_NO_MACHINE = 4,  /* there is no machine of that name */
	OB_EXIT_REFUSED = 5,     /* it could be done, but must not be: not admitted, unsupported device, not enough memory */
};

struct ob_command {
	const char *name;
	const char *summary;             /* one line for `overbook --help` */
	int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name; returns an exit code */
};

int ob_cmd_run(int argc, char **argv);
int ob_cmd_ps(int argc, char **argv);
int ob_cmd_stats(int argc, char **argv);
int ob_cmd_balloon(int argc, char **argv);
int ob_cmd_limit(int argc, char **argv);
int ob_cmd_release(int argc, char **argv);
int ob_cmd_plan(int argc, char **argv);
int ob_cmd_record(int argc, char **argv);
int ob_cmd_simulate(int argc, char **argv);
int ob_cmd_share(int argc, char **argv);
int ob_cmd_doctor(int argc, char **argv);
int ob_cmd_demo(int argc, char **argv);
int ob_cmd_top(int argc, char **argv);
int ob_cmd_version(int argc, char **argv);

/* The program under another name: whether it is one of QEMU's place, and what it is then; argv is QEMU's. */
int ob_cli_is_emulator(const char *called);
int ob_cmd_qemu(int argc, char **argv);

/* Prints "overbook: SUBCOMMAND: text" to stderr and returns code. */
int ob_cli_fail(int code, const char *fmt, ...) OB_PRINTF(2, 3);

/* Whether a word may be a machine's name. Returns 0, or what ob_cli_fail() does. */
int ob_cli_check_name(const char *name);

/* A number that an option, named without its dashes, was given. Returns 0; or what ob_cli_fail() does, and *ret is left alone. */
int ob_cli_take_count(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *ret);
/* A size; the same. */
int ob_cli_take_size(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *ret);

/*
 * The directory for sockets and machines: $OVERBOOK_RUNDIR, or /run/overbook for root, or $XDG_RUNTIME_DIR/overbook,
 * or /run/user/UID/overbook.
 * Returns NULL with the reason when there is none. The text is static.
 */
const char *ob_cli_rundir(struct ob_error *err);

#endif
