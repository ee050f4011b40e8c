/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The requests of the JSON protocol (docs/protocol.md). A command is a row of the table at the end: its name, the members
 * it knows, what it does. Every member is checked for its type and range before anything is done, and a member that is not
 * known is refused, so that a misspelt one is never silently without effect.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/meminfo.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/balloon.h"
#include "daemon/link.h"
#include "daemon/share.h"

#define BYTES_SANE      (1ull << 56) /* what an agent says may be anything; sums must not wrap */
#define RESERVE_PERCENT 5 /* of the host's memory: stays free when a machine is released */

/* A request while it is read; the first thing that is wrong with it is kept in err. */
struct request {
	struct ob_client *client;
	json_t *object;
	struct ob_error err;
};

static void complain(struct request *request, const char *key, const char *right)
{
	if (!request->err.code)
		(void)ob_error_set(&request->err, EINVAL, "\"%s\" must be %s", key, right);
}

static const char *get_name(struct request *request, const char *key, bool required)
{
	const json_t *value = json_object_get(request->object, key);
	const char *text = json_string_value(value);

	if (!value && !required)
		return "";
	if (text && strlen(text) == json_string_length(value) && (ob_name_valid(text) || (!required && !*text)))
		return text;
	complain(request, key, "a name of 1 to 63 letters, digits and ._-, not starting with . or -");
	return "";
}

static uint64_t get_number(struct request *request, const char *key, uint64_t least, uint64_t most, int64_t otherwise)
{
	const json_t *value = json_object_get(request->object, key);
	json_int_t number = json_integer_value(value);
	char right[80];

	if (!value && otherwise >= 0)
		return (uint64_t)otherwise;
	if (json_is_integer(value) && number >= 0 && (uint64_t)number >= least && (uint64_t)number <= most)
		return (uint64_t)number;
	snprintf(right, sizeof(right), "an integer from %llu to %llu", (unsigned long long)least, (unsigned long long)most);
	complain(request, key, right);
	return least;
}

static bool get_bool(struct request *request, const char *key)
{
	const json_t *value = json_object_get(request->object, key);

	if (value && !json_is_boolean(value))
		complain(request, key, "true or false");
	return json_is_true(value);
}

/* A size that may be 0 for none, and is large enough for the engine otherwise. */
static uint64_t get_maximum(struct request *request, const char *key, bool required)
{
	uint64_t bytes = get_number(request, key, 0, INT64_MAX, required ? -1 : 0);

	if (bytes && bytes < OB_LIMIT_MIN)
		complain(request, key, "0 for none, or at least 8388608 (8 MiB)");
	return bytes ? bytes : OB_BUDGET_NONE;
}

/* Answers a request that is wrong. Returns whether it was. */
static bool refused_as_bad(struct request *request)
{
	if (request->err.code)
		ob_client_refuse(request->client, "bad-request", "%s", request->err.text);
	return request->err.code != 0;
}

/* The machine that the request names; answers and returns NULL when there is none. */
static struct ob_machine *get_machine(struct request *request)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	const char *name = get_name(request, "name", true);
	struct ob_machine *machine = request->err.code ? NULL : ob_registry_find(daemon, name);

	if (!refused_as_bad(request) && !machine)
		ob_client_refuse(request->client, "no-machine", "there is no machine \"%s\"", name);
	return machine;
}

/* Whether the machine's agent can be told something; answers when not. */
static bool is_reachable(struct request *request, const struct ob_machine *machine)
{
	if (!machine->link)
		ob_client_refuse(request->client, "failed", "machine \"%s\" is %s: its agent is not connected", machine->name,
				 ob_machine_state_name(machine));
	else if (machine->release == OB_RELEASE_RUNNING)
		ob_client_refuse(request->client, "failed", "machine \"%s\" is being released", machine->name);
	else if (ob_share_is_ending(machine))
		ob_client_refuse(request->client, "failed", "machine \"%s\" is bringing its shared pages back", machine->name);
	return machine->link && machine->release != OB_RELEASE_RUNNING && !ob_share_is_ending(machine);
}

static uint64_t sane(uint64_t bytes)
{
	return OB_MIN(bytes, BYTES_SANE);
}

static void run_version(struct request *request)
{
	ob_client_answer(request->client, json_pack("{s:s, s:s, s:I}", "program", "overbookd", "program_version", OB_VERSION, "pid",
						    (json_int_t)getpid()));
}

