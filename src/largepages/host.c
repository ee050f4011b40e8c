/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "largepages/host.h"

#include <string.h>

#include "base/compiler.h"
#include "base/units.h"

#define NS_PER_SEC     1000000000ull
#define PAGE_BYTES     4096u
#define TREND_NS       (4 * NS_PER_SEC)   /* what the trend forgets in */
#define TREND_MAX      (1ll << 60)
#define HORIZON_S      30u  /* a fall that uses up what there is within this is a fast one */
#define AHEAD_S        16u  /* from when a page is looked at to when its memory is free, with some to spare */
#define LOWER_NS       (64 * NS_PER_SEC)  /* the boundary comes down by its own size in so long */
#define RECOVER_S      30u  /* what is missing to the boundary is to be got back in this */
#define NOISE          256u /* of min_free, a second: less is no trend */
#define HYSTERESIS     8u   /* of min_free, that up takes more than down */
#define UNDONE_DWELLS  4u   /* an up that lasts no longer was a mistake */
#define CALM_DWELLS    8u
#define HOT_MOST       128u /* pages of 512: a hot page is broken at the default boundary for so many, */
#define HOT_LEAST      8u   /* ... and at min_free */
#define COLD_HIGH      16u  /* a cold one in high */
#define COLD_SHARE     8u   /* of what a hot one takes, in clear */
#define LIKELY_PAGES   64u  /* shareable of a large page, while nobody knows */
#define ROUND_S        3600u /* for a look at every chunk while memory is plenty, at most: the product's default for sharing */
#define CHUNK_BYTES    (2 * OB_MIB)
#define BUCKET_BITS    30

__extension__ typedef __int128 wide;

static const char *const state_names[OB_LARGE_STATES] = { "high", "clear", "low" };
static const char *const policy_names[OB_LARGE_POLICIES] = { "proactive", "late", "never", "off" };

const char *ob_large_state_name(enum ob_large_state state)
{
	return (unsigned)state < OB_LARGE_STATES ? state_names[state] : "?";
}

const char *ob_large_policy_name(enum ob_large_policy policy)
{
	return (unsigned)policy < OB_LARGE_POLICIES ? policy_names[policy] : "?";
}

int ob_large_policy_parse(const char *name)
{
	for (int i = 0; i < OB_LARGE_POLICIES; i++)
		if (strcmp(name, policy_names[i]) == 0)
			return i;
	return -1;
}

/* --- where the boundaries lie --- */

uint64_t ob_large_min_free(uint64_t budget_bytes)
{
	static const struct {
		uint64_t bytes;
		unsigned percent;
	} steps[] = { { 4 * OB_GIB, 6 }, { 8 * OB_GIB, 4 }, { 16 * OB_GIB, 2 }, { UINT64_MAX, 1 } };
	uint64_t rest = budget_bytes, sum = 0;

	for (unsigned i = 0; i < OB_ARRAY_LEN(steps); i++) {
		uint64_t part = OB_MIN(rest, steps[i].bytes);

		sum += (uint64_t)((wide)part * steps[i].percent / 100);
		rest -= part;
	}
	return sum;
}

uint64_t ob_large_boundary_floor(uint64_t min_free_bytes)
{
	return min_free_bytes + min_free_bytes / 4;
}

uint64_t ob_large_boundary_most(uint64_t budget_bytes, uint64_t min_free_bytes)
{
	return OB_MAX(ob_large_boundary_floor(min_free_bytes), budget_bytes - budget_bytes / 4);
}

uint64_t ob_large_boundary_default(uint64_t budget_bytes, uint64_t min_free_bytes)
{
	uint64_t wanted = min_free_bytes > UINT64_MAX / 4 ? UINT64_MAX : 4 * min_free_bytes;

	return OB_MIN(wanted, ob_large_boundary_most(budget_bytes, min_free_bytes));
}

static uint64_t default_of(const struct ob_large_host *host)
{
	return ob_large_boundary_default(host->budget_bytes, host->min_free_bytes);
}

