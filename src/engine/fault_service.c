/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault service: answers the page faults of guest and host on memory that the engine has taken out of circulation.
 *
 * Theory of operation. A few workers share one userfaultfd. One of them at a time holds event_lock, waits and takes a
 * batch of events; then it lets the next one wait and answers its batch, so a slow read from the store does not keep
 * others from being answered. While events come quickly the waiting worker spins for a moment before it sleeps.
 *
 * An answer depends on the page's word alone, read under its chunk's lock:
 *
 *     absent, ballooned, zero   room for one page and its window is charged, and the range filled with the zero page; or,
 *                               where the whole chunk is empty and there is plenty of room, the chunk is opened
 *     benched                   moved back, with its neighbours; costs nothing, so it never waits
 *     compressed, swapped       room is charged, the bytes are brought to a buffer, checked, and copied in
 *     resident, pinned          somebody was faster: whoever waits is woken
 *     BUSY                      somebody is reading it and will wake everybody
 *
 * A fault that cannot be answered waits in `pending`: for room (the reclaimer calls when there is some), or for a second
 * when its page cannot be read or the kernel has no memory. Its thread sleeps in the kernel meanwhile; a page that cannot
 * be read is reported by the housekeeping, and is never answered with anything but its own bytes. When `pending` is full
 * the thread is woken instead, faults again, and so asks again.
 *
 * The window: a fault on the page after the last one of its chunk doubles it, any other one halves it.
 *
 * Nothing here allocates, or waits for anything but a chunk's lock, the store and the kernel.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "kern/uffd.h"

#define EVENTS_MAX      4u /* few, so that a slow one keeps few others from another worker */
#define SPIN_NS         (25 * OB_NS_PER_US)
#define SPIN_GAP_NS     (60 * OB_NS_PER_US) /* spin while batches come closer together than this */
#define RETRY_NS        (20 * OB_NS_PER_MS) /* after the kernel was out of memory */
#define UNREADABLE_NS   OB_NS_PER_SEC
#define BENCH_AROUND    8u /* at least so many neighbours come back from the bench, where it costs next to nothing */

static void observe(struct ob_engine *engine, enum ob_hist_kind kind, const struct ob_pending *fault)
{
	uint64_t ns = ob_now_ns() - fault->arrived_ns;

	__atomic_fetch_add(&engine->hists.count[kind][ob_hist_bucket(ns)], 1, __ATOMIC_RELAXED);
}

static void wake_page(struct ob_engine *engine, const struct ob_place *place, uint64_t page)
{
	ob_uffd_wake(engine->uffd, ob_place_ram(place, page), OB_PAGE_SIZE);
}

/* Adapts the chunk's window to where this fault lies. */
static unsigned window_of(struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned at = (unsigned)(place->page - place->chunk_first);

	if (at > chunk->last_fault && at <= (unsigned)chunk->last_fault + chunk->window)
		chunk->window = (uint8_t)OB_MIN(2u * chunk->window, OB_WINDOW_MAX);
	else
		chunk->window = (uint8_t)OB_MAX(chunk->window / 2u, 1u);
	chunk->last_fault = (uint16_t)at;
	return chunk->window;
}

/* Charges n pages, or one when there is no room for more. Returns how many. */
static unsigned charge(struct ob_engine *engine, unsigned n)
{
	if (ob_cost_try(engine, n))
		return n;
	return n > 1 && ob_cost_try(engine, 1) ? 1 : 0;
}

static enum ob_transition touch_of(enum ob_page_state state)
{
	return state == OB_PAGE_ABSENT ? OB_T_TOUCH : state == OB_PAGE_ZERO ? OB_T_ZERO_FILL : OB_T_REUSE;
}

/* Leaves an empty chunk to the kernel. Returns whether it did. */
static int try_open(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned empty = chunk->count[OB_PAGE_ABSENT] + chunk->count[OB_PAGE_BALLOONED] + chunk->count[OB_PAGE_ZERO];

	if (empty != chunk->pages || (unsigned long)ob_load(&engine->open_chunks) >= engine->vma_budget)
		return 0;
	if (!ob_cost_try_plenty(engine, chunk->pages))
		return 0;
	if (ob_chunk_open(engine, place, chunk->pages) == 0)
		return 1;
	ob_cost_add(engine, -(int64_t)chunk->pages);
	return 0;
}

