/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of sharing outlives overbookd: the extents of the stores, in systemd's descriptor store.
 *
 * An extent is memory that has no name in any file system. When overbookd dies it lives on in the agents that have mapped it, and nobody
 * else can find it: a new overbookd would copy every page that is still shared into a store of its own. So each extent's descriptor
 * is given to systemd before a page is in it (FDSTORE=1, sd_notify(3)), as "extent-ID", and is taken out again when the extent
 * goes. The next overbookd finds them among the descriptors that it is started with. Whose they are stands in the memory's own name,
 * which nobody can change: "overbook-store:ID:domain:NAME", or "overbook-store:ID:own:PID:NAME" for the one machine that is a
 * domain of its own (another machine of that name is not it). FDNAMEs are short because all of them together are one string of
 * the environment, $LISTEN_FDNAMES, of which the kernel takes 128 KiB: with 4096 extents these make 96 KiB.
 *
 * Taken up is what is as overbookd makes it: of an extent's size, sealed, named twice alike, and not open to anybody's writing: the seal
 * against that (F_SEAL_WRITE) is added now, which the kernel refuses while anybody can still write, and what it grants holds for ever.
 * Everything else is let go of with one line in the log. So the worst that a stale or planted descriptor can bring is pages that nobody has:
 * bytes are compared by each agent before it gives its own up, as ever, and they cannot change afterwards. An agent that has the extent
 * goes on reading its own mapping, and takes no other memory under that name.
 *
 * Then the agents come back.
 *
 *     KEPT id ...    which extents this overbookd has: they are ours again, not a former overbookd's. Before SHARE, by which an agent
 *     SHARE key      learns that this is another overbookd
 *     HOLDS ...      what the agent holds, as on each connection. Of restored extents that is believed: the counts died with overbookd.
 *                    A slot that is held is hashed, with the new key, and found from then on by whoever offers the same
 *     EXTENT         to those who hold something of it: an agent that does not know KEPT believes that the extent is a former
 *                    overbookd's, until it is sent it. What it drops before that is not told; it counts as held until it connects again
 *
 * So no page is copied, and none is fetched. What is believed costs nobody his memory: a slot of a restored extent is never filled again, so a
 * hold too few frees nothing that anybody reads, and one too many keeps memory of the domain's own, as orphans do. Drops beyond
 * what is counted are no breach of the rules there. From KEPT until HOLDS has ended no restored extent goes: an agent that was told that
 * they are here must not find them gone.
 *
 * Slots that are let go of are not filled again, and a machine that writes much would leave a restored extent with few pages of use.
 * Once less than half of what an extent takes is held, it is drained: its slots are found no more, and agents are told (DRAIN) to
 * offer its pages as they do those of a former overbookd's; the bytes are fetched, and move to an extent that can be filled.
 * Agents that do not know DRAIN keep it. A restored store takes at most twice what it is good for, or what it took before.
 *
 * What nobody uses is shed. A shared page that is cold costs its machines nothing, and one page together; evicted it costs nothing at all, but each of
 * them has to write it. So that is for the long run: when for SHED_AFTER_NS machines have been entitled to less than they use by more than all stores take.
 * Extents are drained then as well, the oldest first, one at a time, however much of them is held; but slots are filled for pages
 * alone that are mapped by who holds them (share_match.c). Agents evict what they have offered in vain (engine/orphans.c). Where more than half of an
 * extent's slots got another one the store is in use, and the next waits for SHED_PAUSE_MIN_NS and more.
 *
 * Extents of machines that have ended meanwhile are held by nobody: KEEP_NS after the start everything goes that nobody has claimed.
 * An agent that comes later still finds its extents not named in KEPT, and tells them in ORPHANS.
 *
 * Without systemd, or where the unit has no FileDescriptorStoreMax=, nothing of this happens, and what is shared is copied anew.
 * The same holds for each extent that systemd does not take: it has no more room, or was told that it may not keep any. When the
 * service is stopped, not restarted, systemd lets go of all: then only machines hold them, and they end with those.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/arbiter.h"
