/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook plan`: what would become of everybody if machines were added. */
#include <getopt.h>
#include <stdio.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/table.h"
#include "proto/env.h" /* OB_SHARES_MAX */

#define SIZE_MOST (1ull << 56) /* of a machine, to overbookd */

enum { OPTION_LIKE = 256, OPTION_COUNT, OPTION_MEMORY, OPTION_RESERVATION, OPTION_LIMIT, OPTION_SHARES, OPTION_USES };

static const struct option long_options[] = {
	{ "like", required_argument, NULL, OPTION_LIKE },
	{ "count", required_argument, NULL, OPTION_COUNT },
	{ "memory", required_argument, NULL, OPTION_MEMORY },
	{ "reservation", required_argument, NULL, OPTION_RESERVATION },
	{ "limit", required_argument, NULL, OPTION_LIMIT },
	{ "shares", required_argument, NULL, OPTION_SHARES },
	{ "uses", required_argument, NULL, OPTION_USES },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook plan --memory SIZE|--like NAME [OPTIONS] [--json]\n"
	"Says what would become of everybody if machines were added, and how many more there is room for. Changes nothing.\n"
	"  --memory SIZE       RAM of each (512M, 2G)\n"
	"  --like NAME         as this machine: its RAM, reservation, limit and shares, and what it uses\n"
	"  --count N           how many; default: 1. 0: how it is now\n"
	"  --reservation SIZE  what each is sure to have\n"
	"  --limit SIZE        what each may cost at most\n"
	"  --shares N          weight of each; default: 1000\n"
	"  --uses SIZE         what each would use; without it, and without --like: all of its RAM\n";

static const struct ob_column columns[] = {
	{ "NAME", "name", ob_cell_text },
	{ "USES", "uses_bytes", ob_cell_known_size },
	{ "LEAST", "uses_low_bytes", ob_cell_known_size },
	{ "MOST", "uses_high_bytes", ob_cell_known_size },
	{ "NOW", "now_bytes", ob_cell_known_size },
	{ "THEN", "then_bytes", ob_cell_known_size },
	{ "LACKS", "lacks_bytes", ob_cell_size },
};

static void print_newcomers(const json_t *newcomers)
{
	uint64_t count = ob_client_number(newcomers, "count");
	char uses[16] = "all of its RAM", then[16], lacks[16];

	if (!count)
		return;
	if (!json_is_null(json_object_get(newcomers, "uses_bytes")))
		ob_size_format(uses, sizeof(uses), ob_client_number(newcomers, "uses_bytes"));
	printf("%llu new: each uses %s, would have %s and lack %s\n", (unsigned long long)count, uses,
	       ob_size_format(then, sizeof(then), ob_client_number(newcomers, "then_bytes")),
	       ob_size_format(lacks, sizeof(lacks), ob_client_number(newcomers, "lacks_bytes")));
}

/* From how sure figures that comes. */
static void print_doubt(const json_t *answer)
{
	unsigned long long low = ob_client_number(answer, "most_at_ease_if_low"), high = ob_client_number(answer, "most_at_ease_if_high");
	unsigned long long unknown = ob_client_number(answer, "unknown");

	if (low != high)
		printf("not sure: before anybody lacks something, for %llu if each uses the most that its samples allow, for %llu if the least\n", high, low);
	if (unknown)
		printf("too young to be believed: of %llu it is not known yet what they use, and they are taken to use all that they could have\n", unknown);
}

static void print_plan(const json_t *answer)
{
	char guaranteed[16], budget[16], lacks[16];
	uint64_t lacking = ob_client_number(answer, "lacking");

	ob_table_print(columns, OB_ARRAY_LEN(columns), json_object_get(answer, "machines"));
	print_newcomers(json_object_get(answer, "newcomers"));
	printf("%s: %s would be guaranteed, of a budget of %s\n",
	       json_is_true(json_object_get(answer, "admitted")) ? "admitted" : "not admitted",
	       ob_size_format(guaranteed, sizeof(guaranteed), ob_client_number(answer, "guaranteed_bytes")),
	       ob_size_format(budget, sizeof(budget), ob_client_number(answer, "budget_bytes")));
	if (lacking)
		printf("%llu would lack %s in all: of that so much would be evicted\n", (unsigned long long)lacking,
		       ob_size_format(lacks, sizeof(lacks), ob_client_number(answer, "lacks_bytes")));
	else
		printf("nobody would lack what it uses\n");
	printf("room for %llu such machines before anybody lacks something, for %llu before one is not admitted\n",
	       (unsigned long long)ob_client_number(answer, "most_at_ease"), (unsigned long long)ob_client_number(answer, "most_admitted"));
	print_doubt(answer);
}

/* Adds an option's value to the request. Returns 0, or the exit code. */
static int add_size(json_t *arguments, const char *option, const char *key, uint64_t least, const char *text)
{
	uint64_t bytes = 0;
	int r = ob_cli_take_size(option, text, least, SIZE_MOST, &bytes);

	if (r)
		return r;
	return json_object_set_new(arguments, key, json_integer((json_int_t)bytes)) < 0 ? OB_EXIT_FAILED : 0;
}

static int add_number(json_t *arguments, const char *option, uint64_t least, const char *text)
{
	uint64_t number = 0;
	int r = ob_cli_take_count(option, text, least, OB_SHARES_MAX, &number);

	if (r)
		return r;
	return json_object_set_new(arguments, option, json_integer((json_int_t)number)) < 0 ? OB_EXIT_FAILED : 0;
}

static int add_option(json_t *arguments, int letter)
{
	switch (letter) {
	case OPTION_LIKE:
		if (ob_cli_check_name(optarg))
			return OB_EXIT_USAGE;
		return json_object_set_new(arguments, "like", json_string(optarg)) < 0 ? OB_EXIT_FAILED : 0;
	case OPTION_COUNT:
		return add_number(arguments, "count", 0, optarg);
	case OPTION_SHARES:
		return add_number(arguments, "shares", 1, optarg);
	case OPTION_MEMORY:
		return add_size(arguments, "memory", "ram_bytes", 1, optarg);
	case OPTION_RESERVATION:
		return add_size(arguments, "reservation", "reservation_bytes", 0, optarg);
	case OPTION_LIMIT:
		return add_size(arguments, "limit", "maximum_bytes", OB_LIMIT_MIN, optarg);
	default:
		return add_size(arguments, "uses", "uses_bytes", 0, optarg);
	}
}

/* What is reserved is a part of what it may cost, and of its RAM; what another machine has of these overbookd knows. Returns 0, or the exit code. */
static int check_reservation(const json_t *arguments)
{
	static const struct {
		const char *option, *key;
	} above[] = { { "limit", "maximum_bytes" }, { "memory", "ram_bytes" } };
	uint64_t reservation = ob_client_number(arguments, "reservation_bytes"), most;
	char reservation_text[16], most_text[16];

	for (size_t i = 0; i < OB_ARRAY_LEN(above); i++) {
		most = ob_client_number(arguments, above[i].key);
		if (json_object_get(arguments, above[i].key) && reservation > most)
			return ob_cli_fail(OB_EXIT_USAGE, "--reservation (%s) is more than --%s (%s): it can be as much at most",
					   ob_size_format(reservation_text, sizeof(reservation_text), reservation), above[i].option,
					   ob_size_format(most_text, sizeof(most_text), most));
	}
	return 0;
}

int ob_cmd_plan(int argc, char **argv)
{
	json_t *arguments = json_object();
	int letter, json = 0, code = 0;

	optind = 0;
	while (!code && (letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		if (letter == 'j') {
			json = 1;
		} else if (letter == 'h') {
			fputs(usage, stdout);
			json_decref(arguments);
			return OB_EXIT_OK;
		} else if (letter == '?' || letter == ':') {
			code = ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known or lacks its value; see overbook plan --help", ob_option_refused(argv));
		} else {
			code = add_option(arguments, letter);
		}
	}
	if (!code && optind < argc)
		code = ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is not an option; see overbook plan --help", argv[optind]);
	if (!code && !json_object_get(arguments, "ram_bytes") && !json_object_get(arguments, "like"))
		code = ob_cli_fail(OB_EXIT_USAGE, "how large the new machines are is not said: --memory SIZE, or --like NAME");
	code = code ? code : check_reservation(arguments);
	if (code) {
		json_decref(arguments);
		return code;
	}
	return ob_client_command("plan", arguments, json, print_plan, NULL);
}
