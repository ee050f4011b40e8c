/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Workers: threads that each own a contiguous slice of every area, fill it, and then read and rewrite it for the whole
 * run. Nobody else touches a slice, so a page is never compared with a version that is just changing.
 *
 * Which page comes next: an area by turns; in it, `sequential` percent of the steps go on from where the last
 * sequential step ended; of the others `hotness` percent fall into the hot set, `hot` percent of the slice, the rest
 * anywhere. The hot set is contiguous, or every n-th page with `scatter`, and moves on by its size every `drift`
 * seconds. Each step checks the page, and `writes` percent of the steps write its next version.
 *
 * Of anonymous memory that is to be filled in part only, the steps stay in that part, and the hot set is a share of it.
 *
 * The fork area is played differently: twice a second its owner forks a child, which checks the whole slice as it was
 * at the fork, rewrites a third of it and checks that, while the parent goes on rewriting its own copy.
 *
 * Orders come from the reporter: it sets order and amount, then raises the generation; a worker that sees a new
 * generation, or is woken by it, carries the order out on its slices between two steps, adds to the sums and writes to the
 * eventfd. A request is an order for so many steps.
 */
#include "witness.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FORK_INTERVAL_NS 500000000ull
#define BACKLOG_NS       1000000000ull
#define NAP_NS           100000000ull

struct slice {
	struct area *area;
	size_t first, count, held, cursor; /* held: the first so many of them are played with */
};

struct worker {
	pthread_t thread;
	unsigned index, slices, turn;
	uint64_t random, next_ns, drift_ns, fork_ns;
	size_t drifted;
	unsigned generation;
	struct slice slice[AREAS_MAX];
	struct io_buffer *buffers;
};

static struct worker workers[THREADS_MAX];
static _Atomic unsigned workers_filled, order_generation, order_finished;
static _Atomic uint64_t order_pages;
static enum order order_now;
static unsigned order_amount; /* percent; of a request, pages */
static uint64_t order_wrong_before;
static int event_fd = -1;
static pthread_mutex_t wake_lock = PTHREAD_MUTEX_INITIALIZER; /* order_generation is raised under it */
static pthread_cond_t wake;                                  /* it was raised */

static uint64_t draw(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static int percent(struct worker *w, uint64_t of)
{
	return draw(w) % 100 < of;
}

static void tell_reporter(void)
{
	uint64_t one = 1;

	if (write(event_fd, &one, sizeof(one)) < 0)
		report("error what=eventfd errno=%d", errno);
}

static size_t choose_page(struct worker *w, struct slice *s)
{
	size_t hot = s->held * params.hot / 100, page;

	if (percent(w, params.sequential)) {
		s->cursor = (s->cursor + 1) % s->held;
		return s->first + s->cursor;
	}
	if (!hot || !percent(w, params.hotness))
		return s->first + draw(w) % s->held;
	page = draw(w) % hot;
	if (params.scatter)
		page *= s->held / hot;
	return s->first + (page + w->drifted * hot) % s->held;
}

/* In the child: everything of the slice must be as it was at the fork, whatever the parent does meanwhile. */
static void play_child(struct worker *w, struct slice *s)
{
	area_check_pages(s->area, s->first, s->count, w->buffers);
	for (size_t i = 0; i < s->count; i += 3)
		area_write_pages(s->area, s->first + i, 1, w->buffers);
	area_check_pages(s->area, s->first, s->count, w->buffers);
	_exit(0);
}

static void play_fork(struct worker *w, struct slice *s)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		play_child(w, s);
	if (child < 0) {
		atomic_fetch_add(&counters->io_errors, 1);
		report("error what=fork errno=%d", errno);
		return;
	}
	do {
		size_t page = choose_page(w, s);

		area_check_pages(s->area, page, 1, w->buffers);
		area_write_pages(s->area, page, 1, w->buffers);
	} while (waitpid(child, &status, WNOHANG) == 0);
	if (status) {
		atomic_fetch_add(&counters->io_errors, 1);
		report("error what=child status=%d", status);
	}
	atomic_fetch_add(&counters->forks, 1);
}

