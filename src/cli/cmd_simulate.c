/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook simulate`: a trace of machines under overbookd's rule and others', on paper (src/sim). The trace is read once;
 * all rules follow it side by side. Nothing here asks overbookd.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/option.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "daemon/budget.h"
#include "proto/env.h"
#include "sim/sim.h"
#include "sim/synthetic.h"

#define MACHINES_DEFAULT 32u
#define SECONDS_DEFAULT  3600u
#define SHOW_AFTER_NS    (2 * OB_NS_PER_SEC)
#define SHOW_EVERY_NS    (200 * OB_NS_PER_MS)

static const char usage[] =
	"Usage: overbook simulate TRACE [OPTIONS]\n"
	"       overbook simulate --synthetic NAME [OPTIONS]\n"
	"Says what would become of machines under different rules of who gets how much memory. Changes nothing.\n"
	"  TRACE             what machines did, as overbook record writes it; -: from standard input\n"
	"  --synthetic NAME  a made-up trace: steady, diurnal, stampede, ramp, mixed, liar or churn\n"
	"  --machines N      of a made-up trace; default: 32\n"
	"  --hosts N         they are dealt to so many hosts; default: as the trace says, or 1\n"
	"  --budget SIZE     memory of each host for its machines; default: as the trace says, or half of their RAM\n"
	"  --idle-tax N      percent, as overbookd's, for the rule overbook; default: 75\n"
	"  --seconds N       for so long; default: 3600, or the whole trace\n"
	"  --seed N          what is drawn by chance is drawn by it; default: 1\n"
	"  --rule NAME       overbook, static, proxmox, mom or esxi; more than once for several; default: all\n"
	"  --json FILE       writes the result there\n";

static const struct option long_options[] = {
	{ "synthetic", required_argument, NULL, 'y' },
	{ "machines", required_argument, NULL, 'm' },
	{ "hosts", required_argument, NULL, 'o' },
	{ "budget", required_argument, NULL, 'b' },
	{ "idle-tax", required_argument, NULL, 't' },
	{ "seconds", required_argument, NULL, 's' },
	{ "seed", required_argument, NULL, 'e' },
	{ "rule", required_argument, NULL, 'r' },
	{ "json", required_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

struct simulate {
	const char *trace, *json;
	struct ob_sim_synthetic synthetic;
	uint64_t machines, seconds, hosts, budget_bytes; /* 0: not given */
	uint64_t idle_tax_percent;
	bool is_synthetic;
	const struct ob_sim_rule *rules[OB_SIM_RULES];
	size_t n;

	FILE *file;
	struct ob_sim_reader *reader;
	struct ob_sim_source *source;
	struct ob_sim *sims[OB_SIM_RULES];
	uint64_t played_seconds, started_ns, shown_ns;
};

/* --- options --- */

static int take_rule(struct simulate *s)
{
	const struct ob_sim_rule *rule = ob_sim_rule_find(optarg);

	if (!rule)
		return ob_cli_fail(OB_EXIT_USAGE, "--rule %s: must be overbook, static, proxmox, mom or esxi", optarg);
	for (size_t i = 0; i < s->n; i++)
		if (s->rules[i] == rule)
			return 0;
	s->rules[s->n++] = rule;
	return 0;
}

static int take_synthetic(struct simulate *s)
{
	int kind = ob_sim_synthetic_find(optarg);

	if (kind < 0)
		return ob_cli_fail(OB_EXIT_USAGE, "--synthetic %s: must be steady, diurnal, stampede, ramp, mixed, liar or churn", optarg);
	s->synthetic.kind = (enum ob_sim_synthetic_kind)kind;
	s->is_synthetic = true;
	return 0;
}

static int take_option(struct simulate *s, int letter)
{
	switch (letter) {
	case 'y':
		return take_synthetic(s);
	case 'm':
		return ob_cli_take_count("machines", optarg, 1, OB_SIM_MACHINES_MAX, &s->machines);
	case 'o':
		return ob_cli_take_count("hosts", optarg, 1, OB_SIM_HOSTS_MAX, &s->hosts);
	case 't':
		return ob_cli_take_count("idle-tax", optarg, 0, OB_BUDGET_TAX_MAX, &s->idle_tax_percent);
	case 's':
		return ob_cli_take_count("seconds", optarg, 1, OB_SIM_SECONDS_MAX, &s->seconds);
	case 'e':
		return ob_cli_take_count("seed", optarg, 0, UINT64_MAX, &s->synthetic.seed);
	case 'b':
		return ob_cli_take_size("budget", optarg, OB_LIMIT_MIN, OB_SIM_RAM_MAX, &s->budget_bytes);
	case 'r':
		return take_rule(s);
	default:
		s->json = optarg;
		return 0;
	}
}

/* Returns 0, an exit code, or -1 when help was asked for. */
static int parse_options(struct simulate *s, int argc, char **argv)
{
	int letter, r;

	optind = 0;
	while ((letter = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		if (letter == 'h')
			return -1;
		if (letter == '?' || letter == ':')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known or lacks its value; see overbook simulate --help", ob_option_refused(argv));
		r = take_option(s, letter);
		if (r)
			return r;
	}
	if (optind < argc)
		s->trace = argv[optind++];
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: one trace is simulated at a time", argv[optind]);
	if (!s->trace == !s->is_synthetic)
		return ob_cli_fail(OB_EXIT_USAGE, "what is to be simulated is %s: TRACE, or --synthetic NAME", s->trace ? "said twice" : "not said");
	if (s->trace && s->machines)
		return ob_cli_fail(OB_EXIT_USAGE, "--machines: a trace says itself how many there are");
	return 0;
}

/* --- what is played, and by which rules --- */

static int open_trace(struct simulate *s, struct ob_error *err)
{
	int r;

	s->file = strcmp(s->trace, "-") ? fopen(s->trace, "re") : stdin;
	if (!s->file)
		return ob_error_sys(err, errno, "cannot open trace \"%s\"", s->trace);
	r = ob_sim_reader_open(s->file, s->trace, &s->reader, err);
	if (r < 0)
		return r;
	s->source = ob_sim_reader_source(s->reader);
	if (!s->hosts)
		s->hosts = ob_sim_reader_header(s->reader)->hosts;
	if (!s->budget_bytes)
		s->budget_bytes = ob_sim_reader_header(s->reader)->budget_bytes;
	if (!s->budget_bytes)
		return ob_error_set(err, EINVAL, "trace \"%s\" does not say what the budget was: say it by --budget SIZE", s->trace);
	return 0;
}

static int open_synthetic(struct simulate *s, struct ob_error *err)
{
	s->hosts = s->hosts ? s->hosts : 1;
	s->synthetic.machines = (uint32_t)(s->machines ? s->machines : MACHINES_DEFAULT);
	s->synthetic.seconds = s->seconds ? s->seconds : SECONDS_DEFAULT;
	if (!s->budget_bytes)
		s->budget_bytes = OB_MAX(ob_sim_synthetic_ram(&s->synthetic) / 2 / s->hosts, OB_LIMIT_MIN);
	s->source = ob_sim_synthetic_open(&s->synthetic);
	return s->source ? 0 : ob_error_sys(err, ENOMEM, "cannot simulate");
}

static int make_worlds(struct simulate *s, struct ob_error *err)
{
	if (!s->n) {
		memcpy(s->rules, ob_sim_rules, sizeof(s->rules));
		s->n = OB_SIM_RULES;
	}
	for (size_t i = 0; i < s->n; i++) {
		if (ob_sim_create(s->rules[i], (uint32_t)s->hosts, s->budget_bytes, s->synthetic.seed, &s->sims[i]) < 0)
			return ob_error_sys(err, ENOMEM, "cannot simulate");
		ob_sim_set_idle_tax(s->sims[i], (unsigned)s->idle_tax_percent);
	}
	return 0;
}

static void end(struct simulate *s)
{
	for (size_t i = 0; i < s->n; i++)
		ob_sim_destroy(s->sims[i]);
	if (s->is_synthetic)
		ob_sim_synthetic_close(s->source);
	ob_sim_reader_close(s->reader);
	if (s->file && s->file != stdin)
		fclose(s->file);
}

static int on_second(void *context, uint64_t second)
{
	struct simulate *s = context;
	uint64_t now = ob_now_ns();

	s->played_seconds = second + 1;
	if (isatty(STDERR_FILENO) && now - s->started_ns > SHOW_AFTER_NS && now - s->shown_ns > SHOW_EVERY_NS) {
		fprintf(stderr, "\r\033[Ksecond %llu", (unsigned long long)second);
		if (s->seconds || s->is_synthetic)
			fprintf(stderr, " of %llu", (unsigned long long)(s->seconds ? s->seconds : SECONDS_DEFAULT));
		fflush(stderr);
		s->shown_ns = now;
	}
	return s->seconds && s->played_seconds >= s->seconds;
}

/* --- the result --- */

static json_t *row_of(const struct simulate *s, size_t i)
{
	struct ob_sim_result result;

	ob_sim_measure(s->sims[i], &result);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
			 "rule", s->rules[i]->name, "machines", (json_int_t)result.machines, "refused", (json_int_t)result.refused,
			 "machine_seconds", (json_int_t)result.machine_seconds, "waited_seconds", (json_int_t)result.waited_seconds,
			 "swapped_out_bytes", result.swapped_out_bytes, "swapped_in_bytes", result.swapped_in_bytes,
			 "compressed_out_bytes", result.compressed_out_bytes, "compressed_in_bytes", result.compressed_in_bytes,
			 "slowdown_mean", result.slowdown_mean, "slowdown_p95", result.slowdown_p95, "slowdown_p99", result.slowdown_p99,
			 "fairness", result.fairness, "excess_bytes", result.excess_bytes, "excess_seconds", result.excess_seconds,
			 "orders_per_machine_minute", result.orders_per_machine_minute, "cost_mean_bytes", result.cost_mean_bytes);
}

static json_t *make_result(const struct simulate *s)
{
	json_t *rows = json_array();
	char name[256];

	ob_text_clean(name, sizeof(name), s->is_synthetic ? ob_sim_synthetic_name(s->synthetic.kind) : s->trace);
	for (size_t i = 0; i < s->n; i++)
		if (json_array_append_new(rows, row_of(s, i)) < 0) {
			json_decref(rows);
			return NULL;
		}
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", s->is_synthetic ? "synthetic" : "trace",
			 name, "program_version", OB_VERSION,
			 "hosts", (json_int_t)s->hosts, "budget_bytes", (json_int_t)s->budget_bytes, "seconds", (json_int_t)s->played_seconds,
			 "seed", (json_int_t)s->synthetic.seed, "idle_tax_percent", (json_int_t)s->idle_tax_percent, "rows", rows);
}

static void cell_gib(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%.1f", json_real_value(json_object_get(row, key)) / (double)OB_GIB);
}

static void cell_mib(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%.0f", json_real_value(json_object_get(row, key)) / (double)OB_MIB);
}

static void cell_two(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%.2f", json_real_value(json_object_get(row, key)));
}

static void cell_whole(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%.0f", json_real_value(json_object_get(row, key)));
}

static const struct ob_column columns[] = {
	{ "RULE", "rule", ob_cell_text },
	{ "REFUSED", "refused", ob_cell_number },
	{ "WAITED s", "waited_seconds", ob_cell_number },
	{ "OUT GiB", "swapped_out_bytes", cell_gib },
	{ "IN GiB", "swapped_in_bytes", cell_gib },
	{ "PACKED GiB", "compressed_out_bytes", cell_gib },
	{ "UNPACKED GiB", "compressed_in_bytes", cell_gib },
	{ "SLOWDOWN", "slowdown_mean", cell_two },
	{ "P95", "slowdown_p95", cell_two },
	{ "P99", "slowdown_p99", cell_two },
	{ "FAIRNESS", "fairness", cell_two },
	{ "EXCESS MiB", "excess_bytes", cell_mib },
	{ "FOR s", "excess_seconds", cell_whole },
	{ "ORDERS/min", "orders_per_machine_minute", cell_two },
};

static void print_result(const json_t *result)
{
	const json_t *rows = json_object_get(result, "rows"), *first = json_array_get(rows, 0);
	char budget[16];

	printf("%lld machines on %lld hosts of %s, for %lld s\n", (long long)json_integer_value(json_object_get(first, "machines")),
	       (long long)json_integer_value(json_object_get(result, "hosts")),
	       ob_size_format(budget, sizeof(budget), (uint64_t)json_integer_value(json_object_get(result, "budget_bytes"))),
	       (long long)json_integer_value(json_object_get(result, "seconds")));
	ob_table_print(columns, OB_ARRAY_LEN(columns), rows);
}

static int tell(const struct simulate *s)
{
	json_t *result = make_result(s);
	int code = OB_EXIT_OK;

	if (!result)
		return ob_cli_fail(OB_EXIT_FAILED, "there is not enough memory for the result");
	print_result(result);
	if (s->json && json_dump_file(result, s->json, JSON_INDENT(2) | JSON_REAL_PRECISION(8)) < 0)
		code = ob_cli_fail(OB_EXIT_FAILED, "cannot write \"%s\": %s", s->json, strerror(errno));
	json_decref(result);
	return code;
}

int ob_cmd_simulate(int argc, char **argv)
{
	struct simulate s = { .synthetic.seed = 1, .idle_tax_percent = OB_BUDGET_TAX_DEFAULT, .started_ns = ob_now_ns() };
	struct ob_error err = { 0 };
	int r = parse_options(&s, argc, argv), code;

	if (r < 0) {
		fputs(usage, stdout);
		return OB_EXIT_OK;
	}
	if (r)
		return r;
	r = s.is_synthetic ? open_synthetic(&s, &err) : open_trace(&s, &err);
	if (r == 0)
		r = make_worlds(&s, &err);
	if (r == 0)
		r = ob_sim_play(s.source, s.sims, s.n, on_second, &s, &err);
	if (s.shown_ns)
		fputs("\r\033[K", stderr);
	code = r < 0 ? ob_cli_fail(OB_EXIT_FAILED, "%s", err.text) : tell(&s);
	end(&s);
	return code;
}
