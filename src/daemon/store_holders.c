/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one machine holds: how often, for each slot.
 *
 * Slots are handed out in order, and who holds one most often holds its neighbours, nearly always once. So the counts of 12 neighbours are
 * one entry of 16 bytes, a byte each, in a hash table by the number of the twelve: 2 to 4 bytes a slot where slots that are held lie side by
 * side, 43 at most where each stands alone. MANY in a byte says that the count is an entry of its own, in the same table, by the slot.
 *
 * An entry whose counts are 0 keeps its key, so that what collided with it is found; it is left behind when the table grows.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/store_internal.h"

#define FIRST    64u
#define MANY     UINT8_MAX
#define OF_ONE   (1u << 31) /* in the key: of a single slot */
#define TOGETHER 12u

struct ob_hold {
	uint32_t key; /* the number of the twelve, or the slot's and OF_ONE, plus 1; 0: nothing ever was here */
	union {
		uint8_t few[TOGETHER];
		uint32_t many;
	};
};

_Static_assert(sizeof(struct ob_hold) == 16, "as it says above");
_Static_assert((uint64_t)OB_STORE_EXTENTS_MAX * OB_STORE_SLOTS < OF_ONE, "keys are told apart by the bit");

/* The entry of a key, or the empty one where it would be. size is a power of two and the table never full. */
static struct ob_hold *find(const struct ob_holder *holder, uint32_t key)
{
	uint32_t at = key * 2654435761u;

	for (at ^= at >> 16;; at++) {
		struct ob_hold *hold = &holder->table[at & (holder->size - 1)];

		if (!hold->key || hold->key == key)
			return hold;
	}
}

static uint32_t key_of_twelve(uint32_t slot)
{
	return slot / TOGETHER + 1;
}

static uint32_t key_of_one(uint32_t slot)
{
	return (slot | OF_ONE) + 1;
}

static bool is_live(const struct ob_hold *hold)
{
	uint8_t any = 0;

	for (unsigned i = 0; i < TOGETHER; i++)
		any |= hold->few[i];
	return hold->key > OF_ONE ? hold->many != 0 : hold->key && any;
}

uint32_t ob_holder_count(const struct ob_holder *holder, uint32_t slot)
{
	uint32_t count = holder->size ? find(holder, key_of_twelve(slot))->few[slot % TOGETHER] : 0;

	return count < MANY ? count : find(holder, key_of_one(slot))->many;
}

int ob_holder_reserve(struct ob_holder *holder)
{
	struct ob_holder grown = { .holds = holder->holds };
	uint32_t live = 0;

	if (holder->used + 2 <= holder->size / 4 * 3)
		return 0;
	for (uint32_t i = 0; i < holder->size; i++)
		live += is_live(&holder->table[i]);
	for (grown.size = FIRST; grown.size / 2 < live + 2; grown.size *= 2)
		;
	grown.table = calloc(grown.size, sizeof(*grown.table));
	if (!grown.table)
		return -ENOMEM;
	for (uint32_t i = 0; i < holder->size; i++)
		if (is_live(&holder->table[i])) {
			*find(&grown, holder->table[i].key) = holder->table[i];
			grown.used++;
		}
	free(holder->table);
	*holder = grown;
	return 0;
}

static struct ob_hold *take(struct ob_holder *holder, uint32_t key)
{
	struct ob_hold *hold = find(holder, key);

	holder->used += !hold->key;
	hold->key = key;
	return hold;
}

void ob_holder_set(struct ob_holder *holder, uint32_t slot, uint32_t count)
{
	struct ob_hold *hold = take(holder, key_of_twelve(slot));
	uint8_t *few = &hold->few[slot % TOGETHER];

	holder->holds += (uint64_t)count - ob_holder_count(holder, slot);
	if (*few == MANY || count >= MANY)
		take(holder, key_of_one(slot))->many = count < MANY ? 0 : count;
	*few = (uint8_t)OB_MIN(count, (uint32_t)MANY);
}

bool ob_holder_next(const struct ob_holder *holder, uint64_t *at, uint32_t *ret_slot, uint32_t *ret_count)
{
	for (; *at < (uint64_t)holder->size * TOGETHER; ++*at) {
		const struct ob_hold *hold = &holder->table[*at / TOGETHER];

		if (!hold->key || hold->key > OF_ONE || !hold->few[*at % TOGETHER])
			continue;
		*ret_slot = (hold->key - 1) * TOGETHER + (uint32_t)(*at % TOGETHER);
		*ret_count = ob_holder_count(holder, *ret_slot);
		++*at;
		return true;
	}
	return false;
}

void ob_holder_clear(struct ob_holder *holder)
{
	free(holder->table);
	*holder = (struct ob_holder){ 0 };
}

uint64_t ob_holder_bytes(const struct ob_holder *holder)
{
	return holder->size * sizeof(struct ob_hold);
}
