/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent protocol: golden bytes, round trips, and that nothing broken is ever taken for a message. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

static uint8_t buf[OB_WIRE_MAX];

static uint32_t entries = 40; /* of lists about sharing: few, where a message is cut at each byte */

static void sample_of_sharing(struct ob_wire_msg *msg)
{
	static const uint64_t extent = 0x1122334455667788, page = 3ull << 36;
	uint32_t n = entries;

	switch (msg->type) {
	case OB_WIRE_OFFER:
		for (msg->offer.n = n; n--;)
			msg->offer.item[n] = (struct ob_wire_offer){ page + n, ~(uint64_t)n, n * 77ull, n % 3 };
		break;
	case OB_WIRE_STAGED:
		for (msg->staged.n = n; n--;)
			msg->staged.item[n] = (struct ob_wire_staged){ page + n, n % 2 ? -ESTALE : 0, n % OB_WIRE_STAGING_MAX };
		break;
	case OB_WIRE_HELD:
		for (msg->held.n = n; n--;)
			msg->held.item[n] = (struct ob_wire_held){ page + n, extent, OB_WIRE_EXTENT_MAX - 1 - n, n % 2 ? -ENOENT : 0 };
		break;
	case OB_WIRE_DROPPED:
	case OB_WIRE_WORN:
	case OB_WIRE_HOLDS:
		for (msg->dropped.n = n; n--;)
			msg->dropped.item[n] = (struct ob_wire_dropped){ extent + n, n, UINT32_MAX - n };
		break;
	case OB_WIRE_ORPHANS:
	case OB_WIRE_MORE_ORPHANS:
		for (msg->orphans.n = n; n--;)
			msg->orphans.item[n] = (struct ob_wire_orphan){ extent + n, n };
		break;
	case OB_WIRE_FETCH:
		for (msg->fetch.n = n; n--;)
			msg->fetch.item[n] = (struct ob_wire_fetch){ page + n, n, ~(uint64_t)n, n % OB_WIRE_STAGING_MAX };
		break;
	case OB_WIRE_ADOPT:
		for (msg->adopt.n = n; n--;)
			msg->adopt.item[n] = (struct ob_wire_adopt){ page + n, extent, n };
		break;
	case OB_WIRE_SUBPAGES:
		msg->subpages.n = OB_WIRE_SUBPAGES_MAX;
		break;
	case OB_WIRE_SHARE:
		msg->share.flags = OB_WIRE_SHARE_ON;
		msg->share.cpu_permille = 1000;
		for (n = 0; n < OB_WIRE_KEY_SIZE; n++)
			msg->share.key[n] = (uint8_t)(n + 1);
		break;
	case OB_WIRE_EXTENT:
		msg->extent.id = extent;
		msg->extent.pages = OB_WIRE_EXTENT_MAX;
		break;
	case OB_WIRE_KEPT:
		for (msg->kept.n = n; n--;)
			msg->kept.item[n] = extent + n;
		break;
	case OB_WIRE_DROP_EXTENT:
	case OB_WIRE_DRAIN:
		msg->drop_extent.id = extent;
		break;
	}
}

static struct ob_wire_msg sample(uint16_t type)
{
	struct ob_wire_msg msg;

