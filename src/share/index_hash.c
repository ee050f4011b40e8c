/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plain strategy: everything that is offered is remembered, in a hash table with chains.
 *
 * Records of 40 bytes lie in one array and name each other by their numbers (32 bits, 0: none), so that the array can move when it
 * grows. A record is in the chain of its bucket and in the list of its owner, from the oldest to the youngest. Slots of the store
 * stand at the head of their chain, so that they are found first. There are at least as many buckets as records; both double when
 * they are full, and go when the index is empty. The bucket comes from the hash and a secret of this index's: who offers hashes
 * of his own making does not know which of them meet in a bucket. Entries under one and the same hash do meet: who uses the
 * index must not let there be too many of them.
 *
 * With the buckets that is 44 to 88 bytes an entry, 1.1 to 2.2% of a page of 4 KiB.
 */
#include "share/index.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define FIRST   64u
#define MOST    (1u << 31) /* records */
#define OWNERS  (OB_INDEX_OWNERS + 1)

struct record {
	uint64_t lo, hi, where;
	uint16_t owner, class;
	uint32_t next;            /* in the bucket, or in the list of free records */
	uint32_t older, younger;  /* of the same owner */
};

_Static_assert(sizeof(struct record) == 40, "as it says above");

struct owner {
	uint64_t quota;
	uint32_t oldest, youngest, count;
};

struct hash_index {
	struct ob_index base;
	struct record *records; /* [0] is not used */
	uint32_t *buckets;
	uint32_t size;          /* of both, a power of two; 0: nothing is allocated */
	uint32_t used, unused;  /* records that have ever been taken, and the head of the free ones among them */
	uint32_t count;
	uint64_t secret[4];
	struct owner owners[OWNERS];
};

static struct hash_index *self_of(const struct ob_index *index)
{
	return (struct hash_index *)index;
}

static struct owner *owner_of(struct hash_index *self, uint16_t owner)
{
	return owner == OB_INDEX_STORE ? &self->owners[OB_INDEX_OWNERS] : &self->owners[owner % OB_INDEX_OWNERS];
}

static struct ob_index *hash_create(void)
{
	struct hash_index *self = calloc(1, sizeof(*self));

	if (!self || getrandom(self->secret, sizeof(self->secret), 0) != (ssize_t)sizeof(self->secret)) {
		free(self);
		return NULL;
	}
	self->base.strategy = &ob_index_hash;
	owner_of(self, OB_INDEX_STORE)->quota = UINT64_MAX;
	return &self->base;
}

static void release_tables(struct hash_index *self)
{
	free(self->records);
	free(self->buckets);
	self->records = NULL;
	self->buckets = NULL;
	self->size = self->used = self->unused = 0;
}

static void hash_destroy(struct ob_index *index)
{
	release_tables(self_of(index));
	free(index);
}

static uint32_t *bucket_of(const struct hash_index *self, uint64_t lo, uint64_t hi)
{
	uint64_t mixed = (lo ^ self->secret[0]) * (self->secret[1] | 1);

	mixed = (mixed ^ mixed >> 32 ^ hi ^ self->secret[2]) * (self->secret[3] | 1);
	return &self->buckets[mixed >> 32 & (self->size - 1)];
}

/* Puts a record into its chain, the store's in front. */
static void chain(struct hash_index *self, uint32_t number)
{
	struct record *record = &self->records[number];
	uint32_t *at = bucket_of(self, record->lo, record->hi);

	if (record->owner != OB_INDEX_STORE)
		while (*at && self->records[*at].owner == OB_INDEX_STORE)
			at = &self->records[*at].next;
	record->next = *at;
	*at = number;
}

static int grow(struct hash_index *self)
{
	uint32_t size = self->size ? self->size * 2 : FIRST, *buckets;
	struct record *records;

	if (self->size >= MOST)
		return -ENOMEM;
	buckets = calloc(size, sizeof(*buckets));
	records = buckets ? realloc(self->records, (size_t)size * sizeof(*records)) : NULL;
	if (!records) {
		free(buckets);
		return -ENOMEM;
	}
	free(self->buckets);
	self->records = records;
	self->buckets = buckets;
	self->size = size;
	/* It only grows when no record is free: all that have ever been taken are in use. */
	for (uint32_t i = 1; i <= self->used; i++)
		chain(self, i);
	return 0;
}

/* A free record, or 0 when memory is short. */
static uint32_t take_record(struct hash_index *self)
{
	uint32_t number = self->unused;

	if (number) {
		self->unused = self->records[number].next;
		return number;
	}
	if (self->used + 1 >= self->size && grow(self) < 0)
		return 0;
	return ++self->used;
}