static uint64_t hysteresis_of(const struct ob_large_host *host)
{
	return host->min_free_bytes / HYSTERESIS;
}

/* --- a step --- */

static void start(struct ob_large_host *host)
{
	host->is_started = 1;
	host->dwell_ns = OB_LARGE_DWELL_MIN_NS;
	host->since_up_ns = UINT64_MAX;
	host->state = host->free_bytes < host->min_free_bytes ? OB_LARGE_LOW :
		      host->free_bytes < host->boundary_bytes ? OB_LARGE_CLEAR : OB_LARGE_HIGH;
}

static void take_budget(struct ob_large_host *host, const struct ob_large_input *input)
{
	uint64_t min_free = input->min_free_bytes ? input->min_free_bytes : ob_large_min_free(input->budget_bytes);

	if (host->is_started && host->budget_bytes == input->budget_bytes && host->setting_bytes == input->min_free_bytes)
		return;
	host->budget_bytes = input->budget_bytes;
	host->setting_bytes = input->min_free_bytes;
	host->min_free_bytes = OB_MIN(min_free, input->budget_bytes / 2);
	host->boundary_bytes = default_of(host);
}

static void follow_trend(struct ob_large_host *host, uint64_t free_bytes, uint64_t elapsed_ns)
{
	wide rate;

	if (!elapsed_ns)
		return;
	rate = ((wide)free_bytes - (wide)host->free_bytes) * NS_PER_SEC / (wide)elapsed_ns;
	rate = OB_MAX(OB_MIN(rate, (wide)TREND_MAX), -(wide)TREND_MAX);
	host->trend += (int64_t)((rate - host->trend) * (wide)elapsed_ns / ((wide)elapsed_ns + TREND_NS));
}

/* Bytes a second by which free memory falls, or 0. */
static uint64_t falling(const struct ob_large_host *host)
{
	return host->trend < 0 ? (uint64_t)-host->trend : 0;
}

static int falls_fast(const struct ob_large_host *host)
{
	uint64_t above = host->free_bytes - OB_MIN(host->free_bytes, host->min_free_bytes), speed = falling(host);

	return speed > host->min_free_bytes / NOISE && above < (unsigned __int128)speed * HORIZON_S;
}

/* The default one, or what will have been used up by the time that breaking has helped, as far as it can be at all. */
static uint64_t boundary_ahead(const struct ob_large_host *host)
{
	uint64_t most = ob_large_boundary_most(host->budget_bytes, host->min_free_bytes);
	unsigned __int128 ahead = (unsigned __int128)falling(host) * AHEAD_S;

	ahead = OB_MIN(ahead, host->growth_bytes) + host->min_free_bytes;
	return OB_MAX(default_of(host), ahead < most ? (uint64_t)ahead : most);
}

static void move_boundary(struct ob_large_host *host, uint64_t calm_ns)
{
	uint64_t most = default_of(host), least = ob_large_boundary_floor(host->min_free_bytes), margin = hysteresis_of(host), step;

	if (falls_fast(host)) {
		host->resets += host->boundary_bytes < most;
		host->boundary_bytes = boundary_ahead(host);
		return;
	}
	host->boundary_bytes = OB_MIN(host->boundary_bytes, most);
	if (host->state == OB_LARGE_HIGH && host->free_bytes >= most) {
		host->boundary_bytes = most;
		return;
	}
	if (host->state != OB_LARGE_CLEAR || host->trend <= (int64_t)OB_MIN(host->min_free_bytes / NOISE, (uint64_t)TREND_MAX))
		return;
	/* As far as high can be reached. */
	least = OB_MAX(least, host->free_bytes - OB_MIN(host->free_bytes, margin));
	if (host->boundary_bytes <= least)
		return;
	step = (uint64_t)((wide)host->boundary_bytes * (wide)calm_ns / LOWER_NS);
	host->boundary_bytes -= OB_MIN(step, host->boundary_bytes - least);
}