static void step(struct worker *w)
{
	struct slice *s = &w->slice[w->turn++ % w->slices];
	uint64_t began = now_ns(), took, slowest;
	size_t page;

	if (params.drift && began >= w->drift_ns) {
		w->drifted++;
		w->drift_ns = began + params.drift * 1000000000ull;
	}
	if (s->area->kind == AREA_FORK && began >= w->fork_ns) {
		play_fork(w, s);
		w->fork_ns = now_ns() + FORK_INTERVAL_NS;
		return;
	}
	if (!s->held)
		return;
	page = choose_page(w, s);
	area_check_pages(s->area, page, 1, w->buffers);
	if (percent(w, params.writes))
		area_write_pages(s->area, page, 1, w->buffers);
	took = now_ns() - began;
	slowest = atomic_load(&counters->slowest_ns);
	while (took > slowest && !atomic_compare_exchange_weak(&counters->slowest_ns, &slowest, took))
		;
}

/* How many pages of a slice are held, if a share of anonymous memory is. */
static size_t held_pages(const struct slice *s, uint64_t of_percent)
{
	return area_is_anonymous(s->area) ? s->count * of_percent / 100 : s->count;
}

static void cut_slice(struct worker *w, struct area *area)
{
	struct slice s = { .area = area, .count = area->pages / params.threads };

	s.first = w->index * s.count;
	s.held = held_pages(&s, params.fill);
	if (s.count)
		w->slice[w->slices++] = s;
}

/* Takes its part of the newest area, and fills it. */
static uint64_t grow(struct worker *w)
{
	struct slice *s = &w->slice[w->slices];
	unsigned before = w->slices;

	cut_slice(w, &areas[area_count - 1]);
	if (w->slices == before)
		return 0;
	area_write_pages(s->area, s->first, s->held, w->buffers);
	return s->held;
}

/* Holds another share of anonymous memory than before: writes what is missing, gives back what is too much. */
static uint64_t fill(struct worker *w, struct slice *s)
{
	if (!area_is_anonymous(s->area))
		return 0;
	s->held = held_pages(s, order_amount);
	area_free_pages(s->area, s->first + s->held, s->count - s->held);
	return area_fill_pages(s->area, s->first, s->held, w->buffers);
}

/*
 * Which of two is chance: where it was always the first, a kernel that looks for free pages at each 32nd page of a block
 * (isolate_freepages() of Linux 6.1) found either all of them or none, as they happened to lie.
 */
static uint64_t sieve(struct worker *w, struct slice *s)
{
	uint64_t pages = 0;

	for (size_t i = 0; i + 1 < s->count; i += 2)
		pages += area_free_pages(s->area, s->first + i + draw(w) % 2, 1);
	return pages;
}

/* Flips one bit behind the witness's back: it must find it itself. */
static uint64_t corrupt(struct worker *w)
{
	for (unsigned i = 0; w->index == 0 && i < w->slices; i++) {
		struct slice *s = &w->slice[i];
		size_t page = s->first + draw(w) % s->count;
		unsigned byte = draw(w) % PAGE_BYTES;

		if (!s->area->map)
			continue;
		s->area->map[page * PAGE_BYTES + byte] ^= 1;
		report("corrupted area=%s page=%zu offset=%u", s->area->name, page, byte);
		return 1;
	}
	return 0;
}

/* Plays its part of a request. */
static uint64_t serve(struct worker *w)
{
	uint64_t pages = order_amount / params.threads + (w->index < order_amount % params.threads);

	if (!w->slices)
		return 0;
	for (uint64_t i = 0; i < pages; i++)
		step(w);
	return pages;
}

static uint64_t carry_out_on(struct worker *w, struct slice *s)
{
	size_t part = s->count * order_amount / 100;

	switch (order_now) {
	case ORDER_CHECK:
		area_check_pages(s->area, s->first, s->count, w->buffers);
		return s->count;
	case ORDER_TOUCH:
		area_write_pages(s->area, s->first, s->held, w->buffers);
		return s->held;
	case ORDER_FILL:
		return fill(w, s);
	case ORDER_SIEVE:
		return sieve(w, s);
	case ORDER_FREE:
		return area_free_pages(s->area, s->first + s->count - part, part);
	default:
		return 0;
	}
}

