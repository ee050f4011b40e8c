/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's state: cases by hand, and what must hold over thousands of steps of any trace: slow, fast, waves, saws across
 * the boundary, an adversary that watches the controller and wants it to flap, random walks, nonsense, and what real guests
 * have done (the traces of the directory that is given as an argument: bench/largepages has recorded them).
 */
#include "test.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "largepages/host.h"

#define SECOND  1000000000ull
#define BUDGET  (28 * OB_GIB)
#define CHANGES 8192

/* A controller, and what is seen of it. */
struct watched {
	struct ob_large_host host;
	struct ob_large_orders orders;
	uint64_t now_ns, budget_bytes, min_free_bytes, growth_bytes;
	int has_growth;
	uint64_t changed_ns[CHANGES];
	unsigned change_count;
};

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 16) % below;
}

static void check_orders(const struct watched *w, enum ob_large_policy policy)
{
	const struct ob_large_orders *o = &w->orders;

	assert_int_equal(o->state, w->host.state);
	assert_true(o->hot_pages >= o->cold_pages && o->hot_pages <= OB_LARGE_NO_THRESHOLD);
	assert_true(o->scan_rate <= OB_LARGE_SCAN_MAX && o->break_rate <= OB_LARGE_BREAK_MAX);
	assert_true(o->state == OB_LARGE_HIGH || !o->collapse_rate);
	if (policy == OB_LARGE_PROACTIVE) {
		assert_int_equal(o->may_make, o->state == OB_LARGE_HIGH);
		assert_true(o->scan_rate >= OB_LARGE_SCAN_MIN);
	}
	if (policy == OB_LARGE_NEVER || (policy == OB_LARGE_LATE && o->state != OB_LARGE_LOW))
		assert_true(o->cold_pages == OB_LARGE_NO_THRESHOLD && o->may_make && !o->break_rate);
}

/* A step with what must hold after each. */
static void step_policy(struct watched *w, enum ob_large_policy policy, uint64_t free_bytes, uint64_t elapsed_ns)
{
	struct ob_large_input input = { .elapsed_ns = elapsed_ns, .budget_bytes = w->budget_bytes, .free_bytes = free_bytes,
					.min_free_bytes = w->min_free_bytes, .shareable_pages = OB_LARGE_UNKNOWN,
					.growth_bytes = w->has_growth ? w->growth_bytes : UINT64_MAX };
	uint64_t changes = w->host.changes, free_is = OB_MIN(free_bytes, w->budget_bytes), min_free;

	w->orders = ob_large_host_step(&w->host, policy, &input);
	w->now_ns += elapsed_ns;
	min_free = w->host.min_free_bytes;
	assert_true(w->host.boundary_bytes >= ob_large_boundary_floor(min_free));
	assert_true(w->host.boundary_bytes <= ob_large_boundary_most(w->budget_bytes, min_free));
	/* It lies ahead of a fall alone. */
	assert_true(w->host.boundary_bytes <= ob_large_boundary_default(w->budget_bytes, min_free) || w->host.trend < 0);
	assert_true(min_free <= w->budget_bytes / 2);
	assert_true(free_is >= min_free || w->host.state == OB_LARGE_LOW);
	assert_true(free_is >= w->host.boundary_bytes || w->host.state != OB_LARGE_HIGH);
	assert_true(w->host.dwell_ns >= OB_LARGE_DWELL_MIN_NS && w->host.dwell_ns <= OB_LARGE_DWELL_MAX_NS);
	assert_true(w->host.changes - changes <= 1);
	if (w->host.changes != changes && w->change_count < CHANGES)
		w->changed_ns[w->change_count++] = w->now_ns;
	check_orders(w, policy);
}

static void step(struct watched *w, uint64_t free_bytes)
{
	step_policy(w, OB_LARGE_PROACTIVE, free_bytes, SECOND);
}

static void hold(struct watched *w, uint64_t free_bytes, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++)
		step(w, free_bytes);
}

