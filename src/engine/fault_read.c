/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads from the swap store that faults start and that end in the background.
 *
 * Theory of operation. A fault on a swapped page takes a free read, charges room, marks the page and those that come along
 * BUSY, and starts the read; its worker goes on to the next fault. Whoever waits for events next, under event_lock, also
 * takes the reads that have ended, and settles each: every page's hash is checked, the page is copied in, and whoever waits
 * for it is woken. While a page is BUSY nobody else touches its word, so a read needs no lock while it is under way; its
 * region is kept by region.reads.
 *
 * What comes along: swapped pages that lie behind the wanted one in the guest. Pages that were written together lie in slots
 * that follow each other; those that were written since lie elsewhere. So a read is made of runs, each of slots that follow
 * each other, which end by themselves. In a large window the run with the page that is wanted is short, so that it comes
 * as quickly as if it were alone.
 *
 * Failure. A read of several pages that fails is repeated for the wanted page alone, in the foreground. If that fails too,
 * the fault waits and is tried again (ob_fault_defer). Neighbours that did not come are swapped as before; who waits for one
 * is woken and asks again for himself.
 *
 * When all reads are under way, or there is no ring (swap_io.h), the fault is answered in the foreground by its worker.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/uffd.h"

#define LEAD_PAGES   8u   /* of a window, that are read together with the page that is wanted */
#define READS_DEPTH  256u /* of the queue, for reads of several runs each */
#define READ_NS_MAX  (2 * OB_NS_PER_MS) /* one that took longer says no more than that */
#define SPAN_FACTOR  3u   /* how far behind the wanted page neighbours are looked for, in windows */

void ob_buffer_touch(struct ob_engine *engine, unsigned *touched, unsigned pages)
{
	if (pages <= *touched)
		return;
	ob_cost_tables(engine, (int64_t)((pages - *touched) * OB_PAGE_SIZE));
	ob_store(touched, pages);
}

void ob_buffer_drop(struct ob_engine *engine, char *buffer, unsigned *touched)
{
	if (!*touched || ob_memory_drop(buffer, *touched * OB_PAGE_SIZE) < 0)
		return;
	ob_cost_tables(engine, -(int64_t)(*touched * OB_PAGE_SIZE));
	ob_store(touched, 0u);
}

void ob_read_note(struct ob_engine *engine, uint64_t ns)
{
	ob_store(&engine->read_ns, (ob_load(&engine->read_ns) * 7 + OB_MIN(ns, READ_NS_MAX)) / 8);
}

int ob_reads_create(struct ob_engine *engine)
{
	size_t each = OB_WINDOW_MAX * OB_PAGE_SIZE;
	void *memory = NULL;
	int r = ob_swap_queue_create(engine->swap, READS_DEPTH, &engine->read_queue);

	if (r < 0)
		return r;
	r = ob_memory_reserve(OB_READS_MAX * each, 0, &memory);
	if (r < 0)
		return r;
	engine->reads_memory = memory;
	for (unsigned i = 0; i < OB_READS_MAX; i++) {
		engine->read[i].buffer = engine->reads_memory + i * each;
		engine->read[i].next = i + 1 < OB_READS_MAX ? &engine->read[i + 1] : NULL;
	}
	engine->free_reads = &engine->read[0];
	return 0;
}

void ob_reads_destroy(struct ob_engine *engine)
{
	ob_swap_queue_destroy(engine->read_queue);
	ob_memory_unreserve(engine->reads_memory, OB_READS_MAX * OB_WINDOW_MAX * OB_PAGE_SIZE);
}

static struct ob_read *take_read(struct ob_engine *engine)
{
	struct ob_read *read;

	pthread_mutex_lock(&engine->reads_lock);
	read = engine->free_reads;
	if (read)
		engine->free_reads = read->next;
	pthread_mutex_unlock(&engine->reads_lock);
	return read;
}

static void give_read(struct ob_engine *engine, struct ob_read *read)
{
	pthread_mutex_lock(&engine->reads_lock);
	read->next = engine->free_reads;
	engine->free_reads = read;
	pthread_mutex_unlock(&engine->reads_lock);
}

/* Notes up to max swapped pages from `page` on. Returns how many. */
static unsigned gather(const struct ob_place *place, uint64_t page, unsigned max, uint16_t *ret_pages)
{
	uint64_t end = OB_MIN(page + SPAN_FACTOR * max, ob_place_end(place));
	unsigned n = 0;

	for (; page < end && n < max; page++) {
		uint64_t word = *ob_place_word(place, page);

		if (ob_page_state(word) != OB_PAGE_SWAPPED)
			continue;
		if (word & OB_PAGE_BUSY)
			break;
		ret_pages[n++] = (uint16_t)(page - place->chunk_first);
	}
	return n;
}

