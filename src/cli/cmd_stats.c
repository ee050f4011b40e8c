/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `overbook stats NAME`: everything that is counted about a machine, in groups that answer one question each. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"
#include "base/units.h"
#include "cli/balloon_text.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "proto/stats.h"

#define FIELDS_MAX 16

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "faults", no_argument, NULL, 'f' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

/* A field that no group names is shown under the last title, so that a new one is never hidden. */
static const struct group {
	const char *title;
	const char *fields[FIELDS_MAX];
} groups[] = {
	{ "What it costs", { "limit_bytes", "cost_bytes", "over_limit_bytes", "over_limit_ns", "tables_bytes", "pool_bytes" } },
	{ "Where its memory is",
	  { "ram_bytes", "resident_bytes", "benched_bytes", "zero_bytes", "compressed_bytes", "swapped_bytes", "shared_bytes",
	    "ballooned_bytes", "absent_bytes", "pinned_bytes" } },
	{ "Faults",
	  { "faults_touch", "faults_open", "faults_bench", "faults_zero", "faults_compressed", "faults_swapped", "faults_shared",
	    "faults_spurious", "faults_stalled", "stall_ns", "prefetched_pages", "fault_cpu_ns", "leases",
	    "leases_broken", "leases_refused" } },
	{ "Use", { "active_bytes", "active_samples", "active_sampled_pages", "active_touched_pages" } },
	{ "Reclaim",
	  { "lifted_pages", "lift_busy_pages", "returned_pages", "zero_pages_found", "compressed_pages", "incompressible_pages",
	    "pool_writeback_pages", "discarded_pages", "bench_target_bytes", "open_chunks", "reclaim_cpu_ns" } },
	{ "Swap store",
	  { "swap_file_bytes", "swap_cached_bytes", "swap_out_pages", "swap_out_saved_pages", "swap_in_pages", "swap_write_ops",
	    "swap_read_ops", "swap_write_errors", "swap_read_errors" } },
	{ "Sharing",
	  { "share_offered_pages", "share_adopted_pages", "share_refused_pages", "share_dropped_pages", "share_shed_pages", "scan_pages",
	    "scan_returned_pages", "scan_unwritten_pages", "scan_cpu_ns", "mapped_bytes", "mapped_runs", "map_pages", "map_breaks",
	    "map_taken_out_pages", "map_refused_runs" } },
	{ "Pages looked at first", { "noted_image_pages", "noted_wanted_pages", "noted_scan_pages", "noted_found_pages" } },
	{ "Large pages",
	  { "large_bytes", "large_sampled_pages", "large_shareable_pages", "large_broken_chunks", "large_kept_chunks",
	    "large_collapsed_chunks", "large_whole_returns", "large_given_pages" } },
	{ "Balloon", { "balloon_flags", "balloon_bytes", "balloon_target_bytes", "machine_bytes" } },
	{ "What the guest says",
	  { "guest_updates", "guest_known", "guest_total_bytes", "guest_free_bytes", "guest_available_bytes", "guest_caches_bytes",
	    "guest_swap_in_bytes", "guest_swap_out_bytes", "guest_major_faults" } },
	{ "Health", { "degraded", "internal_errors" } },
	{ "Other", { NULL } },
};

static const struct {
	const char *name, *help;
} helps[] = {
#define X(name, kind, help) { #name, help },
	OB_STATS(X)
#undef X
};

static int ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

static void print_field(const char *name, uint64_t value)
{
	const char *help = "";
	char text[32];

	for (size_t i = 0; i < OB_ARRAY_LEN(helps); i++)
		if (!strcmp(helps[i].name, name))
			help = helps[i].help;
	if (!strcmp(name, "limit_bytes") && !value)
		snprintf(text, sizeof(text), "none");
	else if (ends_with(name, "_bytes"))
		ob_size_format(text, sizeof(text), value);
	else if (ends_with(name, "_ns"))
		snprintf(text, sizeof(text), "%.3f s", (double)value / 1e9);
	else
		snprintf(text, sizeof(text), "%" PRIu64, value);
	printf("  %-22s %14s  %s\n", name, text, help);
}

/* What faults spend their time on has a table of its own (--faults). */
static int is_part_of_fault(const char *name)
{
	return !strncmp(name, "fault_", 6) && ends_with(name, "_ns") && strcmp(name, "fault_cpu_ns");
}

static int is_grouped(const char *name)
{
	if (is_part_of_fault(name))
		return 1;
	for (size_t g = 0; g < OB_ARRAY_LEN(groups); g++)
		for (size_t i = 0; i < FIELDS_MAX && groups[g].fields[i]; i++)
			if (!strcmp(groups[g].fields[i], name))
				return 1;
	return 0;
}

