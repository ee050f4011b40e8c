/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The messages about sharing: their fields, both ways. */
#include "proto/wire_fields.h"

#define CPU_MAX 1000 /* permille of a processor */

static void put_slot(struct writer *w, uint64_t extent, uint32_t index)
{
	refuse(w, !extent || index >= OB_WIRE_EXTENT_MAX);
	put(w, extent, 8);
	put(w, index, 4);
}

static void put_status(struct writer *w, int32_t status)
{
	refuse(w, status > 0 || status < -ERRNO_MAX);
	put(w, (uint32_t)status, 4);
}

static void put_staging(struct writer *w, uint32_t staging)
{
	refuse(w, staging >= OB_WIRE_STAGING_MAX);
	put(w, staging, 4);
}

static void put_offered(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	const struct ob_wire_offer *item = &msg->offer.item[i];

	put(w, item->page, 8);
	put(w, item->lo, 8);
	put(w, item->hi, 8);
	put(w, item->class, 4);
	put(w, 0, 4);
}

static void put_one_staged(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->staged.item[i].page, 8);
	put_status(w, msg->staged.item[i].status);
	put_staging(w, msg->staged.item[i].staging);
}

static void put_one_held(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->held.item[i].page, 8);
	put_slot(w, msg->held.item[i].extent, msg->held.item[i].index);
	put_status(w, msg->held.item[i].status);
}

static void put_one_dropped(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->dropped.item[i].count);
	put_slot(w, msg->dropped.item[i].extent, msg->dropped.item[i].index);
	put(w, msg->dropped.item[i].count, 4);
}

static void put_orphan(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->orphans.item[i].extent);
	put(w, msg->orphans.item[i].extent, 8);
	put(w, msg->orphans.item[i].held, 4);
	put(w, 0, 4);
}

static void put_fetched(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->fetch.item[i].page, 8);
	put(w, msg->fetch.item[i].lo, 8);
	put(w, msg->fetch.item[i].hi, 8);
	put_staging(w, msg->fetch.item[i].staging);
	put(w, 0, 4);
}

static void put_adopted(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	put(w, msg->adopt.item[i].page, 8);
	put_slot(w, msg->adopt.item[i].extent, msg->adopt.item[i].index);
	put(w, 0, 4);
}

static void put_one_kept(struct writer *w, const struct ob_wire_msg *msg, uint32_t i)
{
	refuse(w, !msg->kept.item[i]);
	put(w, msg->kept.item[i], 8);
}

static int is_subpages(uint32_t n)
{
	return n && n <= OB_WIRE_SUBPAGES_MAX && !(n & (n - 1));
}

static void put_subpages(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !is_subpages(msg->subpages.n));
	put(w, msg->subpages.n, 4);
}

static void put_share(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, msg->share.flags & ~OB_WIRE_SHARE_ON || msg->share.cpu_permille > CPU_MAX);
	put(w, msg->share.flags, 4);
	put(w, msg->share.cpu_permille, 4);
	for (unsigned i = 0; i < OB_WIRE_KEY_SIZE; i++)
		put(w, msg->share.key[i], 1);
}

static void put_extent(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !msg->extent.id || !msg->extent.pages || msg->extent.pages > OB_WIRE_EXTENT_MAX);
	put(w, msg->extent.id, 8);
	put(w, msg->extent.pages, 4);
	put(w, 0, 4);
}

static void put_drop_extent(struct writer *w, const struct ob_wire_msg *msg)
{
	refuse(w, !msg->drop_extent.id);
	put(w, msg->drop_extent.id, 8);
}

static uint64_t get_extent_id(struct reader *r)
{
	uint64_t id = get(r, 8);

	if (!id)
		complain(r, "an extent's name is 0");
	return id;
}

static uint32_t get_index(struct reader *r)
{
	uint32_t index = (uint32_t)get(r, 4);

	if (index >= OB_WIRE_EXTENT_MAX)
		complain(r, "a slot lies beyond the largest extent");
	return index;
}

static int32_t get_status(struct reader *r)
{
	int32_t status = (int32_t)(uint32_t)get(r, 4);

	if (status > 0 || status < -ERRNO_MAX)
		complain(r, "a status is neither 0 nor -errno");
	return status;
}

static uint32_t get_staging(struct reader *r)
{
	uint32_t staging = (uint32_t)get(r, 4);

	if (staging >= OB_WIRE_STAGING_MAX)
		complain(r, "a page of the staging memory is not one of 64");
	return staging;
}

static void get_offered(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	struct ob_wire_offer *item = &msg->offer.item[i];

	item->page = get(r, 8);
	item->lo = get(r, 8);
	item->hi = get(r, 8);
	item->class = (uint32_t)get(r, 4);
	get_zero(r);
}

