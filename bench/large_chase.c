/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What large pages are worth to who reads memory, for bench/largepages.
 *
 * A ring of pointers goes through memory in a random order, one in each page, at a random place of it: following it misses the
 * processor's caches of addresses nearly always, and its caches of data often. It is followed while memory is in large pages,
 * once more (the noise), after the engine has broken each of them, and after it has made each of them whole again. What is
 * broken has been lifted to the bench and has come back in two parts: 512 small pages, which still lie side by side in the host.
 *
 *   --in process   this process follows it
 *   --in kvm       a bare-metal guest under KVM does (tests/kvm), which maps all its memory by large pages itself
 *   --size SIZE    memory, a multiple of 2 MiB; with kvm at most 1G
 *   --laps N       how often the ring is followed in each state, after once that is not timed
 *
 * There is no limit: the engine does nothing by itself. After each state every byte is compared with what was written, and each
 * lap must end where it began. The result is one JSON object on stdout: nanoseconds an access and MiB in large pages in each
 * state, and how long making one whole took on average.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../tests/engine/account.h"
#include "../tests/kvm/vm.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/units.h"
#include "engine/internal.h"

#define PAGE_WORDS (OB_PAGE_SIZE / sizeof(uint64_t))
#define TRIES      20u

enum state { LARGE, AGAIN, BROKEN, WHOLE, STATES };
static const char *const state_names[STATES] = { "large", "again", "broken", "whole" };

static uint64_t size_bytes;
static uint32_t laps = 4;
static int in_guest = -1;
static struct ob_engine *engine;
static struct vm vm;
static uint8_t *base;               /* all memory */
static uint64_t *ring, ring_viewed; /* the pages that have the ring, and where who follows it sees them */
static uint32_t ring_pages;
static uint32_t *next_page;

static void die(const char *what, int r)
{
	fprintf(stderr, "large_chase: %s: %s\n", what, strerror(-r));
	exit(1);
}

static void die_error(const struct ob_error *err)
{
	fprintf(stderr, "large_chase: %s\n", err->text);
	exit(err->code == ENOTSUP ? 77 : 1);
}

static uint64_t mixed(uint64_t x)
{
	x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 29)) * 0x94d049bb133111ebull;
	return x ^ (x >> 32);
}

/* Where the pointer of a page lies in it. */
static uint64_t pointer_word(uint32_t page)
{
	return mixed(page + 1) % PAGE_WORDS;
}

static uint64_t pointer_to(uint32_t page)
{
	return ring_viewed + page * OB_PAGE_SIZE + pointer_word(page) * sizeof(uint64_t);
}

static uint64_t expected_word(uint32_t page, uint64_t word)
{
	return word == pointer_word(page) ? pointer_to(next_page[page]) : page * PAGE_WORDS + word;
}

/* One ring through all pages (Sattolo's shuffle: a permutation that is one cycle). */
static void draw_ring(void)
{
	uint64_t random = 88172645463325252ull;

	next_page = malloc(ring_pages * sizeof(*next_page));
	if (!next_page)
		die("memory", -ENOMEM);
	for (uint32_t i = 0; i < ring_pages; i++)
		next_page[i] = i;
	for (uint32_t i = ring_pages - 1; i; i--) {
		uint32_t other = (uint32_t)(mixed(random += 0x9e3779b97f4a7c15ull) % i), page = next_page[i];

		next_page[i] = next_page[other];
		next_page[other] = page;
	}
}

static void fill(void)
{
	for (uint32_t page = 0; page < ring_pages; page++)
		for (uint64_t word = 0; word < PAGE_WORDS; word++)
			ring[page * PAGE_WORDS + word] = expected_word(page, word);
}

static void check(enum state state)
{
	for (uint32_t page = 0; page < ring_pages; page++) {
		for (uint64_t word = 0; word < PAGE_WORDS; word++) {
			if (ring[page * PAGE_WORDS + word] == expected_word(page, word))
				continue;
			fprintf(stderr, "large_chase: %s: page %u has not its bytes\n", state_names[state], page);
			exit(2);
		}
	}
}

static uint64_t follow(uint64_t at, uint64_t accesses)
{
	struct ob_error err = { 0 };

	if (in_guest) {
		vm.shared[0]->chased = at;
		if (vm_run(&vm, 0, GUEST_CHASE, accesses, &err) < 0)
			die_error(&err);
		return vm.shared[0]->chased;
	}
	while (accesses--)
		at = *(const volatile uint64_t *)(uintptr_t)at;
	return at;
}

/* Nanoseconds an access. */
static double chase(enum state state)
{
	uint64_t first = pointer_to(0), start_ns, took_ns;

	if (follow(first, ring_pages) != first)
		goto astray;
	start_ns = ob_now_ns();
	if (follow(first, (uint64_t)ring_pages * laps) != first)
		goto astray;
	took_ns = ob_now_ns() - start_ns;
	check(state);
	return (double)took_ns / ((double)ring_pages * laps);
astray:
	fprintf(stderr, "large_chase: %s: the ring does not end where it began\n", state_names[state]);
	exit(2);
}