/* In a straight line, a step a second. */
static void glide(struct watched *w, uint64_t from, uint64_t to, unsigned seconds)
{
	for (unsigned i = 1; i <= seconds; i++)
		step(w, from > to ? from - (from - to) / seconds * i : from + (to - from) / seconds * i);
}

/* Never more than 2 T/D + 4 changes in any T, and T/2D + 16 from the first to any. */
static void check_changes(const struct watched *w)
{
	assert_true(w->change_count < CHANGES);
	for (unsigned i = 0; i < w->change_count; i++)
		for (unsigned j = i; j < w->change_count; j++)
			assert_true(j - i + 1 <= 2 * (w->changed_ns[j] - w->changed_ns[i]) / OB_LARGE_DWELL_MIN_NS + 4);
	for (unsigned j = 0; j < w->change_count; j++)
		assert_true(j + 1 <= (w->changed_ns[j] - w->changed_ns[0]) / (2 * OB_LARGE_DWELL_MIN_NS) + 16);
}

static uint64_t margin(const struct watched *w)
{
	return w->host.min_free_bytes / 8;
}

/* --- cases --- */

static void the_scale_is_the_products(void **state)
{
	/* 899 MiB at 28 GiB are published (their GB may be 10^9 bytes); 1% of what is more. */
	assert_in_range(ob_large_min_free(28 * OB_GIB), 890 * OB_MIB, 910 * OB_MIB);
	assert_int_equal(ob_large_min_free(OB_GIB * 100) / OB_MIB - ob_large_min_free(OB_GIB * 0) / OB_MIB, 901 + 737);
	assert_int_equal(ob_large_min_free(0), 0);
	assert_int_equal(ob_large_min_free(100 * OB_MIB), 6 * OB_MIB);
	assert_true(ob_large_min_free(UINT64_MAX) < UINT64_MAX / 90);
	for (uint64_t budget = 1; budget < UINT64_MAX / 3; budget = budget * 3 + 1)
		assert_true(ob_large_min_free(budget) <= ob_large_min_free(budget * 3));
}

static void a_host_starts_where_its_free_memory_says(void **state)
{
	static const struct {
		uint64_t free_mib;
		enum ob_large_state state;
	} rows[] = { { 20000, OB_LARGE_HIGH }, { 3606, OB_LARGE_HIGH }, { 3600, OB_LARGE_CLEAR }, { 902, OB_LARGE_CLEAR }, { 900, OB_LARGE_LOW },
		     { 0, OB_LARGE_LOW } };

	for (unsigned i = 0; i < OB_ARRAY_LEN(rows); i++) {
		struct watched w = { .budget_bytes = BUDGET };

		step(&w, rows[i].free_mib * OB_MIB);
		assert_int_equal(w.host.state, rows[i].state);
		assert_int_equal(w.host.changes, 0);
	}
}

static void it_goes_down_at_once_and_up_slowly(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };

	hold(&w, 8 * OB_GIB, 10);
	step(&w, 100 * OB_MIB);
	assert_int_equal(w.host.state, OB_LARGE_LOW);
	hold(&w, 8 * OB_GIB, 9);
	assert_int_equal(w.host.state, OB_LARGE_LOW);
	step(&w, 8 * OB_GIB);
	assert_int_equal(w.host.state, OB_LARGE_CLEAR);
	hold(&w, 8 * OB_GIB, 9);
	assert_int_equal(w.host.state, OB_LARGE_CLEAR);
	step(&w, 8 * OB_GIB);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	check_changes(&w);
}

static void a_moment_below_begins_the_wait_anew(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };

	step(&w, 0);
	hold(&w, 950 * OB_MIB, 600);
	assert_int_equal(w.host.state, OB_LARGE_LOW); /* not above min_free by the margin */
	for (unsigned i = 0; i < 100; i++) {
		hold(&w, 1100 * OB_MIB, 9);
		step(&w, 1000 * OB_MIB);
	}
	assert_int_equal(w.host.state, OB_LARGE_LOW);
	hold(&w, 1100 * OB_MIB, 10);
	assert_int_equal(w.host.state, OB_LARGE_CLEAR);
}

