/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ram.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"

#define TWIN_SEED 0x7315

static uint64_t wrong_count, checked_count;
static char wrong_text[512];
static uint64_t wrong_ready; /* set when wrong_text is whole */

static void *must(void *p, const char *what)
{
	if (!p || p == MAP_FAILED) {
		ob_log(OB_LOG_ERROR, "test: no memory for %s", what);
		exit(99);
	}
	return p;
}

struct ram *ram_new(uint32_t pages, uint64_t seed)
{
	return ram_new_unaligned(pages, seed, 0);
}

struct ram *ram_new_unaligned(uint32_t pages, uint64_t seed, uint32_t offset_pages)
{
	struct ram *ram = must(calloc(1, sizeof(*ram)), "a region");
	const int reserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t bytes = (size_t)pages * PATTERN_PAGE;
	uintptr_t start;

	ram->pages = pages;
	ram->seed = seed;
	ram->mapping_bytes = bytes + 2 * OB_CHUNK_SIZE;
	ram->mapping = must(mmap(NULL, ram->mapping_bytes, PROT_NONE, reserve, -1, 0), "RAM");
	start = (((uintptr_t)ram->mapping + OB_CHUNK_SIZE) & ~(uintptr_t)(OB_CHUNK_SIZE - 1)) + offset_pages * PATTERN_PAGE;
	ram->base = must(mmap((void *)start, bytes, PROT_READ | PROT_WRITE, reserve | MAP_FIXED, -1, 0), "RAM");
	if (madvise(ram->base, bytes, MADV_DONTFORK) || madvise(ram->base, bytes, MADV_HUGEPAGE))
		ob_log(OB_LOG_WARNING, "test: madvise: %m");
	/* Written now, so that what the test itself costs does not grow while the engine's limit is measured. */
	ram->expected = must(malloc(pages * sizeof(*ram->expected)), "patterns");
	ram->versions = must(malloc(pages * sizeof(*ram->versions)), "versions");
	ram->locks = must(malloc(pages), "locks");
	ram->history = must(malloc(pages * sizeof(*ram->history)), "histories");
	memset(ram->history, 0, pages * sizeof(*ram->history));
	memset(ram->expected, 0, pages * sizeof(*ram->expected));
	memset(ram->versions, 0, pages * sizeof(*ram->versions));
	memset(ram->locks, 0, pages);
	return ram;
}

void ram_free(struct ram *ram)
{
	if (!ram)
		return;
	munmap(ram->mapping, ram->mapping_bytes);
	free(ram->expected);
	free(ram->versions);
	free(ram->locks);
	free(ram->history);
	free(ram);
}

int ram_try_lock(struct ram *ram, uint32_t page)
{
	return !__atomic_exchange_n(&ram->locks[page], 1, __ATOMIC_ACQUIRE);
}

void ram_lock_range(struct ram *ram, uint32_t first, uint32_t count)
{
	for (uint32_t page = first; page < first + count; page++)
		while (!ram_try_lock(ram, page))
			sched_yield();
}

void ram_unlock_range(struct ram *ram, uint32_t first, uint32_t count)
{
	for (uint32_t page = first; page < first + count; page++)
		__atomic_store_n(&ram->locks[page], 0, __ATOMIC_RELEASE);
}

/* What the wrong bytes look like tells which of the engine's ways went wrong. */
static const char *explain(struct ram *ram, uint32_t page, const uint8_t *seen)
{
	static const uint8_t zeros[PATTERN_PAGE];
	struct pattern old = { 0 };

	if (!memcmp(seen, zeros, PATTERN_PAGE))
		return "all zero";
	for (uint32_t back = 1; back <= 4 && back <= ram->versions[page]; back++) {
		for (int kind = PATTERN_ZERO; kind <= PATTERN_ANY; kind++) {
			old.key = pattern_key(ram->seed, page, ram->versions[page] - back, (enum pattern_kind)kind);
			if (pattern_kind_of(old.key) != PATTERN_ZERO && pattern_compare(seen, &old) < 0)
				return "an older version";
		}
	}
	old = ram->expected[page];
	while (old.patches--)
		if (pattern_compare(seen, &old) < 0)
			return "without its last patches";
	for (uint32_t other = 0; other < ram->pages; other++) {
		struct pattern pattern = ram->expected[other];

		if (other != page && pattern_kind_of(pattern.key) != PATTERN_ZERO && pattern_compare(seen, &pattern) < 0)
			return "the bytes of another page";
	}
	return "neither zero, nor older, nor another page";
}

static void spell_history(uint64_t history, char text[9])
{
	unsigned n = 0;

	for (int shift = 56; shift >= 0; shift -= 8)
		if (history >> shift & 0xff)
			text[n++] = (char)(history >> shift & 0xff);
	text[n] = '\0';
}

