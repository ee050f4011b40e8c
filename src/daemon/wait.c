/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients that wait for a machine: to be admitted, to be inside a new limit, to be released. Nothing polls here: the news
 * of a machine's agent lead to ob_api_machine_changed(), and a tick a second ends what has no prospect:
 *
 *     admission   refused after ADMIT_NS without enough room
 *     limit       failed when the machine has not come nearer to it for STUCK_NS
 *     release, unshare
 *                 lasts as long as the agent goes on; a slow disk is no reason to give up
 *
 * A client that goes away calls its admission off; a limit or a release goes on without it.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/share.h"
#include "daemon/shortage.h"

#define ADMIT_NS    (10 * OB_NS_PER_SEC)
#define STUCK_NS    (30 * OB_NS_PER_SEC)
#define PROGRESS_NS (200 * OB_NS_PER_MS)

static bool progress_due(struct ob_wait *wait)
{
	uint64_t now = ob_now_ns();

	if (now < wait->progress_ns + PROGRESS_NS)
		return false;
	wait->progress_ns = now;
	return true;
}

static const char *trouble(const struct ob_machine *machine)
{
	if (machine->state == OB_MACHINE_STOPPED)
		return ": the machine is stopped by an unreadable page";
	if (machine->stats.degraded & OB_DEGRADED_SWAP_FULL)
		return ": its swap store is full";
	if (machine->stats.degraded & OB_DEGRADED_SWAP_ERROR)
		return ": writing to its swap store fails";
	return "";
}

static void on_admission(struct ob_client *client, struct ob_wait *wait)
{
	struct ob_machine *machine = wait->machine;
	bool settling = ob_arbiter_is_settling(machine->daemon);
	char have[16], need[16];

	if (ob_now_ns() >= wait->start_ns + ADMIT_NS) {
		ob_event(OB_EVENT_MACHINE_REFUSED, machine->name, machine->pid,
			 "not admitted: machine \"%s\" needs %s to start and only %s became free", machine->name,
			 ob_size_format(need, sizeof(need), machine->need_bytes),
			 ob_size_format(have, sizeof(have), machine->free_bytes));
		ob_client_refuse(client, "refused",
				 "machine \"%s\" needs %s to start and only %s became free within %llu s: %s; try again, or give it less", machine->name,
				 ob_size_format(need, sizeof(need), machine->need_bytes),
				 ob_size_format(have, sizeof(have), machine->free_bytes),
				 (unsigned long long)(ADMIT_NS / OB_NS_PER_SEC), ob_shortage_is_severe(machine->daemon) ?
				 "memory is low, so that nobody is given more than is reserved for him (overbook ps says why)" :
				 "machines above their limits are slow to give memory back (overbook ps shows them)");
		ob_registry_remove(machine, "it was not admitted");
	} else if (progress_due(wait)) {
		ob_client_progress(client, OB_MIN(machine->free_bytes, machine->need_bytes), machine->need_bytes,
				   settling ? "machines of before are coming back" : "bytes free of those it needs to start");
	}
}

static void on_limit(struct ob_client *client, struct ob_wait *wait)
{
	struct ob_machine *machine = wait->machine;
	uint64_t now = ob_now_ns(), cost = machine->stats.cost_bytes;
	uint64_t above = cost > machine->maximum_bytes ? cost - machine->maximum_bytes : 0;
	char text[16];

	/* While a cut waits for the balloon the limit is not there yet. */
	if (!above && machine->order == OB_ORDER_NONE && machine->limit_bytes <= machine->maximum_bytes) {
		ob_client_answer(client, ob_render_row(machine));
		return;
	}
	wait->first_bytes = OB_MAX(wait->first_bytes, above);
	if (above < wait->least_bytes) {
		wait->least_bytes = above;
		wait->least_ns = now;
	}
	if (now >= wait->least_ns + STUCK_NS)
		ob_client_refuse(client, "failed", "machine \"%s\" is still %s above its limit and has come no nearer for %llu s%s",
				 machine->name, ob_size_format(text, sizeof(text), above),
				 (unsigned long long)(STUCK_NS / OB_NS_PER_SEC), trouble(machine));
	else if (progress_due(wait))
		ob_client_progress(client, wait->first_bytes - above, wait->first_bytes, "bytes given back");
}