	memset(&msg, 0, sizeof(msg));
	msg.type = type;
	msg.sequence = 0x01020304;
	switch (type) {
	case OB_WIRE_HELLO:
		msg.hello.pid = 4711;
		msg.hello.shares = 1000;
		msg.hello.reservation_bytes = 64ull << 20;
		msg.hello.maximum_bytes = 512ull << 20;
		msg.hello.limit_bytes = 256ull << 20;
		msg.hello.flags = OB_WIRE_RELEASED;
		strcpy(msg.hello.name, "web-1");
		strcpy(msg.hello.domain, "tenant.a");
		strcpy(msg.hello.program, "0.1.0");
		break;
	case OB_WIRE_STATS:
		for (size_t i = 0; i < sizeof(msg.stats.stats) / 8; i++)
			((uint64_t *)&msg.stats.stats)[i] = 1000 + i;
		for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
			for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
				msg.stats.hists.count[kind][i] = kind * 100 + i;
		break;
	case OB_WIRE_RANGES:
		msg.ranges.n = OB_WIRE_RANGES_MAX;
		for (unsigned i = 0; i < OB_WIRE_RANGES_MAX; i++)
			msg.ranges.range[i] = (struct ob_wire_range){ .kind = 1 + i % 4, .start = i * 4096ull, .end = i * 4096ull + 1 };
		break;
	case OB_WIRE_STOPPED:
		strcpy(msg.stopped.cause, "page 7 could not be read: Input/output error");
		break;
	case OB_WIRE_REPLY:
		msg.reply.to = 77;
		msg.reply.status = -EINPROGRESS;
		memset(msg.reply.text, 'x', OB_WIRE_TEXT_MAX);
		break;
	case OB_WIRE_SET_LIMIT:
		msg.set_limit.bytes = UINT64_MAX;
		msg.set_limit.maximum_bytes = 1;
		break;
	case OB_WIRE_POLL:
		msg.poll.interval_ms = 50;
		break;
	case OB_WIRE_BALLOON_SET:
	case OB_WIRE_BALLOON:
		msg.balloon.mode = OB_BALLOON_FIXED;
		msg.balloon.size_bytes = 3ull << 30;
		msg.balloon.target_bytes = 0x1122334455667788;
		msg.balloon.flags = type == OB_WIRE_BALLOON ? OB_WIRE_BALLOON_DRIVE : 0;
		msg.balloon.look_ms = type == OB_WIRE_BALLOON ? OB_WIRE_LOOK_MAX_MS : 0;
		break;
	case OB_WIRE_GUEST:
		msg.guest.flags = OB_WIRE_GUEST_ANEW;
		for (msg.guest.n = 0; msg.guest.n < 300; msg.guest.n++)
			msg.guest.bytes[msg.guest.n] = (uint8_t)msg.guest.n;
		break;
	case OB_WIRE_LARGE:
		msg.large.policy = OB_WIRE_LARGE_POLICIES - 1;
		msg.large.state = OB_WIRE_LARGE_STATES - 1;
		msg.large.hot_pages = OB_WIRE_LARGE_PAGES_MAX;
		msg.large.cold_pages = 16;
		msg.large.flags = OB_WIRE_LARGE_MAY_MAKE;
		msg.large.scan_rate = OB_WIRE_LARGE_RATE_MAX;
		msg.large.break_rate = 2;
		msg.large.collapse_rate = 3;
		break;
	default:
		sample_of_sharing(&msg);
	}
	return msg;
}

static const uint16_t types[] = {
	OB_WIRE_HELLO, OB_WIRE_STATS, OB_WIRE_RANGES, OB_WIRE_STOPPED, OB_WIRE_REPLY, OB_WIRE_SET_LIMIT, OB_WIRE_RELEASE, OB_WIRE_POLL,
	OB_WIRE_OFFER, OB_WIRE_STAGED, OB_WIRE_HELD, OB_WIRE_DROPPED, OB_WIRE_ORPHANS, OB_WIRE_SHARE, OB_WIRE_EXTENT, OB_WIRE_FETCH,
	OB_WIRE_ADOPT, OB_WIRE_UNSHARE, OB_WIRE_DROP_EXTENT, OB_WIRE_WORN, OB_WIRE_MAPS, OB_WIRE_MAY_MAP,
	OB_WIRE_HOLDS, OB_WIRE_MORE_ORPHANS, OB_WIRE_SUBPAGES, OB_WIRE_KEPT, OB_WIRE_DRAIN, OB_WIRE_LARGE,
	OB_WIRE_BALLOON_SET, OB_WIRE_BALLOON, OB_WIRE_GUEST,
};

static void every_message_comes_back_as_it_was(void **state)
{
	entries = OB_WIRE_SHARES_MAX;
	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		struct ob_wire_msg in = sample(types[i]), out;
		int n = ob_wire_encode(&in, buf, sizeof(buf));

		assert_true(n >= OB_WIRE_HEADER_SIZE);
		memset(&out, 0xee, sizeof(out));
		assert_int_equal(ob_wire_decode(buf, (size_t)n, &out, NULL), 0);
		assert_memory_equal(&in, &out, sizeof(in));
	}
	entries = 40;
}