/*
 * Divides n gathered pages into runs of slots that follow each other, the first a short one if there are many, so that the page that
 * is wanted comes as quickly as if it were alone. Returns for how many pages the runs suffice.
 */
static unsigned divide(struct ob_read *read, const struct ob_place *place, unsigned n, unsigned *ret_runs)
{
	unsigned runs = 0, i = 0;

	while (i < n && runs < OB_READ_RUNS) {
		uint32_t slot = ob_page_slot(*ob_place_word(place, place->chunk_first + read->page[i]));
		unsigned max = i == 0 && n > 2 * LEAD_PAGES ? LEAD_PAGES : n - i, length = 1;

		while (length < max && ob_page_slot(*ob_place_word(place, place->chunk_first + read->page[i + length])) == slot + length)
			length++;
		read->run[runs++] = (struct ob_read_run){
			.request = { .slot = slot, .pages = length, .buffer = read->buffer + i * OB_PAGE_SIZE }, .read = read, .from = i,
		};
		i += length;
	}
	*ret_runs = runs;
	return i;
}

/*
 * Starts the runs of a read; the chunk is locked, and is let go for what ends at once. The one that somebody waits for goes
 * by itself: of those that are given to the kernel together it may be the last that the disk gets.
 */
static void start(struct ob_engine *engine, struct ob_place *place, struct ob_read *read, unsigned runs)
{
	struct ob_swap_request *requests[OB_READ_RUNS];
	uint32_t ended;

	for (unsigned i = 0; i < runs; i++)
		requests[i] = &read->run[i].request;
	ob_count(engine, swap_read_ops, runs);
	ended = ob_swap_start_many(engine->read_queue, requests, 1);
	if (runs > 1)
		ended |= ob_swap_start_many(engine->read_queue, requests + 1, runs - 1) << 1;
	if (!ended)
		return;
	ob_chunk_unlock(place->chunk);
	for (; ended; ended &= ended - 1)
		ob_read_settle(engine, &read->run[__builtin_ctz(ended)]);
	ob_chunk_lock(place->chunk);
}

int ob_read_start(struct ob_engine *engine, struct ob_place *place, unsigned window, const struct ob_pending *fault,
		  uint64_t locked_ns)
{
	struct ob_read *read;
	unsigned charged, n, runs;

	if (*ob_place_word(place, place->page) & OB_PAGE_BUSY)
		return -EALREADY;
	if (ob_swap_queue_event(engine->read_queue) < 0 || ob_load(&place->region->closing) || !(read = take_read(engine)))
		return 1;
	charged = ob_fault_charge(engine, gather(place, place->page, OB_MIN(window, OB_WINDOW_MAX), read->page));
	if (!charged) {
		give_read(engine, read);
		return -ENOSPC;
	}
	n = divide(read, place, charged, &runs);
	ob_cost_add(engine, (int64_t)n - charged);
	ob_buffer_touch(engine, &read->touched, n);
	read->region = place->region_index;
	read->chunk = (uint32_t)(place->chunk_first / OB_CHUNK_PAGES);
	read->fault = *fault;
	read->locked_ns = locked_ns;
	read->runs_left = runs;
	for (unsigned i = 0; i < n; i++)
		*ob_place_word(place, place->chunk_first + read->page[i]) |= OB_PAGE_BUSY;
	__atomic_fetch_add(&place->region->reads, 1, __ATOMIC_RELAXED);
	start(engine, place, read, runs);
	return 0;
}

struct ob_read_run *ob_reads_ended(struct ob_engine *engine)
{
	struct ob_read_run *list = NULL, **tail = &list;
	struct ob_swap_request *request;

	while (engine->read_queue && (request = ob_swap_reap(engine->read_queue))) {
		*tail = (struct ob_read_run *)(void *)request;
		tail = &(*tail)->next;
	}
	*tail = NULL;
	return list;
}

/* How many pages from `page` on hold in `bytes` what the store was given; *ret_r is what is wrong with the next. */
static unsigned verify_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, const char *bytes, int *ret_r)
{
	for (unsigned i = 0; i < n; i++) {
		*ret_r = ob_swap_verify(engine->swap, ob_page_slot(*ob_place_word(place, page + i)), bytes + i * OB_PAGE_SIZE);
		if (*ret_r < 0)
			return i;
	}
	return n;
}

