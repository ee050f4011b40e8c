/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes the plan: find the machine type, check every option, place the memory, add our devices, write the line out.
 * Checks run to the end so that the user learns all that is in the way at once; then a plan with refusals is left as it is.
 */
#include "cli/qemu_args.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/qemu_plan.h"
#include "proto/env.h"
#include "proto/wire.h"

/* A text for the user that quotes his words: one line, whatever is in them. */
static const char *one_line(struct ob_arena *arena, const char *fmt, va_list ap)
{
	char *text = ob_arena_vprintf(arena, fmt, ap);

	ob_error_one_line(text);
	return text;
}

static void add_text(struct ob_arena *arena, const char ***list, size_t *count, const char *text)
{
	*list = ob_arena_grow(arena, *list, *count, sizeof(**list));
	(*list)[(*count)++] = text;
}

void ob_qemu_refuse(struct ob_qemu_planner *planner, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add_text(&planner->opts->arena, &planner->plan->refusals, &planner->plan->n_refusals,
		 one_line(&planner->opts->arena, fmt, ap));
	va_end(ap);
}

void ob_qemu_note(struct ob_qemu_planner *planner, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add_text(&planner->opts->arena, &planner->plan->notes, &planner->plan->n_notes,
		 one_line(&planner->opts->arena, fmt, ap));
	va_end(ap);
}

void ob_qemu_append(struct ob_qemu_planner *planner, const char *option, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add_text(&planner->opts->arena, &planner->added, &planner->n_added, option);
	add_text(&planner->opts->arena, &planner->added, &planner->n_added, ob_arena_vprintf(&planner->opts->arena, fmt,
			ap));
	va_end(ap);
}

/* The last one that is named, or NULL. */
static const char *machine_type(const struct ob_qemu_opts *opts)
{
	const char *found = NULL;

	for (size_t i = 0; i < opts->n_options; i++) {
		const struct ob_qemu_option *option = &opts->option[i];
		const char *type = option->kind == OB_QEMU_MACHINE ? ob_qemu_option_get(option, "type") : NULL;

		found = type ? type : found;
	}
	return found;
}

static void find_machine(struct ob_qemu_planner *planner)
{
	const struct ob_qemu_plan_config *config = planner->config;
	struct ob_error err = { 0 };
	char id[128];
	int r;

	planner->type = machine_type(planner->opts);
	if (!planner->type)
		planner->type = config->default_type;
	r = ob_qemu_machine_find(config->target, planner->type, &planner->machine, &err);
	if (r == -ENOENT && config->ask_ram_id) {
		r = config->ask_ram_id(config->context, planner->type, id, sizeof(id), &err);
		planner->machine.ram_id = r < 0 ? NULL : ob_arena_strdup(&planner->opts->arena, id);
	}
	if (r == -ENOENT && !err.code)
		ob_qemu_refuse(planner, "machine type \"%s\" of target %s is not known, and what its RAM is called neither: "
			       "give a type that "
					"is known, such as \"-machine virt\"", planner->type ? planner->type : "(default)", config->target);
	else if (r < 0)
		ob_qemu_refuse(planner, "%s", err.text);
}

static void write_line(struct ob_qemu_planner *planner)
{
	struct ob_qemu_opts *opts = planner->opts;
	struct ob_arena *arena = &opts->arena;
	char **argv = ob_arena_alloc(arena, (2 * opts->n_options + planner->n_added + 2) * sizeof(*argv));
	int argc = 0;

	argv[argc++] = ob_arena_strdup(arena, opts->program);
	for (size_t i = 0; i < opts->n_options; i++) {
		struct ob_qemu_option *option = &opts->option[i];

		if (!option->dashes)
			continue;
		if (*option->dashes)
			argv[argc++] = ob_arena_printf(arena, "%s%s", option->dashes, option->name);
		if (option->arg)
			argv[argc++] = ob_arena_strdup(arena, ob_qemu_option_text(opts, option));
	}
	for (size_t i = 0; i < planner->n_added; i++)
		argv[argc++] = ob_arena_strdup(arena, planner->added[i]);
	planner->plan->argv = argv;
	planner->plan->argc = argc;
}

void ob_qemu_plan_make(struct ob_qemu_opts *opts, const struct ob_qemu_plan_config *config, struct ob_qemu_plan *ret_plan)
{
	struct ob_qemu_planner planner = { .opts = opts, .config = config, .plan = ret_plan };

	memset(ret_plan, 0, sizeof(*ret_plan));
	ob_qemu_check_options(&planner);
	find_machine(&planner);
	ob_qemu_place_memory(&planner);
	if (ret_plan->n_refusals)
		return;
	ob_qemu_add_devices(&planner);
	write_line(&planner);
}

int ob_qemu_starts_machine(const struct ob_qemu_opts *opts)
{
	const char *type = machine_type(opts);

	return !opts->prints_and_ends && !(type && !strcmp(type, "none"));
}

const char *ob_qemu_id(const struct ob_qemu_opts *opts)
{
	const char *id = NULL;

	for (size_t i = 0; i < opts->n_options; i++)
		if (!strcmp(opts->option[i].name, "id"))
			id = opts->option[i].arg;
	return id && ob_name_valid(id) ? id : NULL;
}

const char *ob_qemu_name(struct ob_qemu_opts *opts)
{
	const char *guest = NULL;
	char *name, *out;

	for (size_t i = 0; i < opts->n_options; i++)
		if (opts->option[i].kind == OB_QEMU_NAME && ob_qemu_option_get(&opts->option[i], "guest"))
			guest = ob_qemu_option_get(&opts->option[i], "guest");
	if (!guest)
		return NULL;
	while (*guest == '.' || *guest == '-')
		guest++;
	name = out = ob_arena_alloc(&opts->arena, strlen(guest) + 1);
	for (; *guest && out - name < OB_NAME_MAX; guest++) {
		int fits = isascii((unsigned char)*guest) && (isalnum((unsigned char)*guest) || strchr("._-", *guest));

		*out++ = fits ? *guest : '_';
	}
	return *name ? name : NULL;
}

static const char *quote_word(struct ob_arena *arena, const char *word)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
	char *out, *at;

	if (*word && !word[strspn(word, safe)])
		return word;
	out = at = ob_arena_alloc(arena, 4 * strlen(word) + 3);
	*at++ = '\'';
	for (; *word; word++) {
		if (*word == '\'')
			at = stpcpy(at, "'\\''");
		else
			*at++ = *word;
	}
	*at = '\'';
	return out;
}

const char *ob_qemu_quote(struct ob_arena *arena, char *const *argv)
{
	size_t length = 1;
	char *line, *at;

	for (size_t i = 0; argv[i]; i++)
		length += 4 * strlen(argv[i]) + 3;
	line = at = ob_arena_alloc(arena, length);
	for (size_t i = 0; argv[i]; i++) {
		if (i)
			*at++ = ' ';
		at = stpcpy(at, quote_word(arena, argv[i]));
	}
	return line;
}
