/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of an offer.
 *
 *     OFFER ─▶ nobody has that hash: remembered in the index, that is all
 *           ├▶ the store has a slot of it: ADOPT
 *           └▶ somebody has: into the machine's list of things to do, a ring of OB_SHARE_TODO_MAX
 *
 *     its turn ─▶ the store has a slot of that hash:  ADOPT
 *              ├▶ another page has it:                FETCH ─▶ its bytes have the hash ─▶ a slot is filled, ADOPT for both, and
 *              │                                                                            for whoever else has offered it
 *              └▶ it is of a former overbookd's store:  FETCH ─▶ a slot is filled, ADOPT: the last one of an old extent keeps 16 MiB
 *                                                              else, until it is touched
 *
 * Only one of two pages is fetched: the one that was offered last, since that one has most likely not gone back to its guest. Bytes
 * are compared where they are given up: the engine of each machine compares all of its page with the slot, and keeps its page
 * if they differ. So a hash is never trusted, neither by overbookd nor by a machine, whoever filled the slot; a wrong one
 * costs a question, or leaves a slot with one page, which takes the memory that the page took.
 *
 * Bytes are copied out of the staging memory before anything is done with them: their owner can change them at any time. A page
 * whose bytes cannot be had, or do not have the hash that was offered, is forgotten, and another that has been offered with
 * that hash has its turn. While a page is being fetched its equals wait: either there will be a slot, which all of them adopt at once, or
 * one of them is next. What is in a list is in the index as well; what is there no more has been done, and is passed over. Without
 * room for a slot a list may be long and wait long: what needs none does not stand behind it.
 *
 * A hold exists from the moment before ADOPT is sent: what was sent and not answered counts as held. HELD with an error takes it back;
 * so does DROPPED (share_holds.c). Both are checked, and a machine that takes back what it does not hold breaks the rules.
 *
 * A slot takes memory of the budget, and a page that nobody uses would take none once it has been evicted. So while some machine is entitled
 * to less than it uses (budget.h) slots are filled for pages alone that go on taking memory, which agents say (USED, ORPHAN); all others
 * are remembered, and adopt a slot like any other once there is one. share_keep.c gets rid of what was shared before.
 *
 * Limits, so that no machine can make overbookd work or keep much: 64 FETCHes under way, OB_SHARE_PENDING_MAX ADOPTs, the ring, and the
 * index's quota of twice its RAM, of which ALIKE_MAX may have one hash (they are a chain, and chains are slow). An offer that
 * finds the ring full is forgotten. A FETCH that waits for EXPIRE_NS is given up; the staging page stays taken until its answer comes. A
 * FETCH or an ADOPT that the socket does not take is given up. Whatever is given up is missed, not lost: the page stays as it was.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/link.h"
#include "daemon/share_internal.h"
#include "share/page_hash.h"

#define EXPIRE_NS   (10 * OB_NS_PER_SEC)
#define QUOTA_LEAST 1024u
#define FUTILE_MAX  8u   /* offers without room, a message */
#define EXPECTED    16u  /* offers that are looked for in the index next */
#define ALIKE_MAX   256u /* pages of one machine and one hash in the index */

_Static_assert(OB_SHARE_PAGE == OB_PAGE_HASH_BYTES && OB_SHARE_PAGE == OB_STORE_PAGE, "a page is a page");
_Static_assert(OB_WIRE_KEY_SIZE == OB_PAGE_HASH_KEY && OB_STORE_SLOTS == OB_WIRE_EXTENT_MAX, "as on the wire");

enum start { STARTED, NOTHING_TO_DO, NOT_NOW, NO_ROOM };

static bool is_usable(const struct ob_sharer *sharer)
{
	return sharer->machine->link && sharer->on && sharer->staging_base;
}

static struct ob_index_entry entry_of(const struct ob_sharer *sharer, const struct ob_offered *offered)
{
	return (struct ob_index_entry){ .lo = offered->lo, .hi = offered->hi, .where = offered->page, .owner = (uint16_t)sharer->number,
					.class = offered->class };
}

/* Returns whether the index knew it. */
static bool forget(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	struct ob_index_entry entry = entry_of(sharer, offered);

	return ob_index_remove(sharer->domain->index, &entry) > 0;
}

