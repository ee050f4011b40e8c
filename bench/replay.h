/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one guest has had in its memory and touched of it: density_record.py writes it, and replay_guest.c plays it. One file of
 * REPLAY_FILE_BYTES, little endian, each part from a page of its own on:
 *
 *   header     struct replay_header
 *   classes    a byte for each page of RAM: enum replay_class
 *   events     u32 count, and so many u32 of a page's number * 2, + 1 if it was written too. What requests have touched comes
 *              first, in order; from word rests_at on follows what was touched between them, in steps of equal length
 *   RAM        what it held in the beginning
 *
 * Readers trust nothing of it: the header is copied and checked, each count and page when it is used.
 */
#ifndef OB_BENCH_REPLAY_H
#define OB_BENCH_REPLAY_H

#include <stdint.h>

#define REPLAY_MAGIC      0x3159414c50455242ull /* "BREPLAY1" */
#define REPLAY_PAGE       4096u
#define REPLAY_WORDS      (REPLAY_PAGE / 8)
#define REPLAY_FILE_BYTES (256u << 20)

enum replay_class {
	REPLAY_ABSENT, /* never touched */
	REPLAY_COMMON, /* another machine had a page with the same bytes */
	REPLAY_OWN,
	REPLAY_CLASSES
};

struct replay_header {
	uint64_t magic;
	uint32_t pages, words, rests_at, zero; /* words: of all events */
};

_Static_assert(sizeof(struct replay_header) == 24, "there is no padding");

/* Events that are played again and again: words from first to end, the next one at `at`. */
struct replay_stream {
	uint32_t first, end, at;
};

struct replay {
	struct replay_header header;
	const uint8_t *classes;
	const uint32_t *words;
	const uint8_t *ram;
	struct replay_stream requests, rests;
};

static inline uint64_t replay_round_up(uint64_t bytes)
{
	return (bytes + REPLAY_PAGE - 1) / REPLAY_PAGE * REPLAY_PAGE;
}

/* Of a file of REPLAY_FILE_BYTES. Returns 0, or -1 if it is none that can be played. */
static inline int replay_open(struct replay *replay, const void *file)
{
	const struct replay_header *header = &replay->header;
	uint64_t words_at, ram_at;

	replay->header = *(const volatile struct replay_header *)file;
	words_at = REPLAY_PAGE + replay_round_up(header->pages);
	ram_at = words_at + replay_round_up((uint64_t)header->words * 4);
	if (header->magic != REPLAY_MAGIC || header->zero || !header->pages || ram_at > REPLAY_FILE_BYTES ||
	    header->pages > (REPLAY_FILE_BYTES - ram_at) / REPLAY_PAGE || header->rests_at > header->words)
		return -1;
	replay->classes = (const uint8_t *)file + REPLAY_PAGE;
	replay->words = (const uint32_t *)(const void *)((const uint8_t *)file + words_at);
	replay->ram = (const uint8_t *)file + ram_at;
	replay->requests = (struct replay_stream){ 0, header->rests_at, 0 };
	replay->rests = (struct replay_stream){ header->rests_at, header->words, header->rests_at };
	return 0;
}

/* The next event: returns how many touches it has, and where they are; -1 if it does not end where its stream does. */
static inline int64_t replay_next(const struct replay *replay, struct replay_stream *stream, const uint32_t **ret_touches)
{
	uint32_t count;

	if (stream->first == stream->end) {
		*ret_touches = replay->words;
		return 0;
	}
	if (stream->at == stream->end)
		stream->at = stream->first;
	count = *(const volatile uint32_t *)&replay->words[stream->at];
	if (count >= stream->end - stream->at)
		return -1;
	*ret_touches = &replay->words[stream->at + 1];
	stream->at += count + 1;
	return count;
}

#endif
