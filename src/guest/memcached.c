/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memcached: over its unix socket, in its text protocol.
 *
 *     look      stats settings, stats slabs: its limit, whether it may evict and move pages, what its pages take
 *     limit     cache_memlimit, in MiB
 *     let go    slabs reassign CLASS 0: a page of a class goes to the pool of free pages, and from there, while there are more than the
 *               limit allows, to the kernel
 *
 * A smaller limit alone gives back what lies in that pool, which is little, so pages are taken from whichever class has most. What lies in a page
 * that goes is moved to free places in its class, or else evicted: that is memcached's matter.
 *
 * With -M it would refuse to store, and without slab_reassign it cannot move pages; one with a limit below LEAST could not be told that again.
 * Those are shown, and give nothing. The password is for servers with -Y, and is said to those alone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "guest/adaptor.h"

#define LEAST      (8 * OB_MIB) /* no lower limit is taken */
#define PAGES      64           /* moved in one turn, at most */
#define BUSY_US    2000         /* from one try to the next while a page is on its way */
#define CLASS_MOST 63 /* the number of the last */
#define LINE_SIZE  128
#define VALUE_SIZE 32

/*
 * Says a request, and reads its answer: lines of STAT, if it has any, are a text in server->in afterwards; the line that ends it is in ret_line,
 * LINE_SIZE bytes.
 */
static int ask(struct ob_server *server, const char *request, char *ret_line, struct ob_error *err)
{
	size_t at = 0;
	int r;

	server->used = 0;
	r = ob_server_send(server, request, strlen(request), err);
	while (r == 0) {
		char *line = (char *)server->in + at, *end = memchr(line, '\n', server->used - at);
		size_t length = end ? (size_t)(end - line) : 0;

		if (!end) {
			r = ob_server_more(server, err);
			continue;
		}
		at += length + 1;
		if (!strncmp(line, "STAT ", strlen("STAT ")))
			continue;
		if (!length || length > LINE_SIZE || line[length - 1] != '\r')
			return ob_error_set(err, EPROTO, "memcached's answer cannot be understood");
		memcpy(ret_line, line, length - 1);
		ret_line[length - 1] = '\0';
		*line = '\0';
		return 0;
	}
	return r;
}

static bool is_unauthenticated(const char *line)
{
	return !strcmp(line, "CLIENT_ERROR unauthenticated");
}

static int refuse(const char *line, const char *what, struct ob_error *err)
{
	if (is_unauthenticated(line))
		return ob_error_sys(err, EACCES, "memcached refuses %s without a password", what);
	return ob_error_set(err, EPERM, "memcached refuses %s: %s", what, line);
}

static int ask_stats(struct ob_server *server, const char *request, struct ob_error *err)
{
	char line[LINE_SIZE];
	int r = ask(server, request, line, err);

	return r == 0 && strcmp(line, "END") ? refuse(line, "statistics", err) : r;
}

/* The value of "STAT KEY VALUE\r\n"; "": there is none. */
static void find_stat(const struct ob_server *server, const char *key, char *ret_value)
{
	size_t length = strlen(key);

	ret_value[0] = '\0';
	for (const char *line = (const char *)server->in, *end = strchr(line, '\n'); end; line = end + 1, end = strchr(line, '\n')) {
		const char *name = line + strlen("STAT "), *value = name + length + 1;

		if (end > value && !strncmp(name, key, length) && name[length] == ' ' && end - value <= VALUE_SIZE) {
			memcpy(ret_value, value, (size_t)(end - value) - 1);
			ret_value[end - value - 1] = '\0';
			return;
		}
	}
}

static int find_bytes(const struct ob_server *server, const char *key, uint64_t *ret_bytes, struct ob_error *err)
{
	char value[VALUE_SIZE];

	find_stat(server, key, value);
	return ob_server_parse_bytes(value, ret_bytes) < 0 ? ob_error_set(err, EPROTO, "memcached's %s is \"%s\"", key, value) : 0;
}

static int authenticate(struct ob_server *server, const char *secret, struct ob_error *err)
{
	char request[512], line[LINE_SIZE];
	int r;

	snprintf(request, sizeof(request), "set overbook 0 0 %zu\r\n%s %s\r\n", strlen(server->service->user) + 1 + strlen(secret), server->service->user, secret);
	r = ask(server, request, line, err);
	explicit_bzero(request, sizeof(request));
	return r == 0 && strcmp(line, "STORED") ? ob_error_sys(err, EACCES, "memcached refuses the password") : r;
}

