/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes and reads the frames of guest.h. No I/O, no allocation; any bytes may be given to it. */
#include "proto/guest.h"

#include <errno.h>
#include <string.h>

#include "proto/wire.h"

#define MAGIC     "OBGA"
#define CHECK_AT  (OB_GUEST_FRAME - 4)
#define ERRNO_MAX 4095

/* Where the next field lies: frames have room for all of their fields, so nothing is compared. */
struct cursor {
	uint8_t *at;
};

static void put(struct cursor *c, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*c->at++ = (uint8_t)(value >> (8 * i));
}

static uint64_t get(struct cursor *c, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)*c->at++ << (8 * i);
	return value;
}

static uint32_t get_u32(struct cursor *c)
{
	return (uint32_t)get(c, 4);
}

static void put_text(struct cursor *c, const char *text)
{
	memcpy(c->at, text, strlen(text));
	c->at += OB_GUEST_NAME_MAX + 1;
}

/* The text must end, and have nothing but NUL behind its end. */
static int get_text(struct cursor *c, char *ret_text)
{
	size_t length = strnlen((const char *)c->at, OB_GUEST_NAME_MAX + 1);

	memcpy(ret_text, c->at, OB_GUEST_NAME_MAX + 1);
	c->at += OB_GUEST_NAME_MAX + 1;
	for (size_t i = length; i <= OB_GUEST_NAME_MAX; i++)
		if (ret_text[i])
			return 0;
	return length <= OB_GUEST_NAME_MAX;
}

static uint32_t check_of(const uint8_t *buf)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < CHECK_AT; i++)
		hash = (hash ^ buf[i]) * 16777619u;
	return hash;
}

int ob_guest_name_valid(const char *text)
{
	return ob_name_valid(text) && strlen(text) <= OB_GUEST_NAME_MAX;
}

static int is_printable(const char *text)
{
	size_t n = strnlen(text, OB_GUEST_NAME_MAX + 1);

	for (size_t i = 0; i < n; i++)
		if (text[i] < 0x20 || text[i] > 0x7e)
			return 0;
	return n <= OB_GUEST_NAME_MAX;
}

static int is_app(const struct ob_guest_app *app)
{
	return app->pain <= OB_GUEST_PAIN_MAX && !(app->flags & ~(OB_GUEST_APP_FINAL | OB_GUEST_APP_GONE)) && app->status <= 0 &&
	       app->status >= -ERRNO_MAX && app->used_bytes <= OB_GUEST_BYTES_MAX && app->could_bytes <= OB_GUEST_BYTES_MAX &&
	       app->target_bytes <= OB_GUEST_BYTES_MAX && app->given_bytes <= OB_GUEST_BYTES_MAX && ob_guest_name_valid(app->name);
}

static int is_memory(const struct ob_guest_memory *memory)
{
	const uint64_t bytes[] = { memory->total_bytes, memory->free_bytes, memory->available_bytes, memory->caches_bytes, memory->swap_bytes,
				   memory->swap_free_bytes };

	for (size_t i = 0; i < OB_ARRAY_LEN(bytes); i++)
		if (bytes[i] > OB_GUEST_BYTES_MAX)
			return 0;
	return !(memory->flags & ~OB_GUEST_HAS_PRESSURE) && memory->apps <= OB_GUEST_APPS_MAX;
}

/* Whether what is written is what may be read. */
static int is_valid(const struct ob_guest_msg *msg)
{
	switch (msg->type) {
	case OB_GUEST_HELLO:
		return is_printable(msg->hello.program);
	case OB_GUEST_MEMORY:
		return is_memory(&msg->memory);
	case OB_GUEST_APP:
		return is_app(&msg->app);
	case OB_GUEST_WELCOME:
		return msg->welcome.interval_ms >= OB_GUEST_INTERVAL_MIN_MS && msg->welcome.interval_ms <= OB_GUEST_INTERVAL_MAX_MS;
	case OB_GUEST_TARGET:
		return msg->target.deadline_ms <= OB_GUEST_DEADLINE_MAX_MS && msg->target.give_bytes <= OB_GUEST_BYTES_MAX;
	default:
		return 0;
	}
}

static void put_memory(struct cursor *c, const struct ob_guest_memory *memory)
{
	put(c, memory->flags, 4);
	put(c, memory->apps, 4);
	put(c, memory->total_bytes, 8);
	put(c, memory->free_bytes, 8);
	put(c, memory->available_bytes, 8);
	put(c, memory->caches_bytes, 8);
	put(c, memory->swap_bytes, 8);
	put(c, memory->swap_free_bytes, 8);
	put(c, memory->some_us, 8);
	put(c, memory->full_us, 8);
}

static void get_memory(struct cursor *c, struct ob_guest_memory *memory)
{
	memory->flags = get_u32(c);
	memory->apps = get_u32(c);
	memory->total_bytes = get(c, 8);
	memory->free_bytes = get(c, 8);
	memory->available_bytes = get(c, 8);
	memory->caches_bytes = get(c, 8);
	memory->swap_bytes = get(c, 8);
	memory->swap_free_bytes = get(c, 8);
	memory->some_us = get(c, 8);
	memory->full_us = get(c, 8);
}

