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
 * Not thread-safe. Knows no machines, sockets or messages.
 */
#ifndef OB_DAEMON_STORE_H
#define OB_DAEMON_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_STORE_PAGE        4096u
#define OB_STORE_SLOTS       4096u /* of an extent */
#define OB_STORE_EXTENT      (16ull << 20)
#define OB_STORE_EXTENTS_MAX 4096u /* of one store: 64 GiB */
#define OB_STORE_MEMBERS     1024u /* machines are numbered below that */

struct ob_store;

/* What a machine holds; starts as { 0 }. */
struct ob_holder {
	struct ob_hold *table;
	uint32_t size, used; /* entries; those that have been taken, dead ones included */
	uint64_t holds;      /* sum of all counts */
};

/* A slot has become free: called before it can be filled again. */
typedef void ob_store_freed(void *context, uint32_t slot, uint64_t lo, uint64_t hi);

struct ob_store *ob_store_new(ob_store_freed *freed, void *context);

/* Closes everything; holders must have been emptied. */
void ob_store_free(struct ob_store *store);

/*
 * Fills a free slot with a page whose hash is lo, hi, and pins it. may_grow: also one that was never filled; may_open: also in a new
 * extent. Returns 0, -ENOSPC when there is none, or -errno.
 */
int ob_store_fill(struct ob_store *store, const void *page, uint64_t lo, uint64_t hi, bool may_grow, bool may_open,
		  uint32_t *ret_slot) OB_MUST_CHECK;

void ob_store_pin(struct ob_store *store, uint32_t slot);
void ob_store_unpin(struct ob_store *store, uint32_t slot);

/* One hold more. 0 or -ENOMEM. */
int ob_store_hold(struct ob_store *store, struct ob_holder *holder, uint32_t slot) OB_MUST_CHECK;

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

/* Empties a claim. */
void ob_claim_clear(struct ob_holder *claim);

uint32_t ob_holder_count(const struct ob_holder *holder, uint32_t slot);

/* The slot at an index of the extent with this id. Returns 0, or -ENOENT when there is no such extent or the slot is free. */
int ob_store_find(struct ob_store *store, uint64_t id, uint32_t index, uint32_t *ret_slot) OB_MUST_CHECK;
bool ob_store_has(struct ob_store *store, uint64_t id);

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

/* The next slot in use from *slot on, and its hash. Returns whether there is one. */
bool ob_store_next_used(const struct ob_store *store, uint32_t *slot, uint64_t *ret_lo, uint64_t *ret_hi);

uint64_t ob_store_used_pages(const struct ob_store *store);   /* slots in use */
uint64_t ob_store_memory_pages(const struct ob_store *store); /* what the store takes */
uint64_t ob_store_worn_pages(const struct ob_store *store);   /* of that, what nobody holds and nobody will */
uint32_t ob_store_extents(const struct ob_store *store);
uint64_t ob_store_tables_bytes(const struct ob_store *store);

#endif