static void in_clear_rising_memory_lowers_the_boundary_until_high_is_reached(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };
	uint64_t was;

	hold(&w, 1500 * OB_MIB, 5);
	was = w.host.boundary_bytes;
	assert_int_equal(was, 4 * w.host.min_free_bytes);
	hold(&w, 1500 * OB_MIB, 100);
	assert_int_equal(w.host.boundary_bytes, was); /* nothing has risen */
	glide(&w, 1500 * OB_MIB, 2500 * OB_MIB, 100);
	assert_true(w.host.boundary_bytes < was);
	hold(&w, 2500 * OB_MIB, 20);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	assert_true(w.host.boundary_bytes + margin(&w) <= 2500 * OB_MIB);
}

static void a_fast_fall_resets_the_boundary_a_slow_one_does_not(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };

	hold(&w, 1500 * OB_MIB, 5);
	glide(&w, 1500 * OB_MIB, 2500 * OB_MIB, 100);
	hold(&w, 2500 * OB_MIB, 40);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	glide(&w, 2500 * OB_MIB, 2400 * OB_MIB, 300);
	assert_int_equal(w.host.resets, 0);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	/* 1500 MiB are above min_free: 100 MiB a second use them up in 15 s. */
	glide(&w, 2400 * OB_MIB, 1900 * OB_MIB, 5);
	assert_int_equal(w.host.resets, 1);
	assert_int_equal(w.host.boundary_bytes, 4 * w.host.min_free_bytes);
	assert_int_equal(w.host.state, OB_LARGE_CLEAR);
}

/* A GiB a second: what is free above min_free in 16 s is on its way, whatever the boundary is by default. */
static void a_fall_that_will_be_short_is_answered_ahead(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };
	uint64_t most, free_bytes = 26 * OB_GIB;

	hold(&w, free_bytes, 5);
	most = ob_large_boundary_default(BUDGET, w.host.min_free_bytes);
	while (w.host.state == OB_LARGE_HIGH)
		step(&w, free_bytes -= OB_GIB);
	assert_true(free_bytes > 3 * most && free_bytes < w.host.min_free_bytes + 17 * OB_GIB);
	/* When it is over the boundary returns; the state follows after its time. */
	hold(&w, free_bytes, 60);
	assert_int_equal(w.host.boundary_bytes, most);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	assert_int_equal(w.host.resets, 0);
	/* A slow one reaches the default first. */
	glide(&w, free_bytes, most + OB_MIB, 200);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
}

/* Machines that start, and can never use up what there is, are no cause for alarm: here 10 GiB of 28, where 30 would be one. */
static void what_cannot_be_used_up_is_not_answered_ahead(void **state)
{
	for (uint64_t all = 10; all <= 30; all += 20) {
		struct watched w = { .budget_bytes = BUDGET, .has_growth = 1, .growth_bytes = all * OB_GIB };
		uint64_t free_bytes = BUDGET;

		hold(&w, free_bytes, 5);
		for (unsigned i = 0; i < (all > 28 ? 16 : 10); i++) {
			w.growth_bytes -= OB_GIB;
			step(&w, free_bytes -= OB_GIB);
		}
		assert_int_equal(w.host.state, all > 28 ? OB_LARGE_CLEAR : OB_LARGE_HIGH);
	}
}

static void where_memory_is_plenty_the_boundary_returns(void **state)
{
	struct watched w = { .budget_bytes = BUDGET };

	hold(&w, 1500 * OB_MIB, 5);
	glide(&w, 1500 * OB_MIB, 2500 * OB_MIB, 100);
	hold(&w, 2500 * OB_MIB, 40);
	assert_true(w.host.boundary_bytes < 2500 * OB_MIB);
	glide(&w, 2500 * OB_MIB, 6000 * OB_MIB, 100);
	assert_int_equal(w.host.boundary_bytes, 4 * w.host.min_free_bytes);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
}