static void the_bytes_are_those_of_the_document(void **state)
{
	static const uint8_t set_limit[] = {
		'O', 'V', 'B', 'K', 1, 0, 16, 0, 16, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, /* header */
		0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0,
	};
	static const uint8_t reply[] = {
		'O', 'V', 'B', 'K', 1, 0, 5, 0, 13, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		7, 0, 0, 0, 0xf4, 0xff, 0xff, 0xff, 3, 0, 'a', 'b', 'c', /* to 7, -ENOMEM, "abc" */
	};
	static const uint8_t hello[] = {
		'O', 'V', 'B', 'K', 1, 0, 1, 0, 45, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0x39, 5, 0, 0, 0xe8, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 'a', 0, 0, 2, 0, 'v', '1',
	};
	struct ob_wire_msg msg = { .type = OB_WIRE_SET_LIMIT, .sequence = 0x01020304 };

	msg.set_limit.bytes = 0x10000000;
	msg.set_limit.maximum_bytes = 0x20000000;
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(set_limit));
	assert_memory_equal(buf, set_limit, sizeof(set_limit));

	msg = (struct ob_wire_msg){ .type = OB_WIRE_REPLY, .sequence = 9, .reply = { .to = 7, .status = -12, .text = "abc" } };
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(reply));
	assert_memory_equal(buf, reply, sizeof(reply));

	msg = (struct ob_wire_msg){ .type = OB_WIRE_HELLO, .sequence = 1,
				    .hello = { .pid = 1337, .shares = 1000, .reservation_bytes = 1, .maximum_bytes = 2, .limit_bytes = 3,
					       .name = "a", .program = "v1" } };
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(hello));
	assert_memory_equal(buf, hello, sizeof(hello));
}

static void the_bytes_about_sharing_are_those_of_the_document(void **state)
{
	static const uint8_t offer[] = {
		'O', 'V', 'B', 'K', 1, 0, 6, 0, 36, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 5, 0, 0, 0, 0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
	};
	static const uint8_t held[] = {
		'O', 'V', 'B', 'K', 1, 0, 8, 0, 28, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x80, 9, 0, 0, 0, 0xf4, 0xff, 0xff, 0xff,
	};
	static const uint8_t extent[] = {
		'O', 'V', 'B', 'K', 1, 0, 20, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		7, 0, 0, 0, 0, 0, 0, 0x80, 0, 0x10, 0, 0, 0, 0, 0, 0,
	};
	struct ob_wire_msg msg = { .type = OB_WIRE_OFFER, .sequence = 1 };

	msg.offer.n = 1;
	msg.offer.item[0] = (struct ob_wire_offer){ 1ull << 36 | 5, 2, 3, 4 };
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(offer));
	assert_memory_equal(buf, offer, sizeof(offer));

	msg = (struct ob_wire_msg){ .type = OB_WIRE_HELD, .sequence = 1 };
	msg.held.n = 1;
	msg.held.item[0] = (struct ob_wire_held){ 5, 0x8000000000000007, 9, -12 };
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(held));
	assert_memory_equal(buf, held, sizeof(held));

	msg = (struct ob_wire_msg){ .type = OB_WIRE_EXTENT, .sequence = 1, .extent = { 0x8000000000000007, 4096 } };
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), sizeof(extent));
	assert_memory_equal(buf, extent, sizeof(extent));
}

static void a_cut_or_lengthened_message_is_refused(void **state)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		struct ob_wire_msg in = sample(types[i]), out = { .type = 0x5555 };
		int n = ob_wire_encode(&in, buf, sizeof(buf));

		for (int len = 0; len < n; len++) {
			/* A block of its own size, so that a sanitizer sees any step beyond it. */
			uint8_t *cut = malloc(len ? (size_t)len : 1);

			memcpy(cut, buf, (size_t)len);
			assert_int_equal(ob_wire_decode(cut, (size_t)len, &out, NULL), -EPROTO);
			/* Also when the length in the header agrees. */
			if (len >= OB_WIRE_HEADER_SIZE) {
				uint32_t payload = (uint32_t)len - OB_WIRE_HEADER_SIZE;

				memcpy(cut + 8, &payload, sizeof(payload));
				assert_int_equal(ob_wire_decode(cut, (size_t)len, &out, NULL), -EPROTO);
			}
			free(cut);
		}
		buf[n] = 0;
		buf[8] = (uint8_t)(buf[8] + 1);
		assert_int_equal(ob_wire_decode(buf, (size_t)n + 1, &out, NULL), -EPROTO);
		assert_int_equal(out.type, 0x5555);
	}
}

