/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The swap store: where pages lie that neither are zero nor compress.
 *
 * Theory of operation. One file a machine, in a directory of the user's choice, without a name (O_TMPFILE), readable by
 * its owner alone: a crash leaves nothing behind. It is read and written directly (O_DIRECT) where the file system can,
 * so that the page cache does not hold a second copy. A slot is one page of it. Slots are handed out next-fit from a
 * bitmap, in runs, so pages that leave together lie together, and can come back with one read. swap_io.h has reads and
 * writes that go on in the background.
 *
 * The file grows by extents of 16 MiB, each allocated on disk before its first slot is handed out: a full disk is found
 * before anything has been promised, and not in the middle of a write. ob_swap_prepare() does that, since it may take as
 * long as the disk likes, and ob_swap_alloc() never. An extent whose last slot is freed is punched out again by
 * ob_swap_trim().
 *
 * Every slot has a keyed 128-bit hash of what was written, kept in memory: every read is verified, and a page that came
 * in and goes out again unchanged is recognised by it.
 *
 * Locking: slots are taken, and the file grown and trimmed, under one mutex (growing under another besides, since the file
 * system may take its time); freeing a slot takes none. The hash of a slot and its bytes on disk belong to whoever owns
 * the slot.
 *
 * Failure: a write that fails leaves its slots to the caller, who frees them; a read that fails, or whose hash does not
 * match, says -EIO or -EBADMSG and promises nothing about the buffer.
 */
#ifndef OB_ENGINE_SWAP_H
#define OB_ENGINE_SWAP_H

#include <stdint.h>

#include "base/compiler.h"
#include "base/error.h"
#include "engine/content.h"

struct ob_swap;

#define OB_SLOT_NONE UINT32_MAX

/* cost is told how many bytes more or less of memory the store's tables take. Returns 0 or -errno with the cause. */
int ob_swap_create(const char *dir, const struct ob_hash_key *key, void (*cost)(void *context, int64_t delta_bytes),
		   void *context, struct ob_swap **ret_swap, struct ob_error *err) OB_MUST_CHECK;
void ob_swap_destroy(struct ob_swap *swap);

/* Grows the file, if it must, until there are so many free slots, as far as the disk allows. Waits for the disk. */
void ob_swap_prepare(struct ob_swap *swap, uint32_t slots);

/*
 * Takes up to want slots that follow each other, if it can from the one after the last that was taken. *ret_slot is the
 * first; returns how many, -ENOSPC, or why the file could not grow. Does not wait for the disk.
 */
int ob_swap_alloc(struct ob_swap *swap, uint32_t want, uint32_t *ret_slot) OB_MUST_CHECK;
void ob_swap_free(struct ob_swap *swap, uint32_t slot);

/* Sets and gets the hash of a slot that the caller owns. */
void ob_swap_set_hash(struct ob_swap *swap, uint32_t slot, struct ob_hash hash);
struct ob_hash ob_swap_hash(const struct ob_swap *swap, uint32_t slot);

/* Reads them into a page-aligned buffer, unverified. Returns 0 or -errno. */
int ob_swap_read(struct ob_swap *swap, uint32_t slot, unsigned pages, void *buffer) OB_MUST_CHECK;

/*
 * For swap_io.c: writes pages from a page-aligned buffer to slots that follow each other (0 or -errno; after an error none of
 * them counts), and reads them, without fault points; drops what the page cache of a store that is not direct has of them.
 */
int ob_swap_write_raw(struct ob_swap *swap, uint32_t slot, unsigned pages, const void *buffer) OB_MUST_CHECK;
int ob_swap_read_raw(struct ob_swap *swap, uint32_t slot, unsigned pages, void *buffer) OB_MUST_CHECK;
void ob_swap_uncache(struct ob_swap *swap, uint32_t slot, unsigned pages);
int ob_swap_fd(const struct ob_swap *swap);

/* Whether page is what was written to slot. Returns 0 or -EBADMSG. */
int ob_swap_verify(const struct ob_swap *swap, uint32_t slot, const void *page) OB_MUST_CHECK;

/* Gives extents without slots back to the file system. */
void ob_swap_trim(struct ob_swap *swap);

/* Disk space that extents take, in bytes. Takes no lock. */
uint64_t ob_swap_file_bytes(const struct ob_swap *swap);

/* Whether the store reads and writes past the page cache. */
int ob_swap_is_direct(const struct ob_swap *swap);

/* Where the hash table lies. */
void ob_swap_ranges(const struct ob_swap *swap, uint64_t ret_tables[2]);

#endif
