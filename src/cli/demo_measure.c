/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the machines cost, measured twice over.
 *
 * The engine's own figures come from overbookd and are for the table. The cost that the demo is judged by comes from the
 * kernel: the Pss, in /proc/PID/smaps, of the mappings that overlap the ranges which the agent names (guest RAM, bench,
 * pool, tables). A mapping that is larger than its range counts whole, so the figure errs upwards. Reading stops behind
 * the last range, so that the libraries above are not walked.
 *
 * Walking all that takes about 5 ms a machine, too much for many times a second beside the guests. So a thread looks
 * every 90 ms how many pages of the ranges are there at all (PAGEMAP_SCAN of /proc/PID/pagemap: page tables again, no
 * counters of ours). Pss is never more than that. Only when this bound lies above the highest Pss seen so far, and every
 * two seconds anyway, smaps is read. The peak is thus the one that reading it every time would have found.
 *
 * The thread reports the longest pause that it really made and the processor time it took. A machine is
 * counted from the moment overbookd knows its ranges; until then its memory is a few pages of firmware, and the main
 * thread asks for them ten times a second.
 *
 * One lock guards the targets and the results; it is never held while a file is read.
 */
#include "cli/demo.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/client.h"
#include "kern/pagemap.h"

#define SAMPLE_NS (90 * OB_NS_PER_MS)
#define WALK_NS   (2 * OB_NS_PER_SEC)

struct target {
	pid_t pid;
	unsigned ranges;
	struct ob_wire_range range[OB_WIRE_RANGES_MAX];
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t stop_cond;
	pthread_t thread;
	int running, stop;
	unsigned machines;
	struct target target[DEMO_MACHINES_MAX];
	uint64_t store_bytes; /* of pages that the machines share: in overbookd, by its own account */
	struct demo_cost cost;
} sampler = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* A reader of lines over a file descriptor; smaps is too long to be read at once. */
struct reader {
	int fd;
	size_t at, end;
	char buf[16384];
};

/* Returns the next line without its newline, or NULL at the end. It lives until the next call. */
static char *next_line(struct reader *r)
{
	for (;;) {
		char *newline = memchr(r->buf + r->at, '\n', r->end - r->at);
		ssize_t n;

		if (newline) {
			char *line = r->buf + r->at;

			*newline = 0;
			r->at = (size_t)(newline - r->buf) + 1;
			return line;
		}
		memmove(r->buf, r->buf + r->at, r->end - r->at);
		r->end -= r->at;
		r->at = 0;
		if (r->end == sizeof(r->buf))
			return NULL;
		n = read(r->fd, r->buf + r->end, sizeof(r->buf) - r->end);
		if (n <= 0)
			return NULL;
		r->end += (size_t)n;
	}
}

static int overlaps(const struct target *target, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < target->ranges; i++)
		if (start < target->range[i].end && end > target->range[i].start)
			return 1;
	return 0;
}

/* Bytes of the target's ranges that have a page at all: never less than their Pss. UINT64_MAX when that cannot be told. */
static uint64_t bound(const struct target *target)
{
	uint64_t total = 0, pages;
	char path[64];
	OB_FD int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)target->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ESRCH ? 0 : UINT64_MAX;
	for (unsigned i = 0; i < target->ranges; i++) {
		uint64_t start = target->range[i].start & ~4095ull, end = (target->range[i].end + 4095) & ~4095ull;

		if (ob_pagemap_count(fd, start, end - start, &pages) < 0)
			return UINT64_MAX;
		total += pages * 4096;
	}
	return total;
}

/* The Pss of the target's ranges; 0 when the process has gone. */
static uint64_t measure(const struct target *target)
{
	uint64_t last = 0, total = 0;
	char path[64], *line;
	struct reader reader;
	int counts = 0;

	for (unsigned i = 0; i < target->ranges; i++)
		last = OB_MAX(last, target->range[i].end);
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)target->pid);
	reader.at = reader.end = 0;
	reader.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (reader.fd < 0)
		return 0;
	while ((line = next_line(&reader))) {
		/* "7f..-7f.. rw-p ..." opens a mapping; its fields follow, and start with a capital. */
		if (line[0] >= 'A' && line[0] <= 'Z') {
			if (counts && !strncmp(line, "Pss:", 4))
				total += strtoull(line + 4, NULL, 10) * 1024;
		} else {
			char *dash;
			uint64_t start = strtoull(line, &dash, 16);

			if (*dash != '-' || start >= last)
				break;
			counts = overlaps(target, start, strtoull(dash + 1, NULL, 16));
		}
	}
	close(reader.fd);
	return total;
}

