/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames about a guest's applications. The input is a script:
 *
 *     h HEX      bytes as they are
 *     f HEX      a frame: the bytes, filled up with 0, behind a head and with a check that are right
 *     F HEX      the same with a head of the input's own
 *
 * The bytes that the steps make are one stream, which is read in pieces of another size each time. What is found is the same each
 * time, each frame that is taken comes back as the same bytes, and all bytes of a frame that can be read are found.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../guest_frame.h"
#include "fuzz.h"

#define STREAM_MAX 16384

static uint8_t stream[STREAM_MAX];
static size_t length;

static void check_frame(const uint8_t *frame)
{
	uint8_t again[OB_GUEST_FRAME];
	struct ob_guest_msg msg;
	int r = ob_guest_decode(frame, &msg);

	FUZZ_CHECK(r == 0 || r == -EBADMSG || r == -EPROTO || r == -ENOTSUP, "%d", r);
	if (r < 0)
		return;
	FUZZ_CHECK(ob_guest_encode(&msg, again) == 0, "type %u is decoded but not encoded", msg.type);
	FUZZ_CHECK(!memcmp(frame, again, sizeof(again)), "type %u has two forms", msg.type);
}

static void add(const char *kind, const char *hex)
{
	uint8_t bytes[OB_GUEST_FRAME] = { 0 };
	size_t n, head = *kind == 'f' ? 5 : 0;

	memcpy(bytes, "OBGA\1", head);
	n = fuzz_hex(hex, bytes + head, sizeof(bytes) - head) + head;
	if (*kind != 'h') {
		seal_guest_frame(bytes);
		check_frame(bytes);
		n = sizeof(bytes);
	}
	n = OB_MIN(n, sizeof(stream) - length);
	memcpy(stream + length, bytes, n);
	length += n;
}

/* Reads the stream in pieces of that size. Returns a sum of what is found. */
static uint64_t read_stream(size_t piece, unsigned *ret_found)
{
	struct ob_guest_reader reader = { 0 };
	uint64_t sum = 0;

	*ret_found = 0;
	for (size_t at = 0; at < length; at += piece) {
		const uint8_t *from = stream + at, *end = stream + OB_MIN(at + piece, length);
		struct ob_guest_msg msg;

		while (ob_guest_read(&reader, &from, end, &msg)) {
			sum = sum * 31 + msg.type + msg.sequence + msg.session;
			++*ret_found;
		}
		FUZZ_CHECK(from == end, "bytes are left");
		FUZZ_CHECK(reader.used < sizeof(reader.buf), "a full reader");
	}
	return sum * 31 + reader.skipped_bytes + reader.bad_frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[2];
	unsigned found, again;
	uint64_t sum;
	int n;

	length = 0;
	while ((n = fuzz_step(&at, words, 2)) >= 0)
		if (n && strchr("hfF", *words[0]))
			add(words[0], fuzz_word(words, n, 1));
	sum = read_stream(OB_MAX(length, (size_t)1), &found);
	for (size_t piece = 1; piece < 300; piece = piece * 3 + 1)
		FUZZ_CHECK(read_stream(piece, &again) == sum && again == found, "pieces of %zu bytes: %u frames, not %u", piece, again, found);
	free(text);
	return 0;
}