/* Encodes a sample, writes width bytes of value at offset, and expects a refusal whose text holds words. */
static void expect_refusal(uint16_t type, size_t offset, uint64_t value, size_t width, int code, const char *words)
{
	struct ob_wire_msg msg = sample(type), out;
	struct ob_error err = { 0 };
	int n = ob_wire_encode(&msg, buf, sizeof(buf));

	assert_true(n > 0 && offset + width <= (size_t)n);
	for (size_t i = 0; i < width; i++)
		buf[offset + i] = (uint8_t)(value >> (8 * i));
	assert_int_equal(ob_wire_decode(buf, (size_t)n, &out, &err), -code);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" is not in \"%s\"", words, err.text);
	assert_null(strchr(err.text, '\n'));
}

static void wild_fields_are_refused_with_the_reason(void **state)
{
	enum { PAYLOAD = OB_WIRE_HEADER_SIZE, NAME = PAYLOAD + 36 };

	expect_refusal(OB_WIRE_POLL, 0, 0, 4, EPROTO, "OVBK");
	expect_refusal(OB_WIRE_POLL, 4, 2, 2, EPROTO, "version 2");
	expect_refusal(OB_WIRE_POLL, 6, 999, 2, ENOTSUP, "999");
	expect_refusal(OB_WIRE_POLL, 6, 0, 2, ENOTSUP, "not known");
	expect_refusal(OB_WIRE_POLL, 8, UINT32_MAX, 4, EPROTO, "4294967295");
	expect_refusal(OB_WIRE_POLL, 16, 1, 8, EPROTO, "reserved");
	expect_refusal(OB_WIRE_POLL, PAYLOAD, 19, 4, EPROTO, "interval");
	expect_refusal(OB_WIRE_POLL, PAYLOAD, 60001, 4, EPROTO, "interval");
	expect_refusal(OB_WIRE_HELLO, PAYLOAD, 0, 4, EPROTO, "pid");
	expect_refusal(OB_WIRE_HELLO, PAYLOAD, UINT32_MAX, 4, EPROTO, "pid");
	expect_refusal(OB_WIRE_HELLO, PAYLOAD + 4, 0, 4, EPROTO, "shares");
	expect_refusal(OB_WIRE_HELLO, PAYLOAD + 4, 1000001, 4, EPROTO, "shares");
	expect_refusal(OB_WIRE_HELLO, PAYLOAD + 32, 2, 4, EPROTO, "flags");
	expect_refusal(OB_WIRE_HELLO, NAME, 64, 2, EPROTO, "longer");
	expect_refusal(OB_WIRE_HELLO, NAME, UINT16_MAX, 2, EPROTO, "longer");
	expect_refusal(OB_WIRE_HELLO, NAME + 2, 0, 1, EPROTO, "NUL");
	expect_refusal(OB_WIRE_HELLO, NAME + 2, '/', 1, EPROTO, "name");
	expect_refusal(OB_WIRE_HELLO, NAME + 2, '.', 1, EPROTO, "name");
	expect_refusal(OB_WIRE_HELLO, NAME + 9, '\n', 1, EPROTO, "domain");
	expect_refusal(OB_WIRE_STATS, PAYLOAD, UINT32_MAX, 4, EPROTO, "fewer numbers");
	expect_refusal(OB_WIRE_STATS, PAYLOAD + 4 + sizeof(struct ob_stats), UINT32_MAX, 4, EPROTO, "fewer histograms");
	expect_refusal(OB_WIRE_STATS, PAYLOAD + 8 + sizeof(struct ob_stats), UINT32_MAX, 4, EPROTO, "fewer histograms");
	/* 2^31 x 2^30 x 8 bytes is 0 modulo 2^64. */
	expect_refusal(OB_WIRE_STATS, PAYLOAD + 4 + sizeof(struct ob_stats), 0x4000000080000000, 8, EPROTO, "fewer histograms");
	expect_refusal(OB_WIRE_STATS, PAYLOAD + 8 + sizeof(struct ob_stats), 0, 4, EPROTO, "longer");
	expect_refusal(OB_WIRE_RANGES, PAYLOAD, OB_WIRE_RANGES_MAX + 1, 4, EPROTO, "64 ranges");
	expect_refusal(OB_WIRE_RANGES, PAYLOAD, UINT32_MAX, 4, EPROTO, "64 ranges");
	expect_refusal(OB_WIRE_RANGES, PAYLOAD + 8, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_RANGES, PAYLOAD + 12, UINT64_MAX, 8, EPROTO, "backwards");
	for (size_t i = 0; i < 8; i++)
		expect_refusal(OB_WIRE_LARGE, PAYLOAD + 4 * i, UINT32_MAX, 4, EPROTO, i < 4 ? "policy" : i < 5 ? "flags" : "rate");
	expect_refusal(OB_WIRE_LARGE, PAYLOAD, OB_WIRE_LARGE_POLICIES, 4, EPROTO, "policy");
	expect_refusal(OB_WIRE_LARGE, PAYLOAD + 4, OB_WIRE_LARGE_STATES, 4, EPROTO, "state");
	expect_refusal(OB_WIRE_LARGE, PAYLOAD + 8, OB_WIRE_LARGE_PAGES_MAX + 1, 4, EPROTO, "pages");
	expect_refusal(OB_WIRE_LARGE, PAYLOAD + 16, 2, 4, EPROTO, "flags");
	expect_refusal(OB_WIRE_LARGE, PAYLOAD + 28, OB_WIRE_LARGE_RATE_MAX + 1, 4, EPROTO, "rate");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD, OB_BALLOON_MODES, 4, EPROTO, "mode");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD, OB_BALLOON_AUTO, 4, EPROTO, "has a size and should have none");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD + 4, 2, 4, EPROTO, "flags");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD + 8, 0, 8, EPROTO, "or none and should");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD + 24, OB_WIRE_LOOK_MIN_MS - 1, 4, EPROTO, "looks");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD + 24, OB_WIRE_LOOK_MAX_MS + 1, 4, EPROTO, "looks");
	expect_refusal(OB_WIRE_BALLOON, PAYLOAD + 28, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_BALLOON_SET, PAYLOAD, OB_BALLOON_MODES, 4, EPROTO, "mode");
	expect_refusal(OB_WIRE_BALLOON_SET, PAYLOAD + 4, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_BALLOON_SET, PAYLOAD + 8, 0, 8, EPROTO, "or none and should");
	expect_refusal(OB_WIRE_REPLY, PAYLOAD + 4, 1, 4, EPROTO, "errno");
	expect_refusal(OB_WIRE_REPLY, PAYLOAD + 4, 0x80000000, 4, EPROTO, "errno");
	expect_refusal(OB_WIRE_REPLY, PAYLOAD + 8, OB_WIRE_TEXT_MAX + 1, 2, EPROTO, "longer");
	expect_refusal(OB_WIRE_GUEST, PAYLOAD, 2, 4, EPROTO, "flags");
	expect_refusal(OB_WIRE_GUEST, PAYLOAD + 4, OB_WIRE_GUEST_MAX + 1, 4, EPROTO, "2048");
	expect_refusal(OB_WIRE_GUEST, PAYLOAD + 4, 301, 4, EPROTO, "early");
}

