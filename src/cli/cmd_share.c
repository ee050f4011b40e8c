/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook share`: what machines have in common, and what that saves; or the switch of one machine. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"

#define CELL_MAX 64

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

enum kind { TEXT, NUMBER, SIZE, PAGES, SECONDS };

static const struct column {
	const char *title, *key;
	enum kind kind;
} columns[] = {
	{ "NAME", "name", TEXT },
	{ "SHARED", "held_pages", PAGES },
	{ "ZERO", "zero_bytes", SIZE },
	{ "OFFERS", "offers", NUMBER },
	{ "ADOPTED", "adopted", NUMBER },
	{ "REFUSED", "refused", NUMBER },
	{ "BREAKS", "faults_shared", NUMBER },
	{ "SCAN-CPU", "scan_cpu_ns", SECONDS },
};

static void format_cell(char cell[CELL_MAX], const struct column *column, const json_t *machine)
{
	uint64_t number = ob_client_number(machine, column->key);
	int off = !json_is_true(json_object_get(machine, "on"));

	switch (column->kind) {
	case TEXT:
		snprintf(cell, CELL_MAX, "%.56s%s", ob_client_text(machine, column->key), off ? " (off)" : "");
		break;
	case NUMBER:
		snprintf(cell, CELL_MAX, "%" PRIu64, number);
		break;
	case SIZE:
		ob_size_format(cell, CELL_MAX, number);
		break;
	case PAGES:
		ob_size_format(cell, CELL_MAX, number > UINT64_MAX / 4096 ? UINT64_MAX : number * 4096);
		break;
	case SECONDS:
		snprintf(cell, CELL_MAX, "%.1f s", (double)number / (double)OB_NS_PER_SEC);
		break;
	}
}

static void print_cell(size_t i, const char *cell, int width)
{
	const char *end = i + 1 < OB_ARRAY_LEN(columns) ? "  " : "\n";

	/* Texts stand left, numbers right. */
	printf("%*s%s", columns[i].kind == TEXT ? -width : width, cell, end);
}

static void print_machines(const json_t *machines)
{
	int width[OB_ARRAY_LEN(columns)];
	char cell[CELL_MAX];
	const json_t *machine;
	size_t row;

	for (size_t i = 0; i < OB_ARRAY_LEN(columns); i++) {
		width[i] = (int)strlen(columns[i].title);
		json_array_foreach(machines, row, machine) {
			format_cell(cell, &columns[i], machine);
			width[i] = OB_MAX(width[i], (int)strlen(cell));
		}
	}
	for (size_t i = 0; i < OB_ARRAY_LEN(columns); i++)
		print_cell(i, columns[i].title, width[i]);
	json_array_foreach(machines, row, machine)
		for (size_t i = 0; i < OB_ARRAY_LEN(columns); i++) {
			format_cell(cell, &columns[i], machine);
			print_cell(i, cell, width[i]);
		}
}

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
	print_machines(json_object_get(domain, "machines"));
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

static int show(const char *name, int json)
{
	json_t *arguments = name ? json_pack("{s:s}", "name", name) : NULL, *answer;
	struct ob_error err = { 0 };
	int r;

	if (name && !arguments)
		return ob_cli_fail(OB_EXIT_USAGE, "the name is not valid text");
	r = ob_client_call("share", arguments, NULL, NULL, &answer, &err);
	if (r < 0)
		return ob_cli_fail(ob_client_exit_code(r), "%s", err.text);
	if (json)
		ob_client_print_json(answer);
	else
		print_all(answer);
	json_decref(answer);
	return OB_EXIT_OK;
}

static int turn(const char *name, int on, int json)
{
	json_t *arguments = json_pack("{s:s, s:b}", "name", name, "on", on), *answer;
	struct ob_error err = { 0 };
	int r;

	if (!arguments)
		return ob_cli_fail(OB_EXIT_USAGE, "the name is not valid text");
	r = ob_client_call("share-switch", arguments, ob_client_show_progress, NULL, &answer, &err);
	ob_client_end_progress();
	if (r < 0)
		return ob_cli_fail(ob_client_exit_code(r), "%s", err.text);
	if (json)
		ob_client_print_json(answer);
	else
		printf(on ? "%s shares its pages\n" : "%s shares no pages any more\n", ob_client_text(answer, "name"));
	json_decref(answer);
	return OB_EXIT_OK;
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
					   argv[optind - 1]);
		}
	}
	if (argc - optind > 1)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: one machine can be named", argv[optind + 1]);
	if (change && argc == optind)
		return ob_cli_fail(OB_EXIT_USAGE, "one machine must be named: overbook share %s NAME", change == OPTION_ON ? "--on" : "--off");
	return change ? turn(argv[optind], change == OPTION_ON, json) : show(argv[optind], json);
}
