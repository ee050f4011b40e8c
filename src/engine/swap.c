/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "engine/page.h"
#include "kern/memory.h"

#define PAGE_BYTES    4096ull
#define EXTENT_SLOTS  4096u
#define EXTENT_BYTES  (EXTENT_SLOTS * PAGE_BYTES)
#define EXTENT_WORDS  (EXTENT_SLOTS / 64)
#define MAX_EXTENTS   ((1u << OB_SLOT_BITS) / EXTENT_SLOTS)
#define TABLE_BYTES   (EXTENT_SLOTS * sizeof(struct ob_hash)) /* of memory, an extent that is on disk */

struct extent {
	uint32_t used;   /* atomic */
	uint8_t present; /* allocated on disk */
	uint64_t bitmap[EXTENT_WORDS]; /* atomic */
};

#define load(p) __atomic_load_n((p), __ATOMIC_RELAXED)

struct ob_swap {
	int fd;
	int direct;
	struct ob_hash_key key;
	struct ob_hash *hashes;     /* by slot; reserved for all, touched as extents appear */
	struct extent *extents;     /* likewise */
	pthread_mutex_t lock;       /* taking slots, which extents are present */
	pthread_mutex_t grow_lock;  /* growing; before lock */
	uint32_t max_extents;       /* for which there are tables */
	uint32_t extent_count;      /* below it lie all that were ever used */
	uint32_t next_slot;
	uint32_t free_slots;        /* of extents on disk; atomic */
	int grow_error;             /* atomic; why the last extent could not be added; 0: it could */
	uint64_t file_bytes;        /* atomic */
	void (*cost)(void *context, int64_t delta_bytes);
	void *context;
};

static uint64_t hashes_bytes(const struct ob_swap *swap)
{
	return (uint64_t)swap->max_extents * EXTENT_SLOTS * sizeof(struct ob_hash);
}

static int open_store(struct ob_swap *swap, const char *dir, struct ob_error *err)
{
	int r = ob_fault(OB_FP_swap_open);

	if (r < 0)
		return ob_error_sys(err, -r, "cannot make a swap file in \"%s\"", dir);
	swap->fd = ob_fd_unnamed(dir, O_DIRECT);
	swap->direct = swap->fd >= 0;
	if (swap->fd == -EINVAL)
		swap->fd = ob_fd_unnamed(dir, 0);
	if (swap->fd < 0) {
		r = swap->fd;
		swap->fd = -1;
		return ob_error_sys(err, -r, "cannot make a swap file in \"%s\"", dir);
	}
	return 0;
}

/* Reserves the tables; where there is not so much address space (ulimit -v), for a smaller store. */
static int reserve_tables(struct ob_swap *swap)
{
	uint64_t room = ob_memory_address_space() / 8 / (EXTENT_SLOTS * sizeof(struct ob_hash));
	void *hashes = NULL, *extents = NULL;
	int r;

	swap->max_extents = (uint32_t)OB_MIN(room, MAX_EXTENTS);
	r = ob_memory_reserve(hashes_bytes(swap), 0, &hashes);
	swap->hashes = hashes;
	if (r == 0)
		r = ob_memory_reserve(swap->max_extents * sizeof(struct extent), 0, &extents);
	swap->extents = extents;
	return r;
}

int ob_swap_create(const char *dir, const struct ob_hash_key *key, void (*cost)(void *context, int64_t delta_bytes),
		   void *context, struct ob_swap **ret_swap, struct ob_error *err)
{
	struct ob_swap *swap = calloc(1, sizeof(*swap));
	int r;

	if (!swap)
		return ob_error_sys(err, ENOMEM, "cannot make the swap store");
	swap->fd = -1;
	swap->key = *key;
	swap->cost = cost;
	swap->context = context;
	pthread_mutex_init(&swap->lock, NULL);
	pthread_mutex_init(&swap->grow_lock, NULL);
	r = reserve_tables(swap);
	if (r < 0)
		ob_error_sys(err, -r, "cannot reserve address space for the swap store");
	else
		r = open_store(swap, dir, err);
	if (r < 0) {
		ob_swap_destroy(swap);
		return r;
	}
	*ret_swap = swap;
	return 0;
}

void ob_swap_destroy(struct ob_swap *swap)
{
	if (!swap)
		return;
	ob_fd_close(&swap->fd);
	ob_memory_unreserve(swap->hashes, hashes_bytes(swap));
	ob_memory_unreserve(swap->extents, swap->max_extents * sizeof(struct extent));
	pthread_mutex_destroy(&swap->lock);
	pthread_mutex_destroy(&swap->grow_lock);
	free(swap);
}

