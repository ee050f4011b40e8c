/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prepares a machine and becomes QEMU, so that pid, signals, terminal and exit status are QEMU's own.
 *
 * The caller has found QEMU and read its command line, names the machine and has the plan made. Then, in this order: see
 * whether the host can run the engine; find the agent and the swap directory; take the machine's name; ask overbookd for
 * room; set the agent's environment; exec. Up to the taking of the name nothing has been changed on the host (but for the
 * default swap directory); if anything fails after it, the machine's directory is removed again.
 *
 * Where the host cannot run the engine, QEMU runs with the user's own command line and the reason is printed once, unless
 * that is forbidden (require). Where overbookd does not answer, the machine runs with its own limit and is found by an
 * overbookd that comes later. What goes wrong beyond that ends the run, but for lenient ones: there somebody else starts
 * the machine and counts on it, so a directory that is missing or closed costs him Overbook, not the machine. A name that
 * is taken, and a refusal of overbookd, end every run.
 */
#include "cli/run_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/run_host.h"
#include "cli/rundir.h"
#include "kern/probe.h"
#include "proto/env.h"

#define ASK_AGAIN    10 /* times, when overbookd ended while it was asked */
#define ASK_AGAIN_NS 300000000l

#define AGENTS_SOCKET "agents.sock" /* overbookd's, in RUNDIR, for when it does not answer and cannot say so itself */

/* The variables of proto/env.h that we set; the fault points are the tester's own. */
const char *const ob_run_variables[] = {
	OB_ENV_NAME,   OB_ENV_DIR,  OB_ENV_LIMIT,  OB_ENV_MAXIMUM, OB_ENV_RESERVATION, OB_ENV_SHARES,
	OB_ENV_DOMAIN, OB_ENV_SWAP, OB_ENV_SOCKET, OB_ENV_REQUIRE, OB_ENV_SHARE_MAPPED, OB_ENV_KEEP_AFFINITY, OB_ENV_BALLOON,
	OB_ENV_LARGE,  NULL,
};

void ob_run_init(struct ob_run *run)
{
	memset(run, 0, sizeof(*run));
	run->dir.lock_fd = -1;
	run->require_word = "--require is given";
}

void ob_run_free(struct ob_run *run)
{
	ob_qemu_opts_free(&run->opts);
	ob_arena_free(&run->arena);
}

void ob_run_set_words(struct ob_run *run, int argc, char *const *argv)
{
	char **words = ob_arena_alloc(&run->arena, ((size_t)argc + 2) * sizeof(*words));
	int n = 0;

	words[n++] = run->binary.enable_kvm ? ob_arena_strdup(&run->arena, run->binary.path) : argv[0];
	if (run->binary.enable_kvm)
		words[n++] = ob_arena_strdup(&run->arena, "-enable-kvm");
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	run->user_argv = words;
}

int ob_run_set_name(struct ob_run *run, const char *name, struct ob_error *err)
{
	run->name = name ? name : ob_arena_printf(&run->arena, "qemu-%ld", (long)getpid());
	run->rundir = ob_cli_rundir(err);
	if (!run->rundir)
		return err && err->code ? -err->code : -ENOENT;
	return ob_machine_dir_path(run->rundir, run->name, run->dir.path, sizeof(run->dir.path), err);
}

static int ask_ram_id(void *context, const char *type, char *ret_id, size_t size, struct ob_error *err)
{
	return ob_qemu_binary_ask_ram_id(context, type, ret_id, size, err);
}

void ob_run_make_plan(struct ob_run *run)
{
	struct ob_qemu_plan_config config = { .target = run->binary.target, .default_type = run->binary.default_type,
					      .dir = run->dir.path, .keep_devices = run->keep_devices,
					      .ask_ram_id = ask_ram_id, .context = &run->binary };

	ob_qemu_plan_make(&run->opts, &config, &run->plan);
}

int ob_run_print_refusals(const struct ob_run *run)
{
	for (size_t i = 0; i < run->plan.n_refusals; i++)
		ob_cli_fail(OB_EXIT_REFUSED, "%s", run->plan.refusals[i]);
	return OB_EXIT_REFUSED;
}

static void clear_environment(void)
{
	for (size_t i = 0; ob_run_variables[i]; i++)
		unsetenv(ob_run_variables[i]);
}

static int become(struct ob_run *run, char *const *argv)
{
	for (size_t i = 0; run->private_variables && run->private_variables[i]; i++)
		unsetenv(run->private_variables[i]);
	execv(run->binary.path, argv);
	return ob_cli_fail(OB_EXIT_FAILED, "cannot execute \"%s\": %s", run->binary.path, strerror(errno));
}

int ob_run_exec_plainly(struct ob_run *run)
{
	clear_environment();
	return become(run, run->user_argv);
}

int ob_run_exec_without(struct ob_run *run, const char *why)
{
	if (run->options.require)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s (%s)", why, run->require_word);
	ob_cli_warn("%s; running QEMU without Overbook", why);
	return ob_run_exec_plainly(run);
}

