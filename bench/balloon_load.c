/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A steady load on a server, for bench/balloon: runs in the guest, beside the server.
 *
 *     balloon_load SERVER SOCKET KEYS FILLED CLIENTS DELAY_US
 *     balloon_load mariadb-make SOCKET KEYS              makes the database, and ends
 *
 * Each of CLIENTS threads asks for one of KEYS keys after the other, without a pause; which, by Zipf's law (key k with a weight of
 * 1/k^0.99). Before that FILLED keys are set, or read: those, in the order, that a server with room for so many has in memory when such
 * a load has gone on for long. What asking means is the server's (balloon_load.h): every answer is compared with what it should be.
 *
 * It says once a second, in the form of the witness's lines (tests/guest/image/witness.c):
 *
 *     load   ops= hits= all= get=     operations since the last line; how long they took, and how long the server took to answer
 *                                     the first question of each: NUMBER:COUNT,... with numbers of buckets of microseconds, four an octave
 *
 * or "error" or "wrong", and ends.
 */
#include "balloon_load.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS     128u
#define EXPONENT    0.99
#define STACK_BYTES (128 * KIB)

static const struct load_server *const servers[] = { &load_redis, &load_mariadb, &load_mariadb_make };

struct load load;
static const struct load_server *server;
static double *weight; /* of keys up to and with this one */

static _Atomic uint32_t ops, hits, all_took[BUCKETS], get_took[BUCKETS];

_Noreturn void load_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("\nWITNESS ");
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

uint64_t load_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

uint64_t load_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Words of 4 to 11 letters, out of 1024. */
static void make_text(void)
{
	static char word[1024][12];
	uint64_t random = 1;
	size_t at = 0;

	for (size_t i = 0; i < 1024; i++) {
		size_t length = 4 + load_random(&random) % 8;

		for (size_t k = 0; k < length; k++)
			word[i][k] = (char)('a' + load_random(&random) % 26);
	}
	while (at < TEXT_BYTES) {
		const char *chosen = word[load_random(&random) % 1024];
		size_t length = strlen(chosen), left = TEXT_BYTES - at;

		memcpy(load.text + at, chosen, length < left ? length : left);
		at += length < left ? length : left;
		if (at < TEXT_BYTES)
			load.text[at++] = ' ';
	}
}

static void make_weights(void)
{
	double sum = 0;

	weight = malloc(load.keys * sizeof(*weight));
	if (!weight)
		load_fail("error what=malloc errno=%d", errno);
	for (uint32_t i = 0; i < load.keys; i++)
		weight[i] = sum += pow(i + 1.0, -EXPONENT);
}

