/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes and reads the messages of wire.h: each is a short list of fields (the table `kinds`, and that of wire_share.c) on top of the cursors of
 * wire_fields.h. No I/O, no allocation, no global state; any bytes may be given to ob_wire_decode().
 */
#include "proto/wire_fields.h"

#define STATS_FIELDS (sizeof(struct ob_stats) / sizeof(uint64_t))

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

static void put_stopped(struct writer *w, const struct ob_wire_msg *msg)
{
	put_text(w, msg->stopped.cause, OB_WIRE_TEXT_MAX);
}

static void put_reply(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->reply.status > 0 || msg->reply.status < -ERRNO_MAX);
	put(w, msg->reply.to, 4);
	put(w, (uint32_t)msg->reply.status, 4);
	put_text(w, msg->reply.text, OB_WIRE_TEXT_MAX);
}

static void put_set_limit(struct writer *w, const struct ob_wire_msg *msg)
{
	put(w, msg->set_limit.bytes, 8);
	put(w, msg->set_limit.maximum_bytes, 8);
}

static void put_nothing(struct writer *w, const struct ob_wire_msg *msg)
{
}

static void put_poll(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->poll.interval_ms < OB_WIRE_POLL_MIN_MS || msg->poll.interval_ms > OB_WIRE_POLL_MAX_MS);
	put(w, msg->poll.interval_ms, 4);
}

static int is_large(const struct ob_wire_msg *msg)
{
	return msg->large.policy < OB_WIRE_LARGE_POLICIES && msg->large.state < OB_WIRE_LARGE_STATES &&
	       msg->large.hot_pages <= OB_WIRE_LARGE_PAGES_MAX && msg->large.cold_pages <= OB_WIRE_LARGE_PAGES_MAX;
}

static int is_large_rate(const struct ob_wire_msg *msg)
{
	return msg->large.scan_rate <= OB_WIRE_LARGE_RATE_MAX && msg->large.break_rate <= OB_WIRE_LARGE_RATE_MAX &&
	       msg->large.collapse_rate <= OB_WIRE_LARGE_RATE_MAX;
}

static void put_large(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !is_large(msg) || !is_large_rate(msg) || msg->large.flags & ~OB_WIRE_LARGE_MAY_MAKE);
	put(w, msg->large.policy, 4);
	put(w, msg->large.state, 4);
	put(w, msg->large.hot_pages, 4);
	put(w, msg->large.cold_pages, 4);
	put(w, msg->large.flags, 4);
	put(w, msg->large.scan_rate, 4);
	put(w, msg->large.break_rate, 4);
	put(w, msg->large.collapse_rate, 4);
}

static int is_balloon(const struct ob_wire_balloon *balloon)
{
	return balloon->mode < OB_BALLOON_MODES && !balloon->size_bytes == (balloon->mode != OB_BALLOON_FIXED);
}

static int is_balloon_order(const struct ob_wire_balloon *balloon)
{
	return !(balloon->flags & ~OB_WIRE_BALLOON_DRIVE) && balloon->look_ms >= OB_WIRE_LOOK_MIN_MS && balloon->look_ms <= OB_WIRE_LOOK_MAX_MS;
}

static void put_balloon_set(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !is_balloon(&msg->balloon));
	put(w, msg->balloon.mode, 4);
	put(w, 0, 4);
	put(w, msg->balloon.size_bytes, 8);
	put(w, msg->balloon.target_bytes, 8);
}

static void put_balloon(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !is_balloon(&msg->balloon) || !is_balloon_order(&msg->balloon));
	put(w, msg->balloon.mode, 4);
	put(w, msg->balloon.flags, 4);
	put(w, msg->balloon.size_bytes, 8);
	put(w, msg->balloon.target_bytes, 8);
	put(w, msg->balloon.look_ms, 4);
	put(w, 0, 4);
}

