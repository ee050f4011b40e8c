/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sharing: pages whose only copy is a canonical page, which other pages, of this machine or others, have as their copy too.
 *
 * Theory of operation. Cold pages are offered by their hash (evict.c offers what goes to the pool, scan.c what it finds); where
 * shared pages are mapped, so are those in use that a read has just brought back (ob_share_offer_used()),
 * and who has an index of such offers (overbookd) asks for the bytes of those that look alike, puts one copy into the
 * canonical store, and asks each of them to adopt it. The engine trusts none of that: it compares all bytes itself, under the
 * lock of the page's chunk, and gives its own copy up only if they are the same. From then on the page's word says SHARED
 * and names the slot; a touch copies the bytes back (fault_service.c). No mapping of guest RAM ever shows a canonical page,
 * unless the engine maps shared pages (mapped.c).
 *
 * The canonical store comes in extents of at most OB_EXTENT_PAGES slots, which are mapped read-only. The engine numbers them
 * itself, lowest free number first; a word has room for OB_EXTENTS_MAX numbers.
 *
 * Holds. Each SHARED or MAPPED word is one hold of its slot. When it becomes anything else, or names another slot, the hold ends, and
 * that must be told: the slot is reused when nobody holds it any more. What is to be told is a count for each slot, so that
 * it takes bounded memory and cannot be lost however long nobody takes it. An extent goes only when nothing of it is held
 * and nothing of it is left to tell.
 *
 * Whoever counts the holds elsewhere may have lost count: messages get lost with their connection. So the engine keeps what he must
 * have counted, for each slot: one more with each adoption, less what was taken as ended. A hold that ends changes nothing of that
 * until it is taken, so these counts stand still while nobody adopts or takes anything, and can be told piece by piece.
 *
 * Offers are hints, kept in a ring (offers.c). Who takes them is woken for many at a time: whoever has looked through a
 * chunk says so (ob_share_offered()).
 *
 * Orphans. Each overbookd has a key of its own. When sharing is switched on with another key than before, the extents that
 * were there belong to an overbookd that has gone, until somebody announces them again, or says that he has them. Their pages
 * stay what they are, and orphans.c offers them once more; an adoption then moves the word from one slot to another. An extent can
 * also be made an orphan by who owns it, to get rid of it so; its holds' ends are told as ever.
 *
 * Memory: the tables are one mapping. What is touched of it is charged: a part when sharing is used first, and a part for
 * each number of an extent that is used first, which is kept for the next extent of that number, but for the ring of
 * offers.
 *
 * Locking: share.lock is a leaf. The bytes of a slot may be read, without it, by who holds the lock of the chunk whose word
 * names the slot. The key and the switches change with regions_lock held for writing.
 */
#include "engine/share.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/scan.h"
#include "engine/warmth.h"
#include "kern/memory.h"

#define ADOPT_STEP   64u /* pages with their chunk's lock held */
#define COUNTS_BYTES (sizeof(uint32_t) * OB_EXTENT_PAGES)
#define STATE_BYTES  ((sizeof(struct ob_share) + OB_PAGE_SIZE - 1) / OB_PAGE_SIZE * OB_PAGE_SIZE)
#define TABLES_BYTES (STATE_BYTES + 2 * OB_EXTENTS_MAX * COUNTS_BYTES)

/* The lock is held. */
static void set_orphan(struct ob_extent *extent, uint32_t is_orphan)
{
	if (is_orphan != extent->is_orphan) {
		ob_store(&extent->rounds, 0u);
		ob_store(&extent->orphan_ns, ob_now_ns());
	}
	ob_store(&extent->is_orphan, is_orphan);
}

