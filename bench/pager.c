/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager: a plain process that plays the guest, for bench/paging and bench/reclaim.
 *
 * It maps memory as QEMU does, fills it, and touches it page by page in a pattern, while somebody keeps it inside a limit:
 *
 *   --by engine    the engine of this project, linked in: the limit is the engine's, its threads run in this process
 *   --by kernel    a memory cgroup: the process enters --cgroup, which the caller has limited; --limit only says to what
 *   --by nothing   nobody: what the pattern reaches with all of its memory there, and how the machine disturbs it
 *
 * All three run the same code on the same memory. Stages, each told of on stderr ("pager: filled" ...), so that a caller
 * can follow: fill (the limit holds already), warm-up, measure, and --verify, which compares every byte of every page.
 * Each access checks the stamp of its page (pager_content.h): a wrong one ends the program with status 2.
 *
 * With --measure-reclaim memory is filled without a limit, then the limit is set, and what is measured is how long it takes
 * until the memory is under it, and the CPU time of the process: by engine all of its threads, by kernel the thread that
 * writes the limit, in which the kernel reclaims and compresses. CPU time that interrupts and the block layer's own
 * threads spend on writes is in neither.
 *
 * With --guest it is a bare-metal guest under KVM that has the memory and touches it (pager_guest.c).
 *
 * Patterns, over all pages, one access a page:
 *   random      every page is as likely as any other
 *   zipf        s = 0.99; which page has which rank is drawn anew with the seed, so hot pages lie anywhere
 *   sequential  through memory again and again
 *   phase       at random in a window (--window, a quarter of the limit if not given, so that it
 *               fits beside a compressed pool), which jumps to another place after
 *               --phase-ops accesses (four times the pages of the window)
 *
 * The result is one JSON object on stdout. "faults" is the kernel's own count for the threads that access memory; the
 * times of faults are those of a random sixteenth of all accesses (pager_play.c), "timed_faults" says of how many. By
 * kernel, "group_bytes" and "pool_bytes" are what the cgroup is charged and what zswap holds when measuring ends.
 */
#include "pager.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/units.h"

#define CALIBRATION_NS (20 * OB_NS_PER_MS)

static const char *const by_names[] = { "nothing", "kernel", "engine", NULL };
static const char *const content_names[] = { "zero", "compressible", "incompressible", NULL };
static const char *const pattern_names[] = { "random", "zipf", "sequential", "phase", NULL };

enum kind { NAME, SIZE, COUNT, SECONDS, TEXT, FLAG };

/* One option of the command line: where its value goes, and how it is read. */
struct option_row {
	const char *name;
	enum kind kind;
	void *value; /* int (or an enum) for NAME and FLAG, unsigned for COUNT of 4 bytes, else as the kind says */
	size_t size;
	const char *const *names;
	const char *help;
};

static struct pager_options options = {
	.size_bytes = 512 * OB_MIB, .threads = 1, .write_percent = 20, .seed = 1, .seconds = 5, .warmup_seconds = 2,
};

#define AT(field) &options.field, sizeof(options.field)
static const struct option_row rows[] = {
	{ "by", NAME, AT(by), by_names, "who keeps the limit: engine, kernel or nothing" },
	{ "size", SIZE, AT(size_bytes), NULL, "memory, a multiple of 2M (512M)" },
	{ "limit", SIZE, AT(limit_bytes), NULL, "what it may cost (none)" },
	{ "swap-dir", TEXT, AT(swap_dir), NULL, "engine: where the swap store goes (none: no store)" },
	{ "cgroup", TEXT, AT(cgroup), NULL, "a memory cgroup's directory, which the process enters" },
	{ "content", NAME, AT(content), content_names, "zero, compressible or incompressible" },
	{ "pattern", NAME, AT(pattern), pattern_names, "random, zipf, sequential or phase" },
	{ "ops", COUNT, AT(ops), NULL, "accesses to measure, instead of a time" },
	{ "seconds", SECONDS, AT(seconds), NULL, "time to measure (5)" },
	{ "warmup-ops", COUNT, AT(warmup_ops), NULL, "accesses before, instead of a time" },
	{ "warmup-seconds", SECONDS, AT(warmup_seconds), NULL, "time before (2)" },
	{ "threads", COUNT, AT(threads), NULL, "threads that touch memory, at most 16 (1)" },
	{ "write-percent", COUNT, AT(write_percent), NULL, "share of accesses that write (20)" },
	{ "seed", COUNT, AT(seed), NULL, "what all randomness is drawn from (1)" },
	{ "window", SIZE, AT(window_bytes), NULL, "phase: the working set (a quarter of the limit)" },
	{ "phase-ops", COUNT, AT(phase_ops), NULL, "phase: accesses until it jumps (four a page of the window)" },
	{ "fill-rate", SIZE, AT(fill_rate_bytes), NULL, "bytes a second at which memory is filled (as fast as it goes)" },
	{ "small-pages", FLAG, AT(small_pages), NULL, "advise against large pages (default: for them, as QEMU)" },
	{ "measure-reclaim", FLAG, AT(measure_reclaim), NULL, "measure how fast a limit is reached, instead of accesses" },
	{ "guest", FLAG, AT(guest), NULL, "a bare-metal KVM guest touches the memory, in its own pattern" },
	{ "verify", FLAG, AT(verify), NULL, "compare every byte at the end" },
};
#define ROWS OB_ARRAY_LEN(rows)