/* NULL when memory is short. */
static json_t *list_machines(const struct ob_daemon *daemon, bool counts)
{
	json_t *list = json_array();

	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		json_t *row = ob_render_row(machine);

		if (json_array_append_new(list, row) < 0 || (counts && json_object_set_new(row, "counts", ob_render_counts(machine)) < 0)) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static void run_ps(struct request *request)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	json_int_t budget = daemon->config.budget_bytes == OB_BUDGET_NONE ? 0 : (json_int_t)daemon->config.budget_bytes;
	bool counts = get_bool(request, "counts");
	json_t *list, *answer, *more = NULL;

	if (refused_as_bad(request))
		return;
	list = list_machines(daemon, counts);
	answer = list ? json_pack("{s:I, s:o, s:o, s:o}", "budget_bytes", budget, "machines", list, "memory", ob_shortage_render(daemon),
				  "large_pages", ob_render_large(daemon)) : NULL;
	if (counts)
		more = json_pack("{s:s, s:I, s:I, s:o, s:o}", "program_version", OB_VERSION, "pid", (json_int_t)getpid(), "now_ms",
				 (json_int_t)(ob_now_ns() / OB_NS_PER_MS), "stores", ob_share_render_stores(daemon), "host", ob_render_host());
	if (counts && (!more || json_object_update(answer, more) < 0)) {
		json_decref(answer);
		answer = NULL;
	}
	json_decref(more);
	ob_client_answer(request->client, answer);
}

static void run_stats(struct request *request)
{
	const struct ob_machine *machine = get_machine(request);

	if (machine)
		ob_client_answer(request->client, ob_render_stats(machine));
}

static void begin_wait(struct request *request, enum ob_wait_kind kind, struct ob_machine *machine)
{
	*ob_client_wait(request->client) = (struct ob_wait){
		.kind = kind, .machine = machine, .start_ns = ob_now_ns(), .least_ns = ob_now_ns(), .least_bytes = UINT64_MAX,
	};
}

static void run_limit(struct request *request)
{
	uint64_t maximum = get_maximum(request, "maximum_bytes", true);
	bool wait = get_bool(request, "wait");
	struct ob_machine *machine = get_machine(request);
	char given[16], reserved[16];

	if (!machine || !is_reachable(request, machine))
		return;
	if (maximum < machine->reservation_bytes) {
		ob_client_refuse(request->client, "refused", "a limit of %s is below the %s that are reserved for machine \"%s\"",
				 ob_size_format(given, sizeof(given), maximum),
				 ob_size_format(reserved, sizeof(reserved), machine->reservation_bytes), machine->name);
		return;
	}
	machine->maximum_bytes = maximum;
	machine->release = OB_RELEASE_NO;
	ob_arbiter_stir(machine->daemon);
	ob_arbiter_run(machine->daemon);
	if (wait)
		begin_wait(request, OB_WAIT_LIMIT, machine);
	else
		ob_client_answer(request->client, ob_render_row(machine));
}

/* Whether the host can hold what comes back. Returns 0, or -EPERM with the arithmetic. */
static int check_host_memory(const struct ob_machine *machine, uint64_t back, struct ob_error *err)
{
	uint64_t available = ob_meminfo("MemAvailable"), reserve = ob_meminfo("MemTotal") / 100 * RESERVE_PERCENT;
	char need[16], keep[16], have[16];

	if (!available || back + reserve <= available)
		return 0;
	return ob_error_set(err, EPERM, "machine \"%s\" has %s to bring back, and %s (%d%% of the host's memory) must stay free; the host "
			    "has %s available", machine->name, ob_size_format(need, sizeof(need), back),
			    ob_size_format(keep, sizeof(keep), reserve), RESERVE_PERCENT,
			    ob_size_format(have, sizeof(have), available));
}

static void run_release(struct request *request)
{
	bool force = get_bool(request, "force");
	struct ob_machine *machine = get_machine(request);
	struct ob_error err = { 0 };
	uint64_t back;

	if (!machine || !is_reachable(request, machine))
		return;
	back = sane(machine->stats.compressed_bytes) + sane(machine->stats.swapped_bytes) + sane(machine->stats.shared_bytes);
	if (!force && (check_host_memory(machine, back, &err) < 0 || ob_arbiter_check_release(machine, &err) < 0)) {
		ob_client_refuse(request->client, "refused", "%s", err.text);
		return;
	}
	ob_log(OB_LOG_INFO, "machine \"%s\" is being released%s", machine->name, force ? " by force" : "");
	ob_link_order_release(machine);
	begin_wait(request, OB_WAIT_RELEASE, machine);
	ob_arbiter_stir(machine->daemon);
}

