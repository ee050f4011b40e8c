/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The canonical store of one sharing domain: the one copy of each page that its machines share, and who holds which.
 *
 * An **extent** is 16 MiB of memory without a name in any file system (a memfd), with a random id. overbookd maps it to write and then
 * seals it: nobody who is given the descriptor can write to it, map it writable, or change its size, however it is opened again.
 * A **slot** is a page of it. Slots are handed out in order, so that pages that are shared one after the other become neighbours.
 *
 * A **holder** is a machine: it counts how often it holds each slot. The store counts the holds of all, and a slot is free only
 * when the last one has been taken back; it may be filled with something else then, and whoever still read it would read that.
 * Hence who may still have a hold counts as having it. A pin is a hold of overbookd's own.
 *
 * A slot that was filled once takes memory until its extent is gone, used or not (a sealed memfd cannot be punched). What
 * counts as the store's memory is therefore what was ever filled in the extents that exist; slots that are free again are filled
 * first where the store may not grow. An extent without any hold is closed: no slot of it is handed out any more, and it goes when
 * every machine that has mapped it has been told.
 *
 * What a holder says himself that he holds is a **claim**: a holder too, that nobody counts. It is checked against what is
 * counted, and when it is complete, what was counted beyond it is let go of.
 *
 * An extent that an earlier overbookd has made can be **restored** from its descriptor (share_keep.c): to be read only. That seal
 * lets nobody map it to write any more, its maker's successor included; and it takes another, F_SEAL_WRITE, only when no such
 * mapping is left. So whatever has happened before, its bytes never change from then on. Which slots of it were ever filled the
 * kernel tells; who holds them is to be claimed, by each machine as often as it says. No slot of it is ever filled again: what is
 * let go of takes memory until the extent goes. It is **awaited**, held by anybody or not, until ob_store_expire(). A restored extent
 * of which little is held is **drained**: its slots count as not in use (ob_store_next_used()), so that its holders go elsewhere.
 *
 * Not thread-safe. Knows no machines, sockets or messages.
 */
#ifndef OB_DAEMON_STORE_H
#define OB_DAEMON_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/error.h"

#define OB_STORE_PAGE        4096u
#define OB_STORE_SLOTS       4096u /* of an extent */
#define OB_STORE_EXTENT      (16ull << 20)
#define OB_STORE_EXTENTS_MAX 4096u /* of one store: 64 GiB */
#define OB_STORE_MEMBERS     1024u /* machines are numbered below that */
#define OB_STORE_HOLDS_MOST  (UINT32_MAX / OB_STORE_MEMBERS - 1) /* of a slot, by one machine: 16 GiB of a page. Those of all, and pins, fit into a count */

struct ob_store;

/* What a machine holds; starts as { 0 }. */
struct ob_holder {
	struct ob_hold *table; /* store_holders.c */
	uint32_t size, used;   /* entries; those that have been taken, dead ones included */
	uint64_t holds;      /* sum of all counts */
};

struct ob_store_events {
	/* A slot has become free: called before it can be filled again. */
	void (*freed)(void *context, uint32_t slot, uint64_t lo, uint64_t hi);
	/* A new extent, before anything is in it; an extent goes. */
	void (*opened)(void *context, uint64_t id, int fd);
	void (*gone)(void *context, uint64_t id);
};

/* label becomes a part of the extents' names, "overbook-store:ID:LABEL", which /proc shows with their descriptors and mappings. */
#define OB_STORE_FILE      "overbook-store:"
#define OB_STORE_LABEL_MAX 96u
struct ob_store *ob_store_new(const char *label, const struct ob_store_events *events, void *context);

/* Closes everything; holders must have been emptied. What is still there goes. */
void ob_store_free(struct ob_store *store);

/*
 * Fills a free slot with a page whose hash is lo, hi, and pins it. may_grow: also one that was never filled; may_open: also in a new
 * extent. Returns 0, -ENOSPC when there is none, or -errno.
 */
int ob_store_fill(struct ob_store *store, const void *page, uint64_t lo, uint64_t hi, bool may_grow, bool may_open,
		  uint32_t *ret_slot) OB_MUST_CHECK;

void ob_store_pin(struct ob_store *store, uint32_t slot);
void ob_store_unpin(struct ob_store *store, uint32_t slot);

/* count holds more. 0 or -ENOMEM, also where that would be more than OB_STORE_HOLDS_MOST. */
int ob_store_hold(struct ob_store *store, struct ob_holder *holder, uint32_t slot, uint32_t count) OB_MUST_CHECK;

/* count holds fewer. 0, or -EINVAL when there are not so many; nothing has changed then. */
int ob_store_let_go(struct ob_store *store, struct ob_holder *holder, uint32_t slot, uint32_t count) OB_MUST_CHECK;

/*
 * A page of the slot has been mapped into a guest, and a device may be reading it for any time to come: the slot is never filled again. It
 * takes memory until its extent goes. Or all slots that a machine holds.
 */
void ob_store_wear(struct ob_store *store, uint32_t slot);
void ob_store_wear_all(struct ob_store *store, const struct ob_holder *holder);

/* All that a machine holds: its process has ended. */
void ob_store_let_go_all(struct ob_store *store, struct ob_holder *holder);

