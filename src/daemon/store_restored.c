/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Extents of the canonical store that an earlier overbookd has made: store.h says what they are. */
#include "daemon/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sees to it that nobody changes it: neither its size nor, from now on, a byte. */
static int seal(int fd, struct ob_error *err)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0)
		return ob_error_sys(err, errno, "it cannot be looked at");
	if (!S_ISREG(st.st_mode) || st.st_size != (off_t)OB_STORE_EXTENT)
		return ob_error_set(err, EINVAL, "it is no memory of %llu bytes", (unsigned long long)OB_STORE_EXTENT);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & OB_STORE_SIZE_SEALS) != OB_STORE_SIZE_SEALS)
		return ob_error_set(err, EPERM, "its size is not sealed");
	if (!(seals & F_SEAL_WRITE) && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return errno == EBUSY ? ob_error_set(err, EBUSY, "somebody can write to it") :
			ob_error_sys(err, errno, "it cannot be sealed against writing");
	return 0;
}

/* Which slots have ever been filled: those that take memory. */
static int find_filled(struct ob_store_extent *extent, int fd, struct ob_error *err)
{
	off_t data = 0, hole = 0;

	while ((data = lseek(fd, hole, SEEK_DATA)) >= 0 && (hole = lseek(fd, data, SEEK_HOLE)) > data) {
		off_t last = OB_MIN((hole - 1) / OB_STORE_PAGE, (off_t)OB_STORE_SLOTS - 1);

		for (off_t at = data / OB_STORE_PAGE; at <= last; at++) {
			extent->filled += !extent->slot[at].filled;
			extent->slot[at].filled = true;
		}
	}
	return data < 0 && errno == ENXIO ? 0 : ob_error_set(err, EIO, "what of it takes memory cannot be told");
}

/* Puts it into the table. */
static int place_extent(struct ob_store *store, struct ob_store_extent *extent, struct ob_error *err)
{
	uint32_t place;
	int r = ob_store_find_place(store, &place);

	if (r < 0)
		return ob_error_sys(err, -r, "it finds no place");
	extent->base = mmap(NULL, OB_STORE_EXTENT, PROT_READ, MAP_SHARED, extent->fd, 0);
	if (extent->base == MAP_FAILED)
		return ob_error_sys(err, errno, "it cannot be mapped");
	(void)madvise(extent->base, OB_STORE_EXTENT, MADV_DONTDUMP);
	store->extents[place] = extent;
	store->filled += extent->filled;
	store->count++;
	return 0;
}

int ob_store_restore(struct ob_store *store, uint64_t id, int fd, struct ob_error *err)
{
	struct ob_store_extent *extent;
	int r = ob_store_has(store, id) ? ob_error_set(err, EEXIST, "there are two of them") : seal(fd, err);

	if (r < 0)
		return r;
	extent = calloc(1, sizeof(*extent));
	if (!extent)
		return ob_error_sys(err, ENOMEM, "it cannot be taken in");
	extent->id = id;
	extent->fd = fd;
	extent->restored = extent->awaited = true;
	r = find_filled(extent, fd, err);
	if (r >= 0)
		r = place_extent(store, extent, err);
	if (r < 0)
		free(extent);
	return r;
}

static struct ob_store_slot *slot_of(const struct ob_store *store, uint32_t slot)
{
	return &store->extents[slot / OB_STORE_SLOTS]->slot[slot % OB_STORE_SLOTS];
}

int ob_store_find_restored(struct ob_store *store, uint64_t id, uint32_t index, uint32_t *ret_slot)
{
	uint32_t place;
	const struct ob_store_extent *extent = index < OB_STORE_SLOTS ? ob_store_find_extent(store, id, &place) : NULL;

	if (!extent || !extent->restored || !extent->slot[index].filled)
		return -ENOENT;
	*ret_slot = place * OB_STORE_SLOTS + index;
	return 0;
}

bool ob_store_is_free(const struct ob_store *store, uint32_t slot)
{
	return !slot_of(store, slot)->refs;
}

