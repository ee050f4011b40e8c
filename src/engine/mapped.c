/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mapped shares: runs of shared pages that are read again and again are mapped from the canonical store, so that reading
 * them is no fault at all and costs no memory. Off unless the engine is configured for it.
 *
 * Theory of operation. A cold share (share.c) is a hole in guest RAM; each read brings a copy of it into memory. A mapped
 * one is not a hole: guest RAM has a private mapping of the extent's file there, protected by a second userfaultfd, the
 * guard. Reads go to the canonical page. A write waits in the guard, and is answered by taking the page out: it is a cold
 * share again, a copy goes in as for every other (fault_service.c), and the write goes on in that. There are two transitions
 * and no others:
 *
 *     shared  -- MAP -->  mapped      a read, or the scanner, for whole runs (below)
 *     mapped  -- UNMAP --> shared     a write; and, first of all, whatever else is to happen to the page: discard, release,
 *                                     unsharing, its region's going, a move to a slot of another overbookd
 *
 * So nothing but this file has to know how a mapping goes away, and the kernel never copies on write: a page that the kernel
 * had copied would lie in a mapping of a file, where it cannot be lifted and no device's hold on it is seen.
 *
 * How a run is mapped, its chunk locked (all its pages are holes):
 *
 *     1. its pages are mapped from the file wherever there is room, the guard is armed, the page table is filled
 *     2. guest RAM's own mapping of the holes is moved aside, to the same place of the region's `aside`, and leaves its like
 *     3. the mapping of the file is moved over that
 *     4. who waits for a hole of the run is woken, and reads
 *
 * And taken out: what was moved aside is moved back over the run. It is the same mapping, with all that the host ever
 * advised about it, the same anon_vma and offset and its registration, and so becomes one with its neighbours again. (A new
 * mapping does not: one that is filled by itself between two mappings of a file gets an anon_vma of its own for ever, and
 * 100 single pages that came back left two mappings behind.) Then who waits in the guard is woken.
 *
 * A move is atomic for who reads and writes meanwhile. But the kernel tells of a move of registered memory by an event, lets
 * the mover sleep until somebody has read it, and refuses to fill registered memory until then (EAGAIN, which everybody
 * tries again). Movers hold a chunk's lock, for which those who answer faults may be waiting. So there is a thread that
 * reads such events, and takes no lock but pending_lock: overbook-moves. It reads the guard always, and the engine's
 * userfaultfd while something is being moved. What it reads of faults it hands to the workers; it answers none, and moves
 * nothing.
 *
 * Runs. A run is pages of one chunk that follow each other, in slots of one extent that follow each other, and it is one
 * mapping to the kernel. It costs up to four mappings: itself, the other part of what it splits, and the same aside; one that follows another costs itself. A run
 * has at least RUN_PAGES pages: what a mapping saves then, 16 faults of some 50 us each time that they are read, is worth
 * more than what it costs, 256 bytes of the kernel's memory for each mapping, which are charged, and one of vm.max_map_count. Under a limit one page is enough: a copy
 * would take the place of another page, which comes back by a fault, and again. All runs together may be so many
 * that they cost half of vm.max_map_count at most; open chunks may take 1/4 (chunk.c), and QEMU needs a few hundred. When
 * that is used up, pages stay cold. When a page is taken out of the middle, and one of the parts left would be too short, or
 * one run too many, that part is taken out too.
 *
 * Who is mapped. A read fault on a cold page maps its whole run in the place of a copy, while there still is a run: a copy that is in use
 * stays, and what is left around it is too short. In a chunk of which a mapped page was written, that takes as many read faults before as
 * a copy does for the scanner, which maps a chunk's runs when it comes by: READS at first. A page that was only read is found equal again and
 * becomes shared again; one that was written does not, and will not be mapped. A write to a mapped page means that this was wrong: the
 * chunk begins to count anew, up to twice as far as before (READS << BREAKS_MAX at most), and the pages behind the written one, as many as the shortest
 * run has at least, are taken out with it, so that who writes one page after the other does not wait in the guard for each.
 *
 * Holds. A slot of which a page has ever been mapped is told as such when it is let go of (ob_share_drop.was_mapped), and
 * must never be written again: while it was mapped, a device or a socket may have taken a reference (direct I/O from guest
 * memory, zero-copy sending) that outlives the mapping by any time, and that nobody can see. What it reads must stay what it
 * was. Such an extent goes as a whole, when nothing of it is held; the kernel keeps the pages that are referenced until they
 * are not.
 *
 * A debugger that writes through /proc/PID/mem cannot wait: EIO, as for a page that is away.
 *
 * Failure. Until step 3 nothing has happened to the run, and all is undone: it stays cold. A move that fails has emptied its
 * target when the kernel had no memory for the rest; the guest would die of a touch. So that is looked at, and what was
 * moved aside is moved back, tried again and again. A page that cannot be taken out stays mapped: who waits for that is
 * tried again like every fault that finds no memory, others are told.
 *
 * Locking: chunk.lock of the run; then mapped.lock, for the moves and the number of runs. regions_lock is held.
 */
