/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook-qemu`: stands where somebody else starts QEMU (libvirt's <emulator>, Proxmox's /usr/bin/kvm), takes QEMU's own
 * command line, and becomes QEMU as `overbook run` does. Settings come from files (machine_settings.c), not options.
 *
 * It must be QEMU to whoever calls it. A line that only asks QEMU something (-version, -cpu help, -machine none, with
 * which libvirt finds out what QEMU can do) is executed as it is. Nothing is added that the guest can see, unless a
 * setting says so: a device more would lie at an address that libvirt believes is free, and would be missed when a saved
 * machine is restored without Overbook. Descriptors are passed on: nothing here closes one that it has not opened.
 *
 * What cannot be run with Overbook is refused, a line each, which libvirt shows to the user; with "otherwise = plain" QEMU
 * runs without, and the lines are warnings. What the host lacks costs Overbook, not the machine (run_machine.c), unless
 * "require = yes". Settings that are wrong end the run in every case.
 *
 * Which QEMU: the setting "emulator", else what the name says under which it was called: overbook-qemu-system-TARGET, or
 * overbook-qemu for qemu-system-x86_64. As kvm, qemu-kvm or qemu-system-TARGET it stands in QEMU's place (dpkg-divert), and
 * only the setting can tell where QEMU is; the name that it was called by is then passed on, since QEMU and Proxmox read it.
 *
 * A machine is called by Proxmox's -id, else by -name.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine_settings.h"
#include "cli/run_machine.h"
#include "cli/rundir.h"

#define PREFIX         "overbook-"
#define SYSTEM_RUNDIR  "/run/overbook-libvirt" /* root's is /run/overbook: a directory belongs to one user */
#define SYSTEM_SWAP    "/var/lib/overbook-libvirt"

/* What speaks to us alone: QEMU and its children are spared it. */
static const char *const own_variables[] = {
	"OVERBOOK_CONFIG",   "OVERBOOK_RUNDIR",  "OVERBOOK_ENABLED",
	"OVERBOOK_OTHERWISE", "OVERBOOK_DEVICES", "OVERBOOK_EMULATOR", NULL,
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Whether we stand in QEMU's place, under its own name. */
static int stands_in(const char *name)
{
	return !strcmp(name, "kvm") || !strncmp(name, "qemu-", 5);
}

int ob_cli_is_emulator(const char *called)
{
	const char *name = base_name(called);

	return stands_in(name) || !strncmp(name, PREFIX "qemu", strlen(PREFIX "qemu"));
}

static int is_ourselves(const char *path)
{
	struct stat self, other;

	return !stat("/proc/self/exe", &self) && !stat(path, &other) && self.st_dev == other.st_dev &&
	       self.st_ino == other.st_ino;
}

static int find_emulator(struct ob_run *run, const struct ob_machine_settings *settings, const char *called,
			 struct ob_error *err)
{
	const char *name = base_name(called), *word = settings->emulator;
	int r;

	if (!word && stands_in(name))
		return ob_error_set(err, EINVAL, "where QEMU is must be set, as \"emulator = /usr/bin/...\" in "
				    "\"" OB_CONFIG_DIR "/machines.conf\": this is Overbook under QEMU's name \"%s\"", name);
	if (!word)
		word = strncmp(name, PREFIX "qemu-system-", strlen(PREFIX "qemu-system-")) ? "qemu-system-x86_64"
											  : name + strlen(PREFIX);
	r = ob_qemu_binary_find(word, &run->binary, err);
	if (r == 0 && is_ourselves(run->binary.path))
		return ob_error_set(err, ELOOP, "\"%s\" is Overbook itself: set \"emulator\" to where QEMU is", run->binary.path);
	return r;
}

/* The sockets: where the settings or the user's session say, else where that of libvirt's own user is. */
static void choose_rundir(const struct ob_machine_settings *settings)
{
	if (settings->rundir)
		setenv("OVERBOOK_RUNDIR", settings->rundir, 1);
	else if (!ob_cli_rundir(NULL))
		setenv("OVERBOOK_RUNDIR", SYSTEM_RUNDIR, 1);
}

/* That of libvirt's own user, if we are he; else the default of `overbook run`. */
static void choose_swap(struct ob_run *run)
{
	if (!run->options.swap && !run->options.no_swap && geteuid() && !access(SYSTEM_SWAP, W_OK | X_OK))
		run->options.swap = SYSTEM_SWAP;
}

static int exec_refused(struct ob_run *run, const struct ob_machine_settings *settings)
{
	if (!settings->plain || run->options.require)
		return ob_run_print_refusals(run);
	for (size_t i = 0; i < run->plan.n_refusals; i++)
		ob_cli_warn("%s", run->plan.refusals[i]);
	ob_cli_warn("running QEMU without Overbook (otherwise = plain)");
	return ob_run_exec_plainly(run);
}

static int run_machine(struct ob_run *run, struct ob_machine_settings *settings, const char *name)
{
	struct ob_error err = { 0 };
	int r;

	run->lenient = 1;
	run->require_word = "require is set";
	run->keep_devices = !settings->add_devices;
	run->options = settings->options;
	choose_rundir(settings);
	r = ob_run_set_name(run, run->options.name ? run->options.name : name, &err);
	if (r < 0)
		return ob_run_exec_without(run, err.text);
	ob_run_make_plan(run);
	if (run->plan.n_refusals)
		return exec_refused(run, settings);
	if (ob_machine_settings_fit(settings, run->plan.ram_bytes, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	run->options.limit_bytes = settings->options.limit_bytes;
	run->options.reservation_bytes = settings->options.reservation_bytes;
	choose_swap(run);
	return ob_run_exec_machine(run);
}

static int run_words(struct ob_run *run, int argc, char **argv)
{
	struct ob_machine_settings settings;
	struct ob_error err = { 0 };
	const char *name, *called = argv[0];

	if (ob_qemu_opts_parse(&run->opts, argc, argv, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	name = ob_qemu_id(&run->opts) ? ob_qemu_id(&run->opts) : ob_qemu_name(&run->opts);
	name = name ? ob_arena_strdup(&run->arena, name) : NULL;
	if (ob_machine_settings_read(&run->arena, name, &settings, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	if (find_emulator(run, &settings, called, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	if (!stands_in(base_name(called)))
		argv[0] = run->binary.path;
	run->opts.program = argv[0];
	ob_run_set_words(run, argc, argv);
	if (run->binary.enable_kvm) {
		ob_qemu_opts_free(&run->opts);
		if (ob_qemu_opts_parse(&run->opts, argc + 1, run->user_argv, &err) < 0)
			return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	}
	if (settings.disabled || !ob_qemu_starts_machine(&run->opts))
		return ob_run_exec_plainly(run);
	return run_machine(run, &settings, name);
}

int ob_cmd_qemu(int argc, char **argv)
{
	struct ob_run run;
	int code;

	ob_run_init(&run);
	run.private_variables = own_variables;
	code = run_words(&run, argc, argv);
	ob_run_free(&run);
	return code;
}
