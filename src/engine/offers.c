/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring of offers: hashes of pages that may be shared, until overbookd's agent takes them (share.c has the theory of sharing).
 *
 * Whoever has a page's bytes lying still offers it. When the ring is full the oldest offer goes: its page is offered again some time. A page
 * that would go on taking memory is told as one in use: what a read fault has just brought back, where it would be mapped when it is read next; and
 * where there is no store to evict to, every one. Of the former so few wait at a time that they never hurry the agent.
 *
 * Locking: share.lock, a leaf. The ring costs the machine what has been touched of it.
 */
#include "engine/share.h"

#include "engine/internal.h"

#define USED_WAIT       48u /* offers; of pages that are in use none is added to so many: fewer than the agent calls many */
#define OFFERS_PER_PAGE (OB_PAGE_SIZE / sizeof(struct ob_share_offer))

static unsigned kind_of(const struct ob_engine *engine, unsigned kind)
{
	return kind == OB_SHARE_ORPHAN || engine->swap ? kind : OB_SHARE_USED;
}

void ob_share_offer(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes, unsigned kind)
{
	struct ob_share *share = ob_share_of(engine);
	struct ob_hash hash = ob_content_hash(&share->key, bytes);
	unsigned class = kind_of(engine, kind) | ob_subpage_changed(engine, place, page, bytes) << OB_SHARE_CHANGED_SHIFT;
	unsigned count, at;

	pthread_mutex_lock(&share->lock);
	count = share->offer_count;
	if (count == OB_OFFERS) {
		share->offer_first = (share->offer_first + 1) % OB_OFFERS;
		count--;
	}
	at = (share->offer_first + count) % OB_OFFERS;
	ob_buffer_touch(engine, &share->offers_touched, (unsigned)(at / OFFERS_PER_PAGE + 1));
	share->offer[at] = (struct ob_share_offer){
		.page = (uint64_t)place->region_index << OB_SHARE_REGION_SHIFT | page, .lo = hash.low, .hi = hash.high, .class = class,
	};
	ob_store(&share->offer_count, count + 1);
	pthread_mutex_unlock(&share->lock);
	ob_count(engine, share_offered_pages, 1);
}

void ob_share_offer_used(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes)
{
	unsigned waiting;

	if (!ob_share_is_on(engine) || !ob_mapped_may_read(engine, place->chunk) || place->chunk->is_large)
		return;
	waiting = ob_load(&ob_share_of(engine)->offer_count);
	if (waiting >= USED_WAIT || ob_content_is_zero(bytes))
		return;
	ob_share_offer(engine, place, page, bytes, OB_SHARE_USED);
	if (!waiting)
		ob_share_offered(engine);
}

void ob_share_offered(struct ob_engine *engine)
{
	struct ob_share *share = ob_share_of(engine);

	if (!share || !ob_load(&share->offer_count))
		return;
	pthread_mutex_lock(&share->lock);
	if (share->offer_count && share->ready)
		share->ready(share->context);
	pthread_mutex_unlock(&share->lock);
}

int ob_share_has_room(const struct ob_engine *engine)
{
	return ob_load(&ob_share_of(engine)->offer_count) < OB_OFFERS / 2;
}

unsigned ob_engine_share_offers(struct ob_engine *engine, struct ob_share_offer *ret, unsigned max)
{
	struct ob_share *share = ob_share_of(engine);
	unsigned n = 0;

	if (!share)
		return 0;
	pthread_mutex_lock(&share->lock);
	for (; n < max && share->offer_count; n++) {
		ret[n] = share->offer[share->offer_first];
		ob_store(&share->offer_count, share->offer_count - 1);
		share->offer_first = (share->offer_first + 1) % OB_OFFERS;
	}
	if (!share->offer_count)
		share->offer_first = 0; /* where there is memory already */
	pthread_mutex_unlock(&share->lock);
	return n;
}
