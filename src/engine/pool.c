/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "engine/content.h"
#include "kern/memory.h"

#define SPAN_BYTES  32768u
#define UNIT        64u
#define HEADER      12u
#define MIN_OBJECT  (2 * UNIT)
#define CLASSES     ((OB_COMPRESSED_MAX + HEADER + UNIT - 1) / UNIT + 1) /* class c holds objects of c * UNIT bytes */
#define ARENA_MAX   (16ull << 30)
#define NO_SPAN     UINT32_MAX
#define SMALL_BYTES (8ull << 20) /* a pool that may take less has the coarse classes alone */
#define COARSE      4u  /* classes to one of those */
#define KEPT_FEW    4u  /* empty spans kept: a 64th of what the pool may take, but so many, and of a small one at least a 32nd; 2 MiB at most */
#define KEPT_MAX    64u

_Static_assert(SPAN_BYTES / MIN_OBJECT <= OB_POOL_SPAN_OBJECTS, "a span's bitmap covers its smallest objects");

struct link {
	uint32_t next, prev;
};

struct span {
	struct link room;              /* among the spans of its class that have room; or next alone, in a free list */
	struct link age;               /* among all live spans */
	uint64_t live[OB_POOL_SPAN_OBJECTS / 64];
	uint32_t number;               /* how many had been made before, modulo 2^32; atomic */
	uint16_t count;
	uint8_t class;
};

struct class {
	pthread_mutex_t lock;           /* the live bits, count and room of its spans */
	uint32_t room_head;
};

struct ob_pool {
	struct class classes[CLASSES];
	pthread_mutex_t lock;           /* innermost: the lists below and the age of spans */
	char *arena;
	uint64_t arena_bytes;
	struct span *spans;
	size_t spans_bytes;
	uint32_t span_count, span_used; /* span_used: never used beyond this */
	uint32_t free_head;
	uint32_t kept_head, kept_count; /* empty, and not given back */
	uint32_t kept_limit;            /* atomic */
	uint32_t oldest, newest;
	uint32_t made;                  /* spans, modulo 2^32 */
	uint32_t stored;                /* objects, modulo 2^32; atomic, and so are the next */
	uint32_t near_objects, far_number; /* of which touches are counted: less than so many before, and a span made before */
	struct ob_pool_reuse reuse;
	int self;
	uint64_t bytes;                 /* atomic */
	void (*cost)(void *context, int64_t delta_bytes);
	void *context;
};

static struct link *link_of(struct span *span, int age)
{
	return age ? &span->age : &span->room;
}

static void unlink_span(struct ob_pool *pool, uint32_t i, int age, uint32_t *head, uint32_t *tail)
{
	struct link *l = link_of(&pool->spans[i], age);

	if (l->prev != NO_SPAN)
		link_of(&pool->spans[l->prev], age)->next = l->next;
	else
		*head = l->next;
	if (l->next != NO_SPAN)
		link_of(&pool->spans[l->next], age)->prev = l->prev;
	else if (tail)
		*tail = l->prev;
}

static void push_room(struct ob_pool *pool, uint32_t i)
{
	struct span *span = &pool->spans[i];
	uint32_t *head = &pool->classes[span->class].room_head;

	span->room = (struct link){ .next = *head, .prev = NO_SPAN };
	if (*head != NO_SPAN)
		pool->spans[*head].room.prev = i;
	*head = i;
}

static void push_newest(struct ob_pool *pool, uint32_t i)
{
	pool->spans[i].age = (struct link){ .next = NO_SPAN, .prev = pool->newest };
	if (pool->newest != NO_SPAN)
		pool->spans[pool->newest].age.next = i;
	else
		pool->oldest = i;
	pool->newest = i;
	__atomic_store_n(&pool->spans[i].number, pool->made++, __ATOMIC_RELAXED);
}

static unsigned objects_in(unsigned class)
{
	return SPAN_BYTES / (class * UNIT);
}

static void add_bytes(struct ob_pool *pool, int64_t delta)
{
	__atomic_fetch_add(&pool->bytes, (uint64_t)delta, __ATOMIC_RELAXED);
	pool->cost(pool->context, delta);
}

/* A span that was never used. Its record in the table costs memory from now on. */
static uint32_t use_another(struct ob_pool *pool)
{
	pool->cost(pool->context, (int64_t)sizeof(struct span));
	return pool->span_used++;
}

