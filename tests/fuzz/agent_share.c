/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent_share.h"

#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent_engine.h"
#include "base/fd.h"
#include "engine/engine.h"
#include "fuzz.h"

#define SENT_MAX 64u
#define MANY     64u /* offers: OFFERS_MANY of agent/share.c */
#define STAGING  (OB_WIRE_STAGING_MAX * OB_PAGE_SIZE)

/* An extent that was sent, and what its slots count as held. */
struct sent {
	uint64_t id;
	int kept;    /* KEPT has named it: what is held of it is known when HOLDS has told */
	int drained;
	int early;   /* sent while sharing is off, which no overbookd does: the engine may hear the key later, and then it is an orphan */
	int unclear; /* DROP_EXTENT came too early, by which overbookd has only itself to blame */
	unsigned char worn[PLAYED_SLOTS];
	uint32_t holds[PLAYED_SLOTS], claims[PLAYED_SLOTS]; /* claims: what HOLDS has named so far */
};

static struct {
	uint8_t key[OB_WIRE_KEY_SIZE];
	int has_key, known, on, may_map;
	int met, claiming; /* SHARE on this connection; and the last HOLDS has not come */
	int deaf;          /* what comes on this connection is lost */
	unsigned n;
	struct sent sent[SENT_MAX];
	unsigned answers; /* STAGED and HELD */
	struct ob_wire_msg order, orphans, more; /* more: a list that has no end yet */
	unsigned char *staging;
	unsigned kept;            /* named by KEPT, for the next SHARE */
	uint64_t kept_id[PLAYED_EXTENTS];
} peer;

/* The memory of extents, which outlives those who speak. */
static struct {
	uint64_t id;
	uint32_t pages;
	int fd;
} memories[SENT_MAX];
static unsigned memory_count;

static struct sent *find_sent(uint64_t id)
{
	for (unsigned i = 0; i < peer.n; i++)
		if (peer.sent[i].id == id)
			return &peer.sent[i];
	return NULL;
}

void peer_met(int same)
{
	peer.known = !same;
	peer.on = peer.may_map = peer.met = peer.claiming = peer.deaf = 0;
	peer.kept = 0;
	for (unsigned i = 0; i < peer.n; i++)
		memset(peer.sent[i].claims, 0, sizeof(peer.sent[i].claims));
	peer.more.orphans.n = 0;
	/* The same one has not forgotten. */
	if (!same)
		peer.orphans.orphans.n = 0;
	if (!same)
		peer.n = peer.has_key = 0;
}

void peer_reset(void)
{
	if (peer.staging)
		munmap(peer.staging, STAGING);
	memset(&peer, 0, sizeof(peer));
	while (memory_count)
		ob_fd_close(&memories[--memory_count].fd);
}

static void heard_staged(const struct ob_wire_msg *msg)
{
	FUZZ_CHECK(peer.order.type == OB_WIRE_FETCH && msg->staged.n == peer.order.fetch.n, "STAGED of %u pages", msg->staged.n);
	for (uint32_t i = 0; i < msg->staged.n; i++) {
		const struct ob_wire_staged *item = &msg->staged.item[i];
		const struct ob_wire_fetch *asked = &peer.order.fetch.item[i];

		FUZZ_CHECK(item->page == asked->page && item->staging == asked->staging, "STAGED of another page");
		if (item->status < 0)
			continue;
		/* Unless a later one of the list has gone to the same place. */
		FUZZ_CHECK(peer.staging && asked->lo == asked->page, "a page is staged that cannot be");
		if (i + OB_WIRE_STAGING_MAX >= msg->staged.n)
			FUZZ_CHECK(peer.staging[item->staging * OB_PAGE_SIZE] == (asked->page & 0xff) &&
				   peer.staging[(item->staging + 1) * OB_PAGE_SIZE - 1] == (asked->page & 0xff), "other bytes are staged");
	}
}