/* Count more in a claim. 0, -EINVAL when the holder does not hold the slot so often, or -ENOMEM; nothing has changed then. */
int ob_store_claim(const struct ob_holder *holder, struct ob_holder *claim, uint32_t slot, uint32_t count) OB_MUST_CHECK;

/* Lets go of what is not claimed; wear: as worn. Returns how many holds that were. */
uint64_t ob_store_settle(struct ob_store *store, struct ob_holder *holder, const struct ob_holder *claim, bool wear);

/* Forgets all that is in a claim. */
void ob_holder_clear(struct ob_holder *claim);

uint32_t ob_holder_count(const struct ob_holder *holder, uint32_t slot);
uint64_t ob_holder_bytes(const struct ob_holder *holder); /* that it takes */

/* The slot at an index of the extent with this id. Returns 0, or -ENOENT when there is no such extent or the slot is free. */
int ob_store_find(struct ob_store *store, uint64_t id, uint32_t index, uint32_t *ret_slot) OB_MUST_CHECK;
bool ob_store_has(struct ob_store *store, uint64_t id);

/*
 * Takes an earlier overbookd's extent. On success the descriptor is the store's. Returns 0, or -errno with the reason why it is not
 * what it must be.
 */
int ob_store_restore(struct ob_store *store, uint64_t id, int fd, struct ob_error *err) OB_MUST_CHECK;

/* As ob_store_find(), of restored extents alone, for slots that were ever filled, whether they are free or not. */
int ob_store_find_restored(struct ob_store *store, uint64_t id, uint32_t index, uint32_t *ret_slot) OB_MUST_CHECK;

/* The first hold of such a slot: it is in use from now on, under this hash. The member has the extent's memory. */
bool ob_store_is_free(const struct ob_store *store, uint32_t slot);
void ob_store_set_hash(struct ob_store *store, uint32_t slot, uint64_t lo, uint64_t hi);
void ob_store_set_claimed(struct ob_store *store, uint32_t slot, unsigned member);

/* The next restored extent from *place on, 0 at first, which is moved on. Returns whether there is one. */
bool ob_store_next_restored(const struct ob_store *store, uint32_t *place, uint64_t *ret_id);

/* The machine is told of all restored extents; until it has claimed what it holds, none of them goes. */
void ob_store_name_restored(struct ob_store *store, unsigned member);
void ob_store_has_claimed(struct ob_store *store, unsigned member);

/* Nobody is waited for any more: what of restored extents nobody holds goes. */
void ob_store_expire(struct ob_store *store);
bool ob_store_is_awaited(const struct ob_store *store);

/*
 * Drains one restored extent of which less than half of what it takes is held, once nobody is awaited. Those who have it are to be sent it
 * anew (ob_store_next_unsent()). before is called for each slot that is in use. Returns whether there was one.
 */
bool ob_store_drain(struct ob_store *store, void (*before)(void *context, uint32_t slot, uint64_t lo, uint64_t hi));
/*
 * Drains the extent that was opened first, however much of it is held, but not the one that is being filled. Returns how many of its slots are in use, 0 if
 * there is none.
 */
uint32_t ob_store_shed(struct ob_store *store, void (*before)(void *context, uint32_t slot, uint64_t lo, uint64_t hi));
bool ob_store_is_drained(const struct ob_store *store, uint32_t slot);
bool ob_store_drains(const struct ob_store *store); /* any */

const void *ob_store_bytes(const struct ob_store *store, uint32_t slot);
uint64_t ob_store_id(const struct ob_store *store, uint32_t slot);
int ob_store_fd(const struct ob_store *store, uint32_t slot);

/* Whether a machine (by number) has been sent the extent that the slot is in; since it connected: what was lost on the way before is sent again. */
bool ob_store_is_told(const struct ob_store *store, uint32_t slot, unsigned member);
void ob_store_set_told(struct ob_store *store, uint32_t slot, unsigned member);

void ob_store_reconnected(struct ob_store *store, unsigned member);

/* The next open extent that a machine may have mapped, and has not been sent since: one of its slots. Returns whether there is one. */
bool ob_store_next_unsent(const struct ob_store *store, unsigned member, uint32_t *ret_slot);

/* The next closed extent that a machine still has. Returns whether there is one. */
bool ob_store_next_closed(const struct ob_store *store, unsigned member, uint64_t *ret_id);

bool ob_store_has_closed(const struct ob_store *store);

/* The machine has been told to drop the extent, or has ended (id 0: every extent). */
void ob_store_forget_told(struct ob_store *store, unsigned member, uint64_t id);

/* The next slot in use from *slot on that is not drained, and its hash. Returns whether there is one. */
bool ob_store_next_used(const struct ob_store *store, uint32_t *slot, uint64_t *ret_lo, uint64_t *ret_hi);

uint64_t ob_store_used_pages(const struct ob_store *store);   /* slots in use */
uint64_t ob_store_memory_pages(const struct ob_store *store); /* what the store takes */
uint64_t ob_store_worn_pages(const struct ob_store *store);   /* of that, what nobody holds and nobody will */
uint64_t ob_store_spare_pages(const struct ob_store *store);  /* of that, what can be filled without taking more */
uint64_t ob_store_restored_pages(const struct ob_store *store); /* of that, what lies in restored extents */
uint32_t ob_store_extents(const struct ob_store *store);
uint64_t ob_store_tables_bytes(const struct ob_store *store);

#endif