/* Measures every target by one of the two ways. Returns the sum, UINT64_MAX when one could not be told. */
static uint64_t measure_all(uint64_t (*one)(const struct target *target), const struct target *targets, unsigned n, uint64_t *bytes)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++) {
		bytes[i] = targets[i].ranges ? one(&targets[i]) : 0;
		if (bytes[i] == UINT64_MAX)
			return UINT64_MAX;
		sum += bytes[i];
	}
	return sum;
}

static void take_sample(uint64_t *last_ns, uint64_t *walk_ns)
{
	static struct target targets[DEMO_MACHINES_MAX];
	uint64_t bytes[DEMO_MACHINES_MAX], sum, now_ns = ob_now_ns(), peak;
	unsigned machines, any = 0, walked = 0;
	uint64_t store;

	pthread_mutex_lock(&sampler.lock);
	machines = sampler.machines;
	store = sampler.store_bytes;
	peak = sampler.cost.peak_bytes;
	memcpy(targets, sampler.target, sizeof(targets[0]) * machines);
	pthread_mutex_unlock(&sampler.lock);
	for (unsigned i = 0; i < machines; i++)
		any |= targets[i].ranges;
	if (!any)
		return;
	sum = measure_all(bound, targets, machines, bytes) + store;
	if (sum > peak || now_ns >= *walk_ns) {
		sum = measure_all(measure, targets, machines, bytes) + store;
		*walk_ns = now_ns + WALK_NS;
		walked = 1;
	}
	pthread_mutex_lock(&sampler.lock);
	memcpy(sampler.cost.machine_bytes, bytes, sizeof(bytes[0]) * machines);
	sampler.cost.now_bytes = sum;
	if (walked)
		sampler.cost.peak_bytes = OB_MAX(sampler.cost.peak_bytes, sum);
	sampler.cost.walks += walked;
	if (sampler.cost.samples++) {
		sampler.cost.longest_gap_ns = OB_MAX(sampler.cost.longest_gap_ns, now_ns - *last_ns);
		sampler.cost.seconds += (double)(now_ns - *last_ns) / 1e9;
	}
	sampler.cost.cpu_ns = ob_thread_cpu_ns();
	pthread_mutex_unlock(&sampler.lock);
	*last_ns = now_ns;
}

static void *sampler_main(void *context)
{
	uint64_t next_ns = ob_now_ns(), last_ns = next_ns, walk_ns = next_ns;

	/* Guests keep every processor busy, and a sampler that is late sees less. Ordinary users may not; they get what comes. */
	(void)pthread_setschedparam(pthread_self(), SCHED_RR, &(struct sched_param){ .sched_priority = 1 });
	pthread_mutex_lock(&sampler.lock);
	while (!sampler.stop) {
		struct timespec ts;

		pthread_mutex_unlock(&sampler.lock);
		take_sample(&last_ns, &walk_ns);
		next_ns = OB_MAX(next_ns + SAMPLE_NS, ob_now_ns());
		ts.tv_sec = (time_t)(next_ns / OB_NS_PER_SEC);
		ts.tv_nsec = (long)(next_ns % OB_NS_PER_SEC);
		pthread_mutex_lock(&sampler.lock);
		while (!sampler.stop && ob_now_ns() < next_ns)
			if (pthread_cond_timedwait(&sampler.stop_cond, &sampler.lock, &ts))
				break;
	}
	pthread_mutex_unlock(&sampler.lock);
	return NULL;
}

int demo_sampler_start(struct demo *demo, struct ob_error *err)
{
	pthread_condattr_t attr;
	int r;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&sampler.stop_cond, &attr);
	pthread_condattr_destroy(&attr);
	sampler.machines = demo->options.machines;
	r = pthread_create(&sampler.thread, NULL, sampler_main, NULL);
	if (r)
		return ob_error_sys(err, r, "cannot start the thread that measures");
	sampler.running = 1;
	return 0;
}

void demo_sampler_read(struct demo_cost *ret_cost)
{
	pthread_mutex_lock(&sampler.lock);
	*ret_cost = sampler.cost;
	pthread_mutex_unlock(&sampler.lock);
}

void demo_sampler_stop(void)
{
	if (!sampler.running)
		return;
	pthread_mutex_lock(&sampler.lock);
	sampler.stop = 1;
	pthread_cond_signal(&sampler.stop_cond);
	pthread_mutex_unlock(&sampler.lock);
	pthread_join(sampler.thread, NULL);
	sampler.running = 0;
}