/* From a lowered boundary, falls that use up what there is in 15 s or less are answered within 5 s, with no less than half left. */
static void the_reaction_to_a_fast_fall_is_bounded(void **state)
{
	for (unsigned gone_in = 1; gone_in <= 15; gone_in++) {
		struct watched w = { .budget_bytes = BUDGET };
		uint64_t above, fall;
		unsigned seconds = 0;

		hold(&w, 1500 * OB_MIB, 5);
		glide(&w, 1500 * OB_MIB, 2500 * OB_MIB, 100);
		hold(&w, 2500 * OB_MIB, 40);
		assert_int_equal(w.host.state, OB_LARGE_HIGH);
		above = 2500 * OB_MIB - w.host.min_free_bytes;
		fall = above / gone_in;
		while (w.host.state == OB_LARGE_HIGH) {
			seconds++;
			step(&w, 2500 * OB_MIB - OB_MIN(seconds * fall, above));
		}
		assert_true(seconds <= 5);
		assert_true(gone_in < 3 || 2 * seconds <= gone_in + 1);
	}
}

static void less_shareable_is_looked_at_faster_but_nothing_is_not(void **state)
{
	struct ob_large_host host = { 0 };
	uint32_t last = 0;

	for (int pages = 512; pages >= 0; pages--) {
		struct ob_large_input input = { .elapsed_ns = 0, .budget_bytes = BUDGET, .free_bytes = 2000 * OB_MIB,
						.shareable_pages = (uint32_t)pages };
		struct ob_large_orders orders = ob_large_host_step(&host, OB_LARGE_PROACTIVE, &input);

		if (pages)
			assert_true(orders.scan_rate >= last);
		else
			assert_int_equal(orders.scan_rate, OB_LARGE_SCAN_MIN);
		last = orders.scan_rate;
	}
}

static void the_faster_memory_goes_the_more_is_looked_at(void **state)
{
	uint32_t last = 0;

	for (unsigned speed = 0; speed <= 20; speed++) {
		struct watched w = { .budget_bytes = BUDGET };

		for (unsigned i = 0; i < 30; i++)
			step(&w, 3000 * OB_MIB - (uint64_t)i * speed * OB_MIB);
		assert_true(w.orders.scan_rate >= last);
		last = w.orders.scan_rate;
	}
	assert_true(last > 4 * OB_LARGE_SCAN_MIN);
}

static void thresholds_fall_with_free_memory(void **state)
{
	unsigned hot = OB_LARGE_NO_THRESHOLD, cold = OB_LARGE_NO_THRESHOLD;

	for (uint64_t mib = 8000; mib < 9000; mib -= 10) {
		struct watched w = { .budget_bytes = BUDGET };

		step(&w, mib * OB_MIB);
		assert_true(w.orders.hot_pages <= hot && w.orders.cold_pages <= cold);
		hot = w.orders.hot_pages;
		cold = w.orders.cold_pages;
	}
	assert_int_equal(hot, 8);
	assert_int_equal(cold, 1);
}

/* --- traces --- */

static void slow_and_fast_ramps_change_the_state_once_for_each_boundary(void **state)
{
	static const unsigned lengths[] = { 5, 60, 600, 6000 };

	for (unsigned i = 0; i < OB_ARRAY_LEN(lengths); i++) {
		struct watched w = { .budget_bytes = BUDGET };

		hold(&w, 8 * OB_GIB, 5);
		glide(&w, 8 * OB_GIB, 0, lengths[i]);
		hold(&w, 0, 5);
		assert_int_equal(w.host.state, OB_LARGE_LOW);
		assert_true(w.host.changes <= 2);
		glide(&w, 0, 8 * OB_GIB, lengths[i]);
		hold(&w, 8 * OB_GIB, 60);
		assert_int_equal(w.host.state, OB_LARGE_HIGH);
		assert_true(w.host.changes <= 4);
		check_changes(&w);
	}
}

