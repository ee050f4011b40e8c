/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes and reads the messages of wire.h. Two cursors, one that writes and one that reads, know the bounds; each message
 * is a short list of fields on top of them (the table `kinds`). A cursor that has run over its end stays there and answers
 * zeros, so that only the end result needs a check. No I/O, no allocation, no global state; any bytes may be given to ob_wire_decode().
 */
#include "proto/wire.h"

#include <errno.h>
#include <string.h>

#define STATS_FIELDS (sizeof(struct ob_stats) / sizeof(uint64_t))
#define ERRNO_MAX    4095
#define CPU_MAX      1000 /* permille of a processor */

struct writer {
	uint8_t *at, *end;
	int failed; /* 0 or the -errno to answer */
};

struct reader {
	const uint8_t *at, *end;
	const char *wrong; /* what broke the rules first, NULL while nothing has */
};

/* A type of message: its payload's fields, both ways; or, of a message about sharing that is a list, those of its entries. */
struct kind {
	const char *name;
	void (*put)(struct writer *w, const struct ob_wire_msg *msg);
	void (*get)(struct reader *r, struct ob_wire_msg *msg);
	void (*put_item)(struct writer *w, const struct ob_wire_msg *msg, uint32_t i);
	void (*get_item)(struct reader *r, struct ob_wire_msg *msg, uint32_t i);
};

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

static void put_slot(struct writer *w, uint64_t extent, uint32_t index)
{
	refuse(w, !extent || index >= OB_WIRE_EXTENT_MAX);
	put(w, extent, 8);
	put(w, index, 4);
}

static void put_status(struct writer *w, int32_t status)
{
	refuse(w, status > 0 || status < -ERRNO_MAX);
	put(w, (uint32_t)status, 4);
}

static void put_staging(struct writer *w, uint32_t staging)
{
	refuse(w, staging >= OB_WIRE_STAGING_MAX);
	put(w, staging, 4);
}

static void put_offered(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	const struct ob_wire_offer *item = &msg->offer.item[i];

	put(w, item->page, 8);
	put(w, item->lo, 8);
	put(w, item->hi, 8);
	put(w, item->class, 4);
	put(w, 0, 4);
}

static void put_one_staged(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->staged.item[i].page, 8);
	put_status(w, msg->staged.item[i].status);
	put_staging(w, msg->staged.item[i].staging);
}

static void put_one_held(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->held.item[i].page, 8);
	put_slot(w, msg->held.item[i].extent, msg->held.item[i].index);
	put_status(w, msg->held.item[i].status);
}

static void put_one_dropped(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->dropped.item[i].count);
	put_slot(w, msg->dropped.item[i].extent, msg->dropped.item[i].index);
	put(w, msg->dropped.item[i].count, 4);
}

static void put_orphan(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->orphans.item[i].extent);
	put(w, msg->orphans.item[i].extent, 8);
	put(w, msg->orphans.item[i].held, 4);
	put(w, 0, 4);
}

static void put_fetched(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->fetch.item[i].page, 8);
	put(w, msg->fetch.item[i].lo, 8);
	put(w, msg->fetch.item[i].hi, 8);
	put_staging(w, msg->fetch.item[i].staging);
	put(w, 0, 4);
}

static void put_adopted(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->adopt.item[i].page, 8);
	put_slot(w, msg->adopt.item[i].extent, msg->adopt.item[i].index);
	put(w, 0, 4);
}

static void put_one_kept(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->kept.item[i]);
	put(w, msg->kept.item[i], 8);
}

static int is_subpages(uint32_t n)
{
	return n && n <= OB_WIRE_SUBPAGES_MAX && !(n & (n - 1));
}

static void put_subpages(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !is_subpages(msg->subpages.n));
	put(w, msg->subpages.n, 4);
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

static void put_share(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->share.flags & ~OB_WIRE_SHARE_ON || msg->share.cpu_permille > CPU_MAX);
	put(w, msg->share.flags, 4);
	put(w, msg->share.cpu_permille, 4);
	for (unsigned i = 0; i < OB_WIRE_KEY_SIZE; i++)
		put(w, msg->share.key[i], 1);
}