static json_t *answer_balloon(const struct ob_machine *machine)
{
	return json_pack("{s:s, s:I, s:o, s:o}", "name", machine->name, "ram_bytes", (json_int_t)ob_arbiter_ram(machine), "balloon",
			 ob_balloon_render(machine), "guest", ob_guest_render(machine));
}

static void run_balloon(struct request *request)
{
	static const char *const modes[] = { [OB_BALLOON_OFF] = "off", [OB_BALLOON_FIXED] = "fixed", [OB_BALLOON_AUTO] = "auto" };
	const json_t *value = json_object_get(request->object, "mode");
	const char *text = json_string_value(value);
	enum ob_balloon_mode mode = OB_BALLOON_DEFAULT;
	uint64_t size = get_number(request, "size_bytes", 0, INT64_MAX, 0);
	struct ob_machine *machine;
	int r;

	for (size_t i = OB_BALLOON_OFF; text && i < OB_ARRAY_LEN(modes); i++)
		if (!strcmp(text, modes[i]))
			mode = (enum ob_balloon_mode)i;
	if (value && mode == OB_BALLOON_DEFAULT)
		complain(request, "mode", "\"auto\", \"off\" or \"fixed\"");
	if ((size != 0) != (mode == OB_BALLOON_FIXED))
		complain(request, "size_bytes", "there, and not 0, with mode \"fixed\" alone");
	machine = get_machine(request);
	if (!machine || (value && !is_reachable(request, machine)))
		return;
	r = value ? ob_balloon_set(machine, mode, size, &request->err) : 0;
	if (r < 0)
		ob_client_refuse(request->client, r == -EPERM ? "refused" : "failed", "%s", request->err.text);
	else
		ob_client_answer(request->client, answer_balloon(machine));
}

static void run_share(struct request *request)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	const struct ob_machine *machine = NULL;

	if (json_object_get(request->object, "name")) {
		machine = get_machine(request);
		if (!machine)
			return;
	}
	ob_client_answer(request->client, ob_share_render(daemon, machine));
}

/* Whether a machine has room for its shared pages as pages of its own. Returns 0, or -EPERM with the arithmetic. */
static int check_unshare(const struct ob_machine *machine, struct ob_error *err)
{
	uint64_t back = sane(machine->stats.shared_bytes), cost = sane(machine->stats.cost_bytes), room;
	char need[16], limit[16], costs[16], left[16];

	if (machine->limit_bytes == OB_BUDGET_NONE)
		return check_host_memory(machine, back, err);
	room = machine->limit_bytes > cost ? machine->limit_bytes - cost : 0;
	if (back <= room)
		return 0;
	return ob_error_set(err, EPERM, "machine \"%s\" has %s to bring back; it costs %s and may cost %s, which leaves room for %s",
			    machine->name, ob_size_format(need, sizeof(need), back), ob_size_format(costs, sizeof(costs), cost),
			    ob_size_format(limit, sizeof(limit), machine->limit_bytes), ob_size_format(left, sizeof(left), room));
}

static void run_share_switch(struct request *request)
{
	struct ob_machine *machine;
	struct ob_error err = { 0 };
	bool on = get_bool(request, "on");

	if (!json_object_get(request->object, "on"))
		complain(request, "on", "true or false");
	machine = get_machine(request);
	if (!machine || !is_reachable(request, machine))
		return;
	if (on) {
		ob_share_order_on(machine);
		ob_client_answer(request->client, ob_share_render_machine(machine));
		return;
	}
	if (check_unshare(machine, &err) < 0) {
		ob_client_refuse(request->client, "refused", "%s", err.text);
		return;
	}
	ob_log(OB_LOG_INFO, "machine \"%s\" shares no pages any more", machine->name);
	ob_share_order_off(machine);
	begin_wait(request, OB_WAIT_UNSHARE, machine);
	ob_arbiter_stir(machine->daemon);
}

struct admission {
	const char *name, *domain;
	uint64_t ram_bytes, reservation_bytes, maximum_bytes;
	uint32_t shares, pid;
	bool force; /* whatever is guaranteed to others */
};

