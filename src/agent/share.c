/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page sharing between the engine and overbookd (proto/wire.h has the messages): all in the link's thread, but for wake().
 *
 *     engine   ready, an eventfd --> link's poll --> ob_share_send(): drops --> DROPPED, offers --> OFFER
 *              <-- share_fetch, into the staging memory       <-- FETCH          --> STAGED
 *              <-- share_adopt, which compares the bytes      <-- ADOPT          --> HELD
 *              <-- share_extent, drop_extent                  <-- EXTENT, DROP_EXTENT
 *              <-- share_extent_file                          <-- EXTENT after MAY_MAP, which answers MAPS
 *              <-- share_orphan                               <-- KEPT and then SHARE, DRAIN
 *
 * Nothing is sent unasked unless the socket has room, and then a few messages a turn of the loop, so that limits and polls
 * come through whatever the engine finds. What has to wait stays in the engine, which bounds it. Nor is every drop a message of its own, for which
 * two processes have to be woken: after few have been sent the engine is not listened to for REST_NS, unless OFFERS_MANY wait: the engine keeps
 * but some thousands of offers, and a page that is offered is only so long where it can be taken from.
 *
 * Whose an extent is. Slots that are dropped are told to the overbookd whose they are, exactly once: one too many would free
 * what somebody holds, one too few would keep a slot for ever. So each extent is marked as ours, sent by the overbookd that
 * is spoken to, or foreign, of an earlier one. Who that is, is known by the key of SHARE, which every overbookd draws: the
 * same key after a lost connection is the same overbookd, and its extents are still known to it. Another process at the
 * other end is another overbookd before it has said SHARE. (With a socket that systemd listens on, the number of the
 * process is always systemd's, and SHARE must be waited for.) Until it is known who it is, drops stay in the engine. Another
 * overbookd may have extents of an earlier one (daemon/share_keep.c): those that it names in KEPT, before SHARE, are ours from SHARE on, with no
 * moment between in which a drop would be nobody's. An extent that is sent anew must be the very file that is mapped already.
 *
 * Foreign extents are told in ORPHANS while they are held; drops of theirs concern nobody. What one message has no room for goes before
 * it in MORE_ORPHANS, which an overbookd that does not know it skips: it counts the last 512 then. An extent that is not held any more
 * is unmapped here, since whoever made it is gone. Pages of it move to new slots as the engine offers them anew.
 *
 * Mapping. An engine that maps shared pages says of drops that slots were mapped; those are told in WORN before DROPPED, so that
 * they are never filled again. It gets files of extents only from an overbookd that has said by MAY_MAP that it understands
 * that, and has kept in mind that the machine maps (MAPS). Each file is a descriptor of QEMU's process for as long as the extent is there: FILES_MAX of them.
 *
 * When the connection is lost, the engine goes on scanning; what it offers is thrown away, what it drops is kept. A message
 * of drops that the socket did not take is kept as well, and so is what a HELD that was not taken would have said. Not known
 * is whether a message that the socket took was read, or what was lost that never came here. So after the first SHARE of a
 * connection all that overbookd must have counted is told in HOLDS: by the engine's counts, and what is owed. Until the last of them is
 * sent nothing is dropped, offered or adopted; what is owed is dropped afterwards, as ever, also because an overbookd that
 * does not know HOLDS skips them. Holds of extents that are foreign are told too: whoever does not know those skips them.
 *
 * Failure: staging memory or an extent that is not what it must be is refused and logged. Sharing is off then, or the pages
 * that should go there are answered with -ENOENT; nothing else changes.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "kern/memory.h"

#define STAGING_BYTES   (OB_WIRE_STAGING_MAX * OB_PAGE_SIZE)
#define EXTENTS_MAX     4096u
#ifndef ORPHANS_A_MESSAGE /* fuzz_agent.c has fewer extents to play with */
#define ORPHANS_A_MESSAGE ((unsigned)OB_WIRE_SHARES_MAX)
#endif
#define MESSAGES_A_TURN 4
#define REST_NS         (200 * OB_NS_PER_MS)
#define OFFERS_MANY     64u
#define FILES_MAX       256u /* 4 GiB of the store; a process may have 1024 descriptors, as a rule, and QEMU needs its own */
#define OWED_MAX        (2 * OB_WIRE_SHARES_MAX) /* a message of drops, and what one HELD leaves */

struct extent {
	uint64_t id;
	int ours;
	int has_file;
	enum { NOT_KEPT, KEPT, TAKEN_BACK } kept; /* KEPT has named it, for the next SHARE; which made it ours */
	dev_t device; /* the memory file that is mapped */
	ino_t inode;
	uint32_t held; /* of one that is foreign, at the last report */
};

struct owed {
	struct ob_wire_dropped drop;
	int was_mapped;
};

static struct {
	int event;     /* the engine has something */
	int urgent;    /* it has much */
	int pending;   /* it may have more */
	int is_busy;   /* it had as many as a message takes */
	uint64_t rest_ns; /* until when it is not listened to; 0: it is */
	int connected;
	int known;     /* which overbookd it is */
	int on;        /* SHARE on this connection */
	int may_map;   /* MAY_MAP on this connection */
	int met;       /* there was one, on or off */
	int telling;   /* HOLDS, of which the last has not been sent */
	uint32_t told_position; /* of HOLDS, in the engine's counts; and in what is owed */
	unsigned told_owed;
	unsigned subpages; /* what SUBPAGES said, for the next SHARE */
	unsigned subpages_on; /* ... and for the one that holds */
	pid_t peer;
	int has_key;
	uint8_t key[OB_WIRE_KEY_SIZE];
	char *staging;
	unsigned extents, foreign, files; /* the others: how many of them */
	struct extent extent[EXTENTS_MAX];
	unsigned owed_count, told_count, must_tell; /* must_tell: who is spoken to may know something else */
	struct owed owed[OWED_MAX];                     /* taken from the engine, not sent */
	struct ob_wire_orphan told[EXTENTS_MAX];        /* what ORPHANS said last */
	struct ob_share_held held[EXTENTS_MAX];
	struct ob_share_offer offers[OB_WIRE_SHARES_MAX];
	struct ob_share_drop drops[OB_WIRE_SHARES_MAX];
	struct ob_share_adoption adoptions[OB_WIRE_SHARES_MAX];
} share = { .event = -1, .urgent = -1 };

/* The engine's: from any of its threads. */
static void wake(void *context)
{
	int is_urgent = ob_engine_share_waiting(ob_agent_engine()) >= OFFERS_MANY;
	uint64_t one = 1;

	if (write(is_urgent ? share.urgent : share.event, &one, sizeof(one)) < 0)
		return; /* the counter is full: the link has been told */
}

int ob_share_start(void)
{
	share.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	share.urgent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return share.event < 0 || share.urgent < 0 ? -errno : 0;
}

int ob_share_urgent_event(void)
{
	return share.urgent;
}

int ob_share_event(void)
{
	if (ob_now_ns() >= share.rest_ns)
		share.rest_ns = 0;
	return share.rest_ns ? -1 : share.event;
}

uint64_t ob_share_due_ns(void)
{
	return share.rest_ns ? share.rest_ns : UINT64_MAX;
}

/* Lists are mostly about one extent, or in the order in which they came: the search begins where the last one ended. */
static struct extent *find_extent(uint64_t id)
{
	static unsigned last;

	for (unsigned i = 0; i < share.extents; i++) {
		unsigned at = (last + i) % share.extents;

		if (share.extent[at].id == id) {
			last = at;
			return &share.extent[at];
		}
	}
	return NULL;
}

static int is_ours(uint64_t id)
{
	const struct extent *extent = find_extent(id);

	return extent && extent->ours;
}

static void forget_extent(struct extent *extent)
{
	share.foreign -= !extent->ours;
	share.files -= extent->has_file != 0;
	*extent = share.extent[--share.extents];
}

/* Whoever is spoken to from now on has sent none of the extents. */
static void meet_another(void)
{
	for (unsigned i = 0; i < share.extents; i++)
		share.extent[i].ours = 0;
	share.foreign = share.extents;
	share.owed_count = 0;
	share.has_key = 0;
}

static void drop_staging(void)
{
	ob_memory_unreserve(share.staging, STAGING_BYTES);
	share.staging = NULL;
}

void ob_share_connected(pid_t peer)
{
	for (unsigned i = 0; i < share.extents; i++)
		share.extent[i].kept = NOT_KEPT;
	share.connected = 1;
	share.may_map = share.subpages = 0;
	share.known = peer != share.peer;
	if (share.known)
		meet_another();
	share.peer = peer;
	share.must_tell |= share.told_count > 0;
	share.met = share.telling = 0;
	share.pending = 1;
}

void ob_share_disconnected(void)
{
	share.connected = share.known = share.on = 0;
	drop_staging();
}

void ob_share_woken(void)
{
	uint64_t drained;
	int was_told = read(share.event, &drained, sizeof(drained)) > 0;

	if (read(share.urgent, &drained, sizeof(drained)) < 0 && !was_told)
		return;
	share.pending = 1;
	/* Nobody is there to take offers. */
	for (unsigned i = 0; !share.connected && i < 64; i++)
		if (!ob_engine_share_offers(ob_agent_engine(), share.offers, OB_WIRE_SHARES_MAX))
			break;
}

int ob_share_wants_to_send(void)
{
	return share.connected && share.known && (share.telling || share.pending || share.owed_count);
}

static void owe(uint64_t extent, uint32_t index, uint32_t count, int was_mapped)
{
	if (share.owed_count < OWED_MAX && is_ours(extent))
		share.owed[share.owed_count++] = (struct owed){ { extent, index, count }, was_mapped };
}

/* Sends the first n that are owed, or what of them was mapped, if anything. 0 or -errno. */
static int send_owed(uint16_t type, unsigned n)
{
	struct ob_wire_msg *out = ob_link_message();

	out->dropped.n = 0;
	for (unsigned i = 0; i < n; i++)
		if (type == OB_WIRE_DROPPED || share.owed[i].was_mapped)
			out->dropped.item[out->dropped.n++] = share.owed[i].drop;
	return out->dropped.n ? ob_link_send(type) : 0;
}

static void begin_telling(void)
{
	if (share.met)
		return;
	share.met = share.telling = 1;
	share.told_position = share.told_owed = 0;
}

/* As send_drops(). */
static int send_holds(void)
{
	struct ob_wire_msg *out = ob_link_message();
	unsigned n = 0;
	int r;

	if (!share.telling)
		return 0;
	while (n < OB_WIRE_SHARES_MAX && share.told_owed < share.owed_count)
		out->dropped.item[n++] = share.owed[share.told_owed++].drop;
	if (!n) {
		n = ob_engine_share_counts(ob_agent_engine(), &share.told_position, share.drops, OB_WIRE_SHARES_MAX);
		for (unsigned i = 0; i < n; i++)
			out->dropped.item[i] = (struct ob_wire_dropped){ share.drops[i].extent, share.drops[i].index, share.drops[i].count };
	}
	out->dropped.n = n;
	r = ob_link_send(OB_WIRE_HOLDS);
	if (r < 0)
		return r;
	share.telling = n > 0;
	return 1;
}

/* Returns 1 when some were sent or thrown away, 0 when there are none, or -errno. */
static int send_drops(void)
{
	unsigned n;
	int r;

	if (!share.owed_count) {
		n = ob_engine_share_drops(ob_agent_engine(), share.drops, OB_WIRE_SHARES_MAX);
		for (unsigned i = 0; i < n; i++)
			owe(share.drops[i].extent, share.drops[i].index, share.drops[i].count, share.drops[i].was_mapped != 0);
		if (!share.owed_count)
			return n > 0;
	}
	n = OB_MIN(share.owed_count, (unsigned)OB_WIRE_SHARES_MAX);
	r = send_owed(OB_WIRE_WORN, n);
	if (r >= 0)
		r = send_owed(OB_WIRE_DROPPED, n);
	if (r < 0)
		return r;
	share.owed_count -= n;
	memmove(share.owed, share.owed + n, share.owed_count * sizeof(share.owed[0]));
	return 1;
}

/* As send_drops(). */
static int send_offers(void)
{
	struct ob_wire_msg *out = ob_link_message();
	unsigned n = ob_engine_share_offers(ob_agent_engine(), share.offers, OB_WIRE_SHARES_MAX);
	int r;

	share.is_busy |= n == OB_WIRE_SHARES_MAX;
	if (!n || !share.on)
		return n > 0;
	out->offer.n = n;
	for (unsigned i = 0; i < n; i++) {
		const struct ob_share_offer *offer = &share.offers[i];

		out->offer.item[i] = (struct ob_wire_offer){ offer->page, offer->lo, offer->hi, offer->class };
	}
	r = ob_link_send(OB_WIRE_OFFER);
	return r < 0 ? r : 1;
}

int ob_share_send(void)
{
	for (unsigned i = 0; i < MESSAGES_A_TURN; i++) {
		int r = send_holds();

		if (r == 0)
			r = send_drops();
		if (r == 0)
			r = send_offers();
		if (r < 0)
			return r;
		if (r == 0) {
			share.rest_ns = share.is_busy ? 0 : ob_now_ns() + REST_NS;
			share.pending = share.is_busy = 0;
			return 0;
		}
	}
	return 0;
}

/* Marks what is held, and unmaps the foreign extents that nothing is held of. */
static void drop_foreign(unsigned held)
{
	for (unsigned i = 0; i < share.extents; i++)
		share.extent[i].held = 0;
	for (unsigned i = 0; i < held; i++) {
		struct extent *extent = find_extent(share.held[i].extent);

		if (extent)
			extent->held = share.held[i].held;
	}
	for (unsigned i = 0; i < share.extents;) {
		struct extent *extent = &share.extent[i];

		if (!extent->ours && !extent->held && ob_engine_share_drop_extent(ob_agent_engine(), extent->id) != -EBUSY)
			forget_extent(extent);
		else
			i++;
	}
}

int ob_share_announce(void)
{
	return ob_agent.share_mapped ? ob_link_send(OB_WIRE_MAPS) : 0;
}

/* Brings the list up to date. Returns whether it has changed. */
static int list_orphans(void)
{
	unsigned n = 0, changed = 0;

	for (unsigned i = 0; i < share.extents; i++) {
		const struct ob_wire_orphan now = { share.extent[i].id, share.extent[i].held };

		if (share.extent[i].ours || !now.held)
			continue;
		changed |= n >= share.told_count || share.told[n].extent != now.extent || share.told[n].held != now.held;
		share.told[n++] = now;
	}
	changed |= n != share.told_count;
	share.told_count = n;
	return changed != 0;
}

int ob_share_report(void)
{
	struct ob_wire_msg *out = ob_link_message();
	unsigned told = 0;
	int r;

	if (!share.known || (!share.foreign && !share.told_count && !share.must_tell))
		return 0;
	drop_foreign(OB_MIN(ob_engine_share_held(ob_agent_engine(), share.held, EXTENTS_MAX), EXTENTS_MAX));
	if (!list_orphans() && !share.must_tell)
		return 0;
	do {
		unsigned n = OB_MIN(share.told_count - told, ORPHANS_A_MESSAGE);

		out->orphans.n = n;
		memcpy(out->orphans.item, share.told + told, n * sizeof(share.told[0]));
		told += n;
		r = ob_link_send(told < share.told_count ? OB_WIRE_MORE_ORPHANS : OB_WIRE_ORPHANS);
	} while (r == 0 && told < share.told_count);
	share.must_tell = r < 0;
	return r;
}

static void own(struct extent *extent)
{
	share.foreign -= !extent->ours;
	extent->ours = 1;
}

/* By its key it is known who is at the other end. */
static void identify(const uint8_t *key)
{
	if (!share.has_key || memcmp(share.key, key, sizeof(share.key)))
		meet_another();
	for (unsigned i = 0; i < share.extents; i++)
		if (share.extent[i].kept) {
			own(&share.extent[i]);
			share.extent[i].kept = TAKEN_BACK;
		}
	memcpy(share.key, key, sizeof(share.key));
	share.has_key = share.known = 1;
	begin_telling();
}

/* Whether who has it on already has only changed his mind about how much may go into it: what he was offered he knows. */
static int changes_pace(const struct ob_wire_msg *in)
{
	return share.has_key && memcmp(share.key, in->share.key, sizeof(share.key)) == 0 && share.subpages == share.subpages_on;
}

static int switch_on(const struct ob_wire_msg *in, int fd, int was_on)
{
	int goes_on = was_on && changes_pace(in), r;
	void *staging = NULL;

	r = fd < 0 ? -EBADF : ob_memory_map_sealed(fd, STAGING_BYTES, 1, &staging);
	if (r < 0)
		return r;
	share.staging = staging;
	identify(in->share.key);
	if (goes_on && ob_engine_share_pace(ob_agent_engine(), in->share.cpu_permille) == 0)
		return 0;
	share.subpages_on = share.subpages;
	r = ob_engine_share_subpages(ob_agent_engine(), share.subpages);
	if (r < 0)
		return r;
	return ob_engine_share_on(ob_agent_engine(), share.key, in->share.cpu_permille, wake, NULL);
}

/* By another key they have become orphans to the engine. What KEPT has said counts for one SHARE. */
static void take_back_kept(void)
{
	for (unsigned i = 0; i < share.extents; i++) {
		if (share.extent[i].kept == TAKEN_BACK)
			ob_engine_share_orphan(ob_agent_engine(), share.extent[i].id, 0);
		share.extent[i].kept = NOT_KEPT;
	}
}

static int do_share(const struct ob_wire_msg *in, int fd)
{
	int r = 0, was_on = share.on;

	share.on = 0;
	drop_staging();
	if (in->share.flags & OB_WIRE_SHARE_ON) {
		r = switch_on(in, fd, was_on);
		share.on = r == 0;
	} else {
		identify(in->share.key);
	}
	if (!share.on) {
		drop_staging();
		ob_engine_share_off(ob_agent_engine());
		(void)!ob_engine_share_subpages(ob_agent_engine(), 0); /* 0 is always right */
	}
	ob_blocks_switch(share.on);
	share.subpages = 0;
	take_back_kept();
	if (r < 0)
		ob_log_limited(OB_LOG_WARNING, "pages are not shared: overbookd's staging memory or the engine: %s", strerror(-r));
	share.pending = 1;
	return ob_share_report();
}

/* Gives the engine a mapping of the extent; it has one already (-EEXIST) when the same overbookd sends it again. */
static int map_extent(uint64_t id, uint32_t pages, int fd)
{
	void *base = NULL;
	int r = ob_memory_map_sealed(fd, pages * OB_PAGE_SIZE, 0, &base);

	if (r < 0)
		return r;
	r = ob_engine_share_extent(ob_agent_engine(), id, base, pages);
	if (r < 0)
		ob_memory_unreserve(base, pages * OB_PAGE_SIZE);
	return r;
}

/* Lets pages of the extent be mapped, if that may be. It does not matter if it cannot. */
static void give_file(struct extent *extent, int fd)
{
	int copy;

	if (!share.may_map || extent->has_file || share.files == FILES_MAX)
		return;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	extent->has_file = copy >= 0 && ob_engine_share_extent_file(ob_agent_engine(), extent->id, copy) == 0;
	share.files += extent->has_file != 0;
	if (copy >= 0 && !extent->has_file)
		close(copy);
}

static int take_extent(uint64_t id, uint32_t pages, int fd)
{
	struct extent *extent = find_extent(id);
	struct stat st;
	int r;

	if (fd < 0 || !share.known)
		return -EBADF;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!extent && share.extents == EXTENTS_MAX)
		return -ENOSPC;
	if (extent && (extent->device != st.st_dev || extent->inode != st.st_ino))
		return -ESTALE;
	r = map_extent(id, pages, fd);
	if (r == 0 && !extent) {
		extent = &share.extent[share.extents++];
		*extent = (struct extent){ .id = id, .ours = 1, .device = st.st_dev, .inode = st.st_ino };
	} else if (r == -EEXIST && extent) {
		own(extent);
		r = 0;
	}
	if (r == 0)
		give_file(extent, fd);
	return r;
}