/* Returns whether the worker is to end. */
static int carry_out(struct worker *w)
{
	uint64_t pages = 0;
	int stop = order_now == ORDER_STOP;

	if (order_now == ORDER_CORRUPT)
		pages = corrupt(w);
	if (order_now == ORDER_GROW)
		pages = grow(w);
	if (order_now == ORDER_REQUEST)
		pages = serve(w);
	for (unsigned i = 0; i < w->slices; i++)
		pages += carry_out_on(w, &w->slice[i]);
	atomic_fetch_add(&order_pages, pages);
	atomic_fetch_add(&order_finished, 1);
	tell_reporter();
	return stop;
}

/* Waits until the next step is due, for an order, or for a tenth of a second: another rate is seen within that. Returns whether a step is due. */
static int pace(struct worker *w)
{
	uint64_t rate = atomic_load(&params.rate), now, until;
	struct timespec ts;

	if (rate == RATE_MAX)
		return 1;
	now = now_ns();
	if (rate && now >= w->next_ns) {
		uint64_t from = now > w->next_ns + BACKLOG_NS ? now : w->next_ns;

		w->next_ns = from + 1000000000ull * params.threads / rate;
		return 1;
	}
	until = rate && w->next_ns < now + NAP_NS ? w->next_ns : now + NAP_NS;
	ts.tv_sec = (time_t)(until / 1000000000ull);
	ts.tv_nsec = (long)(until % 1000000000ull);
	pthread_mutex_lock(&wake_lock);
	if (atomic_load(&order_generation) == w->generation)
		pthread_cond_timedwait(&wake, &wake_lock, &ts);
	pthread_mutex_unlock(&wake_lock);
	return 0;
}

static void *worker_main(void *context)
{
	struct worker *w = context;

	for (unsigned i = 0; i < w->slices; i++)
		area_write_pages(w->slice[i].area, w->slice[i].first, w->slice[i].held, w->buffers);
	atomic_fetch_add(&workers_filled, 1);
	tell_reporter();
	for (;;) {
		unsigned generation = atomic_load(&order_generation);

		if (generation != w->generation) {
			w->generation = generation;
			if (carry_out(w))
				return NULL;
		} else if (pace(w) && w->slices) {
			step(w);
		}
	}
}


int workers_start(void)
{
	pthread_condattr_t clock;

	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (event_fd < 0 || pthread_condattr_init(&clock) || pthread_condattr_setclock(&clock, CLOCK_MONOTONIC) || pthread_cond_init(&wake, &clock))
		return -1;
	for (unsigned a = 0; a < area_count; a++)
		if (areas[a].map && areas[a].kind != AREA_FORK && madvise(areas[a].map, areas[a].pages * PAGE_BYTES, MADV_DONTFORK))
			return -1;
	for (unsigned i = 0; i < params.threads; i++) {
		struct worker *w = &workers[i];

		w->index = i;
		w->random = params.mix.seed * 0x9e3779b97f4a7c15ull + i + 1;
		w->buffers = io_buffer_create();
		for (unsigned a = 0; a < area_count; a++)
			cut_slice(w, &areas[a]);
		if (!w->buffers || pthread_create(&w->thread, NULL, worker_main, w))
			return -1;
	}
	return 0;
}

int workers_ready(void)
{
	return atomic_load(&workers_filled) == params.threads;
}

void workers_set_rate(uint64_t pages_a_second)
{
	atomic_store(&params.rate, pages_a_second);
}

int workers_event_fd(void)
{
	return event_fd;
}

void workers_order(enum order order, unsigned amount)
{
	order_now = order;
	order_amount = amount;
	order_wrong_before = atomic_load(&counters->wrong);
	atomic_store(&order_pages, 0);
	atomic_store(&order_finished, 0);
	pthread_mutex_lock(&wake_lock);
	atomic_fetch_add(&order_generation, 1);
	pthread_cond_broadcast(&wake);
	pthread_mutex_unlock(&wake_lock);
}

int workers_order_done(uint64_t *ret_pages, uint64_t *ret_wrong)
{
	if (atomic_load(&order_finished) != params.threads)
		return 0;
	*ret_pages = atomic_load(&order_pages);
	*ret_wrong = atomic_load(&counters->wrong) - order_wrong_before;
	return 1;
}
