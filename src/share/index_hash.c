/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The strategies "hash" and "cmd-subpage": everything that is offered is remembered, in hash tables with chains, two for each class: the
 * store's slots, and machines' pages. "hash" has one class.
 *
 * Records of 32 bytes lie in one array and name each other by their numbers (32 bits, 0: none), so that the array can move when it
 * grows. A record is in the chain of its bucket and in the list of its owner, from the oldest to the youngest. A table has
 * at least as many buckets as records; it doubles when it is full, and goes when it is empty, and so does the array.
 *
 * What a record has of its hash is a tag: 64 bits of the hash mixed with a secret of this index's, of which some are the bucket's number. Who
 * offers hashes of his own making does not know which of them meet in a bucket. Entries under one and the same hash do meet: who uses
 * the index must not let there be too many of them. Two hashes may have the same tag (with 16 million of them, the pages of 64 GiB, that
 * happens once in some 100,000 such indices): an entry that is found so is like one whose page has changed, which who asks finds out.
 *
 * Where a page was before is not kept: a page that is new in its class is looked for in the others, which costs a look into
 * each that has something in the same part (of 16 classes; up to 256 with eighths of pages).
 *
 * With the buckets that is 36 to 40 bytes an entry, 0.9 to 1.0% of a page of 4 KiB; the array's other half is not touched while it is not used.
 */
#include "share/index.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define FIRST         64u
#define FIRST_BUCKETS 16u
#define MOST          (1u << 31) /* records */
#define OWNERS        (OB_INDEX_OWNERS + 1)

__extension__ typedef unsigned __int128 wide;

struct record {
	uint64_t tag, where;
	uint16_t owner, class;
	uint32_t next;            /* in the bucket, or in the list of free records */
	uint32_t older, younger;  /* of the same owner */
};

_Static_assert(sizeof(struct record) == 32, "as it says above");

struct owner {
	uint64_t quota;
	uint32_t oldest, youngest, count;
};

/* What one class has of slots, or of pages. */
struct part {
	uint32_t *buckets;
	uint32_t size, count; /* buckets, a power of two, 0: nothing is allocated; records */
};

enum { STABLE, UNSTABLE, PARTS };

struct hash_index {
	struct ob_index base;
	struct record *records; /* [0] is not used */
	uint32_t size;          /* a power of two; 0: nothing is allocated */
	uint32_t used, unused;  /* records that have ever been taken, and the head of the free ones among them */
	uint32_t count;
	uint64_t secret[4];
	struct owner owners[OWNERS];
	unsigned classes;
	struct part parts[][PARTS];
};

static struct hash_index *self_of(const struct ob_index *index)
{
	return (struct hash_index *)index;
}

static struct owner *owner_of(struct hash_index *self, uint16_t owner)
{
	return owner == OB_INDEX_STORE ? &self->owners[OB_INDEX_OWNERS] : &self->owners[owner % OB_INDEX_OWNERS];
}

static size_t bytes_of(unsigned classes)
{
	return sizeof(struct hash_index) + classes * sizeof(struct part[PARTS]);
}

static struct ob_index *create(const struct ob_index_strategy *strategy, unsigned classes)
{
	struct hash_index *self = classes && classes <= OB_INDEX_CLASSES_MAX ? calloc(1, bytes_of(classes)) : NULL;

	if (!self || getrandom(self->secret, sizeof(self->secret), 0) != (ssize_t)sizeof(self->secret)) {
		free(self);
		return NULL;
	}
	self->base.strategy = strategy;
	self->classes = classes;
	owner_of(self, OB_INDEX_STORE)->quota = UINT64_MAX;
	return &self->base;
}

static struct ob_index *hash_create(unsigned classes)
{
	return create(&ob_index_hash, 1);
}

static struct ob_index *cmd_subpage_create(unsigned classes)
{
	return create(&ob_index_cmd_subpage, classes);
}

static void release_records(struct hash_index *self)
{
	free(self->records);
	self->records = NULL;
	self->size = self->used = self->unused = 0;
}

static void hash_destroy(struct ob_index *index)
{
	struct hash_index *self = self_of(index);

	for (unsigned i = 0; i < self->classes; i++) {
		free(self->parts[i][STABLE].buckets);
		free(self->parts[i][UNSTABLE].buckets);
	}
	release_records(self);
	free(index);
}

