/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A steady load on a Redis that is a cache, for bench/balloon: runs in the guest, beside the server.
 *
 *     balloon_load SOCKET KEYS FILLED CLIENTS DELAY_US
 *
 * Each of CLIENTS threads asks for one of KEYS keys after the other, without a pause; which, by Zipf's law (key k with a weight of
 * 1/k^0.99). One that is not there costs DELAY_US, in place of a database that knows it, and is then set. Keys have values
 * of 4 to 16 KiB, which can be compressed to some two thirds; every answer is compared with what it should be. Before that
 * FILLED keys are set: those, in the order, that a cache for so many has when such a load has gone on for long.
 *
 * It says once a second, in the form of the witness's lines (tests/guest/image/witness.c):
 *
 *     load   ops= hits= all= get=     operations since the last line; how long they took, and how long the server took to answer
 *                                     the first question of each: NUMBER:COUNT,... with numbers of buckets of microseconds, four an octave
 *
 * or "error" or "wrong", and ends.
 */
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

#define KIB         1024u
#define VALUE_MAX   (16 * KIB)
#define TEXT_BYTES  (2 * VALUE_MAX)
#define BUFFER      (VALUE_MAX + 256)
#define BUCKETS     128u
#define EXPONENT    0.99
#define STACK_BYTES (128 * KIB)

struct client {
	int fd;
	uint64_t random;
	size_t used, taken; /* of in: bytes read, and bytes of these that were answers */
	char in[BUFFER], value[VALUE_MAX], out[BUFFER];
};

static const char *socket_path;
static uint32_t keys, filled, clients, delay_us;
static double *weight; /* of keys up to and with this one */
static char text[TEXT_BYTES];

static _Atomic uint32_t ops, hits, all_took[BUCKETS], get_took[BUCKETS];

__attribute__((format(printf, 1, 2))) static _Noreturn void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("\nWITNESS ");
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t now_us(void)
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
		size_t length = 4 + next_random(&random) % 8;

		for (size_t k = 0; k < length; k++)
			word[i][k] = (char)('a' + next_random(&random) % 26);
	}
	while (at < TEXT_BYTES) {
		const char *chosen = word[next_random(&random) % 1024];
		size_t length = strlen(chosen), left = TEXT_BYTES - at;

		memcpy(text + at, chosen, length < left ? length : left);
		at += length < left ? length : left;
		if (at < TEXT_BYTES)
			text[at++] = ' ';
	}
}

static void make_weights(void)
{
	double sum = 0;

	weight = malloc(keys * sizeof(*weight));
	if (!weight)
		fail("error what=malloc errno=%d", errno);
	for (uint32_t i = 0; i < keys; i++)
		weight[i] = sum += pow(i + 1.0, -EXPONENT);
}