/* Fills n pages of one state with the zero page. The cost of all n is charged; what is not filled is given back. */
static int fill_zero(struct ob_engine *engine, struct ob_place *place, unsigned n)
{
	enum ob_transition transition = touch_of(ob_page_state(*ob_place_word(place, place->page)));
	uint64_t done = 0;
	int r = ob_uffd_zeropage(engine->uffd, ob_place_ram(place, place->page), n * OB_PAGE_SIZE, &done);
	unsigned filled = (unsigned)(done / OB_PAGE_SIZE);

	if (r == -EEXIST && !filled) {
		/* The kernel has a page where the table has none: the table is wrong, the page is right. */
		ob_engine_internal_error(engine, "UFFDIO_ZEROPAGE", r, ob_place_ram(place, place->page));
		wake_page(engine, place, place->page);
		filled = 1;
	}
	for (unsigned i = 0; i < filled; i++)
		ob_page_move(engine, place->chunk, ob_place_word(place, place->page + i), transition, 0);
	ob_cost_add(engine, (int64_t)filled - n);
	if (filled > 1)
		ob_count(engine, prefetched_pages, filled - 1);
	return filled ? 0 : r;
}

static int serve_zero(struct ob_engine *engine, struct ob_place *place, const struct ob_pending *fault)
{
	uint64_t end = OB_MIN(place->page + window_of(place), ob_place_end(place));
	int is_zero = ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_ZERO;
	unsigned n;
	int r;

	if (try_open(engine, place)) {
		ob_count(engine, faults_open, 1);
		observe(engine, OB_HIST_touch, fault);
		return 0;
	}
	n = charge(engine, ob_page_run(place, place->page, end));
	if (!n)
		return -ENOSPC;
	r = fill_zero(engine, place, n);
	if (r < 0)
		return r;
	if (is_zero)
		ob_count(engine, faults_zero, 1);
	else
		ob_count(engine, faults_touch, 1);
	observe(engine, is_zero ? OB_HIST_zero : OB_HIST_touch, fault);
	return 0;
}

static int serve_benched(struct ob_engine *engine, struct ob_place *place, const struct ob_pending *fault)
{
	uint64_t end = OB_MIN(place->page + OB_MAX(window_of(place), BENCH_AROUND), ob_place_end(place));
	int n = ob_lift_return(engine, place, place->page, ob_page_run(place, place->page, end));

	if (n <= 0)
		return n < 0 ? n : -EAGAIN;
	place->chunk->heat = (uint8_t)OB_MIN(place->chunk->heat + 1u, 255u);
	ob_count(engine, faults_bench, 1);
	ob_count(engine, prefetched_pages, n - 1);
	observe(engine, OB_HIST_bench, fault);
	return 0;
}

/* Copies a page that is in a buffer in; the cost of it is charged. bits: what the word keeps. */
static int copy_in(struct ob_engine *engine, struct ob_place *place, uint64_t page, void *bytes, enum ob_transition transition,
		   uint64_t bits)
{
	uint64_t done;
	int r;

	ob_lift_mutate(bytes);
	r = ob_uffd_copy(engine->uffd, ob_place_ram(place, page), bytes, OB_PAGE_SIZE, &done);
	if (r == 0)
		ob_page_move(engine, place->chunk, ob_place_word(place, page), transition, bits);
	else if (r != -ENOMEM && r != -EAGAIN)
		ob_engine_internal_error(engine, "UFFDIO_COPY", r, ob_place_ram(place, page));
	return r;
}

static int fill_compressed_one(struct ob_engine *engine, struct ob_place *place, uint64_t page, char *buffer)
{
	uint32_t handle = ob_page_handle(*ob_place_word(place, page));
	unsigned length;
	const void *data = ob_pool_load(engine->pool, handle, &length);
	int r = ob_content_decompress(data, length, buffer);

	if (r < 0)
		return -EBADMSG;
	r = copy_in(engine, place, page, buffer, OB_T_DECOMPRESS, 0);
	if (r == 0)
		ob_pool_free(engine->pool, handle);
	return r;
}