static void change(struct ob_large_host *host, enum ob_large_state state)
{
	if (state < host->state)
		host->since_up_ns = 0;
	else if (host->since_up_ns / UNDONE_DWELLS < host->dwell_ns)
		host->dwell_ns = OB_MIN(2 * host->dwell_ns, OB_LARGE_DWELL_MAX_NS);
	host->state = state;
	host->changes++;
	host->calm_ns = host->since_change_ns = 0;
}

/* Down at once, up a state at a time when it has been deserved for long enough. */
static void move_state(struct ob_large_host *host, uint64_t calm_ns)
{
	uint64_t free_bytes = host->free_bytes, margin = hysteresis_of(host);
	enum ob_large_state worst = free_bytes < host->min_free_bytes ? OB_LARGE_LOW :
				    free_bytes < host->boundary_bytes ? OB_LARGE_CLEAR : OB_LARGE_HIGH;
	enum ob_large_state best = free_bytes < host->min_free_bytes + margin ? OB_LARGE_LOW :
				   free_bytes < host->boundary_bytes + margin ? OB_LARGE_CLEAR : OB_LARGE_HIGH;

	if (worst > host->state) {
		change(host, worst);
		return;
	}
	host->calm_ns = best < host->state ? host->calm_ns + calm_ns : 0;
	if (host->calm_ns >= host->dwell_ns) {
		change(host, host->state - 1);
	} else if (host->since_change_ns / CALM_DWELLS >= host->dwell_ns && host->dwell_ns > OB_LARGE_DWELL_MIN_NS) {
		host->dwell_ns /= 2;
		host->since_change_ns = 0;
	}
}

static void pass_time(struct ob_large_host *host, uint64_t calm_ns)
{
	host->since_up_ns = host->since_up_ns > UINT64_MAX - calm_ns ? UINT64_MAX : host->since_up_ns + calm_ns;
	host->since_change_ns = host->since_change_ns > UINT64_MAX - calm_ns ? UINT64_MAX : host->since_change_ns + calm_ns;
}

/* --- orders --- */

/* So many shareable pages are worth breaking a hot large one: from HOT_LEAST at min_free to HOT_MOST at the default boundary. */
static unsigned hot_pages(const struct ob_large_host *host)
{
	uint64_t above = host->free_bytes - OB_MIN(host->free_bytes, host->min_free_bytes);
	uint64_t span = default_of(host) - host->min_free_bytes;

	if (!span || above >= span)
		return HOT_MOST;
	return HOT_LEAST + (unsigned)((wide)above * (HOT_MOST - HOT_LEAST) / span);
}

static uint32_t rate_for(uint64_t need_bytes, uint64_t pages, uint32_t least, uint32_t most)
{
	uint64_t rate = need_bytes / OB_MAX(pages * PAGE_BYTES, (uint64_t)PAGE_BYTES);

	return (uint32_t)OB_MAX(OB_MIN(rate, (uint64_t)most), (uint64_t)least);
}

/* Chunks a second, whatever the need. */
static uint32_t base_rate(const struct ob_large_host *host, uint32_t most)
{
	return (uint32_t)OB_MIN(OB_MAX(host->budget_bytes / CHUNK_BYTES / ROUND_S, (uint64_t)OB_LARGE_SCAN_MIN), (uint64_t)most);
}

static void order_rates(const struct ob_large_host *host, uint32_t shareable, struct ob_large_orders *orders)
{
	uint64_t wanted = host->boundary_bytes + hysteresis_of(host);
	uint64_t need = (wanted - OB_MIN(wanted, host->free_bytes)) / RECOVER_S + falling(host);
	uint64_t pages = shareable == OB_LARGE_UNKNOWN ? LIKELY_PAGES : OB_MIN(shareable, OB_LARGE_PAGES);

	uint32_t least = base_rate(host, OB_LARGE_SCAN_MAX), least_broken = base_rate(host, OB_LARGE_BREAK_MAX);

	if (host->state == OB_LARGE_HIGH)
		need = 0;
	orders->scan_rate = pages ? rate_for(need, pages, least, OB_LARGE_SCAN_MAX) : least;
	/* Those that are broken have what they are broken for, at least. */
	orders->break_rate = rate_for(need, OB_MAX(pages, (uint64_t)orders->cold_pages), least_broken, OB_LARGE_BREAK_MAX);
	if (host->state == OB_LARGE_LOW) {
		orders->scan_rate = pages ? OB_LARGE_SCAN_MAX : least;
		orders->break_rate = OB_LARGE_BREAK_MAX;
	}
}