static void heard_held(const struct ob_wire_msg *msg)
{
	FUZZ_CHECK(peer.order.type == OB_WIRE_ADOPT && msg->held.n == peer.order.adopt.n, "HELD of %u pages", msg->held.n);
	for (uint32_t i = 0; i < msg->held.n; i++) {
		const struct ob_wire_held *item = &msg->held.item[i];
		const struct ob_wire_adopt *asked = &peer.order.adopt.item[i];
		struct sent *sent = find_sent(item->extent);

		FUZZ_CHECK(item->page == asked->page && item->extent == asked->extent && item->index == asked->index, "HELD of another slot");
		FUZZ_CHECK(item->status < 0 || (sent && peer.on), "a page is a slot of an extent that was not sent");
		if (item->status < 0 && sent)
			sent->holds[item->index]--;
	}
}

static void heard_worn(const struct ob_wire_msg *msg)
{
	for (uint32_t i = 0; i < msg->dropped.n; i++) {
		struct sent *sent = find_sent(msg->dropped.item[i].extent);

		FUZZ_CHECK(sent, "extent %llu is worn, which this overbookd has not sent", (unsigned long long)msg->dropped.item[i].extent);
		sent->worn[msg->dropped.item[i].index] = 1;
	}
}

static void heard_dropped(const struct ob_wire_msg *msg)
{
	for (uint32_t i = 0; i < msg->dropped.n; i++) {
		const struct ob_wire_dropped *item = &msg->dropped.item[i];
		struct sent *sent = find_sent(item->extent);
		const struct played_extent *extent;

		FUZZ_CHECK(sent, "a drop of extent %llu, which this overbookd has not sent", (unsigned long long)item->extent);
		extent = played_find(item->extent);
		FUZZ_CHECK(!extent || !extent->told_mapped[item->index] || sent->worn[item->index], "a drop of what was mapped, not told");
		if (sent->unclear)
			continue;
		FUZZ_CHECK(sent->holds[item->index] >= item->count, "%u drops of a slot that is held %u times", item->count,
			   sent->holds[item->index]);
		sent->holds[item->index] -= item->count;
	}
}

/* The last one: what is held beyond that was lost with a connection. */
static void settle(void)
{
	peer.claiming = 0;
	for (unsigned i = 0; i < peer.n; i++) {
		memcpy(peer.sent[i].holds, peer.sent[i].claims, sizeof(peer.sent[i].holds));
		peer.sent[i].kept = 0;
	}
}

static void heard_holds(const struct ob_wire_msg *msg)
{
	FUZZ_CHECK(peer.claiming, "HOLDS that nobody waits for");
	for (uint32_t i = 0; i < msg->dropped.n; i++) {
		const struct ob_wire_dropped *item = &msg->dropped.item[i];
		struct sent *sent = find_sent(item->extent);

		if (!sent)
			continue;
		FUZZ_CHECK(sent->unclear || sent->kept || sent->holds[item->index] - sent->claims[item->index] >= item->count,
			   "HOLDS of a slot that is held %u times: %u", sent->holds[item->index], item->count);
		sent->claims[item->index] += item->count;
	}
	if (!msg->dropped.n)
		settle();
}

static void heard_more_orphans(const struct ob_wire_msg *msg)
{
	FUZZ_CHECK(peer.more.orphans.n + msg->orphans.n <= PLAYED_EXTENTS, "%u orphans", peer.more.orphans.n + msg->orphans.n);
	for (uint32_t i = 0; i < msg->orphans.n; i++)
		peer.more.orphans.item[peer.more.orphans.n++] = msg->orphans.item[i];
}

static void heard_orphans(const struct ob_wire_msg *msg)
{
	heard_more_orphans(msg);
	peer.orphans = peer.more;
	peer.more.orphans.n = 0;
}

