/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that were read from a disk image, and pages that overbookd has asked for in vain, are looked at ahead of the scanner's hand, they
 * alone, and no byte is lost by it. The test plays overbookd (keeper.h), and whoever reads: it writes pages and notes them.
 */
#include "share_bed.h"

#include <sys/mman.h>

#include "account.h"
#include "engine/internal.h"
#include "player.h"

#define CHUNKS (RAM_PAGES / OB_CHUNK_PAGES)
#define ALL    (RAMS * RAM_PAGES)
#define HOLES  8u  /* zero pages in each chunk: so that none is a large page */
#define EVERY  96u /* of so many pages one is read from the image */

static int set_up(void **state)
{
	bed_scan_cold_ms = 40;
	share_make(0, 1, 1000);
	bed_scan_cold_ms = 0;
	return 0;
}

/* Pages that nobody else has, and holes. */
static void write_all_different(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % OB_CHUNK_PAGES < HOLES)
				ram_write(ram[i], page, PATTERN_ZERO, 0);
			else
				ram_write_twin(ram[i], page, i * RAM_PAGES + page);
}

static int all_was_looked_at(void *context)
{
	struct ob_stats stats = bed_stats(bed);

	return stats.scan_pages + stats.scan_unwritten_pages >= 2 * ALL;
}

/* As after many rounds in which nothing was found: the hand passes each chunk over in 63 of 64. */
static void let_chunks_rest(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (unsigned c = 0; c < CHUNKS; c++) {
			struct ob_chunk *chunk = &bed->engine->region[i].chunks[c];

			pthread_mutex_lock(&chunk->lock);
			ob_store(&chunk->scan_backoff, 6);
			chunk->heat = 0; /* the scanner was at work while pages were written */
			pthread_mutex_unlock(&chunk->lock);
		}
}

static void wait_until_chunks_rest(void)
{
	bed_assert_ok(bed, account_wait(all_was_looked_at, NULL, HANG_MS));
	let_chunks_rest();
}

/* Rounds of the hand. */
static uint64_t rounds(void)
{
	return ob_load(&bed->engine->scan.round);
}

/* The same pages of both regions get the same new bytes. Returns how many; noted: they come from an image. */
static unsigned read_image(uint32_t first, int noted)
{
	unsigned n = 0;

	for (uint32_t page = first; page < RAM_PAGES; page += EVERY)
		for (unsigned i = 0; i < RAMS; i++, n++) {
			ram_write_twin(ram[i], page, ALL + page);
			if (noted)
				ob_engine_note_image(bed->engine, ram_page(ram[i], page), OB_PAGE_SIZE);
		}
	return n;
}

static int so_much_is_shared(void *context)
{
	return bed_stats(bed).shared_bytes >= *(const uint64_t *)context;
}

/* Returns how many rounds it took. */
static uint64_t wait_shared(uint64_t pages)
{
	uint64_t bytes = pages * OB_PAGE_SIZE, before = rounds();

	bed_assert_ok(bed, account_wait(so_much_is_shared, &bytes, HANG_MS));
	return rounds() - before;
}

/* The hand comes by after 64 rounds at the latest, 32 on average. On a busy host two looks at equal pages can miss each other: then again. */
static void what_was_read_is_shared_ahead_of_the_hand(void **state)
{
	enum { TRIES = 8, SOON = 16 };
	uint64_t took = UINT64_MAX;
	unsigned n = 0;
	struct ob_stats stats;

	write_all_different();
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_until_chunks_rest();
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	for (unsigned i = 0; i < TRIES && took > SOON; i++) {
		let_chunks_rest();
		n += read_image(HOLES + 3 + 8 * i, 1);
		took = wait_shared(n);
		print_message("# %u pages are shared, the last after %llu rounds\n", n, (unsigned long long)took);
	}
	assert_in_range(took, 0, SOON);
	stats = bed_stats(bed);
	assert_int_equal(stats.noted_image_pages, n);
	assert_in_range(stats.noted_scan_pages, 1, 2 * n); /* the hand may have been there before; an equal may be wanted once more */
	assert_in_range(stats.noted_found_pages, 1, stats.noted_scan_pages);
	share_finish();
}

