/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "daemon/budget.h"

#define PAGE_BYTES        4096
#define HOST_SWAP         1e9  /* bytes a second */
#define SLOWDOWN_MAX      1000.0
#define SAMPLES_A_SECOND  2u   /* engine/active.c: OB_SIM_WATCHED of them in 16 s ... */
#define NOT_WATCHED       1.0f
#define SHORT_MEMORY      32.0 /* ... and so many samples that an average stands for */
#define LONG_MEMORY       128.0
#define PARTS             64u  /* of an octave, of slowdowns that are counted together */
#define OCTAVES           10u

struct ob_sim {
	const struct ob_sim_rule *rule;
	uint64_t seed, budget_bytes, second;
	struct ob_sim_host *hosts;
	uint32_t host_count;
	struct ob_sim_machine **machines; /* by number; NULL: not seen yet */
	uint32_t machine_count;           /* room in that */

	struct ob_sim_result sums;
	double slowdown_sum, cost_sum, second_excess;
	uint64_t orders, slowdowns[PARTS * OCTAVES];
};

uint64_t ob_sim_draw(uint64_t seed, uint64_t a, uint64_t b)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + a * 0xbf58476d1ce4e5b9ull + b * 0x94d049bb133111ebull;

	for (int i = 0; i < 2; i++) {
		x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
		x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
		x ^= x >> 31;
	}
	return x;
}

int ob_sim_create(const struct ob_sim_rule *rule, uint32_t hosts, uint64_t budget_bytes, uint64_t seed, struct ob_sim **ret_sim)
{
	struct ob_sim *sim = calloc(1, sizeof(*sim));

	if (!sim)
		return -ENOMEM;
	*sim = (struct ob_sim){ .rule = rule, .seed = seed, .budget_bytes = budget_bytes, .host_count = hosts,
				.hosts = calloc(hosts, sizeof(*sim->hosts)) };
	if (!sim->hosts) {
		free(sim);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < hosts; i++) {
		sim->hosts[i].budget_bytes = budget_bytes;
		sim->hosts[i].idle_tax_percent = OB_BUDGET_TAX_DEFAULT;
	}
	*ret_sim = sim;
	return 0;
}

void ob_sim_set_idle_tax(struct ob_sim *sim, unsigned percent)
{
	for (uint32_t i = 0; i < sim->host_count; i++)
		sim->hosts[i].idle_tax_percent = percent;
}

void ob_sim_destroy(struct ob_sim *sim)
{
	if (!sim)
		return;
	for (uint32_t i = 0; i < sim->host_count; i++) {
		free(sim->hosts[i].machines);
		free(sim->hosts[i].scratch);
	}
	for (uint32_t i = 0; i < sim->machine_count; i++)
		free(sim->machines[i]);
	free(sim->machines);
	free(sim->hosts);
	free(sim);
}

const struct ob_sim_machine *ob_sim_machine(const struct ob_sim *sim, uint32_t number)
{
	return number < sim->machine_count ? sim->machines[number] : NULL;
}

double ob_sim_excess_of_second(const struct ob_sim *sim)
{
	return sim->second_excess;
}

double ob_sim_host_cost(const struct ob_sim_host *host)
{
	double cost = 0;

	for (size_t i = 0; i < host->n; i++)
		if (host->machines[i]->runs)
			cost += ob_sim_memory_cost(&host->machines[i]->memory, &host->machines[i]->load);
	return cost;
}

double ob_sim_host_free(const struct ob_sim_host *host)
{
	double cost = ob_sim_host_cost(host), budget = (double)host->budget_bytes;

	return cost < budget ? budget - cost : 0;
}

void ob_sim_order(struct ob_sim_machine *machine, uint64_t limit_bytes)
{
	if (machine->runs && machine->limit_bytes == limit_bytes)
		return;
	machine->orders += machine->runs;
	machine->runs = true;
	machine->limit_bytes = limit_bytes;
}

/* --- machines come and go --- */

static int find_machine(struct ob_sim *sim, uint32_t number, struct ob_sim_machine **ret)
{
	if (number >= sim->machine_count) {
		uint32_t room = OB_MAX(number + 1, 2 * sim->machine_count);
		struct ob_sim_machine **machines = realloc(sim->machines, room * sizeof(struct ob_sim_machine *));

		if (!machines)
			return -ENOMEM;
		memset(machines + sim->machine_count, 0, (room - sim->machine_count) * sizeof(struct ob_sim_machine *));
		sim->machines = machines;
		sim->machine_count = room;
	}
	if (!sim->machines[number]) {
		sim->machines[number] = calloc(1, sizeof(struct ob_sim_machine));
		if (!sim->machines[number])
			return -ENOMEM;
		sim->machines[number]->number = number;
		sim->machines[number]->host = number % sim->host_count;
	}
	*ret = sim->machines[number];
	return 0;
}