/* What the index has of a page's hash in its class, but for the page itself. */
struct equals {
	bool slot;
	uint32_t number; /* the slot's */
	unsigned others, own; /* pages; own: of the same machine */
	uint64_t comparisons; /* that it took */
};

static struct equals find_equals(const struct ob_sharer *sharer, const struct ob_offered *offered)
{
	struct ob_index *index = sharer->domain->index;
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry entry;
	struct equals found = { .comparisons = index->comparisons };

	while (!found.slot && found.own < ALIKE_MAX && ob_index_find(index, offered->lo, offered->hi, offered->class, &cursor, &entry)) {
		found.slot = entry.owner == OB_INDEX_STORE;
		found.number = found.slot ? (uint32_t)entry.where : 0;
		if (entry.owner == sharer->number)
			found.own += entry.where != offered->page;
		else
			found.others++;
	}
	found.comparisons = index->comparisons - found.comparisons;
	return found;
}

/* Into the index (again): it was not adopted. */
static void remember(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	struct ob_index_entry entry = entry_of(sharer, offered);

	if (find_equals(sharer, offered).own >= ALIKE_MAX || ob_index_add(sharer->domain->index, &entry) < 0)
		sharer->counters.missed++;
}

/* The slot with a page's hash, if the store has one in its class. */
static bool find_slot(const struct ob_domain *domain, const struct ob_offered *offered, uint32_t *ret_slot)
{
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry entry;

	if (!ob_index_find(domain->index, offered->lo, offered->hi, offered->class, &cursor, &entry) || entry.owner != OB_INDEX_STORE)
		return false;
	*ret_slot = (uint32_t)entry.where;
	return true;
}

/* --- what waits for its turn --- */

/* Behind all others; or before them, where there is a slot and the others wait for room. */
static bool todo_push(struct ob_sharer *sharer, const struct ob_offered *offered, bool first)
{
	unsigned at;

	if (!sharer->todo)
		sharer->todo = malloc(OB_SHARE_TODO_MAX * sizeof(*sharer->todo));
	if (!sharer->todo || sharer->todo_count == OB_SHARE_TODO_MAX) {
		sharer->counters.missed++;
		return false;
	}
	at = first ? OB_SHARE_TODO_MAX - 1 : sharer->todo_count;
	at = (sharer->todo_first + at) % OB_SHARE_TODO_MAX;
	if (first)
		sharer->todo_first = at;
	sharer->todo[at] = *offered;
	sharer->todo_count++;
	return true;
}

static struct ob_offered todo_pop(struct ob_sharer *sharer)
{
	struct ob_offered offered = sharer->todo[sharer->todo_first];

	sharer->todo_first = (sharer->todo_first + 1) % OB_SHARE_TODO_MAX;
	sharer->todo_count--;
	return offered;
}

static void todo_unpop(struct ob_sharer *sharer)
{
	sharer->todo_first = (sharer->todo_first + OB_SHARE_TODO_MAX - 1) % OB_SHARE_TODO_MAX;
	sharer->todo_count++;
}

/* One of those who have offered the hash of this page, in its class, has a turn. */
static void wake_next(struct ob_domain *domain, const struct ob_offered *page)
{
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry entry;

	while (ob_index_find(domain->index, page->lo, page->hi, page->class, &cursor, &entry)) {
		struct ob_offered offered = { .page = entry.where, .lo = page->lo, .hi = page->hi, .class = page->class, .is_used = page->is_used };

		if (entry.owner != OB_INDEX_STORE && is_usable(domain->sharers[entry.owner]) &&
		    todo_push(domain->sharers[entry.owner], &offered, false))
			break;
	}
}

/* Whether this page is being fetched or adopted. */
static bool is_in_hand(const struct ob_sharer *sharer, uint64_t page)
{
	for (unsigned i = 0; sharer->staging_busy && i < OB_WIRE_STAGING_MAX; i++)
		if (sharer->staging[i].wanted && sharer->staging[i].offered.page == page)
			return true;
	for (unsigned i = 0; i < sharer->pending_count; i++)
		if (ob_sharer_pending(sharer, i)->page == page)
			return true;
	return false;
}