static void put_extent(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !msg->extent.id || !msg->extent.pages || msg->extent.pages > OB_WIRE_EXTENT_MAX);
	put(w, msg->extent.id, 8);
	put(w, msg->extent.pages, 4);
	put(w, 0, 4);
}

static void put_drop_extent(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !msg->drop_extent.id);
	put(w, msg->drop_extent.id, 8);
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

static void get_zero(struct reader *r)
{
	if (get(r, 4))
		complain(r, "reserved bits of an entry are set");
}

static uint64_t get_extent_id(struct reader *r)
{
	uint64_t id = get(r, 8);

	if (!id)
		complain(r, "an extent's name is 0");
	return id;
}

static uint32_t get_index(struct reader *r)
{
	uint32_t index = (uint32_t)get(r, 4);

	if (index >= OB_WIRE_EXTENT_MAX)
		complain(r, "a slot lies beyond the largest extent");
	return index;
}

static int32_t get_status(struct reader *r)
{
	int32_t status = (int32_t)(uint32_t)get(r, 4);

	if (status > 0 || status < -ERRNO_MAX)
		complain(r, "a status is neither 0 nor -errno");
	return status;
}

static uint32_t get_staging(struct reader *r)
{
	uint32_t staging = (uint32_t)get(r, 4);

	if (staging >= OB_WIRE_STAGING_MAX)
		complain(r, "a page of the staging memory is not one of 64");
	return staging;
}

static void get_offered(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	struct ob_wire_offer *item = &msg->offer.item[i];

	item->page = get(r, 8);
	item->lo = get(r, 8);
	item->hi = get(r, 8);
	item->class = (uint32_t)get(r, 4);
	get_zero(r);
}

static void get_one_staged(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->staged.item[i].page = get(r, 8);
	msg->staged.item[i].status = get_status(r);
	msg->staged.item[i].staging = get_staging(r);
}

static void get_one_held(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->held.item[i].page = get(r, 8);
	msg->held.item[i].extent = get_extent_id(r);
	msg->held.item[i].index = get_index(r);
	msg->held.item[i].status = get_status(r);
}

static void get_one_dropped(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->dropped.item[i].extent = get_extent_id(r);
	msg->dropped.item[i].index = get_index(r);
	msg->dropped.item[i].count = (uint32_t)get(r, 4);
	if (!msg->dropped.item[i].count)
		complain(r, "it names a slot 0 times");
}

static void get_orphan(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->orphans.item[i].extent = get_extent_id(r);
	msg->orphans.item[i].held = (uint32_t)get(r, 4);
	get_zero(r);
}

static void get_fetched(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->fetch.item[i].page = get(r, 8);
	msg->fetch.item[i].lo = get(r, 8);
	msg->fetch.item[i].hi = get(r, 8);
	msg->fetch.item[i].staging = get_staging(r);
	get_zero(r);
}

static void get_adopted(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->adopt.item[i].page = get(r, 8);
	msg->adopt.item[i].extent = get_extent_id(r);
	msg->adopt.item[i].index = get_index(r);
	get_zero(r);
}

static void get_one_kept(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->kept.item[i] = get_extent_id(r);
}

static void get_share(struct reader *r, struct ob_wire_msg *msg)
{
	msg->share.flags = (uint32_t)get(r, 4);
	msg->share.cpu_permille = (uint32_t)get(r, 4);
	for (unsigned i = 0; i < OB_WIRE_KEY_SIZE; i++)
		msg->share.key[i] = (uint8_t)get(r, 1);
	if (msg->share.flags & ~OB_WIRE_SHARE_ON)
		complain(r, "it has flags that are not known");
	if (msg->share.cpu_permille > CPU_MAX)
		complain(r, "its part of a processor is more than 1000 permille");
}

