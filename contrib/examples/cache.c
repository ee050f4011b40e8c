/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An example of liboverbook-app(3): a program with a cache that it can do without, in part.
 *
 *     cc -o cache cache.c $(pkg-config --cflags --libs overbook-app)
 *     ./cache 256 64        a cache of 256 MiB, of which it would give all but 64
 *
 * The cache is pieces of 1 MiB. Asked to give, it lets pieces go, the last first; told that it may have them back, it fills them
 * again. Each piece is checked when it goes. With a third number it gives so many MiB a second at most; a fourth, a part of what it is asked
 * for that it refuses, in percent. It says on its standard output what it is told and what it does, and ends with SIGTERM.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <overbook-app.h>

#define PIECE   (1ul << 20)
#define TURN_MS 100

static struct {
	struct overbook_app *app;
	unsigned char **piece;
	size_t pieces, floor, filled, goal; /* goal: how many of the pieces are to be there */
	size_t a_turn;                      /* pieces let go in one turn of the loop, 0: all */
	unsigned refused_percent;
} cache;

static volatile sig_atomic_t is_ending;

static void on_term(int number)
{
	is_ending = number;
}

static void fail(const char *what)
{
	fprintf(stderr, "cache: %s: %s\n", what, strerror(errno));
	exit(1);
}

static unsigned char byte_of(size_t piece)
{
	return (unsigned char)(piece % 251 + 1);
}

static void fill(size_t i)
{
	cache.piece[i] = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (cache.piece[i] == MAP_FAILED)
		fail("mmap");
	memset(cache.piece[i], byte_of(i), PIECE);
}

static void let_go(size_t i)
{
	for (size_t at = 0; at < PIECE; at++) {
		if (cache.piece[i][at] != byte_of(i)) {
			printf("WRONG piece %zu\n", i);
			exit(3);
		}
	}
	munmap(cache.piece[i], PIECE);
}

static void on_target(void *context, uint64_t give_bytes, uint32_t deadline_ms)
{
	size_t give = give_bytes / PIECE;

	printf("asked to give %zu MiB within %u ms\n", give, (unsigned)deadline_ms);
	give -= give * cache.refused_percent / 100;
	cache.goal = cache.pieces - (give < cache.pieces - cache.floor ? give : cache.pieces - cache.floor);
}

static void tell(void)
{
	overbook_app_could(cache.app, cache.filled * PIECE, (cache.pieces - cache.floor) * PIECE);
	/* Nearer than this it comes to no target that is greater. */
	overbook_app_gave(cache.app, (cache.pieces - cache.filled) * PIECE, cache.filled == cache.goal);
}

static void work(void)
{
	size_t before = cache.filled;

	for (size_t n = 0; cache.filled > cache.goal && (!cache.a_turn || n < cache.a_turn); n++)
		let_go(--cache.filled);
	while (cache.filled < cache.goal)
		fill(cache.filled++);
	if (cache.filled != before)
		printf("has %zu MiB\n", cache.filled);
	tell();
}

static size_t number(char **argv, int argc, int i, size_t otherwise)
{
	return i < argc ? strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	struct overbook_app_options options = { .size = sizeof(options), .name = "cache", .pain = 10, .target = on_target,
						.socket = getenv("OVERBOOK_APP_SOCKET") };
	const struct sigaction end = { .sa_handler = on_term };

	cache.pieces = number(argv, argc, 1, 256);
	cache.floor = number(argv, argc, 2, 0);
	/* Rounded up: slow is not all at once. */
	cache.a_turn = (number(argv, argc, 3, 0) * TURN_MS + 999) / 1000;
	cache.refused_percent = (unsigned)number(argv, argc, 4, 0);
	if (cache.floor > cache.pieces || cache.refused_percent > 100) {
		fprintf(stderr, "Usage: cache MIB [FLOOR [MIB-A-SECOND [PERCENT-REFUSED]]]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGTERM, &end, NULL);
	cache.goal = cache.pieces;
	cache.piece = calloc(cache.pieces + 1, sizeof(*cache.piece));
	cache.app = overbook_app_new(&options);
	if (!cache.piece || !cache.app)
		fail("overbook_app_new");
	while (!is_ending) {
		struct pollfd fd = { .fd = overbook_app_fd(cache.app), .events = POLLIN };

		work();
		if (poll(&fd, 1, TURN_MS) > 0)
			overbook_app_dispatch(cache.app);
	}
	while (cache.filled)
		let_go(--cache.filled);
	overbook_app_free(cache.app);
	puts("all of it was as it should be");
	return 0;
}
