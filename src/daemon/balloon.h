/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A machine's balloon, overbookd's part: what its agent is told of it, and what the agent has seen. */
#ifndef OB_DAEMON_BALLOON_H
#define OB_DAEMON_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "proto/wire.h"

struct ob_machine;

/* A machine's. */
struct ob_balloon_machine {
	bool is_known; /* its agent has said BALLOON_SET on this connection */
	bool is_told;  /* `told` was sent on it */
	struct ob_wire_balloon told;
};

/* The agent's connection has begun or ended. */
void ob_balloon_connected(struct ob_machine *machine);

/* BALLOON_SET. */
void ob_balloon_is_set(struct ob_machine *machine, const struct ob_wire_balloon *set);

/* Sends what is wanted of the agent. Returns 0, -EAGAIN when its socket is full, or -errno. */
int ob_balloon_flush(struct ob_machine *machine);

/* How it looks in JSON. A new reference, NULL when memory is short. */
json_t *ob_balloon_render(const struct ob_machine *machine);

#endif
