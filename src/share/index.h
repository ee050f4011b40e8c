/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where equal pages are looked for: what machines have offered, and what lies in the canonical store, by the hash of the bytes.
 *
 * One interface, several strategies: what is remembered, and at what price, differs; what is found has the hash that was asked
 * for. Nothing here sees a page's bytes: that a hash is equal means that the bytes may be equal, no more. Who uses an index
 * compares the bytes, and removes an entry that turns out to be out of date.
 *
 * An entry is { hash, owner, where, class }: a page of a machine (owner is the machine's number, where the page's name), or a slot of
 * the store (owner is OB_INDEX_STORE). The same page may be there under several hashes, once under each: what was offered
 * earlier is out of date then, and goes when somebody asks for its bytes or when the owner's quota pushes it out.
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
};

struct ob_index_strategy {
	const char *name;
	struct ob_index *(*create)(void);
	void (*destroy)(struct ob_index *index);
	int (*add)(struct ob_index *index, const struct ob_index_entry *entry);
	int (*find)(const struct ob_index *index, uint64_t lo, uint64_t hi, struct ob_index_cursor *cursor, struct ob_index_entry *ret_entry);
	int (*remove)(struct ob_index *index, const struct ob_index_entry *entry);
	void (*remove_owner)(struct ob_index *index, uint16_t owner);
	void (*set_quota)(struct ob_index *index, uint16_t owner, uint64_t entries);
	uint64_t (*count)(const struct ob_index *index, uint16_t owner);
	uint64_t (*memory)(const struct ob_index *index);
};

/* A compact hash table of all that is offered. */
extern const struct ob_index_strategy ob_index_hash;

/* Returns an empty index, or NULL when memory is short. Quotas are 0 at first: nothing of a machine's is kept. */
static inline struct ob_index *ob_index_new(const struct ob_index_strategy *strategy)
{
	return strategy->create();
}

/* NULL is accepted. */
static inline void ob_index_free(struct ob_index *index)
{
	if (index)
		index->strategy->destroy(index);
}

/*
 * Remembers an entry. Returns 1 when it is remembered now (or was already: it counts as young again), 0 when the strategy or
 * the quota does not keep it, or -ENOMEM.
 */
OB_MUST_CHECK static inline int ob_index_add(struct ob_index *index, const struct ob_index_entry *entry)
{
	return index->strategy->add(index, entry);
}

/* The next entry of this hash: the store's slot before machines' pages, if there is one. Returns 1, or 0 when there are no more. */
static inline int ob_index_find(const struct ob_index *index, uint64_t lo, uint64_t hi, struct ob_index_cursor *cursor,
				struct ob_index_entry *ret_entry)
{
	return index->strategy->find(index, lo, hi, cursor, ret_entry);
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