static void waves_and_saws_across_the_boundaries_do_not_flap(void **state)
{
	static const unsigned periods[] = { 2, 3, 7, 19, 20, 21, 40, 60, 100, 300 };
	static const unsigned middles[] = { 900, 1014, 1128, 2000, 3604, 3700 };

	for (unsigned i = 0; i < OB_ARRAY_LEN(periods); i++)
		for (unsigned j = 0; j < OB_ARRAY_LEN(middles); j++)
			for (unsigned saw = 0; saw < 2; saw++)
				for (unsigned height = 50; height <= 800; height *= 4) {
					struct watched w = { .budget_bytes = BUDGET };

					for (unsigned t = 0; t < 4000; t++) {
						unsigned at = t % periods[i] * 2, up = saw || at < periods[i] ? at : 2 * periods[i] - at;

						step(&w, (middles[j] - height + up * (uint64_t)height / periods[i]) * OB_MIB);
					}
					check_changes(&w);
				}
}

/* It sees everything, and does what changes the state soonest: but it cannot have more than the bound. */
static void an_adversary_gets_no_more_than_the_bound(void **state)
{
	for (unsigned i = 0; i < 2 * 9; i++) {
		struct watched w = { .budget_bytes = BUDGET };
		unsigned patience = i / 2, is_far = i % 2;
		uint64_t up_at = 0;

		hold(&w, 8 * OB_GIB, 2);
		for (unsigned t = 0; t < 20000; t++) {
			enum ob_large_state was = w.host.state;
			int waits = w.now_ns - up_at < patience * w.host.dwell_ns;

			/* High: to just below the boundary, when it has waited so long that it looks harmless; or to nothing. */
			if (was != OB_LARGE_HIGH || waits)
				step(&w, is_far ? BUDGET : ob_large_boundary_default(BUDGET, w.host.min_free_bytes) + margin(&w) + OB_MIB);
			else
				step(&w, patience % 2 ? 0 : w.host.boundary_bytes - 1);
			if (w.host.state < was)
				up_at = w.now_ns;
		}
		check_changes(&w);
assert_true(w.host.changes > 10); /* it tries */
	}
}

/* It lets free memory rise a little and fall fast, so that the boundary moves all the time. */
static void an_adversary_that_moves_the_boundary_gets_no_more(void **state)
{
	uint64_t resets = 0;

	for (unsigned rise = 1; rise <= 64; rise *= 2) {
		struct watched w = { .budget_bytes = BUDGET };
		uint64_t at = 1500 * OB_MIB;
		int falls = 0;

		for (unsigned t = 0; t < 20000; t++) {
			falls = falls ? at > 1200 * OB_MIB : w.host.state == OB_LARGE_HIGH || at > 2500 * OB_MIB;
			at = falls ? at - 300 * OB_MIB : at + rise * OB_MIB;
			step(&w, at);
		}
		check_changes(&w);
		resets += w.host.resets;
	}
	assert_true(resets > 100); /* it tries */
}

static void random_walks_keep_all_bounds(void **state)
{
	for (uint64_t s = 1; s <= 60; s++) {
		struct watched w = { .budget_bytes = 1ull << (20 + s % 30), .min_free_bytes = s % 5 ? 0 : 1ull << (15 + s % 30) };
		uint64_t at = w.budget_bytes / 2, stride = w.budget_bytes / (4 + s * s);

		seed = s;
		for (unsigned t = 0; t < 5000; t++) {
			uint64_t move = draw(2 * stride + 1);

			at = draw(500) == 0 ? draw(w.budget_bytes) : at + move < stride ? 0 : at + move - stride;
			at = OB_MIN(at, w.budget_bytes);
			step_policy(&w, s % 7 ? OB_LARGE_PROACTIVE : OB_LARGE_LATE, at, draw(3 * SECOND));
		}
		check_changes(&w);
	}
}

static uint64_t extreme(void)
{
	static const uint64_t values[] = { 0, 1, 2, 3, 4095, 4096, 1ull << 31, 1ull << 32, (1ull << 63) - 1, 1ull << 63, UINT64_MAX - 1,
					   UINT64_MAX };

	return values[draw(OB_ARRAY_LEN(values))];
}

