/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim/synthetic.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "proto/env.h"
#include "sim/sim.h"

#define DAY          86400u
#define BURST        60u
#define BURSTS       7u
#define LIARS        8u
#define STAMPEDE     5u
#define COMING       10u /* part of the time in which machines come */
#define GRAIN        10u /* seconds in which what changes slowly stays */
#define PAGE         4096ull

/* What a drawn number is for. */
enum {
	DRAW_RAM, DRAW_CONTENT, DRAW_SHARES, DRAW_IDLE, DRAW_BUSY, DRAW_TOUCHES, DRAW_START, DRAW_STRETCH, DRAW_COMES,
	DRAW_BUSY_PART = 104, DRAW_BURST = 1 << 20, DRAW_HERE = 1 << 30,
};

struct generator {
	struct ob_sim_source source; /* first */
	struct ob_sim_synthetic synthetic;
	uint64_t second;
	uint32_t machine; /* the next to be looked at */
	struct ob_sim_load *loads;
	bool *here;
};

static const char *const names[OB_SIM_SYNTHETICS] = { "steady", "diurnal", "stampede", "ramp", "mixed", "liar", "churn" };

const char *ob_sim_synthetic_name(unsigned kind)
{
	return kind < OB_SIM_SYNTHETICS ? names[kind] : NULL;
}

int ob_sim_synthetic_find(const char *name)
{
	for (int kind = 0; kind < OB_SIM_SYNTHETICS; kind++)
		if (!strcmp(names[kind], name))
			return kind;
	return -1;
}

/* From least to most, both included. */
static uint64_t draw(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t what, uint64_t least, uint64_t most)
{
	return least + ob_sim_draw(synthetic->seed, machine, what) % (most - least + 1);
}

static uint64_t ram_of(const struct ob_sim_synthetic *synthetic, uint32_t machine)
{
	return OB_GIB << draw(synthetic, machine, DRAW_RAM, 0, 3);
}

uint64_t ob_sim_synthetic_ram(const struct ob_sim_synthetic *synthetic)
{
	uint64_t ram = 0;

	for (uint32_t i = 0; i < synthetic->machines; i++)
		ram += ram_of(synthetic, i);
	return ram;
}

static uint64_t permille_of(uint64_t bytes, uint64_t permille)
{
	return bytes / 1000 * permille / PAGE * PAGE;
}

/* How busy it is, in thousandths: in bursts. */
static uint64_t bursts(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second)
{
	uint64_t at = second + draw(synthetic, machine, DRAW_START, 0, BURST - 1);

	return draw(synthetic, machine, DRAW_BURST + at / BURST, 1, BURSTS) == 1 ? 1000 : 0;
}

/* Begins between 7 and 11 o'clock, for most. */
static uint64_t by_day(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second)
{
	uint64_t day = OB_MIN(DAY, OB_MAX(synthetic->seconds, 24u)), hour = day / 24;
	uint64_t begins = draw(synthetic, machine, DRAW_BUSY, 0, 4) ? draw(synthetic, machine, DRAW_START, 7 * hour, 11 * hour) :
								     draw(synthetic, machine, DRAW_START, 0, day - 1);
	uint64_t at = (second - second % GRAIN + day - begins) % day;

	if (at < hour)
		return at * 1000 / hour;
	if (at < 7 * hour)
		return 1000;
	return at < 8 * hour ? (8 * hour - at) * 1000 / hour : 0;
}

static uint64_t stampede(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second)
{
	uint64_t third = synthetic->seconds / 3;

	return second >= third + draw(synthetic, machine, DRAW_START, 0, STAMPEDE - 1) && second < 2 * third ? 1000 : 0;
}

static uint64_t busy_permille(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second)
{
	switch (synthetic->kind) {
	case OB_SIM_STEADY:
		return draw(synthetic, machine, DRAW_BUSY, 0, 1) ? 1000 : 0;
	case OB_SIM_DIURNAL:
		return by_day(synthetic, machine, second);
	case OB_SIM_STAMPEDE:
		return stampede(synthetic, machine, second);
	case OB_SIM_RAMP:
		return 1000;
	default:
		return bursts(synthetic, machine, second);
	}
}

