/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A host under a rule that plays a trace, made up or given, with loads that a test may change and a look after each second.
 */
#ifndef OB_SIM_WORLD_H
#define OB_SIM_WORLD_H

#include "sim/sim.h"
#include "sim/synthetic.h"

struct sim_world {
	struct ob_sim_synthetic synthetic;
	const char *trace;              /* a file that is played instead */
	const struct ob_sim_rule *rule; /* NULL: overbookd's */
	uint64_t budget_bytes;          /* 0: as the trace says, or half of the RAM of all */
	void (*change)(struct ob_sim_load *load, uint32_t machine, uint64_t second);
	void (*look)(const struct sim_world *world, uint64_t second);
	struct ob_sim *sim;
	struct ob_sim_result result;
	double excess; /* the worst of any second */
};

/* Plays it; the sim stays until sim_world_end(). */
void sim_world_play(struct sim_world *world);
void sim_world_end(struct sim_world *world);

/* RAM of all of its machines together. */
uint64_t sim_world_ram(const struct sim_world *world);

/* NULL: it does not run. */
const struct ob_sim_machine *sim_world_machine(const struct sim_world *world, uint32_t number);

#endif