/* Run under the sanitizers too: nothing overflows. */
static void extremes_are_survived(void **state)
{
	seed = 99;
	for (unsigned i = 0; i < 300; i++) {
		struct watched w = { 0 };

		for (unsigned t = 0; t < 100; t++) {
			if (draw(10) == 0 || t == 0) {
				w.budget_bytes = extreme();
				w.min_free_bytes = draw(2) ? extreme() : 0;
			}
			step_policy(&w, (enum ob_large_policy)draw(OB_LARGE_POLICIES), extreme(), extreme() % (1ull << 62));
		}
	}
}

static void a_host_without_a_budget_is_high(void **state)
{
	struct watched w = { 0 };

	hold(&w, 0, 10);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
	w.budget_bytes = UINT64_MAX;
	hold(&w, UINT64_MAX, 10);
	assert_int_equal(w.host.state, OB_LARGE_HIGH);
}

/* --- recorded traces --- */

#define TRACE_MAX 1000

static const char *traces_dir;

/* What was free of a budget, a second a line; lines that start with # say where it comes from. */
struct trace {
	uint64_t budget_mib, free_mib[TRACE_MAX];
	unsigned seconds;
};

static void read_trace(const char *path, struct trace *ret)
{
	FILE *file = fopen(path, "re");
	unsigned long long value;
	char line[512];

	assert_non_null(file);
	memset(ret, 0, sizeof(*ret));
	while (fgets(line, sizeof(line), file)) {
		if (*line == '#')
			continue;
		if (sscanf(line, "budget %llu", &value) == 1) {
			ret->budget_mib = value;
			continue;
		}
		assert_int_equal(sscanf(line, "%llu", &value), 1);
		assert_true(ret->seconds < TRACE_MAX);
		ret->free_mib[ret->seconds++] = value;
	}
	fclose(file);
	assert_true(ret->budget_mib && ret->seconds >= 30);
}

/* What was free at a time, in parts of so many a second: in straight lines between two seconds. */
static uint64_t free_at(const struct trace *trace, unsigned part, unsigned parts)
{
	unsigned second = part / parts, left = part % parts;
	uint64_t from = trace->free_mib[second], to = trace->free_mib[OB_MIN(second + 1, trace->seconds - 1)];

	return (from * (parts - left) + to * left) * OB_MIB / parts;
}

/*
 * Plays it to and fro so often, on a host so many times as large, at a step for each so many-th part of a second: slower; or with
 * parts left out: faster. High is to be reached when it has been deserved for as long as that may take at most.
 */
static void play_trace(const struct trace *trace, unsigned times, unsigned scale, unsigned parts, unsigned stride)
{
	struct watched w = { .budget_bytes = trace->budget_mib * OB_MIB * scale };
	unsigned length = (trace->seconds - 1) * parts, calm_s = 0;

	for (unsigned i = 0; i < times; i++)
		for (unsigned part = 0; part <= length; part += stride) {
			uint64_t free_bytes = free_at(trace, i % 2 ? length - part : part, parts) * scale;

			step(&w, free_bytes);
			calm_s = free_bytes >= w.host.boundary_bytes + margin(&w) ? calm_s + 1 : 0;
			assert_true(w.host.state == OB_LARGE_HIGH || calm_s <= 2 * OB_LARGE_DWELL_MAX_NS / SECOND);
		}
	check_changes(&w);
	assert_true(w.change_count > 0); /* there is something to answer */
}

