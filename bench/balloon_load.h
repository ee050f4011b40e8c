/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The servers that balloon_load.c loads, and what it has for all of them. */
#ifndef OB_BENCH_BALLOON_LOAD_H
#define OB_BENCH_BALLOON_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB        1024u
#define VALUE_MAX  (16 * KIB)
#define TEXT_BYTES (2 * VALUE_MAX)
#define BUFFER     (VALUE_MAX + 256)

struct client {
	int fd;
	uint64_t random;
	size_t used, taken; /* of in: bytes read, and bytes of these that were answers */
	char in[BUFFER], value[VALUE_MAX], out[BUFFER];
};

struct load_server {
	const char *name;
	void (*greet)(struct client *client);              /* a client is connected; may be NULL */
	void (*fill)(struct client *client, const uint32_t *key, uint32_t n); /* so that the server has them in memory, the last one longest */
	bool (*operate)(struct client *client, uint32_t key);                  /* returns whether it was there */
	uint32_t (*misses)(struct client *client);         /* since it was asked last; NULL: operate knows */
	void (*make)(struct client *client);               /* the database, instead of all these */
};
extern const struct load_server load_redis, load_mariadb, load_mariadb_make;

/* How it was called, and text of which values are made: words, which can be compressed to some two thirds. */
extern struct load {
	const char *socket_path;
	uint32_t keys, filled, delay_us;
	char text[TEXT_BYTES];
} load;

/* Says "WITNESS " and this, and ends. */
_Noreturn void load_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t load_random(uint64_t *state);
uint64_t load_now_us(void);
/* The answer to a question that was asked then has come. */
void load_answered(uint64_t began_us);
/* The server may be starting still. */
struct client *load_connect(uint64_t seed);
/* Sends what is in client->out. */
void load_send(struct client *client, size_t length);
/* Reads until there are so many bytes in client->in. */
void load_receive(struct client *client, size_t length);

#endif
