/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the demo shows: a table that is redrawn in place once a second when stdout is a terminal, one plain line every
 * five seconds when it is not, then a summary in plain words, and the same figures as JSON.
 */
#include "cli/demo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/units.h"

#define TABLE_NS (1 * OB_NS_PER_SEC)
#define LINE_NS  (5 * OB_NS_PER_SEC)
#define BAR      40

#define PAGE_BYTES 4096

static uint64_t mib(uint64_t bytes)
{
	return (bytes + OB_MIB / 2) / OB_MIB;
}

static double seconds_since(uint64_t ns)
{
	return (double)(ob_now_ns() - ns) / 1e9;
}

static const char *state_name(enum demo_state state)
{
	static const char *const names[] = { "boots", "fills", "runs", "checks", "checked", "stops", "ended" };

	return names[state];
}

static uint64_t sum_checked(const struct demo *demo)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < demo->machines; i++)
		sum += demo->machine[i].pages_checked;
	return sum;
}

static uint64_t sum_wrong(const struct demo *demo)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < demo->machines; i++)
		sum += demo->machine[i].pages_wrong;
	return sum;
}

static uint64_t sum_touched(const struct demo *demo)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < demo->machines; i++)
		sum += demo->machine[i].touched_bytes;
	return sum;
}

void demo_show_start(const struct demo *demo)
{
	const struct demo_options *o = &demo->options;

	printf("%u machines of %llu MiB (%llu MiB in all) in a budget of %llu MiB, on Debian's kernel under %s.\n", o->machines,
	       (unsigned long long)mib(o->memory_bytes), (unsigned long long)mib(o->memory_bytes * o->machines),
	       (unsigned long long)mib(o->budget_bytes), !strcmp(o->accel, "tcg") ? "emulation (TCG)" : o->accel);
	for (unsigned i = 0; i < OB_MIN(o->machines, demo_role_count); i++)
		printf("  %-6s %s\n", demo_roles[i].name, demo_roles[i].what);
	printf("In each of them a witness fills memory with pages it can predict, and checks every byte it reads.\n");
	fflush(stdout);
}

void demo_show_phase(struct demo *demo, const char *phase, const char *what)
{
	if (demo->terminal && demo->screen_ns)
		demo_show(demo); /* the last state of the phase before stays on the screen */
	demo->phase = phase;
	demo->phase_ns = ob_now_ns();
	demo->screen_ns = 0;
	printf("\n== %s: %s\n", phase, what);
	fflush(stdout);
}

static void show_line(const struct demo *demo)
{
	char swapped[16], cost[16], peak[16];
	uint64_t swap = 0, zero = 0, compressed = 0, faults = 0;

	for (unsigned i = 0; i < demo->machines; i++) {
		swap += demo->machine[i].stats.swapped_bytes;
		zero += demo->machine[i].stats.zero_bytes;
		compressed += demo->machine[i].stats.compressed_bytes;
		faults += demo->machine[i].faults_per_second;
	}
	printf("%s %3.0f s: cost %s (peak %s), %llu MiB compressed, %s swapped, %llu MiB zero, %llu faults/s, %llu pages checked, %llu wrong\n",
	       demo->phase, seconds_since(demo->phase_ns), ob_size_format(cost, sizeof(cost), demo->cost.now_bytes),
	       ob_size_format(peak, sizeof(peak), demo->cost.peak_bytes), (unsigned long long)mib(compressed),
	       ob_size_format(swapped, sizeof(swapped), swap), (unsigned long long)mib(zero), (unsigned long long)faults,
	       (unsigned long long)sum_checked(demo), (unsigned long long)sum_wrong(demo));
}