static uint32_t wanted_key(uint64_t *random)
{
	double drawn = (double)(load_random(random) >> 11) * 0x1p-53 * weight[load.keys - 1];
	uint32_t low = 0, high = load.keys - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (weight[middle] < drawn)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void load_send(struct client *client, size_t length)
{
	for (size_t at = 0; at < length;) {
		ssize_t n = write(client->fd, client->out + at, length - at);

		if (n < 0 && errno != EINTR)
			load_fail("error what=write errno=%d", errno);
		at += n > 0 ? (size_t)n : 0;
	}
}

/* There are at least so many bytes of the answer. */
void load_receive(struct client *client, size_t length)
{
	if (length > sizeof(client->in))
		load_fail("error what=answer errno=0");
	while (client->used < length) {
		ssize_t n = read(client->fd, client->in + client->used, sizeof(client->in) - client->used);

		if (n == 0 || (n < 0 && errno != EINTR))
			load_fail("error what=read errno=%d", n ? errno : 0);
		client->used += n > 0 ? (size_t)n : 0;
	}
}

static unsigned bucket_of(uint64_t us)
{
	unsigned octave = us < 4 ? 2 : 63 - (unsigned)__builtin_clzll(us);

	return us < 4 ? (unsigned)us : octave * 4 + (unsigned)(us >> (octave - 2) & 3);
}

void load_answered(uint64_t began_us)
{
	get_took[bucket_of(load_now_us() - began_us)]++;
}

static void *work(void *arg)
{
	struct client *client = arg;

	for (;;) {
		uint32_t key = wanted_key(&client->random);
		uint64_t began = load_now_us();
		bool is_hit = server->operate(client, key);

		all_took[bucket_of(load_now_us() - began)]++;
		ops++;
		hits += (uint32_t)is_hit;
	}
	return NULL;
}

/* The last keys that a load asked for, the first of them first: drawn from the last back to the first. */
static void fill(struct client *client)
{
	uint32_t *order = calloc(load.filled, sizeof(*order));
	bool *is_drawn = calloc(load.keys, sizeof(*is_drawn));

	if (!order || !is_drawn)
		load_fail("error what=malloc errno=%d", errno);
	for (uint32_t n = load.filled; n > 0;) {
		uint32_t key = wanted_key(&client->random);

		if (!is_drawn[key])
			order[--n] = key;
		is_drawn[key] = true;
	}
	server->fill(client, order, load.filled);
	free(order);
	free(is_drawn);
}

/* The server may be starting still. */
struct client *load_connect(uint64_t seed)
{
	struct client *client = calloc(1, sizeof(*client));
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (!client)
		load_fail("error what=malloc errno=%d", errno);
	client->random = seed << 32;
	client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", load.socket_path);
	for (int tries = 0; connect(client->fd, (struct sockaddr *)&address, sizeof(address)); tries++) {
		if (tries == 600)
			load_fail("error what=connect errno=%d", errno);
		usleep(100000);
	}
	if (server->greet)
		server->greet(client);
	return client;
}

static void print_buckets(const char *name, _Atomic uint32_t took[BUCKETS])
{
	const char *between = "";

	printf(" %s=", name);
	for (unsigned i = 0; i < BUCKETS; i++) {
		uint32_t count = atomic_exchange(&took[i], 0);

		if (count) {
			printf("%s%u:%u", between, i, count);
			between = ",";
		}
	}
}

/* How many operations of those that were counted found what they asked for in memory. */
static uint32_t count_hits(struct client *client, uint32_t operations)
{
	uint32_t missed;

	if (!server->misses)
		return atomic_exchange(&hits, 0);
	missed = server->misses(client);
	return operations > missed ? operations - missed : 0;
}

static void start_clients(uint32_t n)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (uint32_t i = 1; i <= n; i++) {
		pthread_t thread;
		int r = pthread_create(&thread, &attr, work, load_connect(i));

		if (r)
			load_fail("error what=thread errno=%d", r);
	}
}

int main(int argc, char **argv)
{
	static char line[8 * KIB];
	struct client *client;

	setvbuf(stdout, line, _IOFBF, sizeof(line)); /* one write a line */
	for (size_t i = 0; argc > 3 && i < sizeof(servers) / sizeof(servers[0]); i++)
		if (!strcmp(argv[1], servers[i]->name))
			server = servers[i];
	if (!server || argc != (server->make ? 4 : 7))
		load_fail("error what=usage errno=0");
	load.socket_path = argv[2];
	load.keys = (uint32_t)strtoul(argv[3], NULL, 10);
	make_text();
	if (server->make) {
		server->make(load_connect(0));
		return 0;
	}
	load.filled = (uint32_t)strtoul(argv[4], NULL, 10);
	load.delay_us = (uint32_t)strtoul(argv[6], NULL, 10);
	make_weights();
	if (load.filled > load.keys)
		load_fail("error what=filled errno=0");
	client = load_connect(0);
	fill(client);
	start_clients((uint32_t)strtoul(argv[5], NULL, 10));
	for (;;) {
		uint32_t n = atomic_exchange(&ops, 0);

		printf("\nWITNESS load ops=%u hits=%u", n, count_hits(client, n));
		print_buckets("all", all_took);
		print_buckets("get", get_took);
		printf("\n");
		fflush(stdout);
		sleep(1);
	}
}