/* --- adoptions --- */

/* The hold of an ADOPT that was not sent. */
static void take_back(struct ob_sharer *sharer, uint32_t slot)
{
	if (ob_store_let_go(sharer->domain->store, &sharer->holder, slot, 1) < 0)
		ob_log_limited(OB_LOG_ERROR, "machine \"%s\": a hold of slot %u is missing", sharer->machine->name, slot);
}

int ob_match_send_extent(struct ob_sharer *sharer, uint32_t slot)
{
	struct ob_store *store = sharer->domain->store;
	struct ob_wire_msg msg; /* large: not to be touched for nothing */
	int r;

	if (ob_store_is_told(store, slot, sharer->number))
		return 0;
	msg = (struct ob_wire_msg){ .type = OB_WIRE_EXTENT, .extent = { ob_store_id(store, slot), OB_STORE_SLOTS } };
	r = ob_link_send(sharer->machine, &msg, ob_store_fd(store, slot));
	if (r >= 0)
		ob_store_set_told(store, slot, sharer->number);
	return r;
}

static bool can_adopt(const struct ob_sharer *sharer)
{
	return is_usable(sharer) && !sharer->claims && sharer->pending_count < OB_SHARE_PENDING_MAX / 2;
}

static void adopt(struct ob_sharer *sharer, const struct ob_offered *offered, uint32_t slot)
{
	(void)forget(sharer, offered);
	if (!sharer->pending)
		sharer->pending = malloc(OB_SHARE_PENDING_MAX * sizeof(*sharer->pending));
	if (!is_usable(sharer) || !sharer->pending || sharer->pending_count == OB_SHARE_PENDING_MAX ||
	    ob_store_hold(sharer->domain->store, &sharer->holder, slot, 1) < 0) {
		sharer->counters.missed++;
		remember(sharer, offered);
		return;
	}
	if (ob_match_send_extent(sharer, slot) < 0) {
		take_back(sharer, slot);
		sharer->counters.missed++;
		remember(sharer, offered);
		return;
	}
	*ob_sharer_pending(sharer, sharer->pending_count++) = (struct ob_adoption){ offered->page, offered->lo, offered->hi, slot, offered->class };
	sharer->adopt_out++;
}

/* Who has offered the hash of a page that there is a slot for now, in its class, adopts that, at once if he can. */
static void adopt_equals(struct ob_domain *domain, const struct ob_offered *page, uint32_t slot)
{
	static struct ob_index_entry found[ALIKE_MAX];
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry entry;
	unsigned n = 0;

	/* Adopting changes the index, and ends a walk through it. */
	while (ob_index_find(domain->index, page->lo, page->hi, page->class, &cursor, &entry)) {
		struct ob_offered offered = { entry.where, page->lo, page->hi, page->class };

		if (entry.owner == OB_INDEX_STORE || !is_usable(domain->sharers[entry.owner]))
			continue;
		if (n < OB_ARRAY_LEN(found) && can_adopt(domain->sharers[entry.owner]))
			found[n++] = entry;
		else
			(void)todo_push(domain->sharers[entry.owner], &offered, !ob_share_has_room(domain));
	}
	for (unsigned i = 0; i < n; i++) {
		struct ob_offered offered = { found[i].where, page->lo, page->hi, page->class };

		if (!is_in_hand(domain->sharers[found[i].owner], offered.page))
			adopt(domain->sharers[found[i].owner], &offered, slot);
	}
}

/* --- questions --- */

static void fetch(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	unsigned i = 0;

	while (sharer->staging[i].busy)
		i++;
	sharer->staging[i] = (struct ob_staging){ .busy = true, .wanted = true, .since_ns = ob_now_ns(), .offered = *offered };
	sharer->staging_busy++;
	sharer->staging_is_used = true;
	sharer->fetch_out++;
	sharer->domain->share->planned++;
}

/* Nobody waits for the answer any more; its place stays taken until it comes. */
static void unwant(struct ob_sharer *sharer, struct ob_staging *staging)
{
	sharer->domain->share->planned -= staging->wanted;
	staging->wanted = false;
}