static int make_room(struct ob_sim_host *host)
{
	size_t room = host->n + 1;
	struct ob_sim_machine **machines;
	struct ob_budget_machine *scratch;

	/* Where n is 0 or a power of two there may be no room for one more: then there is for as many again. */
	if (host->machines && (host->n & (host->n - 1)))
		return 0;
	room = OB_MAX(2 * host->n, room);
	machines = realloc(host->machines, room * sizeof(struct ob_sim_machine *));
	host->machines = machines ? machines : host->machines;
	scratch = realloc(host->scratch, room * sizeof(*scratch));
	host->scratch = scratch ? scratch : host->scratch;
	return machines && scratch ? 0 : -ENOMEM;
}

static int come(struct ob_sim *sim, struct ob_sim_machine *machine)
{
	struct ob_sim_host *host = &sim->hosts[machine->host];
	int r = make_room(host);

	if (r < 0)
		return r;
	machine->is_here = true;
	machine->runs = machine->is_refused = false;
	machine->memory = (struct ob_sim_memory){ 0 };
	machine->stats = (struct ob_stats){ 0 };
	machine->ordered = (struct ob_sim_ordered){ 0 };
	machine->limit_bytes = machine->target_bytes = machine->in_force_bytes = OB_SIM_NONE;
	memset(machine->average, 0, sizeof(machine->average));
	memset(machine->weight, 0, sizeof(machine->weight));
	for (unsigned i = 0; i < OB_SIM_WATCHED; i++)
		machine->watched[i] = NOT_WATCHED;
	machine->faults_pool = machine->faults_store = 0;
	sim->sums.machines++;
	host->machines[host->n++] = machine;
	if (sim->rule->admit && !sim->rule->admit(host, machine)) {
		host->n--;
		machine->is_refused = true;
		sim->sums.refused++;
	}
	return 0;
}

static void go(struct ob_sim *sim, struct ob_sim_machine *machine)
{
	struct ob_sim_host *host = &sim->hosts[machine->host];
	size_t i = 0;

	machine->is_here = machine->runs = false;
	while (i < host->n && host->machines[i] != machine)
		i++;
	if (i == host->n)
		return;
	host->n--;
	memmove(&host->machines[i], &host->machines[i + 1], (host->n - i) * sizeof(struct ob_sim_machine *));
}

int ob_sim_take_event(struct ob_sim *sim, const struct ob_sim_event *event)
{
	struct ob_sim_machine *machine;
	int r = 0;

	if (event->kind == OB_SIM_END)
		return 0;
	r = find_machine(sim, event->machine, &machine);
	if (r < 0)
		return r;
	if (event->kind == OB_SIM_GONE) {
		go(sim, machine);
		return 0;
	}
	machine->load = event->load;
	if (!machine->is_here)
		r = come(sim, machine);
	if (r == 0)
		ob_sim_memory_follow(&machine->memory, &machine->load);
	return r;
}

/* --- a tick --- */

static void count_flow(struct ob_sim *sim, struct ob_sim_machine *machine, const struct ob_sim_flow *flow)
{
	struct ob_sim_result *sums = &sim->sums;

	sums->swapped_out_bytes += flow->went[OB_SIM_STORE] + flow->went[OB_SIM_IN_PLACE];
	sums->swapped_in_bytes += flow->came[OB_SIM_STORE];
	sums->compressed_out_bytes += flow->went[OB_SIM_POOL];
	sums->compressed_in_bytes += flow->came[OB_SIM_POOL];
	machine->faults_pool += flow->came[OB_SIM_POOL] / PAGE_BYTES;
	machine->faults_store += flow->came[OB_SIM_STORE] / PAGE_BYTES;
	machine->evicted_bytes += flow->went[OB_SIM_SPARE] + flow->went[OB_SIM_POOL] + flow->went[OB_SIM_STORE];
}

/* The host swaps what is too much: cold memory first, from all in proportion. */
static void swap_on_host(struct ob_sim *sim, struct ob_sim_host *host, double excess)
{
	double cold = 0, hot = 0, wanted = OB_MIN(excess, HOST_SWAP / OB_SIM_TICKS), from_cold, from_hot;

	for (size_t i = 0; i < host->n; i++) {
		cold += host->machines[i]->memory.cold[OB_SIM_IN_PLACE];
		hot += host->machines[i]->memory.hot[OB_SIM_IN_PLACE];
	}
	from_cold = cold > 0 ? OB_MIN(wanted / cold, 1) : 0;
	from_hot = hot > 0 && wanted > cold ? OB_MIN((wanted - cold) / hot, 1) : 0;
	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_memory *memory = &host->machines[i]->memory;

		sim->sums.swapped_out_bytes += ob_sim_memory_take(memory, memory->cold[OB_SIM_IN_PLACE] * from_cold +
									  memory->hot[OB_SIM_IN_PLACE] * from_hot);
	}
}