static void wild_fields_about_sharing_are_refused(void **state)
{
	enum { PAYLOAD = OB_WIRE_HEADER_SIZE, ITEM = PAYLOAD + 4 };
	static const uint16_t lists[] = {
		OB_WIRE_OFFER, OB_WIRE_STAGED, OB_WIRE_HELD, OB_WIRE_DROPPED, OB_WIRE_ORPHANS, OB_WIRE_FETCH, OB_WIRE_ADOPT,
		OB_WIRE_WORN, OB_WIRE_HOLDS, OB_WIRE_MORE_ORPHANS, OB_WIRE_KEPT,
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(lists); i++) {
		expect_refusal(lists[i], PAYLOAD, OB_WIRE_SHARES_MAX + 1, 4, EPROTO, "512 entries");
		expect_refusal(lists[i], PAYLOAD, UINT32_MAX, 4, EPROTO, "512 entries");
		expect_refusal(lists[i], PAYLOAD, entries - 1, 4, EPROTO, "longer");
	}
	expect_refusal(OB_WIRE_OFFER, ITEM + 28, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_STAGED, ITEM + 8, 1, 4, EPROTO, "errno");
	expect_refusal(OB_WIRE_STAGED, ITEM + 12, OB_WIRE_STAGING_MAX, 4, EPROTO, "staging");
	expect_refusal(OB_WIRE_HELD, ITEM + 8, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_HELD, ITEM + 16, OB_WIRE_EXTENT_MAX, 4, EPROTO, "beyond");
	expect_refusal(OB_WIRE_HELD, ITEM + 20, 0x80000000, 4, EPROTO, "errno");
	expect_refusal(OB_WIRE_DROPPED, ITEM, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_DROPPED, ITEM + 8, UINT32_MAX, 4, EPROTO, "beyond");
	expect_refusal(OB_WIRE_DROPPED, ITEM + 12, 0, 4, EPROTO, "0 times");
	expect_refusal(OB_WIRE_HOLDS, ITEM + 12, 0, 4, EPROTO, "0 times");
	expect_refusal(OB_WIRE_ORPHANS, ITEM, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_ORPHANS, ITEM + 12, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_FETCH, ITEM + 24, OB_WIRE_STAGING_MAX, 4, EPROTO, "staging");
	expect_refusal(OB_WIRE_FETCH, ITEM + 28, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_ADOPT, ITEM + 16, OB_WIRE_EXTENT_MAX, 4, EPROTO, "beyond");
	expect_refusal(OB_WIRE_ADOPT, ITEM + 20, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_SHARE, PAYLOAD, 2, 4, EPROTO, "flags");
	expect_refusal(OB_WIRE_SHARE, PAYLOAD + 4, 1001, 4, EPROTO, "permille");
	expect_refusal(OB_WIRE_SUBPAGES, PAYLOAD, 0, 4, EPROTO, "sub-pages");
	expect_refusal(OB_WIRE_SUBPAGES, PAYLOAD, 3, 4, EPROTO, "sub-pages");
	expect_refusal(OB_WIRE_SUBPAGES, PAYLOAD, 16, 4, EPROTO, "sub-pages");
	expect_refusal(OB_WIRE_EXTENT, PAYLOAD, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_EXTENT, PAYLOAD + 8, 0, 4, EPROTO, "4096 pages");
	expect_refusal(OB_WIRE_EXTENT, PAYLOAD + 8, OB_WIRE_EXTENT_MAX + 1, 4, EPROTO, "4096 pages");
	expect_refusal(OB_WIRE_EXTENT, PAYLOAD + 12, 1, 4, EPROTO, "reserved");
	expect_refusal(OB_WIRE_DROP_EXTENT, PAYLOAD, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_DRAIN, PAYLOAD, 0, 8, EPROTO, "name is 0");
	expect_refusal(OB_WIRE_KEPT, ITEM, 0, 8, EPROTO, "name is 0");
}