static int fill_compressed(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer)
{
	uint64_t end = OB_MIN(page + window, ob_place_end(place));
	unsigned n = charge(engine, ob_page_run(place, page, end)), done = 0;
	int r = 0;

	if (!n)
		return -ENOSPC;
	for (; done < n && r == 0; done += r == 0)
		r = fill_compressed_one(engine, place, page + done, buffer);
	ob_cost_add(engine, (int64_t)done - n);
	if (done > 1)
		ob_count(engine, prefetched_pages, done - 1);
	return done ? 0 : r;
}

/* How many pages from `page` on lie in slots that follow each other. */
static unsigned swapped_run(const struct ob_place *place, uint64_t page, uint64_t end)
{
	unsigned n = ob_page_run(place, page, end);
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));

	for (unsigned i = 1; i < n; i++)
		if (ob_page_slot(*ob_place_word(place, page + i)) != slot + i)
			return i;
	return n;
}

/* Reads n slots; a run that fails is read again without the neighbours. Returns how many were read, or -errno. */
static int read_slots(struct ob_engine *engine, uint32_t slot, unsigned n, char *buffer)
{
	int r = ob_swap_read(engine->swap, slot, n, buffer);

	ob_count(engine, swap_read_ops, 1);
	if (r < 0 && n > 1) {
		n = 1;
		r = ob_swap_read(engine->swap, slot, 1, buffer);
		ob_count(engine, swap_read_ops, 1);
	}
	return r < 0 ? r : (int)n;
}

/* One page of a read that has ended, its chunk locked again: installs it, or leaves it as it was. was_read: -EAGAIN if it was not asked for in the end. */
static int settle_read(struct ob_engine *engine, struct ob_place *place, uint64_t page, char *bytes, int was_read)
{
	uint64_t *word = ob_place_word(place, page);
	uint32_t slot = ob_page_slot(*word);
	int r = was_read < 0 ? was_read : ob_swap_verify(engine->swap, slot, bytes);

	ob_page_set_bits(engine, word, ob_page_with_slot(slot));
	if (r == 0)
		r = copy_in(engine, place, page, bytes, OB_T_SWAP_IN, OB_PAGE_CACHED | ob_page_with_slot(slot));
	else
		ob_count(engine, swap_read_errors, r != -EAGAIN);
	if (r == 0)
		ob_count(engine, swap_in_pages, 1);
	return r;
}

static int fill_swapped(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer)
{
	uint64_t end = OB_MIN(page + window, ob_place_end(place));
	unsigned n = charge(engine, swapped_run(place, page, end)), came = 0;
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	int got, first = 0;

	if (!n)
		return -ENOSPC;
	for (unsigned i = 0; i < n; i++)
		*ob_place_word(place, page + i) |= OB_PAGE_BUSY;
	ob_chunk_unlock(place->chunk);
	got = read_slots(engine, slot, n, buffer);
	ob_chunk_lock(place->chunk);
	for (unsigned i = 0; i < n; i++) {
		int r = settle_read(engine, place, page + i, buffer + i * OB_PAGE_SIZE,
				    got < 0 ? got : (int)i < got ? 0 : -EAGAIN);

		came += r == 0;
		if (i == 0)
			first = r;
		else if (r < 0) /* who waits for a neighbour must ask again by himself */
			wake_page(engine, place, page + i);
	}
	ob_cost_add(engine, (int64_t)came - n);
	if (came > 1)
		ob_count(engine, prefetched_pages, came - 1);
	return first;
}

int ob_fault_fill(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer)
{
	uint64_t word = *ob_place_word(place, page);

	if (word & OB_PAGE_BUSY)
		return -EALREADY;
	if (ob_page_state(word) == OB_PAGE_COMPRESSED)
		return fill_compressed(engine, place, page, window, buffer);
	return fill_swapped(engine, place, page, window, buffer);
}

static int serve_away(struct ob_worker *worker, struct ob_place *place, const struct ob_pending *fault)
{
	struct ob_engine *engine = worker->engine;
	int is_swapped = ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_SWAPPED;
	int r = ob_fault_fill(engine, place, place->page, window_of(place), worker->buffer);

	if (r == -EALREADY)
		return 0;
	if (r < 0)
		return r;
	if (is_swapped)
		ob_count(engine, faults_swapped, 1);
	else
		ob_count(engine, faults_compressed, 1);
	observe(engine, is_swapped ? OB_HIST_swapped : OB_HIST_compressed, fault);
	return 0;
}

