/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A slot's number is its extent's place in the table of extents times OB_STORE_SLOTS, plus its index. A place is used again only
 * when its extent has gone, and then nothing names its slots any more.
 *
 * Where the next page goes: behind the last one, in the extent that is being filled; at its end, into the extent with the most
 * free slots if those make a run worth having (RUN_WORTH), else into a new one; and when the store may not grow, into whatever
 * slot is free and was filled before.
 */
#include "daemon/store_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fd.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u /* Linux 6.3 */
#endif

#define RUN_WORTH    512u /* free slots of an extent that make it worth going on in it */
#define NONE         OB_STORE_NO_PLACE

struct ob_store *ob_store_new(const char *label, const struct ob_store_events *events, void *context)
{
	struct ob_store *store = calloc(1, sizeof(*store));

	if (store) {
		snprintf(store->label, sizeof(store->label), "%s", label);
		store->events = events;
		store->context = context;
		store->current = NONE;
	}
	return store;
}

static void extent_free(struct ob_store_extent *extent)
{
	if (!extent)
		return;
	if (extent->base)
		munmap(extent->base, OB_STORE_EXTENT);
	ob_fd_close(&extent->fd);
	free(extent);
}

static void extent_free_pointer(struct ob_store_extent **extent)
{
	extent_free(*extent);
}

void ob_store_free(struct ob_store *store)
{
	if (!store)
		return;
	for (uint32_t i = 0; i < store->places; i++)
		if (store->extents[i]) {
			store->events->gone(store->context, store->extents[i]->id);
			extent_free(store->extents[i]);
		}
	free(store->extents);
	free(store);
}

/*
 * The seals come after the mapping, which stays writable. F_SEAL_SEAL is not among them: who restores the extent adds F_SEAL_WRITE. Others
 * cannot do that before, while this mapping is there.
 */