/* Makes the tables, if nobody has yet. */
static int make_tables(struct ob_engine *engine, struct ob_share **ret_share)
{
	struct ob_share *share;
	void *memory = NULL;
	int r = 0;

	pthread_mutex_lock(&engine->limit_lock);
	share = ob_share_of(engine);
	if (!share) {
		r = ob_memory_reserve(TABLES_BYTES, 0, &memory);
		share = memory;
	}
	if (r == 0 && !ob_share_of(engine)) {
		pthread_mutex_init(&share->lock, NULL);
		share->ended = (uint32_t(*)[OB_EXTENT_PAGES])(void *)((char *)memory + STATE_BYTES);
		share->counted = share->ended + OB_EXTENTS_MAX;
		ob_cost_tables(engine, (int64_t)(STATE_BYTES - sizeof(share->extent) - sizeof(share->offer)));
		__atomic_store_n(&engine->share, share, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&engine->limit_lock);
	*ret_share = share;
	return r;
}

void ob_share_destroy(struct ob_engine *engine)
{
	struct ob_share *share = ob_share_of(engine);

	if (!share)
		return;
	for (unsigned i = 0; i < share->extent_count; i++)
		if (share->extent[i].id) {
			syscall(SYS_munmap, share->extent[i].base, share->extent[i].pages * OB_PAGE_SIZE);
			ob_fd_close(&share->extent[i].file);
		}
	pthread_mutex_destroy(&share->lock);
	ob_memory_unreserve(share, TABLES_BYTES);
}

int ob_share_ranges(const struct ob_engine *engine, uint64_t ret_tables[2])
{
	struct ob_share *share = ob_share_of(engine);

	ret_tables[0] = (uint64_t)(uintptr_t)share;
	ret_tables[1] = ret_tables[0] + TABLES_BYTES;
	return share != NULL;
}

/* --- switches --- */

int ob_share_is_on(const struct ob_engine *engine)
{
	struct ob_share *share = ob_share_of(engine);

	return share && ob_load(&share->is_on) && !ob_load(&share->is_suspended);
}

static int make_ready_to_look(struct ob_engine *engine)
{
	int r = ob_scan_start(engine);

	return r < 0 ? r : ob_engine_engage(engine);
}

int ob_engine_share_on(struct ob_engine *engine, const void *key192, unsigned cpu_permille, void (*ready)(void *context),
		       void *context)
{
	struct ob_share *share = NULL;
	int another, r = make_tables(engine, &share);

	if (r == 0 && cpu_permille)
		r = make_ready_to_look(engine);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&engine->regions_lock);
	another = memcmp(share->key.secret, key192, sizeof(share->key.secret)) != 0;
	memcpy(share->key.secret, key192, sizeof(share->key.secret));
	ob_store(&share->is_on, 1);
	share->generation++;
	ob_store(&share->is_suspended, 0);
	ob_store(&share->cpu_permille, OB_MIN(cpu_permille, 1000u));
	pthread_mutex_lock(&share->lock);
	share->ready = ready;
	share->context = context;
	if (another)
		ob_store(&share->offer_count, 0); /* hashes by another key */
	for (unsigned i = 0; another && i < share->extent_count; i++)
		set_orphan(&share->extent[i], 1);
	if ((share->to_tell || share->offer_count) && ready)
		ready(context);
	pthread_mutex_unlock(&share->lock);
	pthread_rwlock_unlock(&engine->regions_lock);
	ob_scan_kick(engine);
	return 0;
}

int ob_engine_share_pace(struct ob_engine *engine, unsigned cpu_permille)
{
	struct ob_share *share = ob_share_of(engine);
	int r;

	if (!share || !ob_load(&share->is_on))
		return -EINVAL;
	r = cpu_permille ? make_ready_to_look(engine) : 0;
	if (r < 0)
		return r;
	ob_store(&share->cpu_permille, OB_MIN(cpu_permille, 1000u));
	ob_scan_kick(engine);
	return 0;
}

unsigned ob_engine_share_waiting(const struct ob_engine *engine)
{
	const struct ob_share *share = ob_share_of(engine);

	return share ? ob_load(&share->offer_count) : 0;
}

void ob_engine_share_off(struct ob_engine *engine)
{
	struct ob_share *share = ob_share_of(engine);

	if (!share)
		return;
	pthread_rwlock_wrlock(&engine->regions_lock);
	ob_store(&share->is_on, 0);
	pthread_mutex_lock(&share->lock);
	ob_store(&share->offer_count, 0);
	pthread_mutex_unlock(&share->lock);
	pthread_rwlock_unlock(&engine->regions_lock);
	ob_scan_kick(engine);
}

void ob_share_suspend(struct ob_engine *engine, int suspended)
{
	struct ob_share *share = ob_share_of(engine);

	if (share && __atomic_exchange_n(&share->is_suspended, suspended, __ATOMIC_ACQ_REL) != suspended)
		ob_scan_kick(engine);
}

/* --- extents and holds --- */

