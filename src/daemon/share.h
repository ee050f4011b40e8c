/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cold page sharing, overbookd's part: equal pages of machines of one domain become one slot of the domain's store.
 *
 *     share.c        domains and their machines: switches, what agents are sent, what the stores take, the budget's part
 *     share_match.c  what becomes of an offer
 *     share_holds.c  what machines say of what they hold
 *     share_keep.c   what outlives overbookd
 *     share_api.c    how it looks in JSON
 *     store.h        the canonical store of a domain; share/index.h: where equal pages are looked for
 *
 * A machine without a domain is a domain of its own: it shares with itself. Nothing goes from one domain into another: each has
 * its own index, its own store and its own numbers for machines, and an extent's descriptor is sent to machines of its domain only.
 */
#ifndef OB_DAEMON_SHARE_H
#define OB_DAEMON_SHARE_H

#include <jansson.h>

#include "daemon/registry.h"

#define OB_SHARE_CPU_DEFAULT 20   /* permille of a processor, a machine, for scanning */
#define OB_SHARE_CPU_MAX     1000

struct ob_sharer;

int ob_share_init(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;
/* After the last machine has gone. */
void ob_share_close(struct ob_daemon *daemon);

/* Before machines go because overbookd ends: systemd is to keep what it has of the stores. */
void ob_share_outlive(struct ob_daemon *daemon);

/* Whether this is the name of a descriptor that systemd has kept of the stores. */
bool ob_share_is_kept(const char *name);
/* Takes it, or closes it and says why. Returns whether it was taken. */
bool ob_share_take(struct ob_daemon *daemon, int fd, const char *name);

/* daemon->config.sharing, share_cpu_permille or share_subpages has changed: tells all agents. */
void ob_share_reconfigure(struct ob_daemon *daemon);

/* An agent has said HELLO; its connection has ended, its process not yet; its process has ended. */
void ob_share_connected(struct ob_machine *machine);
void ob_share_disconnected(struct ob_machine *machine);
void ob_share_machine_gone(struct ob_machine *machine);

/* One of OFFER, STAGED, HELD, DROPPED, WORN, MAPS, HOLDS, ORPHANS, MORE_ORPHANS. Returns 0, -EPROTO with the rule that it breaks, or -ENOMEM. */
int ob_share_handle(struct ob_machine *machine, const struct ob_wire_msg *msg, struct ob_error *err) OB_MUST_CHECK;

/* REPLY: whether it answered UNSHARE. text is clean. */
bool ob_share_reply(struct ob_machine *machine, uint32_t to, int status, const char *text);

/* Sends what is wanted of the agent. Returns 0, -EAGAIN when its socket is full, or -errno. */
int ob_share_flush(struct ob_machine *machine);

/* Once a second. */
void ob_share_tick(struct ob_daemon *daemon);

/* The user's switch of one machine. Off: no more scans, and all that is shared comes back. */
void ob_share_order_on(struct ob_machine *machine);
void ob_share_order_off(struct ob_machine *machine);
bool ob_share_is_ending(const struct ob_machine *machine); /* the shared pages are on their way back */

/* For the budget: what the stores take, what orphan extents take, and whether there is a wish for more. */
uint64_t ob_share_store_bytes(const struct ob_daemon *daemon);
uint64_t ob_share_orphan_bytes(const struct ob_daemon *daemon);
bool ob_share_is_hungry(const struct ob_daemon *daemon);
/* What the stores may take from now on; OB_BUDGET_NONE without a budget. in_advance: of what is not there yet (budget.h). */
void ob_share_allow(struct ob_daemon *daemon, uint64_t bytes, bool in_advance);

/* How far an UNSHARE is. */
void ob_share_progress(const struct ob_machine *machine, uint64_t *ret_done_bytes, uint64_t *ret_total_bytes);

/* For `share`: all domains, or the one machine (NULL: all) and its domain. New reference, NULL when memory is short. */
json_t *ob_share_render(const struct ob_daemon *daemon, const struct ob_machine *only);
json_t *ob_share_render_machine(const struct ob_machine *machine);

/* What the stores hold in all: pages of machines, and how much more that is than the stores take, domain by domain. */
void ob_share_count(const struct ob_daemon *daemon, uint64_t *ret_shared_bytes, uint64_t *ret_saved_bytes);
/* What they may take now; OB_BUDGET_NONE without a budget. */
uint64_t ob_share_allowed_bytes(const struct ob_daemon *daemon);
json_t *ob_share_render_stores(const struct ob_daemon *daemon);

#endif