static void read_admission(struct request *request, struct admission *ret)
{
	ret->name = get_name(request, "name", true);
	ret->domain = get_name(request, "domain", false);
	ret->ram_bytes = get_number(request, "ram_bytes", 1, INT64_MAX, -1);
	ret->reservation_bytes = get_number(request, "reservation_bytes", 0, INT64_MAX, 0);
	ret->maximum_bytes = get_maximum(request, "maximum_bytes", false);
	ret->shares = (uint32_t)get_number(request, "shares", 1, OB_SHARES_MAX, OB_SHARES_DEFAULT);
	ret->pid = (uint32_t)get_number(request, "pid", 1, INT32_MAX, -1);
	ret->force = get_bool(request, "force");
	if (ret->reservation_bytes > ret->maximum_bytes)
		complain(request, "reservation_bytes", "at most maximum_bytes");
	if (ret->reservation_bytes > ret->ram_bytes)
		complain(request, "reservation_bytes", "at most ram_bytes");
}

/* Fills in what is not given from the machine that newcomers are to be like, if there is one. */
static bool read_newcomer(struct request *request, struct ob_arbiter_newcomer *ret)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	const char *like = get_name(request, "like", false);
	const struct ob_machine *machine = *like ? ob_registry_find(daemon, like) : NULL;

	*ret = (struct ob_arbiter_newcomer){
		.maximum_bytes = OB_BUDGET_NONE, .uses_bytes = OB_BUDGET_NONE, .uses_low_bytes = OB_BUDGET_NONE, .uses_high_bytes = OB_BUDGET_NONE,
		.shares = OB_SHARES_DEFAULT,
	};
	if (*like && !machine) {
		ob_client_refuse(request->client, "no-machine", "there is no machine \"%s\"", like);
		return false;
	}
	if (machine)
		*ret = (struct ob_arbiter_newcomer){
			.ram_bytes = ob_arbiter_ram(machine), .reservation_bytes = machine->reservation_bytes,
			.maximum_bytes = machine->maximum_bytes, .uses_bytes = machine->working_set.believed_bytes,
			.uses_low_bytes = machine->working_set.low_bytes, .uses_high_bytes = machine->working_set.high_bytes, .shares = machine->shares,
		};
	ret->ram_bytes = get_number(request, "ram_bytes", 1, BYTES_SANE, ret->ram_bytes ? (int64_t)ret->ram_bytes : -1);
	ret->reservation_bytes = get_number(request, "reservation_bytes", 0, BYTES_SANE, (int64_t)ret->reservation_bytes);
	ret->shares = (uint32_t)get_number(request, "shares", 1, OB_SHARES_MAX, ret->shares);
	if (json_object_get(request->object, "maximum_bytes"))
		ret->maximum_bytes = get_maximum(request, "maximum_bytes", true);
	if (json_object_get(request->object, "uses_bytes"))
		ret->uses_bytes = ret->uses_low_bytes = ret->uses_high_bytes = get_number(request, "uses_bytes", 0, BYTES_SANE, -1);
	if (ret->reservation_bytes > OB_MIN(ret->maximum_bytes, ret->ram_bytes))
		complain(request, "reservation_bytes", "no more than the machine's maximum, and its RAM");
	return !refused_as_bad(request);
}

static void run_plan(struct request *request)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	size_t most = OB_DAEMON_MACHINES_MAX - daemon->machine_count, count = get_number(request, "count", 0, most, most ? 1 : 0);
	const struct ob_budget_machine *then;
	struct ob_arbiter_newcomer newcomer;
	struct ob_plan_doubt doubt;
	struct ob_plan plan;

	if (!read_newcomer(request, &newcomer))
		return;
	if (daemon->config.budget_bytes == OB_BUDGET_NONE) {
		ob_client_refuse(request->client, "refused", "overbookd runs without a budget: nothing is divided, and every machine is admitted");
		return;
	}
	then = ob_arbiter_plan(daemon, &newcomer, count, &plan, &doubt);
	ob_client_answer(request->client, ob_render_plan(daemon, count, &plan, &doubt, then));
}

