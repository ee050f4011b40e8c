/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Domains and their machines.
 *
 * A machine becomes a sharer with its first HELLO and stays one until its process has ended, whatever becomes of its connection:
 * its page tables name slots, so its holds stand, until it says itself on the next one what has become of them. It gets a new
 * staging memory with each connection. A domain exists while it has machines; then nothing of its store is held any more, and it
 * goes. Those of which there are extents from before exist from the start on, for as long as their machines are awaited (share_keep.c).
 *
 * The hash's key is drawn once, by each overbookd, the same for all domains: it tells nothing of pages, and each domain has its own index.
 *
 * Memory. What the stores take comes out of the budget. The arbiter grants it in steps (budget.h), before it is needed: a slot that was
 * never filled is filled only within what is granted, so a page more in a store never takes the sum above the budget, and the
 * two copies that go are a gain on top. While all is above the budget nothing is free, and the arbiter grants in advance of what sharing
 * gives back. Where nothing can be granted (the machines' limits fill the budget, or give way), sharing goes
 * on with slots that have become free. Extents of a former overbookd that were not kept are counted once each, whole, for as long as any
 * machine holds something of them: who else has them mapped, and how much of them is filled, is not known any more.
 */
#include "daemon/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/link.h"
#include "daemon/share_internal.h"

#define STAGING_BYTES ((size_t)OB_WIRE_STAGING_MAX * OB_SHARE_PAGE)
#define HUNGRY_NS     (10 * OB_NS_PER_SEC)
#define OPEN_MAX      4096u /* extents of all stores: each is a descriptor */

int ob_share_init(struct ob_daemon *daemon, struct ob_error *err)
{
	struct ob_share *share = calloc(1, sizeof(*share));

	if (!share)
		return ob_error_sys(err, ENOMEM, "cannot set up sharing");
	if (getrandom(share->key, sizeof(share->key), 0) != (ssize_t)sizeof(share->key)) {
		free(share);
		return ob_error_sys(err, EIO, "cannot draw the key of the hash");
	}
	share->daemon = daemon;
	share->allowed_bytes = daemon->config.budget_bytes == OB_BUDGET_NONE ? OB_BUDGET_NONE : 0;
	daemon->share = share;
	return 0;
}

static void domain_free(struct ob_domain *domain)
{
	struct ob_domain **at;

	for (at = &domain->share->domains; *at && *at != domain; at = &(*at)->next)
		;
	if (*at)
		*at = domain->next;
	ob_store_free(domain->store);
	ob_index_free(domain->index);
	free(domain);
}

void ob_share_close(struct ob_daemon *daemon)
{
	while (daemon->share && daemon->share->domains)
		domain_free(daemon->share->domains);
	free(daemon->share);
	daemon->share = NULL;
}

/* A slot is free: nobody finds it any more. */
static void on_freed(void *context, uint32_t slot, uint64_t lo, uint64_t hi)
{
	struct ob_domain *domain = context;
	struct ob_index_entry entry = { .lo = lo, .hi = hi, .where = slot, .owner = OB_INDEX_STORE };

	ob_index_remove(domain->index, &entry);
}

static struct ob_index *index_new(unsigned subpages)
{
	return subpages ? ob_index_new(&ob_index_cmd_subpage, 1u << subpages) : ob_index_new(&ob_index_hash, 1);
}

struct ob_domain *ob_domain_get(struct ob_share *share, bool solo, const char *name, uint32_t pid)
{
	static const struct ob_store_events events = { on_freed, ob_keep_opened, ob_keep_gone };
	char label[OB_STORE_LABEL_MAX + 1];
	struct ob_domain *domain;

	for (domain = share->domains; domain; domain = domain->next)
		if (domain->solo == solo && domain->pid == pid && !strcmp(domain->name, name))
			return domain;
	domain = calloc(1, sizeof(*domain));
	if (!domain)
		return NULL;
	domain->share = share;
	domain->solo = solo;
	domain->pid = pid;
	memcpy(domain->name, name, strlen(name) + 1);
	ob_keep_label(domain, label);
	domain->store = ob_store_new(label, &events, domain);
	domain->subpages = share->daemon->config.share_subpages;
	domain->index = index_new(domain->subpages);
	if (!domain->store || !domain->index) {
		domain_free(domain);
		return NULL;
	}
	domain->next = share->domains;
	share->domains = domain;
	return domain;
}

void ob_domain_put(struct ob_domain *domain)
{
	if (!domain->count && !ob_store_is_awaited(domain->store))
		domain_free(domain);
}

static struct ob_domain *domain_of(const struct ob_machine *machine)
{
	bool solo = !*machine->domain;

	return ob_domain_get(machine->daemon->share, solo, solo ? machine->name : machine->domain, solo ? machine->pid : 0);
}

static struct ob_sharer *sharer_new(struct ob_machine *machine)
{
	struct ob_domain *domain = domain_of(machine);
	struct ob_sharer *sharer = domain ? calloc(1, sizeof(*sharer)) : NULL;
	unsigned number = 0;

	while (sharer && number < OB_STORE_MEMBERS && domain->sharers[number])
		number++;
	if (!sharer || number == OB_STORE_MEMBERS) {
		free(sharer);
		if (domain)
			ob_domain_put(domain);
		return NULL;
	}
	sharer->machine = machine;
	sharer->domain = domain;
	sharer->number = number;
	sharer->staging_fd = -1;
	domain->sharers[number] = sharer;
	domain->top = OB_MAX(domain->top, number + 1);
	domain->count++;
	return sharer;
}

/* --- staging memory --- */

static void staging_close(struct ob_sharer *sharer)
{
	if (sharer->staging_base)
		munmap(sharer->staging_base, STAGING_BYTES);
	sharer->staging_base = NULL;
	sharer->staging_is_used = false;
	ob_fd_close(&sharer->staging_fd);
}

/* The agent writes it, and cannot take it away under the reader: it can be neither shrunk nor punched by accident into a fault. */
static int staging_open(struct ob_sharer *sharer)
{
	int OB_FD fd = memfd_create("overbook-staging", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *base;

	if (fd < 0 || ftruncate(fd, (off_t)STAGING_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	base = mmap(NULL, STAGING_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	sharer->staging_base = base;
	sharer->staging_fd = ob_fd_take(&fd);
	return 0;
}

/* --- connections --- */

/* A released machine is to be left alone. */
static bool wants_on(const struct ob_sharer *sharer)
{
	return sharer->machine->daemon->config.sharing && !sharer->off && sharer->staging_base &&
	       sharer->machine->release == OB_RELEASE_NO;
}

void ob_share_connected(struct ob_machine *machine)
{
	struct ob_sharer *sharer = machine->sharer;
	uint32_t place = 0;
	uint64_t id;
	int r;

	if (!sharer)
		sharer = machine->sharer = sharer_new(machine);
	if (!sharer) {
		ob_log_limited(OB_LOG_WARNING, "machine \"%s\": no memory to share its pages", machine->name);
		return;
	}
	r = staging_open(sharer);
	if (r < 0)
		ob_log_limited(OB_LOG_WARNING, "machine \"%s\": its pages are not shared: no memory to look at them: %s", machine->name,
			       strerror(-r));
	ob_store_reconnected(sharer->domain->store, sharer->number);
	sharer->on = sharer->may_map_wanted = false;
	sharer->kept_told = false;
	/* By the key an agent knows whose slots it holds, and can drop them: this overbookd's, or those that it has of a former one. */
	sharer->switch_wanted = wants_on(sharer) || sharer->holder.holds || ob_store_next_restored(sharer->domain->store, &place, &id);
	/* A new agent knows nothing of what was asked of the last one. */
	sharer->unshare_wanted = sharer->unsharing = false;
	ob_link_flush(machine);
}

void ob_share_disconnected(struct ob_machine *machine)
{
	struct ob_sharer *sharer = machine->sharer;

	if (!sharer)
		return;
	sharer->on = sharer->switch_wanted = sharer->unshare_wanted = sharer->unsharing = sharer->claims = false;
	ob_match_abandon(sharer);
	ob_holder_clear(&sharer->claim);
	sharer->more_count = 0;
	staging_close(sharer);
	ob_match_pump(sharer->domain);
}

static void count_orphans(struct ob_share *share);

void ob_share_machine_gone(struct ob_machine *machine)
{
	struct ob_sharer *sharer = machine->sharer;
	struct ob_domain *domain;

	if (!sharer)
		return;
	domain = sharer->domain;
	machine->sharer = NULL;
	sharer->on = false;
	ob_match_abandon(sharer);
	ob_index_remove_owner(domain->index, (uint16_t)sharer->number);
	ob_index_set_quota(domain->index, (uint16_t)sharer->number, 0);
	/* It has not said of which, and what it had begun to write to a disk or to send may be under way still. */
	if (sharer->maps)
		ob_store_wear_all(domain->store, &sharer->holder);
	ob_store_let_go_all(domain->store, &sharer->holder);
	ob_holder_clear(&sharer->claim);
	ob_store_forget_told(domain->store, sharer->number, 0);
	staging_close(sharer);
	domain->sharers[sharer->number] = NULL;
	while (domain->top && !domain->sharers[domain->top - 1])
		domain->top--;
	free(sharer->todo);
	free(sharer->pending);
	free(sharer->orphans);
	free(sharer->more);
	free(sharer);
	if (--domain->count)
		ob_match_pump(domain);
	else
		ob_domain_put(domain);
	count_orphans(machine->daemon->share);
	ob_arbiter_kick(machine->daemon);
}

/* --- what agents are told --- */

/*
 * What a machine may spend on looking for cold pages. One that has no limit is in nobody's way, and to look would take its large
 * pages apart: unless it was put into a domain, only what leaves it anyhow is shared.
 */
static uint32_t scan_permille(const struct ob_sharer *sharer)
{
	const struct ob_machine *machine = sharer->machine;

	return sharer->domain->solo && machine->limit_bytes == OB_BUDGET_NONE ? 0 : machine->daemon->config.share_cpu_permille;
}

static int send_subpages(struct ob_sharer *sharer)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_SUBPAGES, .subpages = { sharer->domain->subpages } };

	return ob_link_send(sharer->machine, &msg, -1);
}

static int send_switch(struct ob_sharer *sharer)
{
	bool on = wants_on(sharer);
	struct ob_wire_msg msg = { .type = OB_WIRE_SHARE };
	int r;

	if (on && sharer->domain->subpages) {
		r = send_subpages(sharer);
		if (r < 0)
			return r;
	}
	r = ob_keep_send(sharer);
	if (r < 0)
		return r;
	msg.share.flags = on ? OB_WIRE_SHARE_ON : 0;
	msg.share.cpu_permille = scan_permille(sharer);
	memcpy(msg.share.key, sharer->domain->share->key, sizeof(msg.share.key));
	r = ob_link_send(sharer->machine, &msg, on ? sharer->staging_fd : -1);
	if (r < 0)
		return r;
	sharer->on = on;
	sharer->cpu_told = msg.share.cpu_permille;
	sharer->switch_wanted = false;
	ob_store_reconnected(sharer->domain->store, sharer->number);
	return 0;
}

static int send_unshare(struct ob_sharer *sharer)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_UNSHARE };
	int r = ob_link_send(sharer->machine, &msg, -1);

	if (r < 0)
		return r;
	sharer->unshare_wanted = false;
	sharer->unshare_sequence = msg.sequence;
	return 0;
}

static int send_may_map(struct ob_sharer *sharer)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_MAY_MAP };
	int r = ob_link_send(sharer->machine, &msg, -1);

	if (r >= 0)
		sharer->may_map_wanted = false;
	return r;
}