/* The extent with an id; the lock is held. NULL when there is none. */
static struct ob_extent *find_extent(struct ob_share *share, uint64_t id)
{
	if (share->extent[share->last_extent].id == id)
		return id ? &share->extent[share->last_extent] : NULL;
	for (unsigned i = 0; id && i < share->extent_count; i++) {
		if (share->extent[i].id != id)
			continue;
		share->last_extent = i;
		return &share->extent[i];
	}
	return NULL;
}

/* A number for an extent; the lock is held. */
static struct ob_extent *free_extent(struct ob_engine *engine, struct ob_share *share)
{
	for (unsigned i = 0; i < share->extent_count; i++)
		if (!share->extent[i].id)
			return &share->extent[i];
	if (share->extent_count == OB_EXTENTS_MAX)
		return NULL;
	ob_cost_tables(engine, (int64_t)(2 * COUNTS_BYTES + sizeof(struct ob_extent)));
	return &share->extent[share->extent_count++];
}

int ob_engine_share_extent(struct ob_engine *engine, uint64_t id, void *base, uint32_t pages)
{
	struct ob_share *share = NULL;
	struct ob_extent *extent;
	int r = make_tables(engine, &share);

	if (r < 0)
		return r;
	if (!id || !base || !pages || pages > OB_EXTENT_PAGES)
		return -EINVAL;
	pthread_mutex_lock(&share->lock);
	extent = find_extent(share, id);
	if (extent) {
		set_orphan(extent, 0);
		r = -EEXIST;
	} else if (!(extent = free_extent(engine, share))) {
		r = -ENOSPC;
	} else {
		extent->id = id;
		extent->base = base;
		extent->pages = pages;
		ob_store(&extent->file, -1);
		memset(extent->mapped, 0, sizeof(extent->mapped));
		set_orphan(extent, 0);
	}
	pthread_mutex_unlock(&share->lock);
	if (r < 0)
		return r;
	/* Like all that is the engine's; if it fails a child has it too, which is harmless. */
	syscall(SYS_madvise, base, pages * OB_PAGE_SIZE, MADV_DONTFORK);
	syscall(SYS_madvise, base, pages * OB_PAGE_SIZE, MADV_DONTDUMP);
	return 0;
}

void ob_engine_share_orphan(struct ob_engine *engine, uint64_t id, int is_orphan)
{
	struct ob_share *share = ob_share_of(engine);
	struct ob_extent *extent;

	if (!share)
		return;
	pthread_mutex_lock(&share->lock);
	extent = find_extent(share, id);
	if (extent)
		set_orphan(extent, is_orphan ? OB_ORPHAN_DRAINED : 0);
	pthread_mutex_unlock(&share->lock);
	if (is_orphan)
		ob_scan_kick(engine);
}

int ob_engine_share_drop_extent(struct ob_engine *engine, uint64_t id)
{
	struct ob_share *share = ob_share_of(engine);
	struct ob_extent *extent, gone = { 0 };
	int r = 0;

	if (!share)
		return -ENOENT;
	pthread_mutex_lock(&share->lock);
	extent = find_extent(share, id);
	if (!extent) {
		r = -ENOENT;
	} else if (extent->held || extent->to_tell) {
		r = -EBUSY;
	} else {
		gone = *extent;
		extent->id = 0;
		extent->base = NULL;
	}
	pthread_mutex_unlock(&share->lock);
	if (r == 0) {
		syscall(SYS_munmap, gone.base, gone.pages * OB_PAGE_SIZE);
		ob_fd_close(&gone.file);
	}
	return r;
}

int ob_engine_share_extent_file(struct ob_engine *engine, uint64_t id, int fd)
{
	struct ob_share *share = ob_share_of(engine);
	struct ob_extent *extent;
	int r = -ENOENT;

	if (!share || engine->mapped.guard < 0)
		return share ? -ENOTSUP : -ENOENT;
	pthread_mutex_lock(&share->lock);
	extent = find_extent(share, id);
	if (extent && extent->file >= 0) {
		r = -EEXIST;
	} else if (extent) {
		ob_store(&extent->file, fd);
		r = 0;
	}
	pthread_mutex_unlock(&share->lock);
	return r;
}

int ob_share_file(const struct ob_engine *engine, uint32_t slot, uint64_t *ret_offset)
{
	int fd = ob_load(&ob_share_of(engine)->extent[slot / OB_EXTENT_PAGES].file);

	*ret_offset = slot % OB_EXTENT_PAGES * OB_PAGE_SIZE;
	return fd < 0 ? -ENOENT : fd;
}