void peer_heard(const struct ob_wire_msg *msg)
{
	if (peer.deaf)
		return;
	if (msg->type == OB_WIRE_STAGED)
		heard_staged(msg);
	else if (msg->type == OB_WIRE_HELD)
		heard_held(msg);
	else if (msg->type == OB_WIRE_DROPPED)
		heard_dropped(msg);
	else if (msg->type == OB_WIRE_WORN)
		heard_worn(msg);
	else if (msg->type == OB_WIRE_HOLDS)
		heard_holds(msg);
	else if (msg->type == OB_WIRE_ORPHANS)
		heard_orphans(msg);
	else if (msg->type == OB_WIRE_MORE_ORPHANS)
		heard_more_orphans(msg);
	FUZZ_CHECK(!peer.claiming || (msg->type != OB_WIRE_OFFER && msg->type != OB_WIRE_DROPPED), "a message of type %u before HOLDS",
		   msg->type);
	FUZZ_CHECK(msg->type != OB_WIRE_OFFER || peer.on, "an offer while sharing is off");
	peer.answers += msg->type == OB_WIRE_STAGED || msg->type == OB_WIRE_HELD;
}

static uint32_t told_orphan(uint64_t id)
{
	for (uint32_t i = 0; i < peer.orphans.orphans.n; i++)
		if (peer.orphans.orphans.item[i].extent == id)
			return peer.orphans.orphans.item[i].held;
	return 0;
}

void peer_check(void)
{
	FUZZ_CHECK(peer.deaf || !peer.claiming, "HOLDS has no end");
	if (peer.deaf)
		return;
	for (unsigned i = 0; i < PLAYED_EXTENTS && peer.known; i++) {
		const struct played_extent *extent = &played.extent[i];
		const struct sent *sent = find_sent(extent->id);

		if (!extent->id)
			continue;
		FUZZ_CHECK(told_orphan(extent->id) == (sent ? 0 : extent->held), "ORPHANS: %u, not %u", told_orphan(extent->id), extent->held);
		FUZZ_CHECK(!sent || sent->unclear || sent->early || extent->is_orphan == sent->drained, "an extent that is%s to go", sent->drained ? "" : " not");
		FUZZ_CHECK(sent || extent->held, "an extent of an earlier overbookd is kept for nothing");
		for (uint32_t slot = 0; sent && !sent->unclear && slot < extent->pages; slot++)
			FUZZ_CHECK(sent->holds[slot] == extent->holds[slot], "slot %u is held %u times, overbookd believes %u", slot,
				   extent->holds[slot], sent->holds[slot]);
	}
}

/* A descriptor as the agent is not to take it, or as it is (0, 4). Returns how many there are. */
static int make_file(unsigned kind, size_t bytes, int writable, int *fds)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | (writable ? 0 : F_SEAL_FUTURE_WRITE);

	if (kind == 3)
		return 0;
	if (kind == 5)
		return pipe2(fds, O_CLOEXEC) ? 0 : 2;
	bytes = kind == 2 ? bytes - OB_PAGE_SIZE : kind == 6 ? bytes + OB_PAGE_SIZE : bytes;
	fds[0] = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	FUZZ_CHECK(fds[0] >= 0 && !ftruncate(fds[0], (off_t)bytes), "%s", strerror(errno));
	if (kind != 1)
		FUZZ_CHECK(!fcntl(fds[0], F_ADD_SEALS, seals), "%s", strerror(errno));
	if (kind != 4)
		return 1;
	fds[1] = dup(fds[0]);
	return 2;
}

static int tell_with_file(struct ob_wire_msg *msg, int *fds, int n)
{
	int r = agent_tell(msg, fds, n);

	for (int i = 0; i < n; i++)
		ob_fd_close(&fds[i]);
	return r;
}

/* The first SHARE of a connection is answered by HOLDS. */
static void meet_once(void)
{
	peer.claiming |= !peer.met;
	peer.met = 1;
}