/* Closed extents that the machine has mapped. */
static int send_drops(struct ob_sharer *sharer)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_DROP_EXTENT };
	int r = 0;

	while (r >= 0 && ob_store_next_closed(sharer->domain->store, sharer->number, &msg.drop_extent.id)) {
		r = ob_link_send(sharer->machine, &msg, -1);
		if (r >= 0)
			ob_store_forget_told(sharer->domain->store, sharer->number, msg.drop_extent.id);
	}
	return r;
}

/*
 * After SHARE an agent believes that what it has mapped is somebody else's, until it is sent again: what it was sent on another
 * connection may never have come, and who this is it has known only since then.
 */
static int send_extents(struct ob_sharer *sharer)
{
	uint32_t slot;
	int r = 0;

	while (r >= 0 && sharer->on && ob_store_next_unsent(sharer->domain->store, sharer->number, &slot))
		r = ob_store_is_drained(sharer->domain->store, slot) ? ob_keep_send_drain(sharer, slot) : ob_match_send_extent(sharer, slot);
	return r;
}

int ob_share_flush(struct ob_machine *machine)
{
	struct ob_sharer *sharer = machine->sharer;
	int r = 0;

	if (!sharer)
		return 0;
	if (sharer->may_map_wanted)
		r = send_may_map(sharer);
	if (r >= 0 && (sharer->switch_wanted || (sharer->on ? sharer->cpu_told != scan_permille(sharer) : wants_on(sharer))))
		r = send_switch(sharer);
	if (r >= 0)
		r = send_extents(sharer);
	if (r >= 0 && sharer->unshare_wanted)
		r = send_unshare(sharer);
	return r < 0 ? r : send_drops(sharer);
}