static int do_extent(const struct ob_wire_msg *in, int fd)
{
	int r = take_extent(in->extent.id, in->extent.pages, fd);

	if (r < 0)
		ob_log_limited(OB_LOG_WARNING, "overbookd's extent %016llx of %u pages is refused: %s",
			       (unsigned long long)in->extent.id, in->extent.pages, strerror(-r));
	return 0;
}

static int do_drop_extent(const struct ob_wire_msg *in)
{
	struct extent *extent = find_extent(in->drop_extent.id);

	if (extent && extent->ours && ob_engine_share_drop_extent(ob_agent_engine(), extent->id) != -EBUSY)
		forget_extent(extent);
	return 0;
}

static int do_kept(const struct ob_wire_msg *in)
{
	for (uint32_t i = 0; i < in->kept.n; i++) {
		struct extent *extent = find_extent(in->kept.item[i]);

		if (extent)
			extent->kept = KEPT;
	}
	return 0;
}

static int do_drain(const struct ob_wire_msg *in)
{
	if (is_ours(in->drop_extent.id))
		ob_engine_share_orphan(ob_agent_engine(), in->drop_extent.id, 1);
	return 0;
}

static int do_fetch(const struct ob_wire_msg *in)
{
	struct ob_wire_msg *out = ob_link_message();

	out->staged.n = in->fetch.n;
	for (uint32_t i = 0; i < in->fetch.n; i++) {
		const struct ob_wire_fetch *item = &in->fetch.item[i];
		int r = -ENXIO;

		if (share.staging)
			r = ob_engine_share_fetch(ob_agent_engine(), item->page, item->lo, item->hi,
						  share.staging + item->staging * OB_PAGE_SIZE);
		out->staged.item[i] = (struct ob_wire_staged){ item->page, r, item->staging };
	}
	return ob_link_send(OB_WIRE_STAGED);
}

