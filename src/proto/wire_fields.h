/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two cursors, one that writes the fields of a message and one that reads them, and know the bounds: for wire.c, wire_share.c and guest.c. A cursor
 * that has run over its end stays there and answers zeros, so that only the end result needs a check.
 */
#ifndef OB_PROTO_WIRE_FIELDS_H
#define OB_PROTO_WIRE_FIELDS_H

#include <errno.h>
#include <string.h>

#include "proto/wire.h"

#define ERRNO_MAX 4095

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

/* Of the messages about sharing that have fields, by their type; the others are zeros. */
#define OB_WIRE_SHARE_KINDS (OB_WIRE_DRAIN + 1)
extern const struct kind ob_wire_share_kinds[OB_WIRE_SHARE_KINDS];

static inline void put(struct writer *w, uint64_t value, unsigned bytes)
{
	if (w->failed || (size_t)(w->end - w->at) < bytes) {
		w->failed = w->failed ? w->failed : -EMSGSIZE;
		return;
	}
	for (unsigned i = 0; i < bytes; i++)
		*w->at++ = (uint8_t)(value >> (8 * i));
}

static inline void put_text(struct writer *w, const char *text, size_t most)
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

static inline void refuse(struct writer *w, int broken)
{
	if (broken && !w->failed)
		w->failed = -EINVAL;
}

static inline void complain(struct reader *r, const char *wrong)
{
	if (!r->wrong)
		r->wrong = wrong;
}

static inline uint64_t get(struct reader *r, unsigned bytes)
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
static inline void get_text(struct reader *r, char *text, size_t most)
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

static inline void get_zero(struct reader *r)
{
	if (get(r, 4))
		complain(r, "reserved bits of an entry are set");
}

#endif
