/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The talk with overbook-guest in a machine's guest (proto/guest.h), by way of the machine's agent, which relays bytes and knows
 * nothing of what they mean: the port's socket lies in the machine's directory, which under libvirt belongs to another user
 * than overbookd's, and what a guest says is better read here than in the process that holds its memory.
 *
 *     silent --HELLO--> here: WELCOME is sent --SILENCE_NS without a word, a HELLO of another session--> silent; its applications
 *                                                                                                         are forgotten
 *
 * Nothing is sent but to a guest that is here, except for a WELCOME to nobody when a relay begins, since a guest that has met another overbookd
 * does not know of this one, and when a guest falls silent, for one that stood still. A TARGET is sent when it changes, and again every AGAIN_NS
 * until an APP answers it, so what is lost on the way costs a moment; an application of which nothing is heard for SILENCE_NS has gone. A guest
 * that says of an application that it has been told a target is believed as far as that is a target to start from: so a new overbookd, or one
 * whose agent was away, takes up what it finds; and a machine that was migrated is taken up where it comes to. What its balloon holds has come with it, and
 * is seen at the next look at it only: nobody is told anything else before.
 *
 * Everything here is a guest's word. Numbers are within OB_GUEST_BYTES_MAX (guest.c of proto/), there are OB_GUEST_APPS_MAX applications and
 * no queues; the agent lets through so many bytes a second; what a guest can gain by lying is that its own applications are asked for less,
 * or more, and its own balloon waits: for up to a deadline (app_policy.h), and GATHER_TIMES for GATHER_NS, then not for GATHER_REST_NS; or, if it says
 * that it stalls, for as long as it does, and what it used counts for a minute longer (stall.h). The limit of its machine is kept in any case.
 */
#include "daemon/guest.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/link.h"
#include "daemon/registry.h"
#include "daemon/shortage.h"

#define SILENCE_NS  (20 * OB_NS_PER_SEC)
#define AGAIN_NS    (2 * OB_NS_PER_SEC)
#define BUSY_MS     1000
#define IDLE_MS     5000
#define GATHER_NS   (6 * OB_NS_PER_SEC) /* the longest wait for free memory to be moved together, */
#define GATHER_TIMES 2 /* once while applications give, and once for the work (src/guest/compact.h) */
#define GATHER_REST_NS (10 * OB_NS_PER_SEC)
#define LOOKED_MS   2000 /* from a look at a balloon until what it has seen is known here */

static void forget_apps(struct ob_guest *guest)
{
	memset(&guest->apps, 0, sizeof(guest->apps));
	memset(guest->seen, 0, sizeof(guest->seen));
}

void ob_guest_connected(struct ob_machine *machine)
{
	machine->guest.is_called = false;
	memset(&machine->guest.reader, 0, sizeof(machine->guest.reader));
}

static void lose(struct ob_machine *machine, const char *why)
{
	if (machine->guest.is_here)
		ob_log_limited(OB_LOG_INFO, "machine \"%s\": overbook-guest in its guest is %s", machine->name, why);
	machine->guest.is_here = machine->guest.is_welcome = false;
	ob_stall_note(&machine->guest.stall, false, 0, ob_now_ns());
	forget_apps(&machine->guest);
}

static void take_hello(struct ob_machine *machine, const struct ob_guest_msg *msg)
{
	struct ob_guest *guest = &machine->guest;

	if (guest->is_here && guest->session != msg->session)
		lose(machine, "another one");
	if (!guest->is_here)
		ob_log_limited(OB_LOG_INFO, "machine \"%s\": its guest runs %s", machine->name, msg->hello.program);
	guest->is_here = guest->is_welcome = true;
	guest->memory.flags &= ~OB_GUEST_GATHERS;
	guest->session = msg->session;
	guest->interval_ms = 0;
	memcpy(guest->program, msg->hello.program, sizeof(guest->program));
}

static void take_memory(struct ob_guest *guest, const struct ob_guest_memory *memory)
{
	uint64_t now_ns = ob_now_ns();

	if (memory->flags & OB_GUEST_GATHERS && !(guest->memory.flags & OB_GUEST_GATHERS)) {
		if (now_ns >= guest->gathers_ns + GATHER_NS + GATHER_REST_NS)
			guest->gathers_times = 0;
		if (guest->gathers_times < GATHER_TIMES) {
			guest->gathers_times++;
			guest->gathers_ns = now_ns;
		}
	}
	guest->before = guest->memory;
	guest->before_ns = guest->memory_ns;
	guest->memory = *memory;
	guest->memory_ns = now_ns;
	ob_stall_note(&guest->stall, memory->flags & OB_GUEST_HAS_PRESSURE, memory->some_us, now_ns);
}

