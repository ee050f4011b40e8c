/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook run`: reads its options and QEMU's command line, has the plan made, and shows it (--dry-run) or goes through
 * with it (run_machine.c). A command line that only prints something (-version, -device help) is executed as it is.
 */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "cli/cli.h"
#include "cli/run_host.h"
#include "cli/run_machine.h"
#include "cli/rundir.h"

static json_t *texts_to_json(const char **texts, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(texts[i]));
	return list;
}

static json_t *environment_to_json(void)
{
	json_t *object = json_object();

	for (size_t i = 0; ob_run_variables[i]; i++)
		if (getenv(ob_run_variables[i]))
			json_object_set_new(object, ob_run_variables[i], json_string(getenv(ob_run_variables[i])));
	if (getenv("LD_PRELOAD"))
		json_object_set_new(object, "LD_PRELOAD", json_string(getenv("LD_PRELOAD")));
	return object;
}

static void print_plan_json(const struct ob_run *run)
{
	json_t *object = json_object(), *words = json_array();

	for (int i = 0; i < run->plan.argc; i++)
		json_array_append_new(words, json_string(run->plan.argv[i]));
	json_object_set_new(object, "name", json_string(run->name));
	json_object_set_new(object, "program", json_string(run->binary.path));
	json_object_set_new(object, "argv", words);
	json_object_set_new(object, "env", environment_to_json());
	json_object_set_new(object, "dir", json_string(run->dir.path));
	json_object_set_new(object, "ram_bytes", json_integer((json_int_t)run->plan.ram_bytes));
	json_object_set_new(object, "notes", texts_to_json(run->plan.notes, run->plan.n_notes));
	json_object_set_new(object, "refusals", texts_to_json(run->plan.refusals, run->plan.n_refusals));
	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
}

/* --dry-run: what would be run, as far as that can be known without touching anything. */
static int print_plan(struct ob_run *run)
{
	if (!run->options.json) {
		for (size_t i = 0; i < run->plan.n_notes; i++)
			ob_cli_warn("%s", run->plan.notes[i]);
		puts(ob_qemu_quote(&run->arena, run->plan.argv));
		return OB_EXIT_OK;
	}
	/* What is missing here is an error of `run` itself, not of its dry run. */
	if (ob_host_find_agent(run->agent, sizeof(run->agent), NULL) < 0)
		run->agent[0] = 0;
	if (run->options.no_swap || ob_host_find_swap(run->options.swap, 0, run->swap, sizeof(run->swap), NULL) < 0)
		run->swap[0] = 0;
	run->limit_bytes = run->options.limit_bytes;
	ob_run_default_socket(run);
	ob_run_set_environment(run);
	print_plan_json(run);
	return run->plan.n_refusals ? OB_EXIT_REFUSED : OB_EXIT_OK;
}

static int count_words(char *const *words)
{
	int n = 0;

	while (words[n])
		n++;
	return n;
}

static int run_machine(struct ob_run *run)
{
	struct ob_error err = { 0 };

	if (ob_qemu_opts_parse(&run->opts, count_words(run->user_argv), run->user_argv, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	if (run->opts.prints_and_ends)
		return ob_run_exec_plainly(run);
	if (ob_run_set_name(run, run->options.name ? run->options.name : ob_qemu_name(&run->opts), &err) < 0)
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	ob_run_make_plan(run);
	/* With --dry-run --json refusals are left to print_plan(). */
	if (run->plan.n_refusals)
		return run->options.json ? print_plan(run) : ob_run_print_refusals(run);
	if (ob_run_options_check(&run->options, run->plan.ram_bytes, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	return run->options.dry_run ? print_plan(run) : ob_run_exec_machine(run);
}

int ob_cmd_run(int argc, char **argv)
{
	struct ob_error err = { 0 };
	struct ob_run run;
	int code;

	ob_run_init(&run);
	if (ob_run_options_parse(argc, argv, &run.options, &err) < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "%s", err.text);
	if (run.options.help) {
		ob_run_options_print_help();
		return OB_EXIT_OK;
	}
	if (ob_qemu_binary_find(argv[run.options.first], &run.binary, &err) < 0)
		return ob_cli_fail(OB_EXIT_REFUSED, "%s", err.text);
	ob_run_set_words(&run, argc - run.options.first, argv + run.options.first);
	code = run_machine(&run);
	ob_run_free(&run);
	return code;
}
