/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that plays what another has touched (replay.h), for bench/density. It is a machine without firmware or kernel; replay_boot.S,
 * which is both, calls it for each order, a byte on the serial line, and gives the answer, a byte as well:
 *
 *     0 to 9    -        a digit of the machine's number, which comes before all else
 *     f         R        RAM is filled as it was recorded. X: the recording cannot be played
 *     r         A        the next request's pages are touched
 *     t         -        the pages of the next step between requests
 *     c         C        all of RAM that was ever touched is looked at
 *
 * and W, for any of the last three, if a page was not as it had been left: each page that is touched is read, every byte, and its sum
 * compared. A page that was written gets eight bytes that it never had before, at one place, so that it compresses as before.
 *
 * RECORDINGS ARE FEW, MACHINES ARE MANY. A page that was as one of another recorded machine is filled with what was recorded; one that
 * was not must be as no other machine's: its bytes are exchanged for others by a permutation that follows from the machine's number, with
 * 0 for 0 (a page of one value alone is so as another machine's in one of 255 cases). So what repeats within the page, or within the machine, does so here, and compressors find as much. Machines of one
 * recording begin at different places of it.
 *
 * Recorded RAM is at 4 MiB; below that is what is ours: the sums (4 bytes a page), and what replay_boot.S says. Nothing here fails: what cannot
 * be played is answered by X, and a guest that goes astray stops answering.
 */
#include "replay.h"

#define RAM_GPA    (4ull << 20)
#define FILE_GPA   ((const void *)(2ull << 30))
#define APIC_ICR   ((volatile uint32_t *)0xfee00300ull)
#define INIT_SELF  0x44500u
#define SPREAD     0x9e3779b97f4a7c15ull

struct replay_words {
	uint32_t warm, order, answer;
};

struct state {
	struct replay replay;
	uint64_t random, number, is_filled;
	uint8_t exchange[256];
	uint32_t sums[REPLAY_FILE_BYTES / REPLAY_PAGE];
};

/* Where they are is in replay_guest.ld. */
extern volatile struct replay_words replay_words;
extern struct state replay_state;
static struct state *const state = &replay_state;

static uint64_t next_random(void)
{
	uint64_t x = state->random += SPREAD;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t *page_at(uint64_t page)
{
	return (uint64_t *)(void *)(RAM_GPA + page * REPLAY_PAGE);
}

static uint32_t weigh(uint64_t word, uint32_t at)
{
	return ((uint32_t)word + (uint32_t)(word >> 32) * 0x9e3779b1u) * (2 * at + 1);
}

static uint32_t sum_of(uint64_t page)
{
	const volatile uint64_t *at = page_at(page);
	uint32_t sum = 0;

	for (uint32_t i = 0; i < REPLAY_WORDS; i++)
		sum += weigh(at[i], i);
	return sum;
}

static void write_page(uint64_t page)
{
	uint32_t i = (uint32_t)(page * SPREAD >> 32) % REPLAY_WORDS;
	uint64_t word = next_random();

	state->sums[page] += weigh(word, i) - weigh(page_at(page)[i], i);
	page_at(page)[i] = word;
}

/* Returns the answer. */
static uint32_t play(struct replay_stream *stream, uint32_t answer)
{
	const uint32_t *touches;
	int64_t count = replay_next(&state->replay, stream, &touches);

	for (int64_t i = 0; i < count; i++) {
		uint32_t touch = touches[i], page = touch / 2;

		if (page >= state->replay.header.pages)
			return 'X';
		if (sum_of(page) != state->sums[page])
			return 'W';
		if (touch & 1)
			write_page(page);
	}
	return count < 0 ? 'X' : answer;
}

static uint32_t check(void)
{
	for (uint32_t page = 0; page < state->replay.header.pages; page++)
		if ((state->replay.classes[page] != REPLAY_ABSENT || state->sums[page]) && sum_of(page) != state->sums[page])
			return 'W';
	return 'C';
}

static void make_exchange(void)
{
	state->random = state->number * SPREAD;
	for (unsigned i = 0; i < 256; i++)
		state->exchange[i] = (uint8_t)i;
	for (unsigned i = 255; i > 1; i--) {
		unsigned other = 1 + (unsigned)(next_random() % i);
		uint8_t byte = state->exchange[i];

		state->exchange[i] = state->exchange[other];
		state->exchange[other] = byte;
	}
}

static void fill_page(uint32_t page, int is_own)
{
	const uint64_t *from = (const uint64_t *)(const void *)(state->replay.ram + (uint64_t)page * REPLAY_PAGE);
	volatile uint64_t *to = page_at(page);

	for (uint32_t i = 0; i < REPLAY_WORDS; i++) {
		uint64_t word = from[i], exchanged = 0;

		for (unsigned shift = 0; is_own && shift < 64; shift += 8)
			exchanged |= (uint64_t)state->exchange[word >> shift & 255] << shift;
		to[i] = is_own ? exchanged : word;
	}
	state->sums[page] = sum_of(page);
}

/* Events before the one that a machine begins with; machines of one recording are far from each other with any number of them. */
static void skip(struct replay_stream *stream)
{
	uint64_t goal = (uint32_t)(state->number * SPREAD >> 32) * (uint64_t)(stream->end - stream->first) >> 32;
	const uint32_t *touches;

	while (stream->at - stream->first < goal)
		if (replay_next(&state->replay, stream, &touches) < 0)
			return;
}

static uint32_t fill(void)
{
	if (state->is_filled || replay_open(&state->replay, FILE_GPA))
		return 'X';
	make_exchange();
	for (uint32_t page = 0; page < state->replay.header.pages; page++)
		if (state->replay.classes[page] != REPLAY_ABSENT)
			fill_page(page, state->replay.classes[page] == REPLAY_OWN);
	skip(&state->replay.requests);
	skip(&state->replay.rests);
	state->is_filled = 1;
	return 'R';
}

static uint32_t obey(uint32_t order)
{
	if (order >= '0' && order <= '9') {
		state->number = state->number * 10 + order - '0';
		return 0;
	}
	if (order == 'f')
		return fill();
	if (!state->is_filled)
		return 0;
	switch (order) {
	case 'r':
		return play(&state->replay.requests, 'A');
	case 't':
		return play(&state->replay.rests, 0);
	case 'c':
		return check();
	default:
		return 0;
	}
}

void replay_main(void);

void replay_main(void)
{
	replay_words.answer = obey(replay_words.order);
	*APIC_ICR = INIT_SELF;
	for (;;)
		;
}
