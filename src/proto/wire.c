/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes and reads the messages of wire.h. Two cursors, one that writes and one that reads, know the bounds; each message
 * is a short list of fields on top of them. A cursor that has run over its end stays there and answers zeros, so that
 * only the end result needs a check. No I/O, no allocation, no global state; any bytes may be given to ob_wire_decode().
 */
#include "proto/wire.h"

#include <errno.h>
#include <string.h>

#define STATS_FIELDS (sizeof(struct ob_stats) / sizeof(uint64_t))
#define ERRNO_MAX    4095

struct writer {
	uint8_t *at, *end;
	int failed; /* 0 or the -errno to answer */
};

struct reader {
	const uint8_t *at, *end;
	const char *wrong; /* what broke the rules first, NULL while nothing has */
};

static const char *const type_names[] = {
	[OB_WIRE_HELLO] = "HELLO",         [OB_WIRE_STATS] = "STATS",     [OB_WIRE_RANGES] = "RANGES",
	[OB_WIRE_STOPPED] = "STOPPED",     [OB_WIRE_REPLY] = "REPLY",     [OB_WIRE_SET_LIMIT] = "SET_LIMIT",
	[OB_WIRE_RELEASE] = "RELEASE",     [OB_WIRE_POLL] = "POLL",
};

static const char *type_name(uint16_t type)
{
	return type < OB_ARRAY_LEN(type_names) ? type_names[type] : NULL;
}

int ob_name_valid(const char *text)
{
	size_t n = text ? strnlen(text, OB_NAME_MAX + 1) : 0;

	if (!n || n > OB_NAME_MAX || *text == '.' || *text == '-')
		return 0;
	for (size_t i = 0; i < n; i++) {
		char c = text[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		      c == '-'))
			return 0;
	}
	return 1;
}

static void put(struct writer *w, uint64_t value, unsigned bytes)
{
	if (w->failed || (size_t)(w->end - w->at) < bytes) {
		w->failed = w->failed ? w->failed : -EMSGSIZE;
		return;
	}
	for (unsigned i = 0; i < bytes; i++)
		*w->at++ = (uint8_t)(value >> (8 * i));
}

static void put_text(struct writer *w, const char *text, size_t most)
{
	size_t n = strnlen(text, most + 1);

	if (n > most) {
		w->failed = w->failed ? w->failed : -EINVAL;
		return;
	}
	put(w, n, 2);
	if (w->failed || (size_t)(w->end - w->at) < n) {
		w->failed = w->failed ? w->failed : -EMSGSIZE;
		return;
	}
	memcpy(w->at, text, n);
	w->at += n;
}

static void refuse(struct writer *w, int broken)
{
	if (broken && !w->failed)
		w->failed = -EINVAL;
}

static void put_hello(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !ob_name_valid(msg->hello.name) || (*msg->hello.domain && !ob_name_valid(msg->hello.domain)));
	refuse(w, !msg->hello.pid || !msg->hello.shares || msg->hello.shares > OB_SHARES_MAX);
	refuse(w, msg->hello.flags & ~OB_WIRE_RELEASED);
	put(w, msg->hello.pid, 4);
	put(w, msg->hello.shares, 4);
	put(w, msg->hello.reservation_bytes, 8);
	put(w, msg->hello.maximum_bytes, 8);
	put(w, msg->hello.limit_bytes, 8);
	put(w, msg->hello.flags, 4);
	put_text(w, msg->hello.name, OB_NAME_MAX);
	put_text(w, msg->hello.domain, OB_NAME_MAX);
	put_text(w, msg->hello.program, OB_NAME_MAX);
}

static void put_stats(struct writer *w, const struct ob_wire_msg *msg)
{
	uint64_t fields[STATS_FIELDS];

	memcpy(fields, &msg->stats.stats, sizeof(fields));
	put(w, STATS_FIELDS, 4);
	for (size_t i = 0; i < STATS_FIELDS; i++)
		put(w, fields[i], 8);
	put(w, OB_HIST_KINDS, 4);
	put(w, OB_HIST_BUCKETS, 4);
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
		for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
			put(w, msg->stats.hists.count[kind][i], 8);
}

static void put_ranges(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->ranges.n > OB_WIRE_RANGES_MAX);
	put(w, msg->ranges.n, 4);
	for (uint32_t i = 0; !w->failed && i < msg->ranges.n; i++) {
		const struct ob_wire_range *range = &msg->ranges.range[i];

		refuse(w, range->start >= range->end);
		put(w, range->kind, 4);
		put(w, 0, 4);
		put(w, range->start, 8);
		put(w, range->end, 8);
	}
}