/*
 * Another index: it knows the store's slots, in class 0, since that is where pages end up that nobody writes; pages are offered to it
 * again when their agents are told of the change. Without memory the domain keeps the index that it has.
 */
static void reindex(struct ob_domain *domain, unsigned subpages)
{
	struct ob_index *index = index_new(subpages);
	struct ob_index_entry entry = { .owner = OB_INDEX_STORE };
	uint32_t slot = 0;
	int r = index ? 1 : -ENOMEM;

	for (; r >= 0 && ob_store_next_used(domain->store, &slot, &entry.lo, &entry.hi); slot++) {
		entry.where = slot;
		r = ob_index_add(index, &entry);
	}
	if (r < 0) {
		ob_log(OB_LOG_WARNING, "no memory for another index of shared pages: it stays as it is");
		ob_index_free(index);
		return;
	}
	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i])
			ob_index_set_quota(index, (uint16_t)i, domain->sharers[i]->quota);
	ob_index_free(domain->index);
	domain->index = index;
	domain->subpages = subpages;
	domain->searches = (struct ob_search_counters){ 0 };
}

void ob_share_reconfigure(struct ob_daemon *daemon)
{
	for (struct ob_domain *domain = daemon->share->domains; domain; domain = domain->next)
		if (domain->subpages != daemon->config.share_subpages)
			reindex(domain, daemon->config.share_subpages);
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		struct ob_sharer *sharer = machine->sharer;

		if (!sharer || !machine->link || (!sharer->on && !wants_on(sharer)))
			continue;
		sharer->switch_wanted = true;
		ob_link_flush(machine);
	}
}

