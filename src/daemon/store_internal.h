/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What store.c and store_restored.c know of each other. */
#ifndef OB_DAEMON_STORE_INTERNAL_H
#define OB_DAEMON_STORE_INTERNAL_H

#include <fcntl.h>

#include "daemon/store.h"

#define OB_STORE_NO_PLACE   UINT32_MAX
#define OB_STORE_SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

typedef uint64_t ob_store_members[OB_STORE_MEMBERS / 64];

struct ob_store_slot {
	uint64_t lo, hi;
	uint32_t refs; /* holds and pins; 0: free */
	bool filled;   /* ever: takes memory */
	bool worn;     /* is not filled again */
};

struct ob_store_extent {
	uint64_t id;
	uint8_t *base;
	int fd;
	uint32_t used, filled, cursor;
	uint32_t spent; /* slots that are worn and free */
	uint64_t opened; /* how many had been opened before, or restored */
	bool closed;
	bool restored, awaited, drained;
	ob_store_members told;  /* machines that are to be told when it goes */
	ob_store_members has;   /* of these, who is known to have mapped it */
	ob_store_members sent;  /* of these, who has been sent it on the connection that they have now */
	ob_store_members named; /* who has been told that it was restored, and has not claimed all yet */
	struct ob_store_slot slot[OB_STORE_SLOTS];
};

struct ob_store {
	const struct ob_store_events *events;
	void *context;
	char label[OB_STORE_LABEL_MAX + 1];
	struct ob_store_extent **extents; /* NULL: a free place */
	uint32_t places, count, drained; /* extents: those that there are; that are drained */
	uint32_t current;        /* the extent that is being filled, or OB_STORE_NO_PLACE */
	uint32_t found;          /* the place of the extent that was found last by its id: the next is most often the same */
	uint64_t used, filled, spent, opened;
};

static inline void ob_store_add_member(ob_store_members set, unsigned member)
{
	set[member / 64] |= 1ull << (member % 64);
}

static inline void ob_store_remove_member(ob_store_members set, unsigned member)
{
	set[member / 64] &= ~(1ull << (member % 64));
}

static inline bool ob_store_has_member(const ob_store_members set, unsigned member)
{
	return set[member / 64] >> (member % 64) & 1;
}

/* Sees to it that the next ob_holder_set() has room. 0 or -ENOMEM. */
int ob_holder_reserve(struct ob_holder *holder) OB_MUST_CHECK;
/* A count that is not larger than before needs no room. */
void ob_holder_set(struct ob_holder *holder, uint32_t slot, uint32_t count);
/* The next slot that is held from *at on, 0 at first. Counts may be set between, of slots that are there. Returns whether there is one. */
bool ob_holder_next(const struct ob_holder *holder, uint64_t *at, uint32_t *ret_slot, uint32_t *ret_count);

/* A free place in the table, or -errno. */
int ob_store_find_place(struct ob_store *store, uint32_t *ret_place) OB_MUST_CHECK;
struct ob_store_extent *ob_store_find_extent(struct ob_store *store, uint64_t id, uint32_t *ret_place);
/* Nothing of an extent is held: it is closed, and goes when everybody has been told. */
void ob_store_close_extent(struct ob_store *store, uint32_t place);
/* A closed extent of which everybody has been told goes. */
void ob_store_reap(struct ob_store *store, uint32_t place);

#endif