static uint32_t wanted_key(uint64_t *random)
{
	double drawn = (double)(next_random(random) >> 11) * 0x1p-53 * weight[keys - 1];
	uint32_t low = 0, high = keys - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (weight[middle] < drawn)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Returns its length. */
static size_t make_value(uint32_t key, char value[VALUE_MAX])
{
	uint64_t random = key;
	size_t length = (4 + next_random(&random) % 13) * KIB;

	memcpy(value, text + next_random(&random) % (TEXT_BYTES - VALUE_MAX), length);
	memcpy(value, &key, sizeof(key));
	return length;
}

static void send_all(struct client *client, size_t length)
{
	for (size_t at = 0; at < length;) {
		ssize_t n = write(client->fd, client->out + at, length - at);

		if (n < 0 && errno != EINTR)
			fail("error what=write errno=%d", errno);
		at += n > 0 ? (size_t)n : 0;
	}
}

/* There are at least so many bytes of the answer. */
static void receive(struct client *client, size_t length)
{
	if (length > sizeof(client->in))
		fail("error what=answer errno=0");
	while (client->used < length) {
		ssize_t n = read(client->fd, client->in + client->used, sizeof(client->in) - client->used);

		if (n == 0 || (n < 0 && errno != EINTR))
			fail("error what=read errno=%d", n ? errno : 0);
		client->used += n > 0 ? (size_t)n : 0;
	}
}

/* The first line of an answer, of which the rest is what comes after client->taken. */
static const char *receive_line(struct client *client)
{
	char *end;

	client->used = 0;
	while (!(end = memchr(client->in, '\n', client->used)))
		receive(client, client->used + 1);
	end[-1] = '\0';
	client->taken = (size_t)(end - client->in) + 1;
	if (client->in[0] == '-')
		fail("error what=redis errno=0 said=%.60s", client->in);
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
	send_all(client, at + length + 2);
	receive_line(client);
}

/* Whether it is there. */
static bool get(struct client *client, uint32_t key)
{
	char name[16];
	int name_length = snprintf(name, sizeof(name), "page:%u", key);
	size_t length;

	send_all(client, (size_t)snprintf(client->out, sizeof(client->out), "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_length, name));
	if (!strcmp(receive_line(client), "$-1"))
		return false;
	length = make_value(key, client->value);
	if (client->in[0] != '$' || strtoul(client->in + 1, NULL, 10) != length)
		fail("wrong what=length key=%u", key);
	receive(client, client->taken + length + 2);
	if (memcmp(client->in + client->taken, client->value, length))
		fail("wrong what=value key=%u", key);
	return true;
}

static unsigned bucket_of(uint64_t us)
{
	unsigned octave = us < 4 ? 2 : 63 - (unsigned)__builtin_clzll(us);

	return us < 4 ? (unsigned)us : octave * 4 + (unsigned)(us >> (octave - 2) & 3);
}

static void *work(void *arg)
{
	struct client *client = arg;

	for (;;) {
		uint32_t key = wanted_key(&client->random);
		uint64_t began = now_us();
		bool is_hit = get(client, key);

		get_took[bucket_of(now_us() - began)]++;
		if (!is_hit) {
			usleep(delay_us);
			set(client, key);
		}
		all_took[bucket_of(now_us() - began)]++;
		ops++;
		hits += (uint32_t)is_hit;
	}
	return NULL;
}

/* The last keys that a load asked for, the first of them first: drawn from the last back to the first. */
static void fill(struct client *client)
{
	uint32_t *order = calloc(filled, sizeof(*order));
	bool *is_drawn = calloc(keys, sizeof(*is_drawn));

	if (!order || !is_drawn)
		fail("error what=malloc errno=%d", errno);
	for (uint32_t n = 0; n < filled;) {
		uint32_t key = wanted_key(&client->random);

		if (!is_drawn[key])
			order[n++] = key;
		is_drawn[key] = true;
	}
	for (uint32_t n = filled; n-- > 0;)
		set(client, order[n]);
	free(order);
	free(is_drawn);
}

/* The server may be starting still. */
static struct client *connected(uint64_t seed)
{
	struct client *client = calloc(1, sizeof(*client));
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (!client)
		fail("error what=malloc errno=%d", errno);
	client->random = seed << 32;
	client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	for (int tries = 0; connect(client->fd, (struct sockaddr *)&address, sizeof(address)); tries++) {
		if (tries == 600)
			fail("error what=connect errno=%d", errno);
		usleep(100000);
	}
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

int main(int argc, char **argv)
{
	static char line[8 * KIB];
	struct client *client;
	pthread_attr_t attr;

	setvbuf(stdout, line, _IOFBF, sizeof(line)); /* one write a line */
	if (argc != 6)
		fail("error what=usage errno=0");
	socket_path = argv[1];
	keys = (uint32_t)strtoul(argv[2], NULL, 10);
	filled = (uint32_t)strtoul(argv[3], NULL, 10);
	clients = (uint32_t)strtoul(argv[4], NULL, 10);
	delay_us = (uint32_t)strtoul(argv[5], NULL, 10);
	make_text();
	make_weights();
	if (filled > keys)
		fail("error what=filled errno=0");
	client = connected(0);
	fill(client);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (uint32_t i = 1; i <= clients; i++) {
		pthread_t thread;
		int r = pthread_create(&thread, &attr, work, connected(i));

		if (r)
			fail("error what=thread errno=%d", r);
	}
	for (;;) {
		printf("\nWITNESS load ops=%u hits=%u", atomic_exchange(&ops, 0), atomic_exchange(&hits, 0));
		print_buckets("all", all_took);
		print_buckets("get", get_took);
		printf("\n");
		fflush(stdout);
		sleep(1);
	}
}
