/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook ps`: a row a machine. Columns are as wide as what stands in them. */
#include <getopt.h>
#include <stdio.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/table.h"

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

/* No limit is none of 0 bytes. */
static void cell_limit(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	if (ob_client_number(row, key))
		ob_cell_size(cell, row, key);
	else
		snprintf(cell, OB_CELL_MAX, "none");
}

static const struct ob_column columns[] = {
	{ "NAME", "name", ob_cell_text },
	{ "PID", "pid", ob_cell_number },
	{ "STATE", "state", ob_cell_text },
	{ "RAM", "ram_bytes", ob_cell_size },
	{ "LIMIT", "limit_bytes", cell_limit },
	{ "USES", "working_set_bytes", ob_cell_known_size },
	{ "COST", "cost_bytes", ob_cell_size },
	{ "RESIDENT", "resident_bytes", ob_cell_size },
	{ "BENCH", "benched_bytes", ob_cell_size },
	{ "ZERO", "zero_bytes", ob_cell_size },
	{ "COMPRESSED", "compressed_bytes", ob_cell_size },
	{ "SWAPPED", "swapped_bytes", ob_cell_size },
	{ "BALLOONED", "ballooned_bytes", ob_cell_size },
};

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

static void print_memory(const json_t *answer)
{
	const json_t *memory = json_object_get(answer, "memory"), *large = json_object_get(answer, "large_pages");
	const char *because = ob_client_text(memory, "because");
	char free_text[16];

	if (!ob_client_number(answer, "budget_bytes") || !json_is_object(memory) || !json_is_object(large))
		return;
	printf("memory: %s%s%s, %s free; large pages: %s\n", ob_client_text(memory, "state"), *because ? ", " : "", because,
	       ob_size_format(free_text, sizeof(free_text), ob_client_number(memory, "free_bytes")), ob_client_text(large, "policy"));
}

static void print_all(const json_t *answer)
{
	const json_t *machines = json_object_get(answer, "machines");

	ob_table_print(columns, OB_ARRAY_LEN(columns), machines);
	print_causes(machines);
	print_budget(answer);
	print_memory(answer);
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
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --json and --help", ob_option_refused(argv));
		json = 1;
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: there are only options", argv[optind]);
	return ob_client_command("ps", json_object(), json, print_all, NULL);
}
