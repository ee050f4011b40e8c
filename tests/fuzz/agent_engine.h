/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's part in page sharing, played for fuzz_agent with the contracts of engine.h: offers and drops as the target
 * wants them, holds by slot. An even page can be adopted, an odd one is never equal; page 2^40 and those beyond do not exist.
 */
#ifndef OB_FUZZ_AGENT_ENGINE_H
#define OB_FUZZ_AGENT_ENGINE_H

#include <stdint.h>

#include "largepages/host.h"

#define PLAYED_EXTENTS 8u
#define PLAYED_SLOTS   4096u
#define PLAYED_PAGES   (1ull << 40)

struct played_extent {
	uint64_t id; /* 0: unused */
	void *base;
	uint32_t pages, held;
	uint32_t holds[PLAYED_SLOTS], dropped[PLAYED_SLOTS]; /* dropped: not taken yet */
	int is_orphan;
	int file; /* 0: none, and nothing is mapped; else what is dropped of even slots was */
	unsigned char told_mapped[PLAYED_SLOTS];
};

struct played_sharing {
	int on;
	unsigned cpu_permille, subpages;
	unsigned begun; /* how often it was switched on, for somebody who knows of no page */
	struct ob_large_orders large;
	unsigned char key[192];
	unsigned offers; /* not taken yet */
	uint64_t next_offer;
	uint64_t steps; /* of ob_engine_unshare(), and what it ends with */
	int result;
	struct played_extent extent[PLAYED_EXTENTS];
};
extern struct played_sharing played;

struct played_extent *played_find(uint64_t id);
/* The guest touches pages that are a slot: so many holds end. */
void played_touch(uint64_t id, uint32_t index, uint32_t count);
void played_offer(unsigned n);
/* Everything is as at the start. */
void played_reset(void);

#endif
