/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Balloons, overbookd's part: what each machine's agent is told about its balloon, and what is known of it. */
#ifndef OB_DAEMON_BALLOON_H
#define OB_DAEMON_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "daemon/balloon_policy.h"
#include "proto/wire.h"

#define OB_BALLOON_FLOOR_PERCENT 25 /* of a machine's memory: left to its guest at least, unless set otherwise */

struct ob_daemon;
struct ob_machine;

/* What is left to a guest at least: a part of its machine's memory, or so many bytes when percent is 0. */
struct ob_balloon_floor {
	unsigned percent;
	uint64_t bytes;
};

/* A machine's. */
struct ob_balloon_machine {
	bool is_known; /* its agent has said BALLOON_SET on this connection */
	bool is_told;  /* `told` was sent on it */
	bool has_mode; /* the next two count: said by its agent once, or by a client */
	enum ob_balloon_mode mode;
	uint64_t size_bytes; /* to be left to the guest; OB_BALLOON_FIXED alone */
	struct ob_balloon_policy policy;
	uint64_t goal_bytes;
	uint64_t room_bytes; /* for what is not in the balloon; UINT64_MAX: for all */
	bool is_calm; /* by ob_balloon_is_calm() */
	uint64_t grace_ns;   /* since when a cut waits for the balloon, 0: none does */
	uint64_t grace_cost_bytes; /* what the machine cost then */
	uint64_t hope_ns; /* in it: when the balloon, or an application, was last about to take or give more */
	struct ob_wire_balloon told;
};

/* Once a second, and when a setting has changed: a step for every machine, and the orders that it changes. */
void ob_balloon_step(struct ob_daemon *daemon);

/* The agent's connection has begun. */
void ob_balloon_connected(struct ob_machine *machine);

/* BALLOON_SET. */
void ob_balloon_is_set(struct ob_machine *machine, const struct ob_wire_balloon *set);

/* Sends what is wanted of the agent. Returns 0, -EAGAIN when its socket is full, or -errno. */
int ob_balloon_flush(struct ob_machine *machine);

/* A client's wish. Returns 0, -EPERM, or -EIO: it cannot be said to the agent; each with the reason. */
int ob_balloon_set(struct ob_machine *machine, enum ob_balloon_mode mode, uint64_t size_bytes, struct ob_error *err) OB_MUST_CHECK;

/* Whether a machine that is to start waits for memory. */
bool ob_balloon_is_anybody_waiting(const struct ob_daemon *daemon);

/* The limit to order where grant_bytes is due: more than that while the balloon has a chance to take what is above it. */
uint64_t ob_balloon_soften(struct ob_machine *machine, uint64_t grant_bytes);

/* Of what the balloon holds, as the guest says, what the host does not have to keep, by the engine. */
uint64_t ob_balloon_arrived(const struct ob_machine *machine);

/* How it looks in JSON. A new reference, NULL when memory is short. */
json_t *ob_balloon_render(const struct ob_machine *machine);

#endif