static void staging_clear(struct ob_sharer *sharer, struct ob_staging *staging)
{
	unwant(sharer, staging);
	sharer->fetch_out -= !staging->sent;
	sharer->staging_busy--;
	*staging = (struct ob_staging){ 0 };
}

/* What the index has of a page's hash that can be asked for now. */
static enum start start(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	struct ob_domain *domain = sharer->domain;
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry entry;
	bool has_equal = offered->is_orphan, is_known = false, waits = false;

	if (is_in_hand(sharer, offered->page))
		return NOTHING_TO_DO;
	while (ob_index_find(domain->index, offered->lo, offered->hi, offered->class, &cursor, &entry)) {
		const struct ob_sharer *partner;

		if (entry.owner == OB_INDEX_STORE) {
			if (!forget(sharer, offered) && !offered->is_apart)
				return NOTHING_TO_DO;
			adopt(sharer, offered, (uint32_t)entry.where);
			return STARTED;
		}
		partner = domain->sharers[entry.owner];
		if (partner == sharer && entry.where == offered->page) {
			is_known = true;
		} else if (is_usable(partner)) {
			has_equal = true;
			waits |= is_in_hand(partner, entry.where);
		}
	}
	/* It has had its turn since, or is forgotten. */
	if (!is_known && !offered->is_apart)
		return NOTHING_TO_DO;
	/* That one will be a slot, or wake the next of those whom the index knows. */
	if (waits)
		return is_known ? NOTHING_TO_DO : NOT_NOW;
	if (!has_equal) {
		/* Who had the same has gone: it is the first one now. */
		remember(sharer, offered);
		return NOTHING_TO_DO;
	}
	if (domain->share->daemon->lack_bytes && !offered->is_used) {
		if (!is_known)
			remember(sharer, offered);
		return NOTHING_TO_DO;
	}
	if (!ob_share_has_room(domain)) {
		sharer->counters.no_room++;
		ob_share_want_room(domain->share);
		return NO_ROOM;
	}
	fetch(sharer, offered);
	return STARTED;
}

static bool has_window(const struct ob_sharer *sharer)
{
	return can_adopt(sharer) && sharer->staging_busy < OB_WIRE_STAGING_MAX;
}

/* Without room what waits is tried in vain: a few at a time, *futile counts them. The next message has the next ones. */
static void start_all(struct ob_sharer *sharer, unsigned *futile)
{
	for (unsigned n = sharer->todo_count; n && has_window(sharer); n--) {
		struct ob_offered offered = todo_pop(sharer);
		enum start started = start(sharer, &offered);

		if (started == NO_ROOM) {
			(void)todo_push(sharer, &offered, false);
			if (++*futile >= FUTILE_MAX)
				break;
		}
		if (started == NOT_NOW) {
			todo_unpop(sharer);
			break;
		}
	}
}

/* --- answers --- */

/* Nothing comes of this page; another with its hash has its turn. */
static void hand_on(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	(void)forget(sharer, offered);
	wake_next(sharer->domain, offered);
}

/* Its bytes cannot be had, or are not what was offered. */
static void lost(struct ob_sharer *sharer, const struct ob_offered *offered)
{
	sharer->counters.stale++;
	hand_on(sharer, offered);
}

/* Makes a page's bytes a slot. Returns 0 or -errno; nothing has happened then. */
static int fill_slot(struct ob_domain *domain, const struct ob_offered *offered, const uint8_t *bytes, uint32_t *ret_slot)
{
	struct ob_index_entry entry = { .lo = offered->lo, .hi = offered->hi, .owner = OB_INDEX_STORE, .class = offered->class };
	bool may_grow = ob_share_may_grow(domain->share);
	int r;

	/* Slots that are free again first: so nobody makes a store grow in advance by what he then does not adopt. */
	if (domain->share->in_advance && ob_store_spare_pages(domain->store))
		may_grow = false;
	r = ob_store_fill(domain->store, bytes, offered->lo, offered->hi, may_grow, ob_share_may_open(domain->share), ret_slot);
	if (r < 0)
		return r;
	entry.where = *ret_slot;
	/* Without memory for it the slot is not found later, and is as good for this page. */
	(void)!ob_index_add(domain->index, &entry);
	return 0;
}

