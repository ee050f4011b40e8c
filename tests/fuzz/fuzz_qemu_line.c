/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's command line and what `overbook run` makes of it. The input is the line's words, one a line of text (or ended by
 * NUL, when there is one in it, so that a word may hold anything). A word "%%" ends them; what follows is the file that
 * every -readconfig of the line names.
 *
 * What must hold:
 *
 *     a line is refused with reasons of one line each, or there is a plan
 *     a plan is the user's words, to the letter and in their order, but for arguments of -object and -device; ours follow
 *     read again, each piece of RAM lies in a file of the machine's directory, shared, and the sizes add up to the plan's
 *     the same line gives the same plan again, and the plan, given as a line, is refused as ours
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/qemu_args.h"
#include "fuzz.h"
#include "proto/wire.h"

#define DIR_     "/run/overbook/machines/a,b"
#define WORDS_MAX 512

struct line {
	struct ob_qemu_opts opts;
	struct ob_qemu_plan plan;
	struct ob_error err;
	int r; /* of reading it */
};

static char config_path[64];
static int config_fd = -1;

static int ask_ram_id(void *context, const char *type, char *ret_id, size_t size, struct ob_error *err)
{
	if (!type || strncmp(type, "known", 5))
		return ob_error_set(err, ENOENT, "there is no machine type \"%s\"", type ? type : "(default)");
	snprintf(ret_id, size, "known.ram");
	return 0;
}

static long fs_type(const char *path)
{
	return strstr(path, "nfs") ? NFS_SUPER_MAGIC : 0;
}

static const struct ob_qemu_plan_config x86 = {
	.target = "x86_64", .dir = DIR_, .ask_ram_id = ask_ram_id, .fs_type = fs_type,
};
static const struct ob_qemu_plan_config arm = {
	.target = "aarch64", .dir = DIR_, .ask_ram_id = ask_ram_id, .fs_type = fs_type,
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	config_fd = memfd_create("config", MFD_CLOEXEC);
	FUZZ_CHECK(config_fd >= 0, "memfd");
	snprintf(config_path, sizeof(config_path), "/proc/self/fd/%d", config_fd);
	return 0;
}

static void write_config(const char *text, size_t size)
{
	FUZZ_CHECK(ftruncate(config_fd, 0) == 0 && pwrite(config_fd, text, size, 0) == (ssize_t)size, "memfd");
}

/* Cuts the text into words, with room for the name of the configuration file. Returns how many. */
static int cut(char *text, size_t size, char **argv)
{
	char separator = memchr(text, 0, size) ? 0 : '\n', *end = text + size;
	int argc = 0;

	argv[argc++] = (char *)"qemu-system-x86_64";
	while (text < end && argc < WORDS_MAX) {
		char *next = memchr(text, separator, (size_t)(end - text));

		next = next ? next : end;
		*next = 0;
		if (!strcmp(text, "%%")) {
			write_config(next + (next < end), (size_t)(end - next - (next < end)));
			break;
		}
		/* No other file of this host is opened, whatever the words say. */
		argv[argc] = !strcmp(argv[argc - 1], "-readconfig") || !strcmp(argv[argc - 1], "--readconfig") ? config_path : text;
		argc++;
		text = next + 1;
	}
	argv[argc] = NULL;
	return argc;
}

static void line_read(struct line *line, int argc, char *const *argv, const struct ob_qemu_plan_config *config)
{
	memset(line, 0, sizeof(*line));
	line->r = ob_qemu_opts_parse(&line->opts, argc, argv, &line->err);
	if (line->r == 0 && config)
		ob_qemu_plan_make(&line->opts, config, &line->plan);
}

static void check_refusals(const struct line *line)
{
	FUZZ_CHECK(!line->plan.argv, "refused, and there is a plan");
	for (size_t i = 0; i < line->plan.n_refusals; i++)
		FUZZ_CHECK(fuzz_is_one_line(line->plan.refusals[i]), "\"%s\"", line->plan.refusals[i]);
}

/* That the user's words are there, and come first. */
static void check_words(const struct ob_qemu_plan *plan, int argc, char *const *argv)
{
	FUZZ_CHECK(plan->argc >= argc && !plan->argv[plan->argc], "%d words of %d", plan->argc, argc);
	for (int i = 0; i < argc; i++) {
		const char *before = i ? argv[i - 1] + (argv[i - 1][0] == '-') : "";

		before += *before == '-';
		FUZZ_CHECK(!strcmp(plan->argv[i], argv[i]) || !strcmp(before, "object") || !strcmp(before, "device"),
			   "word %d was \"%s\" and is \"%s\"", i, argv[i], plan->argv[i]);
	}
}

static const struct ob_qemu_option *find_backend(const struct ob_qemu_opts *opts, const char *id)
{
	for (size_t i = 0; i < opts->n_options; i++) {
		const char *own = ob_qemu_option_get(&opts->option[i], "id");

		if (opts->option[i].kind == OB_QEMU_OBJECT && own && !strcmp(own, id))
			return &opts->option[i];
	}
	return NULL;
}