static struct part *part_of(struct hash_index *self, uint16_t owner, uint16_t class)
{
	return &self->parts[class % self->classes][owner == OB_INDEX_STORE ? STABLE : UNSTABLE];
}

static uint64_t tag_of(const struct hash_index *self, uint64_t lo, uint64_t hi)
{
	wide product = (wide)(lo ^ self->secret[0]) * (self->secret[1] | 1);
	uint64_t mixed = (uint64_t)product + (uint64_t)(product >> 64);

	return (mixed ^ hi ^ self->secret[2]) * (self->secret[3] | 1);
}

/* By the upper bits: only these depend on all bits of the hash. */
static uint32_t *bucket_of(const struct part *part, uint64_t tag)
{
	return &part->buckets[(tag >> 32) * part->size >> 32];
}

/* The first record of the tag's bucket. */
static uint32_t head_of(const struct part *part, uint64_t tag)
{
	return part->size ? *bucket_of(part, tag) : 0;
}

static void push(struct hash_index *self, struct part *part, uint32_t number)
{
	struct record *record = &self->records[number];
	uint32_t *at = bucket_of(part, record->tag);

	record->next = *at;
	*at = number;
}

/* Makes room for one record more. */
static int make_room(struct hash_index *self, struct part *part)
{
	struct part larger = { .size = part->size ? part->size * 2 : FIRST_BUCKETS, .count = part->count };

	if (part->count < part->size)
		return 0;
	larger.buckets = calloc(larger.size, sizeof(*larger.buckets));
	if (!larger.buckets)
		return -ENOMEM;
	for (uint32_t i = 0; i < part->size; i++)
		for (uint32_t number = part->buckets[i], next; number; number = next) {
			next = self->records[number].next;
			push(self, &larger, number);
		}
	free(part->buckets);
	*part = larger;
	return 0;
}

/* Into the part of its class, in which there is room; out of it. */
static void chain(struct hash_index *self, uint32_t number)
{
	struct part *part = part_of(self, self->records[number].owner, self->records[number].class);

	push(self, part, number);
	part->count++;
}

static void unchain(struct hash_index *self, uint32_t number)
{
	const struct record *record = &self->records[number];
	struct part *part = part_of(self, record->owner, record->class);
	uint32_t *at;

	for (at = bucket_of(part, record->tag); *at != number; at = &self->records[*at].next)
		;
	*at = record->next;
	if (--part->count)
		return;
	free(part->buckets);
	*part = (struct part){ 0 };
}

static int grow(struct hash_index *self)
{
	uint32_t size = self->size ? self->size * 2 : FIRST;
	struct record *records = self->size < MOST ? realloc(self->records, (size_t)size * sizeof(*records)) : NULL;

	if (!records)
		return -ENOMEM;
	self->records = records;
	self->size = size;
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
	unchain(self, number);
	list_remove(self, number);
	self->records[number].next = self->unused;
	self->unused = number;
	if (!--self->count)
		release_records(self);
}

static uint32_t find_in(struct hash_index *self, const struct ob_index_entry *entry, uint64_t tag, uint16_t class)
{
	uint32_t number = head_of(part_of(self, entry->owner, class), tag);

	for (; number; number = self->records[number].next) {
		const struct record *record = &self->records[number];

		if (record->tag == tag && record->owner == entry->owner && record->where == entry->where)
			break;
	}
	return number;
}

/* The record of an entry, of whatever class: its own is looked at first. */
static uint32_t find_record(struct hash_index *self, const struct ob_index_entry *entry)
{
	uint64_t tag = tag_of(self, entry->lo, entry->hi);
	uint32_t number = find_in(self, entry, tag, entry->class);

	for (uint16_t class = 0; class < self->classes && !number; class++)
		number = find_in(self, entry, tag, class);
	return number;
}

static void keep_quota(struct hash_index *self, const struct owner *owner)
{
	while (owner->count > owner->quota)
		drop_record(self, owner->oldest);
}