static void record_wrong(struct ram *ram, uint32_t page, int offset)
{
	const struct pattern *pattern = &ram->expected[page];
	uint8_t seen[PATTERN_PAGE], expected[PATTERN_PAGE];
	char history[9];

	if (__atomic_fetch_add(&wrong_count, 1, __ATOMIC_RELAXED))
		return;
	memcpy(seen, ram_page(ram, page), PATTERN_PAGE);
	pattern_fill(expected, pattern);
	spell_history(ram->history[page], history);
	snprintf(wrong_text, sizeof(wrong_text),
		 "page %u of region %#llx (%p) at byte %d: %02x instead of %02x (kind %d, version %u, %u patches); "
		 "it is %s; what was done to it: %s; a second look: %s",
		 page, (unsigned long long)ram->seed, (void *)ram_page(ram, page), offset, seen[offset], expected[offset],
		 pattern_kind_of(pattern->key), ram->versions[page], pattern->patches, explain(ram, page, seen),
		 history, pattern_compare(ram_page(ram, page), pattern) < 0 ? "right" : "still wrong");
	__atomic_store_n(&wrong_ready, 1, __ATOMIC_RELEASE);
	ob_log(OB_LOG_ERROR, "test: wrong: %s", wrong_text);
}

int ram_check(struct ram *ram, uint32_t page)
{
	int offset = pattern_compare(ram_page(ram, page), &ram->expected[page]);

	__atomic_fetch_add(&checked_count, 1, __ATOMIC_RELAXED);
	if (offset < 0)
		return 0;
	record_wrong(ram, page, offset);
	return -EILSEQ;
}

void ram_write(struct ram *ram, uint32_t page, enum pattern_kind kind, unsigned start_offset)
{
	uint8_t bytes[PATTERN_PAGE];
	uint8_t *target = ram_page(ram, page);

	ram->versions[page]++;
	ram->expected[page] = (struct pattern){ .key = pattern_key(ram->seed, page, ram->versions[page], kind) };
	pattern_fill(bytes, &ram->expected[page]);
	start_offset %= PATTERN_PAGE;
	memcpy(target + start_offset, bytes + start_offset, PATTERN_PAGE - start_offset);
	memcpy(target, bytes, start_offset);
	ram_note(ram, page, RAM_DID_WRITE);
}

void ram_write_twin(struct ram *ram, uint32_t page, uint32_t which)
{
	static const enum pattern_kind kinds[] = { PATTERN_COMPRESSIBLE, PATTERN_MIXED, PATTERN_INCOMPRESSIBLE };

	ram->versions[page]++;
	ram->expected[page] = (struct pattern){ .key = pattern_key(TWIN_SEED, which, 0, kinds[which % OB_ARRAY_LEN(kinds)]) };
	pattern_fill(ram_page(ram, page), &ram->expected[page]);
	ram_note(ram, page, RAM_DID_TWIN);
}

int ram_patch(struct ram *ram, uint32_t page)
{
	struct pattern *pattern = &ram->expected[page];
	volatile uint8_t *target = ram_page(ram, page);
	unsigned offset;
	uint8_t value;
	int r;

	r = ram_check(ram, page);
	if (r < 0)
		return r;
	if (!pattern->key || pattern->patches == 8) {
		/* A page that nobody wrote: its zeros get a key of their own. A page with many patches starts anew. */
		int fresh = !pattern->key;

		ram->versions[page]++;
		pattern->key = pattern_key(ram->seed, page, ram->versions[page], fresh ? PATTERN_ZERO : PATTERN_MIXED);
		pattern->patches = 0;
		if (!fresh) {
			uint8_t bytes[PATTERN_PAGE];

			pattern_fill(bytes, pattern);
			memcpy(ram_page(ram, page), bytes, PATTERN_PAGE);
		}
	}
	pattern_patch(pattern, &offset, &value);
	target[offset] = value;
	pattern->patches++;
	ram_note(ram, page, RAM_DID_PATCH);
	return 0;
}

int ram_discard(struct ram *ram, struct ob_engine *engine, uint32_t first, uint32_t count)
{
	int r = ob_engine_discard(engine, ram_page(ram, first), (size_t)count * PATTERN_PAGE);

	if (r < 0)
		return r;
	for (uint32_t page = first; page < first + count; page++) {
		ram->expected[page] = (struct pattern){ 0 };
		ram_note(ram, page, RAM_DID_DISCARD);
	}
	return 0;
}

int ram_check_all(struct ram *ram)
{
	int worst = 0;

	for (uint32_t page = 0; page < ram->pages; page++) {
		ram_lock_range(ram, page, 1);
		if (ram_check(ram, page) < 0)
			worst = -EILSEQ;
		ram_unlock_range(ram, page, 1);
	}
	return worst;
}

void ram_write_all(struct ram *ram, enum pattern_kind kind)
{
	for (uint32_t page = 0; page < ram->pages; page++) {
		ram_lock_range(ram, page, 1);
		ram_write(ram, page, kind, 0);
		ram_unlock_range(ram, page, 1);
	}
}

uint64_t ram_wrong_count(void)
{
	return __atomic_load_n(&wrong_count, __ATOMIC_RELAXED);
}

const char *ram_wrong_text(void)
{
	return __atomic_load_n(&wrong_ready, __ATOMIC_ACQUIRE) ? wrong_text : "";
}

uint64_t ram_checked_count(void)
{
	return __atomic_load_n(&checked_count, __ATOMIC_RELAXED);
}