static uint64_t member(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

static void read_stats(struct ob_stats *stats, const json_t *object)
{
#define X(name, kind, help) stats->name = member(object, #name);
	OB_STATS(X)
#undef X
}

static void read_hist(uint64_t *buckets, const json_t *object)
{
	const json_t *list = json_object_get(object, "buckets");

	for (size_t i = 0; i < OB_HIST_BUCKETS; i++)
		buckets[i] = (uint64_t)json_integer_value(json_array_get(list, i));
}

static void read_ranges(unsigned index, pid_t pid, const json_t *list)
{
	struct target target = { .pid = pid };
	size_t i;
	json_t *item;

	json_array_foreach(list, i, item) {
		struct ob_wire_range range = { .start = member(item, "start"), .end = member(item, "end") };

		if (target.ranges < OB_WIRE_RANGES_MAX && range.start < range.end)
			target.range[target.ranges++] = range;
	}
	pthread_mutex_lock(&sampler.lock);
	sampler.target[index] = target;
	pthread_mutex_unlock(&sampler.lock);
}

static uint64_t all_faults(const struct ob_stats *s)
{
	return s->faults_touch + s->faults_open + s->faults_bench + s->faults_zero + s->faults_compressed + s->faults_swapped +
	       s->faults_shared;
}

static void fetch_machine(struct demo *demo, unsigned index)
{
	struct demo_machine *machine = &demo->machine[index];
	json_t *answer = NULL, *latency;
	struct ob_error err = { 0 };
	uint64_t now_ns;
	const char *cause;

	if (ob_client_call("stats", json_pack("{s:s}", "name", machine->name), NULL, NULL, &answer, &err) < 0)
		return; /* not there yet, or gone: its process and its console tell */
	now_ns = ob_now_ns();
	read_stats(&machine->stats, json_object_get(answer, "stats"));
	latency = json_object_get(answer, "fault_latency");
#define X(name) read_hist(machine->hists.count[OB_HIST_##name], json_object_get(latency, #name));
	OB_HISTS(X)
#undef X
	read_ranges(index, machine->pid, json_object_get(answer, "ranges"));
	machine->known = json_array_size(json_object_get(answer, "ranges")) > 0;
	if (machine->faults_before_ns && now_ns > machine->faults_before_ns + 200 * OB_NS_PER_MS) {
		uint64_t faults = all_faults(&machine->stats);

		machine->faults_per_second = faults < machine->faults_before ? 0 :
			(faults - machine->faults_before) * OB_NS_PER_SEC / (now_ns - machine->faults_before_ns);
	}
	machine->faults_before = all_faults(&machine->stats);
	machine->faults_before_ns = now_ns;
	cause = json_string_value(json_object_get(answer, "cause"));
	if ((machine->stats.degraded & OB_DEGRADED_STOPPED) && !machine->stopped_by_agent) {
		machine->stopped_by_agent = 1;
		demo_failed(demo, "machine %s has been stopped: %.300s", machine->name, cause ? cause : "a page cannot be read back");
	}
	json_decref(answer);
}

/* What the machines have in common lies in overbookd, and counts in what they cost together. */
static void fetch_share(struct demo *demo)
{
	json_t *answer = NULL, *domain;
	struct ob_error err = { 0 };
	uint64_t saved = 0;
	size_t i;

	if (ob_client_call("share", NULL, NULL, NULL, &answer, &err) < 0)
		return;
	json_array_foreach(json_object_get(answer, "domains"), i, domain)
		saved += ob_client_number(domain, "saved_bytes");
	pthread_mutex_lock(&sampler.lock);
	sampler.store_bytes = ob_client_number(answer, "store_bytes");
	pthread_mutex_unlock(&sampler.lock);
	if (!demo->summed) {
		demo->share_saved_bytes = saved;
		demo->share_store_bytes = ob_client_number(answer, "store_bytes");
	}
	json_decref(answer);
}

void demo_fetch_figures(struct demo *demo)
{
	int all_known = 1;

	for (unsigned i = 0; i < demo->machines; i++) {
		if (demo->machine[i].pid > 0)
			fetch_machine(demo, i);
		all_known &= demo->machine[i].known;
	}
	fetch_share(demo);
	demo->figures_ns = ob_now_ns() + (all_known && demo->machines ? OB_NS_PER_SEC : 100 * OB_NS_PER_MS);
	demo_sampler_read(&demo->cost);
}

void demo_sum_figures(struct demo *demo)
{
	uint64_t buckets[OB_HIST_BUCKETS] = { 0 };

	memset(&demo->at_end, 0, sizeof(demo->at_end));
	demo->faults = 0;
	demo->summed = 1;
	for (unsigned i = 0; i < demo->machines; i++) {
		const struct demo_machine *machine = &demo->machine[i];

#define X(name, kind, help) demo->at_end.name += machine->stats.name;
		OB_STATS(X)
#undef X
		demo->faults += all_faults(&machine->stats);
		for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
			for (unsigned b = 0; b < OB_HIST_BUCKETS; b++)
				buckets[b] += machine->hists.count[kind][b];
	}
	demo->fault_us_p50 = ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.50) / 1000;
	demo->fault_us_p99 = ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.99) / 1000;
}
