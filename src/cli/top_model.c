/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/top_model.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/client.h"

#define PAGE_BYTES  4096
#define RATE_MAX_MS 10000
#define RATE_MIN_MS 20 /* reports that follow closer give a rate of nothing but the clock's grain */

static const struct ob_top_rates rates_unknown = {
	.faults = { -1, -1, -1, -1, -1, -1 }, .all_faults = -1, .swap_in_bytes = -1, .swap_out_bytes = -1, .stalled = -1,
};

_Static_assert(OB_HIST_KINDS == 6, "rates_unknown has one for each kind");

const struct ob_top_column ob_top_columns[OB_TOP_KEYS] = {
	[OB_TOP_NAME] = { "name", "NAME", OB_TOP_IS_TEXT, 16, 0 },
	[OB_TOP_STATE] = { "state", "STATE", OB_TOP_IS_TEXT, 9, 6 },
	[OB_TOP_COST] = { "cost", "COST", OB_TOP_IS_SIZE, 5, 0 },
	[OB_TOP_LIMIT] = { "limit", "LIMIT", OB_TOP_IS_SIZE_OR_NONE, 5, 1 },
	[OB_TOP_TARGET] = { "target", "TARGET", OB_TOP_IS_SIZE_OR_NONE, 6, 2 },
	[OB_TOP_FAULTS] = { "faults", "FAULT/s", OB_TOP_IS_RATE, 7, 3 },
	[OB_TOP_SWAP_IN] = { "swap", "IN/s", OB_TOP_IS_SIZE_RATE, 5, 4 },
	[OB_TOP_SWAP_OUT] = { "swap-out", "OUT/s", OB_TOP_IS_SIZE_RATE, 5, 5 },
	[OB_TOP_SWAPPED] = { "swapped", "SWAP", OB_TOP_IS_SIZE, 5, 7 },
	[OB_TOP_RAM] = { "ram", "RAM", OB_TOP_IS_SIZE, 5, 8 },
	[OB_TOP_WORKING_SET] = { "wset", "WSET", OB_TOP_IS_SIZE, 5, 9 },
	[OB_TOP_RESIDENT] = { "resident", "RES", OB_TOP_IS_SIZE, 5, 10 },
	[OB_TOP_SHARED] = { "shared", "SHARE", OB_TOP_IS_SIZE, 5, 11 },
	[OB_TOP_COMPRESSED] = { "compressed", "COMPR", OB_TOP_IS_SIZE, 5, 12 },
	[OB_TOP_BALLOONED] = { "ballooned", "BALLN", OB_TOP_IS_SIZE, 5, 13 },
	[OB_TOP_STALLED] = { "stalled", "STALL", OB_TOP_IS_SHARE, 5, 14 },
	[OB_TOP_TOUCH] = { "touch", "TOUCH/s", OB_TOP_IS_RATE, 7, 15 },
	[OB_TOP_BENCH] = { "bench", "BENCH/s", OB_TOP_IS_RATE, 7, 16 },
	[OB_TOP_ZERO] = { "zero", "ZERO/s", OB_TOP_IS_RATE, 6, 17 },
	[OB_TOP_DECOMPRESS] = { "decompress", "COMPR/s", OB_TOP_IS_RATE, 7, 18 },
	[OB_TOP_SWAP_READ] = { "swap-read", "SWAP/s", OB_TOP_IS_RATE, 6, 19 },
	[OB_TOP_COPY] = { "copy", "SHARE/s", OB_TOP_IS_RATE, 7, 20 },
};

static void take_text(char *to, size_t size, const json_t *object, const char *key)
{
	ob_text_clean(to, size, ob_client_text(object, key));
}

static uint64_t number_or_unknown(const json_t *object, const char *key)
{
	return json_is_integer(json_object_get(object, key)) ? ob_client_number(object, key) : OB_TOP_UNKNOWN;
}

static void take_counts(struct ob_top_counts *counts, const json_t *object, uint64_t now_ms)
{
	const json_t *faults = json_object_get(object, "faults");
	uint64_t age_ms = ob_client_number(object, "age_ms");

	counts->reported_ms = json_is_object(object) && now_ms > age_ms ? now_ms - age_ms : 0;
#define X(name) counts->faults[OB_HIST_##name] = ob_client_number(faults, #name);
	OB_HISTS(X)
#undef X
	counts->stall_ns = ob_client_number(object, "stall_ns");
	counts->swap_in_pages = ob_client_number(object, "swap_in_pages");
	counts->swap_out_pages = ob_client_number(object, "swap_out_pages");
}

