/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The clients' side: the JSON protocol of docs/protocol.md over RUNDIR/overbookd.sock. */
#ifndef OB_DAEMON_API_H
#define OB_DAEMON_API_H

#include <jansson.h>

#include "daemon/plan.h"
#include "daemon/registry.h"

#define OB_API_VERSION      1
#define OB_API_REQUEST_MAX  65536     /* bytes of a request's line, newline and all */
#define OB_API_ANSWER_MAX   (4 << 20) /* bytes of an answer's line */

/* What a client waits for. */
enum ob_wait_kind { OB_WAIT_NOTHING, OB_WAIT_ADMISSION, OB_WAIT_LIMIT, OB_WAIT_RELEASE, OB_WAIT_UNSHARE };

struct ob_wait {
	enum ob_wait_kind kind;
	struct ob_machine *machine;
	uint64_t start_ns, progress_ns; /* when it began, and when the client was told last how it goes */
	uint64_t first_bytes;           /* OB_WAIT_LIMIT: how far the machine was above its limit at first */
	uint64_t least_bytes, least_ns; /* OB_WAIT_LIMIT: the nearest it has come, and when that was */
};

/* Accepts clients from now on. 0 or -errno. */
int ob_api_listen(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;
void ob_api_close_all(struct ob_daemon *daemon);

/* News for the clients that wait for a machine. None of these closes a connection or removes a machine. */
void ob_api_machine_changed(struct ob_machine *machine);
void ob_api_admitted(struct ob_machine *machine);
void ob_api_release_ended(struct ob_machine *machine, int status, const char *text);
void ob_api_unshare_ended(struct ob_machine *machine, int status, const char *text);
void ob_api_machine_gone(struct ob_machine *machine, const char *why);

/* Once a second: gives up on admissions that have waited too long. */
void ob_api_tick(struct ob_daemon *daemon);

/* --- between api.c, which moves lines, and command.c and wait.c, which know what they mean --- */

struct ob_daemon *ob_client_daemon(struct ob_client *client);
struct ob_wait *ob_client_wait(struct ob_client *client);
struct ob_client *ob_client_next(struct ob_client *client);

/* Answers with "ok":true and the members of body (stolen; NULL when memory is short), or with the error. Ends what the client waits for. */
void ob_client_answer(struct ob_client *client, json_t *body);
void ob_client_refuse(struct ob_client *client, const char *code, const char *fmt, ...) OB_PRINTF(3, 4);

/* Tells how far it is; left out when the client has not read what was sent before. */
void ob_client_progress(struct ob_client *client, uint64_t done, uint64_t total, const char *what);

/* One request. Answers it now, or sets ob_client_wait(). */
void ob_command_run(struct ob_client *client, const char *line, size_t len);

/* The client has gone: what it waited for is called off. */
void ob_wait_cancel(struct ob_client *client);

/* How a machine looks: a row of `ps`, what of it is counted there, and everything for `stats`; the host's large pages. New references, NULL when memory is short. */
json_t *ob_render_row(const struct ob_machine *machine);

/* The answer to `plan`: then is everybody as he would be, count newcomers last (arbiter.h). */
json_t *ob_render_plan(const struct ob_daemon *daemon, size_t count, const struct ob_plan *plan, const struct ob_plan_doubt *doubt,
		       const struct ob_budget_machine *then);
json_t *ob_render_counts(const struct ob_machine *machine);
json_t *ob_render_stats(const struct ob_machine *machine);
/* What the host has of memory, and how long it has waited for it. */
json_t *ob_render_host(void);
json_t *ob_render_large(const struct ob_daemon *daemon);

#endif