void ob_share_order_on(struct ob_machine *machine)
{
	if (!machine->sharer)
		return;
	machine->sharer->off = false;
	machine->sharer->switch_wanted = !machine->sharer->on && wants_on(machine->sharer);
	ob_link_flush(machine);
}

void ob_share_order_off(struct ob_machine *machine)
{
	struct ob_sharer *sharer = machine->sharer;

	if (!sharer)
		return;
	sharer->off = true;
	sharer->switch_wanted = sharer->unshare_wanted = sharer->unsharing = true;
	sharer->unshare_sequence = 0;
	sharer->unshare_done_bytes = sharer->unshare_total_bytes = 0;
	ob_link_flush(machine);
}

bool ob_share_is_ending(const struct ob_machine *machine)
{
	return machine->sharer && machine->sharer->unsharing;
}

void ob_share_progress(const struct ob_machine *machine, uint64_t *ret_done_bytes, uint64_t *ret_total_bytes)
{
	*ret_done_bytes = machine->sharer ? machine->sharer->unshare_done_bytes : 0;
	*ret_total_bytes = machine->sharer ? machine->sharer->unshare_total_bytes : 0;
}

bool ob_share_reply(struct ob_machine *machine, uint32_t to, int status, const char *text)
{
	struct ob_sharer *sharer = machine->sharer;
	unsigned long long done, total;

	if (!sharer || !sharer->unsharing || !sharer->unshare_sequence || to != sharer->unshare_sequence)
		return false;
	if (status != -EINPROGRESS) {
		sharer->unsharing = false;
		if (status)
			ob_log(OB_LOG_WARNING, "machine \"%s\": its shared pages could not all be brought back: %s", machine->name,
			       *text ? text : strerror(-status));
		ob_api_unshare_ended(machine, status, text);
		ob_arbiter_stir(machine->daemon);
	} else if (sscanf(text, "%20llu %20llu", &done, &total) == 2 && done <= total) {
		sharer->unshare_done_bytes = done;
		sharer->unshare_total_bytes = total;
		ob_api_machine_changed(machine);
	}
	return true;
}

