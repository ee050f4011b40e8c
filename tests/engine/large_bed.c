/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "large_bed.h"

#include <pthread.h>

#include "account.h"
#include "engine/internal.h"

int large_set_up(void **state)
{
	bed_scan_cold_ms = LARGE_COLD_MS;
	share_make(0, 1, 1000);
	bed_scan_cold_ms = 0;
	return 0;
}

struct ob_large_orders large_orders(enum ob_large_policy policy, enum ob_large_state state, unsigned hot, unsigned cold)
{
	return (struct ob_large_orders){
		.policy = policy, .state = state, .hot_pages = (uint16_t)hot, .cold_pages = (uint16_t)cold,
		.may_make = state == OB_LARGE_HIGH && policy != OB_LARGE_OFF, .scan_rate = 2048, .break_rate = 512,
		.collapse_rate = state == OB_LARGE_HIGH ? 64 : 0,
	};
}

void large_order(enum ob_large_state state, unsigned hot, unsigned cold)
{
	const struct ob_large_orders orders = large_orders(OB_LARGE_PROACTIVE, state, hot, cold);

	ob_engine_large(bed->engine, &orders);
}

uint64_t large_in(unsigned first, unsigned count)
{
	uint64_t bytes = 0;

	for (unsigned i = first; i < first + count; i++) {
		struct account_mapping mapping;

		assert_int_equal(account_mapping(ram[i]->base, RAM_MIB * OB_MIB, &mapping), 0);
		bytes += mapping.huge_bytes;
	}
	return bytes;
}

void large_write_different(void)
{
	share_write_different();
	if (large_in(0, RAMS) < RAMS * RAM_MIB * OB_MIB / 2) {
		print_message("# the kernel has made no large pages here\n");
		skip();
	}
}

void large_write_equal(unsigned equal)
{
	large_write_different();
	for (uint32_t page = 0; page < RAM_PAGES; page++)
		for (unsigned i = 0; page % OB_CHUNK_PAGES < equal && i < RAMS; i++)
			ram_write_twin(ram[i], page, 4 * RAM_PAGES + page % OB_CHUNK_PAGES);
}

/* --- a guest that uses its memory --- */

static struct {
	pthread_t thread;
	unsigned region, stride, spared;
	int is_running, stop;
	uintptr_t wrong;
} user;

/* Reads every stride'th page of a region, or of all (RAMS), again and again, but for the first ones of each chunk that are spared. */
static void *use(void *context)
{
	while (!ob_load(&user.stop))
		for (uint32_t page = 5; page < RAM_PAGES && !ob_load(&user.stop); page += user.stride) {
			if (page % OB_CHUNK_PAGES < user.spared)
				continue;
			for (unsigned i = 0; i < RAMS; i++) {
				if (user.region < RAMS && user.region != i)
					continue;
				ram_lock_range(ram[i], page, 1);
				user.wrong |= ram_check(ram[i], page) != 0;
				ram_unlock_range(ram[i], page, 1);
			}
		}
	return NULL;
}

void large_begin_use_but(unsigned region, unsigned stride, unsigned spared)
{
	user.region = region;
	user.stride = stride;
	user.spared = spared;
	user.stop = 0;
	user.wrong = 0;
	user.is_running = 1;
	assert_int_equal(pthread_create(&user.thread, NULL, use, NULL), 0);
}

void large_begin_use(unsigned region, unsigned stride)
{
	large_begin_use_but(region, stride, 0);
}

static void stop_user(void)
{
	ob_store(&user.stop, 1);
	if (user.is_running)
		pthread_join(user.thread, NULL);
	user.is_running = 0;
}

void large_end_use(void)
{
	stop_user();
	assert_int_equal(user.wrong, 0);
}

int large_tear_down(void **state)
{
	stop_user();
	return share_tear_down(state);
}

int large_were_kept(void *context)
{
	return bed_stats(bed).large_kept_chunks >= *(const uint64_t *)context;
}

void large_wait_kept(uint64_t more)
{
	uint64_t goal = bed_stats(bed).large_kept_chunks + more;

	bed_assert_ok(bed, account_wait(large_were_kept, &goal, HANG_MS));
}

static int so_much_is_saved(void *context)
{
	struct ob_stats stats = bed_stats(bed);

	return stats.shared_bytes + stats.zero_bytes >= *(const uint64_t *)context;
}

void large_wait_saved(uint64_t bytes)
{
	bed_assert_ok(bed, account_wait(so_much_is_saved, &bytes, HANG_MS));
}

int large_went_round(void *context)
{
	return ob_load(&bed->engine->scan.round) >= *(const uint64_t *)context;
}

void large_break_region(unsigned i)
{
	for (uint32_t c = 0; c < CHUNKS; c++) {
		struct ob_place place;

		pthread_rwlock_rdlock(&bed->engine->regions_lock);
		ob_place_chunk(bed->engine, i, c, &place);
		ob_chunk_lock(place.chunk);
		if (!place.chunk->open || ob_chunk_track(bed->engine, &place) == 0) {
			ob_lift_chunk(bed->engine, &place);
			if (place.chunk->count[OB_PAGE_BENCHED] == OB_CHUNK_PAGES)
				ob_lift_return(bed->engine, &place, place.chunk_first, 8);
			ob_lift_return_all(bed->engine, &place);
		}
		ob_chunk_unlock(place.chunk);
		pthread_rwlock_unlock(&bed->engine->regions_lock);
	}
}