static void get_one_staged(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->staged.item[i].page = get(r, 8);
	msg->staged.item[i].status = get_status(r);
	msg->staged.item[i].staging = get_staging(r);
}

static void get_one_held(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->held.item[i].page = get(r, 8);
	msg->held.item[i].extent = get_extent_id(r);
	msg->held.item[i].index = get_index(r);
	msg->held.item[i].status = get_status(r);
}

static void get_one_dropped(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->dropped.item[i].extent = get_extent_id(r);
	msg->dropped.item[i].index = get_index(r);
	msg->dropped.item[i].count = (uint32_t)get(r, 4);
	if (!msg->dropped.item[i].count)
		complain(r, "it names a slot 0 times");
}

static void get_orphan(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->orphans.item[i].extent = get_extent_id(r);
	msg->orphans.item[i].held = (uint32_t)get(r, 4);
	get_zero(r);
}

static void get_fetched(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->fetch.item[i].page = get(r, 8);
	msg->fetch.item[i].lo = get(r, 8);
	msg->fetch.item[i].hi = get(r, 8);
	msg->fetch.item[i].staging = get_staging(r);
	get_zero(r);
}

static void get_adopted(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->adopt.item[i].page = get(r, 8);
	msg->adopt.item[i].extent = get_extent_id(r);
	msg->adopt.item[i].index = get_index(r);
	get_zero(r);
}

static void get_one_kept(struct reader *r, struct ob_wire_msg *msg, uint32_t i)
{
	msg->kept.item[i] = get_extent_id(r);
}

static void get_share(struct reader *r, struct ob_wire_msg *msg)
{
	msg->share.flags = (uint32_t)get(r, 4);
	msg->share.cpu_permille = (uint32_t)get(r, 4);
	for (unsigned i = 0; i < OB_WIRE_KEY_SIZE; i++)
		msg->share.key[i] = (uint8_t)get(r, 1);
	if (msg->share.flags & ~OB_WIRE_SHARE_ON)
		complain(r, "it has flags that are not known");
	if (msg->share.cpu_permille > CPU_MAX)
		complain(r, "its part of a processor is more than 1000 permille");
}

static void get_subpages(struct reader *r, struct ob_wire_msg *msg)
{
	msg->subpages.n = (uint32_t)get(r, 4);
	if (!is_subpages(msg->subpages.n))
		complain(r, "it has not 1, 2, 4 or 8 sub-pages");
}

static void get_extent(struct reader *r, struct ob_wire_msg *msg)
{
	msg->extent.id = get_extent_id(r);
	msg->extent.pages = (uint32_t)get(r, 4);
	if (!msg->extent.pages || msg->extent.pages > OB_WIRE_EXTENT_MAX)
		complain(r, "its extent has not from 1 to 4096 pages");
	get_zero(r);
}

static void get_drop_extent(struct reader *r, struct ob_wire_msg *msg)
{
	msg->drop_extent.id = get_extent_id(r);
}

const struct kind ob_wire_share_kinds[OB_WIRE_SHARE_KINDS] = {
	[OB_WIRE_OFFER] = { "OFFER", .put_item = put_offered, .get_item = get_offered },
	[OB_WIRE_STAGED] = { "STAGED", .put_item = put_one_staged, .get_item = get_one_staged },
	[OB_WIRE_HELD] = { "HELD", .put_item = put_one_held, .get_item = get_one_held },
	[OB_WIRE_DROPPED] = { "DROPPED", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_ORPHANS] = { "ORPHANS", .put_item = put_orphan, .get_item = get_orphan },
	[OB_WIRE_WORN] = { "WORN", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_MORE_ORPHANS] = { "MORE_ORPHANS", .put_item = put_orphan, .get_item = get_orphan },
	[OB_WIRE_HOLDS] = { "HOLDS", .put_item = put_one_dropped, .get_item = get_one_dropped },
	[OB_WIRE_SHARE] = { "SHARE", put_share, get_share },
	[OB_WIRE_EXTENT] = { "EXTENT", put_extent, get_extent },
	[OB_WIRE_FETCH] = { "FETCH", .put_item = put_fetched, .get_item = get_fetched },
	[OB_WIRE_ADOPT] = { "ADOPT", .put_item = put_adopted, .get_item = get_adopted },
	[OB_WIRE_DROP_EXTENT] = { "DROP_EXTENT", put_drop_extent, get_drop_extent },
	[OB_WIRE_KEPT] = { "KEPT", .put_item = put_one_kept, .get_item = get_one_kept },
	[OB_WIRE_DRAIN] = { "DRAIN", put_drop_extent, get_drop_extent },
	[OB_WIRE_SUBPAGES] = { "SUBPAGES", put_subpages, get_subpages },
};
