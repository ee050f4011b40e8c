/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook share`: what machines have in common, and what that saves; or the switch of one machine. */
#include <getopt.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/table.h"

enum { OPTION_ON = 256, OPTION_OFF };

static const struct option long_options[] = {
	{ "on", no_argument, NULL, OPTION_ON },
	{ "off", no_argument, NULL, OPTION_OFF },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook share [NAME] [--json]\n"
	"       overbook share --on|--off NAME [--json]\n"
	"Shows which pages machines have in common, by sharing domain, and what that saves.\n"
	"  --off  bring the machine's shared pages back, and share no more of them\n"
	"  --on   share its pages again\n";

static void cell_name(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	int off = !json_is_true(json_object_get(row, "on"));

	snprintf(cell, OB_CELL_MAX, "%.56s%s", ob_client_text(row, key), off ? " (off)" : "");
}

static void cell_pages(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	uint64_t pages = ob_client_number(row, key);

	ob_size_format(cell, OB_CELL_MAX, pages > UINT64_MAX / 4096 ? UINT64_MAX : pages * 4096);
}

static void cell_seconds(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%.1f s", (double)ob_client_number(row, key) / (double)OB_NS_PER_SEC);
}

static const struct ob_column columns[] = {
	{ "NAME", "name", cell_name },
	{ "SHARED", "held_pages", cell_pages },
	{ "ZERO", "zero_bytes", ob_cell_size },
	{ "OFFERS", "offers", ob_cell_number },
	{ "ADOPTED", "adopted", ob_cell_number },
	{ "REFUSED", "refused", ob_cell_number },
	{ "EARLY", "noted_found_pages", ob_cell_number },
	{ "BREAKS", "faults_shared", ob_cell_number },
	{ "SCAN-CPU", "scan_cpu_ns", cell_seconds },
};

static void print_domain(const json_t *domain)
{
	char shared[16], store[16], saved[16], tables[16];
	const char *name = ob_client_text(domain, "domain"), *verdict = "it pays";

	if (!ob_client_number(domain, "shared_bytes"))
		verdict = "nothing is shared";
	else if (!json_is_true(json_object_get(domain, "pays")))
		verdict = "it does not pay";
	if (*name)
		printf("domain %s: ", name);
	else
		printf("a domain of its own: ");
	printf("%s shared, %s in the store; %s saved, %s of tables: %s\n",
	       ob_size_format(shared, sizeof(shared), ob_client_number(domain, "shared_bytes")),
	       ob_size_format(store, sizeof(store), ob_client_number(domain, "store_bytes")),
	       ob_size_format(saved, sizeof(saved), ob_client_number(domain, "saved_bytes")),
	       ob_size_format(tables, sizeof(tables), ob_client_number(domain, "tables_bytes")), verdict);
	ob_table_print(columns, OB_ARRAY_LEN(columns), json_object_get(domain, "machines"));
}

static void print_all(const json_t *answer)
{
	const json_t *domain;
	uint64_t orphans = ob_client_number(answer, "orphan_bytes");
	char text[16];
	size_t i;

	if (!json_is_true(json_object_get(answer, "sharing")))
		puts("overbookd runs without sharing");
	json_array_foreach(json_object_get(answer, "domains"), i, domain) {
		if (i)
			puts("");
		print_domain(domain);
	}
	if (orphans)
		printf("%s of an earlier overbookd's store are held still\n", ob_size_format(text, sizeof(text), orphans));
}

static void print_on(const json_t *answer)
{
	printf("%s shares its pages\n", ob_client_text(answer, "name"));
}

static void print_off(const json_t *answer)
{
	printf("%s shares no pages any more\n", ob_client_text(answer, "name"));
}

static int show(const char *name, int json)
{
	return ob_client_command("share", name ? json_pack("{s:s}", "name", name) : json_object(), json, print_all, NULL);
}

static int turn(const char *name, int on, int json)
{
	return ob_client_command("share-switch", json_pack("{s:s, s:b}", "name", name, "on", on), json,
				 on ? print_on : print_off, NULL);
}

int ob_cmd_share(int argc, char **argv)
{
	int letter, json = 0, change = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (letter) {
		case OPTION_ON:
		case OPTION_OFF:
			if (change && change != letter)
				return ob_cli_fail(OB_EXIT_USAGE, "--on and --off exclude each other");
			change = letter;
			break;
		case 'j':
			json = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return OB_EXIT_OK;
		default:
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --on, --off, --json and --help",
					   ob_option_refused(argv));
		}
	}
	if (argc - optind > 1)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: one machine can be named", argv[optind + 1]);
	if (change && argc == optind)
		return ob_cli_fail(OB_EXIT_USAGE, "one machine must be named: overbook share %s NAME", change == OPTION_ON ? "--on" : "--off");
	if (argc > optind && ob_cli_check_name(argv[optind]))
		return OB_EXIT_USAGE;
	return change ? turn(argv[optind], change == OPTION_ON, json) : show(argv[optind], json);
}