static void show_bar(const struct demo *demo)
{
	uint64_t budget = demo->options.budget_bytes, filled = demo->cost.now_bytes * BAR / budget;
	char bar[BAR + 1];

	for (unsigned i = 0; i < BAR; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[BAR] = 0;
	printf("\033[Khost memory [%s] %llu of %llu MiB, peak %llu\n", bar, (unsigned long long)mib(demo->cost.now_bytes),
	       (unsigned long long)mib(budget), (unsigned long long)mib(demo->cost.peak_bytes));
}

static void show_table(struct demo *demo)
{
	if (demo->screen_ns)
		printf("\033[%uA", demo->machines + 3);
	printf("\033[K%-9s%-8s%7s%6s%6s%6s%7s%8s%9s%9s%6s\n", "MiB", "", "written", "limit", "cost", "zero", "compr.", "swapped",
	       "faults/s", "checked", "wrong");
	for (unsigned i = 0; i < demo->machines; i++) {
		const struct demo_machine *m = &demo->machine[i];

		printf("\033[K%-9s%-8s%7llu%6llu%6llu%6llu%7llu%8llu%9llu%9llu%6llu\n", m->name, state_name(m->state),
		       (unsigned long long)mib(m->touched_bytes), (unsigned long long)mib(m->stats.limit_bytes),
		       (unsigned long long)mib(demo->cost.machine_bytes[i]), (unsigned long long)mib(m->stats.zero_bytes),
		       (unsigned long long)mib(m->stats.compressed_bytes), (unsigned long long)mib(m->stats.swapped_bytes),
		       (unsigned long long)m->faults_per_second, (unsigned long long)m->pages_checked,
		       (unsigned long long)m->pages_wrong);
	}
	show_bar(demo);
	printf("\033[K%s, %.0f s\n", demo->phase, seconds_since(demo->phase_ns));
}

void demo_show(struct demo *demo)
{
	uint64_t now_ns = ob_now_ns();

	if (demo->terminal)
		show_table(demo);
	else if (seconds_since(demo->phase_ns) >= 1)
		show_line(demo);
	else
		return;
	demo->screen_ns = now_ns + (demo->terminal ? TABLE_NS : LINE_NS);
	fflush(stdout);
}

void demo_show_summary(const struct demo *demo)
{
	const struct demo_options *o = &demo->options;
	const struct ob_stats *end = &demo->at_end;
	uint64_t promised = o->memory_bytes * o->machines;
	double ratio = end->pool_bytes ? (double)end->compressed_bytes / (double)end->pool_bytes : 0;

	printf("\n== summary\n");
	printf("Promised   %llu MiB to %u machines; they wrote to %llu MiB of it, %.2f times the budget of %llu MiB.\n",
	       (unsigned long long)mib(promised), o->machines, (unsigned long long)mib(sum_touched(demo)),
	       (double)sum_touched(demo) / (double)o->budget_bytes, (unsigned long long)mib(o->budget_bytes));
	printf("Cost       %llu MiB at the worst moment, by the kernel's accounting (PSS of guest RAM, bench, pool and tables, and the store of shared pages; "
	       "%llu samples, %.1f a second).\n",
	       (unsigned long long)mib(demo->cost.peak_bytes), (unsigned long long)demo->cost.samples,
	       demo->cost.seconds > 0 ? (double)demo->cost.samples / demo->cost.seconds : 0);
	printf("Where      at the end of the run: %llu MiB in place, %llu on the bench, %llu compressed into %llu (%.1f:1), "
	       "%llu swapped, %llu zero, %llu given back, tables %llu.\n",
	       (unsigned long long)mib(end->resident_bytes), (unsigned long long)mib(end->benched_bytes),
	       (unsigned long long)mib(end->compressed_bytes), (unsigned long long)mib(end->pool_bytes), ratio,
	       (unsigned long long)mib(end->swapped_bytes), (unsigned long long)mib(end->zero_bytes),
	       (unsigned long long)mib(end->ballooned_bytes), (unsigned long long)mib(end->tables_bytes));
	printf("Shared     %llu MiB of it are in slots of the store, which takes %llu MiB: %llu MiB saved.\n",
	       (unsigned long long)mib(end->shared_bytes), (unsigned long long)mib(demo->share_store_bytes),
	       (unsigned long long)mib(demo->share_saved_bytes));
	printf("Large      %llu MiB of it are in large pages. %llu were broken to share what was in them, which gave %llu MiB; %llu looks kept one "
	       "as it was; %llu were made whole again.\n",
	       (unsigned long long)mib(end->large_bytes), (unsigned long long)end->large_broken_chunks,
	       (unsigned long long)mib(end->large_given_pages * PAGE_BYTES), (unsigned long long)end->large_kept_chunks,
	       (unsigned long long)end->large_collapsed_chunks);
	printf("Faults     %llu, half of them within %llu us, 99%% within %llu us; %llu waited for room, %.1f s in all.\n",
	       (unsigned long long)demo->faults, (unsigned long long)demo->fault_us_p50, (unsigned long long)demo->fault_us_p99,
	       (unsigned long long)end->faults_stalled, (double)end->stall_ns / 1e9);
	printf("Witness    %llu pages checked, every byte of each; %llu wrong.\n", (unsigned long long)sum_checked(demo),
	       (unsigned long long)sum_wrong(demo));
	printf("Time       boot %.0f s, fill %.0f s, run %.0f s, full check %.0f s.\n", demo->boot_seconds, demo->fill_seconds,
	       demo->run_seconds, demo->check_seconds);
	if (2 * sum_touched(demo) < 3 * o->budget_bytes && !demo->failures)
		printf("Note       the machines wrote to less than 1.5 times the budget, so this run shows little: give more "
		       "--machines or --memory, or less --budget.\n");
	fflush(stdout);
	for (unsigned i = 0; i < demo->failures; i++)
		fprintf(stderr, "overbook: demo: %s\n", demo->failure[i]);
	if (!demo->failures)
		printf("Everything is as it should be.\n");
}

static json_t *machine_json(const struct demo *demo, unsigned i)
{
	const struct demo_machine *m = &demo->machine[i];

	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", m->name, "role",
			 m->role->name, "what", m->role->what, "touched_bytes", (json_int_t)m->touched_bytes, "pages_checked",
			 (json_int_t)m->pages_checked, "pages_written", (json_int_t)m->pages_written, "pages_wrong",
			 (json_int_t)m->pages_wrong, "full_check_pages", (json_int_t)m->full_check_pages, "io_errors",
			 (json_int_t)m->io_errors, "slowest_step_us", (json_int_t)m->slowest_us, "limit_bytes",
			 (json_int_t)m->stats.limit_bytes, "swapped_bytes", (json_int_t)m->stats.swapped_bytes, "compressed_bytes",
			 (json_int_t)m->stats.compressed_bytes, "zero_bytes", (json_int_t)m->stats.zero_bytes, "stall_ns",
			 (json_int_t)m->stats.stall_ns, "over_limit_ns", (json_int_t)m->stats.over_limit_ns);
}