static int make_memory(struct ob_store_extent *extent, const char *label)
{
	char name[sizeof(OB_STORE_FILE) + 17 + OB_STORE_LABEL_MAX];
	void *base;

	snprintf(name, sizeof(name), OB_STORE_FILE "%016llx:%s", (unsigned long long)extent->id, label);
	extent->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (extent->fd < 0 && errno == EINVAL)
		extent->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (extent->fd < 0 || ftruncate(extent->fd, (off_t)OB_STORE_EXTENT) < 0)
		return -errno;
	base = mmap(NULL, OB_STORE_EXTENT, PROT_READ | PROT_WRITE, MAP_SHARED, extent->fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	extent->base = base;
	if (fcntl(extent->fd, F_ADD_SEALS, OB_STORE_SIZE_SEALS | F_SEAL_FUTURE_WRITE) < 0)
		return -errno;
	/* A dump of overbookd holds no guest's memory. */
	(void)madvise(base, OB_STORE_EXTENT, MADV_DONTDUMP);
	return 0;
}

static int draw_id(struct ob_store *store, uint64_t *ret_id)
{
	uint64_t id = 0;

	while (!id || ob_store_has(store, id))
		if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
			return -EIO;
	*ret_id = id;
	return 0;
}

int ob_store_find_place(struct ob_store *store, uint32_t *ret_place)
{
	struct ob_store_extent **grown;
	uint32_t place;

	for (place = 0; place < store->places && store->extents[place]; place++)
		;
	if (place >= OB_STORE_EXTENTS_MAX)
		return -ENOSPC;
	if (place == store->places) {
		grown = realloc(store->extents, (place + 1) * sizeof(struct ob_store_extent *));
		if (!grown)
			return -ENOMEM;
		store->extents = grown;
		store->extents[store->places++] = NULL;
	}
	*ret_place = place;
	return 0;
}

static int open_extent(struct ob_store *store)
{
	struct ob_store_extent *extent OB_CLEANUP(extent_free_pointer) = calloc(1, sizeof(*extent));
	uint32_t place;
	int r;

	if (!extent)
		return -ENOMEM;
	extent->fd = -1;
	r = draw_id(store, &extent->id);
	if (r >= 0)
		r = make_memory(extent, store->label);
	if (r >= 0)
		r = ob_store_find_place(store, &place);
	if (r < 0)
		return r;
	store->events->opened(store->context, extent->id, extent->fd);
	extent->opened = store->opened++;
	store->extents[place] = extent;
	extent = NULL;
	store->count++;
	store->current = place;
	return 0;
}

/* A free slot of an extent, from its cursor on and around; NONE when there is none. */
static uint32_t free_slot(const struct ob_store_extent *extent, bool filled_only, bool around)
{
	uint32_t last = around ? OB_STORE_SLOTS : OB_STORE_SLOTS - extent->cursor;

	for (uint32_t i = 0; i < last; i++) {
		uint32_t index = (extent->cursor + i) % OB_STORE_SLOTS;

		if (!extent->slot[index].refs && !extent->slot[index].worn && (!filled_only || extent->slot[index].filled))
			return index;
	}
	return NONE;
}

/* Slots that can be filled, filled_only: of those that take memory already. */
static uint32_t free_slots(const struct ob_store_extent *extent, bool filled_only)
{
	if (!extent || extent->closed || extent->restored || extent->drained)
		return 0;
	return (filled_only ? extent->filled : OB_STORE_SLOTS) - extent->used - extent->spent;
}

/* The extent with the most of them, or NONE. */
static uint32_t emptiest(const struct ob_store *store, bool filled_only, uint32_t least)
{
	uint32_t best = NONE, most = least - 1;

	for (uint32_t place = 0; place < store->places; place++) {
		uint32_t there = free_slots(store->extents[place], filled_only);

		if (there > most) {
			most = there;
			best = place;
		}
	}
	return best;
}

static int choose_slot(struct ob_store *store, bool may_grow, bool may_open, uint32_t *ret_place, uint32_t *ret_index)
{
	uint32_t index = NONE;
	int r;

	if (store->current != NONE)
		index = free_slot(store->extents[store->current], !may_grow, false);
	if (index == NONE) {
		uint32_t next = emptiest(store, !may_grow, RUN_WORTH);

		if (next == NONE && may_grow && may_open) {
			r = open_extent(store);
			if (r < 0 && r != -ENOSPC)
				return r;
			next = r < 0 ? NONE : store->current;
		}
		if (next == NONE)
			next = emptiest(store, !may_grow, 1);
		if (next == NONE)
			return -ENOSPC;
		store->current = next;
		index = free_slot(store->extents[next], !may_grow, true);
	}
	*ret_place = store->current;
	*ret_index = index;
	return 0;
}

int ob_store_fill(struct ob_store *store, const void *page, uint64_t lo, uint64_t hi, bool may_grow, bool may_open,
		  uint32_t *ret_slot)
{
	struct ob_store_extent *extent;
	struct ob_store_slot *slot;
	uint32_t place, index;
	int r = choose_slot(store, may_grow, may_open, &place, &index);

	if (r < 0)
		return r;
	extent = store->extents[place];
	slot = &extent->slot[index];
	memcpy(extent->base + (size_t)index * OB_STORE_PAGE, page, OB_STORE_PAGE);
	if (!slot->filled) {
		extent->filled++;
		store->filled++;
	}
	*slot = (struct ob_store_slot){ .lo = lo, .hi = hi, .refs = 1, .filled = true };
	extent->cursor = (index + 1) % OB_STORE_SLOTS;
	if (!extent->cursor)
		store->current = NONE;
	extent->used++;
	store->used++;
	*ret_slot = place * OB_STORE_SLOTS + index;
	return 0;
}

static struct ob_store_extent *extent_of(const struct ob_store *store, uint32_t slot)
{
	return store->extents[slot / OB_STORE_SLOTS];
}

static struct ob_store_slot *slot_of(const struct ob_store *store, uint32_t slot)
{
	return &extent_of(store, slot)->slot[slot % OB_STORE_SLOTS];
}

void ob_store_reap(struct ob_store *store, uint32_t place)
{
	struct ob_store_extent *extent = store->extents[place];

	for (size_t i = 0; i < OB_ARRAY_LEN(extent->told); i++)
		if (extent->told[i] || extent->named[i])
			return;
	store->events->gone(store->context, extent->id);
	store->filled -= extent->filled;
	store->spent -= extent->spent;
	store->count--;
	store->drained -= extent->drained;
	store->extents[place] = NULL;
	extent_free(extent);
}

void ob_store_close_extent(struct ob_store *store, uint32_t place)
{
	store->extents[place]->closed = true;
	if (store->current == place)
		store->current = NONE;
	ob_store_reap(store, place);
}

static void take_back(struct ob_store *store, uint32_t number, uint32_t count)
{
	struct ob_store_extent *extent = extent_of(store, number);
	struct ob_store_slot *slot = slot_of(store, number);

	slot->refs -= count;
	if (slot->refs)
		return;
	extent->used--;
	store->used--;
	extent->spent += slot->worn;
	store->spent += slot->worn;
	store->events->freed(store->context, number, slot->lo, slot->hi);
	if (!extent->used && !extent->awaited)
		ob_store_close_extent(store, number / OB_STORE_SLOTS);
}

void ob_store_pin(struct ob_store *store, uint32_t slot)
{
	slot_of(store, slot)->refs++;
}

void ob_store_unpin(struct ob_store *store, uint32_t slot)
{
	take_back(store, slot, 1);
}

int ob_store_hold(struct ob_store *store, struct ob_holder *holder, uint32_t slot, uint32_t count)
{
	struct ob_store_extent *extent = extent_of(store, slot);
	struct ob_store_slot *at = slot_of(store, slot);
	uint32_t had;
	int r = ob_holder_reserve(holder);

	if (r < 0)
		return r;
	had = ob_holder_count(holder, slot);
	if (had > OB_STORE_HOLDS_MOST || count > OB_STORE_HOLDS_MOST - had)
		return -ENOMEM;
	ob_holder_set(holder, slot, had + count);
	/* Only one that is restored can have been free. */
	extent->used += !at->refs;
	store->used += !at->refs;
	extent->closed = false;
	at->refs += count;
	return 0;
}

int ob_store_let_go(struct ob_store *store, struct ob_holder *holder, uint32_t slot, uint32_t count)
{
	uint32_t had = ob_holder_count(holder, slot);

	if (count > had)
		return -EINVAL;
	if (!count)
		return 0;
	ob_holder_set(holder, slot, had - count);
	take_back(store, slot, count);
	return 0;
}

void ob_store_wear(struct ob_store *store, uint32_t slot)
{
	/* A restored one is never filled again anyhow. */
	slot_of(store, slot)->worn = !extent_of(store, slot)->restored;
}

void ob_store_wear_all(struct ob_store *store, const struct ob_holder *holder)
{
	uint32_t slot, count;
	uint64_t at = 0;

	while (ob_holder_next(holder, &at, &slot, &count))
		ob_store_wear(store, slot);
}

void ob_store_let_go_all(struct ob_store *store, struct ob_holder *holder)
{
	struct ob_holder gone = *holder;
	uint32_t slot, count;
	uint64_t at = 0;

	*holder = (struct ob_holder){ 0 };
	while (ob_holder_next(&gone, &at, &slot, &count))
		take_back(store, slot, count);
	ob_holder_clear(&gone);
}

int ob_store_claim(const struct ob_holder *holder, struct ob_holder *claim, uint32_t slot, uint32_t count)
{
	uint32_t counted = ob_holder_count(holder, slot), claimed = ob_holder_count(claim, slot);
	int r;

	if (claimed > counted || count > counted - claimed)
		return -EINVAL;
	r = ob_holder_reserve(claim);
	if (r < 0)
		return r;
	ob_holder_set(claim, slot, claimed + count);
	return 0;
}

uint64_t ob_store_settle(struct ob_store *store, struct ob_holder *holder, const struct ob_holder *claim, bool wear)
{
	uint64_t before = holder->holds, at = 0;
	uint32_t slot, count;

	while (ob_holder_next(holder, &at, &slot, &count)) {
		uint32_t claimed = ob_holder_count(claim, slot);

		if (count <= claimed)
			continue;
		ob_holder_set(holder, slot, claimed);
		if (wear)
			ob_store_wear(store, slot);
		take_back(store, slot, count - claimed);
	}
	return before - holder->holds;
}

struct ob_store_extent *ob_store_find_extent(struct ob_store *store, uint64_t id, uint32_t *ret_place)
{
	for (uint32_t i = 0; i < store->places; i++) {
		uint32_t place = (store->found + i) % store->places;

		if (store->extents[place] && store->extents[place]->id == id) {
			*ret_place = store->found = place;
			return store->extents[place];
		}
	}
	return NULL;
}

bool ob_store_has(struct ob_store *store, uint64_t id)
{
	uint32_t place;

	return ob_store_find_extent(store, id, &place) != NULL;
}

int ob_store_find(struct ob_store *store, uint64_t id, uint32_t index, uint32_t *ret_slot)
{
	uint32_t place;
	const struct ob_store_extent *extent = index < OB_STORE_SLOTS ? ob_store_find_extent(store, id, &place) : NULL;

	if (!extent || !extent->slot[index].refs)
		return -ENOENT;
	*ret_slot = place * OB_STORE_SLOTS + index;
	return 0;
}

const void *ob_store_bytes(const struct ob_store *store, uint32_t slot)
{
	return extent_of(store, slot)->base + (size_t)(slot % OB_STORE_SLOTS) * OB_STORE_PAGE;
}

uint64_t ob_store_id(const struct ob_store *store, uint32_t slot)
{
	return extent_of(store, slot)->id;
}

int ob_store_fd(const struct ob_store *store, uint32_t slot)
{
	return extent_of(store, slot)->fd;
}

bool ob_store_is_told(const struct ob_store *store, uint32_t slot, unsigned member)
{
	return ob_store_has_member(extent_of(store, slot)->sent, member);
}

void ob_store_set_told(struct ob_store *store, uint32_t slot, unsigned member)
{
	ob_store_set_claimed(store, slot, member);
	ob_store_add_member(extent_of(store, slot)->sent, member);
}

void ob_store_reconnected(struct ob_store *store, unsigned member)
{
	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place])
			ob_store_remove_member(store->extents[place]->sent, member);
}

