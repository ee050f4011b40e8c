/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The reader of recordings that bench/density replays, with good ones and with what is none. */
#include "test.h"

#include <string.h>
#include <sys/mman.h>

#include "../bench/replay.h"

#define PAGES 64u

static uint8_t *file; /* behind it there is nothing to be read */

static uint32_t *put_event(uint32_t *at, uint32_t count, uint32_t page)
{
	*at++ = count;
	for (uint32_t i = 0; i < count; i++)
		*at++ = (page + i) * 2;
	return at;
}

/* Two requests, of 3 and 2 pages, and one step of none. Returns where events begin. */
static uint32_t *make(void)
{
	struct replay_header *header = (struct replay_header *)(void *)file;
	uint32_t *words = (uint32_t *)(void *)(file + 2 * REPLAY_PAGE);

	memset(file, 0, 8 * REPLAY_PAGE);
	put_event(put_event(put_event(words, 3, 10), 2, 20), 0, 0);
	*header = (struct replay_header){ REPLAY_MAGIC, PAGES, 8, 7, 0 };
	return words;
}

static void plays_in_turn(void **state)
{
	static const uint32_t counts[] = { 3, 2, 3, 2 }, pages[] = { 10, 20, 10, 20 };
	const uint32_t *touches = NULL;
	struct replay replay = { 0 };

	make();
	assert_int_equal(replay_open(&replay, file), 0);
	assert_ptr_equal(replay.classes, file + REPLAY_PAGE);
	assert_ptr_equal(replay.ram, file + 3 * REPLAY_PAGE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(replay_next(&replay, &replay.requests, &touches), counts[i]);
		assert_int_equal(touches[0], pages[i] * 2);
		assert_int_equal(replay_next(&replay, &replay.rests, &touches), 0);
	}
}

static void plays_nothing(void **state)
{
	struct replay_header *header = (struct replay_header *)(void *)file;
	const uint32_t *touches = NULL;
	struct replay replay = { 0 };

	make();
	header->words = header->rests_at = 0;
	assert_int_equal(replay_open(&replay, file), 0);
	assert_int_equal(replay_next(&replay, &replay.requests, &touches), 0);
	assert_int_equal(replay_next(&replay, &replay.rests, &touches), 0);
}

static void refuses_what_is_no_recording(void **state)
{
	const struct replay_header good = { REPLAY_MAGIC, PAGES, 8, 7, 0 };
	const struct replay_header bad[] = {
		{ REPLAY_MAGIC + 1, PAGES, 8, 7, 0 },  { REPLAY_MAGIC, 0, 8, 7, 0 },          { REPLAY_MAGIC, PAGES, 8, 9, 0 },
		{ REPLAY_MAGIC, PAGES, 8, 7, 1 },      { REPLAY_MAGIC, UINT32_MAX, 8, 7, 0 }, { REPLAY_MAGIC, PAGES, UINT32_MAX, 7, 0 },
		{ REPLAY_MAGIC, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0 },
		{ REPLAY_MAGIC, REPLAY_FILE_BYTES / REPLAY_PAGE, 0, 0, 0 },
	};
	struct replay replay = { 0 };

	make();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memcpy(file, &bad[i], sizeof(bad[i]));
		assert_int_equal(replay_open(&replay, file), -1);
	}
	memcpy(file, &good, sizeof(good));
	assert_int_equal(replay_open(&replay, file), 0);
}

static void an_event_ends_where_its_stream_does(void **state)
{
	uint32_t *words = make();
	const uint32_t *touches = NULL;
	struct replay replay = { 0 };

	words[4] = 3; /* into the steps */
	assert_int_equal(replay_open(&replay, file), 0);
	assert_int_equal(replay_next(&replay, &replay.requests, &touches), 3);
	assert_int_equal(replay_next(&replay, &replay.requests, &touches), -1);
	words[4] = UINT32_MAX;
	assert_int_equal(replay_next(&replay, &replay.requests, &touches), -1);
}

static uint32_t draw(uint32_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 17;
	*random ^= *random << 5;
	return *random;
}

static void nothing_leads_out_of_the_file(void **state)
{
	uint32_t random = 2463534242u, opened = 0;
	const uint8_t *end = file + REPLAY_FILE_BYTES;
	const uint32_t *touches = NULL;
	struct replay replay = { 0 };

	for (unsigned round = 0; round < 20000; round++) {
		uint32_t *words = make(), *header = (uint32_t *)(void *)file;

		for (unsigned i = 0; i < 2; i++)
			header[2 + draw(&random) % 3] = draw(&random) >> draw(&random) % 32;
		words[draw(&random) % 8] = draw(&random) >> draw(&random) % 32;
		if (replay_open(&replay, file))
			continue;
		opened++;
		assert_true(replay.ram + (uint64_t)replay.header.pages * REPLAY_PAGE <= end);
		for (unsigned i = 0; i < 16; i++) {
			int64_t count = replay_next(&replay, i % 2 ? &replay.rests : &replay.requests, &touches);

			assert_true(count < 0 || touches + count <= replay.words + replay.header.words);
		}
	}
	assert_true(opened > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plays_in_turn),
		cmocka_unit_test(plays_nothing),
		cmocka_unit_test(refuses_what_is_no_recording),
		cmocka_unit_test(an_event_ends_where_its_stream_does),
		cmocka_unit_test(nothing_leads_out_of_the_file),
	};

	file = mmap(NULL, REPLAY_FILE_BYTES + REPLAY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (file == MAP_FAILED || mprotect(file + REPLAY_FILE_BYTES, REPLAY_PAGE, PROT_NONE))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
