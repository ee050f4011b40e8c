/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim_world.h"

#include "test.h"

#include "base/compiler.h"

/* Stands before the source of a world. */
struct changer {
	struct ob_sim_source source; /* first */
	struct ob_sim_source *inner;
	const struct sim_world *world;
};

static int changed_next(struct ob_sim_source *source, struct ob_sim_event *ret_event, struct ob_error *err)
{
	struct changer *changer = (struct changer *)source;
	int r = changer->inner->next(changer->inner, ret_event, err);

	if (r == 0 && ret_event->kind == OB_SIM_LOAD && changer->world->change)
		changer->world->change(&ret_event->load, ret_event->machine, ret_event->second);
	if (r == 0 && ret_event->kind == OB_SIM_LOAD)
		assert_int_equal(ob_sim_load_check(&ret_event->load, NULL), 0);
	return r;
}

static int after_second(void *context, uint64_t second)
{
	struct sim_world *world = context;

	world->excess = OB_MAX(world->excess, ob_sim_excess_of_second(world->sim));
	if (world->look)
		world->look(world, second);
	return 0;
}

void sim_world_play(struct sim_world *world)
{
	struct changer changer = { .source.next = changed_next, .inner = world->source, .world = world };

	if (!changer.inner)
		changer.inner = ob_sim_synthetic_open(&world->synthetic);
	assert_non_null(changer.inner);
	if (!world->rule)
		world->rule = &ob_sim_rule_overbook;
	if (!world->budget_bytes)
		world->budget_bytes = ob_sim_synthetic_ram(&world->synthetic) / 2;
	assert_int_equal(ob_sim_create(world->rule, 1, world->budget_bytes, world->synthetic.seed, &world->sim), 0);
	assert_int_equal(ob_sim_play(&changer.source, &world->sim, 1, after_second, world, NULL), 0);
	ob_sim_measure(world->sim, &world->result);
	if (!world->source)
		ob_sim_synthetic_close(changer.inner);
}

void sim_world_end(struct sim_world *world)
{
	ob_sim_destroy(world->sim);
}

const struct ob_sim_machine *sim_world_machine(const struct sim_world *world, uint32_t number)
{
	const struct ob_sim_machine *machine = ob_sim_machine(world->sim, number);

	return machine && machine->runs ? machine : NULL;
}