static void put_payload(struct writer *w, const struct ob_wire_msg *msg)
{
	switch (msg->type) {
	case OB_WIRE_HELLO:
		put_hello(w, msg);
		break;
	case OB_WIRE_STATS:
		put_stats(w, msg);
		break;
	case OB_WIRE_RANGES:
		put_ranges(w, msg);
		break;
	case OB_WIRE_STOPPED:
		put_text(w, msg->stopped.cause, OB_WIRE_TEXT_MAX);
		break;
	case OB_WIRE_REPLY:
		refuse(w, msg->reply.status > 0 || msg->reply.status < -ERRNO_MAX);
		put(w, msg->reply.to, 4);
		put(w, (uint32_t)msg->reply.status, 4);
		put_text(w, msg->reply.text, OB_WIRE_TEXT_MAX);
		break;
	case OB_WIRE_SET_LIMIT:
		put(w, msg->set_limit.bytes, 8);
		put(w, msg->set_limit.maximum_bytes, 8);
		break;
	case OB_WIRE_RELEASE:
		break;
	case OB_WIRE_POLL:
		refuse(w, msg->poll.interval_ms < OB_WIRE_POLL_MIN_MS || msg->poll.interval_ms > OB_WIRE_POLL_MAX_MS);
		put(w, msg->poll.interval_ms, 4);
		break;
	default:
		w->failed = -EINVAL;
	}
}

int ob_wire_encode(const struct ob_wire_msg *msg, void *buf, size_t size)
{
	size_t room = OB_MIN(size, (size_t)OB_WIRE_MAX);
	struct writer header = { .at = buf, .end = (uint8_t *)buf + room };
	struct writer payload = { .at = (uint8_t *)buf + OB_WIRE_HEADER_SIZE, .end = header.end };
	uint32_t length;

	if (room < OB_WIRE_HEADER_SIZE)
		return -EMSGSIZE;
	put_payload(&payload, msg);
	if (payload.failed)
		return payload.failed;
	length = (uint32_t)(payload.at - (uint8_t *)buf) - OB_WIRE_HEADER_SIZE;
	put(&header, OB_WIRE_MAGIC, 4);
	put(&header, OB_WIRE_VERSION, 2);
	put(&header, msg->type, 2);
	put(&header, length, 4);
	put(&header, msg->sequence, 4);
	put(&header, 0, 8);
	return (int)(OB_WIRE_HEADER_SIZE + length);
}

static void complain(struct reader *r, const char *wrong)
{
	if (!r->wrong)
		r->wrong = wrong;
}

static uint64_t get(struct reader *r, unsigned bytes)
{
	uint64_t value = 0;

	if ((size_t)(r->end - r->at) < bytes) {
		complain(r, "it ends too early");
		r->at = r->end;
		return 0;
	}
	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)*r->at++ << (8 * i);
	return value;
}

/* text has room for most bytes and NUL. */
static void get_text(struct reader *r, char *text, size_t most)
{
	size_t n = (size_t)get(r, 2);

	text[0] = '\0';
	if (n > most)
		complain(r, "a text is longer than is allowed");
	else if ((size_t)(r->end - r->at) < n)
		complain(r, "a text ends too early");
	else if (memchr(r->at, '\0', n))
		complain(r, "a text holds a NUL");
	if (r->wrong)
		return;
	memcpy(text, r->at, n);
	text[n] = '\0';
	r->at += n;
}

static void get_hello(struct reader *r, struct ob_wire_msg *msg)
{
	msg->hello.pid = (uint32_t)get(r, 4);
	msg->hello.shares = (uint32_t)get(r, 4);
	msg->hello.reservation_bytes = get(r, 8);
	msg->hello.maximum_bytes = get(r, 8);
	msg->hello.limit_bytes = get(r, 8);
	msg->hello.flags = (uint32_t)get(r, 4);
	get_text(r, msg->hello.name, OB_NAME_MAX);
	get_text(r, msg->hello.domain, OB_NAME_MAX);
	get_text(r, msg->hello.program, OB_NAME_MAX);
	if (!msg->hello.pid || msg->hello.pid > INT32_MAX)
		complain(r, "its pid is not one");
	if (!msg->hello.shares || msg->hello.shares > OB_SHARES_MAX)
		complain(r, "its shares are not from 1 to 1000000");
	if (msg->hello.flags & ~OB_WIRE_RELEASED)
		complain(r, "it has flags that are not known");
	if (!ob_name_valid(msg->hello.name))
		complain(r, "its name is not one");
	if (*msg->hello.domain && !ob_name_valid(msg->hello.domain))
		complain(r, "its domain's name is not one");
}

/* A newer peer may send more fields, kinds and buckets than are known here, an older one fewer: the missing ones are 0. */
static void get_stats(struct reader *r, struct ob_wire_msg *msg)
{
	uint64_t fields[STATS_FIELDS] = { 0 };
	uint32_t n = (uint32_t)get(r, 4), kinds, buckets;

	memset(&msg->stats, 0, sizeof(msg->stats));
	if (n > (size_t)(r->end - r->at) / 8)
		complain(r, "it has fewer numbers than it says");
	for (uint32_t i = 0; !r->wrong && i < n; i++) {
		uint64_t value = get(r, 8);

		if (i < STATS_FIELDS)
			fields[i] = value;
	}
	memcpy(&msg->stats.stats, fields, sizeof(fields));
	kinds = (uint32_t)get(r, 4);
	buckets = (uint32_t)get(r, 4);
	if ((uint64_t)kinds * buckets > (size_t)(r->end - r->at) / 8)
		complain(r, "it has fewer histograms than it says");
	if (!buckets)
		kinds = 0;
	for (uint32_t kind = 0; !r->wrong && kind < kinds; kind++) {
		for (uint32_t i = 0; i < buckets; i++) {
			uint64_t value = get(r, 8);

			if (kind < OB_HIST_KINDS && i < OB_HIST_BUCKETS)
				msg->stats.hists.count[kind][i] = value;
		}
	}
}

