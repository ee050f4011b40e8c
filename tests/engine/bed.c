/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "ram.h"

unsigned bed_scan_cold_ms, bed_active_watch_ms, bed_map_run_pages, bed_map_mappings;
int bed_map_shared;
int bed_no_large;

const char *bed_dir(void)
{
	const char *dir = getenv("OVERBOOK_TEST_DIR");

	if (!dir || !*dir)
		dir = getenv("TMPDIR");
	return dir && *dir ? dir : "/var/tmp";
}

uint64_t bed_scale(uint64_t short_value, uint64_t value, uint64_t long_value)
{
	if (getenv("OVERBOOK_TEST_LONG"))
		return long_value;
	return getenv("OVERBOOK_TEST_SHORT") ? short_value : value;
}

static void on_unreadable(void *context, const char *cause)
{
	struct bed *bed = context;

	pthread_mutex_lock(&bed->lock);
	if (!cause) {
		bed->readable_count++;
	} else {
		if (!bed->unreadable_count)
			snprintf(bed->cause, sizeof(bed->cause), "%s", cause);
		bed->unreadable_count++;
	}
	pthread_mutex_unlock(&bed->lock);
}

int bed_try(uint64_t limit_bytes, const char *swap_dir, struct bed **ret_bed)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	struct ob_engine_config config = { .limit_bytes = limit_bytes, .scan_cold_ms = bed_scan_cold_ms,
					   .active_watch_ms = bed_active_watch_ms,
					   .map_shared = bed_map_shared, .map_run_pages = bed_map_run_pages,
					   .map_mappings = bed_map_mappings, .no_large = bed_no_large,
					   .on_unreadable = on_unreadable, .context = bed };

	if (!bed)
		abort();
	pthread_mutex_init(&bed->lock, NULL);
	*ret_bed = bed;
	if (swap_dir) {
		snprintf(bed->swap_dir, sizeof(bed->swap_dir), "%s", swap_dir);
		config.swap_dir = bed->swap_dir;
	}
	return ob_engine_create(&config, &bed->engine, &bed->err);
}

struct bed *bed_new(uint64_t limit_bytes, int swap)
{
	struct bed *bed;
	int r = bed_try(limit_bytes, swap ? bed_dir() : NULL, &bed);

	bed_assert_ok(bed, r);
	assert_non_null(bed->engine);
	return bed;
}

void bed_free(struct bed *bed)
{
	if (!bed)
		return;
	ob_engine_destroy(bed->engine);
	pthread_mutex_destroy(&bed->lock);
	free(bed);
}

struct ob_stats bed_stats(struct bed *bed)
{
	struct ob_engine_stats stats;

	ob_engine_get_stats(bed->engine, &stats);
	return stats.values;
}

uint64_t bed_states_bytes(const struct ob_stats *stats)
{
	return stats->resident_bytes + stats->benched_bytes + stats->zero_bytes + stats->compressed_bytes +
	       stats->swapped_bytes + stats->shared_bytes + stats->ballooned_bytes + stats->pinned_bytes + stats->absent_bytes;
}

static int limit_is_kept(void *context)
{
	struct bed *bed = context;
	struct ob_stats stats = bed_stats(bed);
	int64_t pss;

	if (!stats.limit_bytes)
		return 1;
	if (stats.cost_bytes > stats.limit_bytes)
		return 0;
	pss = account_pss_bytes(bed->engine);
	return pss >= 0 && pss <= (int64_t)stats.limit_bytes;
}

int bed_wait_limit_kept(struct bed *bed, unsigned timeout_ms)
{
	return account_wait(limit_is_kept, bed, timeout_ms);
}

void bed_assert_ok_at(struct bed *bed, int r, const char *what, const char *file, int line)
{
	if (r == 0)
		return;
	print_error("%s: %s%s%s%s%s\n", what, strerror(r < 0 ? -r : r), bed && bed->err.code ? ": " : "",
		    bed && bed->err.code ? bed->err.text : "", *ram_wrong_text() ? "; wrong byte: " : "", ram_wrong_text());
	if (bed && bed->unreadable_count)
		print_error("unreadable: %s\n", bed->cause);
	_assert_int_equal(r, 0, file, line);
}