static void take_row(struct ob_top_row *row, const json_t *object, uint64_t now_ms)
{
	take_text(row->name, sizeof(row->name), object, "name");
	take_text(row->state, sizeof(row->state), object, "state");
	take_text(row->domain, sizeof(row->domain), object, "domain");
	take_text(row->cause, sizeof(row->cause), object, "cause");
	row->pid = ob_client_number(object, "pid");
	row->shares = ob_client_number(object, "shares");
	row->degraded = ob_client_number(object, "degraded");
	row->ram_bytes = ob_client_number(object, "ram_bytes");
	row->cost_bytes = ob_client_number(object, "cost_bytes");
	row->resident_bytes = ob_client_number(object, "resident_bytes");
	row->benched_bytes = ob_client_number(object, "benched_bytes");
	row->zero_bytes = ob_client_number(object, "zero_bytes");
	row->compressed_bytes = ob_client_number(object, "compressed_bytes");
	row->pool_bytes = ob_client_number(object, "pool_bytes");
	row->swapped_bytes = ob_client_number(object, "swapped_bytes");
	row->shared_bytes = ob_client_number(object, "shared_bytes");
	row->ballooned_bytes = ob_client_number(object, "ballooned_bytes");
	row->over_limit_bytes = ob_client_number(object, "over_limit_bytes");
	row->reservation_bytes = ob_client_number(object, "reservation_bytes");
	row->limit_bytes = ob_client_number(object, "limit_bytes");
	row->target_bytes = ob_client_number(object, "target_bytes");
	row->maximum_bytes = ob_client_number(object, "maximum_bytes");
	row->working_set_bytes = number_or_unknown(object, "working_set_bytes");
	row->working_set_low_bytes = number_or_unknown(object, "working_set_low_bytes");
	row->working_set_high_bytes = number_or_unknown(object, "working_set_high_bytes");
	row->working_set_samples = ob_client_number(object, "working_set_samples");
	take_counts(&row->counts, json_object_get(object, "counts"), now_ms);
	row->rates = rates_unknown;
}

static bool has_fallen(const struct ob_top_counts *before, const struct ob_top_counts *now)
{
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
		if (now->faults[kind] < before->faults[kind])
			return true;
	return now->stall_ns < before->stall_ns || now->swap_in_pages < before->swap_in_pages || now->swap_out_pages < before->swap_out_pages;
}

static void make_rates(struct ob_top_row *row, const struct ob_top_row *before, uint64_t now_ms)
{
	const struct ob_top_counts *from = &before->counts, *to = &row->counts;
	double seconds;

	if (!from->reported_ms || to->reported_ms < from->reported_ms || has_fallen(from, to))
		return;
	if (to->reported_ms - from->reported_ms < RATE_MIN_MS) {
		/* The same report, or nearly so. */
		row->counts = *from;
		if (now_ms - from->reported_ms < RATE_MAX_MS)
			row->rates = before->rates;
		return;
	}
	seconds = (double)(to->reported_ms - from->reported_ms) / 1000;
	row->rates.all_faults = 0;
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++) {
		row->rates.faults[kind] = (double)(to->faults[kind] - from->faults[kind]) / seconds;
		row->rates.all_faults += row->rates.faults[kind];
	}
	row->rates.swap_in_bytes = (double)(to->swap_in_pages - from->swap_in_pages) * PAGE_BYTES / seconds;
	row->rates.swap_out_bytes = (double)(to->swap_out_pages - from->swap_out_pages) * PAGE_BYTES / seconds;
	row->rates.stalled = (double)(to->stall_ns - from->stall_ns) / 1e9 / seconds;
}

/* Takes over what the same machine had before. */
static void follow(struct ob_top_row *row, struct ob_top_row *before, uint64_t now_ms)
{
	make_rates(row, before, now_ms);
	row->history = before->history;
	row->history_next = before->history_next;
	row->history_count = before->history_count;
	before->history = NULL;
}

static void remember(struct ob_top_row *row)
{
	row->history[row->history_next] = (struct ob_top_point){ row->cost_bytes, row->working_set_bytes };
	row->history_next = (row->history_next + 1) % OB_TOP_HISTORY;
	row->history_count = OB_MIN(row->history_count + 1, OB_TOP_HISTORY);
}

const struct ob_top_point *ob_top_point(const struct ob_top_row *row, unsigned n)
{
	return &row->history[(row->history_next + OB_TOP_HISTORY - 1 - n) % OB_TOP_HISTORY];
}

static void add_rates(struct ob_top_rates *sum, const struct ob_top_rates *rates)
{
	if (rates->all_faults < 0)
		return;
	if (sum->all_faults < 0)
		memset(sum, 0, sizeof(*sum));
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
		sum->faults[kind] += rates->faults[kind];
	sum->all_faults += rates->all_faults;
	sum->swap_in_bytes += rates->swap_in_bytes;
	sum->swap_out_bytes += rates->swap_out_bytes;
	sum->stalled += rates->stalled;
}