static void put_guest(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->guest.flags & ~OB_WIRE_GUEST_ANEW || msg->guest.n > OB_WIRE_GUEST_MAX);
	put(w, msg->guest.flags, 4);
	put(w, msg->guest.n, 4);
	for (uint32_t i = 0; !w->failed && i < msg->guest.n; i++)
		put(w, msg->guest.bytes[i], 1);
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

static void get_stopped(struct reader *r, struct ob_wire_msg *msg)
{
	get_text(r, msg->stopped.cause, OB_WIRE_TEXT_MAX);
}

static void get_set_limit(struct reader *r, struct ob_wire_msg *msg)
{
	msg->set_limit.bytes = get(r, 8);
	msg->set_limit.maximum_bytes = get(r, 8);
}

static void get_nothing(struct reader *r, struct ob_wire_msg *msg)
{
}

static void get_poll(struct reader *r, struct ob_wire_msg *msg)
{
	msg->poll.interval_ms = (uint32_t)get(r, 4);
	if (msg->poll.interval_ms < OB_WIRE_POLL_MIN_MS || msg->poll.interval_ms > OB_WIRE_POLL_MAX_MS)
		complain(r, "its interval is not from 20 to 60000 ms");
}

static void get_large(struct reader *r, struct ob_wire_msg *msg)
{
	msg->large.policy = (uint32_t)get(r, 4);
	msg->large.state = (uint32_t)get(r, 4);
	msg->large.hot_pages = (uint32_t)get(r, 4);
	msg->large.cold_pages = (uint32_t)get(r, 4);
	msg->large.flags = (uint32_t)get(r, 4);
	msg->large.scan_rate = (uint32_t)get(r, 4);
	msg->large.break_rate = (uint32_t)get(r, 4);
	msg->large.collapse_rate = (uint32_t)get(r, 4);
	if (!is_large(msg))
		complain(r, "a policy above 3, a state above 2, or more than 513 pages");
	if (!is_large_rate(msg))
		complain(r, "a rate of more than 65536 chunks a second");
	if (msg->large.flags & ~OB_WIRE_LARGE_MAY_MAKE)
		complain(r, "it has flags that are not known");
}

static void check_balloon(struct reader *r, const struct ob_wire_balloon *balloon)
{
	if (!is_balloon(balloon))
		complain(r, "its mode is above 3, or has a size and should have none, or none and should");
}

static void get_balloon_set(struct reader *r, struct ob_wire_msg *msg)
{
	msg->balloon.mode = (uint32_t)get(r, 4);
	get_zero(r);
	msg->balloon.size_bytes = get(r, 8);
	msg->balloon.target_bytes = get(r, 8);
	check_balloon(r, &msg->balloon);
}

static void get_balloon(struct reader *r, struct ob_wire_msg *msg)
{
	msg->balloon.mode = (uint32_t)get(r, 4);
	msg->balloon.flags = (uint32_t)get(r, 4);
	msg->balloon.size_bytes = get(r, 8);
	msg->balloon.target_bytes = get(r, 8);
	msg->balloon.look_ms = (uint32_t)get(r, 4);
	get_zero(r);
	check_balloon(r, &msg->balloon);
	if (!is_balloon_order(&msg->balloon))
		complain(r, "it has flags that are not known, or looks not every 100 to 600000 ms");
}

static void get_guest(struct reader *r, struct ob_wire_msg *msg)
{
	msg->guest.flags = (uint32_t)get(r, 4);
	msg->guest.n = (uint32_t)get(r, 4);
	if (msg->guest.flags & ~OB_WIRE_GUEST_ANEW)
		complain(r, "it has flags that are not known");
	if (msg->guest.n > OB_WIRE_GUEST_MAX)
		complain(r, "it has more than 2048 bytes of the guest's port");
	for (uint32_t i = 0; !r->wrong && i < msg->guest.n; i++)
		msg->guest.bytes[i] = (uint8_t)get(r, 1);
}

