/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machines of this host. A machine is known by its name, which is unique, and lives as long as its process:
 *
 *     waiting    asks to be admitted; its client waits for the answer     (api: admit)
 *     starting   admitted with a limit, its agent has not connected yet   -> gone with its process, or after 60 s
 *     running    its agent is connected
 *     stopped    as running, but an unreadable page has stopped the guest; cause says which
 *     lost       its agent's connection has ended, but its process lives and so does its memory  -> running when
 *                the agent comes back, gone with its process
 *
 * A pidfd tells when the process ends. Limits and maxima are OB_BUDGET_NONE here where the protocols say 0.
 */
#ifndef OB_DAEMON_REGISTRY_H
#define OB_DAEMON_REGISTRY_H

#include <stdbool.h>

#include "daemon/daemon.h"
#include "daemon/events.h"
#include "daemon/guest.h"
#include "daemon/machine_means.h"
#include "daemon/working_set.h"
#include "proto/wire.h"

#define OB_MACHINE_START_NS (60 * OB_NS_PER_SEC) /* a machine whose agent has not come by then is forgotten */

enum ob_machine_state {
	OB_MACHINE_WAITING,
	OB_MACHINE_STARTING,
	OB_MACHINE_RUNNING,
	OB_MACHINE_STOPPED,
	OB_MACHINE_LOST,
};

/* Where an order to change the limit stands; see arbiter.c for why it takes so long to be believed. */
enum ob_order_state {
	OB_ORDER_NONE,      /* what was ordered last is in force, and statistics that are younger have come */
	OB_ORDER_SENT,      /* no REPLY yet */
	OB_ORDER_CONFIRMED, /* REPLY came, no STATS since */
	OB_ORDER_FAILED,    /* the agent could not; tried again after retry_ns */
};

enum ob_release_state {
	OB_RELEASE_NO,
	OB_RELEASE_RUNNING, /* RELEASE was sent */
	OB_RELEASE_DONE,    /* no limit until the user sets one */
};

struct ob_machine {
	struct ob_machine *next;
	struct ob_daemon *daemon;
	char name[OB_NAME_MAX + 1], domain[OB_NAME_MAX + 1], program[OB_NAME_MAX + 1];
	uint32_t pid, shares;
	uint64_t reservation_bytes, maximum_bytes;
	uint64_t ram_bytes; /* 0 while not known */
	enum ob_machine_state state;
	char cause[OB_WIRE_TEXT_MAX + 1];

	uint64_t limit_bytes;   /* ordered last */
	uint64_t exposed_bytes; /* the highest limit that may still be in force */
	uint64_t target_bytes;  /* its share of the budget */
	uint64_t free_bytes, need_bytes; /* while waiting: the room that there is for it now, and what it needs to start */
	uint64_t low_cost_bytes; /* the least it has cost while above its limit; OB_BUDGET_NONE while it is not */
	uint64_t least_bytes;    /* its agent has refused a lower limit, as those of earlier versions do; 0: has not */
	enum ob_order_state order;
	uint32_t order_sequence, release_sequence;
	uint64_t retry_ns, ordered_maximum_bytes;
	enum ob_release_state release;
	uint64_t release_done_bytes, release_total_bytes;

	bool stats_seen; /* since the agent connected */
	uint64_t stats_ns;
	struct ob_stats stats;
	struct ob_hists hists;
	uint32_t range_count;
	struct ob_wire_range ranges[OB_WIRE_RANGES_MAX];

	struct ob_working_set working_set;
	struct ob_large_machine large;
	struct ob_balloon_machine balloon;
	struct ob_machine_means means;
	struct ob_ladder_follower follower;
	struct ob_machine_events events;
	struct ob_guest guest;
	struct ob_sharer *sharer; /* share.h; NULL before the first HELLO */
	struct ob_link *link; /* NULL unless running or stopped */
	int pidfd;
	sd_event_source *pid_source, *start_source;
};

const char *ob_machine_state_name(const struct ob_machine *machine);

/* Returns NULL when there is none. */
struct ob_machine *ob_registry_find(struct ob_daemon *daemon, const char *name);

/* Adds a machine and watches its process. Returns 0, -EEXIST, -ENOSPC, -ESRCH (no such process) or -errno, each with the reason. */
int ob_registry_add(struct ob_daemon *daemon, const char *name, uint32_t pid, struct ob_machine **ret_machine,
		    struct ob_error *err) OB_MUST_CHECK;

/* From waiting to starting; forgotten after OB_MACHINE_START_NS. */
void ob_registry_start(struct ob_machine *machine, uint64_t limit_bytes);

/* Its agent is here. */
void ob_registry_connected(struct ob_machine *machine, struct ob_link *link);

/* Its agent's connection has ended: lost until the process ends. */
void ob_registry_disconnected(struct ob_machine *machine);

/* Forgets it; its clients are answered, its link must be gone or going. */
void ob_registry_remove(struct ob_machine *machine, const char *why);

void ob_registry_clear(struct ob_daemon *daemon);

#endif
