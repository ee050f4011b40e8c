/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine's balloon: what overbookd orders its agent to do about it (BALLOON), and what is shown of it.
 *
 * It is looked at every LOOK_IDLE_MS, which tells whether the guest reports the pages that it frees. Nothing is sent to an
 * agent that has not said BALLOON_SET, since it would not know what to do with it.
 */
#include "daemon/balloon.h"

#include <string.h>

#include "daemon/link.h"

#define LOOK_IDLE_MS 10000

static struct ob_wire_balloon wanted(const struct ob_machine *machine)
{
	return (struct ob_wire_balloon){ .mode = OB_BALLOON_DEFAULT, .look_ms = LOOK_IDLE_MS };
}

static bool is_due(const struct ob_machine *machine, const struct ob_wire_balloon *order)
{
	const struct ob_wire_balloon *told = &machine->balloon.told;

	return machine->balloon.is_known &&
	       (!machine->balloon.is_told || told->mode != order->mode || told->flags != order->flags || told->look_ms != order->look_ms ||
		told->size_bytes != order->size_bytes || told->target_bytes != order->target_bytes);
}

int ob_balloon_flush(struct ob_machine *machine)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_BALLOON, .balloon = wanted(machine) };
	int r;

	if (!is_due(machine, &msg.balloon))
		return 0;
	r = ob_link_send(machine, &msg, -1);
	if (r < 0)
		return r;
	machine->balloon.told = msg.balloon;
	machine->balloon.is_told = true;
	return 0;
}

void ob_balloon_connected(struct ob_machine *machine)
{
	machine->balloon.is_known = machine->balloon.is_told = false;
}

void ob_balloon_is_set(struct ob_machine *machine, const struct ob_wire_balloon *set)
{
	machine->balloon.is_known = true;
	ob_link_flush(machine);
}

/* true, false, or null: not known. */
static json_t *fact(const struct ob_machine *machine, uint64_t known, uint64_t flag)
{
	uint64_t flags = machine->stats.balloon_flags;

	return (flags & known) == known ? json_boolean(flags & flag) : json_null();
}

json_t *ob_balloon_render(const struct ob_machine *machine)
{
	const uint64_t agreed = OB_BALLOON_LOOKED | OB_BALLOON_DEVICE | OB_BALLOON_STATUS;

	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "device", fact(machine, OB_BALLOON_LOOKED, OB_BALLOON_DEVICE), "driver",
			 fact(machine, agreed, OB_BALLOON_DRIVER), "reports_free_pages", fact(machine, agreed, OB_BALLOON_REPORTS),
			 "takes_reports", fact(machine, agreed, OB_BALLOON_OFFERED), "gives_statistics",
			 fact(machine, agreed, OB_BALLOON_STATISTICS));
}