int ob_share_is_mappable(const struct ob_engine *engine, uint32_t slot)
{
	const struct ob_extent *extent = &ob_share_of(engine)->extent[slot / OB_EXTENT_PAGES];

	return ob_load(&extent->file) >= 0 && !ob_load(&extent->is_orphan);
}

void ob_share_note_mapped(struct ob_engine *engine, uint32_t slot, unsigned n)
{
	struct ob_share *share = ob_share_of(engine);
	struct ob_extent *extent = &share->extent[slot / OB_EXTENT_PAGES];

	pthread_mutex_lock(&share->lock);
	for (unsigned i = slot % OB_EXTENT_PAGES; n; i++, n--)
		extent->mapped[i / 64] |= 1ull << (i % 64);
	pthread_mutex_unlock(&share->lock);
}

unsigned ob_engine_share_held(struct ob_engine *engine, struct ob_share_held *ret, unsigned max)
{
	struct ob_share *share = ob_share_of(engine);
	unsigned n = 0;

	if (!share)
		return 0;
	pthread_mutex_lock(&share->lock);
	for (unsigned i = 0; i < share->extent_count; i++) {
		const struct ob_extent *extent = &share->extent[i];

		if (!extent->id || !extent->held)
			continue;
		if (n < max)
			ret[n] = (struct ob_share_held){ .extent = extent->id, .held = extent->held };
		n++;
	}
	pthread_mutex_unlock(&share->lock);
	return n;
}

const char *ob_share_bytes(const struct ob_engine *engine, uint32_t slot)
{
	return ob_share_of(engine)->extent[slot / OB_EXTENT_PAGES].base + slot % OB_EXTENT_PAGES * OB_PAGE_SIZE;
}

int ob_share_is_orphan(const struct ob_engine *engine, uint32_t slot)
{
	return ob_load(&ob_share_of(engine)->extent[slot / OB_EXTENT_PAGES].is_orphan) != 0;
}

int ob_share_has_orphans(const struct ob_engine *engine)
{
	struct ob_share *share = ob_share_of(engine);
	int has = 0;

	pthread_mutex_lock(&share->lock);
	for (unsigned i = 0; i < share->extent_count && !has; i++)
		has = share->extent[i].is_orphan && share->extent[i].held;
	pthread_mutex_unlock(&share->lock);
	return has;
}

/* Begins a hold, before it is known whether there will be a word for it. */
static int take_hold(struct ob_share *share, uint64_t id, uint32_t index, uint32_t *ret_slot)
{
	struct ob_extent *extent;
	int r = -ENOENT;

	pthread_mutex_lock(&share->lock);
	extent = find_extent(share, id);
	if (extent && index < extent->pages) {
		extent->held++;
		share->counted[extent - share->extent][index]++;
		*ret_slot = (uint32_t)(extent - share->extent) * OB_EXTENT_PAGES + index;
		r = 0;
	}
	pthread_mutex_unlock(&share->lock);
	return r;
}

/* There is no word for it: nobody was told that there would be. */
static void undo_hold(struct ob_share *share, uint32_t slot)
{
	pthread_mutex_lock(&share->lock);
	share->extent[slot / OB_EXTENT_PAGES].held--;
	share->counted[slot / OB_EXTENT_PAGES][slot % OB_EXTENT_PAGES]--;
	pthread_mutex_unlock(&share->lock);
}

void ob_share_let_go(struct ob_engine *engine, uint32_t slot)
{
	struct ob_share *share = ob_share_of(engine);
	uint32_t number = slot / OB_EXTENT_PAGES, index = slot % OB_EXTENT_PAGES;
	struct ob_extent *extent = &share->extent[number];

	pthread_mutex_lock(&share->lock);
	extent->held--;
	extent->to_tell++;
	extent->told[index / 64] |= 1ull << (index % 64);
	share->ended[number][index]++;
	if (share->to_tell++ == 0 && share->ready)
		share->ready(share->context);
	pthread_mutex_unlock(&share->lock);
	ob_count(engine, share_dropped_pages, 1);
}

