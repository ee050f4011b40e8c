/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MariaDB: over its unix socket, in its own protocol, as far as a greeting and queries with one short row need it.
 *
 *     look      @@innodb_buffer_pool_size, Innodb_buffer_pool_bytes_data, and at first how sizes are rounded
 *     limit     SET GLOBAL innodb_buffer_pool_size, which holds until the server is started anew
 *
 * It lets us in by who we are (unix_socket), as Debian's does root; there are no passwords here. A server that asks for one is not ours.
 *
 * A library would bring its own ways to read files, to load plugins and to use the heap into a static program; this is a header of four bytes, and
 * texts with lengths in front.
 *
 * Pages that the pool has once used stay resident until it is shrunk, empty or not: so what is used is the most that it has held since, within its
 * size. Sizes are whole MiB since 10.11.12, before that whole chunks of all instances; a size is rounded up to those, so that nobody gives more
 * than he was asked for. A size that the server does not like it changes to another one with a warning: serve.c reads back what has become
 * of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "guest/adaptor.h"

#define HEADER      4
#define COLUMNS_MAX 4
#define VALUE_MAX   64
#define ROWS_MAX    16 /* more are not read */

/* CLIENT_LONG_PASSWORD, CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH: not CLIENT_LOCAL_FILES, nor CLIENT_MULTI_STATEMENTS. */
#define CAPABILITIES (0x1u | 0x200u | 0x8000u | 0x80000u)
#define CHARSET      33 /* utf8 */

static int say(struct ob_server *server, const uint8_t *payload, size_t size, struct ob_error *err)
{
	uint8_t packet[1024];

	if (size + HEADER > sizeof(packet))
		return ob_error_set(err, EINVAL, "a request of %zu bytes", size);
	packet[0] = (uint8_t)size;
	packet[1] = (uint8_t)(size >> 8);
	packet[2] = 0;
	packet[3] = server->number++;
	memcpy(packet + HEADER, payload, size);
	return ob_server_send(server, packet, size + HEADER, err);
}

/* The next packet, which lies at the beginning of server->in until it is dropped. */
static int hear(struct ob_server *server, size_t *ret_size, struct ob_error *err)
{
	for (;;) {
		if (server->used >= HEADER) {
			size_t size = server->in[0] | (size_t)server->in[1] << 8 | (size_t)server->in[2] << 16;

			if (size > sizeof(server->in) - HEADER)
				return ob_error_set(err, EPROTO, "MariaDB sends a packet of %zu bytes", size);
			if (server->used >= HEADER + size) {
				server->number = (uint8_t)(server->in[3] + 1);
				*ret_size = size;
				return 0;
			}
		}
		int r = ob_server_more(server, err);

		if (r < 0)
			return r;
	}
}

static void drop(struct ob_server *server, size_t size)
{
	ob_server_drop(server, HEADER + size);
}

/* ERR: 0xff, a number, '#' and a state of five letters, a text. */
static int error_of(const struct ob_server *server, size_t size, const char *what, struct ob_error *err)
{
	const uint8_t *at = server->in + HEADER;
	unsigned number = size >= 3 ? at[1] | (unsigned)at[2] << 8 : 0;
	size_t text = size > 9 && at[3] == '#' ? 9 : OB_MIN(size, (size_t)3), length = OB_MIN(size - text, (size_t)200);
	int code = EPERM;

	/* Who we are is not known there, or may not do that; 1205 and 1040: a lock, too many connections. */
	if (number == 1045 || number == 1698 || number == 1044 || number == 1130)
		code = EACCES;
	else if (number == 1205 || number == 1040 || number == 1203)
		code = EAGAIN;
	return ob_error_set(err, code, "MariaDB refuses %s: %.*s (%u)", what, (int)length, (const char *)at + text, number);
}

static int greet_user(struct ob_server *server, struct ob_error *err)
{
	static const char plugin[] = "mysql_native_password";
	const char *user = server->service->user[0] ? server->service->user : "root";
	uint8_t payload[256] = { CAPABILITIES & 0xff, CAPABILITIES >> 8 & 0xff, CAPABILITIES >> 16 & 0xff, CAPABILITIES >> 24, 0, 0, 1, 0, CHARSET };
	size_t at = 32, size;
	int r;

	memcpy(payload + at, user, strlen(user) + 1);
	at += strlen(user) + 1;
	payload[at++] = 0; /* bytes of an answer to the challenge */
	memcpy(payload + at, plugin, sizeof(plugin));
	r = say(server, payload, at + sizeof(plugin), err);
	if (r == 0)
		r = hear(server, &size, err);
	if (r < 0)
		return r;
	if (size && server->in[HEADER] == 0xff)
		return error_of(server, size, "to let us in", err);
	if (!size || server->in[HEADER])
		return ob_error_set(err, EACCES, "MariaDB asks user \"%s\" for a password: that user is not identified by unix_socket", user);
	drop(server, size);
	return 0;
}

/* A text with its length in front. Returns 0 or -EPROTO; NULL in SQL is an empty one. */
static int get_text(const uint8_t **at, const uint8_t *end, char *ret_text)
{
	size_t length = *at < end ? *(*at)++ : 255;

	if (length == 251) {
		ret_text[0] = '\0';
		return 0;
	}
	if (length >= VALUE_MAX || (size_t)(end - *at) < length)
		return -EPROTO;
	memcpy(ret_text, *at, length);
	ret_text[length] = '\0';
	*at += length;
	return strlen(ret_text) == length ? 0 : -EPROTO;
}

static bool is_end(const struct ob_server *server, size_t size)
{
	return size && size < 9 && server->in[HEADER] == 0xfe;
}