static int greet(struct ob_server *server, struct ob_error *err)
{
	char secret[OB_SECRET_MAX], line[LINE_SIZE];
	int r = ob_server_secret(server, secret, err);

	server->grain_bytes = OB_MIB;
	if (r == 0)
		r = ask(server, "version\r\n", line, err);
	if (r == 0 && is_unauthenticated(line) && secret[0])
		r = authenticate(server, secret, err);
	else if (r == 0 && strncmp(line, "VERSION ", strlen("VERSION ")))
		r = refuse(line, "to let us in", err);
	explicit_bzero(secret, sizeof(secret));
	return r;
}

static int look(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err)
{
	char evictions[VALUE_SIZE], reassign[VALUE_SIZE];
	struct ob_server_sizes sizes = { 0 };
	uint64_t page = 0;
	int r = ask_stats(server, "stats settings\r\n", err);

	if (r == 0)
		r = find_bytes(server, "maxbytes", &sizes.limit_bytes, err);
	if (r == 0)
		r = find_bytes(server, "item_size_max", &page, err);
	if (r < 0)
		return r;
	find_stat(server, "evictions", evictions);
	find_stat(server, "slab_reassign", reassign);
	r = ask_stats(server, "stats slabs\r\n", err);
	if (r == 0)
		r = find_bytes(server, "total_malloced", &sizes.used_bytes, err);
	if (r < 0)
		return r;
	server->grain_bytes = OB_MAX(page, OB_MIB);
	server->limit_bytes = sizes.limit_bytes;
	sizes.can_shrink = !strcmp(evictions, "on") && !strcmp(reassign, "yes") && sizes.limit_bytes >= LEAST;
	*ret_sizes = sizes;
	return 0;
}

static int set_limit(struct ob_server *server, uint64_t bytes, struct ob_error *err)
{
	char request[64], line[LINE_SIZE];
	int r;

	snprintf(request, sizeof(request), "cache_memlimit %llu\r\n", (OB_MAX(bytes, LEAST) + OB_MIB - 1) / OB_MIB);
	r = ask(server, request, line, err);
	return r == 0 && strcmp(line, "OK") ? refuse(line, "another limit", err) : r;
}

/* The class with most pages in the answer to stats slabs, if it has more than one; else 0. */
static unsigned largest_class(const struct ob_server *server)
{
	static const char key[] = ":total_pages ";
	unsigned long most = 1, found = 0;

	for (const char *line = (const char *)server->in, *end = strchr(line, '\n'); end; line = end + 1, end = strchr(line, '\n')) {
		char *at;
		unsigned long class = strtoul(line + strlen("STAT "), &at, 10), pages;

		if (strncmp(at, key, strlen(key)))
			continue;
		pages = strtoul(at + strlen(key), NULL, 10);
		if (pages > most && class <= CLASS_MOST) {
			most = pages;
			found = class;
		}
	}
	return (unsigned)found;
}

/* Moves one page towards the kernel. Returns 1, 0: there is nothing to move, or -errno. */
static int move_page(struct ob_server *server, struct ob_error *err)
{
	char request[64], line[LINE_SIZE];
	uint64_t used = 0;
	unsigned class;
	int r = ask_stats(server, "stats slabs\r\n", err);

	if (r == 0)
		r = find_bytes(server, "total_malloced", &used, err);
	class = r == 0 && used > server->limit_bytes ? largest_class(server) : 0;
	if (!class)
		return r;
	snprintf(request, sizeof(request), "slabs reassign %u 0\r\n", class);
	r = ask(server, request, line, err);
	if (r < 0)
		return r;
	if (strncmp(line, "BUSY", strlen("BUSY")))
		return !strcmp(line, "OK");
	usleep(BUSY_US);
	return 1;
}

static int let_go(struct ob_server *server, struct ob_error *err)
{
	int r = 1;

	for (unsigned i = 0; i < PAGES && r == 1; i++)
		r = move_page(server, err);
	return OB_MIN(r, 0);
}

const struct ob_adaptor ob_memcached = {
	.name = "memcached", .kind = OB_GUEST_KIND_MEMCACHED, .sockets = { "/run/memcached/memcached.sock", NULL },
	.floor_bytes = 32 * OB_MIB, .pain = 20, .greet = greet, .look = look, .set_limit = set_limit, .let_go = let_go,
};