static const struct kind kinds[] = {
	[OB_WIRE_HELLO] = { "HELLO", put_hello, get_hello },
	[OB_WIRE_STATS] = { "STATS", put_stats, get_stats },
	[OB_WIRE_RANGES] = { "RANGES", put_ranges, get_ranges },
	[OB_WIRE_STOPPED] = { "STOPPED", put_stopped, get_stopped },
	[OB_WIRE_REPLY] = { "REPLY", put_reply, get_reply },
	[OB_WIRE_MAPS] = { "MAPS", put_nothing, get_nothing },
	[OB_WIRE_BALLOON_SET] = { "BALLOON_SET", put_balloon_set, get_balloon_set },
	[OB_WIRE_SET_LIMIT] = { "SET_LIMIT", put_set_limit, get_set_limit },
	[OB_WIRE_RELEASE] = { "RELEASE", put_nothing, get_nothing },
	[OB_WIRE_POLL] = { "POLL", put_poll, get_poll },
	[OB_WIRE_UNSHARE] = { "UNSHARE", put_nothing, get_nothing },
	[OB_WIRE_MAY_MAP] = { "MAY_MAP", put_nothing, get_nothing },
	[OB_WIRE_LARGE] = { "LARGE", put_large, get_large },
	[OB_WIRE_BALLOON] = { "BALLOON", put_balloon, get_balloon },
	[OB_WIRE_GUEST] = { "GUEST", put_guest, get_guest },
};

static const struct kind *find_kind(uint16_t type)
{
	if (type < OB_ARRAY_LEN(kinds) && kinds[type].name)
		return &kinds[type];
	return type < OB_WIRE_SHARE_KINDS && ob_wire_share_kinds[type].name ? &ob_wire_share_kinds[type] : NULL;
}

/* The number of a list's entries lies at the same place in all of them. */
static void put_list(struct writer *w, const struct ob_wire_msg *msg, const struct kind *kind)
{
	refuse(w, msg->offer.n > OB_WIRE_SHARES_MAX);
	put(w, msg->offer.n, 4);
	for (uint32_t i = 0; !w->failed && i < msg->offer.n; i++)
		kind->put_item(w, msg, i);
}

static void get_list(struct reader *r, struct ob_wire_msg *msg, const struct kind *kind)
{
	msg->offer.n = (uint32_t)get(r, 4);
	if (msg->offer.n > OB_WIRE_SHARES_MAX)
		complain(r, "it has more than 512 entries");
	for (uint32_t i = 0; !r->wrong && i < msg->offer.n; i++)
		kind->get_item(r, msg, i);
}

int ob_wire_encode(const struct ob_wire_msg *msg, void *buf, size_t size)
{
	size_t room = OB_MIN(size, (size_t)OB_WIRE_MAX);
	struct writer header = { .at = buf, .end = (uint8_t *)buf + room };
	struct writer payload = { .at = (uint8_t *)buf + OB_WIRE_HEADER_SIZE, .end = header.end };
	const struct kind *kind = find_kind(msg->type);
	uint32_t length;

	if (room < OB_WIRE_HEADER_SIZE)
		return -EMSGSIZE;
	if (!kind)
		return -EINVAL;
	if (kind->put_item)
		put_list(&payload, msg, kind);
	else
		kind->put(&payload, msg);
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
	const struct kind *kind;
	struct ob_wire_msg msg;
	int result;

	memset(&msg, 0, sizeof(msg));
	result = get_header(&r, len, &msg, err);
	if (result < 0)
		return result;
	kind = find_kind(msg.type);
	if (!kind)
		return ob_error_set(err, ENOTSUP, "a message of type %u, which is not known here", msg.type);
	if (kind->get_item)
		get_list(&r, &msg, kind);
	else
		kind->get(&r, &msg);
	if (r.at != r.end)
		complain(&r, "it is longer than its fields");
	if (r.wrong)
		return ob_error_set(err, EPROTO, "a %s message of %zu bytes: %s", kind->name, len, r.wrong);
	*ret_msg = msg;
	return 0;
}
