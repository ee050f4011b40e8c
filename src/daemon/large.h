/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Large pages, overbookd's part: steps the host's controller (largepages/host.h) and tells every agent what it orders. */
#ifndef OB_DAEMON_LARGE_H
#define OB_DAEMON_LARGE_H

#include <stdbool.h>
#include <stdint.h>

#include "largepages/host.h"
#include "proto/wire.h"

struct ob_daemon;
struct ob_machine;

struct ob_large {
	struct ob_large_host host; /* is_started: the orders below count */
	struct ob_large_orders orders;
	uint64_t step_ns;
	uint64_t sampled_pages, shareable_pages; /* of all machines, the latest; the former is 0 while nobody has looked */
};

/* A machine's. */
struct ob_large_machine {
	struct ob_wire_large wanted, told;
	bool is_told; /* `told` was sent on this connection */
	bool is_seen; /* the counters below were */
	uint64_t sampled_seen, shareable_seen;
};

/* Once a second, and when a setting has changed: a step, and the orders that it changes. */
void ob_large_step(struct ob_daemon *daemon);

/* An agent has said HELLO: it is due an order, which whoever flushes its link next sends. */
void ob_large_connected(struct ob_machine *machine);

/* Whether new large pages may come about; also while there are no orders yet. */
bool ob_large_may_make(const struct ob_large *large);

/* Sends what is wanted of the agent. Returns 0, -EAGAIN when its socket is full, or -errno. */
int ob_large_flush(struct ob_machine *machine);

/* Of a large page's 512, on average of those looked at of late; OB_LARGE_UNKNOWN while nobody has. */
uint32_t ob_large_shareable(const struct ob_large *large);

#endif