/* Its place in the tables, or -1. */
static int find_app(const struct ob_guest *guest, uint32_t app)
{
	for (unsigned i = 0; i < guest->apps.n; i++)
		if (guest->seen[i].said.app == app)
			return (int)i;
	return -1;
}

static void remove_app(struct ob_guest *guest, unsigned at)
{
	unsigned behind = --guest->apps.n - at;

	memmove(&guest->apps.app[at], &guest->apps.app[at + 1], behind * sizeof(guest->apps.app[0]));
	memmove(&guest->seen[at], &guest->seen[at + 1], behind * sizeof(guest->seen[0]));
}

static int add_app(struct ob_machine *machine, const struct ob_guest_app *said)
{
	struct ob_guest *guest = &machine->guest;
	unsigned at = guest->apps.n;

	if (at == OB_GUEST_APPS_MAX) {
		guest->refused++;
		return -1;
	}
	ob_log(OB_LOG_DEBUG, "machine \"%s\": application %u is \"%s\"", machine->name, said->app, said->name);
	memset(&guest->seen[at], 0, sizeof(guest->seen[at]));
	guest->apps.app[at] = (struct ob_app){
		.state = said->target_bytes ? OB_APP_GIVEN : OB_APP_RESTING, .target_bytes = said->target_bytes, .told_bytes = said->target_bytes,
	};
	/* What it has not given of it by now it falls short of. */
	guest->seen[at].told_bytes = said->target_bytes;
	if (said->target_bytes)
		guest->found_ns = ob_now_ns();
	guest->apps.n++;
	return (int)at;
}

static void take_app(struct ob_machine *machine, const struct ob_guest_app *said)
{
	struct ob_guest *guest = &machine->guest;
	int at = find_app(guest, said->app);
	struct ob_app *app;

	if (said->flags & OB_GUEST_APP_GONE) {
		if (at >= 0)
			remove_app(guest, (unsigned)at);
		return;
	}
	if (at < 0)
		at = add_app(machine, said);
	if (at < 0)
		return;
	app = &guest->apps.app[at];
	guest->seen[at].said = *said;
	guest->seen[at].heard_ns = ob_now_ns();
	app->pain = said->pain;
	app->could_bytes = said->could_bytes;
	app->given_bytes = said->given_bytes;
	app->used_bytes = said->used_bytes;
	app->is_final = said->flags & OB_GUEST_APP_FINAL && guest->seen[at].sequence && said->answers == guest->seen[at].sequence;
}

static void take(struct ob_machine *machine, const struct ob_guest_msg *msg)
{
	struct ob_guest *guest = &machine->guest;

	if (msg->type == OB_GUEST_HELLO)
		take_hello(machine, msg);
	else if (!guest->is_here || msg->session != guest->session)
		return;
	guest->heard_ns = ob_now_ns();
	if (msg->type == OB_GUEST_MEMORY)
		take_memory(guest, &msg->memory);
	else if (msg->type == OB_GUEST_APP)
		take_app(machine, &msg->app);
}

void ob_guest_heard(struct ob_machine *machine, const struct ob_wire_msg *msg)
{
	const uint8_t *at = msg->guest.bytes, *end = at + msg->guest.n;
	struct ob_guest_reader *reader = &machine->guest.reader;
	struct ob_guest_msg frame;

	if (msg->guest.flags & OB_WIRE_GUEST_ANEW)
		memset(reader, 0, sizeof(*reader));
	while (ob_guest_read(reader, &at, end, &frame))
		take(machine, &frame);
	machine->guest.refused += reader->bad_frames;
	reader->bad_frames = 0;
}

/* What was heard too long ago is nothing any more. */
static void forget_the_silent(struct ob_machine *machine, uint64_t now_ns)
{
	struct ob_guest *guest = &machine->guest;

	if (guest->is_here && now_ns > guest->heard_ns + SILENCE_NS) {
		lose(machine, "silent");
		guest->is_called = false;
	}
	for (unsigned i = guest->apps.n; i-- > 0;)
		if (now_ns > guest->seen[i].heard_ns + SILENCE_NS)
			remove_app(guest, i);
}