/* It was sent, or said to be here. NULL when it is known already, or there are too many. */
static struct sent *add_sent(uint64_t id)
{
	if (find_sent(id) || peer.n == SENT_MAX)
		return NULL;
	memset(&peer.sent[peer.n], 0, sizeof(peer.sent[0]));
	peer.sent[peer.n].id = id;
	return &peer.sent[peer.n++];
}

/* What KEPT has named. Later than with the first SHARE nobody tells what is held of it. */
static void have_kept(void)
{
	for (unsigned i = 0; i < peer.kept; i++) {
		struct sent *sent = played_find(peer.kept_id[i]) ? add_sent(peer.kept_id[i]) : NULL;

		if (sent) {
			sent->kept = !peer.met;
			sent->unclear = peer.met;
		} else if (find_sent(peer.kept_id[i])) {
			find_sent(peer.kept_id[i])->drained = 0;
		}
	}
}

/* The agent will know by this key who it is that speaks. */
static void be(const uint8_t *key)
{
	if (!peer.has_key || memcmp(peer.key, key, sizeof(peer.key)))
		peer.n = 0;
	have_kept();
	memcpy(peer.key, key, sizeof(peer.key));
	peer.has_key = peer.known = 1;
	meet_once();
}

/* Sharing is off, says the overbookd that there was, or another one. */
static void step_off(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_SHARE };

	if (n > 1)
		memset(msg.share.key, (int)(fuzz_number(words, n, 1) % 256), sizeof(msg.share.key));
	else
		memcpy(msg.share.key, peer.key, sizeof(msg.share.key));
	be(msg.share.key);
	peer.kept = 0;
	peer.on = 0;
	(void)agent_tell(&msg, NULL, 0);
	FUZZ_CHECK(!played.on, "sharing is on");
}

static void step_share(char *const *words, int n)
{
	unsigned kind = (unsigned)fuzz_number(words, n, 3) % 7, subpages = 1u << fuzz_number(words, n, 4) % 5 >> 1;
	struct ob_wire_msg msg = { .type = OB_WIRE_SUBPAGES, .subpages = { subpages } };
	int fds[2] = { -1, -1 }, count, good = kind == 0 || kind == 4, goes_on;
	unsigned begun = played.begun;

	if (subpages && agent_tell(&msg, NULL, 0) < 0)
		return;
	msg = (struct ob_wire_msg){ .type = OB_WIRE_SHARE };
	count = make_file(kind, STAGING, 1, fds);
	msg.share.flags = OB_WIRE_SHARE_ON;
	msg.share.cpu_permille = (uint32_t)(fuzz_number(words, n, 2) % 1001);
	memset(msg.share.key, (int)(fuzz_number(words, n, 1) % 256), sizeof(msg.share.key));
	goes_on = peer.on && played.subpages == subpages && memcmp(played.key, msg.share.key, sizeof(played.key)) == 0;
	peer.on = 0;
	if (peer.staging)
		munmap(peer.staging, STAGING);
	peer.staging = NULL;
	if (good) {
		peer.staging = mmap(NULL, STAGING, PROT_READ, MAP_SHARED, fds[0], 0);
		FUZZ_CHECK(peer.staging != MAP_FAILED, "%s", strerror(errno));
		be(msg.share.key);
		peer.on = msg.share.cpu_permille != 999;
	}
	peer.kept = 0;
	if (tell_with_file(&msg, fds, count) < 0)
		return;
	FUZZ_CHECK(played.on == peer.on, "the engine's sharing is %d, not %d", played.on, peer.on);
	FUZZ_CHECK(played.subpages == (peer.on ? subpages : 0), "%u sub-pages", played.subpages);
	FUZZ_CHECK(!peer.on || (played.cpu_permille == msg.share.cpu_permille && !memcmp(played.key, peer.key, sizeof(peer.key))),
		   "another key or part of a processor");
	FUZZ_CHECK(!peer.on || played.begun == begun + !goes_on, "everything is offered anew %u times", played.begun - begun);
}