/* --- what agents say --- */

static int compare_orphans(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

/* Each extent of former overbookds counts once, whoever holds it. */
static void count_orphans(struct ob_share *share)
{
	uint64_t *ids, n = 0, different = 0;

	for (const struct ob_machine *machine = share->daemon->machines; machine; machine = machine->next)
		n += machine->sharer ? machine->sharer->orphan_count : 0;
	ids = n ? malloc(n * sizeof(*ids)) : NULL;
	if (ids) {
		n = 0;
		for (const struct ob_machine *machine = share->daemon->machines; machine; machine = machine->next)
			for (uint32_t i = 0; machine->sharer && i < machine->sharer->orphan_count; i++)
				ids[n++] = machine->sharer->orphans[i].extent;
		qsort(ids, n, sizeof(*ids), compare_orphans);
		for (uint64_t i = 0; i < n; i++)
			different += !i || ids[i] != ids[i - 1];
		free(ids);
	} else {
		different = n; /* without memory to look: each for itself */
	}
	share->orphan_bytes = different * OB_STORE_EXTENT;
}

/* A part of a list. What is in it of this overbookd's own store is counted there. */
static int add_orphans(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_wire_orphan *grown;

	if (sharer->more_count + msg->orphans.n > OB_WIRE_ORPHANS_MAX)
		return ob_error_set(err, EPROTO, "more than %u ORPHANS", OB_WIRE_ORPHANS_MAX);
	grown = msg->orphans.n ? realloc(sharer->more, (sharer->more_count + msg->orphans.n) * sizeof(*grown)) : sharer->more;
	if (msg->orphans.n && !grown)
		return ob_error_sys(err, ENOMEM, "cannot take in what it holds of an earlier overbookd's");
	sharer->more = grown;
	for (uint32_t i = 0; i < msg->orphans.n; i++)
		if (msg->orphans.item[i].held && !ob_store_has(sharer->domain->store, msg->orphans.item[i].extent))
			sharer->more[sharer->more_count++] = msg->orphans.item[i];
	return 0;
}

/* The list is complete, and replaces the last one. Until then that one counts: too much is set aside, never too little. */
static int on_orphans(struct ob_sharer *sharer, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_share *share = sharer->domain->share;
	uint64_t before = share->orphan_bytes;
	int r = add_orphans(sharer, msg, err);

	if (r < 0)
		return r;
	free(sharer->orphans);
	sharer->orphans = sharer->more;
	sharer->orphan_count = sharer->more_count;
	sharer->more = NULL;
	sharer->more_count = 0;
	count_orphans(share);
	if (share->orphan_bytes != before)
		ob_arbiter_stir(share->daemon);
	return 0;
}

/* What it has been sent before is sent again, since it may map that as well. */
static void on_maps(struct ob_sharer *sharer)
{
	sharer->maps = sharer->may_map_wanted = true;
	ob_store_reconnected(sharer->domain->store, sharer->number);
	ob_link_flush(sharer->machine);
}

/* What an agent says of itself, whether it is a sharer or there was no memory for one. */
static bool is_unasked(uint16_t type)
{
	return type == OB_WIRE_OFFER || type == OB_WIRE_ORPHANS || type == OB_WIRE_MORE_ORPHANS || type == OB_WIRE_MAPS ||
	       type == OB_WIRE_HOLDS;
}

int ob_share_handle(struct ob_machine *machine, const struct ob_wire_msg *msg, struct ob_error *err)
{
	uint64_t before = ob_share_store_bytes(machine->daemon);
	int r = 0;

	if (!machine->sharer)
		return is_unasked(msg->type) ? 0 :
			ob_error_set(err, EPROTO, "an answer about sharing that nobody asked for");
	if (msg->type == OB_WIRE_ORPHANS)
		r = on_orphans(machine->sharer, msg, err);
	else if (msg->type == OB_WIRE_MORE_ORPHANS)
		r = add_orphans(machine->sharer, msg, err);
	else if (msg->type == OB_WIRE_MAPS)
		on_maps(machine->sharer);
	else
		r = ob_match_handle(machine->sharer, msg, err);
	/* Less is as good to know as more: others may grow. */
	if (ob_share_store_bytes(machine->daemon) != before)
		ob_arbiter_kick(machine->daemon);
	return r;
}

/* What is of use only while pages are being shared is given back once there is nothing under way. */
static void rest(struct ob_sharer *sharer)
{
	if (!sharer->todo_count) {
		free(sharer->todo);
		sharer->todo = NULL;
	}
	if (!sharer->pending_count) {
		free(sharer->pending);
		sharer->pending = NULL;
	}
	if (sharer->staging_is_used && !sharer->staging_busy) {
		/* The memory alone: both sides keep their mappings. Where it fails the memory stays, and that is all. */
		(void)fallocate(sharer->staging_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)STAGING_BYTES);
		sharer->staging_is_used = false;
	}
	if (!sharer->holder.holds)
		ob_holder_clear(&sharer->holder);
}