bool ob_guest_may_give(const struct ob_machine *machine)
{
	return ob_apps_may_give(&machine->guest.apps);
}

bool ob_guest_has_given(const struct ob_machine *machine)
{
	return ob_apps_have_given(&machine->guest.apps);
}

bool ob_guest_gathers(const struct ob_machine *machine, uint64_t now_ns)
{
	const struct ob_guest *guest = &machine->guest;

	return guest->is_here && guest->memory.flags & OB_GUEST_GATHERS && now_ns < guest->gathers_ns + GATHER_NS;
}

/* Whether what the balloon held may be of before these applications were found. */
static bool is_stale(const struct ob_machine *machine, uint64_t now_ns)
{
	uint64_t looked_ns = (machine->balloon.told.look_ms + LOOKED_MS) * OB_NS_PER_MS;

	return machine->guest.found_ns && now_ns < machine->guest.found_ns + looked_ns;
}

void ob_guest_step(struct ob_machine *machine, struct ob_balloon_view *view)
{
	uint64_t margin = ob_balloon_margin_bytes(view->machine_bytes);
	struct ob_guest *guest = &machine->guest;
	struct ob_apps_view apps = {
		.now_ns = view->now_ns, .goal_bytes = OB_MIN(view->goal_bytes, ob_less(view->machine_bytes, view->floor_bytes)),
		.held_bytes = view->held_bytes, .spare_bytes = ob_less(view->available_bytes, margin), .is_known = view->known & OB_GUEST_AVAILABLE,
		.room_bytes = machine->balloon.room_bytes, .is_calm = machine->balloon.is_calm, .is_stalled = view->is_stalled,
	};

	if (!is_stale(machine, view->now_ns))
		ob_apps_step(&guest->apps, &apps);
	view->goal_bytes = ob_apps_hold(&guest->apps, view->goal_bytes, machine->balloon.policy.target_bytes,
					view->held_bytes + ob_less(view->free_bytes, margin));
	/* Page by page, as it lies, what they have given would be holes in large pages. */
	if (ob_guest_gathers(machine, view->now_ns) && ob_shortage_may_wait(machine->daemon) && !ob_balloon_is_anybody_waiting(machine->daemon))
		view->goal_bytes = OB_MIN(view->goal_bytes, machine->balloon.policy.target_bytes);
}

/* Puts a frame behind those that are there. */
static void add_frame(struct ob_wire_msg *out, const struct ob_guest_msg *msg)
{
	if (out->guest.n + OB_GUEST_FRAME <= sizeof(out->guest.bytes) && ob_guest_encode(msg, out->guest.bytes + out->guest.n) == 0)
		out->guest.n += OB_GUEST_FRAME;
}

static void add_welcome(struct ob_machine *machine, struct ob_wire_msg *out)
{
	struct ob_guest *guest = &machine->guest;
	uint32_t interval = machine->balloon.goal_bytes || machine->balloon.policy.target_bytes ? BUSY_MS : IDLE_MS;

	if (!guest->is_welcome && guest->interval_ms == interval)
		return;
	guest->interval_ms = interval;
	add_frame(out, &(struct ob_guest_msg){ .type = OB_GUEST_WELCOME, .session = guest->session, .welcome.interval_ms = interval });
}

static bool is_due(const struct ob_app *app, const struct ob_guest_seen *seen, uint64_t now_ns)
{
	if (app->told_bytes != seen->told_bytes)
		return true;
	return seen->sequence && seen->said.answers != seen->sequence && now_ns - seen->told_ns >= AGAIN_NS;
}

static void add_target(struct ob_machine *machine, struct ob_wire_msg *out, unsigned at, uint64_t now_ns)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_TARGET, .session = machine->guest.session };
	struct ob_guest_seen *seen = &machine->guest.seen[at];
	const struct ob_app *app = &machine->guest.apps.app[at];

	/* By the clock: no number that another overbookd has used before. */
	if (app->told_bytes != seen->told_bytes || !seen->sequence)
		seen->sequence = machine->guest.last_sequence = OB_MAX(machine->guest.last_sequence + 1, (uint32_t)(now_ns / OB_NS_PER_MS));
	msg.sequence = seen->sequence;
	msg.target.app = seen->said.app;
	msg.target.give_bytes = app->told_bytes;
	msg.target.deadline_ms = OB_APP_DEADLINE_MS;
	seen->told_bytes = app->told_bytes;
	seen->told_ns = now_ns;
	add_frame(out, &msg);
}