static void open_memory(void)
{
	struct ob_engine_config config = { 0 };
	struct ob_error err = { 0 };
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint8_t *mapping = mmap(NULL, size_bytes + OB_CHUNK_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (mapping == MAP_FAILED)
		die("mmap", -errno);
	base = (uint8_t *)(((uintptr_t)mapping + OB_CHUNK_SIZE - 1) & ~(OB_CHUNK_SIZE - 1));
	if (madvise(base, size_bytes, MADV_HUGEPAGE) < 0)
		die("no large pages", -errno);
	if (ob_engine_create(&config, &engine, &err) < 0 || ob_engine_add_region(engine, base, size_bytes, &err) < 0)
		die_error(&err);
	ring = (uint64_t *)(void *)base;
	ring_viewed = (uintptr_t)base;
	ring_pages = (uint32_t)(size_bytes / OB_PAGE_SIZE);
	if (!in_guest)
		return;
	if (vm_create(&vm, base, size_bytes, 1, &err) < 0)
		die_error(&err);
	vm_map_large(&vm);
	ring += GUEST_COUNTERS * PAGE_WORDS;
	ring_viewed = vm.shared[0]->memory;
	ring_pages = (uint32_t)vm_guest_pages(&vm);
	/* Whether a guest runs here at all. */
	if (vm_run(&vm, 0, GUEST_CHASE, 0, &err) < 0) {
		fprintf(stderr, "large_chase: %s\n", err.text);
		exit(77);
	}
}

static uint64_t large_bytes(void)
{
	struct account_mapping mapping;
	int r = account_mapping(ring, ring_pages * OB_PAGE_SIZE, &mapping);

	if (r < 0)
		die("smaps", r);
	return OB_MIN(mapping.huge_bytes, ring_pages * OB_PAGE_SIZE); /* the mapping may be larger */
}

/* Does something to each chunk of the ring, under its lock. */
static void for_each_chunk(int (*what)(struct ob_place *place))
{
	for (uint64_t page = 0; page < ring_pages; page += OB_CHUNK_PAGES) {
		struct ob_place place;
		int r;

		pthread_rwlock_rdlock(&engine->regions_lock);
		r = ob_place_find(engine, (uintptr_t)ring + page * OB_PAGE_SIZE, &place);
		if (r < 0)
			die("a chunk cannot be found", r);
		ob_chunk_lock(place.chunk);
		r = what(&place);
		ob_chunk_unlock(place.chunk);
		pthread_rwlock_unlock(&engine->regions_lock);
		if (r < 0)
			die("a chunk cannot be broken or made whole", r);
	}
}

static int break_chunk(struct ob_place *place)
{
	int r = place->chunk->open ? ob_chunk_track(engine, place) : 0;

	if (r < 0)
		return r;
	ob_lift_chunk(engine, place);
	ob_lift_return(engine, place, place->chunk_first, 8);
	ob_lift_return_all(engine, place);
	return 0;
}

/* The kernel says -EAGAIN while something holds a page for a moment, such as a batch of another processor's. */
static int make_whole(struct ob_place *place)
{
	int r = -EAGAIN;

	for (unsigned try = 0; try < TRIES && r == -EAGAIN; try++)
		r = ob_chunk_collapse(engine, place);
	return r == 0 ? -EBUSY : r;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = { { "in", required_argument, NULL, 'i' }, { "size", required_argument, NULL, 's' },
						 { "laps", required_argument, NULL, 'l' }, { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'i')
			in_guest = !strcmp(optarg, "kvm") ? 1 : !strcmp(optarg, "process") ? 0 : -1;
		else if (c == 's' && ob_size_parse(optarg, &size_bytes) < 0)
			size_bytes = 0;
		else if (c == 'l')
			laps = (uint32_t)strtoul(optarg, NULL, 10);
		else if (c == '?')
			in_guest = -1;
	}
	if (in_guest >= 0 && laps && size_bytes % OB_CHUNK_SIZE == 0 && size_bytes >= 4 * OB_CHUNK_SIZE && optind == argc)
		return;
	fputs("large_chase: --in process or kvm, --size (a multiple of 2M, at least 8M) and perhaps --laps are needed\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	double ns[STATES], whole_ms = 0;
	uint64_t large[STATES];
	struct ob_error err = { 0 };

	parse(argc, argv);
	if (ob_fault_configure(getenv(OB_ENV_FAULT), &err) < 0)
		die_error(&err);
	open_memory();
	draw_ring();
	fill();
	for (enum state state = LARGE; state < STATES; state++) {
		uint64_t start_ns = ob_now_ns();

		if (state == BROKEN)
			for_each_chunk(break_chunk);
		if (state == WHOLE)
			for_each_chunk(make_whole);
		whole_ms = (double)(ob_now_ns() - start_ns) / 1e6 / (ring_pages / OB_CHUNK_PAGES);
		large[state] = large_bytes();
		ns[state] = chase(state);
	}
	printf("{\"pages\": %u, \"make_whole_ms\": %.3f", ring_pages, whole_ms);
	for (enum state state = LARGE; state < STATES; state++)
		printf(", \"%s_ns\": %.2f, \"%s_large_mib\": %.1f", state_names[state], ns[state], state_names[state],
		       (double)large[state] / OB_MIB);
	printf("}\n");
	return 0;
}