static void recorded_traces_do_not_make_it_flap(void **state)
{
	char pattern[4096];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s/*.trace", traces_dir);
	assert_int_equal(glob(pattern, 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		struct trace trace;

		read_trace(found.gl_pathv[i], &trace);
		play_trace(&trace, 1, 1, 1, 1);
		for (unsigned scale = 1; scale <= 64; scale *= 8) {
			play_trace(&trace, 40, scale, 1, 1);
			play_trace(&trace, 10, scale, 8, 1);
			play_trace(&trace, 100, scale, 1, 7);
		}
	}
	assert_true(found.gl_pathc >= 2);
	globfree(&found);
}

/* --- the small things --- */

static void a_bucket_gives_its_rate_and_saves_no_more_than_a_second(void **state)
{
	static const uint32_t rates[] = { 1, 3, 8, 512, 2048 };

	for (unsigned i = 0; i < OB_ARRAY_LEN(rates); i++) {
		struct ob_large_bucket bucket = { 0 };
		uint64_t taken = 0;

		for (unsigned t = 0; t < 1000; t++) {
			ob_large_bucket_fill(&bucket, rates[i], SECOND / 100);
			while (ob_large_bucket_take(&bucket))
				taken++;
		}
		assert_in_range(taken, rates[i] * 10 - 1, rates[i] * 10);
		assert_int_equal(ob_large_bucket_fill(&bucket, rates[i], UINT64_MAX), rates[i]);
		assert_int_equal(ob_large_bucket_fill(&bucket, rates[i], UINT64_MAX), rates[i]);
		assert_int_equal(ob_large_bucket_fill(&bucket, 0, SECOND), 0);
		assert_false(ob_large_bucket_take(&bucket));
	}
	assert_int_equal(ob_large_bucket_fill(&(struct ob_large_bucket){ 0 }, UINT32_MAX, UINT64_MAX), UINT32_MAX);
}

static void names_are_parsed_back(void **state)
{
	for (int i = 0; i < OB_LARGE_POLICIES; i++)
		assert_int_equal(ob_large_policy_parse(ob_large_policy_name(i)), i);
	assert_int_equal(ob_large_policy_parse("sometimes"), -1);
	assert_string_equal(ob_large_state_name(OB_LARGE_CLEAR), "clear");
	assert_string_equal(ob_large_state_name(OB_LARGE_STATES), "?");
	assert_string_equal(ob_large_policy_name(OB_LARGE_POLICIES), "?");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_scale_is_the_products),
		cmocka_unit_test(a_host_starts_where_its_free_memory_says),
		cmocka_unit_test(it_goes_down_at_once_and_up_slowly),
		cmocka_unit_test(a_moment_below_begins_the_wait_anew),
		cmocka_unit_test(in_clear_rising_memory_lowers_the_boundary_until_high_is_reached),
		cmocka_unit_test(a_fast_fall_resets_the_boundary_a_slow_one_does_not),
		cmocka_unit_test(a_fall_that_will_be_short_is_answered_ahead),
		cmocka_unit_test(what_cannot_be_used_up_is_not_answered_ahead),
		cmocka_unit_test(where_memory_is_plenty_the_boundary_returns),
		cmocka_unit_test(the_reaction_to_a_fast_fall_is_bounded),
		cmocka_unit_test(less_shareable_is_looked_at_faster_but_nothing_is_not),
		cmocka_unit_test(the_faster_memory_goes_the_more_is_looked_at),
		cmocka_unit_test(thresholds_fall_with_free_memory),
		cmocka_unit_test(slow_and_fast_ramps_change_the_state_once_for_each_boundary),
		cmocka_unit_test(waves_and_saws_across_the_boundaries_do_not_flap),
		cmocka_unit_test(an_adversary_gets_no_more_than_the_bound),
		cmocka_unit_test(an_adversary_that_moves_the_boundary_gets_no_more),
		cmocka_unit_test(random_walks_keep_all_bounds),
		cmocka_unit_test(recorded_traces_do_not_make_it_flap),
		cmocka_unit_test(extremes_are_survived),
		cmocka_unit_test(a_host_without_a_budget_is_high),
		cmocka_unit_test(a_bucket_gives_its_rate_and_saves_no_more_than_a_second),
		cmocka_unit_test(names_are_parsed_back),
	};

	if (argc != 2)
		return 2;
	traces_dir = argv[1];
	return cmocka_run_group_tests_name("large_host", tests, NULL, NULL);
}