bool ob_store_next_unsent(const struct ob_store *store, unsigned member, uint32_t *ret_slot)
{
	for (uint32_t place = 0; place < store->places; place++) {
		const struct ob_store_extent *extent = store->extents[place];

		if (extent && !extent->closed && ob_store_has_member(extent->has, member) && !ob_store_has_member(extent->sent, member)) {
			*ret_slot = place * OB_STORE_SLOTS;
			return true;
		}
	}
	return false;
}

bool ob_store_next_closed(const struct ob_store *store, unsigned member, uint64_t *ret_id)
{
	for (uint32_t place = 0; place < store->places; place++) {
		const struct ob_store_extent *extent = store->extents[place];

		if (extent && extent->closed && ob_store_has_member(extent->told, member) && !ob_store_has_member(extent->named, member)) {
			*ret_id = extent->id;
			return true;
		}
	}
	return false;
}

void ob_store_forget_told(struct ob_store *store, unsigned member, uint64_t id)
{
	for (uint32_t place = 0; place < store->places; place++) {
		struct ob_store_extent *extent = store->extents[place];

		if (!extent || (id && extent->id != id))
			continue;
		ob_store_remove_member(extent->told, member);
		ob_store_remove_member(extent->has, member);
		ob_store_remove_member(extent->sent, member);
		ob_store_remove_member(extent->named, member);
		if (extent->closed)
			ob_store_reap(store, place);
	}
}

