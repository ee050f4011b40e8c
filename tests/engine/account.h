/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the kernel says about this process; nothing here asks the engine's counters. */
#ifndef OB_TESTS_ENGINE_ACCOUNT_H
#define OB_TESTS_ENGINE_ACCOUNT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

/* The Pss of the mappings that lie in the engine's ranges (guest RAM, bench, pool, tables), in bytes; or -errno. */
int64_t account_pss_bytes(struct ob_engine *engine);

/* Anonymous and shared memory of this process that is in RAM: one figure, taken at once; or -errno. */
int64_t account_rss_bytes(void);

/*
 * AnonHugePages of the mappings in [start, start + length), and whether any of them is registered with userfaultfd, or is one in which the
 * kernel may make no large pages.
 */
struct account_mapping {
	uint64_t huge_bytes, pss_bytes;
	int is_registered, large_forbidden;
	unsigned mappings;
};
int account_mapping(const void *start, size_t length, struct account_mapping *ret_mapping) OB_MUST_CHECK;

/* CPU time of the whole process. */
uint64_t account_cpu_ns(void);

/* Runs until check(context) is true or timeout_ms have passed; looks once a millisecond. Returns 0 or -ETIMEDOUT. */
int account_wait(int (*check)(void *context), void *context, unsigned timeout_ms) OB_MUST_CHECK;

#endif