/* Many are told of at once, however lately the last ones were; few may wait for more. */
static void step_offer(unsigned n)
{
	struct pollfd urgent = { .fd = ob_share_urgent_event(), .events = POLLIN };

	played_offer(n);
	FUZZ_CHECK(!played.begun || (poll(&urgent, 1, 0) == 1) == (played.offers >= MANY), "%u offers wait", played.offers);
}

static void step_kept(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_KEPT, .kept = { .n = 1 } };

	msg.kept.item[0] = fuzz_number(words, n, 1);
	if (!msg.kept.item[0] || peer.kept == PLAYED_EXTENTS)
		return;
	if (played_find(msg.kept.item[0]))
		peer.kept_id[peer.kept++] = msg.kept.item[0];
	(void)agent_tell(&msg, NULL, 0);
}

static void step_drain(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_DRAIN };

	msg.drop_extent.id = fuzz_number(words, n, 1);
	if (!msg.drop_extent.id)
		return;
	if (find_sent(msg.drop_extent.id))
		find_sent(msg.drop_extent.id)->drained = 1;
	(void)agent_tell(&msg, NULL, 0);
}

static int find_memory(uint64_t id)
{
	for (unsigned i = 0; i < memory_count; i++)
		if (memories[i].id == id)
			return (int)i;
	return -1;
}

/* The memory of an extent that the agent has, whoever sends it, or another one in its place; *ret_same: it is as it must be. */
static int send_again(unsigned kind, uint64_t id, uint32_t pages, int *fds, int *ret_same)
{
	int at = find_memory(id);

	*ret_same = at >= 0 && kind == 0 && memories[at].pages == pages;
	if (at < 0 || kind != 0)
		return make_file(kind, pages * OB_PAGE_SIZE, 0, fds);
	fds[0] = dup(memories[at].fd);
	return 1;
}

/* That of one that it does not have. */
static int send_new(unsigned kind, uint64_t id, uint32_t pages, int *fds)
{
	int count = make_file(kind, pages * OB_PAGE_SIZE, 0, fds), at = find_memory(id);

	if (count && at < 0 && memory_count < SENT_MAX) {
		at = (int)memory_count++;
		memories[at].fd = -1;
	}
	if (count && at >= 0) {
		ob_fd_close(&memories[at].fd);
		memories[at].id = id;
		memories[at].pages = pages;
		memories[at].fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
	}
	return count;
}

static void step_extent(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_EXTENT };
	unsigned kind = (unsigned)fuzz_number(words, n, 3) % 7;
	int fds[2] = { -1, -1 }, count, had, had_file, free = 0, same = 0, good;

	msg.extent.id = fuzz_number(words, n, 1);
	msg.extent.pages = (uint32_t)fuzz_number(words, n, 2);
	had = played_find(msg.extent.id) != NULL;
	had_file = had && played_find(msg.extent.id)->file;
	if (!msg.extent.id || !msg.extent.pages || msg.extent.pages > OB_WIRE_EXTENT_MAX || (find_sent(msg.extent.id) && !had) ||
	    peer.n == SENT_MAX)
		return;
	for (unsigned i = 0; i < PLAYED_EXTENTS; i++)
		free += !played.extent[i].id;
	count = had ? send_again(kind, msg.extent.id, msg.extent.pages, fds, &same) : send_new(kind, msg.extent.id, msg.extent.pages, fds);
	good = (kind == 0 || kind == 4) && (had ? same : free) && peer.known;
	/* What it sends that another one has sent, it cannot know the holds of. */
	if (good && !find_sent(msg.extent.id))
		add_sent(msg.extent.id)->unclear = had;
	if (good) {
		find_sent(msg.extent.id)->drained = 0;
		find_sent(msg.extent.id)->early = !peer.on;
	}
	(void)tell_with_file(&msg, fds, count);
	FUZZ_CHECK(had || good == !!played_find(msg.extent.id), "the extent is %s", good ? "refused" : "taken");
	FUZZ_CHECK(!played_find(msg.extent.id) || had_file || (good && peer.may_map) == !!played_find(msg.extent.id)->file, "a file");
}

