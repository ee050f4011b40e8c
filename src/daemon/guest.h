/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent in a machine's guest, overbook-guest: what it says of memory and applications, and what these are told. */
#ifndef OB_DAEMON_GUEST_H
#define OB_DAEMON_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "daemon/app_policy.h"
#include "daemon/balloon_policy.h"
#include "daemon/stall.h"
#include "proto/guest.h"
#include "proto/wire.h"

struct ob_machine;

/* What is known of an application besides what the policy knows (ob_apps.app of the same index). */
struct ob_guest_seen {
	struct ob_guest_app said;
	uint64_t heard_ns;
	uint32_t sequence; /* of the TARGET that was sent last; 0: none was */
	uint64_t told_bytes, told_ns;
};

/* A machine's. */
struct ob_guest {
	bool is_called;   /* whoever is there has been called on to say HELLO, and the agent to relay it, since it was last missed */
	bool is_here;     /* overbook-guest has said HELLO in this session */
	bool is_welcome;  /* and is to be answered */
	uint32_t session, last_sequence;
	uint64_t heard_ns; /* 0: never */
	char program[OB_GUEST_NAME_MAX + 1];
	struct ob_guest_reader reader;
	uint32_t interval_ms; /* told last */
	struct ob_guest_memory memory, before; /* the last MEMORY, and the one before */
	uint64_t memory_ns, before_ns;         /* when they came; 0: there was none */
	struct ob_stall stall;
	uint64_t gathers_ns;                   /* since when it has said, in each, that it moves free memory together */
	unsigned gathers_times; /* without a rest between */
	struct ob_apps apps;
	uint64_t found_ns; /* when one was found that had been told a target before; 0: never */
	struct ob_guest_seen seen[OB_GUEST_APPS_MAX];
	uint64_t refused; /* frames that break the rules, applications beyond what there is room for */
};

/* The agent's connection has begun. */
void ob_guest_connected(struct ob_machine *machine);

/* GUEST: what has come from the guest. */
void ob_guest_heard(struct ob_machine *machine, const struct ob_wire_msg *msg);

/*
 * Once a second, with what the balloon's step will see: decides what applications are to give, and lowers the goal to what the balloon is to
 * take meanwhile.
 */
void ob_guest_step(struct ob_machine *machine, struct ob_balloon_view *view);

/* Sends what is wanted, once a step. Returns 0, -EAGAIN when the agent's socket is full, or -errno. */
int ob_guest_flush(struct ob_machine *machine);

/* Whether an application is being waited for, or is about to be. */
bool ob_guest_may_give(const struct ob_machine *machine);
/* Whether applications have given something, or are to. */
bool ob_guest_has_given(const struct ob_machine *machine);

/* Whether what they have given is being moved together in the guest, and worth waiting for. */
bool ob_guest_gathers(const struct ob_machine *machine, uint64_t now_ns);

/* How it looks in JSON; null: there is no overbook-guest, or it is silent. A new reference, NULL when memory is short. */
json_t *ob_guest_render(const struct ob_machine *machine);

#endif
