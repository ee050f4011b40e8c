/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * balloon_load's Redis, which is a cache: a key that is not there costs load.delay_us, in place of a database that knows it, and is then set. Keys have
 * values of 4 to 16 KiB.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "balloon_load.h"

/* Returns its length. */
static size_t make_value(uint32_t key, char value[VALUE_MAX])
{
	uint64_t random = key;
	size_t length = (4 + load_random(&random) % 13) * KIB;

	memcpy(value, load.text + load_random(&random) % (TEXT_BYTES - VALUE_MAX), length);
	memcpy(value, &key, sizeof(key));
	return length;
}

/* The first line of an answer, of which the rest is what comes after client->taken. */
static const char *receive_line(struct client *client)
{
	char *end;

	client->used = 0;
	while (!(end = memchr(client->in, '\n', client->used)))
		load_receive(client, client->used + 1);
	end[-1] = '\0';
	client->taken = (size_t)(end - client->in) + 1;
	if (client->in[0] == '-')
		load_fail("error what=redis errno=0 said=%.60s", client->in);
	return client->in;
}

static void set(struct client *client, uint32_t key)
{
	char name[16];
	int name_length = snprintf(name, sizeof(name), "page:%u", key);
	size_t length = make_value(key, client->value);
	size_t at = (size_t)snprintf(client->out, sizeof(client->out), "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%zu\r\n", name_length, name, length);

	memcpy(client->out + at, client->value, length);
	memcpy(client->out + at + length, "\r\n", 2);
	load_send(client, at + length + 2);
	receive_line(client);
}

/* Whether it is there. */
static bool get(struct client *client, uint32_t key)
{
	char name[16];
	int name_length = snprintf(name, sizeof(name), "page:%u", key);
	size_t length;

	load_send(client, (size_t)snprintf(client->out, sizeof(client->out), "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_length, name));
	if (!strcmp(receive_line(client), "$-1"))
		return false;
	length = make_value(key, client->value);
	if (client->in[0] != '$' || strtoul(client->in + 1, NULL, 10) != length)
		load_fail("wrong what=length key=%u", key);
	load_receive(client, client->taken + length + 2);
	if (memcmp(client->in + client->taken, client->value, length))
		load_fail("wrong what=value key=%u", key);
	return true;
}

static void fill(struct client *client, const uint32_t *key, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		set(client, key[i]);
}

static bool operate(struct client *client, uint32_t key)
{
	uint64_t began = load_now_us();
	bool is_hit = get(client, key);

	load_answered(began);
	if (!is_hit) {
		usleep(load.delay_us);
		set(client, key);
	}
	return is_hit;
}

const struct load_server load_redis = { .name = "redis", .fill = fill, .operate = operate };
