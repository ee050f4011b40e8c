/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks into JSON where it lies: what QEMU's monitor answers. No allocation, no copy; a value is the span of its text.
 *
 * A span that a caller is given is a whole value, nested at most OB_JSON_DEPTH deep. Texts are compared as they are
 * written: one with a backslash in it equals nothing.
 */
#ifndef OB_AGENT_JSON_H
#define OB_AGENT_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_JSON_DEPTH 16

struct ob_json {
	const char *at, *end;
};

/* The value that the text holds, with nothing but blanks around it. 0, or -EPROTO. */
int ob_json_whole(const char *text, size_t length, struct ob_json *ret_value) OB_MUST_CHECK;

/* A member of an object. 0, or -ENOENT: there is none, or it is no object. */
int ob_json_member(struct ob_json object, const char *key, struct ob_json *ret_value) OB_MUST_CHECK;

/* The first item of an array, and with *item the one before: the next. 0, or -ENOENT: there are no more. */
int ob_json_item(struct ob_json array, struct ob_json *item, int is_first) OB_MUST_CHECK;

/* A number without sign, fraction or exponent. 0, or -ERANGE. */
int ob_json_number(struct ob_json value, uint64_t *ret_number) OB_MUST_CHECK;

/* Whether it is a text that begins so. */
int ob_json_begins(struct ob_json value, const char *start);

#endif
