/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes and reads the frames of guest.h. No I/O, no allocation; any bytes may be given to it. */
#include "proto/guest.h"

#include "proto/wire_fields.h"

#define MAGIC    "OBGA"
#define CHECK_AT (OB_GUEST_FRAME - 4)

/* Unlike put_text(), of one size. */
static void put_name(struct writer *w, const char *text)
{
	size_t length = strlen(text);

	for (size_t i = 0; i <= OB_GUEST_NAME_MAX; i++)
		put(w, i < length ? (uint8_t)text[i] : 0, 1);
}

static void get_name(struct reader *r, char *ret_text)
{
	int has_ended = 0;

	for (size_t i = 0; i <= OB_GUEST_NAME_MAX; i++) {
		ret_text[i] = (char)get(r, 1);
		if (has_ended && ret_text[i])
			complain(r, "a text goes on behind its end");
		has_ended |= !ret_text[i];
	}
	if (!has_ended)
		complain(r, "a text has no end");
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
	return !(memory->flags & ~(OB_GUEST_HAS_PRESSURE | OB_GUEST_GATHERS)) && memory->apps <= OB_GUEST_APPS_MAX;
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

static void put_memory(struct writer *w, const struct ob_guest_memory *memory)
{
	put(w, memory->flags, 4);
	put(w, memory->apps, 4);
	put(w, memory->total_bytes, 8);
	put(w, memory->free_bytes, 8);
	put(w, memory->available_bytes, 8);
	put(w, memory->caches_bytes, 8);
	put(w, memory->swap_bytes, 8);
	put(w, memory->swap_free_bytes, 8);
	put(w, memory->some_us, 8);
	put(w, memory->full_us, 8);
}

static void get_memory(struct reader *r, struct ob_guest_memory *memory)
{
	memory->flags = (uint32_t)get(r, 4);
	memory->apps = (uint32_t)get(r, 4);
	memory->total_bytes = get(r, 8);
	memory->free_bytes = get(r, 8);
	memory->available_bytes = get(r, 8);
	memory->caches_bytes = get(r, 8);
	memory->swap_bytes = get(r, 8);
	memory->swap_free_bytes = get(r, 8);
	memory->some_us = get(r, 8);
	memory->full_us = get(r, 8);
}

static void put_app(struct writer *w, const struct ob_guest_app *app)
{
	put(w, app->app, 4);
	put(w, app->kind, 4);
	put(w, app->pain, 4);
	put(w, app->flags, 4);
	put(w, (uint32_t)app->status, 4);
	put(w, app->answers, 4);
	put(w, app->used_bytes, 8);
	put(w, app->could_bytes, 8);
	put(w, app->target_bytes, 8);
	put(w, app->given_bytes, 8);
	put(w, app->pid, 4);
	put(w, 0, 4);
	put_name(w, app->name);
}

static void get_app(struct reader *r, struct ob_guest_app *app)
{
	app->app = (uint32_t)get(r, 4);
	app->kind = (uint32_t)get(r, 4);
	app->pain = (uint32_t)get(r, 4);
	app->flags = (uint32_t)get(r, 4);
	app->status = (int32_t)get(r, 4);
	app->answers = (uint32_t)get(r, 4);
	app->used_bytes = get(r, 8);
	app->could_bytes = get(r, 8);
	app->target_bytes = get(r, 8);
	app->given_bytes = get(r, 8);
	app->pid = (uint32_t)get(r, 4);
	get_zero(r);
	get_name(r, app->name);
}

static void put_check(uint8_t *buf)
{
	struct writer w = { .at = buf + CHECK_AT, .end = buf + OB_GUEST_FRAME };

	put(&w, check_of(buf), 4);
}

int ob_guest_encode(const struct ob_guest_msg *msg, uint8_t *buf)
{
	struct writer w = { .at = buf + 4, .end = buf + CHECK_AT };

	if (!is_valid(msg))
		return -EINVAL;
	memset(buf, 0, OB_GUEST_FRAME);
	memcpy(buf, MAGIC, 4);
	put(&w, OB_GUEST_VERSION, 1);
	put(&w, msg->type, 1);
	put(&w, 0, 2);
	put(&w, msg->session, 4);
	put(&w, msg->sequence, 4);
	switch (msg->type) {
	case OB_GUEST_HELLO:
		put_name(&w, msg->hello.program);
		break;
	case OB_GUEST_MEMORY:
		put_memory(&w, &msg->memory);
		break;
	case OB_GUEST_APP:
		put_app(&w, &msg->app);
		break;
	case OB_GUEST_WELCOME:
		put(&w, msg->welcome.interval_ms, 4);
		break;
	default:
		put(&w, msg->target.app, 4);
		put(&w, msg->target.deadline_ms, 4);
		put(&w, msg->target.give_bytes, 8);
	}
	put_check(buf);
	return w.failed;
}

static void get_payload(struct reader *r, struct ob_guest_msg *msg)
{
	switch (msg->type) {
	case OB_GUEST_HELLO:
		get_name(r, msg->hello.program);
		break;
	case OB_GUEST_MEMORY:
		get_memory(r, &msg->memory);
		break;
	case OB_GUEST_APP:
		get_app(r, &msg->app);
		break;
	case OB_GUEST_WELCOME:
		msg->welcome.interval_ms = (uint32_t)get(r, 4);
		break;
	default:
		msg->target.app = (uint32_t)get(r, 4);
		msg->target.deadline_ms = (uint32_t)get(r, 4);
		msg->target.give_bytes = get(r, 8);
	}
	for (; r->at < r->end; r->at++)
		if (*r->at)
			complain(r, "something stands behind the last field");
}

static int is_known(uint8_t type)
{
	return type == OB_GUEST_HELLO || type == OB_GUEST_MEMORY || type == OB_GUEST_APP || type == OB_GUEST_WELCOME || type == OB_GUEST_TARGET;
}

int ob_guest_decode(const uint8_t *buf, struct ob_guest_msg *ret_msg)
{
	struct reader check = { .at = buf + CHECK_AT, .end = buf + OB_GUEST_FRAME }, r = { .at = buf + 4, .end = buf + CHECK_AT };
	struct ob_guest_msg msg;

	if (memcmp(buf, MAGIC, 4) || get(&check, 4) != check_of(buf))
		return -EBADMSG;
	memset(&msg, 0, sizeof(msg));
	if (get(&r, 1) != OB_GUEST_VERSION)
		return -ENOTSUP;
	msg.type = (uint8_t)get(&r, 1);
	if (get(&r, 2))
		return -EPROTO;
	msg.session = (uint32_t)get(&r, 4);
	msg.sequence = (uint32_t)get(&r, 4);
	if (!is_known(msg.type))
		return -ENOTSUP;
	get_payload(&r, &msg);
	if (r.wrong || !is_valid(&msg))
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
