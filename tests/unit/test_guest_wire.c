/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The frames between host, guest and applications: golden bytes, what breaks the rules, and streams that are not whole. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../guest_frame.h"
#include "base/compiler.h"

static const uint8_t types[] = { OB_GUEST_HELLO, OB_GUEST_MEMORY, OB_GUEST_APP, OB_GUEST_WELCOME, OB_GUEST_TARGET };

static struct ob_guest_msg sample(uint8_t type)
{
	struct ob_guest_msg msg;

	memset(&msg, 0, sizeof(msg));
	msg.type = type;
	msg.session = 0x01020304;
	msg.sequence = 7;
	switch (type) {
	case OB_GUEST_HELLO:
		strcpy(msg.hello.program, "overbook-guest 0.1.0");
		break;
	case OB_GUEST_MEMORY:
		msg.memory = (struct ob_guest_memory){ OB_GUEST_HAS_PRESSURE | OB_GUEST_GATHERS, 2, 1 << 30, 1 << 20, 1 << 28, 1 << 27, 1 << 29, 1 << 28, 12345, 678 };
		break;
	case OB_GUEST_APP:
		msg.app = (struct ob_guest_app){ .app = 3, .kind = OB_GUEST_KIND_REDIS, .pain = 20, .flags = OB_GUEST_APP_FINAL, .status = -EACCES,
						 .answers = 6, .used_bytes = 1 << 28, .could_bytes = 1 << 27, .target_bytes = 1 << 26,
						 .given_bytes = 1 << 25, .pid = 4711, .name = "redis" };
		break;
	case OB_GUEST_WELCOME:
		msg.welcome.interval_ms = 1000;
		break;
	default:
		msg.target.app = 3;
		msg.target.deadline_ms = 10000;
		msg.target.give_bytes = 1 << 26;
	}
	return msg;
}

static void every_message_comes_back_as_it_was(void **state)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		struct ob_guest_msg msg = sample(types[i]), out;
		uint8_t frame[OB_GUEST_FRAME];

		assert_int_equal(ob_guest_encode(&msg, frame), 0);
		assert_int_equal(ob_guest_decode(frame, &out), 0);
		assert_memory_equal(&msg, &out, sizeof(msg));
	}
}

static void the_bytes_are_those_of_the_header(void **state)
{
	static const uint8_t golden[] = {
		'O', 'B', 'G', 'A', 1, 17, 0, 0, 4, 3, 2, 1, 7, 0, 0, 0, /* head */
		3, 0, 0, 0, 0x10, 0x27, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0,    /* application, deadline, bytes */
	};
	struct ob_guest_msg msg = sample(OB_GUEST_TARGET);
	uint8_t frame[OB_GUEST_FRAME], sealed[OB_GUEST_FRAME] = { 0 };

	assert_int_equal(ob_guest_encode(&msg, frame), 0);
	memcpy(sealed, golden, sizeof(golden));
	seal_guest_frame(sealed);
	assert_memory_equal(frame, sealed, sizeof(frame));
}

/* Changes bytes and makes the check right again. */
static int decode_changed(uint8_t type, size_t at, const void *bytes, size_t n)
{
	struct ob_guest_msg msg = sample(type), out;
	uint8_t frame[OB_GUEST_FRAME];

	assert_int_equal(ob_guest_encode(&msg, frame), 0);
	memcpy(frame + at, bytes, n);
	seal_guest_frame(frame);
	return ob_guest_decode(frame, &out);
}

static void wild_fields_are_refused(void **state)
{
	static const uint8_t ff[8] = { 255, 255, 255, 255, 255, 255, 255, 255 }, one[4] = { 1 };

	assert_int_equal(decode_changed(OB_GUEST_APP, 16, one, 1), 0);
	assert_int_equal(decode_changed(OB_GUEST_APP, 0, one, 1), -EBADMSG);
	assert_int_equal(decode_changed(OB_GUEST_APP, 4, ff, 1), -ENOTSUP);   /* version */
	assert_int_equal(decode_changed(OB_GUEST_APP, 5, ff, 1), -ENOTSUP);   /* type */
	assert_int_equal(decode_changed(OB_GUEST_APP, 6, one, 1), -EPROTO);   /* reserved */
	assert_int_equal(decode_changed(OB_GUEST_APP, 24, ff, 1), -EPROTO);   /* pain */
	assert_int_equal(decode_changed(OB_GUEST_APP, 28, ff, 1), -EPROTO);   /* flags */
	assert_int_equal(decode_changed(OB_GUEST_APP, 32, one, 4), -EPROTO);  /* status, positive */
	assert_int_equal(decode_changed(OB_GUEST_APP, 40, ff, 8), -EPROTO);   /* used */
	assert_int_equal(decode_changed(OB_GUEST_APP, 76, one, 1), -EPROTO);  /* reserved */
	assert_int_equal(decode_changed(OB_GUEST_APP, 80, "", 1), -EPROTO);   /* a name that is empty, with letters behind its end */
	assert_int_equal(decode_changed(OB_GUEST_APP, 80, "../../x", 7), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_APP, 111, one, 1), -EPROTO); /* no end */
	assert_int_equal(decode_changed(OB_GUEST_APP, 112, one, 1), -EPROTO); /* behind the fields */
	assert_int_equal(decode_changed(OB_GUEST_HELLO, 16, "\x1b", 1), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_MEMORY, 16, ff, 1), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_MEMORY, 20, ff, 1), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_MEMORY, 24, ff, 8), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_WELCOME, 16, "\0\0", 2), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_TARGET, 20, ff, 4), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_TARGET, 24, ff, 8), -EPROTO);
	assert_int_equal(decode_changed(OB_GUEST_TARGET, 32, one, 1), -EPROTO);
}