/* The table says that the page is there. Where the table may be wrong, a hole is one that nothing was ever put in. */
static int serve_present(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t done;

	ob_count(engine, faults_spurious, 1);
	if (place->chunk->inexact && ob_uffd_zeropage(engine->uffd, ob_place_ram(place, place->page), OB_PAGE_SIZE, &done) == 0)
		return 0;
	wake_page(engine, place, place->page);
	return 0;
}

static int serve_locked(struct ob_worker *worker, struct ob_place *place, const struct ob_pending *fault)
{
	if (place->chunk->open) {
		wake_page(worker->engine, place, place->page);
		return 0;
	}
	switch (ob_page_state(*ob_place_word(place, place->page))) {
	case OB_PAGE_ABSENT:
	case OB_PAGE_BALLOONED:
	case OB_PAGE_ZERO:
		return serve_zero(worker->engine, place, fault);
	case OB_PAGE_BENCHED:
		return serve_benched(worker->engine, place, fault);
	case OB_PAGE_COMPRESSED:
	case OB_PAGE_SWAPPED:
		return serve_away(worker, place, fault);
	default:
		return serve_present(worker->engine, place);
	}
}

static int is_read_error(int r)
{
	return r == -EIO || r == -EBADMSG || r == -ENODATA;
}

/* Notes why a page cannot be brought back; the housekeeping passes it on. */
static void note_cause(struct ob_engine *engine, uint64_t address, int r)
{
	char number[64];

	pthread_mutex_lock(&engine->unreadable_lock);
	snprintf(engine->unreadable_cause, sizeof(engine->unreadable_cause), "the guest's page at host address %#llx cannot be %s: %s",
		 (unsigned long long)address, is_read_error(r) ? "read back" : "put in place by the kernel",
		 r == -EBADMSG ? "what was kept of it is not what was stored" : strerror_r(-r, number, sizeof(number)));
	pthread_mutex_unlock(&engine->unreadable_lock);
}

static void set_unreadable(struct ob_engine *engine, struct ob_pending *fault, int unreadable)
{
	if (fault->unreadable == unreadable)
		return;
	fault->unreadable = unreadable;
	pthread_mutex_lock(&engine->unreadable_lock);
	engine->unreadable += unreadable ? 1u : -1u;
	pthread_mutex_unlock(&engine->unreadable_lock);
}

static void defer(struct ob_engine *engine, struct ob_pending *fault, int r)
{
	uint64_t now = ob_now_ns();
	int full;

	if (r == -ENOSPC) {
		ob_count(engine, faults_stalled, !fault->stalled);
		fault->stalled = 1;
		fault->retry_ns = 0;
	} else if (is_read_error(r)) {
		note_cause(engine, fault->address, r);
		set_unreadable(engine, fault, 1);
		fault->retry_ns = now + UNREADABLE_NS;
	} else {
		/* Out of memory, most likely, which passes; if it lasts it is a page like any other that cannot be had. */
		if (now - fault->arrived_ns > UNREADABLE_NS) {
			note_cause(engine, fault->address, r);
			set_unreadable(engine, fault, 1);
		}
		fault->retry_ns = now + RETRY_NS;
	}
	pthread_mutex_lock(&engine->pending_lock);
	full = engine->pending_count == OB_PENDING_MAX;
	if (!full) {
		engine->pending[engine->pending_count] = *fault;
		ob_store(&engine->pending_count, engine->pending_count + 1);
	}
	pthread_mutex_unlock(&engine->pending_lock);
	if (full) {
		set_unreadable(engine, fault, 0);
		sched_yield();
		ob_uffd_wake(engine->uffd, fault->address, OB_PAGE_SIZE);
	}
	ob_reclaim_kick(engine);
}

