/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <getopt.h>
#include <stdio.h>

#include <jansson.h>

#include "base/option.h"
#include "cli/cli.h"
#include "proto/wire.h"

#define CLIENT_PROTOCOL 1

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static void print_json(void)
{
	json_t *object = json_pack("{s:s, s:i, s:i}", "version", OB_VERSION, "client_protocol", CLIENT_PROTOCOL,
				   "agent_protocol",
				   OB_WIRE_VERSION);

	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
}

int ob_cmd_version(int argc, char **argv)
{
	int letter, json = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		if (letter == 'h') {
			puts("Usage: overbook version [--json]\nPrints the version of Overbook and of the protocols it "
			     "speaks.");
			return OB_EXIT_OK;
		}
		if (letter != 'j')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --json and --help",
					   ob_option_refused(argv));
		json = 1;
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: there are only options", argv[optind]);
	if (json)
		print_json();
	else
		printf("overbook " OB_VERSION " (agent protocol %d, client protocol %d)\n", OB_WIRE_VERSION,
		       CLIENT_PROTOCOL);
	return OB_EXIT_OK;
}
