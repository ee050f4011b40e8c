/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * balloon_load's MariaDB: a table with a row a key, of 2 to 6 KiB, that is read by its primary key, and one time in UPDATES_IN written anew. Keys that
 * are asked for often lie far apart, each on a page of its own. A row says of itself which key and version it is, and is compared
 * with what that has to be. Whether its page was in the buffer pool nobody says: what the whole server has read from its disk counts as missed.
 *
 * As much of the protocol as is needed: root is let in by who he is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "balloon_load.h"

#define HEAD         4u
#define CAPABLE      (0x1u | 0x200u | 0x8000u | 0x80000u) /* long passwords, 4.1, secure connection, plug-ins */
#define UPDATES_IN   20u
#define FILL_AT_ONCE 500u
#define STRIDE       7919u /* from a key to the next one that is wanted less */

/* Texts of digits and letters alone, so that they can stand in a statement. Returns the length, the same for all versions. */
static size_t make_value(uint32_t row, uint32_t version, char value[VALUE_MAX])
{
	uint64_t random = row;
	size_t length = (2 * KIB) + load_random(&random) % (4 * KIB);

	random ^= (uint64_t)version << 32;
	memcpy(value, load.text + load_random(&random) % (TEXT_BYTES - VALUE_MAX), length);
	snprintf(value, 22, "%010u %010u", row, version);
	value[21] = ' ';
	return length;
}

static uint32_t row_of(uint32_t key)
{
	return (uint32_t)((uint64_t)key * STRIDE % load.keys);
}

/* The next packet's payload is in client->in, from client->taken on. Returns its length. */
static size_t next_packet(struct client *client)
{
	const unsigned char *head;
	size_t length;

	load_receive(client, client->taken + HEAD);
	head = (const unsigned char *)client->in + client->taken;
	length = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16;
	load_receive(client, client->taken + HEAD + length);
	client->taken += HEAD;
	if (length && head[HEAD] == 0xff)
		load_fail("error what=mariadb errno=0 said=%.60s", client->in + client->taken + 9);
	return length;
}

static size_t take_packet(struct client *client)
{
	size_t length = next_packet(client);

	client->taken += length;
	return length;
}

/* The command is behind its head in client->out. */
static void send_packet(struct client *client, size_t length, unsigned char number)
{
	memcpy(client->out, (unsigned char[HEAD]){ (unsigned char)length, (unsigned char)(length >> 8), (unsigned char)(length >> 16), number }, HEAD);
	client->used = client->taken = 0;
	load_send(client, HEAD + length);
}

static void send_query(struct client *client, size_t length)
{
	client->out[HEAD] = 3;
	send_packet(client, 1 + length, 0);
}

/* Room for a statement. */
static char *statement(struct client *client)
{
	return client->out + HEAD + 1;
}

static void greet(struct client *client)
{
	static const char user[] = "root\0\0mysql_native_password";
	unsigned char *out = (unsigned char *)client->out + HEAD;

	client->used = client->taken = 0;
	take_packet(client);
	memset(out, 0, 32);
	memcpy(out, (uint32_t[]){ CAPABLE, 1u << 24 }, 8);
	out[8] = 33; /* utf8 */
	memcpy(out + 32, user, sizeof(user));
	send_packet(client, 32 + sizeof(user), 1);
	take_packet(client);
}

static void execute(struct client *client, const char *sql)
{
	send_query(client, (size_t)snprintf(statement(client), VALUE_MAX, "%s", sql));
	take_packet(client);
}

/* The only row's only value, of less than 64 KiB: where it is, and its length. */
static const char *query(struct client *client, size_t length, size_t *ret_length)
{
	const unsigned char *row;
	size_t bytes;

	send_query(client, length);
	for (unsigned i = 0; i < 3; i++) /* one column, what it is like, the end of these */
		take_packet(client);
	bytes = next_packet(client);
	row = (const unsigned char *)client->in + client->taken;
	client->taken += bytes;
	take_packet(client);
	if (row[0] < 0xfb) {
		*ret_length = row[0];
		row += 1;
	} else if (row[0] == 0xfc) {
		*ret_length = row[1] | (size_t)row[2] << 8;
		row += 3;
	} else {
		load_fail("wrong what=row errno=0");
	}
	return (const char *)row;
}

static void read_row(struct client *client, uint32_t row)
{
	size_t length;
	const char *value = query(client, (size_t)snprintf(statement(client), VALUE_MAX, "SELECT x FROM a WHERE i=%u", row), &length);
	unsigned said, version;

	if (length < 22 || sscanf(value, "%10u %10u", &said, &version) != 2 || said != row)
		load_fail("wrong what=key key=%u", row);
	if (length != make_value(row, version, client->value) || memcmp(value, client->value, length))
		load_fail("wrong what=value key=%u", row);
}

/* Puts a statement with a new version of a row in its middle together. Returns its length. */
static size_t with_value(struct client *client, uint32_t row, uint32_t version, const char *before, const char *after)
{
	size_t length = make_value(row, version, client->value);

	return (size_t)snprintf(statement(client), BUFFER - HEAD - 1, "%s%.*s%s%u", before, (int)length, client->value, after, row);
}

/* Many at a time: the guest's processor has better to do. */
static void fill(struct client *client, const uint32_t *key, uint32_t n)
{
	for (uint32_t done = 0; done < n;) {
		char *sql = statement(client);
		size_t at = (size_t)sprintf(sql, "SELECT COUNT(x) FROM a WHERE i IN (%u", row_of(key[done++]));

		for (uint32_t i = 1; i < FILL_AT_ONCE && done < n; i++)
			at += (size_t)sprintf(sql + at, ",%u", row_of(key[done++]));
		sql[at] = ')';
		query(client, at + 1, &(size_t){ 0 });
	}
}

static bool operate(struct client *client, uint32_t key)
{
	uint32_t row = row_of(key);
	uint64_t began = load_now_us();

	if (load_random(&client->random) % UPDATES_IN) {
		read_row(client, row);
		load_answered(began);
	} else {
		send_query(client, with_value(client, row, (uint32_t)load_random(&client->random), "UPDATE a SET x='", "' WHERE i="));
		take_packet(client);
	}
	return true;
}

static uint32_t misses(struct client *client)
{
	static const char sql[] = "SELECT variable_value FROM information_schema.global_status WHERE variable_name='INNODB_BUFFER_POOL_READS'";
	static unsigned long before;
	size_t length;
	unsigned long after = strtoul(query(client, (size_t)snprintf(statement(client), VALUE_MAX, "%s", sql), &length), NULL, 10), n = after - before;

	before = after;
	return (uint32_t)n;
}

static void greet_database(struct client *client)
{
	greet(client);
	execute(client, "USE bench");
}

static void make(struct client *client)
{
	execute(client, "CREATE DATABASE bench");
	execute(client, "USE bench");
	execute(client, "CREATE TABLE a (x VARCHAR(6200) CHARACTER SET latin1, i INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB");
	for (uint32_t row = 0; row < load.keys; row++) {
		size_t length = with_value(client, row, 0, "INSERT INTO a VALUES ('", "',");

		statement(client)[length] = ')';
		send_query(client, length + 1);
		take_packet(client);
	}
}

const struct load_server load_mariadb = { .name = "mariadb", .greet = greet_database, .fill = fill, .operate = operate, .misses = misses };
const struct load_server load_mariadb_make = { .name = "mariadb-make", .greet = greet, .make = make };
