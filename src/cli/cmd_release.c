/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook release NAME`: brings a machine's memory back and lets go of it. overbookd checks whether there is room. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

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

static int release(const char *name, int force, int json)
{
	json_t *arguments = json_pack("{s:s, s:b}", "name", name, "force", force), *answer;
	struct ob_error err = { 0 };
	char text[16];
	int r;

	if (!arguments)
		return ob_cli_fail(OB_EXIT_USAGE, "the name is not valid text");
	r = ob_client_call("release", arguments, ob_client_show_progress, NULL, &answer, &err);
	ob_client_end_progress();
	if (r < 0)
		return ob_cli_fail(ob_client_exit_code(r), "%s%s", err.text, r == -EPERM ? "; --force does it all the same" : "");
	if (json)
		ob_client_print_json(answer);
	else
		printf("%s is released; it costs %s now\n", ob_client_text(answer, "name"),
		       ob_size_format(text, sizeof(text), ob_client_number(answer, "cost_bytes")));
	json_decref(answer);
	return OB_EXIT_OK;
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
					   argv[optind - 1]);
		}
	}
	if (argc - optind != 1)
		return ob_cli_fail(OB_EXIT_USAGE, "one machine must be named: overbook release NAME");
	return release(argv[optind], force, json);
}