/* What an engine would report, and a guest would say. */
static void report(struct ob_sim_machine *machine)
{
	struct ob_stats *stats = &machine->stats;
	double content = ob_sim_memory_all(&machine->memory), active = 0;

	for (int i = 0; i < 2; i++)
		if (machine->weight[i] > 0)
			active = OB_MAX(active, machine->average[i] / machine->weight[i]);
	stats->ram_bytes = machine->load.ram_bytes;
	stats->absent_bytes = ob_less(machine->load.ram_bytes, (uint64_t)content);
	stats->cost_bytes = (uint64_t)ob_sim_memory_cost(&machine->memory, &machine->load);
	stats->tables_bytes = (uint64_t)ob_sim_memory_tables(&machine->load);
	stats->compressed_bytes = (uint64_t)ob_sim_memory_in(&machine->memory, OB_SIM_POOL);
	stats->pool_bytes = (uint64_t)(ob_sim_memory_in(&machine->memory, OB_SIM_POOL) * (double)machine->load.compressed_permille / 1000);
	stats->swapped_bytes = (uint64_t)ob_sim_memory_in(&machine->memory, OB_SIM_STORE);
	stats->faults_compressed = (uint64_t)machine->faults_pool;
	stats->faults_swapped = (uint64_t)machine->faults_store;
	stats->active_samples = (uint64_t)machine->weight[1];
	stats->active_bytes = (uint64_t)(active * content);
	machine->used_bytes = (uint64_t)content;
	if (machine->load.says_bytes != OB_SIM_NONE)
		stats->active_bytes = machine->used_bytes = machine->load.says_bytes;
}

static void tick_host(struct ob_sim *sim, struct ob_sim_host *host)
{
	double cost = 0, excess;

	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		struct ob_sim_flow flow;

		if (!machine->runs)
			continue;
		machine->in_force_bytes = OB_MIN(machine->limit_bytes, machine->load.limit_bytes);
		ob_sim_memory_tick(&machine->memory, &machine->load, machine->in_force_bytes, &flow);
		machine->second_progress += flow.progress;
		machine->second_ticks++;
		count_flow(sim, machine, &flow);
		report(machine);
		cost += ob_sim_memory_cost(&machine->memory, &machine->load);
	}
	sim->cost_sum += cost;
	excess = cost - (double)host->budget_bytes;
	if (excess > PAGE_BYTES) {
		sim->sums.excess_seconds += 1.0 / OB_SIM_TICKS;
		sim->second_excess = OB_MAX(sim->second_excess, excess);
		swap_on_host(sim, host, excess);
	}
	sim->rule->step(host);
	host->tick++;
}

/* --- a second --- */

static unsigned slowdown_part(double slowdown)
{
	uint64_t x = (uint64_t)(slowdown * 1024);
	unsigned log2 = 63u - (unsigned)__builtin_clzll(x);

	return OB_MIN((log2 - 10) * PARTS + (unsigned)(x >> (log2 - 6) & (PARTS - 1)), PARTS * OCTAVES - 1);
}

static double part_slowdown(unsigned part)
{
	return (double)((uint64_t)(PARTS + part % PARTS) << (part / PARTS)) / PARTS;
}

static void judged(struct ob_sim_machine *machine, bool is_active)
{
	static const double memories[2] = { SHORT_MEMORY, LONG_MEMORY };

	for (int i = 0; i < 2; i++) {
		double keep = 1 - 1 / memories[i];

		machine->average[i] = machine->average[i] * keep + is_active;
		machine->weight[i] = machine->weight[i] * keep + 1;
	}
}

/*
 * Samples, as engine/active.c takes them: new ones are drawn in the place of the oldest, which nobody has touched in 16 s.
 * One that lies in what is used now is seen to be touched at once.
 */
static void sample(const struct ob_sim *sim, struct ob_sim_machine *machine)
{
	double content = ob_sim_memory_all(&machine->memory);
	double used = content > 0 ? OB_MIN((double)machine->load.working_set_bytes / content, 1) : 0;

	for (unsigned n = 0; n < SAMPLES_A_SECOND; n++) {
		uint64_t number = sim->second * SAMPLES_A_SECOND + n;
		float *oldest = &machine->watched[number % OB_SIM_WATCHED];

		if (*oldest < NOT_WATCHED)
			judged(machine, false);
		*oldest = (float)(ob_sim_draw(sim->seed, machine->number, number) >> 40) / (float)(1u << 24);
	}
	for (unsigned i = 0; i < OB_SIM_WATCHED; i++) {
		if (machine->watched[i] >= used)
			continue;
		judged(machine, true);
		machine->watched[i] = NOT_WATCHED;
	}
}