/* The bytes of a page that has an equal are here. */
static void arrived(struct ob_sharer *sharer, const struct ob_offered *offered, const uint8_t *bytes)
{
	struct ob_domain *domain = sharer->domain;
	uint64_t lo, hi;
	uint32_t slot;
	int r = 0;

	ob_page_hash(domain->share->key, bytes, &lo, &hi);
	if (lo != offered->lo || hi != offered->hi) {
		lost(sharer, offered);
		return;
	}
	/* Another one's bytes may have been faster. A slot that was just filled is pinned. */
	if (find_slot(domain, offered, &slot))
		ob_store_pin(domain->store, slot);
	else
		r = fill_slot(domain, offered, bytes, &slot);
	if (r == 0) {
		domain->moved += offered->is_orphan;
		adopt(sharer, offered, slot);
		adopt_equals(domain, offered, slot);
		ob_store_unpin(domain->store, slot);
		return;
	}
	if (r == -ENOSPC) {
		sharer->counters.no_room++;
		ob_share_want_room(domain->share);
	}
	/* Without room it waits; what fails otherwise would fail again at once. */
	if (!ob_share_has_room(domain))
		(void)todo_push(sharer, offered, false);
}

/* --- what is sent --- */

static void flush_fetches(struct ob_sharer *sharer)
{
	static struct ob_wire_msg msg;

	if (!sharer->fetch_out)
		return;
	msg = (struct ob_wire_msg){ .type = OB_WIRE_FETCH };
	for (unsigned i = 0; i < OB_WIRE_STAGING_MAX; i++)
		if (sharer->staging[i].busy && !sharer->staging[i].sent) {
			const struct ob_offered *offered = &sharer->staging[i].offered;

			msg.fetch.item[msg.fetch.n++] = (struct ob_wire_fetch){ offered->page, offered->lo, offered->hi, i };
		}
	if (ob_link_send(sharer->machine, &msg, -1) >= 0) {
		for (unsigned i = 0; i < OB_WIRE_STAGING_MAX; i++)
			sharer->staging[i].sent = sharer->staging[i].busy;
		sharer->counters.fetched += msg.fetch.n;
		sharer->fetch_out = 0;
		return;
	}
	for (unsigned i = 0; i < OB_WIRE_STAGING_MAX; i++) {
		struct ob_offered offered = sharer->staging[i].offered;

		if (!sharer->staging[i].busy || sharer->staging[i].sent)
			continue;
		staging_clear(sharer, &sharer->staging[i]);
		sharer->counters.missed++;
		hand_on(sharer, &offered);
	}
}

/* The first of the ADOPTs that were put into the ring and are not sent, as many as a message has room for. Returns 0 or -errno. */
static int send_adopts(struct ob_sharer *sharer)
{
	static struct ob_wire_msg msg;
	unsigned n = OB_MIN(sharer->adopt_out, OB_WIRE_SHARES_MAX), first = sharer->pending_count - sharer->adopt_out;
	int r;

	msg.type = OB_WIRE_ADOPT;
	msg.adopt.n = n;
	for (unsigned i = 0; i < n; i++) {
		const struct ob_adoption *adoption = ob_sharer_pending(sharer, first + i);

		msg.adopt.item[i] = (struct ob_wire_adopt){ adoption->page, ob_store_id(sharer->domain->store, adoption->slot),
							    adoption->slot % OB_STORE_SLOTS };
	}
	r = ob_link_send(sharer->machine, &msg, -1);
	if (r < 0)
		return r;
	sharer->adopt_out -= n;
	return 0;
}

static void flush_adopts(struct ob_sharer *sharer)
{
	while (sharer->adopt_out && send_adopts(sharer) == 0)
		;
	for (; sharer->adopt_out; sharer->adopt_out--) {
		const struct ob_adoption *adoption = ob_sharer_pending(sharer, --sharer->pending_count);
		struct ob_offered offered = { adoption->page, adoption->lo, adoption->hi, adoption->class };

		sharer->counters.missed++;
		take_back(sharer, adoption->slot);
		remember(sharer, &offered);
	}
}