/* Takes what is to be told of one extent; the lock is held. */
static unsigned take_drops(struct ob_share *share, unsigned number, struct ob_share_drop *ret, unsigned max)
{
	struct ob_extent *extent = &share->extent[number];
	unsigned n = 0;

	for (unsigned i = 0; i < OB_ARRAY_LEN(extent->told) && n < max; i++) {
		while (extent->told[i] && n < max) {
			uint32_t index = i * 64 + (uint32_t)__builtin_ctzll(extent->told[i]), count = share->ended[number][index];

			ret[n++] = (struct ob_share_drop){ .extent = extent->id, .index = index, .count = count,
							   .was_mapped = extent->mapped[index / 64] >> (index % 64) & 1 };
			share->ended[number][index] = 0;
			share->counted[number][index] -= count;
			extent->told[i] &= extent->told[i] - 1;
			extent->to_tell -= count;
			share->to_tell -= count;
		}
	}
	return n;
}

unsigned ob_engine_share_drops(struct ob_engine *engine, struct ob_share_drop *ret, unsigned max)
{
	struct ob_share *share = ob_share_of(engine);
	unsigned n = 0;

	if (!share)
		return 0;
	pthread_mutex_lock(&share->lock);
	for (unsigned i = 0; i < share->extent_count && share->to_tell && n < max; i++)
		if (share->extent[i].to_tell)
			n += take_drops(share, i, ret + n, max - n);
	pthread_mutex_unlock(&share->lock);
	return n;
}

/* What is counted of the extent of this number, from *index on, which is moved on. */
static unsigned counts_of(struct ob_share *share, unsigned number, uint32_t *index, struct ob_share_drop *ret, unsigned max)
{
	const struct ob_extent *extent = &share->extent[number];
	unsigned n = 0;

	pthread_mutex_lock(&share->lock);
	if (!extent->id || (!extent->held && !extent->to_tell))
		*index = OB_EXTENT_PAGES;
	for (; *index < OB_EXTENT_PAGES && n < max; ++*index)
		if (share->counted[number][*index])
			ret[n++] = (struct ob_share_drop){ extent->id, *index, share->counted[number][*index] };
	pthread_mutex_unlock(&share->lock);
	return n;
}

unsigned ob_engine_share_counts(struct ob_engine *engine, uint32_t *position, struct ob_share_drop *ret, unsigned max)
{
	struct ob_share *share = ob_share_of(engine);
	unsigned n = 0;

	/* New numbers, too, come from this thread alone. */
	while (share && n < max && *position / OB_EXTENT_PAGES < share->extent_count) {
		uint32_t number = *position / OB_EXTENT_PAGES, index = *position % OB_EXTENT_PAGES;

		n += counts_of(share, number, &index, ret + n, max - n);
		*position = number * OB_EXTENT_PAGES + index;
	}
	return n;
}

/* --- bytes out, and canonical pages in --- */

int ob_share_find_page(struct ob_engine *engine, uint64_t name, struct ob_place *ret_place)
{
	uint64_t page = name & ((1ull << OB_SHARE_REGION_SHIFT) - 1), region = name >> OB_SHARE_REGION_SHIFT;

	if (region >= OB_REGIONS_MAX || !engine->region[region].base || page >= engine->region[region].length / OB_PAGE_SIZE)
		return -ENOENT;
	ob_place_chunk(engine, (uint32_t)region, (uint32_t)(page / OB_CHUNK_PAGES), ret_place);
	ret_place->page = page;
	return 0;
}

/*
 * A page that is in place has an equal. Where it would be mapped when it is read next it is taken at once, however hot: the reader waits for one fault, and
 * then has it for nothing. One that is copied back is left to the scanner. Returns whether it is benched now; its chunk is locked.
 */
static int take_used(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t only[OB_CHUNK_PAGES / 64] = { 0 }, in = place->page - place->chunk_first;
	struct ob_chunk *chunk = place->chunk;

	if (!ob_mapped_may_read(engine, chunk) || chunk->is_large || chunk->evicting || chunk->watched || chunk->sampled ||
	    ob_warmth_is_warm(*ob_place_word(place, place->page), ob_now_ns(), ob_scan_cold_ns(engine)))
		return 0;
	only[in / 64] = 1ull << (in % 64);
	if (!ob_lift_only(engine, place, only))
		return 0;
	if (ob_load(&engine->limit_bytes))
		ob_clock_push(engine, place);
	return ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_BENCHED;
}