static void end_second(struct ob_sim *sim, struct ob_sim_machine *machine)
{
	double slowdown;

	machine->wanted_seconds++;
	sim->orders += machine->orders;
	machine->orders = 0;
	if (!machine->second_ticks) {
		sim->sums.waited_seconds++;
		return;
	}
	slowdown = machine->second_progress > 0 ? OB_MIN(machine->second_ticks / machine->second_progress, SLOWDOWN_MAX) : SLOWDOWN_MAX;
	slowdown = OB_MAX(slowdown, 1.0);
	sim->sums.machine_seconds++;
	sim->slowdown_sum += slowdown;
	sim->slowdowns[slowdown_part(slowdown)]++;
	machine->progress += machine->second_progress / OB_SIM_TICKS;
	sample(sim, machine);
}

void ob_sim_second(struct ob_sim *sim)
{
	sim->second_excess = 0;
	for (uint32_t h = 0; h < sim->host_count; h++) {
		struct ob_sim_host *host = &sim->hosts[h];

		for (size_t i = 0; i < host->n; i++) {
			host->machines[i]->second_progress = host->machines[i]->evicted_bytes = 0;
			host->machines[i]->second_ticks = 0;
		}
		for (unsigned tick = 0; tick < OB_SIM_TICKS; tick++)
			tick_host(sim, host);
		for (size_t i = 0; i < host->n; i++)
			end_second(sim, host->machines[i]);
	}
	sim->sums.excess_bytes = OB_MAX(sim->sums.excess_bytes, sim->second_excess);
	sim->second++;
}

/* --- the result --- */

static double slowdown_quantile(const struct ob_sim *sim, double share)
{
	uint64_t wanted = (uint64_t)(share * (double)sim->sums.machine_seconds), seen = 0;

	for (unsigned part = 0; part < PARTS * OCTAVES; part++) {
		seen += sim->slowdowns[part];
		if (seen > wanted)
			return part_slowdown(part);
	}
	return 1;
}

static double fairness(const struct ob_sim *sim)
{
	double w = 0, wp = 0, wpp = 0;

	for (uint32_t i = 0; i < sim->machine_count; i++) {
		const struct ob_sim_machine *machine = sim->machines[i];
		double shares, progress;

		if (!machine || !machine->wanted_seconds)
			continue;
		shares = (double)machine->load.shares;
		progress = machine->progress / (double)machine->wanted_seconds;
		w += shares;
		wp += shares * progress;
		wpp += shares * progress * progress;
	}
	return wpp > 0 ? wp * wp / (w * wpp) : 1;
}

void ob_sim_measure(const struct ob_sim *sim, struct ob_sim_result *ret)
{
	double seconds = (double)sim->sums.machine_seconds;

	*ret = sim->sums;
	ret->slowdown_mean = seconds > 0 ? sim->slowdown_sum / seconds : 1;
	ret->slowdown_p95 = slowdown_quantile(sim, 0.95);
	ret->slowdown_p99 = slowdown_quantile(sim, 0.99);
	ret->fairness = fairness(sim);
	ret->orders_per_machine_minute = seconds > 0 ? 60 * (double)sim->orders / seconds : 0;
	ret->cost_mean_bytes = sim->second ? sim->cost_sum / OB_SIM_TICKS / (double)sim->second : 0;
}

/* --- playing a trace --- */

/* What is to happen in this second. *event is the one that has been read and is still to come. */
static int take_events(struct ob_sim_source *source, struct ob_sim *const *sims, size_t n, uint64_t second, struct ob_sim_event *event,
		       struct ob_error *err)
{
	while (event->kind != OB_SIM_END && event->second <= second) {
		int r = 0;

		for (size_t i = 0; i < n && r == 0; i++)
			r = ob_sim_take_event(sims[i], event);
		if (r < 0)
			return ob_error_sys(err, -r, "cannot simulate");
		r = source->next(source, event, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int ob_sim_play(struct ob_sim_source *source, struct ob_sim *const *sims, size_t n, int (*on_second)(void *context, uint64_t second),
		void *context, struct ob_error *err)
{
	struct ob_sim_event event;
	int r = source->next(source, &event, err);

	for (uint64_t second = 0; r == 0; second++) {
		r = take_events(source, sims, n, second, &event, err);
		if (r < 0 || (event.kind == OB_SIM_END && event.second <= second))
			break;
		for (size_t i = 0; i < n; i++)
			ob_sim_second(sims[i]);
		if (on_second)
			r = on_second(context, second);
	}
	return r;
}