static void put32(size_t offset, uint32_t value)
{
	memcpy(buf + offset, &value, sizeof(value));
}

static void older_and_newer_statistics_are_understood(void **state)
{
	struct ob_wire_msg msg = sample(OB_WIRE_STATS), out;
	size_t at = OB_WIRE_HEADER_SIZE;

	assert_true(ob_wire_encode(&msg, buf, sizeof(buf)) > 0);
	/* An older peer: 3 fields, 1 histogram of 2 buckets. */
	memset(buf + at, 0, 4096);
	put32(at, 3);
	buf[at + 4] = 1, buf[at + 12] = 2, buf[at + 20] = 3;
	put32(at + 28, 1);
	put32(at + 32, 2);
	buf[at + 36] = 5, buf[at + 44] = 6;
	put32(8, 52);
	assert_int_equal(ob_wire_decode(buf, at + 52, &out, NULL), 0);
	assert_int_equal(out.stats.stats.ram_bytes, 1);
	assert_int_equal(out.stats.stats.cost_bytes, 3);
	assert_int_equal(out.stats.stats.resident_bytes, 0);
	assert_int_equal(out.stats.hists.count[0][1], 6);
	assert_int_equal(out.stats.hists.count[1][0], 0);

	/* A newer one: 100 fields, 10 histograms of 80 buckets, all 9. */
	for (size_t i = 0; i < 100 + 800 + 2; i++)
		memcpy(buf + at + 4 + 8 * i, &(uint64_t){ 9 }, 8);
	put32(at, 100);
	put32(at + 804, 10);
	put32(at + 808, 80);
	put32(8, 812 + 6400);
	assert_int_equal(ob_wire_decode(buf, at + 812 + 6400, &out, NULL), 0);
	assert_int_equal(out.stats.stats.pool_writeback_pages, 9);
	assert_int_equal(out.stats.hists.count[OB_HIST_KINDS - 1][OB_HIST_BUCKETS - 1], 9);
}