#include "daemon/link.h"
#include "daemon/notify.h"
#include "daemon/share_internal.h"
#include "share/page_hash.h"

#define KEEP_NS        (30 * OB_NS_PER_SEC)
#define SHED_AFTER_NS     (10 * OB_NS_PER_SEC)
#define SHED_PAUSE_MIN_NS (60 * OB_NS_PER_SEC)
#define SHED_PAUSE_MAX_NS (3600 * OB_NS_PER_SEC)
#define NAME           "extent-"
#define NAME_SIZE      (sizeof(NAME) + 16)
#define DOMAIN         "domain:"
#define OWN            "own:"
#define FILE_START     "/memfd:" OB_STORE_FILE
#define FILE_END       " (deleted)"
#define FILE_NAME_SIZE 256 /* longer than any of ours */

_Static_assert(NAME_SIZE * OB_STORE_EXTENTS_MAX < 120 << 10, "the names fit into the environment");
_Static_assert(sizeof(OWN) + 11 + OB_NAME_MAX <= OB_STORE_LABEL_MAX, "a label has room for every name");

static void name_of(uint64_t id, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, NAME "%016llx", (unsigned long long)id);
}

void ob_keep_label(const struct ob_domain *domain, char label[OB_STORE_LABEL_MAX + 1])
{
	if (domain->solo)
		snprintf(label, OB_STORE_LABEL_MAX + 1, OWN "%u:%s", domain->pid, domain->name);
	else
		snprintf(label, OB_STORE_LABEL_MAX + 1, DOMAIN "%s", domain->name);
}

void ob_keep_opened(void *context, uint64_t id, int fd)
{
	char name[NAME_SIZE];
	int r;

	name_of(id, name);
	r = ob_notify_keep(name, fd);
	if (r < 0)
		ob_log_limited(OB_LOG_WARNING, "systemd cannot be given \"%s\": the next overbookd will copy its pages: %s", name, strerror(-r));
}

void ob_keep_gone(void *context, uint64_t id)
{
	const struct ob_domain *domain = context;
	char name[NAME_SIZE];

	if (domain->share->ends)
		return;
	name_of(id, name);
	ob_notify_forget(name);
}

void ob_share_outlive(struct ob_daemon *daemon)
{
	if (daemon->share)
		daemon->share->ends = true;
}

/* --- what systemd has kept --- */

/* 16 digits, as they are written here. */
static bool read_id(const char *text, uint64_t *ret_id)
{
	if (strspn(text, "0123456789abcdef") < 16)
		return false;
	*ret_id = 0;
	for (unsigned i = 0; i < 16; i++)
		*ret_id = *ret_id << 4 | (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
	return *ret_id != 0;
}

/* The part of a memory file's name behind its beginning: "ID:LABEL". */
static int read_file_name(int fd, char name[FILE_NAME_SIZE], struct ob_error *err)
{
	char path[32], text[FILE_NAME_SIZE];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, text, sizeof(text) - 1);
	if (n < 0)
		return ob_error_sys(err, errno, "its name cannot be read");
	text[n] = '\0';
	if ((size_t)n < strlen(FILE_START FILE_END) || memcmp(text, FILE_START, strlen(FILE_START)) ||
	    strcmp(text + n - strlen(FILE_END), FILE_END))
		return ob_error_set(err, EINVAL, "\"%s\" is no extent", text);
	text[(size_t)n - strlen(FILE_END)] = '\0';
	memcpy(name, text + strlen(FILE_START), (size_t)n + 1 - strlen(FILE_START FILE_END));
	return 0;
}

/* The domain that a label names, made if need be. */
static struct ob_domain *domain_of(struct ob_share *share, const char *label, struct ob_error *err)
{
	bool solo = !strncmp(label, OWN, strlen(OWN));
	const char *colon = strchr(label + (solo ? strlen(OWN) : 0), ':');
	unsigned long pid = solo ? strtoul(label + strlen(OWN), NULL, 10) : 0;
	struct ob_domain *domain;

