/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How a machine, and the host's memory, look in JSON. Sizes are bytes; 0 where there is no limit or maximum. docs/protocol.md lists the members. */
#include <string.h>

#include "base/clock.h"
#include "base/meminfo.h"
#include "daemon/api.h"

/* What an agent says may be above what JSON integers hold. */
static json_int_t number(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

static json_int_t bytes_or_none(uint64_t value)
{
	return value == OB_BUDGET_NONE ? 0 : number(value);
}

static json_t *bytes_or_null(uint64_t value)
{
	return value == OB_BUDGET_NONE ? json_null() : json_integer(number(value));
}

/* Adds a member; object becomes NULL when memory is short, so that a chain of these needs one check. */
static void add(json_t **object, const char *key, json_t *value)
{
	if (!*object) {
		json_decref(value);
	} else if (json_object_set_new(*object, key, value) < 0) {
		json_decref(*object);
		*object = NULL;
	}
}

static void add_number(json_t **object, const char *key, uint64_t value)
{
	add(object, key, json_integer(number(value)));
}

json_t *ob_render_row(const struct ob_machine *machine)
{
	const struct ob_stats *stats = &machine->stats;
	json_t *row = json_pack("{s:s, s:I, s:s, s:s}", "name", machine->name, "pid", (json_int_t)machine->pid, "state",
				ob_machine_state_name(machine), "domain", machine->domain);

	add_number(&row, "shares", machine->shares);
	add_number(&row, "reservation_bytes", machine->reservation_bytes);
	add(&row, "maximum_bytes", json_integer(bytes_or_none(machine->maximum_bytes)));
	add(&row, "limit_bytes", json_integer(bytes_or_none(machine->limit_bytes)));
	add(&row, "target_bytes", json_integer(bytes_or_none(machine->target_bytes)));
	add(&row, "working_set_bytes", bytes_or_null(machine->working_set.believed_bytes));
	add(&row, "working_set_low_bytes", bytes_or_null(machine->working_set.low_bytes));
	add(&row, "working_set_high_bytes", bytes_or_null(machine->working_set.high_bytes));
	add_number(&row, "working_set_samples", stats->active_samples);
	add_number(&row, "ram_bytes", stats->ram_bytes ? stats->ram_bytes : machine->ram_bytes);
	add_number(&row, "cost_bytes", stats->cost_bytes);
	add_number(&row, "resident_bytes", stats->resident_bytes);
	add_number(&row, "benched_bytes", stats->benched_bytes);
	add_number(&row, "zero_bytes", stats->zero_bytes);
	add_number(&row, "compressed_bytes", stats->compressed_bytes);
	add_number(&row, "pool_bytes", stats->pool_bytes);
	add_number(&row, "swapped_bytes", stats->swapped_bytes);
	add_number(&row, "shared_bytes", stats->shared_bytes);
	add_number(&row, "ballooned_bytes", stats->ballooned_bytes);
	add_number(&row, "over_limit_bytes", stats->over_limit_bytes);
	add_number(&row, "degraded", stats->degraded);
	add(&row, "balloon", ob_balloon_render(machine));
	if (*machine->cause)
		add(&row, "cause", json_string(machine->cause));
	return row;
}

static uint64_t age_ms(const struct ob_machine *machine)
{
	return machine->stats_ns ? (ob_now_ns() - machine->stats_ns) / OB_NS_PER_MS : 0;
}

json_t *ob_render_counts(const struct ob_machine *machine)
{
	const struct ob_stats *stats = &machine->stats;
	json_t *faults = json_object(), *object = json_object();

#define X(name) add_number(&faults, #name, stats->faults_##name);
	OB_HISTS(X)
#undef X
	add_number(&object, "age_ms", age_ms(machine));
	add(&object, "faults", faults);
	add_number(&object, "stall_ns", stats->stall_ns);
	add_number(&object, "swap_in_pages", stats->swap_in_pages);
	add_number(&object, "swap_out_pages", stats->swap_out_pages);
	return object;
}

static json_t *render_fields(const struct ob_stats *stats)
{
	json_t *object = json_object();

#define X(name, kind, help) add_number(&object, #name, stats->name);
	OB_STATS(X)
#undef X
	return object;
}

static json_t *render_hist(const uint64_t *buckets)
{
	uint64_t count = 0;
	json_t *object = json_object(), *list = json_array();

	for (unsigned i = 0; i < OB_HIST_BUCKETS; i++) {
		count += buckets[i];
		if (json_array_append_new(list, json_integer(number(buckets[i]))) < 0)
			break;
	}
	add_number(&object, "count", count);
	add(&object, "buckets", list);
	add(&object, "p50_us", json_real((double)ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.50) / 1000));
	add(&object, "p90_us", json_real((double)ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.90) / 1000));
	add(&object, "p99_us", json_real((double)ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.99) / 1000));
	return object;
}

static json_t *render_hists(const struct ob_hists *hists)
{
	uint64_t all[OB_HIST_BUCKETS] = { 0 };
	json_t *object = json_object();

#define X(name) add(&object, #name, render_hist(hists->count[OB_HIST_##name]));
	OB_HISTS(X)
#undef X
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
		for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
			all[i] += hists->count[kind][i];
	add(&object, "all", render_hist(all));
	return object;
}