#include "engine/mapped.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/probe.h"

#define RUN_PAGES         16u
#define RUN_COST          4u /* mappings */
#define MAPPING_BYTES     256 /* of the kernel's memory: 192, and its part of a tree */
#define MAPPINGS_FRACTION 2u /* of vm.max_map_count */
#define READS             4u
#define BREAKS_MAX        5u
#define TRIES             1000u /* to close a gap in guest RAM */
#define MOVING_POLL_MS    1
#define EVENTS_MAX        16u

/* --- the thread that reads events --- */

/* Hands on the faults that a userfaultfd tells of; other events are done with when they have been read. */
static void pass_on(struct ob_engine *engine, int fd, int of_mapped)
{
	struct ob_uffd_fault faults[EVENTS_MAX];
	int n = ob_uffd_read(fd, faults, EVENTS_MAX);
	uint64_t now = ob_now_ns();

	for (int i = 0; i < n; i++) {
		struct ob_pending fault = { .address = faults[i].address, .arrived_ns = now, .is_write = faults[i].is_write,
					    .of_mapped = of_mapped };

		ob_fault_queue(engine, &fault);
	}
	if (n > 0)
		ob_fault_room(engine);
}

static void *moves_thread(void *context)
{
	struct ob_engine *engine = context;
	struct ob_mapped *mapped = &engine->mapped;
	uint64_t drained;

	prctl(PR_SET_NAME, "overbook-moves");
	while (!__atomic_load_n(&mapped->stop, __ATOMIC_ACQUIRE)) {
		int moving = __atomic_load_n(&mapped->moving, __ATOMIC_ACQUIRE) != 0;
		struct pollfd fds[] = {
			{ .fd = mapped->guard, .events = POLLIN },
			{ .fd = mapped->event, .events = POLLIN },
			{ .fd = moving ? engine->uffd : -1, .events = POLLIN },
		};

		if (poll(fds, OB_ARRAY_LEN(fds), moving ? MOVING_POLL_MS : -1) < 0)
			continue;
		if (fds[0].revents)
			pass_on(engine, mapped->guard, 1);
		if (fds[2].revents)
			pass_on(engine, engine->uffd, 0);
		if (fds[1].revents && read(mapped->event, &drained, sizeof(drained)) < 0)
			continue; /* somebody else's news: none, there is one reader */
	}
	return NULL;
}

static void call_thread(struct ob_mapped *mapped)
{
	uint64_t one = 1;

	if (write(mapped->event, &one, sizeof(one)) < 0)
		return; /* the counter is full: it has been told */
}

int ob_mapped_open(struct ob_engine *engine, uint64_t *ret_features)
{
	struct ob_mapped *mapped = &engine->mapped;
	unsigned mappings = engine->config.map_mappings;
	int r;

	mapped->guard = ob_uffd_open_guard();
	mapped->event = mapped->guard < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = mapped->guard < 0 ? mapped->guard : mapped->event < 0 ? -errno : ob_uffd_open_movable(ret_features);
	if (r < 0) {
		ob_log(OB_LOG_WARNING, "shared pages will not be mapped: the kernel does not guard them: %s", strerror(-r));
		ob_fd_close(&mapped->guard);
		ob_fd_close(&mapped->event);
		return r;
	}
	mapped->runs_max = (mappings ? mappings : ob_kern_max_map_count() / MAPPINGS_FRACTION) / RUN_COST;
	return r;
}

int ob_mapped_start(struct ob_engine *engine)
{
	struct ob_mapped *mapped = &engine->mapped;
	int r;

	if (mapped->guard < 0)
		return 0;
	r = ob_engine_start_thread(&mapped->thread, moves_thread, engine);
	mapped->is_started = r == 0;
	return r;
}

void ob_mapped_stop(struct ob_engine *engine)
{
	struct ob_mapped *mapped = &engine->mapped;

	if (!mapped->is_started)
		return;
	__atomic_store_n(&mapped->stop, 1, __ATOMIC_RELEASE);
	call_thread(mapped);
	pthread_join(mapped->thread, NULL);
	mapped->is_started = 0;
}