	if (!colon || !ob_name_valid(colon + 1) ||
	    (solo ? !pid || pid > INT32_MAX : strncmp(label, DOMAIN, strlen(DOMAIN)) != 0)) {
		ob_error_set(err, EINVAL, "\"%s\" is no domain", label);
		return NULL;
	}
	domain = ob_domain_get(share, solo, colon + 1, (uint32_t)pid);
	if (!domain)
		ob_error_sys(err, ENOMEM, "its domain cannot be set up");
	return domain;
}

static int restore(struct ob_share *share, int fd, const char *name, struct ob_error *err)
{
	char file[FILE_NAME_SIZE];
	struct ob_domain *domain;
	uint64_t id, of_file;
	int r;

	if (!read_id(name + strlen(NAME), &id) || strlen(name) != NAME_SIZE - 1)
		return ob_error_set(err, EINVAL, "that is no extent's name");
	r = read_file_name(fd, file, err);
	if (r < 0)
		return r;
	if (!read_id(file, &of_file) || of_file != id || file[16] != ':')
		return ob_error_set(err, EINVAL, "its memory is that of \"%s\"", file);
	if (!ob_share_may_open(share))
		return ob_error_set(err, ENOSPC, "there are too many extents");
	domain = domain_of(share, file + 17, err);
	if (!domain)
		return -err->code;
	r = ob_store_restore(domain->store, id, fd, err);
	if (r < 0)
		ob_domain_put(domain);
	return r;
}

bool ob_share_is_kept(const char *name)
{
	return !strncmp(name, NAME, strlen(NAME));
}

bool ob_share_take(struct ob_daemon *daemon, int fd, const char *name)
{
	struct ob_share *share = daemon->share;
	struct ob_error err = { 0 };

	if (restore(share, fd, name, &err) < 0) {
		ob_error_wrap(&err, "\"%s\", which systemd has kept, is not taken up", name);
		ob_log(OB_LOG_WARNING, "%s", err.text);
		/* The name of one that is there twice goes with the other. */
		if (err.code != EEXIST)
			ob_notify_forget(name);
		ob_fd_close(&fd);
		return false;
	}
	share->await_until_ns = ob_now_ns() + KEEP_NS;
	return true;
}

/* --- agents that come back --- */

int ob_keep_send(struct ob_sharer *sharer)
{
	struct ob_store *store = sharer->domain->store;
	static struct ob_wire_msg msg;
	uint32_t place = 0;
	uint64_t id;
	bool more = ob_store_next_restored(store, &place, &id);
	int r = 0;

	if (sharer->kept_told || !more)
		return 0;
	/* Before it is told: what it is told of must not go. */
	ob_store_name_restored(store, sharer->number);
	while (more && r >= 0) {
		msg = (struct ob_wire_msg){ .type = OB_WIRE_KEPT };
		for (; more && msg.kept.n < OB_WIRE_SHARES_MAX; more = ob_store_next_restored(store, &place, &id))
			msg.kept.item[msg.kept.n++] = id;
		r = ob_link_send(sharer->machine, &msg, -1);
	}
	sharer->kept_told = r >= 0;
	return r;
}

/* ADOPTs of a slot that have no answer yet are held too, and no part of what HOLDS tells. */
static uint32_t count_pending(const struct ob_sharer *sharer, uint32_t slot)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < sharer->pending_count; i++)
		n += sharer->pending[(sharer->pending_first + i) % OB_SHARE_PENDING_MAX].slot == slot;
	return n;
}

/* A slot is in use again. */
static void take_up(struct ob_domain *domain, uint32_t slot)
{
	struct ob_index_entry entry = { .where = slot, .owner = OB_INDEX_STORE };

	ob_page_hash(domain->share->key, ob_store_bytes(domain->store, slot), &entry.lo, &entry.hi);
	ob_store_set_hash(domain->store, slot, entry.lo, entry.hi);
	/* Without memory for it the slot is not found. */
	if (!ob_store_is_drained(domain->store, slot))
		(void)!ob_index_add(domain->index, &entry);
}