/* A span that holds nothing, charged; NO_SPAN when there is none. The pool's lock is held. */
static uint32_t find_span(struct ob_pool *pool, uint64_t max_bytes)
{
	uint32_t i = pool->kept_head;

	if (i != NO_SPAN) {
		pool->kept_head = pool->spans[i].room.next;
		pool->kept_count--;
		return i;
	}
	i = pool->free_head;
	if (ob_pool_bytes(pool) + SPAN_BYTES > max_bytes)
		return NO_SPAN;
	if (i != NO_SPAN)
		pool->free_head = pool->spans[i].room.next;
	else if (pool->span_used < pool->span_count)
		i = use_another(pool);
	else
		return NO_SPAN;
	add_bytes(pool, SPAN_BYTES);
	return i;
}

/* A span for a class, whose lock is held. */
static uint32_t take_span(struct ob_pool *pool, unsigned class, uint64_t max_bytes)
{
	uint32_t i;

	pthread_mutex_lock(&pool->lock);
	i = find_span(pool, max_bytes);
	if (i != NO_SPAN) {
		memset(&pool->spans[i], 0, sizeof(pool->spans[i]));
		__atomic_store_n(&pool->spans[i].class, (uint8_t)class, __ATOMIC_RELAXED);
		push_newest(pool, i);
	}
	pthread_mutex_unlock(&pool->lock);
	if (i != NO_SPAN)
		push_room(pool, i);
	return i;
}

static void push_kept(struct ob_pool *pool, uint32_t i)
{
	pool->spans[i].room.next = pool->kept_head;
	pool->kept_head = i;
	pool->kept_count++;
}

/* Gives n (at most KEPT_MAX) of the kept spans back to the kernel, as many as it takes. The pool's lock is held. */
static void give_kept(struct ob_pool *pool, uint32_t n)
{
	struct iovec ranges[KEPT_MAX] = { { 0 } };
	uint32_t spans[KEPT_MAX];
	unsigned gone;

	for (uint32_t k = 0; k < n; k++) {
		spans[k] = pool->kept_head;
		pool->kept_head = pool->spans[spans[k]].room.next;
		ranges[k] = (struct iovec){ pool->arena + (size_t)spans[k] * SPAN_BYTES, SPAN_BYTES };
	}
	pool->kept_count -= n;
	gone = ob_memory_drop_ranges(pool->self, ranges, n);
	add_bytes(pool, -(int64_t)gone * SPAN_BYTES);
	for (uint32_t k = 0; k < n; k++) {
		if (k >= gone) {
			push_kept(pool, spans[k]);
			continue;
		}
		pool->spans[spans[k]].room.next = pool->free_head;
		pool->free_head = spans[k];
	}
}

/* A span whose last object has gone; the lock of its class is held. */
static void give_span(struct ob_pool *pool, uint32_t i)
{
	uint32_t limit = __atomic_load_n(&pool->kept_limit, __ATOMIC_RELAXED);

	unlink_span(pool, i, 0, &pool->classes[pool->spans[i].class].room_head, NULL);
	pthread_mutex_lock(&pool->lock);
	unlink_span(pool, i, 1, &pool->oldest, &pool->newest);
	push_kept(pool, i);
	if (pool->kept_count > limit)
		give_kept(pool, OB_MIN(pool->kept_count - limit / 2, KEPT_MAX));
	pthread_mutex_unlock(&pool->lock);
}

void ob_pool_trim(struct ob_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	if (pool->kept_count)
		give_kept(pool, OB_MIN(pool->kept_count, KEPT_MAX));
	pthread_mutex_unlock(&pool->lock);
}

static unsigned first_free(const struct span *span)
{
	for (unsigned w = 0;; w++)
		if (~span->live[w])
			return w * 64 + (unsigned)__builtin_ctzll(~span->live[w]);
}

struct __attribute__((packed)) header {
	uint64_t page_and_length; /* 16 bits are the length */
	uint32_t stored;
};

_Static_assert(sizeof(struct header) == HEADER, "an object's header is as long as the size classes say");

static unsigned class_of(unsigned length, uint64_t max_bytes)
{
	unsigned class = OB_MAX((length + HEADER + UNIT - 1) / UNIT, MIN_OBJECT / UNIT);

	if (max_bytes >= SMALL_BYTES || class >= CLASSES)
		return class;
	return OB_MIN((class + COARSE - 1) / COARSE * COARSE, CLASSES - 1);
}

static uint32_t kept_limit(uint64_t max_bytes)
{
	uint64_t spans = max_bytes / SPAN_BYTES, few = OB_MAX(OB_MIN(spans / 32, KEPT_FEW), 1u);

	return (uint32_t)OB_MIN(OB_MAX(spans / 64, few), KEPT_MAX);
}