static const char *range_kind_name(uint32_t kind)
{
	static const char *const names[] = {
		[OB_RANGE_RAM] = "ram", [OB_RANGE_BENCH] = "bench", [OB_RANGE_POOL] = "pool", [OB_RANGE_TABLES] = "tables",
	};

	return kind < OB_ARRAY_LEN(names) && names[kind] ? names[kind] : "other";
}

static json_t *render_ranges(const struct ob_machine *machine)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < machine->range_count; i++) {
		const struct ob_wire_range *range = &machine->ranges[i];

		if (list && json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "kind", range_kind_name(range->kind), "start",
								  number(range->start), "end", number(range->end))) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

json_t *ob_render_stats(const struct ob_machine *machine)
{
	json_t *object = ob_render_row(machine);

	add(&object, "program", json_string(machine->program));
	add_number(&object, "age_ms", age_ms(machine));
	add(&object, "stats", render_fields(&machine->stats));
	add(&object, "fault_latency", render_hists(&machine->hists));
	add(&object, "ranges", render_ranges(machine));
	add(&object, "guest", ob_guest_render(machine));
	add(&object, "means", ob_machine_means_render(machine));
	return object;
}

json_t *ob_render_host(void)
{
	json_t *object = json_object();
	uint64_t some_us, full_us;
	bool has_pressure = ob_memory_pressure(&some_us, &full_us) == 0;

	add_number(&object, "total_bytes", ob_meminfo("MemTotal"));
	add_number(&object, "available_bytes", ob_meminfo("MemAvailable"));
	add(&object, "pressure_some_us", has_pressure ? json_integer((json_int_t)some_us) : json_null());
	add(&object, "pressure_full_us", has_pressure ? json_integer((json_int_t)full_us) : json_null());
	return object;
}

json_t *ob_render_large(const struct ob_daemon *daemon)
{
	const struct ob_large_host *host = &daemon->large.host;
	const struct ob_large_orders *orders = &daemon->large.orders;
	uint32_t shareable = ob_large_shareable(&daemon->large);
	json_t *object;

	if (!host->is_started)
		return json_null();
	object = json_pack("{s:s, s:s, s:b}", "policy", ob_large_policy_name(daemon->config.large_policy), "state",
			   ob_large_state_name(host->state), "may_make", orders->may_make);
	add_number(&object, "min_free_bytes", host->min_free_bytes);
	add_number(&object, "boundary_bytes", host->boundary_bytes);
	add_number(&object, "free_bytes", host->free_bytes);
	add_number(&object, "hot_pages", orders->hot_pages);
	add_number(&object, "cold_pages", orders->cold_pages);
	add_number(&object, "changes", host->changes);
	add_number(&object, "resets", host->resets);
	add(&object, "shareable_pages", shareable == OB_LARGE_UNKNOWN ? json_null() : json_integer(shareable));
	return object;
}

static void add_planned(json_t **object, const struct ob_budget_machine *then)
{
	add(object, "uses_bytes", then->active_bytes == OB_BUDGET_NONE ? json_null() : bytes_or_null(ob_plan_uses(then)));
	add(object, "then_bytes", bytes_or_null(then->target_bytes));
	add_number(object, "lacks_bytes", ob_plan_lacks(then));
}

/* Of what a machine may use, what it could have. */
static json_t *bound(uint64_t bytes, struct ob_budget_machine machine)
{
	machine.active_bytes = bytes;
	return bytes == OB_BUDGET_NONE ? json_null() : bytes_or_null(ob_plan_uses(&machine));
}

json_t *ob_render_plan(const struct ob_daemon *daemon, size_t count, const struct ob_plan *plan, const struct ob_plan_doubt *doubt,
		       const struct ob_budget_machine *then)
{
	json_t *machines = json_array(), *newcomers = json_object(), *answer = json_object();

	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next, then++) {
		json_t *row = json_object();

		add(&row, "name", json_string(machine->name));
		add(&row, "now_bytes", bytes_or_null(machine->target_bytes));
		add_planned(&row, then);
		add(&row, "uses_low_bytes", bound(machine->working_set.low_bytes, *then));
		add(&row, "uses_high_bytes", bound(machine->working_set.high_bytes, *then));
		if (json_array_append_new(machines, row) < 0) {
			json_decref(machines);
			machines = NULL;
		}
	}
	add_number(&newcomers, "count", count);
	if (count)
		add_planned(&newcomers, then);
	add_number(&answer, "budget_bytes", plan->budget_bytes);
	add(&answer, "guaranteed_bytes", bytes_or_null(plan->guaranteed_bytes));
	add(&answer, "admitted", json_boolean(plan->most_admitted >= count));
	add(&answer, "uses_bytes", bytes_or_null(plan->uses_bytes));
	add(&answer, "lacks_bytes", bytes_or_null(plan->lacks_bytes));
	add_number(&answer, "lacking", plan->lacking);
	add_number(&answer, "most_admitted", plan->most_admitted);
	add_number(&answer, "most_at_ease", plan->most_at_ease);
	add_number(&answer, "most_at_ease_if_low", doubt->low_at_ease);
	add_number(&answer, "most_at_ease_if_high", doubt->high_at_ease);
	add_number(&answer, "unknown", doubt->unknown);
	add(&answer, "newcomers", newcomers);
	add(&answer, "machines", machines);
	return answer;
}
