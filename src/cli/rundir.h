/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Beside what cli.h declares: what only main.c needs to tell. */
#ifndef OB_CLI_RUNDIR_H
#define OB_CLI_RUNDIR_H

/* The subcommand that ob_cli_fail() names; NULL for none. The text is kept, not copied. */
void ob_cli_set_command(const char *command);

/* Prints "overbook: COMMAND: warning: text" to stderr. */
void ob_cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