static void usage(FILE *to)
{
	fprintf(to, "usage: pager [options]\n");
	for (size_t i = 0; i < ROWS; i++)
		fprintf(to, "  --%-16s %s\n", rows[i].name, rows[i].help);
}

static int read_count(const struct option_row *row, const char *text)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-')
		return -EINVAL;
	if (row->size == sizeof(unsigned)) {
		if (value > 1000000)
			return -ERANGE;
		*(unsigned *)row->value = (unsigned)value;
	} else {
		*(uint64_t *)row->value = value;
	}
	return 0;
}

static int read_seconds(const struct option_row *row, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 0 && value < 1e6))
		return -EINVAL;
	*(double *)row->value = value;
	return 0;
}

static int read_name(const struct option_row *row, const char *text)
{
	for (int i = 0; row->names[i]; i++) {
		if (!strcmp(row->names[i], text)) {
			*(int *)row->value = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int read_value(const struct option_row *row, const char *text)
{
	switch (row->kind) {
	case NAME:
		return read_name(row, text);
	case SIZE:
		return ob_size_parse(text, row->value);
	case COUNT:
		return read_count(row, text);
	case SECONDS:
		return read_seconds(row, text);
	case TEXT:
		*(const char **)row->value = text;
		return 0;
	default:
		*(int *)row->value = 1;
		return 0;
	}
}

static int read_options(int argc, char **argv, struct ob_error *err)
{
	struct option longs[ROWS + 2] = { 0 };
	int i;

	for (size_t row = 0; row < ROWS; row++)
		longs[row] = (struct option){ rows[row].name, rows[row].kind == FLAG ? no_argument : required_argument, NULL,
					      (int)row };
	longs[ROWS] = (struct option){ "help", no_argument, NULL, (int)ROWS };
	while ((i = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (i == (int)ROWS) {
			usage(stdout);
			exit(0);
		}
		if (i == '?' || i > (int)ROWS)
			return ob_error_set(err, EINVAL, "see --help");
		if (read_value(&rows[i], optarg) < 0)
			return ob_error_set(err, EINVAL, "--%s %s: not a value for it (see --help)", rows[i].name, optarg);
	}
	return optind < argc ? ob_error_set(err, EINVAL, "%s: not an option (see --help)", argv[optind]) : 0;
}

static int check_options(struct ob_error *err)
{
	if (!options.size_bytes || options.size_bytes % OB_CHUNK_SIZE || options.size_bytes > OB_GIB * 1024)
		return ob_error_set(err, EINVAL, "--size must be a multiple of 2M, up to 1T");
	if (!options.threads || options.threads > PAGER_THREADS_MAX)
		return ob_error_set(err, EINVAL, "--threads must be 1 to %u", PAGER_THREADS_MAX);
	if (options.write_percent > 100)
		return ob_error_set(err, EINVAL, "--write-percent must be at most 100");
	if (options.by != PAGER_BY_ENGINE && options.swap_dir)
		return ob_error_set(err, EINVAL, "--swap-dir is the engine's");
	if (options.by == PAGER_BY_KERNEL && !options.cgroup)
		return ob_error_set(err, EINVAL, "--by kernel needs --cgroup");
	if (options.by == PAGER_BY_NOTHING && (options.limit_bytes || options.measure_reclaim))
		return ob_error_set(err, EINVAL, "--by nothing keeps no --limit");
	if (options.measure_reclaim && (!options.limit_bytes || options.limit_bytes >= options.size_bytes))
		return ob_error_set(err, EINVAL, "--measure-reclaim needs a --limit below --size");
	if (options.guest && (options.measure_reclaim || options.verify || options.threads > 2))
		return ob_error_set(err, EINVAL, "--guest goes with neither --measure-reclaim nor --verify, and has at most 2 threads");
	if (!options.window_bytes)
		options.window_bytes = (options.limit_bytes ? options.limit_bytes : options.size_bytes) / 4;
	return 0;
}

static double ns_per_tick(void)
{
	uint64_t start_ns = ob_now_ns(), start = pager_ticks(), now_ns;

	do
		now_ns = ob_now_ns();
	while (now_ns - start_ns < CALIBRATION_NS);
	return (double)(now_ns - start_ns) / (double)(pager_ticks() - start);
}

static void print_stats(const char *name, const struct ob_stats *stats)
{
	const char *comma = "";

	printf(", \"%s\": {", name);
#define X(field, kind, help) printf("%s\"%s\": %llu", comma, #field, (unsigned long long)stats->field), comma = ", ";
	OB_STATS(X)
#undef X
	printf("}");
}

static void print_options(void)
{
	printf("{\"by\": \"%s\", \"content\": \"%s\", \"pattern\": \"%s\", \"size_bytes\": %llu, \"limit_bytes\": %llu, "
	       "\"threads\": %u, \"write_percent\": %u, \"seed\": %llu, \"large_pages\": %s",
	       by_names[options.by], content_names[options.content], pattern_names[options.pattern],
	       (unsigned long long)options.size_bytes, (unsigned long long)options.limit_bytes, options.threads,
	       options.write_percent, (unsigned long long)options.seed, options.small_pages ? "false" : "true");
}

static void print_stage(const struct pager *pager, const struct pager_stage *stage)
{
	const struct pager_tally *tally = &stage->tally;

	printf(", \"seconds\": %.6f, \"ops\": %llu, \"ops_per_second\": %.1f, \"user_seconds\": %.6f, \"system_seconds\": %.6f",
	       stage->wall_seconds, (unsigned long long)tally->ops, (double)tally->ops / stage->wall_seconds, stage->user_seconds,
	       stage->system_seconds);
	printf(", \"faults\": %llu, \"timed_faults\": %llu, \"fault_p50_ns\": %.0f, \"fault_p99_ns\": %.0f, "
	       "\"fault_p999_ns\": %.0f, \"fault_max_ns\": %.0f", (unsigned long long)tally->faults,
	       (unsigned long long)tally->timed_faults, pager_quantile_ns(pager, tally->fault_buckets, 0.5),
	       pager_quantile_ns(pager, tally->fault_buckets, 0.99), pager_quantile_ns(pager, tally->fault_buckets, 0.999),
	       (double)tally->fault_max_ticks * pager->ns_per_tick);
	printf(", \"access_p50_ns\": %.0f, \"access_p99_ns\": %.0f, \"access_p999_ns\": %.0f",
	       pager_quantile_ns(pager, tally->access_buckets, 0.5), pager_quantile_ns(pager, tally->access_buckets, 0.99),
	       pager_quantile_ns(pager, tally->access_buckets, 0.999));
}

static void get_stats(const struct pager *pager, struct ob_stats *ret)
{
	struct ob_engine_stats stats;

	if (!pager->engine)
		return;
	ob_engine_get_stats(pager->engine, &stats);
	*ret = stats.values;
}

/* Who touches the memory: one of the two. */
struct toucher {
	struct pager_play *play;
	struct pager_guest *guest;
};

static int open_toucher(struct pager *pager, struct toucher *toucher, struct ob_error *err)
{
	int r = options.guest ? pager_guest_open(pager, &toucher->guest, err) : pager_memory_fill(pager, err);

	if (r < 0)
		return r;
	fprintf(stderr, "pager: filled\n");
	return options.guest ? 0 : pager_play_open(pager, &toucher->play, err);
}

static int touch(struct toucher *toucher, struct pager_stage *stage, struct ob_error *err)
{
	return toucher->guest ? pager_guest_run(toucher->guest, stage, err) : pager_play_run(toucher->play, stage, err);
}

static int run_accesses(struct pager *pager, struct ob_error *err)
{
	struct pager_stage warmup = { .ops = options.warmup_ops, .seconds = options.warmup_seconds };
	static struct pager_stage measured; /* large */
	struct ob_stats before = { 0 }, after = { 0 };
	struct toucher toucher = { 0 };
	int r = open_toucher(pager, &toucher, err);

	if (!r)
		r = touch(&toucher, &warmup, err);
	if (r < 0)
		return r;
	fprintf(stderr, "pager: warm\n");
	measured.ops = options.ops;
	measured.seconds = options.seconds;
	get_stats(pager, &before);
	r = touch(&toucher, &measured, err);
	get_stats(pager, &after);
	if (r < 0)
		return r;
	fprintf(stderr, "pager: measured\n");
	print_options();
	print_stage(pager, &measured);
	if (options.by == PAGER_BY_KERNEL)
		printf(", \"group_bytes\": %llu, \"pool_bytes\": %llu", (unsigned long long)pager_memory_usage_bytes(pager),
		       (unsigned long long)pager_memory_pool_bytes());
	if (pager->engine) {
		printf(", \"reclaim_cpu_seconds\": %.6f, \"fault_cpu_seconds\": %.6f",
		       (double)(after.reclaim_cpu_ns - before.reclaim_cpu_ns) / 1e9,
		       (double)(after.fault_cpu_ns - before.fault_cpu_ns) / 1e9);
		print_stats("before", &before);
		print_stats("after", &after);
	}
	return 0;
}

static int run_reclaim(struct pager *pager, struct ob_error *err)
{
	struct ob_stats before = { 0 }, after = { 0 };
	struct pager_reclaim reclaim;
	int r = pager_memory_fill(pager, err);

	if (r < 0)
		return r;
	fprintf(stderr, "pager: filled\n");
	get_stats(pager, &before);
	r = pager_memory_reclaim(pager, &reclaim, err);
	get_stats(pager, &after);
	if (r < 0)
		return r;
	fprintf(stderr, "pager: measured\n");
	print_options();
	printf(", \"before_bytes\": %llu, \"after_bytes\": %llu, \"pool_growth_bytes\": %llu, \"seconds\": %.6f, "
	       "\"user_seconds\": %.6f, \"system_seconds\": %.6f, \"attempts\": %u", (unsigned long long)reclaim.before_bytes,
	       (unsigned long long)reclaim.after_bytes, (unsigned long long)reclaim.pool_growth_bytes, reclaim.wall_seconds,
	       reclaim.user_seconds, reclaim.system_seconds, reclaim.attempts);
	if (pager->engine) {
		print_stats("before", &before);
		print_stats("after", &after);
	}
	return 0;
}

static int run(struct pager *pager, struct ob_error *err)
{
	int r = pager_memory_open(pager, err);

	if (r < 0)
		return r;
	r = options.measure_reclaim ? run_reclaim(pager, err) : run_accesses(pager, err);
	if (!r && options.verify)
		r = pager_memory_verify(pager, err);
	if (!r)
		printf(", \"verified\": %s}\n", options.verify ? "true" : "false");
	return r;
}

int main(int argc, char **argv)
{
	struct pager pager = { .options = &options };
	struct ob_error err = { 0 };
	int r = read_options(argc, argv, &err);

	if (!r)
		r = check_options(&err);
	if (!r)
		r = ob_fault_configure(getenv(OB_ENV_FAULT), &err);
	if (r < 0) {
		fprintf(stderr, "pager: %s\n", err.text);
		return 64;
	}
	pager.pages = (uint32_t)(options.size_bytes / PAGER_PAGE);
	pager.ns_per_tick = ns_per_tick();
	r = run(&pager, &err);
	if (r < 0)
		fprintf(stderr, "pager: %s\n", err.text);
	else if (fflush(stdout))
		r = -errno;
	/* The engine, as in a machine, lives until the process has gone: nothing is brought back. */
	_exit(r == -EILSEQ ? 2 : r ? 1 : 0);
}