/* Reads a result of n columns: the first row counts. */
static int get_rows(struct ob_server *server, unsigned n, char (*ret_values)[VALUE_MAX], struct ob_error *err)
{
	bool has_row = false;
	size_t size;
	int r;

	for (unsigned i = 0; i < n + 1; i++) {
		r = hear(server, &size, err);
		if (r < 0)
			return r;
		if (i == n && !is_end(server, size))
			return ob_error_set(err, EPROTO, "MariaDB's answer cannot be understood");
		drop(server, size);
	}
	for (unsigned rows = 0; rows <= ROWS_MAX; rows++) {
		const uint8_t *at = server->in + HEADER;

		r = hear(server, &size, err);
		if (r < 0)
			return r;
		if (size && *at == 0xff)
			return error_of(server, size, "a query", err);
		if (is_end(server, size)) {
			drop(server, size);
			return has_row ? 0 : ob_error_set(err, EPROTO, "MariaDB's answer has no rows");
		}
		for (unsigned i = 0; i < n && !has_row; i++)
			if (get_text(&at, server->in + HEADER + size, ret_values[i]) < 0)
				return ob_error_set(err, EPROTO, "MariaDB's answer cannot be understood");
		has_row = true;
		drop(server, size);
	}
	return ob_error_set(err, EPROTO, "MariaDB's answer has more than %d rows", ROWS_MAX);
}

/* COM_QUERY. n: of the columns that it has; 0: it has no result. */
static int query(struct ob_server *server, const char *sql, unsigned n, char (*ret_values)[VALUE_MAX], struct ob_error *err)
{
	uint8_t request[512] = { 3 };
	size_t length = strnlen(sql, sizeof(request) - 1), size;
	int r;

	memcpy(request + 1, sql, length);
	server->number = 0;
	server->used = 0;
	r = say(server, request, length + 1, err);
	if (r == 0)
		r = hear(server, &size, err);
	if (r < 0)
		return r;
	if (size && server->in[HEADER] == 0xff)
		return error_of(server, size, n ? "a query" : "another size", err);
	/* Without a result: 0; otherwise the number of columns, and nothing else (0xfb would be a wish for a file of ours). */
	if (!size || server->in[HEADER] != n || (n && size != 1))
		return ob_error_set(err, EPROTO, "MariaDB's answer cannot be understood");
	drop(server, size);
	return n ? get_rows(server, n, ret_values, err) : 0;
}

/* What sizes are rounded to. Variables that a version does not have are no rows. */
static int ask_grain(struct ob_server *server, struct ob_error *err)
{
	char values[COLUMNS_MAX][VALUE_MAX];
	uint64_t grain;
	int r = query(server,
		      "SELECT COALESCE(EXP(SUM(LN(NULLIF(CAST(VARIABLE_VALUE AS UNSIGNED),0)))),0) DIV 1 FROM information_schema.GLOBAL_VARIABLES "
		      "WHERE VARIABLE_NAME IN ('INNODB_BUFFER_POOL_CHUNK_SIZE','INNODB_BUFFER_POOL_INSTANCES')", 1, values, err);

	if (r < 0)
		return r;
	if (ob_server_parse_bytes(values[0], &grain) < 0)
		return ob_error_set(err, EPROTO, "MariaDB's chunks have \"%s\" bytes", values[0]);
	/* The product comes by logarithms: to the next MiB. */
	grain = (grain + OB_MIB / 2) / OB_MIB * OB_MIB;
	server->grain_bytes = OB_MAX(grain, OB_MIB);
	return 0;
}

static int greet(struct ob_server *server, struct ob_error *err)
{
	size_t size;
	int r = hear(server, &size, err);

	if (r < 0)
		return r;
	if (size && server->in[HEADER] == 0xff)
		return error_of(server, size, "to let us in", err);
	if (!size || server->in[HEADER] != 10)
		return ob_error_set(err, EPROTO, "who listens on \"%s\" does not speak MariaDB's protocol", server->service->socket);
	drop(server, size);
	r = greet_user(server, err);
	return r < 0 ? r : ask_grain(server, err);
}

static int look(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err)
{
	char values[COLUMNS_MAX][VALUE_MAX];
	uint64_t limit, data;
	int r = query(server,
		      "SELECT @@GLOBAL.innodb_buffer_pool_size, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE "
		      "VARIABLE_NAME='INNODB_BUFFER_POOL_BYTES_DATA'", 2, values, err);

	if (r < 0)
		return r;
	if (ob_server_parse_bytes(values[0], &limit) < 0 || ob_server_parse_bytes(values[1], &data) < 0)
		return ob_error_set(err, EPROTO, "MariaDB's pool has \"%s\" of \"%s\" bytes", values[1], values[0]);
	server->most_bytes = OB_MAX(server->most_bytes, data);
	server->most_bytes = OB_MIN(server->most_bytes, limit);
	*ret_sizes = (struct ob_server_sizes){ .limit_bytes = limit, .used_bytes = server->most_bytes, .can_shrink = true };
	return 0;
}

static int set_limit(struct ob_server *server, uint64_t bytes, struct ob_error *err)
{
	uint64_t grain = server->grain_bytes;
	char sql[96];

	bytes = (bytes + grain - 1) / grain * grain;
	snprintf(sql, sizeof(sql), "SET GLOBAL innodb_buffer_pool_size=%" PRIu64, bytes);
	return query(server, sql, 0, NULL, err);
}

const struct ob_adaptor ob_mariadb = {
	.name = "mariadb", .kind = OB_GUEST_KIND_MARIADB, .sockets = { "/run/mysqld/mysqld.sock", NULL },
	.floor_bytes = 128 * OB_MIB, .pain = 60, .greet = greet, .look = look, .set_limit = set_limit,
};