void ob_mapped_close(struct ob_engine *engine)
{
	ob_fd_close(&engine->mapped.guard);
	ob_fd_close(&engine->mapped.event);
}

/* --- runs --- */

/* Whether a page continues the run of its neighbour below. */
static int continues(const struct ob_place *place, uint64_t page)
{
	uint64_t word = *ob_place_word(place, page), below = *ob_place_word(place, page - 1);

	return ob_page_state(word) == ob_page_state(below) && ob_page_slot(word) == ob_page_slot(below) + 1 &&
	       ob_page_slot(word) % OB_EXTENT_PAGES;
}

/* Pages of the shortest run. */
static unsigned run_min(const struct ob_engine *engine)
{
	if (engine->config.map_run_pages)
		return engine->config.map_run_pages;
	return ob_load(&engine->limit_bytes) ? 1 : RUN_PAGES;
}

/* The first page of the run in which a page lies, and one past its last; both within the chunk. */
static uint64_t run_start(const struct ob_place *place, uint64_t page)
{
	while (page > place->chunk_first && continues(place, page))
		page--;
	return page;
}

static uint64_t run_end(const struct ob_place *place, uint64_t page)
{
	do
		page++;
	while (page < ob_place_end(place) && continues(place, page));
	return page;
}

static int is_mapped(const struct ob_place *place, uint64_t page)
{
	return ob_page_state(*ob_place_word(place, page)) == OB_PAGE_MAPPED;
}

struct runs {
	unsigned count, apart; /* apart: those that do not follow another one at once */
};

static struct runs count_runs(const struct ob_place *place)
{
	struct runs runs = { 0 };
	int follows = 0;

	for (uint64_t page = place->chunk_first; page < ob_place_end(place);) {
		int is_run = is_mapped(place, page);

		runs.count += is_run;
		runs.apart += is_run && !follows;
		follows = is_run;
		page = is_run ? run_end(place, page) : page + 1;
	}
	return runs;
}

static int64_t mappings_bytes(struct runs runs)
{
	return (int64_t)(runs.count + (RUN_COST - 1) * runs.apart) * MAPPING_BYTES;
}

/* mapped.lock is held. */
static void recount(struct ob_engine *engine, const struct ob_place *place, struct runs before)
{
	struct ob_mapped *mapped = &engine->mapped;
	struct runs now = count_runs(place);

	ob_store(&mapped->runs, mapped->runs + now.count - before.count);
	ob_cost_tables(engine, mappings_bytes(now) - mappings_bytes(before));
}

/* --- moving mappings; mapped.lock is held --- */

static char *ram_of(const struct ob_place *place, uint64_t page)
{
	return (char *)(uintptr_t)ob_place_ram(place, page);
}

static char *aside_of(const struct ob_place *place, uint64_t page)
{
	return place->region->aside + page * OB_PAGE_SIZE;
}

/* Moves a mapping of guest RAM, which is registered, and leaves its like. */
static int move_own(struct ob_engine *engine, char *from, size_t length, char *to)
{
	struct ob_mapped *mapped = &engine->mapped;
	int r;

	__atomic_fetch_add(&mapped->moving, 1, __ATOMIC_ACQ_REL);
	call_thread(mapped);
	r = ob_memory_move(from, length, to, 1);
	__atomic_fetch_sub(&mapped->moving, 1, __ATOMIC_ACQ_REL);
	return r;
}

static void forget_aside(struct ob_engine *engine, const struct ob_place *place, uint64_t page, size_t length)
{
	int r = ob_memory_empty_addresses(aside_of(place, page), length);

	/* It is two mappings too many, until the next run there is mapped. */
	if (r < 0)
		ob_engine_internal_error(engine, "emptying what was moved aside", r, ob_place_ram(place, page));
}

static int move_aside(struct ob_engine *engine, const struct ob_place *place, uint64_t page, size_t length)
{
	int r = move_own(engine, ram_of(place, page), length, aside_of(place, page));

	/* What is mapped there by now may be somebody else's: nothing is put aside any more, and the rest stays reserved. */
	if (r < 0 && !ob_memory_is_mapped(aside_of(place, page), length)) {
		ob_engine_internal_error(engine, "moving a hole in guest RAM aside", r, ob_place_ram(place, page));
		place->region->aside_is_torn = 1;
		ob_store(&engine->mapped.runs_max, 0);
	}
	return r;
}