static json_t *host_json(const struct demo *demo)
{
	struct utsname name = { 0 };

	uname(&name);
	return json_pack("{s:s, s:I, s:I, s:s}", "kernel", name.release, "processors", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN),
			 "memory_bytes", (json_int_t)sysconf(_SC_PHYS_PAGES) * (json_int_t)sysconf(_SC_PAGESIZE), "accel",
			 demo->options.accel);
}

static json_t *report_json(const struct demo *demo)
{
	const struct ob_stats *end = &demo->at_end;
	const struct demo_cost *cost = &demo->cost;
	json_t *list = json_array(), *failures = json_array();
	json_t *root = json_pack(
		"{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "machines", (int)demo->options.machines,
		"guest_memory_bytes", (json_int_t)(demo->options.memory_bytes * demo->options.machines), "budget_bytes",
		(json_int_t)demo->options.budget_bytes, "peak_cost_bytes", (json_int_t)cost->peak_bytes, "touched_bytes",
		(json_int_t)sum_touched(demo), "pages_checked", (json_int_t)sum_checked(demo), "pages_wrong",
		(json_int_t)sum_wrong(demo), "zero_bytes", (json_int_t)end->zero_bytes, "compressed_bytes",
		(json_int_t)end->compressed_bytes, "compressed_pool_bytes", (json_int_t)end->pool_bytes, "swapped_bytes",
		(json_int_t)end->swapped_bytes, "fault_us_p50", (json_int_t)demo->fault_us_p50, "fault_us_p99",
		(json_int_t)demo->fault_us_p99);
	json_t *more = json_pack(
		"{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "passed",
		demo->failures == 0, "shared_bytes", (json_int_t)end->shared_bytes, "shared_saved_bytes",
		(json_int_t)demo->share_saved_bytes, "share_store_bytes", (json_int_t)demo->share_store_bytes, "large_bytes",
		(json_int_t)end->large_bytes, "large_broken_chunks", (json_int_t)end->large_broken_chunks, "large_kept_chunks",
		(json_int_t)end->large_kept_chunks, "large_collapsed_chunks", (json_int_t)end->large_collapsed_chunks,
		"large_given_pages", (json_int_t)end->large_given_pages,
		"resident_bytes", (json_int_t)end->resident_bytes, "benched_bytes", (json_int_t)end->benched_bytes, "tables_bytes",
		(json_int_t)end->tables_bytes, "faults", (json_int_t)demo->faults, "faults_stalled", (json_int_t)end->faults_stalled,
		"stall_ns", (json_int_t)end->stall_ns, "samples", (json_int_t)cost->samples, "pss_reads", (json_int_t)cost->walks, "samples_per_second",
		cost->seconds > 0 ? (double)cost->samples / cost->seconds : 0.0, "longest_sample_gap_ms",
		(double)cost->longest_gap_ns / 1e6, "sampler_cpu_seconds", (double)cost->cpu_ns / 1e9, "boot_seconds",
		demo->boot_seconds, "fill_seconds", demo->fill_seconds, "run_seconds", demo->run_seconds, "check_seconds",
		demo->check_seconds);

	for (unsigned i = 0; i < demo->machines; i++)
		json_array_append_new(list, machine_json(demo, i));
	for (unsigned i = 0; i < demo->failures; i++)
		json_array_append_new(failures, json_string(demo->failure[i]));
	if (root && more)
		json_object_update(root, more);
	json_decref(more);
	json_object_set_new(root, "host", host_json(demo));
	json_object_set_new(root, "machine", list);
	json_object_set_new(root, "failures", failures);
	return root;
}

int demo_write_json(const struct demo *demo, struct ob_error *err)
{
	json_t *root;
	int r = 0;

	if (!demo->options.json)
		return 0;
	root = report_json(demo);
	if (!root)
		return ob_error_set(err, ENOMEM, "no memory for the report");
	errno = 0;
	if (json_dump_file(root, demo->options.json, JSON_INDENT(2)) < 0)
		r = ob_error_sys(err, errno ? errno : EIO, "cannot write \"%s\"", demo->options.json);
	json_decref(root);
	return r;
}
