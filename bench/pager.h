/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager: a plain process that plays the guest of bench/paging and bench/reclaim. pager.c has the theory of operation.
 */
#ifndef OB_BENCH_PAGER_H
#define OB_BENCH_PAGER_H

#include <stdint.h>
#include <sys/resource.h>

#include "base/error.h"
#include "engine/engine.h"
#include "pager_content.h"

#define PAGER_THREADS_MAX 16
#define PAGER_SUBBUCKETS  16u /* of an octave: a bucket is at most 6.25% wide */
#define PAGER_BUCKETS     (64u * PAGER_SUBBUCKETS)

enum pager_by { PAGER_BY_NOTHING, PAGER_BY_KERNEL, PAGER_BY_ENGINE };
enum pager_pattern { PAGER_RANDOM, PAGER_ZIPF, PAGER_SEQUENTIAL, PAGER_PHASE };

struct pager_options {
	enum pager_by by;
	enum pager_content content;
	enum pager_pattern pattern;
	uint64_t size_bytes, limit_bytes, window_bytes, fill_rate_bytes; /* 0: none, none, chosen, unlimited */
	uint64_t ops, warmup_ops, phase_ops;                             /* of all threads; 0: by time, by time, chosen */
	double seconds, warmup_seconds;
	unsigned threads, write_percent;
	uint64_t seed;
	const char *swap_dir, *cgroup;
	int small_pages, measure_reclaim, verify, guest;
};

/* The memory, and what each page must hold. */
struct pager {
	const struct pager_options *options;
	struct ob_engine *engine;
	uint8_t *base;
	uint32_t pages;
	uint32_t *versions;
	uint32_t *order; /* zipf: which page has which rank */
	double ns_per_tick;
};

/* What one thread saw in a stage. Times in ticks of the processor's counter. */
struct pager_tally {
	uint64_t ops, faults;                   /* all, the faults by the kernel's count */
	uint64_t timed_faults, fault_max_ticks; /* of those accesses that were timed */
	uint64_t fault_buckets[PAGER_BUCKETS], access_buckets[PAGER_BUCKETS];
};

struct pager_stage {
	uint64_t ops; /* 0: until seconds have passed */
	double seconds;
	struct pager_tally tally;                 /* out: the sum over all threads */
	double wall_seconds, user_seconds, system_seconds; /* out */
};

/* pager_memory.c. All return 0 or -errno with the cause. */
int pager_memory_open(struct pager *pager, struct ob_error *err) OB_MUST_CHECK;
int pager_memory_fill(struct pager *pager, struct ob_error *err) OB_MUST_CHECK;
int pager_memory_verify(struct pager *pager, struct ob_error *err) OB_MUST_CHECK;

struct pager_reclaim {
	uint64_t before_bytes, after_bytes; /* engine: the cost; kernel: the group's usage */
	uint64_t pool_growth_bytes;         /* kernel: zswap's pool of the whole host, which version 1 charges to nobody */
	double wall_seconds, user_seconds, system_seconds;
	unsigned attempts; /* writes to the kernel's file until it was there */
};
int pager_memory_reclaim(struct pager *pager, struct pager_reclaim *ret, struct ob_error *err) OB_MUST_CHECK;

/* By kernel: what the group is charged now, and what zswap's pool holds, of the whole host. 0 where that cannot be read. */
uint64_t pager_memory_usage_bytes(const struct pager *pager);
uint64_t pager_memory_pool_bytes(void);

static inline uint64_t *pager_stamp_at(const struct pager *pager, uint32_t page)
{
	return (uint64_t *)(void *)(pager->base + (uint64_t)page * PAGER_PAGE) + pager_stamp_word(page);
}

/* Says what was wrong with a page, on stderr, and ends the process with status 2. */
void pager_wrong(const struct pager *pager, uint32_t page, uint64_t seen, uint64_t expected) __attribute__((noreturn));

/* pager_play.c */
struct pager_play;
int pager_play_open(struct pager *pager, struct pager_play **ret_play, struct ob_error *err) OB_MUST_CHECK;
int pager_play_run(struct pager_play *play, struct pager_stage *stage, struct ob_error *err) OB_MUST_CHECK;

/* pager_guest.c: the same by a guest, which fills its memory when it is opened. */
struct pager_guest;
int pager_guest_open(struct pager *pager, struct pager_guest **ret_guest, struct ob_error *err) OB_MUST_CHECK;
int pager_guest_run(struct pager_guest *guest, struct pager_stage *stage, struct ob_error *err) OB_MUST_CHECK;

uint64_t pager_ticks(void);
double pager_seconds_of(const struct timeval *time);

/* The time below which a share (0 to 1) of them lies. */
double pager_quantile_ns(const struct pager *pager, const uint64_t buckets[PAGER_BUCKETS], double share);

#endif