/* What is aside goes back over guest RAM; again and again while there is nothing at all. */
static int move_back(struct ob_engine *engine, const struct ob_place *place, uint64_t page, size_t length)
{
	char *ram = ram_of(place, page);
	int r = -EAGAIN;

	for (unsigned i = 0; i < TRIES && r < 0; i++) {
		r = move_own(engine, aside_of(place, page), length, ram);
		if (r < 0 && ob_memory_is_mapped(ram, length))
			return r;
		if (r < 0)
			sched_yield();
	}
	if (r < 0)
		ob_engine_internal_error(engine, "closing a gap in guest RAM", r, ob_place_ram(place, page));
	return r;
}

/* Maps pages of the store, of a run of slots, wherever there is room, and guards them. */
static int build(struct ob_engine *engine, uint32_t slot, size_t length, void **ret_base)
{
	uint64_t offset;
	void *base;
	int fd = ob_share_file(engine, slot, &offset), r = fd < 0 ? fd : ob_memory_map_private(fd, offset, length, &base);

	if (r < 0)
		return r;
	r = ob_uffd_guard(engine->mapped.guard, (uint64_t)(uintptr_t)base, length);
	if (r < 0) {
		ob_memory_unreserve(base, length);
		return r;
	}
	ob_memory_populate(base, length);
	*ret_base = base;
	return 0;
}

/* Puts n cold pages' mapping in place. */
static int map_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	size_t length = n * OB_PAGE_SIZE;
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	char *ram = ram_of(place, page);
	void *built = NULL;
	int r = build(engine, slot, length, &built);

	if (r < 0)
		return r;
	ob_share_note_mapped(engine, slot, n);
	r = move_aside(engine, place, page, length);
	if (r == 0) {
		r = ob_memory_move(built, length, ram, 0);
		if (r < 0 && (ob_memory_is_mapped(ram, length) || move_back(engine, place, page, length) == 0))
			forget_aside(engine, place, page, length);
	}
	if (r < 0) {
		ob_memory_unreserve(built, length);
		return r;
	}
	for (unsigned i = 0; i < n; i++)
		ob_page_move(engine, place->chunk, ob_place_word(place, page + i), OB_T_MAP, ob_page_with_slot(slot + i));
	ob_uffd_wake(engine->uffd, ob_place_ram(place, page), length);
	ob_count(engine, map_pages, n);
	return 0;
}

/*
 * Makes n mapped pages cold. What was mapped at different times may be more than one mapping aside (EFAULT): then it is
 * moved in parts.
 */
static int unmap_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	int r = move_back(engine, place, page, n * OB_PAGE_SIZE);

	if (r == -EFAULT && n > 1) {
		r = unmap_run(engine, place, page, n / 2);
		return r < 0 ? r : unmap_run(engine, place, page + n / 2, n - n / 2);
	}
	if (r < 0)
		return r;
	forget_aside(engine, place, page, n * OB_PAGE_SIZE);
	for (unsigned i = 0; i < n; i++) {
		uint64_t *word = ob_place_word(place, page + i);

		ob_page_move(engine, place->chunk, word, OB_T_UNMAP, ob_page_with_slot(ob_page_slot(*word)));
	}
	ob_count(engine, map_taken_out_pages, n);
	return 0;
}

/* --- taking out --- */

struct cut {
	uint64_t first, end;
};

/* What of the run around a page is taken out, [first, end) being wanted: no part is left that is too short, or too many. */
static struct cut cut_of(const struct ob_engine *engine, const struct ob_place *place, uint64_t page, uint64_t first, uint64_t end)
{
	const struct ob_mapped *mapped = &engine->mapped;
	uint64_t start = run_start(place, page), stop = run_end(place, page);
	struct cut cut = { OB_MAX(start, first), OB_MIN(stop, end) };

	if (cut.first - start < run_min(engine))
		cut.first = start;
	if (stop - cut.end < run_min(engine))
		cut.end = stop;
	if (cut.first > start && cut.end < stop && mapped->runs >= mapped->runs_max) {
		if (cut.first - start < stop - cut.end)
			cut.first = start;
		else
			cut.end = stop;
	}
	return cut;
}

static int take_out(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end)
{
	struct ob_mapped *mapped = &engine->mapped;
	struct runs before;
	int r = 0;

	if (!place->chunk->count[OB_PAGE_MAPPED])
		return 0;
	pthread_mutex_lock(&mapped->lock);
	before = count_runs(place);
	for (uint64_t page = first; page < end && r == 0;) {
		struct cut cut = { page, page + 1 };

		if (is_mapped(place, page)) {
			cut = cut_of(engine, place, page, first, end);
			r = unmap_run(engine, place, cut.first, (unsigned)(cut.end - cut.first));
		}
		page = cut.end;
	}
	recount(engine, place, before);
	pthread_mutex_unlock(&mapped->lock);
	return r;
}