static int all_notes_are_done(void *context)
{
	const struct ob_notes *notes = &bed->engine->share->notes;

	return ob_load(&notes->head) == ob_load(&notes->tail);
}

/* Pages of which nobody has an equal go back as they were. */
static void what_nobody_else_has_read_goes_back(void **state)
{
	uint64_t before;

	write_all_different();
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_until_chunks_rest();
	before = bed_stats(bed).faults_bench; /* the scanner was at work while they were written */
	for (unsigned i = 0; i < RAMS; i++)
		ob_engine_note_image(bed->engine, ram[i]->base, RAM_PAGES * OB_PAGE_SIZE);
	bed_assert_ok(bed, account_wait(all_notes_are_done, NULL, HANG_MS));
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	assert_int_equal(bed_stats(bed).noted_image_pages, ALL);
	assert_true(bed_stats(bed).noted_scan_pages > ALL / 2);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(bed_stats(bed).faults_bench, before);
	share_finish();
}

static uint64_t noted_by(size_t from, size_t length)
{
	uint64_t before = bed_stats(bed).noted_image_pages;

	ob_engine_note_image(bed->engine, ram[0]->base + from, length);
	return bed_stats(bed).noted_image_pages - before;
}

/* With the chunk locked the scanner cannot take them meanwhile. */
static void whole_pages_are_noted_once(void **state)
{
	pthread_mutex_t *locks[] = { &bed->engine->region[0].chunks[0].lock, &bed->engine->region[0].chunks[1].lock };
	size_t chunk = OB_CHUNK_SIZE, end = RAM_PAGES * OB_PAGE_SIZE;

	assert_true(ob_engine_wants_notes(bed->engine));
	for (unsigned i = 0; i < OB_ARRAY_LEN(locks); i++)
		pthread_mutex_lock(locks[i]);
	assert_int_equal(noted_by(0, OB_PAGE_SIZE), 1);
	assert_int_equal(noted_by(0, OB_PAGE_SIZE), 0);
	assert_int_equal(noted_by(5 * OB_PAGE_SIZE + 1, 3 * OB_PAGE_SIZE), 2);
	assert_int_equal(noted_by(5 * OB_PAGE_SIZE, 3 * OB_PAGE_SIZE - 1), 1);
	assert_int_equal(noted_by(20 * OB_PAGE_SIZE + 512, 2048), 0);
	assert_int_equal(noted_by(20 * OB_PAGE_SIZE, 0), 0);
	assert_int_equal(noted_by(62 * OB_PAGE_SIZE, 70 * OB_PAGE_SIZE), 70); /* across words */
	assert_int_equal(noted_by(chunk - OB_PAGE_SIZE, 2 * OB_PAGE_SIZE), 2);
	assert_int_equal(bed->engine->region[0].chunks[1].noted[0], 1);
	for (unsigned i = 0; i < OB_ARRAY_LEN(locks); i++)
		pthread_mutex_unlock(locks[i]);
	assert_int_equal(noted_by(end - OB_PAGE_SIZE, 1 << 20), 1); /* beyond the region there may be another */
	ob_engine_share_off(bed->engine);
	assert_false(ob_engine_wants_notes(bed->engine));
	assert_int_equal(noted_by(2 * chunk, chunk), 0);
	bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 0, NULL, NULL));
	assert_int_equal(noted_by(2 * chunk, chunk), 0); /* nobody scans */
}

#define MANY (3 * (uint64_t)OB_NOTES_MAX * OB_CHUNK_SIZE)

/* What does not fit into the queue is left to the hand, and does no harm; nor does a region that goes with notes about it. */
static void the_queue_is_bounded(void **state)
{
	void *many = mmap(NULL, MANY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	const struct ob_notes *notes;
	unsigned n;

	write_all_different();
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_until_chunks_rest();
	assert_true(many != MAP_FAILED);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, many, MANY, &bed->err));
	notes = &bed->engine->share->notes;
	ob_engine_note_image(bed->engine, many, MANY);
	assert_true(ob_load(&notes->head) - ob_load(&notes->tail) <= OB_NOTES_MAX);
	assert_int_equal(bed_stats(bed).noted_image_pages, MANY / OB_PAGE_SIZE);
	assert_int_equal(ob_engine_remove_region(bed->engine, many), 0);
	assert_int_equal(munmap(many, MANY), 0);
	bed_assert_ok(bed, account_wait(all_notes_are_done, NULL, HANG_MS));
	n = read_image(HOLES + 3, 1);
	wait_shared(n);
	assert_true(bed_stats(bed).noted_scan_pages > 0);
	share_finish();
}

