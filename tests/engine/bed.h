/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bed of an engine test: an engine with a swap store in a temporary directory, and what it reported.
 *
 * OVERBOOK_TEST_LONG=1 makes tests long, OVERBOOK_TEST_SHORT=1 makes them shorter than usual (sanitizers are slow);
 * OVERBOOK_TEST_DIR says where files go (default: TMPDIR, else /var/tmp, since /tmp is often without direct I/O).
 */
#ifndef OB_TESTS_ENGINE_BED_H
#define OB_TESTS_ENGINE_BED_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/units.h"
#include "engine/engine.h"

#define MIB_PAGES     256u   /* pages a MiB */
#define HANG_MS       30000u /* a guest that makes no progress for so long hangs */
#define BED_NO_SAMPLES (24u * 3600 * 1000) /* for bed_active_watch_ms: nothing is lifted for a sample */

/* Sanitizers keep shadows of memory in the process: what it holds says little about the engine then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BED_SANITIZED 1
#else
#define BED_SANITIZED 0
#endif

struct bed {
	struct ob_engine *engine;
	struct ob_error err;
	char swap_dir[512];
	pthread_mutex_t lock;      /* the rest */
	unsigned unreadable_count; /* causes reported */
	unsigned readable_count;   /* reports that it was read at last */
	char cause[256];           /* the first */
};

/* Starts an engine; swap says whether it gets a store. Asserts inside a cmocka test; see bed_try for the rest. */
struct bed *bed_new(uint64_t limit_bytes, int swap);

/* The same without asserting: returns what ob_engine_create() said, *ret_bed being there in either case. */
int bed_try(uint64_t limit_bytes, const char *swap_dir, struct bed **ret_bed);
void bed_free(struct bed *bed);

/* For engines that are made from now on: how long the scanner watches a chunk; 0: as always. */
extern unsigned bed_scan_cold_ms;
/* The same: for how long a page is watched for whether it is used. */
extern unsigned bed_active_watch_ms;
/* The same: whether shared pages may be mapped, and how (ob_engine_config). */
extern int bed_map_shared;
extern unsigned bed_map_run_pages, bed_map_mappings;
/* The same: whether there are to be no new large pages. */
extern int bed_no_large;

const char *bed_dir(void);

/* Chooses by how long tests are meant to be. */
uint64_t bed_scale(uint64_t short_value, uint64_t value, uint64_t long_value);

struct ob_stats bed_stats(struct bed *bed);

/* The states' bytes must sum to the RAM. Exact when nothing runs. */
uint64_t bed_states_bytes(const struct ob_stats *stats);

/* Waits until the cost is at or below the limit, by the engine's counters and by the kernel's. Returns 0 or -ETIMEDOUT. */
int bed_wait_limit_kept(struct bed *bed, unsigned timeout_ms) OB_MUST_CHECK;

/* Fails the test with text unless r is 0; also tells of wrong bytes. */
#define bed_assert_ok(bed, r) bed_assert_ok_at((bed), (r), #r, __FILE__, __LINE__)
void bed_assert_ok_at(struct bed *bed, int r, const char *what, const char *file, int line);

#endif