/* Where the bytes of a page lie that may be shared: on the bench, or decompressed into the buffer. NULL when it may not; its chunk is locked. */
static const char *bytes_of(struct ob_engine *engine, struct ob_place *place, char *buffer)
{
	uint64_t word = *ob_place_word(place, place->page);
	unsigned length;
	const void *data;

	if (place->chunk->open || ob_lift_io_inflight(place->chunk))
		return NULL;
	switch (ob_page_state(word)) {
	case OB_PAGE_BENCHED:
		return ob_large_may_take(engine, place, place->page) ? ob_place_bench(place, place->page) : NULL;
	case OB_PAGE_RESIDENT:
		return take_used(engine, place) ? ob_place_bench(place, place->page) : NULL;
	case OB_PAGE_SHARED:
		return ob_share_bytes(engine, ob_page_slot(word));
	case OB_PAGE_COMPRESSED:
		data = ob_pool_load(engine->pool, ob_page_handle(word), &length);
		return ob_content_decompress(data, length, buffer) == 0 ? buffer : NULL;
	default:
		return NULL;
	}
}

int ob_engine_share_fetch(struct ob_engine *engine, uint64_t page, uint64_t lo, uint64_t hi, void *to)
{
	struct ob_share *share = ob_share_of(engine);
	const struct ob_hash wanted = { lo, hi };
	struct ob_place place;
	const char *bytes = NULL;
	int r = -ENOENT;

	pthread_rwlock_rdlock(&engine->regions_lock);
	if (share && ob_share_find_page(engine, page, &place) == 0) {
		ob_chunk_lock_background(place.chunk);
		bytes = bytes_of(engine, &place, to);
		if (bytes && bytes != to)
			memcpy(to, bytes, OB_PAGE_SIZE);
		if (!bytes)
			ob_scan_wanted(engine, &place);
		ob_chunk_unlock(place.chunk);
	}
	if (bytes)
		r = ob_hash_equal(ob_content_hash(&share->key, to), wanted) ? 0 : -ESTALE;
	pthread_rwlock_unlock(&engine->regions_lock);
	return r;
}

/* The word of a page whose own copy is gone. What a reclaimer is writing is his, and is thrown away when he sees that the word has changed. */
static void benched_is_shared(struct ob_engine *engine, struct ob_place *place, uint32_t slot)
{
	uint64_t *word = ob_place_word(place, place->page), before = *word;

	ob_page_move(engine, place->chunk, word, OB_T_SHARE, ob_page_with_slot(slot) | ob_warmth_shared(before, ob_now_ns()));
	if (before & OB_PAGE_CACHED)
		ob_swap_free(engine->swap, ob_page_slot(before));
	ob_cost_add(engine, -1);
}

/* The same for one whose copy is compressed, or another slot. */
static void away_is_shared(struct ob_engine *engine, struct ob_place *place, uint32_t slot)
{
	uint64_t *word = ob_place_word(place, place->page), before = *word;

	if (ob_page_state(before) == OB_PAGE_COMPRESSED) {
		ob_page_move(engine, place->chunk, word, OB_T_SHARE_COMPRESSED, ob_page_with_slot(slot) | ob_warmth_bits(0, ob_now_ns()));
		ob_pool_free(engine->pool, ob_page_handle(before));
	} else {
		ob_page_set_bits(engine, word, ob_page_with_slot(slot) | ob_page_with_handle(ob_page_handle(before)));
		ob_share_let_go(engine, ob_page_slot(before));
	}
}

static int has_bytes_of(struct ob_engine *engine, struct ob_place *place, uint32_t slot)
{
	char buffer[OB_PAGE_SIZE];
	const char *bytes = bytes_of(engine, place, buffer);

	if (!bytes) {
		ob_scan_wanted(engine, place);
		return -ESTALE;
	}
	if (memcmp(bytes, ob_share_bytes(engine, slot), OB_PAGE_SIZE)) {
		ob_count(engine, share_refused_pages, 1);
		return -ESTALE;
	}
	return 0;
}

/* A page of the chunk will be compared with a slot next. */
static void expect_pair(const struct ob_engine *engine, const struct ob_place *place, uint64_t name, uint32_t slot)
{
	uint64_t page = place->chunk_first + name % OB_CHUNK_PAGES;

	if (page >= ob_place_end(place) || ob_page_state(*ob_place_word(place, page)) != OB_PAGE_BENCHED)
		return;
	ob_content_expect(ob_place_bench(place, page));
	ob_content_expect(ob_share_bytes(engine, slot));
}