int ob_guest_flush(struct ob_machine *machine)
{
	static struct ob_wire_msg out;
	struct ob_guest *guest = &machine->guest;
	uint64_t now_ns = ob_now_ns();
	int r;

	/* Here, since a machine that stands still has no steps. */
	forget_the_silent(machine, now_ns);
	out = (struct ob_wire_msg){ .type = OB_WIRE_GUEST };
	if (guest->is_here) {
		add_welcome(machine, &out);
		for (unsigned i = 0; i < guest->apps.n; i++)
			if (is_due(&guest->apps.app[i], &guest->seen[i], now_ns))
				add_target(machine, &out, i, now_ns);
	}
	if (!guest->is_called)
		add_frame(&out, &(struct ob_guest_msg){ .type = OB_GUEST_WELCOME, .welcome.interval_ms = IDLE_MS });
	if (!out.guest.n)
		return 0;
	r = ob_link_send(machine, &out, -1);
	guest->is_welcome = r < 0 && guest->is_here;
	if (r < 0)
		return r;
	guest->is_called = true;
	return 0;
}

static const char *kind_name(uint32_t kind)
{
	static const char *const names[] = {
		[OB_GUEST_KIND_LIBRARY] = "library", [OB_GUEST_KIND_REDIS] = "redis", [OB_GUEST_KIND_MARIADB] = "mariadb",
		[OB_GUEST_KIND_MEMCACHED] = "memcached", [OB_GUEST_KIND_POSTGRESQL] = "postgresql",
		[OB_GUEST_KIND_JVM] = "jvm",
	};

	return kind < OB_ARRAY_LEN(names) && names[kind] ? names[kind] : "other";
}

static json_t *render_app(const struct ob_app *app, const struct ob_guest_app *said)
{
	return json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "name", said->name, "kind", kind_name(said->kind), "pain",
			 (json_int_t)app->pain, "state", ob_app_state_name(app->state), "used_bytes", (json_int_t)said->used_bytes,
			 "could_bytes", (json_int_t)app->could_bytes, "target_bytes", (json_int_t)app->told_bytes, "given_bytes",
			 (json_int_t)app->given_bytes, "short", (json_int_t)app->shorts, "error",
			 said->status ? json_string(strerror(-said->status)) : json_null());
}

/* How much of the time between the last two MEMORYs it was, in permille; null: not known. */
static json_t *render_pressure(const struct ob_guest *guest, uint64_t now_us, uint64_t before_us)
{
	uint64_t elapsed_us = (guest->memory_ns - guest->before_ns) / OB_NS_PER_US;

	if (!guest->before_ns || !elapsed_us || !(guest->memory.flags & guest->before.flags & OB_GUEST_HAS_PRESSURE) || now_us < before_us)
		return json_null();
	return json_integer((json_int_t)OB_MIN((now_us - before_us) / (elapsed_us / 1000 + 1), 1000u));
}

json_t *ob_guest_render(const struct ob_machine *machine)
{
	const struct ob_guest *guest = &machine->guest;
	const struct ob_guest_memory *memory = &guest->memory;
	json_t *list;

	if (!guest->is_here)
		return json_null();
	list = json_array();
	for (unsigned i = 0; i < guest->apps.n; i++)
		(void)json_array_append_new(list, render_app(&guest->apps.app[i], &guest->seen[i].said));
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b, s:I, s:o}", "program", guest->program, "total_bytes",
			 (json_int_t)memory->total_bytes, "free_bytes", (json_int_t)memory->free_bytes, "available_bytes",
			 (json_int_t)memory->available_bytes, "caches_bytes", (json_int_t)memory->caches_bytes, "swap_bytes",
			 (json_int_t)memory->swap_bytes, "swap_free_bytes", (json_int_t)memory->swap_free_bytes, "pressure_some_permille",
			 render_pressure(guest, memory->some_us, guest->before.some_us), "pressure_full_permille",
			 render_pressure(guest, memory->full_us, guest->before.full_us), "stalls", ob_stall_is(&guest->stall, ob_now_ns()),
			 "refused", (json_int_t)guest->refused, "applications", list);
}