int ob_keep_claim(struct ob_sharer *sharer, uint32_t slot, uint32_t count, struct ob_error *err)
{
	struct ob_store *store = sharer->domain->store;
	uint64_t claimed = (uint64_t)ob_holder_count(&sharer->claim, slot) + count + count_pending(sharer, slot);
	uint32_t counted = ob_holder_count(&sharer->holder, slot);
	bool was_free = ob_store_is_free(store, slot);

	ob_store_set_claimed(store, slot, sharer->number);
	if (claimed > UINT32_MAX)
		return ob_error_set(err, EPROTO, "HOLDS of a slot more often than can be");
	if (claimed <= counted)
		return 0;
	if (ob_store_hold(store, &sharer->holder, slot, (uint32_t)claimed - counted) < 0)
		return ob_error_sys(err, ENOMEM, "cannot take in what it holds");
	if (was_free)
		take_up(sharer->domain, slot);
	return 0;
}

int ob_keep_send_drain(struct ob_sharer *sharer, uint32_t slot)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_DRAIN, .drop_extent = { ob_store_id(sharer->domain->store, slot) } };
	int r = ob_link_send(sharer->machine, &msg, -1);

	if (r >= 0)
		ob_store_set_told(sharer->domain->store, slot, sharer->number);
	return r;
}

/* --- as time passes --- */

static void forget_slot(void *context, uint32_t slot, uint64_t lo, uint64_t hi)
{
	struct ob_domain *domain = context;
	struct ob_index_entry entry = { .lo = lo, .hi = hi, .where = slot, .owner = OB_INDEX_STORE };

	ob_index_remove(domain->index, &entry);
}

static void flush_all(struct ob_domain *domain)
{
	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i] && domain->sharers[i]->machine->link)
			ob_link_flush(domain->sharers[i]->machine);
}

static void expire(struct ob_share *share)
{
	struct ob_domain *next;

	share->await_until_ns = 0;
	for (struct ob_domain *domain = share->domains; domain; domain = next) {
		next = domain->next;
		ob_store_expire(domain->store);
		flush_all(domain);
		ob_domain_put(domain);
	}
	ob_arbiter_kick(share->daemon);
}

/* Whether most of what was shed got another slot: it is in use, and the next extent has to wait for longer. */
static void end_shedding(struct ob_domain *domain)
{
	if (domain->moved > domain->shed_used / 2)
		domain->shed_pause_ns = OB_MIN(OB_MAX(2 * domain->shed_pause_ns, SHED_PAUSE_MIN_NS), SHED_PAUSE_MAX_NS);
	else
		domain->shed_pause_ns = 0;
	domain->shed_used = 0;
}

static bool shed(struct ob_domain *domain, uint64_t now)
{
	struct ob_daemon *daemon = domain->share->daemon;

	if (daemon->lack_bytes <= ob_share_store_bytes(daemon))
		domain->enough_ns = now;
	if (ob_store_drains(domain->store))
		return false;
	if (domain->shed_used)
		end_shedding(domain);
	if (now - domain->enough_ns < SHED_AFTER_NS || now - domain->shed_ns < domain->shed_pause_ns)
		return false;
	domain->shed_used = ob_store_shed(domain->store, forget_slot);
	domain->shed_ns = now;
	domain->moved = 0;
	return domain->shed_used;
}

void ob_keep_tick(struct ob_share *share)
{
	if (share->await_until_ns && ob_now_ns() >= share->await_until_ns)
		expire(share);
	for (struct ob_domain *domain = share->domains; domain; domain = domain->next) {
		bool drained = false;

		while (ob_store_drain(domain->store, forget_slot))
			drained = true;
		drained |= shed(domain, ob_now_ns());
		if (drained)
			flush_all(domain);
	}
}
