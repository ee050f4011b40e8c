/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the record of each means (means.h) has its numbers from. Everything but the targets is an agent's or a guest's word; means.c makes it sane, and
 * what a machine can gain by lying is to be evicted from instead of asked, or the reverse. Its limit holds in any case.
 *
 *     means          asked                             came                                   held                          lost
 *     sharing        pages offered                     pages adopted                          pages that are slots          faults on them
 *     applications   rises of what they are to give    rises of what they have given          what they have given          -
 *     balloon        rises of its target               rises of what has arrived              what has arrived              the guest's major faults
 *     compression    pages that were tried             pages that went in, less their pool    what is in it, less the pool  faults on them
 *     swap           pages written, or still there     the same                               what is in the store          faults on them
 *
 * The time of a fault is the engine's: waiting for its turn and for room, fetching, and putting the page in place.
 *
 * What is counted starts anew with an agent's connection, since another process may be behind it.
 */
#include "daemon/machine_means.h"

#include "base/clock.h"
#include "base/units.h"
#include "daemon/balloon.h"
#include "daemon/registry.h"

#define PAGE_BYTES   4096u
#define FAULTS_LEAST 64u                   /* of which a mean is worth something */
#define FAULT_NS     (100 * OB_NS_PER_US)
#define BYTES_SANE   (1ull << 56)

static uint64_t bytes_of(uint64_t pages)
{
	return OB_MIN(pages, BYTES_SANE / PAGE_BYTES) * PAGE_BYTES;
}

#define FAULT_TIME(stats, kind) ((stats)->fault_##kind##_wait_ns + (stats)->fault_##kind##_fetch_ns + (stats)->fault_##kind##_install_ns)

static uint64_t fault_ns(const struct ob_stats *stats)
{
	return stats->faults_swapped >= FAULTS_LEAST ? FAULT_TIME(stats, swapped) / stats->faults_swapped : FAULT_NS;
}

/* How much of what goes into the pool is saved. */
static unsigned saved_permille(const struct ob_stats *stats)
{
	uint64_t compressed = OB_MIN(stats->compressed_bytes, BYTES_SANE), saved = ob_less(compressed, stats->pool_bytes);

	return compressed ? (unsigned)(saved * 1000 / compressed) : 0;
}

static void look_at_applications(const struct ob_machine *machine, struct ob_means_seen *seen)
{
	const struct ob_apps *apps = &machine->guest.apps;

	for (unsigned i = 0; i < apps->n; i++) {
		seen->asked_bytes += apps->app[i].target_bytes;
		seen->came_bytes += OB_MIN(apps->app[i].given_bytes, apps->app[i].target_bytes);
	}
	seen->held_bytes = seen->came_bytes;
}

static void look(const struct ob_machine *machine, struct ob_means_seen *seen)
{
	const struct ob_stats *stats = &machine->stats;
	uint64_t arrived = ob_balloon_arrived(machine), swapped = bytes_of(stats->swap_out_pages + stats->swap_out_saved_pages);

	for (unsigned i = 0; i < OB_MEANS_KINDS; i++)
		seen[i] = (struct ob_means_seen){ .came_permille = 1000 };
	seen[OB_MEANS_SHARING] = (struct ob_means_seen){
		.asked_bytes = bytes_of(stats->share_offered_pages), .came_bytes = bytes_of(stats->share_adopted_pages), .came_permille = 1000,
		.held_bytes = stats->shared_bytes, .lost_ns = FAULT_TIME(stats, shared),
	};
	look_at_applications(machine, &seen[OB_MEANS_APPLICATIONS]);
	seen[OB_MEANS_BALLOON] = (struct ob_means_seen){
		.asked_bytes = machine->balloon.policy.target_bytes, .came_bytes = arrived, .came_permille = 1000,
		.held_bytes = arrived, .lost_ns = machine->means.guest.lost_ns,
	};
	seen[OB_MEANS_COMPRESSION] = (struct ob_means_seen){
		.asked_bytes = bytes_of(stats->compressed_pages + stats->incompressible_pages), .came_bytes = bytes_of(stats->compressed_pages),
		.came_permille = saved_permille(stats), .held_bytes = ob_less(stats->compressed_bytes, stats->pool_bytes),
		.lost_ns = FAULT_TIME(stats, compressed),
	};
	seen[OB_MEANS_SWAP] = (struct ob_means_seen){
		.asked_bytes = swapped, .came_bytes = swapped, .came_permille = 1000, .held_bytes = stats->swapped_bytes,
		.lost_ns = FAULT_TIME(stats, swapped),
	};
}

static void step_machine(struct ob_machine *machine, uint64_t now_ns)
{
	const struct ob_stats *stats = &machine->stats;
	struct ob_machine_means *own = &machine->means;
	struct ob_means_seen seen[OB_MEANS_KINDS];

	if (!machine->link || !machine->stats_seen) {
		own->means.is_seen = false;
		own->guest.at_ns = 0;
		return;
	}
	if (stats->guest_known & OB_GUEST_MAJOR_FAULTS)
		ob_means_follow_guest(&own->guest, stats->guest_updates, stats->guest_major_faults, !ob_balloon_arrived(machine), fault_ns(stats),
				      now_ns);
	look(machine, seen);
	ob_means_step(&own->means, seen, own->means.is_seen ? now_ns - own->step_ns : 0, now_ns);
	own->step_ns = now_ns;
}

void ob_machine_means_step(struct ob_daemon *daemon)
{
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		step_machine(machine, ob_now_ns());
}

static json_int_t number(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

static json_t *render_record(const struct ob_means_record *record, bool has_price)
{
	return json_pack("{s:I, s:I, s:I, s:o, s:o}", "asked_bytes", number(record->asked_bytes), "came_bytes", number(record->came_bytes),
			 "held_bytes", number(record->held_bytes), "lost_ns_a_second", has_price ? json_integer(number(record->lost_ns)) : json_null(),
			 "price_ns", has_price ? json_integer(number(ob_means_price(record->lost_ns, record->held_bytes))) : json_null());
}

json_t *ob_machine_means_render(const struct ob_machine *machine)
{
	const struct ob_means *means = &machine->means.means;
	uint64_t wait_ns = ob_less(means->until_ns, ob_now_ns());
	json_t *object = json_object();

	for (enum ob_means_kind kind = 0; kind < OB_MEANS_KINDS; kind++)
		(void)json_object_set_new(object, ob_means_name(kind), render_record(&means->record[kind], ob_means_has_price(kind)));
	(void)json_object_set_new(object, "turn",
				  json_pack("{s:b, s:I, s:s?, s:I}", "guest_first", wait_ns == 0, "wait_ms", number(wait_ns / OB_NS_PER_MS), "because",
					    wait_ns ? ob_means_reason_text(means->reason) : NULL, "losses", number(means->losses)));
	return object;
}
