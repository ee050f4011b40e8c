/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The whole of overbookd but main(), in this process, over its real sockets: agents and clients that the input plays.
 *
 * Time stands still but for bed_pass(): overbookd's clock (ob_now_ns) is the bed's, and its tick is called from here. The
 * event loop's own timers (an agent that says no HELLO, a client that is idle, a machine that is not started) run on the
 * kernel's clock and never come up.
 *
 * No machine is given more while the budget is exceeded. Whatever overbookd says is checked as it is received: clients get lines of JSON objects of version 1 that are an
 * answer or progress, with no negative number in them; agents get orders, and each descriptor where it belongs: an extent of the
 * store is never sent to two domains. The loop must come to rest, and nothing of sharing is left when all have gone.
 */
#ifndef OB_FUZZ_DAEMON_BED_H
#define OB_FUZZ_DAEMON_BED_H

#include "daemon/registry.h"

#define BED_AGENTS  4
#define BED_CLIENTS 4
#define BED_ADOPTS  64

struct bed_agent {
	int fd; /* -1: not connected */
	char name[OB_NAME_MAX + 1]; /* as it said last in HELLO */
	uint32_t limit_sequence, release_sequence, unshare_sequence; /* of the last orders */
	/* Sharing: what it was sent and has not answered. */
	uint8_t key[OB_WIRE_KEY_SIZE], *staging;
	unsigned fetch_count, adopt_count;
	struct ob_wire_fetch fetch[OB_WIRE_STAGING_MAX];
	struct ob_wire_adopt adopt[BED_ADOPTS];
	struct ob_wire_adopt held; /* the last one that it was to adopt */
};

struct bed_client {
	int fd;
	char *text; /* what has come and is no whole line yet */
	size_t used, size;
	unsigned answers;
};

struct bed {
	struct ob_daemon daemon;
	struct bed_agent agent[BED_AGENTS];
	struct bed_client client[BED_CLIENTS];
};

/* The bed, empty: nobody is connected and no machine is known. */
struct bed *bed_get(uint64_t budget_bytes);

void bed_agent_connect(struct bed *bed, unsigned index);
/* A packet; lost when overbookd has closed. */
void bed_agent_send(struct bed *bed, unsigned index, const void *packet, size_t size);
void bed_agent_say(struct bed *bed, unsigned index, struct ob_wire_msg *msg);
void bed_agent_close(struct bed *bed, unsigned index);

void bed_client_connect(struct bed *bed, unsigned index);
void bed_client_send(struct bed *bed, unsigned index, const char *text, size_t size);
void bed_client_read(struct bed *bed, unsigned index);
void bed_client_end(struct bed *bed, unsigned index); /* sends no more */
void bed_client_close(struct bed *bed, unsigned index);

/* Lets the loop run until it is at rest; agents read what they are told. */
void bed_run(struct bed *bed);
/* Seconds pass at once, with a tick at their end. */
void bed_pass(struct bed *bed, uint64_t seconds);

/* overbookd has an index of so many sub-pages from now on (0: without classes), until bed_empty(). */
/* systemd has kept an extent of a domain's, with so many pages in one slot each; the agent knows its name. */
void bed_keep(struct bed *bed, unsigned index, const char *domain, unsigned pages);
void bed_set_subpages(struct bed *bed, unsigned subpages);

/* Other settings for large pages, until bed_empty(). */
void bed_set_large(struct bed *bed, unsigned policy, uint64_t min_free_bytes);
void bed_set_balloons(struct bed *bed, int is_auto, uint64_t floor_bytes);

/* Everybody reads what there is, and goes; machines are forgotten. */
void bed_empty(struct bed *bed);

#endif