static bool is_liar(const struct ob_sim_synthetic *synthetic, uint32_t machine)
{
	return synthetic->kind == OB_SIM_LIAR && machine % LIARS == 0;
}

static bool is_here(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second)
{
	uint64_t stretch = draw(synthetic, machine, DRAW_STRETCH, 120, 360);

	if (second < draw(synthetic, machine, DRAW_COMES, 0, synthetic->seconds / COMING))
		return false;
	if (synthetic->kind != OB_SIM_CHURN)
		return true;
	return draw(synthetic, machine, DRAW_HERE + (second + draw(synthetic, machine, DRAW_START, 0, 359)) / stretch, 0, 2) > 0;
}

int ob_sim_synthetic_load(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second, struct ob_sim_load *ret)
{
	uint64_t busy = is_liar(synthetic, machine) ? 0 : busy_permille(synthetic, machine, second);
	uint64_t idle_part = draw(synthetic, machine, DRAW_IDLE, 30, 100), busy_part = draw(synthetic, machine, DRAW_BUSY_PART, 500, 900);

	if (!is_here(synthetic, machine, second))
		return 0;
	*ret = ob_sim_load_default();
	ret->ram_bytes = ram_of(synthetic, machine);
	ret->shares = draw(synthetic, machine, DRAW_SHARES, 0, 3) ? OB_SHARES_DEFAULT : 2 * OB_SHARES_DEFAULT;
	ret->content_bytes = permille_of(ret->ram_bytes, draw(synthetic, machine, DRAW_CONTENT, 600, 950));
	if (synthetic->kind == OB_SIM_RAMP)
		ret->content_bytes = permille_of(ret->content_bytes, 100 + 900 * (second / GRAIN * GRAIN) / OB_MAX(synthetic->seconds, 1u));
	ret->working_set_bytes = permille_of(ret->content_bytes, idle_part + (busy_part - idle_part) * busy / 1000);
	ret->touches = 200 + draw(synthetic, machine, DRAW_TOUCHES, 20000, 60000) * busy / 1000;
	ret->spare_permille = 100;
	ret->compressible_permille = 600;
	ret->compressed_permille = 400;
	if (is_liar(synthetic, machine))
		ret->says_bytes = ret->ram_bytes;
	return 1;
}

/* --- as a source --- */

static bool differs(const struct ob_sim_load *a, const struct ob_sim_load *b)
{
	return memcmp(a, b, sizeof(*a)) != 0;
}

static int generator_next(struct ob_sim_source *source, struct ob_sim_event *ret_event, struct ob_error *err)
{
	struct generator *g = (struct generator *)source;

	for (; g->second < g->synthetic.seconds; g->second++, g->machine = 0) {
		while (g->machine < g->synthetic.machines) {
			uint32_t machine = g->machine++;
			struct ob_sim_load load;
			bool here = ob_sim_synthetic_load(&g->synthetic, machine, g->second, &load), was = g->here[machine];

			if (!here && !was)
				continue;
			if (here && was && !differs(&load, &g->loads[machine]))
				continue;
			g->here[machine] = here;
			*ret_event = (struct ob_sim_event){ .second = g->second, .kind = here ? OB_SIM_LOAD : OB_SIM_GONE, .machine = machine };
			if (here)
				ret_event->load = g->loads[machine] = load;
			return 0;
		}
	}
	*ret_event = (struct ob_sim_event){ .second = g->synthetic.seconds, .kind = OB_SIM_END };
	return 0;
}

struct ob_sim_source *ob_sim_synthetic_open(const struct ob_sim_synthetic *synthetic)
{
	struct generator *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	*g = (struct generator){ .source.next = generator_next, .synthetic = *synthetic,
				 .loads = calloc(synthetic->machines, sizeof(*g->loads)), .here = calloc(synthetic->machines, sizeof(*g->here)) };
	if (!g->loads || !g->here) {
		ob_sim_synthetic_close(&g->source);
		return NULL;
	}
	return &g->source;
}

void ob_sim_synthetic_close(struct ob_sim_source *source)
{
	struct generator *g = (struct generator *)source;

	if (!g)
		return;
	free(g->loads);
	free(g->here);
	free(g);
}