void ob_share_tick(struct ob_daemon *daemon)
{
	for (struct ob_domain *domain = daemon->share->domains; domain; domain = domain->next) {
		ob_match_expire(domain);
		for (unsigned i = 0; i < domain->top; i++)
			if (domain->sharers[i])
				rest(domain->sharers[i]);
	}
	ob_keep_tick(daemon->share);
}

/* --- memory --- */

uint64_t ob_share_store_bytes(const struct ob_daemon *daemon)
{
	uint64_t pages = 0;

	for (const struct ob_domain *domain = daemon->share->domains; domain; domain = domain->next)
		pages += ob_store_memory_pages(domain->store);
	return pages * OB_STORE_PAGE;
}

uint64_t ob_share_orphan_bytes(const struct ob_daemon *daemon)
{
	return daemon->share->orphan_bytes;
}

bool ob_share_is_hungry(const struct ob_daemon *daemon)
{
	return ob_now_ns() < daemon->share->hungry_until_ns;
}

static uint64_t growth_pages(const struct ob_share *share)
{
	uint64_t taken = ob_share_store_bytes(share->daemon);

	return ob_less(share->allowed_bytes, taken) / OB_STORE_PAGE;
}

bool ob_share_may_grow(const struct ob_share *share)
{
	return growth_pages(share) > 0;
}

bool ob_share_has_room(const struct ob_domain *domain)
{
	uint64_t growth = growth_pages(domain->share), planned = domain->share->planned;

	return planned < growth || planned < growth + ob_store_spare_pages(domain->store);
}

bool ob_share_may_open(const struct ob_share *share)
{
	uint32_t open = 0;

	for (const struct ob_domain *domain = share->domains; domain; domain = domain->next)
		open += ob_store_extents(domain->store);
	return open < OPEN_MAX;
}

void ob_share_want_room(struct ob_share *share)
{
	share->hungry_until_ns = ob_now_ns() + HUNGRY_NS;
	ob_arbiter_kick(share->daemon);
}

void ob_share_allow(struct ob_daemon *daemon, uint64_t bytes, bool in_advance)
{
	bool more = bytes > daemon->share->allowed_bytes;

	daemon->share->allowed_bytes = bytes;
	daemon->share->in_advance = in_advance;
	for (struct ob_domain *domain = daemon->share->domains; more && domain; domain = domain->next)
		ob_match_pump(domain);
}
