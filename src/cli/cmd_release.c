/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook release NAME`: brings a machine's memory back and lets go of it. overbookd checks whether there is room. */
#include <getopt.h>
#include <stdio.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"

static const struct option long_options[] = {
	{ "force", no_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook release NAME [--force] [--json]\n"
	"Brings all of a machine's memory back and lets go of it; the guest runs on, without a limit until one is set.\n"
	"  --force  do so even if the host seems to have too little memory for it\n";

static void print_outcome(const json_t *answer)
{
	char text[16];

	printf("%s is released; it costs %s now\n", ob_client_text(answer, "name"),
	       ob_size_format(text, sizeof(text), ob_client_number(answer, "cost_bytes")));
}

int ob_cmd_release(int argc, char **argv)
{
	int letter, force = 0, json = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (letter) {
		case 'f':
			force = 1;
			break;
		case 'j':
			json = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return OB_EXIT_OK;
		default:
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --force, --json and --help",
					   ob_option_refused(argv));
		}
	}
	if (argc - optind != 1)
		return ob_cli_fail(OB_EXIT_USAGE, "one machine must be named: overbook release NAME");
	if (ob_cli_check_name(argv[optind]))
		return OB_EXIT_USAGE;
	return ob_client_command("release", json_pack("{s:s, s:b}", "name", argv[optind], "force", force), json, print_outcome,
				 "; --force does it all the same");
}