int ob_pool_store(struct ob_pool *pool, uint64_t page, const void *data, unsigned length, uint64_t max_bytes,
		  uint32_t *ret_handle)
{
	unsigned class = class_of(length, max_bytes);
	struct header header = { .page_and_length = page << 16 | length };
	struct span *span;
	uint64_t offset;
	unsigned object;
	uint32_t i;

	if (ob_fault(OB_FP_pool_alloc) < 0 || class >= CLASSES)
		return -ENOSPC;
	__atomic_store_n(&pool->kept_limit, kept_limit(max_bytes), __ATOMIC_RELAXED);
	pthread_mutex_lock(&pool->classes[class].lock);
	i = pool->classes[class].room_head;
	if (i == NO_SPAN)
		i = take_span(pool, class, max_bytes);
	if (i == NO_SPAN) {
		pthread_mutex_unlock(&pool->classes[class].lock);
		return -ENOSPC;
	}
	span = &pool->spans[i];
	object = first_free(span);
	span->live[object / 64] |= 1ull << (object % 64);
	if (++span->count == objects_in(class))
		unlink_span(pool, i, 0, &pool->classes[class].room_head, NULL);
	offset = (uint64_t)i * SPAN_BYTES + (uint64_t)object * class * UNIT;
	header.stored = __atomic_fetch_add(&pool->stored, 1, __ATOMIC_RELAXED);
	/* The header is read under this lock by ob_pool_oldest; the body belongs to the chunk's lock. */
	memcpy(pool->arena + offset, &header, sizeof(header));
	pthread_mutex_unlock(&pool->classes[class].lock);
	memcpy(pool->arena + offset + HEADER, data, length);
	*ret_handle = (uint32_t)(offset / UNIT);
	return 0;
}

const void *ob_pool_load(const struct ob_pool *pool, uint32_t handle, unsigned *ret_length)
{
	const char *object = pool->arena + (uint64_t)handle * UNIT;
	struct header header;

	memcpy(&header, object, sizeof(header));
	*ret_length = header.page_and_length & 0xffff;
	return object + HEADER;
}

void ob_pool_touched(struct ob_pool *pool, uint32_t handle)
{
	const struct span *span = &pool->spans[(uint64_t)handle * UNIT / SPAN_BYTES];
	struct header header;

	memcpy(&header, pool->arena + (uint64_t)handle * UNIT, sizeof(header));
	if (__atomic_load_n(&pool->stored, __ATOMIC_RELAXED) - header.stored - 1 < __atomic_load_n(&pool->near_objects, __ATOMIC_RELAXED))
		__atomic_fetch_add(&pool->reuse.near, 1, __ATOMIC_RELAXED);
	/* Numbers go round: what is before another one lies less than half of them behind it. */
	else if ((int32_t)(__atomic_load_n(&span->number, __ATOMIC_RELAXED) - __atomic_load_n(&pool->far_number, __ATOMIC_RELAXED)) < 0)
		__atomic_fetch_add(&pool->reuse.far, 1, __ATOMIC_RELAXED);
}

void ob_pool_reuse(const struct ob_pool *pool, struct ob_pool_reuse *ret)
{
	ret->near = __atomic_load_n(&pool->reuse.near, __ATOMIC_RELAXED);
	ret->far = __atomic_load_n(&pool->reuse.far, __ATOMIC_RELAXED);
}

void ob_pool_watch(struct ob_pool *pool, uint32_t near_objects, uint64_t far_bytes)
{
	uint64_t left = OB_MIN(far_bytes, OB_POOL_WATCH_MAX) / SPAN_BYTES;
	uint32_t i;

	pthread_mutex_lock(&pool->lock);
	for (i = pool->oldest; i != NO_SPAN && left; i = pool->spans[i].age.next)
		left--;
	__atomic_store_n(&pool->far_number, i == NO_SPAN ? pool->made : pool->spans[i].number, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&pool->lock);
	__atomic_store_n(&pool->near_objects, near_objects, __ATOMIC_RELAXED);
	__atomic_store_n(&pool->reuse.near, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&pool->reuse.far, 0, __ATOMIC_RELAXED);
}

void ob_pool_free(struct ob_pool *pool, uint32_t handle)
{
	uint64_t offset = (uint64_t)handle * UNIT;
	uint32_t i = (uint32_t)(offset / SPAN_BYTES);
	struct span *span = &pool->spans[i];
	unsigned class = span->class; /* it stays what it is while the object lives */
	unsigned object = (unsigned)(offset % SPAN_BYTES) / (class * UNIT);

	pthread_mutex_lock(&pool->classes[class].lock);
	span->live[object / 64] &= ~(1ull << (object % 64));
	if (span->count-- == objects_in(class))
		push_room(pool, i);
	if (!span->count)
		give_span(pool, i);
	pthread_mutex_unlock(&pool->classes[class].lock);
}