static void send_all(struct ob_domain *domain)
{
	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i]) {
			flush_adopts(domain->sharers[i]);
			flush_fetches(domain->sharers[i]);
		}
	if (!ob_store_has_closed(domain->store))
		return;
	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i] && domain->sharers[i]->machine->link)
			ob_link_flush(domain->sharers[i]->machine);
}

void ob_match_pump(struct ob_domain *domain)
{
	unsigned futile = 0, first = domain->turn;

	for (unsigned n = 0; n < domain->top; n++) {
		struct ob_sharer *sharer = domain->sharers[(first + n) % domain->top];

		if (sharer && sharer->todo_count)
			start_all(sharer, &futile);
	}
	domain->turn += futile > 0;
	send_all(domain);
}

/* --- what agents say --- */

static void set_quota(struct ob_sharer *sharer)
{
	uint64_t ram = OB_MAX(sharer->machine->ram_bytes, sharer->machine->stats.ram_bytes) / OB_SHARE_PAGE;
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES), quota = 2 * OB_MIN(ram, host);

	quota = OB_MAX(quota, (uint64_t)QUOTA_LEAST);
	if (quota != sharer->quota)
		ob_index_set_quota(sharer->domain->index, (uint16_t)sharer->number, quota);
	sharer->quota = quota;
}

/* Whether it may have pages that are to move to another extent. */
static bool is_elsewhere(const struct ob_sharer *sharer)
{
	return sharer->orphan_count || ob_store_drains(sharer->domain->store);
}

static void take_offer(struct ob_sharer *sharer, const struct ob_wire_offer *item)
{
	uint32_t kind = item->class & OB_WIRE_CLASS_KIND;
	struct ob_offered offered = { item->page, item->lo, item->hi, ob_wire_class_changed(item->class),
				      is_elsewhere(sharer) && (kind == OB_WIRE_CLASS_ORPHAN || kind == OB_WIRE_CLASS_COLD_ORPHAN), false,
				      kind == OB_WIRE_CLASS_USED || kind == OB_WIRE_CLASS_ORPHAN };
	struct equals found = find_equals(sharer, &offered);
	struct ob_index_entry entry = entry_of(sharer, &offered);
	struct ob_search_counters *searches = &sharer->domain->searches;
	int added;

	searches->comparisons += found.comparisons;
	/* With a slot it is a question of moments: the index need not know it. */
	if (found.slot && can_adopt(sharer)) {
		if (!is_in_hand(sharer, offered.page))
			adopt(sharer, &offered, found.number);
		return;
	}
	if (found.slot || found.own >= ALIKE_MAX) {
		offered.is_apart = true;
		(void)todo_push(sharer, &offered, found.slot && !ob_share_has_room(sharer->domain));
		return;
	}
	added = ob_index_add(sharer->domain->index, &entry);
	offered.is_apart = added <= 0;
	if (added < 0)
		sharer->counters.missed++;
	if (!found.others && !found.own) {
		searches->futile += found.comparisons;
		searches->lost += ob_index_is_elsewhere(sharer->domain->index, offered.lo, offered.hi, offered.class) != 0;
	}
	if ((found.others || found.own || offered.is_orphan) && !todo_push(sharer, &offered, false))
		(void)forget(sharer, &offered);
}

/* An index is larger than the caches: without this most of the time would go into waiting for one entry after the other. */
static void expect(const struct ob_index *index, const struct ob_wire_offer *items, unsigned n)
{
	for (int step = 0; step < OB_INDEX_EXPECT_STEPS; step++)
		for (unsigned i = 0; i < n; i++)
			ob_index_expect(index, items[i].lo, items[i].hi, ob_wire_class_changed(items[i].class), step);
}

static void on_offer(struct ob_sharer *sharer, const struct ob_wire_msg *msg)
{
	sharer->counters.offers += msg->offer.n;
	if (!is_usable(sharer))
		return;
	set_quota(sharer);
	for (uint32_t i = 0; i < msg->offer.n; i++) {
		if (i % EXPECTED == 0)
			expect(sharer->domain->index, &msg->offer.item[i], OB_MIN(EXPECTED, msg->offer.n - i));
		take_offer(sharer, &msg->offer.item[i]);
	}
}