unsigned ob_read_settle_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, char *bytes, int was_read,
			    int *ret_r)
{
	int r = was_read;
	unsigned good = was_read < 0 ? 0 : verify_run(engine, place, page, n, bytes, &r), came = 0;

	if (good) {
		int copied = ob_fault_copy_in(engine, place, page, good, bytes, &came);

		r = came < good ? copied : r;
	}
	for (unsigned i = 0; i < came; i++) {
		uint64_t *word = ob_place_word(place, page + i);

		ob_page_move(engine, place->chunk, word, OB_T_SWAP_IN, OB_PAGE_CACHED | ob_page_with_slot(ob_page_slot(*word)));
	}
	if (came < n)
		*ob_place_word(place, page + came) &= ~OB_PAGE_BUSY;
	ob_count(engine, swap_in_pages, came);
	ob_count(engine, swap_read_errors, came == good && good < n && r != -EAGAIN);
	*ret_r = r;
	return came;
}

/* How many pages of a run from the i-th of its read on follow each other in the guest as well. */
static unsigned guest_run(const struct ob_read_run *run, unsigned i)
{
	const struct ob_read *read = run->read;
	unsigned n = 1;

	while (i + n < run->from + run->request.pages && read->page[i + n] == read->page[i] + n)
		n++;
	return n;
}

/* Settles the pages of a run, its chunk locked. Returns how many came; *ret_first is what became of the read's first page. */
static unsigned settle_pages(struct ob_engine *engine, struct ob_read_run *run, struct ob_place *place, int was_read, int *ret_first)
{
	struct ob_read *read = run->read;
	unsigned came = 0, i = run->from;

	while (i < run->from + run->request.pages) {
		uint64_t page = place->chunk_first + read->page[i];
		/* The one that somebody waits for by itself, so that he goes on while the rest comes. */
		unsigned n = i ? guest_run(run, i) : 1;
		int r, is_first = i == 0;
		unsigned now = ob_read_settle_run(engine, place, page, n, read->buffer + i * OB_PAGE_SIZE,
						  is_first ? *ret_first : was_read, &r);

		came += now;
		i += now;
		if (is_first)
			*ret_first = now ? 0 : r;
		if (now == n)
			continue;
		if (i++) /* who waits for a neighbour must ask again for himself */
			ob_uffd_wake(engine->uffd, ob_place_ram(place, page + now), OB_PAGE_SIZE);
	}
	return came;
}

/* What a fault says of the run that has its page. */
static void settle_fault(struct ob_engine *engine, struct ob_read *read, uint64_t fetched_ns, int r)
{
	ob_read_note(engine, fetched_ns - read->locked_ns);
	if (r < 0) {
		ob_fault_defer(engine, &read->fault, r);
		return;
	}
	ob_count(engine, faults_swapped, 1);
	ob_fault_served(engine, OB_HIST_swapped, &read->fault, read->locked_ns, fetched_ns);
	ob_fault_answered(engine, &read->fault);
}

void ob_read_settle(struct ob_engine *engine, struct ob_read_run *run)
{
	struct ob_read *read = run->read;
	unsigned n = run->request.pages, came, has_fault = run->from == 0;
	uint64_t fetched_ns = ob_now_ns();
	int was_read = run->request.result, first = was_read, may_offer;
	struct ob_region *region = &engine->region[read->region];
	struct ob_place place;

	if (was_read < 0 && n > 1 && has_fault) {
		first = ob_swap_read(engine->swap, run->request.slot, 1, read->buffer);
		ob_count(engine, swap_read_ops, 1);
		was_read = -EAGAIN; /* the neighbours were not asked for in the end */
	}
	ob_place_chunk(engine, read->region, read->chunk, &place);
	/* An offer needs regions_lock. It is not waited for: this thread may hold it already, and a writer be waiting. */
	may_offer = has_fault && !read->fault.is_write && pthread_rwlock_tryrdlock(&engine->regions_lock) == 0;
	ob_chunk_lock(place.chunk);
	came = settle_pages(engine, run, &place, was_read, &first);
	if (may_offer && first == 0)
		ob_share_offer_used(engine, &place, place.chunk_first + read->page[0], read->buffer);
	ob_chunk_unlock(place.chunk);
	if (may_offer)
		pthread_rwlock_unlock(&engine->regions_lock);
	ob_cost_add(engine, (int64_t)came - n);
	if (came > has_fault)
		ob_count(engine, prefetched_pages, came - has_fault);
	if (has_fault)
		settle_fault(engine, read, fetched_ns, first);
	if (__atomic_sub_fetch(&read->runs_left, 1, __ATOMIC_ACQ_REL))
		return;
	give_read(engine, read);
	__atomic_fetch_sub(&region->reads, 1, __ATOMIC_RELEASE);
}
