/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The witness's parts: parameters (witness.c), areas of pages (area.c), workers (work.c), network (net.c). */
#ifndef WITNESS_H
#define WITNESS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "pattern.h"

#define THREADS_MAX 16
#define AREAS_MAX   8

enum area_kind { AREA_ANON, AREA_FORK, AREA_TMPFS, AREA_CACHE, AREA_DIRECT, AREA_GROWN, AREA_IMAGE };

struct params {
	struct pattern_mix mix;
	uint64_t anon_mib, fork_mib, tmpfs_mib, cache_mib, direct_mib, image_mib;
	_Atomic uint64_t rate; /* pages a second of all threads together; RATE_MAX: as fast as it goes */
	uint64_t threads;      /* 0: as many as processors */
	uint64_t seconds;      /* 0: until told to stop */
	uint64_t fill, random, zero, same, nearly, writes, hot, hotness, sequential, scatter, drift, net;
};
#define RATE_MAX UINT64_MAX

struct area {
	const char *name;
	enum area_kind kind;
	size_t pages;
	int fd;
	uint64_t offset;    /* of the area's first byte in fd */
	unsigned char *map; /* NULL: only reached by read and write */
	uint32_t *version;  /* of each page; 0: never written or given back */
};

/* Everything that is counted; written by workers, read by the reporter. */
struct counters {
	_Atomic uint64_t checked, written, wrong, io_errors, forks, direct_pages, net_bytes, slowest_ns;
};

extern struct params params;
extern struct counters *counters; /* in shared memory: forked children count too */
extern struct area areas[AREAS_MAX];
extern unsigned area_count;

/* One line on the console: "WITNESS " and the text. Lines of different threads never mix. */
void report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);

/* Makes the areas that params ask for, empty. Returns 0, or -1 after a line "refused". */
int areas_create(void);
/* One more area of anonymous memory, while no worker carries out an order. Returns 0, or -1 where there is no room. */
int area_grow(uint64_t mib);

/* The identity of a page over all areas, as it goes into its content. */
static inline uint64_t area_page_id(const struct area *area, size_t page)
{
	return (uint64_t)(area->kind + 1) << 40 | page;
}

/* Reads pages and checks every byte of them; a wrong one is reported and counted. buffers: io_buffer_create(). */
struct io_buffer;
void area_check_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers);
/* Writes the next version of each. */
void area_write_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers);
/* Writes those that are of version 0: never written, or given back. Returns how many. */
size_t area_fill_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers);
/* Whether pages of it can be given back. */
int area_is_anonymous(const struct area *area);
/* Gives pages [first, first + count) of an anonymous area back to the kernel; others stay as they are. Returns how many. */
size_t area_free_pages(struct area *area, size_t first, size_t count);
/* Pages of written data that lie in the guest's memory at present. */
uint64_t areas_touched_bytes(void);

struct io_buffer *io_buffer_create(void);

/* Orders to all workers; one at a time. */
enum order { ORDER_NONE, ORDER_CHECK, ORDER_TOUCH, ORDER_FREE, ORDER_SIEVE, ORDER_FILL, ORDER_GROW, ORDER_REQUEST, ORDER_CORRUPT, ORDER_STOP };

/* Starts the workers: they fill their pages, then play. Returns 0 or -1. */
int workers_start(void);
int workers_ready(void);    /* whether all have filled their pages */
int workers_event_fd(void); /* an eventfd that is written when a worker is ready or has carried out an order */
void workers_set_rate(uint64_t pages_a_second);
/* amount: percent; of a request, pages. */
void workers_order(enum order order, unsigned amount);
/* Whether all have carried out the last order; over how many pages it went, and how many wrong ones were found meanwhile. */
int workers_order_done(uint64_t *ret_pages, uint64_t *ret_wrong);

/* Loopback traffic whose every byte is checked, for ever, in threads of its own. Returns 0 or -1. */
int net_start(void);

#endif