static void on_release(struct ob_client *client, struct ob_wait *wait)
{
	const struct ob_machine *machine = wait->machine;

	if (progress_due(wait))
		ob_client_progress(client, machine->release_done_bytes, machine->release_total_bytes, "bytes brought back");
}

static void on_unshare(struct ob_client *client, struct ob_wait *wait)
{
	uint64_t done, total;

	ob_share_progress(wait->machine, &done, &total);
	/* Nothing is known before the agent has counted. */
	if (total && progress_due(wait))
		ob_client_progress(client, done, total, "bytes brought back");
}

static void wait_proceed(struct ob_client *client, struct ob_wait *wait)
{
	switch (wait->kind) {
	case OB_WAIT_ADMISSION:
		on_admission(client, wait);
		break;
	case OB_WAIT_LIMIT:
		on_limit(client, wait);
		break;
	case OB_WAIT_RELEASE:
		on_release(client, wait);
		break;
	case OB_WAIT_UNSHARE:
		on_unshare(client, wait);
		break;
	case OB_WAIT_NOTHING:
		break;
	}
}

void ob_api_machine_changed(struct ob_machine *machine)
{
	for (struct ob_client *client = machine->daemon->clients; client; client = ob_client_next(client)) {
		struct ob_wait *wait = ob_client_wait(client);

		/* An admission that has waited too long ends in the tick: it removes the machine. */
		if (wait->machine != machine || wait->kind == OB_WAIT_NOTHING)
			continue;
		if (wait->kind != OB_WAIT_ADMISSION || ob_now_ns() < wait->start_ns + ADMIT_NS)
			wait_proceed(client, wait);
	}
}

void ob_api_tick(struct ob_daemon *daemon)
{
	for (struct ob_client *client = daemon->clients; client; client = ob_client_next(client))
		wait_proceed(client, ob_client_wait(client));
}

void ob_api_admitted(struct ob_machine *machine)
{
	uint64_t limit = machine->limit_bytes == OB_BUDGET_NONE ? 0 : machine->limit_bytes;

	for (struct ob_client *client = machine->daemon->clients; client; client = ob_client_next(client)) {
		struct ob_wait *wait = ob_client_wait(client);

		if (wait->kind == OB_WAIT_ADMISSION && wait->machine == machine)
			ob_client_answer(client, json_pack("{s:s, s:I, s:s, s:b}", "name", machine->name, "limit_bytes", (json_int_t)limit,
							   "socket", machine->daemon->agents_path, "may_make_large",
							   (int)ob_large_may_make(&machine->daemon->large)));
	}
}

/* An order that clients wait for has been carried out, or not: `failure` says what could not be done to the machine. */
static void order_ended(struct ob_machine *machine, enum ob_wait_kind kind, int status, const char *failure, const char *text,
			json_t *(*render)(const struct ob_machine *machine))
{
	for (struct ob_client *client = machine->daemon->clients; client; client = ob_client_next(client)) {
		struct ob_wait *wait = ob_client_wait(client);

		if (wait->kind != kind || wait->machine != machine)
			continue;
		if (status)
			ob_client_refuse(client, "failed", "machine \"%s\" %s: %s", machine->name, failure,
					 *text ? text : strerror(-status));
		else
			ob_client_answer(client, render(machine));
	}
}

void ob_api_release_ended(struct ob_machine *machine, int status, const char *text)
{
	order_ended(machine, OB_WAIT_RELEASE, status, "could not be released", text, ob_render_row);
}

void ob_api_unshare_ended(struct ob_machine *machine, int status, const char *text)
{
	order_ended(machine, OB_WAIT_UNSHARE, status, "could not get all of its shared pages back", text, ob_share_render_machine);
}

void ob_api_machine_gone(struct ob_machine *machine, const char *why)
{
	for (struct ob_client *client = machine->daemon->clients; client; client = ob_client_next(client)) {
		struct ob_wait *wait = ob_client_wait(client);

		if (wait->kind != OB_WAIT_NOTHING && wait->machine == machine)
			ob_client_refuse(client, "failed", "machine \"%s\": %s", machine->name, why);
	}
}

void ob_wait_cancel(struct ob_client *client)
{
	struct ob_wait wait = *ob_client_wait(client);

	memset(ob_client_wait(client), 0, sizeof(wait));
	if (wait.kind == OB_WAIT_ADMISSION)
		ob_registry_remove(wait.machine, "its client has gone");
}
