/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Redis, and Valkey: over its unix socket, in RESP 2.
 *
 *     look      INFO memory, INFO replication, CONFIG GET maxmemory*: what it uses, its limit, whether it may evict
 *     limit     CONFIG SET maxmemory; Redis evicts on from there by itself
 *     let go    MEMORY PURGE: what its allocator keeps for later goes to the kernel
 *
 * It is shrunk only if its maxmemory-policy is one of allkeys-*. With noeviction a smaller limit makes it refuse to write, and with volatile-* it may; a
 * replica does what its master says. Those are shown, and give nothing.
 *
 * What is used is Redis's own count (used_memory). How much of it the kernel gets back depends on how the allocator's pages are filled
 * (active defragmentation would help, which Debian's Redis is built without): clients.c measures that, and counts no more.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "guest/adaptor.h"

#define ITEMS_MAX 64 /* of an array */
#define PASSWORD  "the password"

/* An answer: a piece of server->in. */
struct reply {
	char kind; /* + - : $ *; '_' for a null */
	const char *text;
	size_t length; /* bytes of text; for *, items */
	int64_t number;
};

/* One item at *at. Returns 1, 0: it has not come whole, or -EPROTO. */
static int parse(const char *in, size_t used, size_t *at, struct reply *ret_reply)
{
	const char *line = in + *at, *end = *at < used ? memchr(line, '\n', used - *at) : NULL;
	char *number_end;

	if (!end)
		return used - *at > 1024 ? -EPROTO : 0;
	if (end == line || end[-1] != '\r' || !strchr("+-:$*", *line) || end - line > 1024)
		return -EPROTO;
	*ret_reply = (struct reply){ .kind = *line, .text = line + 1, .length = (size_t)(end - line) - 2 };
	*at += (size_t)(end - line) + 1;
	if (*line == '+' || *line == '-')
		return 1;
	/* What follows the number is \r. */
	ret_reply->number = strtoll(line + 1, &number_end, 10);
	if (number_end == line + 1 || *number_end != '\r')
		return -EPROTO;
	if (*line == ':')
		return 1;
	if (ret_reply->number == -1) {
		ret_reply->kind = '_';
		return 1;
	}
	if (ret_reply->number < 0 || ret_reply->number > (*line == '*' ? ITEMS_MAX : (int64_t)OB_KIB * 60))
		return -EPROTO;
	ret_reply->length = (size_t)ret_reply->number;
	if (*line == '*')
		return 1;
	if (used - *at < ret_reply->length + 2)
		return 0;
	ret_reply->text = in + *at;
	if (memcmp(ret_reply->text + ret_reply->length, "\r\n", 2))
		return -EPROTO;
	*at += ret_reply->length + 2;
	return 1;
}

/* A whole answer: one item, or an array of items that are none. Returns as parse(). */
static int parse_whole(const char *in, size_t used, size_t *ret_length, struct reply *ret_items, size_t *ret_n)
{
	size_t at = 0, n = 1;
	int r = parse(in, used, &at, &ret_items[0]);

	if (r == 1 && ret_items[0].kind == '*') {
		n = ret_items[0].length;
		for (size_t i = 0; r == 1 && i < n; i++) {
			r = parse(in, used, &at, &ret_items[i]);
			if (r == 1 && ret_items[i].kind == '*')
				r = -EPROTO;
		}
	}
	*ret_length = at;
	*ret_n = n;
	return r;
}

/* What an error of Redis's means; its text is not shown where it could quote the password. */
static int error_of(const struct reply *reply, const char *what, struct ob_error *err)
{
	static const struct {
		const char *word;
		int code;
	} known[] = {
		{ "NOAUTH", EACCES }, { "WRONGPASS", EACCES }, { "ERR AUTH", EACCES }, { "ERR Client sent AUTH", EACCES }, { "ERR invalid password", EACCES },
		{ "NOPERM", EPERM }, { "LOADING", EAGAIN }, { "BUSY", EAGAIN },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(known); i++)
		if (reply->length >= strlen(known[i].word) && !strncmp(reply->text, known[i].word, strlen(known[i].word)))
			return ob_error_sys(err, known[i].code, "Redis refuses %s (%s)", what, known[i].word);
	if (!strcmp(what, PASSWORD))
		return ob_error_sys(err, EACCES, "Redis refuses " PASSWORD);
	return ob_error_set(err, EPERM, "Redis refuses %s: %.*s", what, (int)OB_MIN(reply->length, (size_t)100), reply->text);
}

/* Says a command of words, and reads its answer, which lies in server->in until the next one. */
static int ask(struct ob_server *server, const char *what, const char *const *words, struct reply *ret_items, size_t *ret_n, struct ob_error *err)
{
	char command[1024];
	size_t length, n = 0;
	int used, r;

	while (words[n])
		n++;
	used = snprintf(command, sizeof(command), "*%zu\r\n", n);
	for (size_t i = 0; i < n; i++)
		used += snprintf(command + used, sizeof(command) - (size_t)used, "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
	server->used = 0;
	r = ob_server_send(server, command, (size_t)used, err);
	explicit_bzero(command, sizeof(command));
	while (r == 0) {
		r = parse_whole((const char *)server->in, server->used, &length, ret_items, ret_n);
		if (r < 0)
			return ob_error_set(err, EPROTO, "Redis's answer to %s cannot be understood", what);
		if (r == 1)
			break;
		r = ob_server_more(server, err);
	}
	if (r < 0)
		return r;
	if (ret_items[0].kind == '-')
		return error_of(&ret_items[0], what, err);
	return 0;
}

static int greet(struct ob_server *server, struct ob_error *err)
{
	char secret[OB_SECRET_MAX];
	const char *user = server->service->user;
	const char *const with_user[] = { "AUTH", user, secret, NULL }, *const alone[] = { "AUTH", secret, NULL };
	struct reply items[ITEMS_MAX];
	size_t n;
	int r = ob_server_secret(server, secret, err);

	server->grain_bytes = OB_MIB;
	if (r == 0 && secret[0])
		r = ask(server, PASSWORD, *user ? with_user : alone, items, &n, err);
	explicit_bzero(secret, sizeof(secret));
	return r;
}

/* The value of "KEY:VALUE\r\n" in what INFO says. */
static int find_info(const struct reply *info, const char *key, char *ret_value, size_t size)
{
	size_t length = strlen(key);

	for (const char *at = info->text, *end = at + info->length, *line; at < end; at = line + 1) {
		line = memchr(at, '\n', (size_t)(end - at));
		if (!line)
			break;
		if ((size_t)(line - at) <= length + 1 || strncmp(at, key, length) || at[length] != ':' || line[-1] != '\r')
			continue;
		if (snprintf(ret_value, size, "%.*s", (int)(line - 1 - (at + length + 1)), at + length + 1) >= (int)size)
			return -EPROTO;
		return 0;
	}
	return -ENOENT;
}

static int ask_info(struct ob_server *server, const char *section, const char *key, char *ret_value, size_t size, struct ob_error *err)
{
	const char *const words[] = { "INFO", section, NULL };
	struct reply items[ITEMS_MAX];
	size_t n;
	int r = ask(server, "INFO", words, items, &n, err);

	if (r < 0)
		return r;
	if (items[0].kind != '$' || n != 1 || find_info(&items[0], key, ret_value, size) < 0)
		return ob_error_set(err, EPROTO, "Redis's INFO has no %s", key);
	return 0;
}

static int ask_config(struct ob_server *server, const char *key, char *ret_value, size_t size, struct ob_error *err)
{
	const char *const words[] = { "CONFIG", "GET", key, NULL };
	struct reply items[ITEMS_MAX];
	size_t n;
	int r = ask(server, "CONFIG GET", words, items, &n, err);

	if (r < 0)
		return r;
	if (n != 2 || items[1].kind != '$' || snprintf(ret_value, size, "%.*s", (int)items[1].length, items[1].text) >= (int)size)
		return ob_error_set(err, EPROTO, "Redis has no setting \"%s\"", key);
	return 0;
}

static int look(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err)
{
	char used[32], role[32], limit[32], policy[64];
	struct ob_server_sizes sizes = { 0 };
	int r = ask_info(server, "memory", "used_memory", used, sizeof(used), err);

	if (r == 0)
		r = ask_info(server, "replication", "role", role, sizeof(role), err);
	if (r == 0)
		r = ask_config(server, "maxmemory", limit, sizeof(limit), err);
	if (r == 0)
		r = ask_config(server, "maxmemory-policy", policy, sizeof(policy), err);
	if (r < 0)
		return r;
	if (ob_server_parse_bytes(used, &sizes.used_bytes) < 0 || ob_server_parse_bytes(limit, &sizes.limit_bytes) < 0)
		return ob_error_set(err, EPROTO, "Redis says that it uses \"%s\" of \"%s\"", used, limit);
	sizes.can_shrink = !strncmp(policy, "allkeys-", 8) && !strcmp(role, "master");
	*ret_sizes = sizes;
	return 0;
}

static int set_limit(struct ob_server *server, uint64_t bytes, struct ob_error *err)
{
	char value[32];
	const char *const words[] = { "CONFIG", "SET", "maxmemory", value, NULL };
	struct reply items[ITEMS_MAX];
	size_t n;

	snprintf(value, sizeof(value), "%" PRIu64, bytes);
	return ask(server, "CONFIG SET maxmemory", words, items, &n, err);
}

/* It may be refused (another allocator): what has gone is measured in any case. */
static int let_go(struct ob_server *server, struct ob_error *err)
{
	static const char *const words[] = { "MEMORY", "PURGE", NULL };
	struct reply items[ITEMS_MAX];
	size_t n;
	int r = ask(server, "MEMORY PURGE", words, items, &n, err);

	return r == -EPERM ? 0 : r;
}

const struct ob_adaptor ob_redis = {
	.name = "redis", .kind = OB_GUEST_KIND_REDIS,
	.sockets = { "/run/redis/redis-server.sock", "/run/redis/redis.sock", "/run/valkey/valkey-server.sock", NULL },
	.floor_bytes = 64 * OB_MIB, .pain = 30, .greet = greet, .look = look, .set_limit = set_limit, .let_go = let_go,
};