static void encoding_never_writes_outside_and_checks_what_it_writes(void **state)
{
	struct ob_wire_msg msg;

	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		int n;

		msg = sample(types[i]);
		n = ob_wire_encode(&msg, buf, sizeof(buf));
		for (int size = 0; size <= n; size++) {
			uint8_t *small = malloc((size_t)size + 1);

			small[size] = 0xa5;
			assert_int_equal(ob_wire_encode(&msg, small, (size_t)size), size < n ? -EMSGSIZE : n);
			assert_int_equal(small[size], 0xa5);
			free(small);
		}
	}
	msg = sample(OB_WIRE_HELLO);
	memset(msg.hello.name, 'a', sizeof(msg.hello.name));
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), -EINVAL);
	msg = sample(OB_WIRE_REPLY);
	msg.reply.status = 5;
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), -EINVAL);
	msg = sample(OB_WIRE_RANGES);
	msg.ranges.n = OB_WIRE_RANGES_MAX + 1;
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), -EINVAL);
	msg = sample(OB_WIRE_POLL);
	msg.poll.interval_ms = 0;
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), -EINVAL);
	msg.type = 99;
	assert_int_equal(ob_wire_encode(&msg, buf, sizeof(buf)), -EINVAL);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Whatever is taken must be a message: it encodes again, and its strings end. */
static void mutations_are_refused_or_mean_something(void **state)
{
	uint64_t seed = 88172645463325252ull;
	unsigned taken = 0, refused = 0;

	for (unsigned round = 0; round < 40000; round++) {
		struct ob_wire_msg msg = sample(types[random_next(&seed) % OB_ARRAY_LEN(types)]), out;
		int n = ob_wire_encode(&msg, buf, sizeof(buf)), r;
		uint8_t *copy = malloc((size_t)n);

		memcpy(copy, buf, (size_t)n);
		for (unsigned i = random_next(&seed) % 4 + 1; i; i--)
			copy[random_next(&seed) % (uint64_t)OB_MIN(n, 160)] = (uint8_t)random_next(&seed);
		r = ob_wire_decode(copy, (size_t)n, &out, NULL);
		assert_true(r == 0 || r == -EPROTO || r == -ENOTSUP);
		if (r == 0)
			assert_int_equal(ob_wire_encode(&out, buf, sizeof(buf)), n);
		taken += r == 0;
		refused += r != 0;
		free(copy);
	}
	assert_true(taken > 100 && refused > 100);
}

static void names_are_checked(void **state)
{
	char longest[OB_NAME_MAX + 2];

	memset(longest, 'a', sizeof(longest));
	longest[OB_NAME_MAX + 1] = '\0';
	assert_false(ob_name_valid(longest));
	longest[OB_NAME_MAX] = '\0';
	assert_true(ob_name_valid(longest));
	assert_true(ob_name_valid("a.B_9-"));
	assert_true(ob_name_valid("_"));
	assert_false(ob_name_valid(NULL));
	assert_false(ob_name_valid(""));
	assert_false(ob_name_valid(".."));
	assert_false(ob_name_valid("-a"));
	assert_false(ob_name_valid("a/b"));
	assert_false(ob_name_valid("a b"));
	assert_false(ob_name_valid("\xc3\xa4"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_comes_back_as_it_was),
		cmocka_unit_test(the_bytes_are_those_of_the_document),
		cmocka_unit_test(the_bytes_about_sharing_are_those_of_the_document),
		cmocka_unit_test(a_cut_or_lengthened_message_is_refused),
		cmocka_unit_test(wild_fields_are_refused_with_the_reason),
		cmocka_unit_test(wild_fields_about_sharing_are_refused),
		cmocka_unit_test(older_and_newer_statistics_are_understood),
		cmocka_unit_test(encoding_never_writes_outside_and_checks_what_it_writes),
		cmocka_unit_test(mutations_are_refused_or_mean_something),
		cmocka_unit_test(names_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
