/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/json.h"

#include <errno.h>
#include <string.h>

static const char *skip_blanks(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
		at++;
	return at;
}

/* Behind the text that begins at the quote; NULL when it does not end. */
static const char *skip_text(const char *at, const char *end)
{
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if (*at == '\\')
			at++;
	}
	return NULL;
}

/* Behind a number, true, false or null: what it is made of is looked at by who wants it. */
static const char *skip_word(const char *at, const char *end)
{
	const char *start = at;

	while (at < end && !strchr(" \t\r\n,:]}[{\"", *at))
		at++;
	return at > start ? at : NULL;
}

static const char *skip_value(const char *at, const char *end, unsigned depth);

/* Behind what separates members or items: at the next one, or at the bracket that closes. NULL when there is neither. */
static const char *skip_comma(const char *at, const char *end, char close)
{
	at = skip_blanks(at, end);
	if (at == end || (*at != ',' && *at != close))
		return NULL;
	return *at == ',' ? skip_blanks(at + 1, end) : at;
}

/* Behind a key and its colon. */
static const char *skip_key(const char *at, const char *end)
{
	at = at < end && *at == '"' ? skip_text(at, end) : NULL;
	at = at ? skip_blanks(at, end) : NULL;
	return at && at < end && *at == ':' ? skip_blanks(at + 1, end) : NULL;
}

static const char *skip_nested(const char *at, const char *end, unsigned depth)
{
	char close = *at == '{' ? '}' : ']';

	at = skip_blanks(at + 1, end);
	while (at && at < end && *at != close) {
		if (close == '}')
			at = skip_key(at, end);
		at = at ? skip_value(at, end, depth + 1) : NULL;
		at = at ? skip_comma(at, end, close) : NULL;
	}
	return at && at < end ? at + 1 : NULL;
}

/* Behind the value that begins at `at`; NULL when it is none. */
static const char *skip_value(const char *at, const char *end, unsigned depth)
{
	if (at >= end || depth > OB_JSON_DEPTH)
		return NULL;
	if (*at == '{' || *at == '[')
		return skip_nested(at, end, depth);
	return *at == '"' ? skip_text(at, end) : skip_word(at, end);
}

int ob_json_whole(const char *text, size_t length, struct ob_json *ret_value)
{
	const char *end = text + length, *at = skip_blanks(text, end), *behind = skip_value(at, end, 0);

	if (!behind || skip_blanks(behind, end) != end)
		return -EPROTO;
	*ret_value = (struct ob_json){ at, behind };
	return 0;
}

/* Whether the text at the quote is this one. */
static int is_text(const char *at, const char *end, const char *text)
{
	size_t length = strlen(text);

	return (size_t)(end - at) >= length + 2 && !memcmp(at + 1, text, length) && at[length + 1] == '"';
}

int ob_json_member(struct ob_json object, const char *key, struct ob_json *ret_value)
{
	const char *at, *end = object.end;

	if (*object.at != '{')
		return -ENOENT;
	for (at = skip_blanks(object.at + 1, end); at && at < end && *at != '}'; at = skip_comma(at, end, '}')) {
		int is_it = is_text(at, end, key);
		const char *value = skip_key(at, end);

		at = value ? skip_value(value, end, 0) : NULL;
		if (!at)
			return -ENOENT;
		if (is_it) {
			*ret_value = (struct ob_json){ value, at };
			return 0;
		}
	}
	return -ENOENT;
}

int ob_json_item(struct ob_json array, struct ob_json *item, int is_first)
{
	const char *at, *end = array.end;

	if (*array.at != '[')
		return -ENOENT;
	at = is_first ? skip_blanks(array.at + 1, end) : skip_comma(item->end, end, ']');
	if (!at || at >= end || *at == ']')
		return -ENOENT;
	*item = (struct ob_json){ at, skip_value(at, end, 0) };
	return item->end ? 0 : -ENOENT;
}

int ob_json_number(struct ob_json value, uint64_t *ret_number)
{
	uint64_t number = 0;

	for (const char *at = value.at; at < value.end; at++)
		if (*at < '0' || *at > '9' || __builtin_mul_overflow(number, 10u, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
			return -ERANGE;
	*ret_number = number;
	return 0;
}

int ob_json_begins(struct ob_json value, const char *start)
{
	size_t length = strlen(start);

	return *value.at == '"' && (size_t)(value.end - value.at) >= length + 2 && !memcmp(value.at + 1, start, length);
}
