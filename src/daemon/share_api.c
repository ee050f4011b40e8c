/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How sharing looks in JSON; docs/protocol.md lists the members. */
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/share_internal.h"

/* What an agent says may be above what JSON integers hold. */
static void add_number(json_t *object, const char *key, uint64_t value)
{
	/* Without memory the member is missing; so is the answer, then. */
	(void)json_object_set_new(object, key, json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value));
}

json_t *ob_share_render_machine(const struct ob_machine *machine)
{
	const struct ob_sharer *sharer = machine->sharer;
	const struct ob_share_counters none = { 0 }, *counters = sharer ? &sharer->counters : &none;
	const struct ob_stats *stats = &machine->stats;
	json_t *row = json_pack("{s:s, s:s, s:b, s:b, s:b}", "name", machine->name, "domain", machine->domain, "on",
				sharer && sharer->on, "off_by_user", sharer && sharer->off, "ending", ob_share_is_ending(machine));

	if (!row)
		return NULL;
	add_number(row, "held_pages", sharer ? sharer->holder.holds : 0);
	add_number(row, "shared_bytes", stats->shared_bytes);
	add_number(row, "zero_bytes", stats->zero_bytes);
	add_number(row, "index_entries", sharer ? ob_index_count(sharer->domain->index, (uint16_t)sharer->number) : 0);
	add_number(row, "offers", counters->offers);
	add_number(row, "fetched", counters->fetched);
	add_number(row, "stale", counters->stale);
	add_number(row, "adopted", counters->adopted);
	add_number(row, "refused", counters->refused);
	add_number(row, "dropped", counters->dropped);
	add_number(row, "missed", counters->missed);
	add_number(row, "no_room", counters->no_room);
	add_number(row, "orphan_extents", sharer ? sharer->orphan_count : 0);
	add_number(row, "faults_shared", stats->faults_shared);
	add_number(row, "scan_pages", stats->scan_pages);
	add_number(row, "scan_returned_pages", stats->scan_returned_pages);
	add_number(row, "scan_unwritten_pages", stats->scan_unwritten_pages);
	add_number(row, "scan_cpu_ns", stats->scan_cpu_ns);
	add_number(row, "mapped_bytes", stats->mapped_bytes);
	add_number(row, "noted_image_pages", stats->noted_image_pages);
	add_number(row, "noted_wanted_pages", stats->noted_wanted_pages);
	add_number(row, "noted_scan_pages", stats->noted_scan_pages);
	add_number(row, "noted_found_pages", stats->noted_found_pages);
	return row;
}

static uint64_t tables_of(const struct ob_domain *domain)
{
	uint64_t bytes = sizeof(*domain) + ob_index_memory(domain->index) + ob_store_tables_bytes(domain->store);

	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i])
			bytes += sizeof(struct ob_sharer) + ob_holder_bytes(&domain->sharers[i]->holder);
	return bytes;
}

static uint64_t shared_pages(const struct ob_domain *domain)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < domain->top; i++)
		pages += domain->sharers[i] ? domain->sharers[i]->holder.holds : 0;
	return pages;
}

static json_t *render_domain(const struct ob_domain *domain, const struct ob_machine *only)
{
	uint64_t store = ob_store_memory_pages(domain->store) * OB_STORE_PAGE, shared = shared_pages(domain) * OB_STORE_PAGE;
	uint64_t tables = tables_of(domain), saved = ob_less(shared, store);
	json_t *machines = json_array();
	json_t *object = json_pack("{s:s, s:b, s:s, s:b, s:o}", "domain", domain->solo ? "" : domain->name, "own", domain->solo,
				   "index", domain->index->strategy->name, "pays", saved > tables, "machines", machines);

	if (!object)
		return NULL;
	add_number(object, "shared_bytes", shared);
	add_number(object, "store_bytes", store);
	add_number(object, "slots_used_bytes", ob_store_used_pages(domain->store) * OB_STORE_PAGE);
	add_number(object, "worn_bytes", ob_store_worn_pages(domain->store) * OB_STORE_PAGE);
	add_number(object, "restored_bytes", ob_store_restored_pages(domain->store) * OB_STORE_PAGE);
	add_number(object, "extents", ob_store_extents(domain->store));
	add_number(object, "saved_bytes", saved);
	add_number(object, "tables_bytes", tables);
	add_number(object, "comparisons", domain->searches.comparisons);
	add_number(object, "futile_comparisons", domain->searches.futile);
	add_number(object, "lost_pairs", domain->searches.lost);
	add_number(object, "subpages", domain->subpages);
	for (unsigned i = 0; i < domain->top; i++)
		if (domain->sharers[i] && (!only || domain->sharers[i]->machine == only))
			(void)json_array_append_new(machines, ob_share_render_machine(domain->sharers[i]->machine));
	return object;
}

void ob_share_count(const struct ob_daemon *daemon, uint64_t *ret_shared_bytes, uint64_t *ret_saved_bytes)
{
	*ret_shared_bytes = *ret_saved_bytes = 0;
	for (const struct ob_domain *domain = daemon->share->domains; domain; domain = domain->next) {
		uint64_t store = ob_store_memory_pages(domain->store) * OB_STORE_PAGE, pages = shared_pages(domain) * OB_STORE_PAGE;

		*ret_shared_bytes += pages;
		*ret_saved_bytes += ob_less(pages, store);
	}
}

uint64_t ob_share_allowed_bytes(const struct ob_daemon *daemon)
{
	return daemon->share->allowed_bytes;
}

json_t *ob_share_render_stores(const struct ob_daemon *daemon)
{
	uint64_t shared, saved;
	json_t *object = json_object();

	ob_share_count(daemon, &shared, &saved);
	if (!object)
		return NULL;
	add_number(object, "store_bytes", ob_share_store_bytes(daemon));
	add_number(object, "shared_bytes", shared);
	add_number(object, "saved_bytes", saved);
	return object;
}

json_t *ob_share_render(const struct ob_daemon *daemon, const struct ob_machine *only)
{
	uint64_t allowed = ob_share_allowed_bytes(daemon);
	json_t *domains = json_array();
	json_t *object = json_pack("{s:b, s:i, s:s, s:o}", "sharing", daemon->config.sharing, "cpu_permille", (int)daemon->config.share_cpu_permille,
				   "index", daemon->config.share_subpages ? ob_index_cmd_subpage.name : ob_index_hash.name, "domains", domains);

	if (!object)
		return NULL;
	add_number(object, "store_bytes", ob_share_store_bytes(daemon));
	add_number(object, "orphan_bytes", ob_share_orphan_bytes(daemon));
	add_number(object, "allowed_bytes", allowed == OB_BUDGET_NONE ? 0 : allowed);
	for (const struct ob_domain *domain = daemon->share->domains; domain; domain = domain->next)
		if (!only || (only->sharer && only->sharer->domain == domain))
			(void)json_array_append_new(domains, render_domain(domain, only));
	return object;
}