/* One that is or was released runs, too. */
static bool is_running(const struct ob_top_row *row)
{
	return !strcmp(row->state, "running") || !strcmp(row->state, "releasing") || !strcmp(row->state, "released");
}

/* The part of the time that something on the host waited for memory; after a moment too short to tell, as before. */
static void take_pressure(struct ob_top_host *host, const struct ob_top_host *before, const json_t *object)
{
	uint64_t elapsed_ms = ob_less(host->now_ms, before->pressure_ms);

	host->total_bytes = ob_client_number(object, "total_bytes");
	host->available_bytes = ob_client_number(object, "available_bytes");
	host->pressure_us = number_or_unknown(object, "pressure_some_us");
	host->pressure_ms = host->now_ms;
	host->waits = -1;
	if (host->pressure_us == OB_TOP_UNKNOWN || !before->pressure_ms || before->pressure_us == OB_TOP_UNKNOWN ||
	    host->pressure_us < before->pressure_us)
		return;
	if (elapsed_ms >= RATE_MIN_MS) {
		host->waits = OB_MIN((double)(host->pressure_us - before->pressure_us) / 1000 / (double)elapsed_ms, 1.0);
		return;
	}
	host->pressure_us = before->pressure_us;
	host->pressure_ms = before->pressure_ms;
	host->waits = before->waits;
}

static void take_host(struct ob_top_host *host, const struct ob_top_host *before, const json_t *answer, const struct ob_top_row *rows, size_t count)
{
	const json_t *large = json_object_get(answer, "large_pages"), *stores = json_object_get(answer, "stores");
	const json_t *memory = json_object_get(answer, "memory");

	take_text(host->version, sizeof(host->version), answer, "program_version");
	take_text(host->memory_state, sizeof(host->memory_state), memory, "state");
	take_text(host->memory_because, sizeof(host->memory_because), memory, "because");
	take_text(host->large_policy, sizeof(host->large_policy), large, "policy");
	host->memory_known = json_is_object(large);
	host->may_make_large = json_is_true(json_object_get(large, "may_make"));
	host->pid = ob_client_number(answer, "pid");
	host->now_ms = ob_client_number(answer, "now_ms");
	host->budget_bytes = ob_client_number(answer, "budget_bytes");
	host->free_bytes = ob_client_number(large, "free_bytes");
	host->min_free_bytes = ob_client_number(large, "min_free_bytes");
	host->boundary_bytes = ob_client_number(large, "boundary_bytes");
	host->shareable_pages = number_or_unknown(large, "shareable_pages");
	host->store_bytes = ob_client_number(stores, "store_bytes");
	host->shared_bytes = ob_client_number(stores, "shared_bytes");
	host->saved_bytes = ob_client_number(stores, "saved_bytes");
	take_pressure(host, before, json_object_get(answer, "host"));
	host->rates = rates_unknown;
	for (size_t i = 0; i < count; i++) {
		host->cost_bytes += rows[i].cost_bytes;
		host->ram_bytes += rows[i].ram_bytes;
		host->not_running += !is_running(&rows[i]);
		host->over_limit += rows[i].over_limit_bytes != 0;
		add_rates(&host->rates, &rows[i].rates);
	}
}

static struct ob_top_row *find(const struct ob_top *top, const char *name)
{
	for (size_t i = 0; i < top->count; i++)
		if (!strcmp(top->rows[i].name, name))
			return &top->rows[i];
	return NULL;
}

const struct ob_top_row *ob_top_find(const struct ob_top *top, const char *name)
{
	return find(top, name);
}

static void free_rows(struct ob_top_row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(rows[i].history);
	free(rows);
}

int ob_top_take(struct ob_top *top, const json_t *answer, struct ob_error *err)
{
	const json_t *machines = json_object_get(answer, "machines"), *machine;
	size_t count = json_array_size(machines), i;
	uint64_t now_ms = ob_client_number(answer, "now_ms");
	struct ob_top_host host_before = top->host;
	struct ob_top_row *rows;

	if (!json_is_array(machines) || count > OB_TOP_ROWS_MAX)
		return ob_error_set(err, EPROTO, "overbookd does not list at most %d machines: is it another version?", OB_TOP_ROWS_MAX);
	rows = calloc(count + 1, sizeof(*rows));
	if (!rows)
		return ob_error_sys(err, ENOMEM, "cannot take in overbookd's answer");
	/* All that can fail comes first, so that a failure leaves everything as it was. */
	json_array_foreach(machines, i, machine) {
		take_row(&rows[i], machine, now_ms);
		rows[i].history = calloc(OB_TOP_HISTORY, sizeof(*rows[i].history));
		if (!rows[i].history) {
			free_rows(rows, count);
			return ob_error_sys(err, ENOMEM, "cannot take in overbookd's answer");
		}
	}
	for (i = 0; i < count; i++) {
		struct ob_top_row *before = find(top, rows[i].name);

		if (before && before->pid == rows[i].pid && before->history) {
			free(rows[i].history);
			follow(&rows[i], before, now_ms);
		}
		remember(&rows[i]);
	}
	free_rows(top->rows, top->count);
	*top = (struct ob_top){ .rows = rows, .count = count };
	take_host(&top->host, &host_before, answer, rows, count);
	return 0;
}