static void get_ranges(struct reader *r, struct ob_wire_msg *msg)
{
	msg->ranges.n = (uint32_t)get(r, 4);
	if (msg->ranges.n > OB_WIRE_RANGES_MAX)
		complain(r, "it has more than 64 ranges");
	for (uint32_t i = 0; !r->wrong && i < msg->ranges.n; i++) {
		struct ob_wire_range *range = &msg->ranges.range[i];

		range->kind = (uint32_t)get(r, 4);
		if (get(r, 4))
			complain(r, "reserved bits of a range are set");
		range->start = get(r, 8);
		range->end = get(r, 8);
		if (range->start >= range->end)
			complain(r, "a range is empty or runs backwards");
	}
}

static void get_reply(struct reader *r, struct ob_wire_msg *msg)
{
	msg->reply.to = (uint32_t)get(r, 4);
	msg->reply.status = (int32_t)(uint32_t)get(r, 4);
	get_text(r, msg->reply.text, OB_WIRE_TEXT_MAX);
	if (msg->reply.status > 0 || msg->reply.status < -ERRNO_MAX)
		complain(r, "its status is neither 0 nor -errno");
}

static void get_payload(struct reader *r, struct ob_wire_msg *msg)
{
	switch (msg->type) {
	case OB_WIRE_HELLO:
		get_hello(r, msg);
		break;
	case OB_WIRE_STATS:
		get_stats(r, msg);
		break;
	case OB_WIRE_RANGES:
		get_ranges(r, msg);
		break;
	case OB_WIRE_STOPPED:
		get_text(r, msg->stopped.cause, OB_WIRE_TEXT_MAX);
		break;
	case OB_WIRE_REPLY:
		get_reply(r, msg);
		break;
	case OB_WIRE_SET_LIMIT:
		msg->set_limit.bytes = get(r, 8);
		msg->set_limit.maximum_bytes = get(r, 8);
		break;
	case OB_WIRE_RELEASE:
		break;
	case OB_WIRE_POLL:
		msg->poll.interval_ms = (uint32_t)get(r, 4);
		if (msg->poll.interval_ms < OB_WIRE_POLL_MIN_MS || msg->poll.interval_ms > OB_WIRE_POLL_MAX_MS)
			complain(r, "its interval is not from 20 to 60000 ms");
		break;
	}
	if (r->at != r->end)
		complain(r, "it is longer than its fields");
}

/* Reads the header; *ret_msg gets type and sequence. */
static int get_header(struct reader *r, size_t len, struct ob_wire_msg *ret_msg, struct ob_error *err)
{
	uint64_t magic, version, length, reserved;

	if (len < OB_WIRE_HEADER_SIZE || len > OB_WIRE_MAX)
		return ob_error_set(err, EPROTO, "a message of %zu bytes: it must have from %d to %d", len, OB_WIRE_HEADER_SIZE,
				    OB_WIRE_MAX);
	magic = get(r, 4);
	version = get(r, 2);
	ret_msg->type = (uint16_t)get(r, 2);
	length = get(r, 4);
	ret_msg->sequence = (uint32_t)get(r, 4);
	reserved = get(r, 8);
	if (magic != OB_WIRE_MAGIC)
		return ob_error_set(err, EPROTO, "a message that starts with 0x%08x, not with \"OVBK\"", (unsigned)magic);
	if (version != OB_WIRE_VERSION)
		return ob_error_set(err, EPROTO, "a message of protocol version %u: this program speaks version %d",
				    (unsigned)version, OB_WIRE_VERSION);
	if (reserved)
		return ob_error_set(err, EPROTO, "a message whose reserved bits are set (0x%llx)", (unsigned long long)reserved);
	if (length != len - OB_WIRE_HEADER_SIZE)
		return ob_error_set(err, EPROTO, "a message of type %u that says its payload has %llu bytes and has %zu",
				    ret_msg->type, (unsigned long long)length, len - OB_WIRE_HEADER_SIZE);
	return 0;
}

int ob_wire_decode(const void *buf, size_t len, struct ob_wire_msg *ret_msg, struct ob_error *err)
{
	struct reader r = { .at = buf, .end = (const uint8_t *)buf + len };
	struct ob_wire_msg msg;
	int result;

	memset(&msg, 0, sizeof(msg));
	result = get_header(&r, len, &msg, err);
	if (result < 0)
		return result;
	if (!type_name(msg.type))
		return ob_error_set(err, ENOTSUP, "a message of type %u, which is not known here", msg.type);
	get_payload(&r, &msg);
	if (r.wrong)
		return ob_error_set(err, EPROTO, "a %s message of %zu bytes: %s", type_name(msg.type), len, r.wrong);
	*ret_msg = msg;
	return 0;
}