static int on_staged(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	static uint8_t bytes[OB_SHARE_PAGE];

	for (uint32_t i = 0; i < msg->staged.n; i++) {
		const struct ob_wire_staged *item = &msg->staged.item[i];
		struct ob_staging *staging = &sharer->staging[item->staging], asked = *staging;

		if (!asked.busy || !asked.sent || asked.offered.page != item->page)
			return ob_error_set(err, EPROTO, "STAGED for a page that was not asked for");
		if (item->status == 0)
			memcpy(bytes, sharer->staging_base + (size_t)item->staging * OB_SHARE_PAGE, OB_SHARE_PAGE);
		staging_clear(sharer, staging);
		if (!asked.wanted)
			continue;
		if (item->status == 0)
			arrived(sharer, &asked.offered, bytes);
		else
			lost(sharer, &asked.offered);
	}
	return 0;
}

/* Takes the answered one out of the ring. Agents answer in order, so it is nearly always the first. */
static bool pending_take(struct ob_sharer *sharer, uint64_t page, uint32_t slot)
{
	unsigned sent = sharer->pending_count - sharer->adopt_out;

	for (unsigned i = 0; i < sent; i++) {
		if (ob_sharer_pending(sharer, i)->page != page || ob_sharer_pending(sharer, i)->slot != slot)
			continue;
		for (; i; i--)
			*ob_sharer_pending(sharer, i) = *ob_sharer_pending(sharer, i - 1);
		sharer->pending_first = (sharer->pending_first + 1) % OB_SHARE_PENDING_MAX;
		sharer->pending_count--;
		return true;
	}
	return false;
}

static int on_held(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_store *store = sharer->domain->store;

	for (uint32_t i = 0; i < msg->held.n; i++) {
		const struct ob_wire_held *item = &msg->held.item[i];
		uint32_t slot;

		if (ob_store_find(store, item->extent, item->index, &slot) < 0 || !pending_take(sharer, item->page, slot))
			return ob_error_set(err, EPROTO, "HELD for a page that was not to adopt that slot");
		if (item->status == 0) {
			sharer->counters.adopted++;
			continue;
		}
		sharer->counters.refused++;
		if (ob_store_let_go(store, &sharer->holder, slot, 1) < 0)
			return ob_error_set(err, EPROTO, "HELD with an error for a slot that was dropped already");
	}
	return 0;
}

int ob_match_handle(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	int r = 0;

	if (msg->type == OB_WIRE_OFFER)
		on_offer(sharer, msg);
	else if (msg->type == OB_WIRE_STAGED)
		r = on_staged(sharer, msg, err);
	else if (msg->type == OB_WIRE_HELD)
		r = on_held(sharer, msg, err);
	else
		r = ob_holds_handle(sharer, msg, err);
	ob_match_pump(sharer->domain);
	return r;
}

void ob_match_abandon(struct ob_sharer *sharer)
{
	/* What was sent stays held, until HOLDS tells: the agent may have done it. What was not sent was never held by it. */
	while (sharer->adopt_out) {
		sharer->adopt_out--;
		take_back(sharer, ob_sharer_pending(sharer, --sharer->pending_count)->slot);
	}
	sharer->pending_count = sharer->todo_count = 0;
	for (unsigned i = 0; i < OB_WIRE_STAGING_MAX; i++) {
		struct ob_staging *staging = &sharer->staging[i], asked = *staging;

		if (!asked.busy)
			continue;
		staging_clear(sharer, staging);
		if (asked.wanted)
			wake_next(sharer->domain, &asked.offered);
	}
	sharer->todo_count = 0;
}

void ob_match_expire(struct ob_domain *domain)
{
	uint64_t now = ob_now_ns();

	for (unsigned i = 0; i < domain->top; i++) {
		struct ob_sharer *sharer = domain->sharers[i];

		for (unsigned j = 0; sharer && sharer->staging_busy && j < OB_WIRE_STAGING_MAX; j++) {
			struct ob_staging *staging = &sharer->staging[j];

			if (!staging->wanted || now < staging->since_ns + EXPIRE_NS)
				continue;
			unwant(sharer, staging);
			lost(sharer, &staging->offered);
		}
	}
	ob_match_pump(domain);
}
