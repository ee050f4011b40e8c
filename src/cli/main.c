/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook`: finds the subcommand and hands over. Called as overbook-qemu, or as QEMU, it is the wrapper of cmd_qemu.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "cli/cli.h"
#include "cli/rundir.h"

static const struct ob_command commands[] = {
	{ "run", "start a machine with its memory in Overbook's care", ob_cmd_run },
	{ "ps", "list the machines that run", ob_cmd_ps },
	{ "top", "watch what machines cost and wait for", ob_cmd_top },
	{ "stats", "show what a machine's memory is made of", ob_cmd_stats },
	{ "limit", "change what a machine may cost", ob_cmd_limit },
	{ "balloon", "drive a machine's balloon, or leave it alone", ob_cmd_balloon },
	{ "release", "bring a machine's memory back and let it go", ob_cmd_release },
	{ "plan", "say what would become of everybody if machines were added", ob_cmd_plan },
	{ "record", "write what machines do, for a simulation", ob_cmd_record },
	{ "simulate", "say how machines would fare under different rules", ob_cmd_simulate },
	{ "share", "show what machines have in common, or switch that off", ob_cmd_share },
	{ "doctor", "check whether this host is fit for it", ob_cmd_doctor },
	{ "demo", "show it with real guests", ob_cmd_demo },
	{ "version", "print the version", ob_cmd_version },
};

static void print_help(FILE *to)
{
	fputs("Usage: overbook COMMAND [OPTIONS] [ARGS]\n"
	      "Runs more virtual machines than the host's memory holds.\n\n",
	      to);
	for (size_t i = 0; i < OB_ARRAY_LEN(commands); i++)
		fprintf(to, "  %-8s  %s\n", commands[i].name, commands[i].summary);
	fputs("\n\"overbook COMMAND --help\" says more; so does overbook(1).\n", to);
}

/* What was printed may have got lost: on a disk that is full, say. */
static int flush_output(int code)
{
	errno = 0;
	if ((!fflush(stdout) && !ferror(stdout)) || code != OB_EXIT_OK)
		return code;
	return ob_cli_fail(OB_EXIT_FAILED, "cannot write to standard output: %s", errno ? strerror(errno) : "a part of it is lost");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (argc > 0 && ob_cli_is_emulator(argv[0])) {
		ob_cli_set_command("qemu");
		return ob_cmd_qemu(argc, argv);
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		print_help(stdout);
		return flush_output(OB_EXIT_OK);
	}
	if (!strcmp(name, "--version"))
		name = "version";
	for (size_t i = 0; i < OB_ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, name))
			continue;
		ob_cli_set_command(name);
		return flush_output(commands[i].run(argc - 1, argv + 1));
	}
	if (argc < 2)
		return ob_cli_fail(OB_EXIT_USAGE, "a command is missing: see \"overbook --help\"");
	return ob_cli_fail(OB_EXIT_USAGE, "there is no command \"%s\": see \"overbook --help\"", name);
}