static void print_groups(json_t *stats)
{
	const char *key;
	json_t *value;
	int other = 0;

	for (size_t g = 0; g + 1 < OB_ARRAY_LEN(groups); g++) {
		printf("\n%s\n", groups[g].title);
		for (size_t i = 0; i < FIELDS_MAX && groups[g].fields[i]; i++)
			if (json_object_get(stats, groups[g].fields[i]))
				print_field(groups[g].fields[i], ob_client_number(stats, groups[g].fields[i]));
	}
	json_object_foreach(stats, key, value) {
		if (is_grouped(key))
			continue;
		if (!other++)
			printf("\n%s\n", groups[OB_ARRAY_LEN(groups) - 1].title);
		print_field(key, ob_client_number(stats, key));
	}
}

static void print_latencies(json_t *kinds)
{
	const char *kind;
	json_t *hist;

	printf("\nFault latency, microseconds\n  %-12s %12s %10s %10s %10s\n", "kind", "count", "p50", "p90", "p99");
	json_object_foreach(kinds, kind, hist)
		printf("  %-12s %12" PRIu64 " %10.1f %10.1f %10.1f\n", kind, ob_client_number(hist, "count"),
		       json_number_value(json_object_get(hist, "p50_us")), json_number_value(json_object_get(hist, "p90_us")),
		       json_number_value(json_object_get(hist, "p99_us")));
}

/* Milliseconds; nothing is known of it where it is null. */
static char *time_of(char buf[16], const json_t *record, const char *key)
{
	if (json_is_null(json_object_get(record, key)))
		snprintf(buf, 16, "?");
	else
		snprintf(buf, 16, "%.3f", (double)ob_client_number(record, key) / 1e6);
	return buf;
}

static void print_means(const json_t *answer)
{
	const json_t *means = json_object_get(answer, "means"), *turn = json_object_get(means, "turn");
	const char *because = ob_client_text(turn, "because");
	char asked[16], came[16], held[16], lost[16], price[16];
	const char *name;
	json_t *record;

	printf("\nMeans of taking memory, of the last minutes; milliseconds lost a second\n  %-12s %10s %10s %10s %10s %10s\n", "means", "asked", "came",
	       "held", "lost", "for a GiB");
	json_object_foreach((json_t *)means, name, record)
		if (record != turn)
			printf("  %-12s %10s %10s %10s %10s %10s\n", name,
			       ob_size_format(asked, sizeof(asked), ob_client_number(record, "asked_bytes")),
			       ob_size_format(came, sizeof(came), ob_client_number(record, "came_bytes")),
			       ob_size_format(held, sizeof(held), ob_client_number(record, "held_bytes")),
			       time_of(lost, record, "lost_ns_a_second"), time_of(price, record, "price_ns"));
	if (ob_client_number(turn, "wait_ms"))
		printf("  cuts do not wait for the guest, for %.0f s%s%s\n", (double)ob_client_number(turn, "wait_ms") / 1e3, *because ? ": " : "", because);
}

/* The mean of one part of the faults of a kind, or of all kinds, in microseconds. */
static double part_us(json_t *stats, const char *kind, const char *part, uint64_t count)
{
	char begin[64] = "fault_", end[32];
	uint64_t sum_ns = 0;
	const char *name;
	json_t *value;

	if (strcmp(kind, "all"))
		snprintf(begin, sizeof(begin), "fault_%.40s_", kind);
	snprintf(end, sizeof(end), "_%s_ns", part);
	json_object_foreach(stats, name, value)
		if (!strncmp(name, begin, strlen(begin)) && ends_with(name, end))
			sum_ns += ob_client_number(stats, name);
	return count ? (double)sum_ns / 1e3 / (double)count : 0;
}

/* Where the time of faults goes: the means of the parts beside the quantiles of the whole. */
static void print_faults(const json_t *answer)
{
	json_t *stats = json_object_get(answer, "stats"), *hist;
	const char *kind;

	printf("%s: faults since it was started; times in microseconds, of the engine alone (the kernel's two switches come on top)\n\n"
	       "  %-12s %12s | %8s %8s %8s | %8s %8s %8s\n", ob_client_text(answer, "name"), "kind", "count", "wait", "fetch",
	       "install", "p50", "p90", "p99");
	json_object_foreach(json_object_get(answer, "fault_latency"), kind, hist) {
		uint64_t count = ob_client_number(hist, "count");

		printf("  %-12s %12" PRIu64 " | %8.1f %8.1f %8.1f | %8.1f %8.1f %8.1f\n", kind, count,
		       part_us(stats, kind, "wait", count), part_us(stats, kind, "fetch", count),
		       part_us(stats, kind, "install", count), json_number_value(json_object_get(hist, "p50_us")),
		       json_number_value(json_object_get(hist, "p90_us")), json_number_value(json_object_get(hist, "p99_us")));
	}
	printf("\nwait: until its turn came and there was room (means); fetch: decompressing, or reading and verifying;\n"
	       "install: putting the page in place and waking who waits.\n"
	       "%" PRIu64 " faults waited for room, %.3f s in all; %" PRIu64 " pages came along that nobody had asked for yet.\n"
	       "A thread was kept on its processor %" PRIu64 " times while its faults were many; %" PRIu64 " times somebody else had a say, and "
	       "%" PRIu64 " times it was not allowed.\n",
	       ob_client_number(stats, "faults_stalled"), (double)ob_client_number(stats, "stall_ns") / 1e9,
	       ob_client_number(stats, "prefetched_pages"), ob_client_number(stats, "leases"),
	       ob_client_number(stats, "leases_broken"), ob_client_number(stats, "leases_refused"));
}