static void run_admit(struct request *request)
{
	struct ob_daemon *daemon = ob_client_daemon(request->client);
	struct ob_machine *machine, *earlier;
	struct admission admission;
	int r;

	read_admission(request, &admission);
	if (refused_as_bad(request))
		return;
	earlier = ob_registry_find(daemon, admission.name);
	if (earlier && earlier->state == OB_MACHINE_STARTING && earlier->pid == admission.pid)
		ob_registry_remove(earlier, "it asks to be admitted anew");
	r = ob_registry_add(daemon, admission.name, admission.pid, &machine, &request->err);
	if (r < 0) {
		ob_event(OB_EVENT_MACHINE_REFUSED, admission.name, admission.pid, "not admitted: %s", request->err.text);
		ob_client_refuse(request->client, r == -EEXIST || r == -ENOSPC ? "refused" : "failed", "%s", request->err.text);
		return;
	}
	memcpy(machine->domain, admission.domain, strlen(admission.domain) + 1);
	machine->shares = admission.shares;
	machine->ram_bytes = admission.ram_bytes;
	machine->reservation_bytes = admission.reservation_bytes;
	machine->maximum_bytes = machine->ordered_maximum_bytes = admission.maximum_bytes;
	if (ob_arbiter_check_guarantees(machine, &request->err) < 0 && admission.force) {
		ob_event(OB_EVENT_MACHINE_FORCED, machine->name, machine->pid, "admitted by force: %s", request->err.text);
		request->err = (struct ob_error){ 0 };
	}
	if (request->err.code) {
		ob_event(OB_EVENT_MACHINE_REFUSED, machine->name, machine->pid, "not admitted: %s", request->err.text);
		ob_client_refuse(request->client, "refused", "%s", request->err.text);
		ob_registry_remove(machine, "it does not fit");
		return;
	}
	begin_wait(request, OB_WAIT_ADMISSION, machine);
	ob_arbiter_stir(daemon);
	ob_arbiter_run(daemon);
}

#define MEMBERS_MAX 8

static const struct command {
	const char *name;
	void (*run)(struct request *request);
	const char *members[MEMBERS_MAX];
} commands[] = {
	{ "version", run_version },
	{ "ps", run_ps, { "counts" } },
	{ "stats", run_stats, { "name" } },
	{ "limit", run_limit, { "name", "maximum_bytes", "wait" } },
	{ "release", run_release, { "name", "force" } },
	{ "balloon", run_balloon, { "name", "mode", "size_bytes" } },
	{ "share", run_share, { "name" } },
	{ "share-switch", run_share_switch, { "name", "on" } },
	{ "plan", run_plan, { "like", "count", "ram_bytes", "reservation_bytes", "maximum_bytes", "shares", "uses_bytes" } },
	{ "admit", run_admit, { "name", "domain", "ram_bytes", "reservation_bytes", "maximum_bytes", "shares", "pid", "force" } },
};

static bool knows_member(const struct command *command, const char *key)
{
	if (!strcmp(key, "version") || !strcmp(key, "command"))
		return true;
	for (size_t i = 0; i < MEMBERS_MAX && command->members[i]; i++)
		if (!strcmp(command->members[i], key))
			return true;
	return false;
}

/* Finds the command and checks what is common to all. NULL with request->err set when something is wrong. */
static const struct command *find_command(struct request *request)
{
	const json_t *version = json_object_get(request->object, "version");
	const char *name = json_string_value(json_object_get(request->object, "command")), *key;
	const struct command *command = NULL;
	json_t *value;

	if (!json_is_object(request->object)) {
		(void)ob_error_set(&request->err, EINVAL, "a request must be a JSON object");
	} else if (!json_is_integer(version) || json_integer_value(version) != OB_API_VERSION) {
		(void)ob_error_set(&request->err, EINVAL, "\"version\" must be %d: it is the only one that is spoken here",
				   OB_API_VERSION);
	} else if (!name) {
		(void)ob_error_set(&request->err, EINVAL, "\"command\" must be a string");
	} else {
		for (size_t i = 0; i < OB_ARRAY_LEN(commands) && !command; i++)
			if (!strcmp(commands[i].name, name))
				command = &commands[i];
		if (!command)
			(void)ob_error_set(&request->err, EINVAL, "there is no command \"%.64s\"", name);
	}
	if (!command)
		return NULL;
	json_object_foreach(request->object, key, value)
		if (!knows_member(command, key))
			(void)ob_error_set(&request->err, EINVAL, "command \"%s\" does not know \"%.64s\"", name, key);
	return request->err.code ? NULL : command;
}

void ob_command_run(struct ob_client *client, const char *line, size_t len)
{
	struct request request = { .client = client };
	const struct command *command;
	json_error_t problem;

	request.object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &problem);
	if (!request.object) {
		ob_client_refuse(client, "bad-request", "a request must be one JSON object on one line: %.160s", problem.text);
		return;
	}
	command = find_command(&request);
	if (command)
		command->run(&request);
	else
		(void)refused_as_bad(&request);
	json_decref(request.object);
}
