/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The CLI's side of overbookd's JSON protocol (docs/protocol.md): one object a line each way over RUNDIR/overbookd.sock. */
#ifndef OB_CLI_CLIENT_H
#define OB_CLI_CLIENT_H

#include <limits.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

/*
 * Sends {"version":1,"command":command, ...arguments} and waits for the answer. arguments may be NULL; the reference is
 * stolen. progress (may be NULL) sees every object with "progress" that comes before the answer. On success *ret_answer
 * is a new reference to an object with "ok":true.
 * Returns 0; -ECONNREFUSED when no overbookd answers; -ENOENT when it knows no such machine; -EPERM when it refused;
 * another -errno for its other failures: the error's text is overbookd's own.
 */
int ob_client_call(const char *command, json_t *arguments, void (*progress)(void *context, json_t *object), void *context,
		   json_t **ret_answer, struct ob_error *err) OB_MUST_CHECK;

struct ob_client_admission {
	const char *name, *domain; /* domain may be NULL */
	uint64_t ram_bytes, reservation_bytes, maximum_bytes; /* maximum 0: no --limit given */
	uint32_t shares;
	uint32_t pid; /* of the process that will be QEMU */
	int force; /* be admitted whatever is guaranteed to others */
};

struct ob_client_admitted {
	uint64_t limit_bytes; /* what it may cost at first; 0: no limit */
	int no_large;         /* no new large pages of its memory for now */
	char socket[PATH_MAX]; /* where its agent is to connect to */
};

/*
 * Asks overbookd to make room for a machine that is about to start. Returns 0; -ECONNREFUSED when no overbookd answers (run on
 * without); -EPERM with the arithmetic when the machine is not admitted; or -errno.
 */
int ob_client_admit(const struct ob_client_admission *admission, struct ob_client_admitted *ret, struct ob_error *err) OB_MUST_CHECK;

/* The exit code (cli.h) that belongs to a failure of ob_client_call(). */
int ob_client_exit_code(int failure);

/* For progress of ob_client_call(): one line on stderr that is rewritten, when stderr is a terminal; nothing otherwise. */
void ob_client_show_progress(void *context, json_t *object);
void ob_client_end_progress(void);

/*
 * A whole subcommand: calls with progress, and prints the answer, by print() or as JSON. arguments as of ob_client_call(); NULL: there was
 * no memory for them. hint (may be NULL) is added to what is said when overbookd refuses. Returns the exit
 * code.
 */
int ob_client_command(const char *command, json_t *arguments, int json, void (*print)(const json_t *answer), const char *hint);

/* Prints an answer for --json: the object without "ok", indented. */
void ob_client_print_json(json_t *answer);

/* A number of an object, 0 where it is missing. */
uint64_t ob_client_number(const json_t *object, const char *key);

/* A text of an object, "" where it is missing. */
const char *ob_client_text(const json_t *object, const char *key);

#endif