/* What is remembered already is added again, perhaps in another class. */
static int make_young(struct hash_index *self, uint32_t number, uint16_t class)
{
	struct record *record = &self->records[number];
	struct part *part = part_of(self, record->owner, class);

	if (part != part_of(self, record->owner, record->class)) {
		if (make_room(self, part) < 0)
			return -ENOMEM;
		unchain(self, number);
		record->class = class;
		chain(self, number);
	}
	record->class = class; /* also one that counts as the same */
	list_remove(self, number);
	list_append(self, number);
	return 1;
}

static int hash_add(struct ob_index *index, const struct ob_index_entry *entry)
{
	struct hash_index *self = self_of(index);
	struct owner *owner = owner_of(self, entry->owner);
	struct part *part = part_of(self, entry->owner, entry->class);
	uint32_t number = find_record(self, entry);

	if (number)
		return make_young(self, number, entry->class);
	if (!owner->quota)
		return 0;
	/* The oldest goes first, so that a machine at its quota needs no memory. */
	if (owner->count >= owner->quota)
		drop_record(self, owner->oldest);
	number = make_room(self, part) == 0 ? take_record(self) : 0;
	if (!number)
		return -ENOMEM;
	self->records[number] = (struct record){ .tag = tag_of(self, entry->lo, entry->hi), .where = entry->where, .owner = entry->owner,
						 .class = entry->class };
	chain(self, number);
	list_append(self, number);
	self->count++;
	return 1;
}

/* cursor->more: of which part cursor->at is, plus one; 0: of none yet. */
static int hash_find(struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, struct ob_index_cursor *cursor,
		     struct ob_index_entry *ret_entry)
{
	const struct hash_index *self = self_of(index);
	uint64_t tag = tag_of(self, lo, hi);

	for (;;) {
		for (uint32_t number = (uint32_t)cursor->at; number; number = self->records[number].next) {
			const struct record *record = &self->records[number];

			index->comparisons++;
			if (record->tag != tag)
				continue;
			*ret_entry = (struct ob_index_entry){ lo, hi, record->where, record->owner, record->class };
			cursor->at = record->next;
			return 1;
		}
		cursor->at = 0;
		if (cursor->more == PARTS)
			return 0;
		cursor->at = head_of(&self->parts[class % self->classes][cursor->more++], tag);
	}
}

/* Buckets first, then the first records of their chains. */
static void hash_expect(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, int step)
{
	const struct hash_index *self = self_of(index);
	uint64_t tag = tag_of(self, lo, hi);

	for (unsigned i = 0; i < PARTS; i++) {
		const struct part *part = &self->parts[class % self->classes][i];

		if (part->size)
			__builtin_prefetch(step ? (const void *)&self->records[*bucket_of(part, tag)] : bucket_of(part, tag), 1);
	}
}

static int has_tag(const struct hash_index *self, const struct part *part, uint64_t tag)
{
	uint32_t number = head_of(part, tag);

	while (number && self->records[number].tag != tag)
		number = self->records[number].next;
	return number != 0;
}

static int hash_is_elsewhere(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class)
{
	const struct hash_index *self = self_of(index);
	uint64_t tag = tag_of(self, lo, hi);

	for (unsigned i = 0; i < self->classes; i++)
		if (i != class % self->classes && (has_tag(self, &self->parts[i][STABLE], tag) || has_tag(self, &self->parts[i][UNSTABLE], tag)))
			return 1;
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
	uint64_t buckets = 0;

	for (unsigned i = 0; i < self->classes; i++)
		buckets += (uint64_t)self->parts[i][STABLE].size + self->parts[i][UNSTABLE].size;
	return bytes_of(self->classes) + (uint64_t)self->size * sizeof(struct record) + buckets * sizeof(uint32_t);
}

#define OPERATIONS .destroy = hash_destroy, .add = hash_add, .find = hash_find, .expect = hash_expect, .is_elsewhere = hash_is_elsewhere, \
	.remove = hash_remove, .remove_owner = hash_remove_owner, .set_quota = hash_set_quota, .count = hash_count, \
	.memory = hash_memory

const struct ob_index_strategy ob_index_hash = { .name = "hash", .create = hash_create, OPERATIONS };
const struct ob_index_strategy ob_index_cmd_subpage = { .name = "cmd-subpage", .create = cmd_subpage_create, OPERATIONS };
