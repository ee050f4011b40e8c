/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook run`: prepares a machine and becomes QEMU, so that pid, signals, terminal and exit status are QEMU's own.
 *
 * In this order: find QEMU; read its command line and make the plan of the new one; see whether the host can run the
 * engine; find the agent and the swap directory; take the machine's name; ask overbookd for room; set the agent's
 * environment; exec. Up to the taking of the name nothing has been changed on the host (but for the default swap directory);
 * if anything fails after it, the machine's directory is removed again.
 *
 * Where the host cannot run the engine, QEMU runs with the user's own command line and the reason is printed once, unless
 * --require is given. Where overbookd does not answer, the machine runs with its own --limit and is found by an overbookd
 * that comes later. A command line that only prints something (-version, -device help) is executed as it is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/machine_dir.h"
#include "cli/qemu_args.h"
#include "cli/qemu_binary.h"
#include "cli/run_host.h"
#include "cli/run_options.h"
#include "cli/rundir.h"
#include "kern/probe.h"
#include "proto/env.h"

#define AGENTS_SOCKET "agents.sock" /* overbookd's, in RUNDIR, for when it does not answer and cannot say so itself */

/* The variables of proto/env.h that we set; the fault points are the tester's own. */
static const char *const agent_variables[] = {
	OB_ENV_NAME, OB_ENV_DIR,    OB_ENV_LIMIT, OB_ENV_MAXIMUM, OB_ENV_RESERVATION,
	OB_ENV_SHARES, OB_ENV_DOMAIN, OB_ENV_SWAP,  OB_ENV_SOCKET,  OB_ENV_REQUIRE,
};

struct run {
	struct ob_run_options options;
	struct ob_qemu_binary binary;
	struct ob_qemu_opts opts;
	struct ob_qemu_plan plan;
	char **user_argv; /* QEMU's, as the user wrote it (or as the kvm script would have) */
	const char *name;
	const char *rundir;
	struct ob_machine_dir dir;
	char agent[PATH_MAX];
	char swap[PATH_MAX]; /* "": no swap store */
	char socket[PATH_MAX];
	uint64_t limit_bytes;
};

static int ask_ram_id(void *context, const char *type, char *ret_id, size_t size, struct ob_error *err)
{
	return ob_qemu_binary_ask_ram_id(context, type, ret_id, size, err);
}

/* Becomes QEMU without us. */
static int exec_plainly(struct run *run)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(agent_variables); i++)
		unsetenv(agent_variables[i]);
	execv(run->binary.path, run->user_argv);
	return ob_cli_fail(OB_EXIT_FAILED, "cannot execute \"%s\": %s", run->binary.path, strerror(errno));
}

/* QEMU's words; where a kvm script was meant, what it would have added. */
static char **copy_words(struct ob_arena *arena, const struct ob_qemu_binary *binary, int argc, char **argv)
{
	char **words = ob_arena_alloc(arena, ((size_t)argc + 2) * sizeof(*words));
	int n = 0;

	words[n++] = binary->enable_kvm ? ob_arena_strdup(arena, binary->path) : argv[0];
	if (binary->enable_kvm)
		words[n++] = ob_arena_strdup(arena, "-enable-kvm");
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	return words;
}

static int count_words(char *const *words)
{
	int n = 0;

	while (words[n])
		n++;
	return n;
}

static int print_refusals(const struct run *run)
{
	for (size_t i = 0; i < run->plan.n_refusals; i++)
		ob_cli_fail(OB_EXIT_REFUSED, "%s", run->plan.refusals[i]);
	return OB_EXIT_REFUSED;
}

static int choose_name(struct run *run, struct ob_arena *arena)
{
	struct ob_error err = { 0 };

	run->name = run->options.name ? run->options.name : ob_qemu_name(&run->opts);
	if (!run->name)
		run->name = ob_arena_printf(arena, "qemu-%ld", (long)getpid());
	run->rundir = ob_cli_rundir(&err);
	if (!run->rundir || ob_machine_dir_path(run->rundir, run->name, run->dir.path, sizeof(run->dir.path), &err) < 0)
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	return OB_EXIT_OK;
}

/* Makes the plan. With --dry-run --json refusals are left to print_plan(). */
static int make_plan(struct run *run)
{
	struct ob_qemu_plan_config config = { .target = run->binary.target, .default_type = run->binary.default_type,
					      .dir = run->dir.path,
					      .ask_ram_id = ask_ram_id, .context = &run->binary };
	struct ob_error err = { 0 };

	ob_qemu_plan_make(&run->opts, &config, &run->plan);
	if (run->plan.n_refusals)
		return run->options.json ? OB_EXIT_OK : print_refusals(run);
	if (ob_run_options_check(&run->options, run->plan.ram_bytes, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	run->limit_bytes = run->options.limit_bytes;
	return OB_EXIT_OK;
}

static void set_number(const char *variable, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	setenv(variable, text, 1);
}

static void set_environment(const struct run *run, struct ob_arena *arena)
{
	const char *preload = getenv("LD_PRELOAD");

	for (size_t i = 0; i < OB_ARRAY_LEN(agent_variables); i++)
		unsetenv(agent_variables[i]);
	setenv(OB_ENV_NAME, run->name, 1);
	setenv(OB_ENV_DIR, run->dir.path, 1);
	set_number(OB_ENV_SHARES, run->options.shares);
	if (run->limit_bytes)
		set_number(OB_ENV_LIMIT, run->limit_bytes);
	if (run->options.limit_bytes)
		set_number(OB_ENV_MAXIMUM, run->options.limit_bytes);
	if (run->options.reservation_bytes)
		set_number(OB_ENV_RESERVATION, run->options.reservation_bytes);
	if (run->options.domain)
		setenv(OB_ENV_DOMAIN, run->options.domain, 1);
	if (run->swap[0])
		setenv(OB_ENV_SWAP, run->swap, 1);
	if (run->socket[0])
		setenv(OB_ENV_SOCKET, run->socket, 1);
	if (run->options.require)
		setenv(OB_ENV_REQUIRE, "1", 1);
	if (run->agent[0])
		setenv("LD_PRELOAD", preload && *preload ? ob_arena_printf(arena, "%s:%s", run->agent, preload) : run->agent,
		       1);
}

static json_t *texts_to_json(const char **texts, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(texts[i]));
	return list;
}

static json_t *environment_to_json(void)
{
	json_t *object = json_object();

	for (size_t i = 0; i < OB_ARRAY_LEN(agent_variables); i++)
		if (getenv(agent_variables[i]))
			json_object_set_new(object, agent_variables[i], json_string(getenv(agent_variables[i])));
	if (getenv("LD_PRELOAD"))
		json_object_set_new(object, "LD_PRELOAD", json_string(getenv("LD_PRELOAD")));
	return object;
}

static void print_plan_json(const struct run *run)
{
	json_t *object = json_object(), *words = json_array();

	for (int i = 0; i < run->plan.argc; i++)
		json_array_append_new(words, json_string(run->plan.argv[i]));
	json_object_set_new(object, "name", json_string(run->name));
	json_object_set_new(object, "program", json_string(run->binary.path));
	json_object_set_new(object, "argv", words);
	json_object_set_new(object, "env", environment_to_json());
	json_object_set_new(object, "dir", json_string(run->dir.path));
	json_object_set_new(object, "ram_bytes", json_integer((json_int_t)run->plan.ram_bytes));
	json_object_set_new(object, "notes", texts_to_json(run->plan.notes, run->plan.n_notes));
	json_object_set_new(object, "refusals", texts_to_json(run->plan.refusals, run->plan.n_refusals));
	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
}

/* --dry-run: what would be run, as far as that can be known without touching anything. */
static int print_plan(struct run *run, struct ob_arena *arena)
{
	if (!run->options.json) {
		for (size_t i = 0; i < run->plan.n_notes; i++)
			ob_cli_warn("%s", run->plan.notes[i]);
		puts(ob_qemu_quote(arena, run->plan.argv));
		return OB_EXIT_OK;
	}
	/* What is missing here is an error of `run` itself, not of its dry run. */
	if (ob_host_find_agent(run->agent, sizeof(run->agent), NULL) < 0)
		run->agent[0] = 0;
	if (run->options.no_swap || ob_host_find_swap(run->options.swap, 0, run->swap, sizeof(run->swap), NULL) < 0)
		run->swap[0] = 0;
	snprintf(run->socket, sizeof(run->socket), "%s/" AGENTS_SOCKET, run->rundir);
	set_environment(run, arena);
	print_plan_json(run);
	return run->plan.n_refusals ? OB_EXIT_REFUSED : OB_EXIT_OK;
}

/* Whether kernel and installation can do it; if not, says so, and the caller goes on without us. */
static int check_host(struct run *run, struct ob_error *err)
{
	struct ob_kern_features features;
	int r = ob_kern_probe(&features, err);

	return r < 0 ? r : ob_host_find_agent(run->agent, sizeof(run->agent), err);
}

/* The default directory may be missing: then the machine runs without a swap store, which it is told. */
static int choose_swap(struct run *run)
{
	struct ob_error err = { 0 };

	if (run->options.no_swap)
		return OB_EXIT_OK;
	if (!ob_host_find_swap(run->options.swap, 1, run->swap, sizeof(run->swap), &err))
		return OB_EXIT_OK;
	if (run->options.swap || run->options.require)
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	run->swap[0] = 0;
	ob_cli_warn("%s; running without a swap store, as with --no-swap", err.text);
	return OB_EXIT_OK;
}

static int ask_for_room(struct run *run)
{
	struct ob_client_admission admission = {
		.name = run->name, .domain = run->options.domain, .ram_bytes = run->plan.ram_bytes,
		.reservation_bytes = run->options.reservation_bytes, .maximum_bytes = run->options.limit_bytes,
		.shares = run->options.shares, .pid = (uint32_t)getpid(),
	};
	struct ob_error err = { 0 };
	uint64_t limit_bytes = 0;
	int r = ob_client_admit(&admission, &limit_bytes, run->socket, sizeof(run->socket), &err);

	if (r == -ECONNREFUSED) {
		snprintf(run->socket, sizeof(run->socket), "%.*s/" AGENTS_SOCKET, (int)sizeof(run->socket) - 16,
			 run->rundir);
		return OB_EXIT_OK;
	}
	if (r < 0)
		return ob_cli_fail(r == -EPERM ? OB_EXIT_REFUSED : OB_EXIT_FAILED, "%s", err.text);
	if (limit_bytes && (!run->limit_bytes || limit_bytes < run->limit_bytes))
		run->limit_bytes = limit_bytes;
	return OB_EXIT_OK;
}

/* From here on the host is changed; returns only on failure. */
static int become_qemu(struct run *run, struct ob_arena *arena)
{
	struct ob_error err = { 0 };
	int code, r;

	ob_machine_dir_sweep(run->rundir);
	r = ob_machine_dir_claim(run->rundir, run->name, &run->dir, &err);
	if (r < 0)
		return ob_cli_fail(r == -EBUSY ? OB_EXIT_REFUSED : OB_EXIT_FAILED, "%s", err.text);
	code = ask_for_room(run);
	if (code == OB_EXIT_OK) {
		for (size_t i = 0; i < run->plan.n_notes; i++)
			ob_cli_warn("%s", run->plan.notes[i]);
		set_environment(run, arena);
		execv(run->binary.path, run->plan.argv);
		code = ob_cli_fail(OB_EXIT_FAILED, "cannot execute \"%s\": %s", run->binary.path, strerror(errno));
	}
	ob_machine_dir_discard(&run->dir);
	return code;
}

static int run_machine(struct run *run, struct ob_arena *arena)
{
	struct ob_error err = { 0 };
	int code;

	if (ob_qemu_opts_parse(&run->opts, count_words(run->user_argv), run->user_argv, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	if (run->opts.prints_and_ends)
		return exec_plainly(run);
	code = choose_name(run, arena);
	if (code == OB_EXIT_OK)
		code = make_plan(run);
	if (code != OB_EXIT_OK)
		return code;
	if (run->options.dry_run)
		return print_plan(run, arena);
	if (check_host(run, &err) < 0) {
		if (run->options.require)
			return ob_cli_fail(OB_EXIT_REFUSED, "%s (--require is given)", err.text);
		ob_cli_warn("%s; running QEMU without Overbook", err.text);
		return exec_plainly(run);
	}
	code = choose_swap(run);
	return code == OB_EXIT_OK ? become_qemu(run, arena) : code;
}

int ob_cmd_run(int argc, char **argv)
{
	struct run run = { .dir.lock_fd = -1 };
	struct ob_arena arena = { 0 };
	struct ob_error err = { 0 };
	int code;

	if (ob_run_options_parse(argc, argv, &run.options, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	if (run.options.help) {
		ob_run_options_print_help();
		return OB_EXIT_OK;
	}
	if (ob_qemu_binary_find(argv[run.options.first], &run.binary, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	run.user_argv = copy_words(&arena, &run.binary, argc - run.options.first, argv + run.options.first);
	code = run_machine(&run, &arena);
	ob_qemu_opts_free(&run.opts);
	ob_arena_free(&arena);
	return code;
}