void ob_top_clear(struct ob_top *top)
{
	free_rows(top->rows, top->count);
	*top = (struct ob_top){ 0 };
}

static double known(uint64_t value)
{
	return value == OB_TOP_UNKNOWN ? -1 : (double)value;
}

/* No limit is more than any. */
static double or_endless(uint64_t value)
{
	return value ? (double)value : INFINITY;
}

double ob_top_value(const struct ob_top_row *row, enum ob_top_key key)
{
	switch (key) {
	case OB_TOP_COST: return (double)row->cost_bytes;
	case OB_TOP_LIMIT: return or_endless(row->limit_bytes);
	case OB_TOP_TARGET: return or_endless(row->target_bytes);
	case OB_TOP_FAULTS: return row->rates.all_faults;
	case OB_TOP_SWAP_IN: return row->rates.swap_in_bytes;
	case OB_TOP_SWAP_OUT: return row->rates.swap_out_bytes;
	case OB_TOP_SWAPPED: return (double)row->swapped_bytes;
	case OB_TOP_RAM: return (double)row->ram_bytes;
	case OB_TOP_WORKING_SET: return known(row->working_set_bytes);
	case OB_TOP_RESIDENT: return (double)row->resident_bytes + (double)row->benched_bytes;
	case OB_TOP_SHARED: return (double)row->shared_bytes;
	case OB_TOP_COMPRESSED: return (double)row->compressed_bytes;
	case OB_TOP_BALLOONED: return (double)row->ballooned_bytes;
	case OB_TOP_STALLED: return row->rates.stalled;
	case OB_TOP_TOUCH: return row->rates.faults[OB_HIST_touch];
	case OB_TOP_BENCH: return row->rates.faults[OB_HIST_bench];
	case OB_TOP_ZERO: return row->rates.faults[OB_HIST_zero];
	case OB_TOP_DECOMPRESS: return row->rates.faults[OB_HIST_compressed];
	case OB_TOP_SWAP_READ: return row->rates.faults[OB_HIST_swapped];
	case OB_TOP_COPY: return row->rates.faults[OB_HIST_shared];
	case OB_TOP_NAME:
	case OB_TOP_STATE:
	case OB_TOP_KEYS: break;
	}
	return 0;
}

struct order {
	enum ob_top_key key;
	bool reverse;
};

static int compare(const void *a, const void *b, void *context)
{
	const struct ob_top_row *left = a, *right = b;
	const struct order *order = context;
	double x = ob_top_value(left, order->key), y = ob_top_value(right, order->key);
	int names = strcmp(left->name, right->name), r;

	if (order->key == OB_TOP_NAME)
		r = names;
	else if (order->key == OB_TOP_STATE)
		r = strcmp(left->state, right->state);
	else
		r = (x < y) - (x > y);
	return r ? (order->reverse ? -r : r) : names;
}

void ob_top_sort(struct ob_top *top, enum ob_top_key key, bool reverse)
{
	struct order order = { key, reverse };

	if (top->count)
		qsort_r(top->rows, top->count, sizeof(*top->rows), compare, &order);
}

int ob_top_key_parse(const char *text)
{
	for (int i = 0; i < OB_TOP_KEYS; i++)
		if (!strcmp(text, ob_top_columns[i].key))
			return i;
	return -EINVAL;
}

static void add_rate(json_t *object, const char *key, double rate)
{
	/* Without memory the member is missing. */
	(void)json_object_set_new(object, key, rate < 0 ? json_null() : json_real(rate));
}

json_t *ob_top_render_rates(const struct ob_top_rates *rates)
{
	json_t *faults = json_object(), *object = json_pack("{s:o}", "faults", faults);

	if (!object)
		return NULL;
#define X(name) add_rate(faults, #name, rates->faults[OB_HIST_##name]);
	OB_HISTS(X)
#undef X
	add_rate(faults, "all", rates->all_faults);
	add_rate(object, "swap_in_bytes", rates->swap_in_bytes);
	add_rate(object, "swap_out_bytes", rates->swap_out_bytes);
	add_rate(object, "stalled", rates->stalled);
	return object;
}