/* The size of a backend, after a look at where it lies. */
static uint64_t backend_size(const struct ob_qemu_opts *opts, const char *id)
{
	const struct ob_qemu_option *backend = find_backend(opts, id);
	const char *type = backend ? ob_qemu_option_get(backend, "qom-type") : NULL, *path;
	uint64_t bytes = 0;

	FUZZ_CHECK(type && !strcmp(type, "memory-backend-file"), "RAM \"%s\" is of type \"%s\"", id, type ? type : "(none)");
	path = ob_qemu_option_get(backend, "mem-path");
	FUZZ_CHECK(path && !strcmp(path, DIR_), "RAM \"%s\" lies in \"%s\"", id, path ? path : "(nowhere)");
	FUZZ_CHECK(ob_qemu_option_is_on(backend, "share", 0), "RAM \"%s\" is not shared", id);
	FUZZ_CHECK(!ob_qemu_option_is_on(backend, "prealloc", 0), "RAM \"%s\" is allocated beforehand", id);
	FUZZ_CHECK(!ob_qemu_size_parse(ob_qemu_option_get(backend, "size"), 1, &bytes) && bytes, "RAM \"%s\" has no size", id);
	return bytes;
}

/* As QEMU would: the machine's backend, those of NUMA nodes and of memory devices. */
static uint64_t sum_memory(const struct ob_qemu_opts *opts)
{
	const char *machine = NULL;
	uint64_t sum = 0;
	int numa = 0;

	for (size_t i = 0; i < opts->n_options; i++) {
		const struct ob_qemu_option *option = &opts->option[i];
		const char *memdev = ob_qemu_option_get(option, "memdev"), *driver = ob_qemu_option_get(option, "driver");

		if (option->kind == OB_QEMU_MACHINE && ob_qemu_option_get(option, "memory-backend"))
			machine = ob_qemu_option_get(option, "memory-backend");
		if (memdev && (option->kind == OB_QEMU_NUMA || (option->kind == OB_QEMU_DEVICE && driver && !strcmp(driver, "pc-dimm"))))
			sum += backend_size(opts, memdev);
		numa |= memdev && option->kind == OB_QEMU_NUMA;
	}
	FUZZ_CHECK(machine || numa, "the machine's RAM is nowhere");
	return sum + (machine ? backend_size(opts, machine) : 0);
}

static void check_plan(const struct ob_qemu_plan *plan, int argc, char *const *argv, const struct ob_qemu_plan_config *config)
{
	struct line again;
	uint64_t sum;
	int ours = 0;

	check_words(plan, argc, argv);
	for (size_t i = 0; i < plan->n_notes; i++)
		FUZZ_CHECK(fuzz_is_one_line(plan->notes[i]), "\"%s\"", plan->notes[i]);
	line_read(&again, plan->argc, plan->argv, config);
	FUZZ_CHECK(again.r == 0, "the plan cannot be read: %s", again.err.text);
	for (size_t i = 0; i < again.plan.n_refusals; i++)
		ours |= strstr(again.plan.refusals[i], "is this the line that \"overbook run\" has rewritten already?") != NULL;
	FUZZ_CHECK(ours, "the plan is not recognised as ours");
	ob_qemu_opts_free(&again.opts);
	line_read(&again, plan->argc, plan->argv, NULL);
	sum = sum_memory(&again.opts);
	FUZZ_CHECK(sum == plan->ram_bytes, "%llu bytes of memory are planned, and %llu are there", (unsigned long long)plan->ram_bytes,
		   (unsigned long long)sum);
	ob_qemu_opts_free(&again.opts);
}

static void check_same(struct line *line, int argc, char *const *argv, const struct ob_qemu_plan_config *config)
{
	struct line twin;

	line_read(&twin, argc, argv, config);
	FUZZ_CHECK(twin.plan.n_refusals == line->plan.n_refusals && twin.plan.argc == line->plan.argc, "another plan");
	for (int i = 0; i < twin.plan.argc; i++)
		FUZZ_CHECK(!strcmp(twin.plan.argv[i], line->plan.argv[i]), "word %d is another", i);
	FUZZ_CHECK(line->plan.argc == 0 || *ob_qemu_quote(&twin.opts.arena, twin.plan.argv), "nothing is quoted");
	ob_qemu_opts_free(&twin.opts);
}

static void check_line(int argc, char *const *argv, const struct ob_qemu_plan_config *config)
{
	struct line line;
	const char *name;

	line_read(&line, argc, argv, config);
	if (line.r < 0) {
		FUZZ_CHECK(line.err.code == -line.r && fuzz_is_one_line(line.err.text), "%d: \"%s\"", line.r, line.err.text);
	} else {
		name = ob_qemu_name(&line.opts);
		FUZZ_CHECK(!name || ob_name_valid(name), "name \"%s\"", name);
		if (line.plan.n_refusals)
			check_refusals(&line);
		else if (!line.opts.prints_and_ends)
			check_plan(&line.plan, argc, argv, config);
		check_same(&line, argc, argv, config);
	}
	ob_qemu_opts_free(&line.opts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[WORDS_MAX + 1], *text = fuzz_text(data, size);
	int argc = cut(text, size, argv);

	check_line(argc, argv, &x86);
	check_line(argc, argv, &arm);
	free(text);
	return 0;
}