static void list_object(struct ob_pool *pool, uint32_t i, unsigned object, struct ob_pool_object *ret)
{
	uint64_t offset = (uint64_t)i * SPAN_BYTES + (uint64_t)object * pool->spans[i].class * UNIT;
	struct header header;

	memcpy(&header, pool->arena + offset, sizeof(header));
	ret->page = header.page_and_length >> 16;
	ret->handle = (uint32_t)(offset / UNIT);
}

/* The span that follows the oldest by `skip`, and its class. */
static uint32_t find_old(struct ob_pool *pool, unsigned skip, unsigned *ret_class)
{
	uint32_t i;

	pthread_mutex_lock(&pool->lock);
	for (i = pool->oldest; i != NO_SPAN && skip; i = pool->spans[i].age.next)
		skip--;
	if (i != NO_SPAN)
		*ret_class = pool->spans[i].class;
	pthread_mutex_unlock(&pool->lock);
	return i;
}

unsigned ob_pool_oldest(struct ob_pool *pool, unsigned skip, struct ob_pool_object objects[OB_POOL_SPAN_OBJECTS])
{
	unsigned n = 0, class = 0;
	uint32_t i = find_old(pool, skip, &class);

	if (i == NO_SPAN)
		return 0;
	pthread_mutex_lock(&pool->classes[class].lock);
	/* If it has become another class's meanwhile, there is nothing to see here. */
	if (__atomic_load_n(&pool->spans[i].class, __ATOMIC_RELAXED) == class && pool->spans[i].count)
		for (unsigned object = 0; object < objects_in(class); object++)
			if (pool->spans[i].live[object / 64] >> (object % 64) & 1)
				list_object(pool, i, object, &objects[n++]);
	pthread_mutex_unlock(&pool->classes[class].lock);
	return n;
}

uint64_t ob_pool_bytes(const struct ob_pool *pool)
{
	return __atomic_load_n(&pool->bytes, __ATOMIC_RELAXED);
}

void ob_pool_ranges(const struct ob_pool *pool, uint64_t ret_arena[2], uint64_t ret_tables[2])
{
	ret_arena[0] = (uint64_t)(uintptr_t)pool->arena;
	ret_arena[1] = ret_arena[0] + pool->arena_bytes;
	ret_tables[0] = (uint64_t)(uintptr_t)pool->spans;
	ret_tables[1] = ret_tables[0] + pool->spans_bytes;
}

int ob_pool_create(uint64_t arena_bytes, int self, void (*cost)(void *context, int64_t delta_bytes), void *context,
		   struct ob_pool **ret_pool)
{
	struct ob_pool *pool = calloc(1, sizeof(*pool));
	void *memory = NULL;
	int r;

	if (!pool)
		return -ENOMEM;
	pool->arena_bytes = OB_MAX(OB_MIN(arena_bytes, ARENA_MAX), SPAN_BYTES) & ~(uint64_t)(SPAN_BYTES - 1);
	pool->span_count = (uint32_t)(pool->arena_bytes / SPAN_BYTES);
	pool->spans_bytes = (pool->span_count * sizeof(struct span) + 4095) & ~4095ull;
	pool->kept_limit = KEPT_FEW;
	pool->free_head = pool->kept_head = pool->oldest = pool->newest = NO_SPAN;
	pool->self = self;
	for (unsigned i = 0; i < CLASSES; i++) {
		pool->classes[i].room_head = NO_SPAN;
		pthread_mutex_init(&pool->classes[i].lock, NULL);
	}
	pool->cost = cost;
	pool->context = context;
	pthread_mutex_init(&pool->lock, NULL);
	r = ob_memory_reserve(pool->arena_bytes, 0, &memory);
	if (r == 0) {
		pool->arena = memory;
		r = ob_memory_reserve(pool->spans_bytes, 0, &memory);
	}
	if (r < 0) {
		ob_pool_destroy(pool);
		return r;
	}
	pool->spans = memory;
	*ret_pool = pool;
	return 0;
}

void ob_pool_destroy(struct ob_pool *pool)
{
	if (!pool)
		return;
	ob_memory_unreserve(pool->arena, pool->arena_bytes);
	ob_memory_unreserve(pool->spans, pool->spans_bytes);
	for (unsigned i = 0; i < CLASSES; i++)
		pthread_mutex_destroy(&pool->classes[i].lock);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