bool ob_store_next_used(const struct ob_store *store, uint32_t *slot, uint64_t *ret_lo, uint64_t *ret_hi)
{
	for (; *slot / OB_STORE_SLOTS < store->places; ++*slot) {
		const struct ob_store_extent *extent = store->extents[*slot / OB_STORE_SLOTS];

		if (!extent || extent->drained || !extent->slot[*slot % OB_STORE_SLOTS].refs)
			continue;
		*ret_lo = extent->slot[*slot % OB_STORE_SLOTS].lo;
		*ret_hi = extent->slot[*slot % OB_STORE_SLOTS].hi;
		return true;
	}
	return false;
}

uint64_t ob_store_used_pages(const struct ob_store *store)
{
	return store->used;
}

uint64_t ob_store_memory_pages(const struct ob_store *store)
{
	return store->filled;
}

uint64_t ob_store_worn_pages(const struct ob_store *store)
{
	return store->spent;
}

uint64_t ob_store_spare_pages(const struct ob_store *store)
{
	uint64_t pages = 0;

	for (uint32_t place = 0; place < store->places; place++)
		pages += free_slots(store->extents[place], true);
	return pages;
}

bool ob_store_has_closed(const struct ob_store *store)
{
	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place] && store->extents[place]->closed)
			return true;
	return false;
}

uint32_t ob_store_extents(const struct ob_store *store)
{
	return store->count;
}

uint64_t ob_store_tables_bytes(const struct ob_store *store)
{
	return sizeof(*store) + store->places * sizeof(struct ob_store_extent *) + (uint64_t)store->count * sizeof(struct ob_store_extent);
}
