/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/option.h"
#include "cli/cli.h"
#include "cli/doctor.h"

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "swap", required_argument, NULL, 'w' },
	{ "qemu", required_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static void print_help(void)
{
	puts("Usage: overbook doctor [--json] [--swap DIR] [--qemu PROGRAM]\n"
	     "Says what on this host is in the way, what it costs and how to mend it. Changes nothing.\n\n"
	     "  --json          print an object\n"
	     "  --swap DIR      check this swap directory instead of the default one\n"
	     "  --qemu PROGRAM  check this QEMU instead of qemu-system-x86_64\n"
	     "  --help          print this\n\n"
	     "Ends with 0 when nothing is bad, with 1 otherwise.");
}

int ob_cmd_doctor(int argc, char **argv)
{
	struct ob_doctor_report report = { .count = 0 };
	const char *qemu = "qemu-system-x86_64", *swap = NULL;
	int letter, json = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		if (letter == 'h') {
			print_help();
			return OB_EXIT_OK;
		}
		if (letter == ':')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" needs an argument: see \"overbook doctor --help\"",
					   ob_option_refused(argv));
		if (letter == '?')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: see \"overbook doctor --help\"",
					   ob_option_refused(argv));
		json |= letter == 'j';
		swap = letter == 'w' ? optarg : swap;
		qemu = letter == 'q' ? optarg : qemu;
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: there are only options", argv[optind]);
	ob_doctor_check_host(&report);
	ob_doctor_check_setup(&report, qemu, swap);
	if (json)
		ob_doctor_print_json(&report);
	else
		ob_doctor_print(&report);
	return ob_doctor_is_bad(&report) ? OB_EXIT_FAILED : OB_EXIT_OK;
}
