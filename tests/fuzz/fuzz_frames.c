/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames about a guest's applications. The input is a script:
 *
 *     h HEX      bytes as they are
 *     f HEX      a frame: the bytes, filled up with 0, behind a head and with a check that are right
 *     F HEX      the same with a head of the input's own
 *
 * The bytes that the steps make are one stream, which is read in pieces of another size each time. What is found is the same each
 * time, each frame that is taken comes back as the same bytes, and each frame that can be read is found, whatever stands before it, when as many
 * bytes as one has have come behind it, and nothing is looked for in one that is whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../guest_frame.h"
#include "fuzz.h"

#define STREAM_MAX 16384

static uint8_t stream[STREAM_MAX];
static size_t length;
static const uint8_t *frames[STREAM_MAX / OB_GUEST_FRAME]; /* in the stream, that can be read */
static unsigned n_frames;
static int is_whole; /* frames, and nothing else */

/* Returns whether it can be read. */
static int check_frame(const uint8_t *frame)
{
	uint8_t again[OB_GUEST_FRAME];
	struct ob_guest_msg msg;
	int r = ob_guest_decode(frame, &msg);

	FUZZ_CHECK(r == 0 || r == -EBADMSG || r == -EPROTO || r == -ENOTSUP, "%d", r);
	if (r < 0)
		return 0;
	FUZZ_CHECK(ob_guest_encode(&msg, again) == 0, "type %u is decoded but not encoded", msg.type);
	FUZZ_CHECK(!memcmp(frame, again, sizeof(again)), "type %u has two forms", msg.type);
	return 1;
}

static void add(const char *kind, const char *hex)
{
	uint8_t bytes[OB_GUEST_FRAME] = { 0 };
	size_t n, head = *kind == 'f' ? 5 : 0, room = sizeof(stream) - OB_GUEST_FRAME - length;

	memcpy(bytes, "OBGA\1", head);
	n = fuzz_hex(hex, bytes + head, sizeof(bytes) - head) + head;
	if (*kind != 'h') {
		seal_guest_frame(bytes);
		n = sizeof(bytes);
		if (check_frame(bytes) && n <= room)
			frames[n_frames++] = stream + length;
	}
	is_whole &= *kind == 'f' && n <= room;
	n = OB_MIN(n, room);
	memcpy(stream + length, bytes, n);
	length += n;
}

/* Reads the stream in pieces of that size. Returns a sum of what is found. */
static uint64_t read_stream(size_t piece, unsigned *ret_found)
{
	struct ob_guest_reader reader = { 0 };
	unsigned next = 0;
	uint64_t sum = 0;

	*ret_found = 0;
	for (size_t at = 0; at < length; at += piece) {
		const uint8_t *from = stream + at, *end = stream + OB_MIN(at + piece, length);
		uint8_t frame[OB_GUEST_FRAME];
		struct ob_guest_msg msg;

		while (ob_guest_read(&reader, &from, end, &msg)) {
			FUZZ_CHECK(ob_guest_encode(&msg, frame) == 0, "type %u", msg.type);
			for (size_t i = 0; i < sizeof(frame); i++)
				sum = sum * 31 + frame[i];
			next += next < n_frames && !memcmp(frame, frames[next], sizeof(frame));
			++*ret_found;
		}
		FUZZ_CHECK(from == end, "bytes are left");
		FUZZ_CHECK(reader.used < sizeof(reader.buf), "a full reader");
	}
	FUZZ_CHECK(next == n_frames, "%u of %u frames are found in pieces of %zu bytes", next, n_frames, piece);
	FUZZ_CHECK(!is_whole || reader.skipped_bytes == OB_GUEST_FRAME, "%llu bytes are skipped", (unsigned long long)reader.skipped_bytes);
	return sum * 31 + reader.skipped_bytes + reader.bad_frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[2];
	unsigned found, again;
	uint64_t sum;
	int n;

	length = n_frames = 0;
	is_whole = 1;
	while ((n = fuzz_step(&at, words, 2)) >= 0)
		if (n && strchr("hfF", *words[0]))
			add(words[0], fuzz_word(words, n, 1));
	memset(stream + length, 0, OB_GUEST_FRAME);
	length += OB_GUEST_FRAME;
	sum = read_stream(length, &found);
	for (size_t piece = 1; piece < 300; piece = piece * 3 + 1)
		FUZZ_CHECK(read_stream(piece, &again) == sum && again == found, "pieces of %zu bytes: %u frames, not %u", piece, again, found);
	free(text);
	return 0;
}