static void put_app(struct cursor *c, const struct ob_guest_app *app)
{
	put(c, app->app, 4);
	put(c, app->kind, 4);
	put(c, app->pain, 4);
	put(c, app->flags, 4);
	put(c, (uint32_t)app->status, 4);
	put(c, app->answers, 4);
	put(c, app->used_bytes, 8);
	put(c, app->could_bytes, 8);
	put(c, app->target_bytes, 8);
	put(c, app->given_bytes, 8);
	put(c, app->pid, 4);
	put(c, 0, 4);
	put_text(c, app->name);
}

/* Returns whether it is in one piece. */
static int get_app(struct cursor *c, struct ob_guest_app *app)
{
	uint32_t zero;

	app->app = get_u32(c);
	app->kind = get_u32(c);
	app->pain = get_u32(c);
	app->flags = get_u32(c);
	app->status = (int32_t)get_u32(c);
	app->answers = get_u32(c);
	app->used_bytes = get(c, 8);
	app->could_bytes = get(c, 8);
	app->target_bytes = get(c, 8);
	app->given_bytes = get(c, 8);
	app->pid = get_u32(c);
	zero = get_u32(c);
	return get_text(c, app->name) && !zero;
}

int ob_guest_encode(const struct ob_guest_msg *msg, uint8_t *buf)
{
	struct cursor c = { .at = buf + 4 };

	if (!is_valid(msg))
		return -EINVAL;
	memset(buf, 0, OB_GUEST_FRAME);
	memcpy(buf, MAGIC, 4);
	put(&c, OB_GUEST_VERSION, 1);
	put(&c, msg->type, 1);
	put(&c, 0, 2);
	put(&c, msg->session, 4);
	put(&c, msg->sequence, 4);
	switch (msg->type) {
	case OB_GUEST_HELLO:
		put_text(&c, msg->hello.program);
		break;
	case OB_GUEST_MEMORY:
		put_memory(&c, &msg->memory);
		break;
	case OB_GUEST_APP:
		put_app(&c, &msg->app);
		break;
	case OB_GUEST_WELCOME:
		put(&c, msg->welcome.interval_ms, 4);
		break;
	default:
		put(&c, msg->target.app, 4);
		put(&c, msg->target.deadline_ms, 4);
		put(&c, msg->target.give_bytes, 8);
	}
	c.at = buf + CHECK_AT;
	put(&c, check_of(buf), 4);
	return 0;
}

/* Returns whether the payload is in one piece; c is behind its last field then. */
static int get_payload(struct cursor *c, struct ob_guest_msg *msg)
{
	switch (msg->type) {
	case OB_GUEST_HELLO:
		return get_text(c, msg->hello.program);
	case OB_GUEST_MEMORY:
		get_memory(c, &msg->memory);
		return 1;
	case OB_GUEST_APP:
		return get_app(c, &msg->app);
	case OB_GUEST_WELCOME:
		msg->welcome.interval_ms = get_u32(c);
		return 1;
	default:
		msg->target.app = get_u32(c);
		msg->target.deadline_ms = get_u32(c);
		msg->target.give_bytes = get(c, 8);
		return 1;
	}
}

static int is_known(uint8_t type)
{
	return type == OB_GUEST_HELLO || type == OB_GUEST_MEMORY || type == OB_GUEST_APP || type == OB_GUEST_WELCOME || type == OB_GUEST_TARGET;
}

int ob_guest_decode(const uint8_t *buf, struct ob_guest_msg *ret_msg)
{
	uint8_t frame[OB_GUEST_FRAME];
	struct cursor c = { .at = frame + CHECK_AT };
	struct ob_guest_msg msg;

	memcpy(frame, buf, sizeof(frame));
	if (memcmp(frame, MAGIC, 4) || get_u32(&c) != check_of(frame))
		return -EBADMSG;
	c.at = frame + 4;
	memset(&msg, 0, sizeof(msg));
	if (get(&c, 1) != OB_GUEST_VERSION)
		return -ENOTSUP;
	msg.type = (uint8_t)get(&c, 1);
	if (get(&c, 2))
		return -EPROTO;
	msg.session = get_u32(&c);
	msg.sequence = get_u32(&c);
	if (!is_known(msg.type))
		return -ENOTSUP;
	if (!get_payload(&c, &msg) || !is_valid(&msg))
		return -EPROTO;
	for (; c.at < frame + CHECK_AT; c.at++)
		if (*c.at)
			return -EPROTO;
	*ret_msg = msg;
	return 0;
}

/* Drops what cannot be a frame's beginning; at least `least` bytes. */
static void drop(struct ob_guest_reader *reader, size_t least)
{
	const uint8_t *next = least < reader->used ? memchr(reader->buf + least, MAGIC[0], reader->used - least) : NULL;
	size_t n = next ? (size_t)(next - reader->buf) : reader->used;

	reader->skipped_bytes += n;
	reader->used -= n;
	memmove(reader->buf, reader->buf + n, reader->used);
}

int ob_guest_read(struct ob_guest_reader *reader, const uint8_t **at, const uint8_t *end, struct ob_guest_msg *ret_msg)
{
	while (*at < end) {
		size_t n = OB_MIN((size_t)(end - *at), sizeof(reader->buf) - reader->used);
		int r;

		memcpy(reader->buf + reader->used, *at, n);
		reader->used += n;
		*at += n;
		drop(reader, 0);
		if (reader->used < sizeof(reader->buf))
			continue;
		r = ob_guest_decode(reader->buf, ret_msg);
		if (r == -EBADMSG) {
			drop(reader, 1);
			continue;
		}
		reader->used = 0;
		reader->bad_frames += r == -EPROTO;
		if (r == 0)
			return 1;
	}
	return 0;
}
