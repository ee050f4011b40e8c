/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What machines say of what they hold: that it has ended (DROPPED), that it had been mapped before (WORN), and, on a new connection,
 * what there is (HOLDS).
 *
 * Lost messages. When a connection ends, ADOPTs and HELDs and DROPPEDs may be lost with it, and what is counted may be more than
 * what is held, never less. All of it stays held, since a slot that somebody holds and is not known to hold would change under a
 * guest. On the next connection the agent says HOLDS: what overbookd must have counted, had nothing been lost. That is every hold
 * of a page, and every one that has ended and that DROPPED is still to say; so each is taken back once, by HOLDS leaving it out
 * or by DROPPED. It is told in pieces, while nothing changes at the agent: it adopts and drops nothing before it has said the
 * last one. ADOPTs that were sent on this connection meanwhile have no answer when the last piece comes, or a refusal that came
 * before it: they are no part of what it tells, and stay as they are. What is left out is let go of, as worn if the machine maps.
 * More than what is counted breaks the rules: so an agent can free nothing but what it was given, and can keep nothing that it was
 * not given. While it tells it is asked nothing. If it never comes to an end, or begins anew, it harms itself alone. Agents that do
 * not know HOLDS keep what was lost until their process ends. Of extents of before overbookd's start HOLDS tells what nobody has
 * counted (share_keep.c).
 */
#include <errno.h>

#include "base/log.h"
#include "daemon/link.h"
#include "daemon/share_internal.h"

static bool is_orphan(const struct ob_sharer *sharer, uint64_t extent)
{
	for (uint32_t i = 0; i < sharer->orphan_count; i++)
		if (sharer->orphans[i].extent == extent)
			return true;
	return false;
}

static int on_dropped(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_store *store = sharer->domain->store;

	if (sharer->claims)
		return ob_error_set(err, EPROTO, "DROPPED between HOLDS");
	for (uint32_t i = 0; i < msg->dropped.n; i++) {
		const struct ob_wire_dropped *item = &msg->dropped.item[i];
		uint32_t slot, count = item->count;
		bool is_restored;

		/* A slot of a former overbookd's: ORPHANS tells how much of it is left. */
		if (!ob_store_has(store, item->extent) && is_orphan(sharer, item->extent))
			continue;
		/* What was held of an extent of before is known from HOLDS, which some have not said. */
		is_restored = ob_store_find_restored(store, item->extent, item->index, &slot) == 0;
		if (is_restored)
			count = OB_MIN(count, ob_holder_count(&sharer->holder, slot));
		if ((!is_restored && ob_store_find(store, item->extent, item->index, &slot) < 0) ||
		    ob_store_let_go(store, &sharer->holder, slot, count) < 0)
			return ob_error_set(err, EPROTO, "DROPPED for a slot that it does not hold so often");
		sharer->counters.dropped += count;
	}
	return 0;
}

/* Before DROPPED: so the slots are still held. */
static int on_worn(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_store *store = sharer->domain->store;

	for (uint32_t i = 0; i < msg->dropped.n; i++) {
		const struct ob_wire_dropped *item = &msg->dropped.item[i];
		uint32_t slot;

		if (!ob_store_has(store, item->extent) && is_orphan(sharer, item->extent))
			continue;
		if (ob_store_find_restored(store, item->extent, item->index, &slot) == 0)
			continue;
		if (!sharer->maps || ob_store_find(store, item->extent, item->index, &slot) < 0 ||
		    !ob_holder_count(&sharer->holder, slot))
			return ob_error_set(err, EPROTO, "WORN for a slot that it cannot have mapped");
		ob_store_wear(store, slot);
	}
	return 0;
}

static int claim(struct ob_sharer *sharer, uint32_t slot, uint32_t count, struct ob_error *err)
{
	int r = ob_store_claim(&sharer->holder, &sharer->claim, slot, count);

	if (r == -ENOMEM)
		return ob_error_sys(err, ENOMEM, "cannot take in what it holds");
	return r < 0 ? ob_error_set(err, EPROTO, "HOLDS of a slot that it does not hold so often") : 0;
}

/* All has been told: what is held beyond that was lost with a connection. */
static int settle(struct ob_sharer *sharer, struct ob_error *err)
{
	uint64_t lost;
	int r = 0;

	for (unsigned i = 0; i < sharer->pending_count && r == 0; i++)
		r = claim(sharer, ob_sharer_pending(sharer, i)->slot, 1, err);
	if (r < 0)
		return r;
	/* WORN may have been lost with DROPPED. */
	lost = ob_store_settle(sharer->domain->store, &sharer->holder, &sharer->claim, sharer->maps);
	if (lost)
		ob_log(OB_LOG_INFO, "machine \"%s\": it holds %llu shared pages fewer than were counted when its connection ended",
		       sharer->machine->name, (unsigned long long)lost);
	ob_holder_clear(&sharer->claim);
	sharer->claims = false;
	ob_store_has_claimed(sharer->domain->store, sharer->number);
	ob_link_flush(sharer->machine);
	return 0;
}

static int on_holds(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_store *store = sharer->domain->store;
	int r = 0;

	sharer->claims = true;
	for (uint32_t i = 0; i < msg->dropped.n && r == 0; i++) {
		const struct ob_wire_dropped *item = &msg->dropped.item[i];
		uint32_t slot;

		/* A former overbookd's are told in ORPHANS. */
		if (!ob_store_has(store, item->extent))
			continue;
		if (ob_store_find_restored(store, item->extent, item->index, &slot) == 0)
			r = ob_keep_claim(sharer, slot, item->count, err);
		else if (ob_store_find(store, item->extent, item->index, &slot) < 0)
			r = ob_error_set(err, EPROTO, "HOLDS of a slot that is free");
		if (r == 0)
			r = claim(sharer, slot, item->count, err);
	}
	return r < 0 || msg->dropped.n ? r : settle(sharer, err);
}

int ob_holds_handle(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	if (msg->type == OB_WIRE_WORN)
		return on_worn(sharer, msg, err);
	return msg->type == OB_WIRE_HOLDS ? on_holds(sharer, msg, err) : on_dropped(sharer, msg, err);
}