/* Allocates an extent on disk. A file system without fallocate() gets a sparse file, and says ENOSPC at a write. */
static int extent_allocate(struct ob_swap *swap, uint32_t i)
{
	off_t start = (off_t)i * (off_t)EXTENT_BYTES;
	int r = ob_fault(OB_FP_swap_grow);

	if (r < 0)
		return r;
	if (fallocate(swap->fd, 0, start, (off_t)EXTENT_BYTES) < 0) {
		if (errno != EOPNOTSUPP)
			return -errno;
		if (i == swap->extent_count && ftruncate(swap->fd, start + (off_t)EXTENT_BYTES) < 0)
			return -errno;
	}
	swap->cost(swap->context, (int64_t)TABLE_BYTES);
	__atomic_fetch_add(&swap->file_bytes, EXTENT_BYTES, __ATOMIC_RELAXED);
	return 0;
}

/* The first extent with a free slot at or after `from`, among those on disk; max_extents when all are full. */
static uint32_t find_room(const struct ob_swap *swap, uint32_t from)
{
	for (uint32_t n = 0; n < swap->extent_count; n++) {
		uint32_t i = (from + n) % swap->extent_count;

		if (swap->extents[i].present && load(&swap->extents[i].used) < EXTENT_SLOTS)
			return i;
	}
	return swap->max_extents;
}

/* Puts one more extent on disk; grow_lock is held, so nobody else changes which are present. */
static int add_extent(struct ob_swap *swap)
{
	uint32_t i;
	int r;

	for (i = 0; i < swap->extent_count && swap->extents[i].present; i++)
		;
	if (i == swap->max_extents)
		return -ENOSPC;
	r = extent_allocate(swap, i);
	if (r < 0)
		return r;
	pthread_mutex_lock(&swap->lock);
	swap->extents[i].present = 1;
	if (i == swap->extent_count)
		swap->extent_count++;
	__atomic_fetch_add(&swap->free_slots, EXTENT_SLOTS, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&swap->lock);
	return 0;
}

void ob_swap_prepare(struct ob_swap *swap, uint32_t slots)
{
	if (load(&swap->free_slots) >= slots)
		return;
	pthread_mutex_lock(&swap->grow_lock);
	if (load(&swap->free_slots) < slots)
		__atomic_store_n(&swap->grow_error, add_extent(swap), __ATOMIC_RELAXED);
	pthread_mutex_unlock(&swap->grow_lock);
}

static int is_free(struct extent *extent, uint32_t in)
{
	return !(load(&extent->bitmap[in / 64]) >> (in % 64) & 1);
}

/* The first free slot of an extent, from the one with number `from` in it. The extent has one: only takers fill it. */
static uint32_t slot_in(struct extent *extent, uint32_t from)
{
	for (uint32_t n = 0; n <= EXTENT_WORDS; n++) {
		uint32_t w = (from / 64 + n) % EXTENT_WORDS;
		uint64_t free = ~load(&extent->bitmap[w]);

		if (n == 0)
			free &= ~0ull << (from % 64);
		if (free)
			return w * 64 + (uint32_t)__builtin_ctzll(free);
	}
	return 0;
}

/* Takes slots from `in` on for as long as they are free. Returns how many. */
static uint32_t take_run(struct extent *extent, uint32_t in, uint32_t want)
{
	uint32_t n = 0;

	for (; n < want && in + n < EXTENT_SLOTS && is_free(extent, in + n); n++)
		__atomic_fetch_or(&extent->bitmap[(in + n) / 64], 1ull << ((in + n) % 64), __ATOMIC_RELAXED);
	__atomic_fetch_add(&extent->used, n, __ATOMIC_RELAXED);
	return n;
}

int ob_swap_alloc(struct ob_swap *swap, uint32_t want, uint32_t *ret_slot)
{
	int error = load(&swap->grow_error), r = error ? error : -ENOSPC;
	uint32_t next, i;

	pthread_mutex_lock(&swap->lock);
	next = swap->next_slot / EXTENT_SLOTS;
	i = swap->extent_count ? find_room(swap, next % swap->extent_count) : swap->max_extents;
	if (i != swap->max_extents) {
		struct extent *extent = &swap->extents[i];
		uint32_t in = slot_in(extent, i == next ? swap->next_slot % EXTENT_SLOTS : 0), n = take_run(extent, in, want);

		__atomic_fetch_sub(&swap->free_slots, n, __ATOMIC_RELAXED);
		*ret_slot = i * EXTENT_SLOTS + in;
		swap->next_slot = *ret_slot + n;
		r = (int)n;
	}
	pthread_mutex_unlock(&swap->lock);
	return r;
}