static void what_breaks_the_rules_is_not_written(void **state)
{
	uint8_t frame[OB_GUEST_FRAME];
	struct ob_guest_msg msg = sample(OB_GUEST_APP);

	strcpy(msg.app.name, "a b");
	assert_int_equal(ob_guest_encode(&msg, frame), -EINVAL);
	msg = sample(OB_GUEST_APP);
	memset(msg.app.name, 'a', sizeof(msg.app.name));
	assert_int_equal(ob_guest_encode(&msg, frame), -EINVAL);
	msg = sample(OB_GUEST_HELLO);
	memset(msg.hello.program, 'a', sizeof(msg.hello.program));
	assert_int_equal(ob_guest_encode(&msg, frame), -EINVAL);
	msg = sample(OB_GUEST_TARGET);
	msg.target.give_bytes = OB_GUEST_BYTES_MAX + 1;
	assert_int_equal(ob_guest_encode(&msg, frame), -EINVAL);
	msg.type = 99;
	assert_int_equal(ob_guest_encode(&msg, frame), -EINVAL);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Frames with rubbish between them, some of it the beginning of a frame, in pieces of any size: each whole frame is found. */
static void frames_are_found_in_any_stream(void **state)
{
	uint64_t seed = 88172645463325252ull;

	for (unsigned round = 0; round < 300; round++) {
		static uint8_t stream[64 * (OB_GUEST_FRAME + 160)];
		struct ob_guest_reader reader = { 0 };
		unsigned sent = 0, found = 0;
		size_t length = 0;

		for (unsigned i = 0; i < 40; i++) {
			struct ob_guest_msg msg = sample(types[i % OB_ARRAY_LEN(types)]);
			uint8_t frame[OB_GUEST_FRAME];

			msg.sequence = i;
			assert_int_equal(ob_guest_encode(&msg, frame), 0);
			if (random_next(&seed) % 4 == 0) {
				size_t n = random_next(&seed) % 120;

				/* What a reader that has gone has left half read: never followed by so much that it could be whole. */
				memcpy(stream + length, frame, n);
				length += n;
			} else if (random_next(&seed) % 4 == 0) {
				for (size_t n = random_next(&seed) % 150; n; n--)
					stream[length++] = "OBGA\x01"[random_next(&seed) % 5];
			}
			memcpy(stream + length, frame, sizeof(frame));
			length += sizeof(frame);
			sent++;
		}
		/* A beginning that was none is known for that when as much has come as a frame has. */
		memset(stream + length, 0, OB_GUEST_FRAME);
		length += OB_GUEST_FRAME;
		for (size_t at = 0; at < length;) {
			size_t n = random_next(&seed) % 300 + 1;
			const uint8_t *from = stream + at;
			struct ob_guest_msg msg;

			n = OB_MIN(n, length - at);
			while (ob_guest_read(&reader, &from, stream + at + n, &msg))
				assert_int_equal(msg.sequence, found++);
			at += n;
		}
		assert_int_equal(found, sent);
		assert_int_equal(reader.bad_frames, 0);
	}
}

static void frames_of_other_versions_are_passed_over(void **state)
{
	struct ob_guest_msg msg = sample(OB_GUEST_WELCOME), out;
	struct ob_guest_reader reader = { 0 };
	uint8_t stream[3 * OB_GUEST_FRAME];
	const uint8_t *at = stream;

	for (unsigned i = 0; i < 3; i++) {
		uint8_t *frame = stream + i * OB_GUEST_FRAME;

		msg.sequence = i;
		assert_int_equal(ob_guest_encode(&msg, frame), 0);
		frame[4] = i == 1 ? 2 : 1;
		seal_guest_frame(frame);
	}
	assert_int_equal(ob_guest_read(&reader, &at, stream + sizeof(stream), &out), 1);
	assert_int_equal(out.sequence, 0);
	assert_int_equal(ob_guest_read(&reader, &at, stream + sizeof(stream), &out), 1);
	assert_int_equal(out.sequence, 2);
	assert_int_equal(ob_guest_read(&reader, &at, stream + sizeof(stream), &out), 0);
	assert_int_equal(reader.skipped_bytes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_comes_back_as_it_was),
		cmocka_unit_test(the_bytes_are_those_of_the_header),
		cmocka_unit_test(wild_fields_are_refused),
		cmocka_unit_test(what_breaks_the_rules_is_not_written),
		cmocka_unit_test(frames_are_found_in_any_stream),
		cmocka_unit_test(frames_of_other_versions_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
