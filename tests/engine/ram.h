/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A region of test memory: a mapping as QEMU's guest RAM is (private, anonymous, aligned to 2 MiB, not inherited by
 * children, large pages advised), beside it what each page must hold, and a lock a page.
 *
 * Whoever holds a page's lock owns the page: nobody else reads or writes it or what is known about it. A thread may take
 * several locks in ascending order, or try for any. The locks are for the test's bookkeeping only; the engine knows
 * nothing of them, and neighbours in the same chunk are used by other threads all the time.
 *
 * The first wrong byte is described in words and kept; after it, every check fails fast.
 */
#ifndef OB_TESTS_ENGINE_RAM_H
#define OB_TESTS_ENGINE_RAM_H

#include <stdint.h>

#include "engine/engine.h"
#include "pattern.h"

struct ram {
	uint8_t *base;
	uint32_t pages;
	uint64_t seed;
	uint8_t *mapping; /* with the slack of the alignment and guard pages */
	size_t mapping_bytes;
	struct pattern *expected; /* a page each */
	uint32_t *versions;
	uint8_t *locks;
	uint64_t *history; /* the last eight things done to each page, newest in the low byte: RAM_DID_* */
};

/* Letters of a page's history, for the report of a wrong byte. */
enum ram_did {
	RAM_DID_WRITE = 'W', RAM_DID_PATCH = 'P', RAM_DID_DISCARD = 'D', RAM_DID_TWIN = 'T',
	RAM_DID_READ_IN = 'i', RAM_DID_WRITE_OUT = 'o',             /* buffered */
	RAM_DID_DIRECT_IN = 'r', RAM_DID_DIRECT_OUT = 'w',
	RAM_DID_ASYNC_IN = 'a', RAM_DID_ASYNC_OUT = 'z',
};

static inline void ram_note(struct ram *ram, uint32_t page, enum ram_did did)
{
	ram->history[page] = ram->history[page] << 8 | (uint64_t)did;
}

/* Maps pages (a multiple of 512). Dies on ENOMEM: a test without memory is not a test. */
struct ram *ram_new(uint32_t pages, uint64_t seed);
/* The same, but so many pages (below 512) after an address that is aligned to 2 MiB: two of its chunks share a page table. */
struct ram *ram_new_unaligned(uint32_t pages, uint64_t seed, uint32_t offset_pages);
void ram_free(struct ram *ram);

static inline uint8_t *ram_page(const struct ram *ram, uint32_t page)
{
	return ram->base + (size_t)page * PATTERN_PAGE;
}

int ram_try_lock(struct ram *ram, uint32_t page);
void ram_lock_range(struct ram *ram, uint32_t first, uint32_t count);
void ram_unlock_range(struct ram *ram, uint32_t first, uint32_t count);

/* All of these need the pages' locks. Check returns 0, or -EILSEQ after having recorded what was wrong. */
int ram_check(struct ram *ram, uint32_t page);
void ram_write(struct ram *ram, uint32_t page, enum pattern_kind kind, unsigned start_offset);
int ram_patch(struct ram *ram, uint32_t page);
/* Writes bytes that other pages, of any region, have as well: those of the same `which`. */
void ram_write_twin(struct ram *ram, uint32_t page, uint32_t which);
int ram_discard(struct ram *ram, struct ob_engine *engine, uint32_t first, uint32_t count);

/* Everything, with locks. Returns 0 or -EILSEQ. */
int ram_check_all(struct ram *ram);
void ram_write_all(struct ram *ram, enum pattern_kind kind);

/* Wrong pages seen in this process, and a description of the first ("" while there is none). */
uint64_t ram_wrong_count(void);
const char *ram_wrong_text(void);
uint64_t ram_checked_count(void);

#endif