static void set_number(const char *variable, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	setenv(variable, text, 1);
}

void ob_run_set_environment(struct ob_run *run)
{
	const char *preload = getenv("LD_PRELOAD");

	clear_environment();
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
	if (run->options.share_mapped)
		setenv(OB_ENV_SHARE_MAPPED, "1", 1);
	if (run->options.keep_affinity)
		setenv(OB_ENV_KEEP_AFFINITY, "1", 1);
	if (run->options.balloon)
		setenv(OB_ENV_BALLOON, run->options.balloon, 1);
	if (run->no_large)
		setenv(OB_ENV_LARGE, "off", 1);
	if (run->agent[0])
		setenv("LD_PRELOAD",
		       preload && *preload ? ob_arena_printf(&run->arena, "%s:%s", run->agent, preload) : run->agent, 1);
}

void ob_run_default_socket(struct ob_run *run)
{
	snprintf(run->socket, sizeof(run->socket), "%.*s/" AGENTS_SOCKET, (int)sizeof(run->socket) - 16, run->rundir);
}

/* Whether kernel and installation can do it. */
static int check_host(struct ob_run *run, struct ob_error *err)
{
	struct ob_kern_features features;
	int r = ob_kern_probe(&features, err);

	if (r == 0)
		r = ob_host_check_file_size(run->plan.ram_bytes, err);
	return r < 0 ? r : ob_host_find_agent(run->agent, sizeof(run->agent), err);
}

/* The default directory may be missing: then the machine runs without a swap store, which it is told. */
static int choose_swap(struct ob_run *run)
{
	struct ob_error err = { 0 };

	if (run->options.no_swap)
		return OB_EXIT_OK;
	if (!ob_host_find_swap(run->options.swap, 1, run->swap, sizeof(run->swap), &err))
		return OB_EXIT_OK;
	if ((run->options.swap && !run->lenient) || run->options.require)
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	run->swap[0] = 0;
	ob_cli_warn("%s; running without a swap store%s", err.text, run->lenient ? "" : ", as with --no-swap");
	return OB_EXIT_OK;
}

static int ask_for_room(struct ob_run *run)
{
	struct ob_client_admission admission = {
		.name = run->name, .domain = run->options.domain, .ram_bytes = run->plan.ram_bytes,
		.reservation_bytes = run->options.reservation_bytes, .maximum_bytes = run->options.limit_bytes,
		.shares = run->options.shares, .pid = (uint32_t)getpid(), .force = run->options.force,
	};
	struct ob_client_admitted admitted = { 0 };
	struct ob_error err = { 0 };
	int r = ob_client_admit(&admission, &admitted, &err);

	/* An overbookd that ends before it has answered has admitted nobody: its successor is asked, if there is one. */
	for (unsigned tries = 0; (r == -EPIPE || r == -ECONNRESET) && tries < ASK_AGAIN; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = ASK_AGAIN_NS }, NULL);
		err = (struct ob_error){ 0 };
		r = ob_client_admit(&admission, &admitted, &err);
	}
	if (r == -EPERM)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	if (r < 0 && r != -ECONNREFUSED && (!run->lenient || run->options.require))
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	if (r < 0) {
		if (r != -ECONNREFUSED)
			ob_cli_warn("%s; running with the machine's own limit", err.text);
		ob_run_default_socket(run);
		return OB_EXIT_OK;
	}
	memcpy(run->socket, admitted.socket, sizeof(run->socket));
	run->no_large = admitted.no_large;
	if (admitted.limit_bytes && (!run->limit_bytes || admitted.limit_bytes < run->limit_bytes))
		run->limit_bytes = admitted.limit_bytes;
	return OB_EXIT_OK;
}

/* From here on the host is changed; returns only on failure. */
static int become_qemu(struct ob_run *run)
{
	struct ob_error err = { 0 };
	int code, r;

	ob_machine_dir_sweep(run->rundir);
	r = ob_machine_dir_claim(run->rundir, run->name, &run->dir, &err);
	if (r < 0 && r != -EBUSY && run->lenient)
		return ob_run_exec_without(run, err.text);
	if (r < 0)
		return ob_cli_fail(r == -EBUSY ? OB_EXIT_REFUSED : OB_EXIT_FAILED, "%s", err.text);
	code = ask_for_room(run);
	if (code == OB_EXIT_OK) {
		for (size_t i = 0; i < run->plan.n_notes; i++)
			ob_cli_warn("%s", run->plan.notes[i]);
		ob_run_set_environment(run);
		code = become(run, run->plan.argv);
	}
	ob_machine_dir_discard(&run->dir);
	return code;
}

int ob_run_exec_machine(struct ob_run *run)
{
	struct ob_error err = { 0 };
	int code;

	run->limit_bytes = run->options.limit_bytes;
	if (check_host(run, &err) < 0)
		return ob_run_exec_without(run, err.text);
	code = choose_swap(run);
	return code == OB_EXIT_OK ? become_qemu(run) : code;
}