static void step_may_map(void)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_MAY_MAP };

	ob_agent.share_mapped = 1;
	peer.may_map = agent_tell(&msg, NULL, 0) == 0;
}

static void step_drop_extent(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_DROP_EXTENT };
	const struct played_extent *extent;
	struct sent *sent;
	int held;

	msg.drop_extent.id = fuzz_number(words, n, 1);
	extent = played_find(msg.drop_extent.id);
	sent = find_sent(msg.drop_extent.id);
	held = extent && (extent->held || !sent);
	if (!msg.drop_extent.id)
		return;
	if (extent && !held)
		sent->unclear = 1;
	(void)agent_tell(&msg, NULL, 0);
	FUZZ_CHECK(!held || played_find(msg.drop_extent.id), "an extent that is held is unmapped");
	FUZZ_CHECK(held || !played_find(msg.drop_extent.id), "an extent that is not held is kept");
}

static void expect_answer(const struct ob_wire_msg *order)
{
	unsigned answers = peer.answers;
	struct ob_wire_msg copy = *order;

	peer.order = *order;
	if (agent_tell(&copy, NULL, 0) < 0)
		return;
	FUZZ_CHECK(peer.deaf || peer.answers == answers + 1, "%u answers", peer.answers - answers);
}

static void step_fetch(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_FETCH };
	uint64_t page = fuzz_number(words, n, 1), staging = fuzz_number(words, n, 2) % OB_WIRE_STAGING_MAX;

	msg.fetch.n = (uint32_t)OB_MIN(fuzz_number(words, n, 3), 512ull);
	for (uint32_t i = 0; i < msg.fetch.n; i++)
		msg.fetch.item[i] = (struct ob_wire_fetch){ page + i, i % 3 == 2 ? 0 : page + i, 0, (uint32_t)((staging + i) % OB_WIRE_STAGING_MAX) };
	expect_answer(&msg);
}

static void step_adopt(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_ADOPT };
	uint64_t page = fuzz_number(words, n, 1), id = fuzz_number(words, n, 2), index = fuzz_number(words, n, 3) % PLAYED_SLOTS;
	struct sent *sent = find_sent(id);

	msg.adopt.n = (uint32_t)OB_MIN(fuzz_number(words, n, 4), 512ull);
	if (!id)
		return;
	for (uint32_t i = 0; i < msg.adopt.n; i++) {
		msg.adopt.item[i] = (struct ob_wire_adopt){ page + i, id, (uint32_t)((index + i) % PLAYED_SLOTS) };
		if (sent)
			sent->holds[msg.adopt.item[i].index]++;
	}
	expect_answer(&msg);
}

int peer_step(char letter, char *const *words, int n)
{
	switch (letter) {
	case 's':
		step_share(words, n);
		break;
	case 'z':
		step_off(words, n);
		break;
	case 'e':
		step_extent(words, n);
		break;
	case 'd':
		step_drop_extent(words, n);
		break;
	case 'y':
		step_kept(words, n);
		break;
	case 'r':
		step_drain(words, n);
		break;
	case 'g':
		step_fetch(words, n);
		break;
	case 'a':
		step_adopt(words, n);
		break;
	case 'm':
		step_may_map();
		break;
	case 'o':
		step_offer((unsigned)OB_MIN(fuzz_number(words, n, 1), 5000ull));
		break;
	case 'n':
		peer.deaf = 1;
		break;
	case 't':
		played_touch(fuzz_number(words, n, 1), (uint32_t)fuzz_number(words, n, 2), (uint32_t)fuzz_number(words, n, 3));
		break;
	default:
		return 0;
	}
	return 1;
}