void ob_mapped_wake(struct ob_engine *engine, const struct ob_place *place)
{
	if (engine->mapped.guard >= 0)
		ob_uffd_wake(engine->mapped.guard, ob_place_ram(place, place->chunk_first), place->chunk->pages * OB_PAGE_SIZE);
}

int ob_mapped_take_out(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end)
{
	int r;

	if (!place->chunk->count[OB_PAGE_MAPPED])
		return 0;
	r = take_out(engine, place, first, end);
	ob_mapped_wake(engine, place);
	return r;
}

int ob_mapped_break(struct ob_engine *engine, struct ob_place *place, unsigned window)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t end = OB_MIN(place->page + OB_MAX(window, run_min(engine)), ob_place_end(place));
	int r = take_out(engine, place, place->page, end);

	if (r < 0 && is_mapped(place, place->page))
		return r;
	chunk->map_reads = 0;
	if (chunk->map_breaks < BREAKS_MAX)
		chunk->map_breaks++;
	ob_count(engine, map_breaks, 1);
	return 0;
}

/* --- mapping --- */

static int reserve_aside(struct ob_region *region)
{
	void *base = NULL;
	int r = region->aside ? 0 : ob_memory_reserve_addresses(region->length, region->base, &base);

	if (r == 0 && base)
		region->aside = base;
	return r;
}

/* Maps one cold run, if there is room for it. */
static int map_one(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	struct ob_mapped *mapped = &engine->mapped;
	struct runs before;
	int r;

	pthread_mutex_lock(&mapped->lock);
	before = count_runs(place);
	r = mapped->runs < mapped->runs_max ? reserve_aside(place->region) : -ENOSPC;
	if (r == 0)
		r = map_run(engine, place, page, n);
	recount(engine, place, before);
	pthread_mutex_unlock(&mapped->lock);
	ob_count(engine, map_refused_runs, r < 0);
	return r;
}

/* Maps the cold runs that lie in [first, end). Returns how many pages. */
static unsigned map_runs(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end)
{
	unsigned pages = 0;

	for (uint64_t page = first; page < end;) {
		uint64_t word = *ob_place_word(place, page), stop = page + 1;

		if (ob_page_state(word) == OB_PAGE_SHARED) {
			stop = OB_MIN(run_end(place, page), end);
			if (stop - page >= run_min(engine) && ob_share_is_mappable(engine, ob_page_slot(word))) {
				if (map_one(engine, place, page, (unsigned)(stop - page)) < 0)
					break;
				pages += (unsigned)(stop - page);
			}
		}
		page = stop;
	}
	return pages;
}

void ob_mapped_note_read(struct ob_chunk *chunk)
{
	if (chunk->map_reads < UINT8_MAX)
		chunk->map_reads++;
}

static int is_read_enough(const struct ob_chunk *chunk)
{
	return chunk->map_reads >= READS << chunk->map_breaks;
}

int ob_mapped_may_read(const struct ob_engine *engine, const struct ob_chunk *chunk)
{
	return engine->mapped.guard >= 0 && !ob_load(&engine->releasing) && (!chunk->map_breaks || is_read_enough(chunk));
}

int ob_mapped_read(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t first, end;

	if (!ob_mapped_may_read(engine, place->chunk))
		return 0;
	first = run_start(place, place->page);
	end = run_end(place, place->page);
	return end - first >= run_min(engine) && ob_share_is_mappable(engine, ob_page_slot(*ob_place_word(place, first))) &&
	       map_one(engine, place, first, (unsigned)(end - first)) == 0;
}

void ob_mapped_consider(struct ob_engine *engine, struct ob_place *place)
{
	const struct ob_chunk *chunk = place->chunk;

	if (engine->mapped.guard < 0 || chunk->open || !is_read_enough(chunk) ||
	    chunk->count[OB_PAGE_SHARED] < run_min(engine))
		return;
	map_runs(engine, place, place->chunk_first, ob_place_end(place));
}

unsigned ob_engine_share_map(struct ob_engine *engine, uint64_t page, unsigned n)
{
	struct ob_place place;
	unsigned pages = 0;

	pthread_rwlock_rdlock(&engine->regions_lock);
	if (engine->mapped.guard >= 0 && ob_share_find_page(engine, page, &place) == 0) {
		ob_chunk_lock_background(place.chunk);
		if (!place.chunk->open)
			pages = map_runs(engine, &place, place.page, OB_MIN(place.page + n, ob_place_end(&place)));
		ob_chunk_unlock(place.chunk);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return pages;
}