static void get_subpages(struct reader *r, struct ob_wire_msg *msg)
{
	msg->subpages.n = (uint32_t)get(r, 4);
	if (!is_subpages(msg->subpages.n))
		complain(r, "it has not 1, 2, 4 or 8 sub-pages");
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

static void get_extent(struct reader *r, struct ob_wire_msg *msg)
{
	msg->extent.id = get_extent_id(r);
	msg->extent.pages = (uint32_t)get(r, 4);
	if (!msg->extent.pages || msg->extent.pages > OB_WIRE_EXTENT_MAX)
		complain(r, "its extent has not from 1 to 4096 pages");
	get_zero(r);
}

static void get_drop_extent(struct reader *r, struct ob_wire_msg *msg)
{
	msg->drop_extent.id = get_extent_id(r);
}

static const struct kind kinds[] = {
	[OB_WIRE_HELLO] = { "HELLO", put_hello, get_hello },
	[OB_WIRE_STATS] = { "STATS", put_stats, get_stats },
	[OB_WIRE_RANGES] = { "RANGES", put_ranges, get_ranges },
	[OB_WIRE_STOPPED] = { "STOPPED", put_stopped, get_stopped },
	[OB_WIRE_REPLY] = { "REPLY", put_reply, get_reply },
	[OB_WIRE_OFFER] = { "OFFER", .put_item = put_offered, .get_item = get_offered },
	[OB_WIRE_STAGED] = { "STAGED", .put_item = put_one_staged, .get_item = get_one_staged },
	[OB_WIRE_HELD] = { "HELD", .put_item = put_one_held, .get_item = get_one_held },
	[OB_WIRE_DROPPED] = { "DROPPED", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_ORPHANS] = { "ORPHANS", .put_item = put_orphan, .get_item = get_orphan },
	[OB_WIRE_WORN] = { "WORN", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_MAPS] = { "MAPS", put_nothing, get_nothing },
	[OB_WIRE_MORE_ORPHANS] = { "MORE_ORPHANS", .put_item = put_orphan, .get_item = get_orphan },
	[OB_WIRE_HOLDS] = { "HOLDS", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_BALLOON_SET] = { "BALLOON_SET", put_balloon_set, get_balloon_set },
	[OB_WIRE_SET_LIMIT] = { "SET_LIMIT", put_set_limit, get_set_limit },
	[OB_WIRE_RELEASE] = { "RELEASE", put_nothing, get_nothing },
	[OB_WIRE_POLL] = { "POLL", put_poll, get_poll },
	[OB_WIRE_SHARE] = { "SHARE", put_share, get_share },
	[OB_WIRE_EXTENT] = { "EXTENT", put_extent, get_extent },
	[OB_WIRE_FETCH] = { "FETCH", .put_item = put_fetched, .get_item = get_fetched },
	[OB_WIRE_ADOPT] = { "ADOPT", .put_item = put_adopted, .get_item = get_adopted },
	[OB_WIRE_UNSHARE] = { "UNSHARE", put_nothing, get_nothing },
	[OB_WIRE_DROP_EXTENT] = { "DROP_EXTENT", put_drop_extent, get_drop_extent },
	[OB_WIRE_MAY_MAP] = { "MAY_MAP", put_nothing, get_nothing },
	[OB_WIRE_KEPT] = { "KEPT", .put_item = put_one_kept, .get_item = get_one_kept },
	[OB_WIRE_DRAIN] = { "DRAIN", put_drop_extent, get_drop_extent },
	[OB_WIRE_SUBPAGES] = { "SUBPAGES", put_subpages, get_subpages },
	[OB_WIRE_LARGE] = { "LARGE", put_large, get_large },
	[OB_WIRE_BALLOON] = { "BALLOON", put_balloon, get_balloon },
	[OB_WIRE_GUEST] = { "GUEST", put_guest, get_guest },
};

static const struct kind *find_kind(uint16_t type)
{
	return type < OB_ARRAY_LEN(kinds) && kinds[type].name ? &kinds[type] : NULL;
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