static void serve(struct ob_worker *worker, struct ob_pending *fault)
{
	struct ob_engine *engine = worker->engine;
	struct ob_place place;
	int r;

	pthread_rwlock_rdlock(&engine->regions_lock);
	r = ob_place_find(engine, fault->address, &place);
	if (r < 0) {
		ob_uffd_wake(engine->uffd, fault->address, OB_PAGE_SIZE);
		r = 0;
	} else {
		ob_chunk_lock(place.chunk);
		r = serve_locked(worker, &place, fault);
		ob_chunk_unlock(place.chunk);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	if (r < 0) {
		defer(engine, fault, r);
		return;
	}
	set_unreadable(engine, fault, 0);
	if (fault->stalled)
		ob_count(engine, stall_ns, ob_now_ns() - fault->arrived_ns);
}

/* Takes the faults that wait and whose time has come, and tries them again. */
static void serve_pending(struct ob_worker *worker)
{
	struct ob_engine *engine = worker->engine;
	struct ob_pending due[EVENTS_MAX];
	uint64_t now = ob_now_ns();
	unsigned n = 0, kept = 0;

	pthread_mutex_lock(&engine->pending_lock);
	for (unsigned i = 0; i < engine->pending_count; i++) {
		if (n < EVENTS_MAX && engine->pending[i].retry_ns <= now)
			due[n++] = engine->pending[i];
		else
			engine->pending[kept++] = engine->pending[i];
	}
	ob_store(&engine->pending_count, kept);
	pthread_mutex_unlock(&engine->pending_lock);
	for (unsigned i = 0; i < n; i++)
		serve(worker, &due[i]);
}

void ob_fault_room(struct ob_engine *engine)
{
	uint64_t one = 1;

	if (ob_load(&engine->pending_count) && write(engine->room_event, &one, sizeof(one)) < 0)
		return; /* the counter is full: they have been told */
}

/* Reads events for a moment without sleeping, if they have been coming quickly. */
static int spin(struct ob_worker *worker, struct ob_uffd_fault *faults)
{
	uint64_t until = ob_now_ns() + SPIN_NS;
	int n;

	if (worker->engine->ncpus < 2 || worker->gap_ns > SPIN_GAP_NS)
		return 0;
	do {
		n = ob_uffd_read(worker->engine->uffd, faults, EVENTS_MAX);
		if (n)
			return n;
		for (unsigned i = 0; i < 64; i++)
			ob_cpu_relax();
	} while (ob_now_ns() < until);
	return 0;
}

/* Waits for events or for room. Returns the number of events, 0 for room, or -1 when the engine stops. */
static int wait_for_events(struct ob_worker *worker, struct ob_uffd_fault *faults)
{
	struct ob_engine *engine = worker->engine;
	struct pollfd fds[] = {
		{ .fd = engine->uffd, .events = POLLIN },
		{ .fd = engine->room_event, .events = POLLIN },
		{ .fd = engine->stop_event, .events = POLLIN },
	};
	uint64_t drained;
	int n = ob_uffd_read(engine->uffd, faults, EVENTS_MAX);

	if (n == 0)
		n = spin(worker, faults);
	if (n > 0)
		return n;
	if (poll(fds, OB_ARRAY_LEN(fds), -1) < 0)
		return 0;
	if (fds[2].revents)
		return -1;
	if (fds[1].revents && read(engine->room_event, &drained, sizeof(drained)) < 0 && errno != EAGAIN)
		return 0;
	n = fds[0].revents ? ob_uffd_read(engine->uffd, faults, EVENTS_MAX) : 0;
	return n < 0 ? 0 : n;
}

void *ob_fault_thread(void *context)
{
	struct ob_worker *worker = context;
	struct ob_engine *engine = worker->engine;
	struct ob_uffd_fault faults[EVENTS_MAX];

	prctl(PR_SET_NAME, "overbook-fault");
	for (;;) {
		uint64_t now;
		int n;

		pthread_mutex_lock(&engine->event_lock);
		n = wait_for_events(worker, faults);
		now = ob_now_ns();
		/* Shared by all workers, and so under event_lock. */
		engine->worker[0].gap_ns = (engine->worker[0].gap_ns * 7 + (now - engine->worker[0].last_ns)) / 8;
		engine->worker[0].last_ns = now;
		worker->gap_ns = engine->worker[0].gap_ns;
		pthread_mutex_unlock(&engine->event_lock);
		if (n < 0)
			return NULL;
		for (int i = 0; i < n; i++) {
			struct ob_pending fault = { .address = faults[i].address, .arrived_ns = now };

			serve(worker, &fault);
		}
		if (ob_load(&engine->pending_count))
			serve_pending(worker);
	}
}