void ob_store_set_hash(struct ob_store *store, uint32_t slot, uint64_t lo, uint64_t hi)
{
	slot_of(store, slot)->lo = lo;
	slot_of(store, slot)->hi = hi;
}

void ob_store_set_claimed(struct ob_store *store, uint32_t slot, unsigned member)
{
	ob_store_add_member(store->extents[slot / OB_STORE_SLOTS]->told, member);
	ob_store_add_member(store->extents[slot / OB_STORE_SLOTS]->has, member);
}

bool ob_store_next_restored(const struct ob_store *store, uint32_t *place, uint64_t *ret_id)
{
	for (; *place < store->places; ++*place)
		if (store->extents[*place] && store->extents[*place]->restored) {
			*ret_id = store->extents[(*place)++]->id;
			return true;
		}
	return false;
}

void ob_store_name_restored(struct ob_store *store, unsigned member)
{
	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place] && store->extents[place]->restored) {
			ob_store_add_member(store->extents[place]->told, member);
			ob_store_add_member(store->extents[place]->named, member);
		}
}

void ob_store_has_claimed(struct ob_store *store, unsigned member)
{
	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place] && ob_store_has_member(store->extents[place]->named, member)) {
			ob_store_remove_member(store->extents[place]->named, member);
			if (store->extents[place]->closed)
				ob_store_reap(store, place);
		}
}

void ob_store_expire(struct ob_store *store)
{
	for (uint32_t place = 0; place < store->places; place++) {
		struct ob_store_extent *extent = store->extents[place];

		if (!extent || !extent->awaited)
			continue;
		extent->awaited = false;
		if (!extent->used)
			ob_store_close_extent(store, place);
	}
}

bool ob_store_is_awaited(const struct ob_store *store)
{
	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place] && store->extents[place]->awaited)
			return true;
	return false;
}

static void drain(struct ob_store *store, uint32_t place, void (*before)(void *context, uint32_t slot, uint64_t lo, uint64_t hi))
{
	struct ob_store_extent *extent = store->extents[place];

	extent->drained = true;
	store->drained++;
	memset(extent->sent, 0, sizeof(extent->sent));
	for (uint32_t i = 0; i < OB_STORE_SLOTS; i++)
		if (extent->slot[i].refs)
			before(store->context, place * OB_STORE_SLOTS + i, extent->slot[i].lo, extent->slot[i].hi);
}

static bool may_drain(const struct ob_store_extent *extent)
{
	return extent && !extent->awaited && !extent->drained && !extent->closed;
}

bool ob_store_drain(struct ob_store *store, void (*before)(void *context, uint32_t slot, uint64_t lo, uint64_t hi))
{
	for (uint32_t place = 0; place < store->places; place++) {
		const struct ob_store_extent *extent = store->extents[place];

		if (!may_drain(extent) || !extent->restored || extent->used >= extent->filled / 2)
			continue;
		drain(store, place, before);
		return true;
	}
	return false;
}

uint32_t ob_store_shed(struct ob_store *store, void (*before)(void *context, uint32_t slot, uint64_t lo, uint64_t hi))
{
	uint32_t oldest = OB_STORE_NO_PLACE;

	for (uint32_t place = 0; place < store->places; place++)
		if (may_drain(store->extents[place]) && place != store->current &&
		    (oldest == OB_STORE_NO_PLACE || store->extents[place]->opened < store->extents[oldest]->opened))
			oldest = place;
	if (oldest == OB_STORE_NO_PLACE)
		return 0;
	drain(store, oldest, before);
	return store->extents[oldest]->used;
}

bool ob_store_is_drained(const struct ob_store *store, uint32_t slot)
{
	return store->extents[slot / OB_STORE_SLOTS]->drained;
}

bool ob_store_drains(const struct ob_store *store)
{
	return store->drained;
}

uint64_t ob_store_restored_pages(const struct ob_store *store)
{
	uint64_t pages = 0;

	for (uint32_t place = 0; place < store->places; place++)
		if (store->extents[place] && store->extents[place]->restored)
			pages += store->extents[place]->filled;
	return pages;
}
