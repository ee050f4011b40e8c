/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook limit NAME SIZE|none`: what a machine may cost at most. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "proto/env.h"

static const struct option long_options[] = {
	{ "wait", no_argument, NULL, 'w' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook limit NAME SIZE|none [--wait] [--json]\n"
	"Sets what a machine may cost at most (512M, 2G); none: as much as the budget gives it.\n"
	"  --wait  come back when the machine is inside its limit\n";

static void print_outcome(const json_t *answer)
{
	uint64_t maximum = ob_client_number(answer, "maximum_bytes"), limit = ob_client_number(answer, "limit_bytes");
	char maximum_text[16] = "none", limit_text[16] = "none", cost_text[16];

	if (maximum)
		ob_size_format(maximum_text, sizeof(maximum_text), maximum);
	if (limit)
		ob_size_format(limit_text, sizeof(limit_text), limit);
	printf("%s: maximum %s, limit now %s, cost %s\n", ob_client_text(answer, "name"), maximum_text, limit_text,
	       ob_size_format(cost_text, sizeof(cost_text), ob_client_number(answer, "cost_bytes")));
}

int ob_cmd_limit(int argc, char **argv)
{
	int letter, wait = 0, json = 0;
	uint64_t bytes = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (letter) {
		case 'w':
			wait = 1;
			break;
		case 'j':
			json = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return OB_EXIT_OK;
		default:
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --wait, --json and --help",
					   ob_option_refused(argv));
		}
	}
	if (argc - optind != 2)
		return ob_cli_fail(OB_EXIT_USAGE, "a machine and a size are needed: overbook limit NAME SIZE|none");
	if (ob_cli_check_name(argv[optind]))
		return OB_EXIT_USAGE;
	if (strcmp(argv[optind + 1], "none") &&
	    (ob_size_parse(argv[optind + 1], &bytes) < 0 || bytes < OB_LIMIT_MIN || bytes > INT64_MAX))
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is not a size of at least 8M, such as 512M or 2G, nor \"none\"",
				   argv[optind + 1]);
	return ob_client_command("limit", json_pack("{s:s, s:I, s:b}", "name", argv[optind], "maximum_bytes", (json_int_t)bytes, "wait",
						    wait), json, print_outcome, NULL);
}