static void order_breaking(const struct ob_large_host *host, uint32_t shareable, struct ob_large_orders *orders)
{
	orders->may_make = host->state == OB_LARGE_HIGH;
	orders->hot_pages = OB_LARGE_NO_THRESHOLD;
	orders->cold_pages = COLD_HIGH;
	if (host->state == OB_LARGE_CLEAR) {
		orders->hot_pages = (uint16_t)hot_pages(host);
		orders->cold_pages = (uint16_t)(orders->hot_pages / COLD_SHARE);
	} else if (host->state == OB_LARGE_LOW) {
		orders->hot_pages = HOT_LEAST;
		orders->cold_pages = 1;
	}
	order_rates(host, shareable, orders);
}

static struct ob_large_orders order(const struct ob_large_host *host, enum ob_large_policy policy, uint32_t shareable)
{
	struct ob_large_orders orders = {
		.policy = policy, .state = host->state, .may_make = 1,
		.hot_pages = OB_LARGE_NO_THRESHOLD, .cold_pages = OB_LARGE_NO_THRESHOLD,
		.collapse_rate = host->state == OB_LARGE_HIGH ? OB_LARGE_COLLAPSE_MAX : 0,
	};

	if (policy == OB_LARGE_OFF) {
		orders.may_make = 0;
		orders.hot_pages = orders.cold_pages = 0;
		orders.scan_rate = OB_LARGE_SCAN_MAX;
		orders.break_rate = OB_LARGE_BREAK_MAX;
		orders.collapse_rate = 0;
	} else if (policy == OB_LARGE_PROACTIVE || (policy == OB_LARGE_LATE && host->state == OB_LARGE_LOW)) {
		order_breaking(host, shareable, &orders);
	}
	return orders;
}

struct ob_large_orders ob_large_host_step(struct ob_large_host *host, enum ob_large_policy policy, const struct ob_large_input *input)
{
	uint64_t calm_ns = OB_MIN(input->elapsed_ns, OB_LARGE_STEP_MAX_NS);
	uint64_t free_bytes = OB_MIN(input->free_bytes, input->budget_bytes);

	take_budget(host, input);
	if (host->is_started)
		follow_trend(host, free_bytes, input->elapsed_ns);
	host->free_bytes = free_bytes;
	host->growth_bytes = input->growth_bytes;
	if (!host->is_started) {
		start(host);
	} else {
		pass_time(host, calm_ns);
		move_boundary(host, calm_ns);
		move_state(host, calm_ns);
	}
	return order(host, policy, input->shareable_pages);
}

/* --- rates, piece by piece --- */

uint32_t ob_large_bucket_fill(struct ob_large_bucket *bucket, uint32_t rate, uint64_t elapsed_ns)
{
	/* A second's worth at most, and never less than the one piece that a rate below one a second takes long to fill. */
	uint64_t most = (uint64_t)OB_MAX(rate, 1u) << BUCKET_BITS;
	uint64_t part = (uint64_t)(((wide)rate << BUCKET_BITS) * (wide)OB_MIN(elapsed_ns, NS_PER_SEC) / NS_PER_SEC);

	bucket->parts = rate ? OB_MIN(bucket->parts + part, most) : 0;
	return (uint32_t)(bucket->parts >> BUCKET_BITS);
}

int ob_large_bucket_take(struct ob_large_bucket *bucket)
{
	if (bucket->parts >> BUCKET_BITS == 0)
		return 0;
	bucket->parts -= 1ull << BUCKET_BITS;
	return 1;
}