static int may_adopt(uint64_t extent)
{
	return share.on && !share.telling && is_ours(extent);
}

static int do_adopt(const struct ob_wire_msg *in)
{
	struct ob_wire_msg *out = ob_link_message();
	unsigned n = 0;
	int r;

	for (uint32_t i = 0; i < in->adopt.n; i++) {
		const struct ob_wire_adopt *item = &in->adopt.item[i];

		if (may_adopt(item->extent))
			share.adoptions[n++] = (struct ob_share_adoption){ .page = item->page, .extent = item->extent, .index = item->index };
	}
	ob_engine_share_adopt_all(ob_agent_engine(), share.adoptions, n);
	out->held.n = in->adopt.n;
	for (uint32_t i = 0, done = 0; i < in->adopt.n; i++) {
		const struct ob_wire_adopt *item = &in->adopt.item[i];

		r = may_adopt(item->extent) ? share.adoptions[done++].result : share.telling ? -EAGAIN : -ENOENT;
		out->held.item[i] = (struct ob_wire_held){ item->page, item->extent, item->index, r };
	}
	r = ob_link_send(OB_WIRE_HELD);
	/* overbookd counts as held what it has not been told of: the same overbookd is told later. */
	for (uint32_t i = 0; r < 0 && i < out->held.n; i++)
		if (out->held.item[i].status < 0)
			owe(out->held.item[i].extent, out->held.item[i].index, 1, 0);
	return r;
}

int ob_share_obey(const struct ob_wire_msg *in, int fd)
{
	switch (in->type) {
	case OB_WIRE_SHARE:
		return do_share(in, fd);
	case OB_WIRE_EXTENT:
		return do_extent(in, fd);
	case OB_WIRE_DROP_EXTENT:
		return do_drop_extent(in);
	case OB_WIRE_MAY_MAP:
		share.may_map = ob_agent.share_mapped;
		return 0;
	case OB_WIRE_SUBPAGES:
		share.subpages = in->subpages.n;
		return 0;
	case OB_WIRE_KEPT:
		return do_kept(in);
	case OB_WIRE_DRAIN:
		return do_drain(in);
	case OB_WIRE_FETCH:
		return do_fetch(in);
	case OB_WIRE_ADOPT:
		return do_adopt(in);
	}
	return 0;
}