#define WANTED (6 * OB_CHUNK_PAGES + HOLES + 3)

/* Takes offers; returns whether the wanted page was among them. */
static int wanted_is_offered(void *context)
{
	struct ob_share_offer offers[256];
	int *seen = context;
	unsigned n;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			*seen |= offers[i].page == keeper_page(0, WANTED);
	return *seen;
}

static int wanted_is_noted(void *context)
{
	uint8_t bytes[OB_PAGE_SIZE];
	int unused = 0;

	wanted_is_offered(&unused);
	/* Its hash is another; while it is on the bench its bytes can be had. */
	if (ob_engine_share_fetch(bed->engine, keeper_page(0, WANTED), 0, 0, bytes) == 0)
		return 0;
	return bed_stats(bed).noted_wanted_pages > 0;
}

static void what_is_wanted_is_looked_at_ahead_of_the_hand(void **state)
{
	struct ob_stats stats;
	uint64_t start;
	int seen = 0;

	write_all_different();
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_until_chunks_rest();
	keeper_halt(&keeper);
	bed_assert_ok(bed, account_wait(wanted_is_noted, NULL, HANG_MS));
	start = rounds();
	bed_assert_ok(bed, account_wait(wanted_is_offered, &seen, HANG_MS));
	stats = bed_stats(bed);
	print_message("# offered after %llu rounds; %llu wanted, %llu taken out for that\n", (unsigned long long)(rounds() - start),
		      (unsigned long long)stats.noted_wanted_pages, (unsigned long long)stats.noted_scan_pages);
	assert_in_range(stats.noted_scan_pages, 0, stats.noted_wanted_pages);
	share_check_all();
	share_assert_holds();
}

static struct {
	pthread_t thread;
	int stop;
} noter;

/* As if reads went on all the time, to anywhere. */
static void *note_all_the_time(void *context)
{
	uint64_t x = 7;

	while (!ob_load(&noter.stop)) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		ob_engine_note_image(bed->engine, ram_page(ram[x % RAMS], (uint32_t)(x >> 8) % (RAM_PAGES - 32)), (x >> 40) % 32 * OB_PAGE_SIZE);
		if (x % 64 == 0)
			sched_yield();
	}
	return NULL;
}

static void notes_race_with_writers(void **state)
{
	uint64_t ops_each = bed_scale(10000, 30000, 500000);
	struct crew_config config = { .engine = bed->engine, .rams = { ram[0], ram[1] }, .ram_count = RAMS, .players = 2,
				      .ops_each = ops_each, .seed = 21, .mix = CREW_EVERYTHING, .disk_dir = bed_dir() };
	struct ob_stats stats;
	struct crew *crew;

	keeper.lies = 1;
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, page / 2);
	bed_assert_ok(bed, keeper_run(&keeper));
	noter.stop = 0;
	assert_int_equal(pthread_create(&noter.thread, NULL, note_all_the_time, NULL), 0);
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	bed_assert_ok(bed, crew_wait_ops(crew, ops_each / 2, HANG_MS));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 24 * OB_MIB));
	bed_assert_ok(bed, crew_wait_ops(crew, ops_each, HANG_MS));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	ob_store(&noter.stop, 1);
	pthread_join(noter.thread, NULL);
	stats = bed_stats(bed);
	print_message("# %llu noted, %llu taken out for that, %llu found; %llu adopted\n", (unsigned long long)stats.noted_image_pages,
		      (unsigned long long)stats.noted_scan_pages, (unsigned long long)stats.noted_found_pages,
		      (unsigned long long)stats.share_adopted_pages);
	assert_true(stats.noted_scan_pages > 100);
	assert_true(stats.share_adopted_pages > 100);
	share_finish_race();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_read_is_shared_ahead_of_the_hand, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(what_nobody_else_has_read_goes_back, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(whole_pages_are_noted_once, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(the_queue_is_bounded, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(what_is_wanted_is_looked_at_ahead_of_the_hand, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(notes_race_with_writers, set_up, share_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