void ob_swap_free(struct ob_swap *swap, uint32_t slot)
{
	struct extent *extent = &swap->extents[slot / EXTENT_SLOTS];
	uint32_t in = slot % EXTENT_SLOTS;

	/* In this order: a taker that sees a count below full finds a free bit. */
	__atomic_fetch_and(&extent->bitmap[in / 64], ~(1ull << (in % 64)), __ATOMIC_RELEASE);
	__atomic_fetch_sub(&extent->used, 1, __ATOMIC_RELEASE);
	__atomic_fetch_add(&swap->free_slots, 1, __ATOMIC_RELAXED);
}

void ob_swap_set_hash(struct ob_swap *swap, uint32_t slot, struct ob_hash hash)
{
	swap->hashes[slot] = hash;
}

struct ob_hash ob_swap_hash(const struct ob_swap *swap, uint32_t slot)
{
	return swap->hashes[slot];
}

int ob_swap_write_raw(struct ob_swap *swap, uint32_t slot, unsigned pages, const void *buffer)
{
	int r = ob_pwrite_full(swap->fd, buffer, pages * PAGE_BYTES, slot * PAGE_BYTES);

	if (r == 0)
		ob_swap_uncache(swap, slot, pages);
	return r;
}

int ob_swap_read_raw(struct ob_swap *swap, uint32_t slot, unsigned pages, void *buffer)
{
	return ob_pread_full(swap->fd, buffer, pages * PAGE_BYTES, slot * PAGE_BYTES);
}

void ob_swap_uncache(struct ob_swap *swap, uint32_t slot, unsigned pages)
{
	if (!swap->direct)
		posix_fadvise(swap->fd, (off_t)(slot * PAGE_BYTES), (off_t)(pages * PAGE_BYTES), POSIX_FADV_DONTNEED);
}

int ob_swap_fd(const struct ob_swap *swap)
{
	return swap->fd;
}

int ob_swap_read(struct ob_swap *swap, uint32_t slot, unsigned pages, void *buffer)
{
	int r = ob_fault(OB_FP_swap_read);
	int fired = r;

	if (r < 0)
		return r;
	r = ob_swap_read_raw(swap, slot, pages, buffer);
	if (r == 0 && fired == OB_FAULT_SHORT)
		return -ENODATA;
	if (r == 0 && fired == OB_FAULT_FLIP)
		((unsigned char *)buffer)[1234] ^= 4;
	return r;
}

int ob_swap_verify(const struct ob_swap *swap, uint32_t slot, const void *page)
{
	return ob_hash_equal(ob_content_hash(&swap->key, page), swap->hashes[slot]) ? 0 : -EBADMSG;
}

/* Takes an extent without slots out of use; or puts it back when the file system would not have it. */
static int retire(struct ob_swap *swap, uint32_t i)
{
	struct extent *extent = &swap->extents[i];
	int idle;

	pthread_mutex_lock(&swap->lock);
	/* The one that is being filled stays, or a small store would come and go with every page. */
	idle = extent->present && !__atomic_load_n(&extent->used, __ATOMIC_ACQUIRE) && i != swap->next_slot / EXTENT_SLOTS;
	if (idle) {
		extent->present = 0;
		__atomic_fetch_sub(&swap->free_slots, EXTENT_SLOTS, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&swap->lock);
	return idle;
}

static void restore(struct ob_swap *swap, uint32_t i)
{
	pthread_mutex_lock(&swap->lock);
	swap->extents[i].present = 1;
	__atomic_fetch_add(&swap->free_slots, EXTENT_SLOTS, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&swap->lock);
}

void ob_swap_trim(struct ob_swap *swap)
{
	pthread_mutex_lock(&swap->grow_lock);
	for (uint32_t i = 0; i < swap->extent_count; i++) {
		if (!retire(swap, i))
			continue;
		/* Nobody owns a slot of it, so nobody misses the hashes. */
		if (ob_memory_drop(&swap->hashes[(size_t)i * EXTENT_SLOTS], TABLE_BYTES) < 0 ||
		    fallocate(swap->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)i * (off_t)EXTENT_BYTES,
			      (off_t)EXTENT_BYTES) < 0) {
			restore(swap, i);
			continue;
		}
		swap->cost(swap->context, -(int64_t)TABLE_BYTES);
		__atomic_fetch_sub(&swap->file_bytes, EXTENT_BYTES, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&swap->grow_lock);
}

uint64_t ob_swap_file_bytes(const struct ob_swap *swap)
{
	return __atomic_load_n(&swap->file_bytes, __ATOMIC_RELAXED);
}

int ob_swap_is_direct(const struct ob_swap *swap)
{
	return swap->direct;
}

void ob_swap_ranges(const struct ob_swap *swap, uint64_t ret_tables[2])
{
	ret_tables[0] = (uint64_t)(uintptr_t)swap->hashes;
	ret_tables[1] = ret_tables[0] + hashes_bytes(swap);
}