static void print_degraded(uint64_t bits)
{
	static const struct {
		uint64_t bit;
		const char *text;
	} texts[] = {
		{ OB_DEGRADED_SWAP_FULL, "the swap store is full: nothing more is evicted, and the limit is exceeded where it must be" },
		{ OB_DEGRADED_SWAP_ERROR, "the swap store fails: see swap_write_errors and swap_read_errors" },
		{ OB_DEGRADED_POOL_FULL, "the compressed pool is full" },
		{ OB_DEGRADED_STOPPED, "the machine is stopped by an unreadable page" },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(texts); i++)
		if (bits & texts[i].bit)
			printf("  %s\n", texts[i].text);
}

static int is_known(const json_t *answer, const char *key)
{
	return json_is_integer(json_object_get(answer, key));
}

/* What it is taken to need for what it uses, and how sure that is; nothing without samples. */
static void print_use(const json_t *answer)
{
	uint64_t samples = ob_client_number(answer, "working_set_samples");
	char set[16], low[16], high[16];

	if (is_known(answer, "working_set_low_bytes") && is_known(answer, "working_set_high_bytes"))
		printf("  uses %s, with 95%% confidence %s to %s, by %" PRIu64 " samples\n",
		       ob_size_format(set, sizeof(set), ob_client_number(answer, "working_set_bytes")),
		       ob_size_format(low, sizeof(low), ob_client_number(answer, "working_set_low_bytes")),
		       ob_size_format(high, sizeof(high), ob_client_number(answer, "working_set_high_bytes")), samples);
	else if (samples)
		printf("  what it uses is not known yet: %" PRIu64 " samples are too few\n", samples);
}

static void print_machine(const json_t *answer)
{
	uint64_t maximum = ob_client_number(answer, "maximum_bytes"), reservation = ob_client_number(answer, "reservation_bytes");
	const char *domain = ob_client_text(answer, "domain"), *cause = ob_client_text(answer, "cause"), *kept = ob_balloon_why_kept(answer);
	char text[16];

	printf("%s: pid %" PRIu64 ", %s%s%s\n", ob_client_text(answer, "name"), ob_client_number(answer, "pid"),
	       ob_client_text(answer, "state"), *cause ? ": " : "", cause);
	printf("  shares %" PRIu64 ", reservation %s, ", ob_client_number(answer, "shares"),
	       ob_size_format(text, sizeof(text), reservation));
	printf("maximum %s, domain %s\n", maximum ? ob_size_format(text, sizeof(text), maximum) : "none", *domain ? domain : "of its own");
	print_use(answer);
	if (kept)
		printf("  what its guest frees stays on the host's books: %s\n", kept);
	print_degraded(ob_client_number(answer, "degraded"));
	print_groups(json_object_get(answer, "stats"));
	print_latencies(json_object_get(answer, "fault_latency"));
	print_means(answer);
}

int ob_cmd_stats(int argc, char **argv)
{
	int letter, json = 0, faults = 0;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		if (letter == 'h') {
			puts("Usage: overbook stats NAME [--faults] [--json]\n"
			     "Shows everything that is counted about a machine; with --faults, where the time of its page faults goes.");
			return OB_EXIT_OK;
		}
		if (letter != 'j' && letter != 'f')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known: there are --faults, --json and --help",
					   ob_option_refused(argv));
		json |= letter == 'j';
		faults |= letter == 'f';
	}
	if (argc - optind != 1)
		return ob_cli_fail(OB_EXIT_USAGE, "one machine must be named: overbook stats NAME");
	if (ob_cli_check_name(argv[optind]))
		return OB_EXIT_USAGE;
	return ob_client_command("stats", json_pack("{s:s}", "name", argv[optind]), json,
				 faults ? print_faults : print_machine, NULL);
}
