/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim_world.h"

#include "test.h"

#include <stdio.h>

#include "base/compiler.h"

#define NAMED 64u /* machines of a file */

/* Stands before the source of a world. */
struct changer {
	struct ob_sim_source source; /* first */
	struct ob_sim_source *inner;
	const struct sim_world *world;
	FILE *file;
	struct ob_sim_reader *reader;
};

static void open_source(const struct sim_world *world, struct changer *ret)
{
	struct ob_error err = { 0 };

	*ret = (struct changer){ .world = world };
	if (!world->trace) {
		ret->inner = ob_sim_synthetic_open(&world->synthetic);
		assert_non_null(ret->inner);
		return;
	}
	ret->file = fopen(world->trace, "re");
	assert_non_null(ret->file);
	if (ob_sim_reader_open(ret->file, world->trace, &ret->reader, &err) < 0)
		fail_msg("%s", err.text);
	ret->inner = ob_sim_reader_source(ret->reader);
}

static void close_source(struct changer *changer)
{
	if (!changer->reader) {
		ob_sim_synthetic_close(changer->inner);
		return;
	}
	ob_sim_reader_close(changer->reader);
	fclose(changer->file);
}

uint64_t sim_world_ram(const struct sim_world *world)
{
	struct ob_sim_event event = { .kind = OB_SIM_LOAD };
	uint64_t ram[NAMED] = { 0 }, sum = 0;
	struct changer changer;

	if (!world->trace)
		return ob_sim_synthetic_ram(&world->synthetic);
	open_source(world, &changer);
	while (event.kind != OB_SIM_END) {
		assert_int_equal(changer.inner->next(changer.inner, &event, NULL), 0);
		assert_true(event.machine < NAMED);
		if (event.kind == OB_SIM_LOAD)
			ram[event.machine] = event.load.ram_bytes;
	}
	for (unsigned i = 0; i < NAMED; i++)
		sum += ram[i];
	close_source(&changer);
	return sum;
}

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

static uint64_t usual_budget(const struct sim_world *world, const struct changer *changer)
{
	if (changer->reader)
		return ob_sim_reader_header(changer->reader)->budget_bytes;
	return sim_world_ram(world) / 2;
}

void sim_world_play(struct sim_world *world)
{
	struct changer changer;
	struct ob_error err = { 0 };

	open_source(world, &changer);
	changer.source.next = changed_next;
	if (!world->rule)
		world->rule = &ob_sim_rule_overbook;
	if (!world->budget_bytes)
		world->budget_bytes = usual_budget(world, &changer);
	assert_int_equal(ob_sim_create(world->rule, 1, world->budget_bytes, world->synthetic.seed, &world->sim), 0);
	if (ob_sim_play(&changer.source, &world->sim, 1, after_second, world, &err) < 0)
		fail_msg("%s", err.text);
	ob_sim_measure(world->sim, &world->result);
	close_source(&changer);
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