static void list_append(struct hash_index *self, uint32_t number)
{
	struct record *record = &self->records[number];
	struct owner *owner = owner_of(self, record->owner);

	record->older = owner->youngest;
	record->younger = 0;
	if (owner->youngest)
		self->records[owner->youngest].younger = number;
	else
		owner->oldest = number;
	owner->youngest = number;
	owner->count++;
}

static void list_remove(struct hash_index *self, uint32_t number)
{
	struct record *record = &self->records[number];
	struct owner *owner = owner_of(self, record->owner);

	if (record->older)
		self->records[record->older].younger = record->younger;
	else
		owner->oldest = record->younger;
	if (record->younger)
		self->records[record->younger].older = record->older;
	else
		owner->youngest = record->older;
	owner->count--;
}

static void drop_record(struct hash_index *self, uint32_t number)
{
	struct record *record = &self->records[number];
	uint32_t *at;

	for (at = bucket_of(self, record->lo, record->hi); *at != number; at = &self->records[*at].next)
		;
	*at = record->next;
	list_remove(self, number);
	record->next = self->unused;
	self->unused = number;
	if (!--self->count)
		release_tables(self);
}

static uint32_t find_record(const struct hash_index *self, const struct ob_index_entry *entry)
{
	uint32_t number = self->size ? *bucket_of(self, entry->lo, entry->hi) : 0;

	for (; number; number = self->records[number].next) {
		const struct record *record = &self->records[number];

		if (record->lo == entry->lo && record->hi == entry->hi && record->owner == entry->owner && record->where == entry->where)
			break;
	}
	return number;
}

static void keep_quota(struct hash_index *self, const struct owner *owner)
{
	while (owner->count > owner->quota)
		drop_record(self, owner->oldest);
}

static int hash_add(struct ob_index *index, const struct ob_index_entry *entry)
{
	struct hash_index *self = self_of(index);
	struct owner *owner = owner_of(self, entry->owner);
	uint32_t number = find_record(self, entry);

	if (number) {
		self->records[number].class = entry->class;
		list_remove(self, number);
		list_append(self, number);
		return 1;
	}
	if (!owner->quota)
		return 0;
	/* The oldest goes first, so that a machine at its quota needs no memory. */
	if (owner->count >= owner->quota)
		drop_record(self, owner->oldest);
	number = take_record(self);
	if (!number)
		return -ENOMEM;
	self->records[number] = (struct record){ .lo = entry->lo, .hi = entry->hi, .where = entry->where, .owner = entry->owner,
						 .class = entry->class };
	chain(self, number);
	list_append(self, number);
	self->count++;
	return 1;
}

static int hash_find(const struct ob_index *index, uint64_t lo, uint64_t hi, struct ob_index_cursor *cursor,
		     struct ob_index_entry *ret_entry)
{
	const struct hash_index *self = self_of(index);
	uint32_t number;

	if (!self->size)
		return 0;
	number = cursor->more ? (uint32_t)cursor->at : *bucket_of(self, lo, hi);
	cursor->more = 1;
	for (; number; number = self->records[number].next) {
		const struct record *record = &self->records[number];

		if (record->lo != lo || record->hi != hi)
			continue;
		*ret_entry = (struct ob_index_entry){ record->lo, record->hi, record->where, record->owner, record->class };
		cursor->at = record->next;
		return 1;
	}
	cursor->at = 0;
	return 0;
}

static int hash_remove(struct ob_index *index, const struct ob_index_entry *entry)
{
	struct hash_index *self = self_of(index);
	uint32_t number = find_record(self, entry);

	if (number)
		drop_record(self, number);
	return number != 0;
}

static void hash_remove_owner(struct ob_index *index, uint16_t owner)
{
	struct hash_index *self = self_of(index);
	const struct owner *list = owner_of(self, owner);

	while (list->count)
		drop_record(self, list->oldest);
}

static void hash_set_quota(struct ob_index *index, uint16_t owner, uint64_t entries)
{
	struct hash_index *self = self_of(index);

	owner_of(self, owner)->quota = entries;
	keep_quota(self, owner_of(self, owner));
}

static uint64_t hash_count(const struct ob_index *index, uint16_t owner)
{
	return owner_of(self_of(index), owner)->count;
}

static uint64_t hash_memory(const struct ob_index *index)
{
	const struct hash_index *self = self_of(index);

	return sizeof(*self) + (uint64_t)self->size * (sizeof(struct record) + sizeof(uint32_t));
}

const struct ob_index_strategy ob_index_hash = {
	.name = "hash",
	.create = hash_create,
	.destroy = hash_destroy,
	.add = hash_add,
	.find = hash_find,
	.remove = hash_remove,
	.remove_owner = hash_remove_owner,
	.set_quota = hash_set_quota,
	.count = hash_count,
	.memory = hash_memory,
};
