/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where equal pages are looked for: what machines have offered, and what lies in the canonical store, by the hash of the bytes.
 *
 * One interface, several strategies: what is remembered, and at what price, differs; what is found has the hash that was asked
 * for, or, once in a long while, another. Nothing here sees a page's bytes: what is found may have the same bytes, no more. Who uses an index
 * compares the bytes, and removes an entry that turns out to be out of date.
 *
 * An entry is { hash, owner, where, class }: a page of a machine (owner is the machine's number, where the page's name), or a slot of
 * the store (owner is OB_INDEX_STORE). The same page may be there under several hashes, once under each: what was offered
 * earlier is out of date then, and goes when somebody asks for its bytes or when the owner's quota pushes it out. Under one hash it
 * is of one class, that in which it was added last.
 *
 * Classes. Each has a stable part, the store's slots, and an unstable one, machines' pages, and a search looks into the two parts of one
 * class. "hash" knows one class, whatever it is told. "cmd-subpage" has as many as it is made with, after CMD (Chen et al., VEE 2014),
 * which groups pages by which of their parts are written, and never compares pages of different classes:
 *   - A slot stays in the class in which it was made, as CMD's stable nodes do. A page of another class does not find it; two such
 *     pages that find each other make a second slot of the same bytes. ob_index_is_elsewhere() tells what is lost so.
 *   - A page that is offered in another class than before moves there, so that it stays findable by those that are like it now.
 *   - CMD's trees are ordered by the bytes of pages, and comparing is what a search costs. Here pages are far away, in machines, and
 *     entries have hashes: a table does what a tree ordered by hashes would, in one or two comparisons however many entries there
 *     are, so that smaller classes save next to nothing (bench/share-index has the trees).
 *   - CMD drops unstable trees after each pass, since pages change under them, which breaks their order. A hash stays what it
 *     is: an entry that is out of date harms nobody until it is asked for, and goes then.
 *
 * Each owner has a quota of entries (none for the store). An entry more pushes out its own oldest, never somebody else's.
 *
 * No threads, no clock, no I/O. Memory is all that can fail.
 */
#ifndef OB_SHARE_INDEX_H
#define OB_SHARE_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_INDEX_OWNERS 1024    /* machines are numbered 0 to OB_INDEX_OWNERS - 1 */
#define OB_INDEX_STORE  0xffffu /* owner of the store's slots */

struct ob_index_entry {
	uint64_t lo, hi; /* the hash */
	uint64_t where;  /* a page's name, or a slot's number */
	uint16_t owner, class;
};

/* A place in a walk through the entries of one hash; starts as { 0 }. An index that is changed ends the walks in it. */
struct ob_index_cursor {
	uint64_t at, more;
};

struct ob_index {
	const struct ob_index_strategy *strategy;
	uint64_t comparisons; /* of a hash that was searched for with an entry's, since the beginning */
};

struct ob_index_strategy {
	const char *name;
	struct ob_index *(*create)(unsigned classes);
	void (*destroy)(struct ob_index *index);
	int (*add)(struct ob_index *index, const struct ob_index_entry *entry);
	int (*find)(struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, struct ob_index_cursor *cursor,
		    struct ob_index_entry *ret_entry);
	void (*expect)(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, int step);
	int (*is_elsewhere)(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class);
	int (*remove)(struct ob_index *index, const struct ob_index_entry *entry);
	void (*remove_owner)(struct ob_index *index, uint16_t owner);
	void (*set_quota)(struct ob_index *index, uint16_t owner, uint64_t entries);
	uint64_t (*count)(const struct ob_index *index, uint16_t owner);
	uint64_t (*memory)(const struct ob_index *index);
};

#define OB_INDEX_CLASSES_MAX 256u

/* A compact hash table of all that is offered; the same for each class. */
extern const struct ob_index_strategy ob_index_hash, ob_index_cmd_subpage;

/*
 * Returns an empty index, or NULL when memory is short. Quotas are 0 at first: nothing of a machine's is kept. classes: 1 to
 * OB_INDEX_CLASSES_MAX; an entry's class counts modulo that.
 */
static inline struct ob_index *ob_index_new(const struct ob_index_strategy *strategy, unsigned classes)
{
	return strategy->create(classes);
}

/* NULL is accepted. */
static inline void ob_index_free(struct ob_index *index)
{
	if (index)
		index->strategy->destroy(index);
}

/*
 * Remembers an entry. Returns 1 when it is remembered now (or was already: it counts as young again, and is of this class from
 * now on), 0 when the strategy or the quota does not keep it, or -ENOMEM.
 */
OB_MUST_CHECK static inline int ob_index_add(struct ob_index *index, const struct ob_index_entry *entry)
{
	return index->strategy->add(index, entry);
}

/*
 * The next entry of this hash in the class: the store's slot before machines' pages, if there is one. Returns 1, or 0 when there
 * are no more.
 */
static inline int ob_index_find(struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, struct ob_index_cursor *cursor,
				struct ob_index_entry *ret_entry)
{
	return index->strategy->find(index, lo, hi, class, cursor, ret_entry);
}

/*
 * A hash will be searched for in this class soon: what that will read is on its way into the cache afterwards. In two steps, 0 and 1, for many
 * hashes at a time: the second one reads what the first one has asked for. Changes nothing.
 */
#define OB_INDEX_EXPECT_STEPS 2
static inline void ob_index_expect(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class, int step)
{
	index->strategy->expect(index, lo, hi, class, step);
}

/* Whether an entry of this hash is in another class, where it is not found. Counts no comparisons. */
static inline int ob_index_is_elsewhere(const struct ob_index *index, uint64_t lo, uint64_t hi, uint16_t class)
{
	return index->strategy->is_elsewhere(index, lo, hi, class);
}

/* Forgets one entry (its class does not matter). Returns 1, or 0 when it was not there. */
static inline int ob_index_remove(struct ob_index *index, const struct ob_index_entry *entry)
{
	return index->strategy->remove(index, entry);
}

/* Forgets all entries of a machine. Its quota stays. */
static inline void ob_index_remove_owner(struct ob_index *index, uint16_t owner)
{
	index->strategy->remove_owner(index, owner);
}

/* A smaller quota pushes entries out at once. */
static inline void ob_index_set_quota(struct ob_index *index, uint16_t owner, uint64_t entries)
{
	index->strategy->set_quota(index, owner, entries);
}

/* Entries of an owner; of OB_INDEX_STORE as well. */
static inline uint64_t ob_index_count(const struct ob_index *index, uint16_t owner)
{
	return index->strategy->count(index, owner);
}

/* Bytes that the index takes. */
static inline uint64_t ob_index_memory(const struct ob_index *index)
{
	return index->strategy->memory(index);
}

#endif
