/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook ps`: a row a machine. Columns are as wide as what stands in them. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"

#define CELL_MAX 64

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

enum kind { TEXT, NUMBER, SIZE, SIZE_OR_NONE };

static const struct column {
	const char *title, *key;
	enum kind kind;
} columns[] = {
	{ "NAME", "name", TEXT },
	{ "PID", "pid", NUMBER },
	{ "STATE", "state", TEXT },
	{ "RAM", "ram_bytes", SIZE },
	{ "LIMIT", "limit_bytes", SIZE_OR_NONE },
	{ "COST", "cost_bytes", SIZE },
	{ "RESIDENT", "resident_bytes", SIZE },
	{ "BENCH", "benched_bytes", SIZE },
	{ "ZERO", "zero_bytes", SIZE },
	{ "COMPRESSED", "compressed_bytes", SIZE },
	{ "SWAPPED", "swapped_bytes", SIZE },
	{ "BALLOONED", "ballooned_bytes", SIZE },
};

static void format_cell(char cell[CELL_MAX], const struct column *column, const json_t *machine)
{
	uint64_t number = ob_client_number(machine, column->key);

	if (column->kind == TEXT)
		snprintf(cell, CELL_MAX, "%s", ob_client_text(machine, column->key));
	else if (column->kind == NUMBER)
		snprintf(cell, CELL_MAX, "%" PRIu64, number);
	else if (column->kind == SIZE_OR_NONE && !number)
		snprintf(cell, CELL_MAX, "none");
	else
		ob_size_format(cell, CELL_MAX, number);
}

static void print_cell(size_t i, const char *cell, int width)
{
	const char *end = i + 1 < OB_ARRAY_LEN(columns) ? "  " : "\n";

	/* Texts stand left, numbers right. */
	printf("%*s%s", columns[i].kind == TEXT ? -width : width, cell, end);
}

static void print_table(const json_t *machines)
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

static void print_causes(const json_t *machines)
{
	const json_t *machine;
	size_t row;

	json_array_foreach(machines, row, machine)
		if (*ob_client_text(machine, "cause"))
			printf("%s is stopped: %s\n", ob_client_text(machine, "name"), ob_client_text(machine, "cause"));
}

static void print_budget(const json_t *answer)
{
	const json_t *machines = json_object_get(answer, "machines"), *machine;
	uint64_t budget = ob_client_number(answer, "budget_bytes"), ram = 0, cost = 0;
	char cost_text[16], ram_text[16], budget_text[16];
	size_t row;

	json_array_foreach(machines, row, machine) {
		ram += ob_client_number(machine, "ram_bytes");
		cost += ob_client_number(machine, "cost_bytes");
	}
	if (!budget || !json_array_size(machines))
		return;
	printf("%s of guest memory cost %s of a budget of %s\n", ob_size_format(ram_text, sizeof(ram_text), ram),
	       ob_size_format(cost_text, sizeof(cost_text), cost), ob_size_format(budget_text, sizeof(budget_text), budget));
}

static int show(int json)
{
	struct ob_error err = { 0 };
	json_t *answer;
	int r = ob_client_call("ps", NULL, NULL, NULL, &answer, &err);

	if (r < 0)
		return ob_cli_fail(ob_client_exit_code(r), "%s", err.text);
	if (json) {
		ob_client_print_json(answer);
	} else {
		print_table(json_object_get(answer, "machines"));
		print_causes(json_object_get(answer, "machines"));
		print_budget(answer);
	}
	json_decref(answer);
	return OB_EXIT_OK;
}

int ob_cmd_ps(int argc, char **argv)
{
	int letter, json = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		if (letter == 'h') {
			puts("Usage: overbook ps [--json]\nLists the machines that overbookd knows, with what they cost and where their memory is.");
			return OB_EXIT_OK;
		}
		if (letter != 'j')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --json and --help", argv[optind - 1]);
		json = 1;
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: there are only options", argv[optind]);
	return show(json);
}