/* What was lifted for another one (take_used()) may have brought all of the chunk back, for I/O that began: those have not been given up. Returns how many are left. */
static unsigned still_benched(const struct ob_place *place, struct ob_share_adoption *items, uint16_t *benched, uint16_t *which, unsigned n)
{
	unsigned left = 0;

	for (unsigned i = 0; i < n; i++) {
		if (ob_page_state(*ob_place_word(place, place->chunk_first + benched[i])) != OB_PAGE_BENCHED) {
			items[which[i]].result = -ESTALE;
			continue;
		}
		benched[left] = benched[i];
		which[left++] = which[i];
	}
	return left;
}

/* Of one chunk, in ascending order; its lock is held, and the slots of those without an error are. */
static void adopt_locked(struct ob_engine *engine, struct ob_place *place, struct ob_share_adoption *items, const uint32_t *slots,
			 unsigned n)
{
	uint16_t benched[ADOPT_STEP], which[ADOPT_STEP];
	unsigned count = 0, gone;

	for (unsigned i = 0; i < n; i++) {
		if (i + 1 < n && items[i + 1].result == 0)
			expect_pair(engine, place, items[i + 1].page, slots[i + 1]);
		if (items[i].result == 0)
			items[i].result = ob_share_find_page(engine, items[i].page, place);
		if (items[i].result == 0)
			items[i].result = has_bytes_of(engine, place, slots[i]);
		if (items[i].result < 0)
			continue;
		if (ob_page_state(*ob_place_word(place, place->page)) == OB_PAGE_BENCHED) {
			benched[count] = (uint16_t)(place->page - place->chunk_first);
			which[count++] = (uint16_t)i;
		} else {
			away_is_shared(engine, place, slots[i]);
		}
	}
	count = still_benched(place, items, benched, which, count);
	gone = count ? ob_lift_drop_many(engine, place, benched, count) : 0;
	for (unsigned i = 0; i < count; i++) {
		place->page = place->chunk_first + benched[i];
		if (i < gone)
			benched_is_shared(engine, place, slots[which[i]]);
		else
			items[which[i]].result = -ENOMEM;
	}
}

static void adopt_step(struct ob_engine *engine, struct ob_share *share, struct ob_share_adoption *items, unsigned n)
{
	uint32_t slots[ADOPT_STEP];
	struct ob_place place;
	unsigned adopted = 0;
	int held[ADOPT_STEP];

	for (unsigned i = 0; i < n; i++) {
		items[i].result = take_hold(share, items[i].extent, items[i].index, &slots[i]);
		held[i] = items[i].result == 0;
	}
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (ob_share_find_page(engine, items[0].page, &place) == 0) {
		ob_chunk_lock_background(place.chunk);
		adopt_locked(engine, &place, items, slots, n);
		ob_chunk_unlock(place.chunk);
	} else {
		for (unsigned i = 0; i < n; i++)
			items[i].result = -ENOENT;
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	for (unsigned i = 0; i < n; i++) {
		adopted += items[i].result == 0;
		if (held[i] && items[i].result < 0)
			undo_hold(share, slots[i]);
	}
	ob_count(engine, share_adopted_pages, adopted);
	if (adopted)
		ob_fault_room(engine);
}

void ob_engine_share_adopt_all(struct ob_engine *engine, struct ob_share_adoption *items, unsigned n)
{
	struct ob_share *share = ob_share_of(engine);

	for (unsigned i = 0; !share && i < n; i++)
		items[i].result = -ENOENT;
	for (unsigned i = 0; share && i < n;) {
		unsigned count = 1;

		while (i + count < n && count < ADOPT_STEP && items[i + count].page > items[i + count - 1].page &&
		       items[i + count].page / OB_CHUNK_PAGES == items[i].page / OB_CHUNK_PAGES)
			count++;
		adopt_step(engine, share, items + i, count);
		i += count;
	}
}

int ob_engine_share_adopt(struct ob_engine *engine, uint64_t page, uint64_t extent, uint32_t index)
{
	struct ob_share_adoption item = { .page = page, .extent = extent, .index = index };

	ob_engine_share_adopt_all(engine, &item, 1);
	return item.result;
}
