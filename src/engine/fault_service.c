/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault service: answers the page faults of guest and host on memory that the engine has taken out of circulation.
 *
 * Theory of operation. A few workers share one userfaultfd. One of them at a time holds event_lock, waits and takes a
 * batch of events. A single event it answers at once and waits again: handing the lock over would wake another thread,
 * which costs more than most answers. When there are several, or it would have to wait (for a chunk's lock, for a read), it
 * hands over first. There is one exception: where all faults come from one thread and the store has been answering within
 * half a millisecond, the end of a read is waited for with the lock held, for 2 ms at most; somebody else's fault then waits that long.
 * At first without sleeping, if the thread has a lease and the store is brisk (follow.c).
 * Whoever waits also takes the reads from the store that have ended. follow.c says on which processor a worker runs.
 *
 * An answer depends on the page's word alone, read under its chunk's lock; fault_window.c says which neighbours come along:
 *
 *     absent, ballooned, zero   room for one page and its window is charged, and the range filled with the zero page; or,
 *                               where the whole chunk is empty and there is plenty of room, the chunk is opened
 *     benched                   moved back, with its neighbours; costs nothing, so it never waits. If it was read it may be offered for sharing before
 *     compressed                room is charged, the bytes are decompressed, and copied in
 *     shared                    room is charged, and the bytes are copied in from the canonical page
 *     swapped                   room is charged, and a read is started; the bytes are checked and copied in by whoever finds
 *                               that it has ended (fault_read.c)
 *     mapped                    a write: the page is taken out of its run (mapped.c), and copied in as a shared one
 *     resident, pinned          somebody was faster: whoever waits is woken
 *     BUSY                      somebody is reading it and will wake everybody
 *
 * A fault that cannot be answered waits in `pending`: for room (the reclaimer calls when there is some), or for a second
 * when its page cannot be read or the kernel has no memory. Its thread sleeps in the kernel meanwhile; a page that cannot
 * be read is reported by the housekeeping, and is never answered with anything but its own bytes. When `pending` is full
 * the thread is woken instead, faults again, and so asks again.
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
#include "engine/chances.h"
#include "engine/scan.h"
#include "kern/cpu.h"
#include "kern/uffd.h"

#define UNDER_WAY       1  /* the answer will come from a read that has been started */
#define EVENTS_MAX      4u /* few, so that a slow one keeps few others from another worker */
#define RETRY_NS        (20 * OB_NS_PER_MS) /* after the kernel was out of memory */
#define UNREADABLE_NS   OB_NS_PER_SEC
#define QUICK_READ_NS   (500 * OB_NS_PER_US)
#define PATIENCE_NS     (2 * OB_NS_PER_MS)
#define BENCH_AROUND    8u /* at least so many neighbours come back from the bench, where it costs next to nothing */

_Static_assert(offsetof(struct ob_stats, fault_shared_install_ns) ==
		       offsetof(struct ob_stats, fault_touch_wait_ns) + (OB_HIST_KINDS * 3 - 1) * sizeof(uint64_t),
	       "the parts of faults stand in the order of the kinds");

void ob_fault_served(struct ob_engine *engine, enum ob_hist_kind kind, struct ob_pending *fault, uint64_t locked_ns,
		     uint64_t fetched_ns)
{
	uint64_t now = ob_now_ns(), *parts = &engine->counters.fault_touch_wait_ns + kind * 3u;

	__atomic_fetch_add(&engine->hists.count[kind][ob_hist_bucket(now - fault->arrived_ns)], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&parts[0], locked_ns - fault->arrived_ns, __ATOMIC_RELAXED);
	__atomic_fetch_add(&parts[1], fetched_ns - locked_ns, __ATOMIC_RELAXED);
	__atomic_fetch_add(&parts[2], now - fetched_ns, __ATOMIC_RELAXED);
}

/* Who waits for a page that is or was mapped waits in the guard, or else like all. */
static void wake_fault(struct ob_engine *engine, const struct ob_pending *fault)
{
	ob_uffd_wake(fault->of_mapped ? engine->mapped.guard : engine->uffd, fault->address, OB_PAGE_SIZE);
}

static void wake_page(struct ob_engine *engine, const struct ob_place *place, uint64_t page)
{
	ob_uffd_wake(engine->uffd, ob_place_ram(place, page), OB_PAGE_SIZE);
}

unsigned ob_fault_charge(struct ob_engine *engine, unsigned n)
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

/*
 * Fills n pages with zeros. Who wants to write gets a page of his own at once: to write to the kernel's zero page would be
 * another fault. *ret_done as in uffd.h.
 */
static int put_zeros(struct ob_engine *engine, uint64_t ram, unsigned n, int is_write, uint64_t *ret_done)
{
	static const char zeros[OB_PAGE_SIZE] __attribute__((aligned(OB_PAGE_SIZE)));
	uint64_t more = 0;
	int r;

	if (!is_write)
		return ob_uffd_zeropage(engine->uffd, ram, n * OB_PAGE_SIZE, ret_done);
	r = ob_uffd_copy(engine->uffd, ram, zeros, OB_PAGE_SIZE, ret_done);
	if (r < 0 || n == 1)
		return r;
	r = ob_uffd_zeropage(engine->uffd, ram + OB_PAGE_SIZE, (n - 1) * OB_PAGE_SIZE, &more);
	*ret_done += more;
	return r;
}

/* Fills n pages of one state with zeros. The cost of all n is charged; what is not filled is given back. */
static int fill_zero(struct ob_engine *engine, struct ob_place *place, unsigned n, int is_write)
{
	enum ob_transition transition = touch_of(ob_page_state(*ob_place_word(place, place->page)));
	uint64_t done = 0;
	int r = put_zeros(engine, ob_place_ram(place, place->page), n, is_write, &done);
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

static int serve_zero(struct ob_engine *engine, struct ob_place *place, struct ob_pending *fault, uint64_t locked_ns)
{
	uint64_t end = OB_MIN(place->page + ob_fault_window(engine, place, 1), ob_place_end(place));
	int is_zero = ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_ZERO;
	unsigned n;
	int r;

	if (try_open(engine, place)) {
		ob_count(engine, faults_open, 1);
		ob_fault_served(engine, OB_HIST_touch, fault, locked_ns, locked_ns);
		return 0;
	}
	n = ob_fault_charge(engine, ob_page_run(place, place->page, end));
	if (!n)
		return -ENOSPC;
	r = fill_zero(engine, place, n, fault->is_write);
	if (r < 0)
		return r;
	if (is_zero)
		ob_count(engine, faults_zero, 1);
	else
		ob_count(engine, faults_touch, 1);
	ob_fault_served(engine, is_zero ? OB_HIST_zero : OB_HIST_touch, fault, locked_ns, locked_ns);
	return 0;
}

/* Moves the page back, with neighbours. Returns how many pages came, or -errno. */
static int return_around(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t end = OB_MIN(place->page + ob_fault_window(engine, place, BENCH_AROUND), ob_place_end(place));
	int n;

	if (ob_chunk_is_whole(place->chunk)) {
		n = ob_lift_return_whole(engine, place);
		ob_count(engine, large_whole_returns, n == OB_CHUNK_PAGES);
		ob_large_came_back(place->chunk);
		if (n > 0 && ob_page_state(*ob_place_word(place, place->page)) != OB_PAGE_BENCHED)
			return n;
	}
	ob_large_note(engine, place->chunk, 0);
	return ob_lift_return(engine, place, place->page, ob_page_run(place, place->page, end));
}

/* The clock's hand is to leave it in place for a while. */
static void note_use(struct ob_engine *engine, const struct ob_place *place)
{
	uint64_t *word = ob_place_word(place, place->page);

	if (ob_page_state(*word) == OB_PAGE_RESIDENT)
		ob_page_set_bits(engine, word, ob_chances_more(*word) & ~15ull);
}

static int serve_benched(struct ob_engine *engine, struct ob_place *place, struct ob_pending *fault, uint64_t locked_ns)
{
	int was_whole = ob_chunk_is_whole(place->chunk), n;

	if (!fault->is_write && !was_whole)
		ob_share_offer_used(engine, place, place->page, ob_place_bench(place, place->page));
	n = return_around(engine, place);

	if (n <= 0)
		return n < 0 ? n : -EAGAIN;
	/* What came as a large page is lifted as one again. */
	if (!was_whole)
		note_use(engine, place);
	place->chunk->heat = (uint8_t)OB_MIN(place->chunk->heat + 1u, 255u);
	ob_count(engine, faults_bench, 1);
	if (place->chunk->watched)
		ob_scan_note_return(engine, (unsigned)n);
	ob_count(engine, prefetched_pages, n - 1);
	ob_fault_served(engine, OB_HIST_bench, fault, locked_ns, locked_ns);
	return 0;
}

int ob_fault_copy_in(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, void *bytes, unsigned *ret_came)
{
	uint64_t done = 0;
	int r;

	ob_lift_mutate(bytes);
	r = ob_uffd_copy(engine->uffd, ob_place_ram(place, page), bytes, n * OB_PAGE_SIZE, &done);
	if (r < 0 && r != -ENOMEM && r != -EAGAIN)
		ob_engine_internal_error(engine, "UFFDIO_COPY", r, ob_place_ram(place, page) + done);
	*ret_came = (unsigned)(done / OB_PAGE_SIZE);
	return r;
}

/* Lets another worker take events: this one is about to wait, or has a queue before it. */
static void hand_over(struct ob_worker *worker)
{
	if (worker->holds_events)
		pthread_mutex_unlock(&worker->engine->event_lock);
	worker->holds_events = 0;
}

/* With the worker's own buffer. */
static int fill(struct ob_worker *worker, struct ob_place *place, unsigned window, uint64_t *ret_fetched_ns)
{
	/* A shared page is copied from where it lies. */
	if (ob_page_state(*ob_place_word(place, place->page)) != OB_PAGE_SHARED)
		ob_buffer_touch(worker->engine, &worker->touched, OB_MIN(window, OB_FILL_MAX));
	return ob_fault_fill(worker->engine, place, place->page, window, worker->buffer, ret_fetched_ns);
}

static int serve_away(struct ob_worker *worker, struct ob_place *place, struct ob_pending *fault, uint64_t locked_ns)
{
	struct ob_engine *engine = worker->engine;
	enum ob_page_state state = ob_page_state(*ob_place_word(place, place->page));
	int is_swapped = state == OB_PAGE_SWAPPED;
	unsigned window = ob_fault_window(engine, place, 1);
	uint64_t fetched_ns = locked_ns;
	int r;

	if (state == OB_PAGE_SHARED && !fault->is_write && ob_mapped_read(engine, place)) {
		ob_count(engine, faults_shared, 1);
		ob_fault_served(engine, OB_HIST_shared, fault, locked_ns, locked_ns);
		return 0;
	}
	r = is_swapped ? ob_read_start(engine, place, window, fault, locked_ns) : 1;

	if (r == 1) {
		if (is_swapped)
			hand_over(worker);
		r = fill(worker, place, window, &fetched_ns);
		if (is_swapped)
			ob_read_note(engine, fetched_ns - locked_ns);
	}
	else if (r == 0)
		return UNDER_WAY;
	if (r == -EALREADY)
		return 0;
	if (r < 0)
		return r;
	ob_count(engine, faults_swapped, is_swapped);
	ob_count(engine, faults_compressed, state == OB_PAGE_COMPRESSED);
	ob_count(engine, faults_shared, state == OB_PAGE_SHARED);
	if (state == OB_PAGE_SHARED && !fault->is_write)
		ob_mapped_note_read(place->chunk);
	ob_fault_served(engine,
			is_swapped ? OB_HIST_swapped : state == OB_PAGE_SHARED ? OB_HIST_shared : OB_HIST_compressed,
			fault, locked_ns, fetched_ns);
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

/*
 * Somebody writes a page that is mapped. It becomes a cold share, and is filled like one; when that fails he is woken all the same, and
 * waits for the page like everybody else.
 */
static int serve_written(struct ob_worker *worker, struct ob_place *place, struct ob_pending *fault, uint64_t locked_ns)
{
	struct ob_engine *engine = worker->engine;
	unsigned window = ob_fault_window(engine, place, 1);
	uint64_t fetched_ns = locked_ns;
	int r = ob_mapped_break(engine, place, window);

	if (r < 0)
		return r;
	if (fill(worker, place, window, &fetched_ns) == 0) {
		ob_count(engine, faults_shared, 1);
		ob_fault_served(engine, OB_HIST_shared, fault, locked_ns, fetched_ns);
	}
	ob_mapped_wake(engine, place);
	return 0;
}

static int serve_locked(struct ob_worker *worker, struct ob_place *place, struct ob_pending *fault)
{
	uint64_t locked_ns = ob_now_ns();
	int is_mapped = ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_MAPPED;

	if (is_mapped && fault->of_mapped)
		return serve_written(worker, place, fault, locked_ns);
	/* It has been mapped since it was a hole; or is not mapped any more. */
	if (is_mapped || fault->of_mapped) {
		ob_count(worker->engine, faults_spurious, 1);
		wake_fault(worker->engine, fault);
		return 0;
	}
	if (place->chunk->open) {
		wake_page(worker->engine, place, place->page);
		return 0;
	}
	switch (ob_page_state(*ob_place_word(place, place->page))) {
	case OB_PAGE_ABSENT:
	case OB_PAGE_BALLOONED:
	case OB_PAGE_ZERO:
		return serve_zero(worker->engine, place, fault, locked_ns);
	case OB_PAGE_BENCHED:
		return serve_benched(worker->engine, place, fault, locked_ns);
	case OB_PAGE_COMPRESSED:
	case OB_PAGE_SWAPPED:
	case OB_PAGE_SHARED:
		return serve_away(worker, place, fault, locked_ns);
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
	const char *why = strerrordesc_np(-r); /* strerror_r() looks for a translation, and allocates for that */

	pthread_mutex_lock(&engine->unreadable_lock);
	snprintf(engine->unreadable_cause, sizeof(engine->unreadable_cause), "the guest's page at host address %#llx cannot be %s: %s",
		 (unsigned long long)address, is_read_error(r) ? "read back" : "put in place by the kernel",
		 r == -EBADMSG ? "what was kept of it is not what was stored" : why ? why : "unknown error");
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

void ob_fault_queue(struct ob_engine *engine, struct ob_pending *fault)
{
	int full;

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
		wake_fault(engine, fault);
	}
}

void ob_fault_defer(struct ob_engine *engine, struct ob_pending *fault, int r)
{
	uint64_t now = ob_now_ns();

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
	ob_fault_queue(engine, fault);
	ob_reclaim_kick(engine);
}

void ob_fault_answered(struct ob_engine *engine, struct ob_pending *fault)
{
	set_unreadable(engine, fault, 0);
	if (fault->stalled)
		ob_count(engine, stall_ns, ob_now_ns() - fault->arrived_ns);
}

static void settle_reads(struct ob_engine *engine, struct ob_read_run *ended)
{
	while (ended) {
		struct ob_read_run *run = ended;

		ended = run->next;
		ob_read_settle(engine, run);
	}
}

/*
 * A read has been started. Where all faults come from one thread, which waits for this one, and the store answers quickly, it may
 * as well be waited for: to be told of its end would cost two more switches. But not long: others may fault meanwhile.
 */
static void wait_briefly(struct ob_worker *worker)
{
	struct ob_engine *engine = worker->engine;

	if (!worker->holds_events || !ob_load(&engine->follow.is_led) || ob_load(&engine->read_ns) > QUICK_READ_NS)
		return;
	ob_swap_wait_quietly(engine->read_queue, ob_follow_spin_ns(engine), PATIENCE_NS);
	settle_reads(engine, ob_reads_ended(engine));
}

static void serve(struct ob_worker *worker, struct ob_pending *fault)
{
	struct ob_engine *engine = worker->engine;
	struct ob_place place;
	int r;

	pthread_rwlock_rdlock(&engine->regions_lock);
	r = ob_place_find(engine, fault->address, &place);
	if (r < 0) {
		wake_fault(engine, fault);
		r = 0;
	} else {
		if (!ob_chunk_try_lock(place.chunk)) {
			hand_over(worker);
			ob_chunk_lock(place.chunk);
		}
		r = serve_locked(worker, &place, fault);
		ob_chunk_unlock(place.chunk);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	if (r < 0) {
		ob_fault_defer(engine, fault, r);
		return;
	}
	if (r == UNDER_WAY) {
		wait_briefly(worker);
		return;
	}
	ob_fault_answered(engine, fault);
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

/* What a worker has to do. */
struct work {
	struct ob_uffd_fault faults[EVENTS_MAX];
	int count;             /* of faults; -1: the engine stops */
	struct ob_read_run *ended; /* reads from the store */
};

/* Looks for work without sleeping. Returns whether there is some. */
static int look(struct ob_engine *engine, struct work *work)
{
	int n = ob_uffd_read(engine->uffd, work->faults, EVENTS_MAX);

	work->count = OB_MAX(n, 0);
	work->ended = ob_reads_ended(engine);
	return work->count || work->ended;
}

/* Waits for events, for reads that end, or for room. event_lock is held. */
static void wait_for_work(struct ob_worker *worker, struct work *work)
{
	struct ob_engine *engine = worker->engine;
	struct pollfd fds[] = {
		{ .fd = engine->uffd, .events = POLLIN },
		{ .fd = engine->room_event, .events = POLLIN },
		{ .fd = engine->stop_event, .events = POLLIN },
		{ .fd = engine->read_queue ? ob_swap_queue_event(engine->read_queue) : -1, .events = POLLIN },
	};
	uint64_t drained;

	/* A single thread that has just been answered must run before it can fault again. */
	if (!engine->follow.is_led && look(engine, work))
		return;
	if (poll(fds, OB_ARRAY_LEN(fds), ob_follow_patience_ms(engine)) < 0)
		return;
	if (fds[2].revents) {
		work->count = -1;
		return;
	}
	if (fds[1].revents && read(engine->room_event, &drained, sizeof(drained)) < 0 && errno != EAGAIN)
		return;
	if (fds[3].revents)
		ob_swap_queue_reset_event(engine->read_queue);
	look(engine, work);
}

void *ob_fault_thread(void *context)
{
	struct ob_worker *worker = context;
	struct ob_engine *engine = worker->engine;
	struct work work = { .count = 0 };

	prctl(PR_SET_NAME, "overbook-fault");
	/* A virtual processor waits meanwhile. Where it is denied, it waits longer at times. */
	(void)!ob_cpu_short_turns();
	ob_follow_start(worker);
	while (work.count >= 0) {
		uint64_t now;

		work.count = 0;
		work.ended = NULL;
		if (!worker->holds_events)
			pthread_mutex_lock(&engine->event_lock);
		worker->holds_events = 1;
		wait_for_work(worker, &work);
		now = ob_now_ns();
		ob_follow_note(worker, work.faults, work.count);
		if (work.count > 1)
			hand_over(worker);
		settle_reads(engine, work.ended);
		for (int i = 0; i < work.count; i++) {
			struct ob_pending fault = { .address = work.faults[i].address, .is_write = work.faults[i].is_write, .arrived_ns = now };

			serve(worker, &fault);
		}
		if (ob_load(&engine->pending_count))
			serve_pending(worker);
		if (work.count >= 0)
			ob_follow(worker, now);
	}
	hand_over(worker);
	return NULL;
}
