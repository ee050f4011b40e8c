/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The text that Prometheus reads, by a small parser of its format. What is shown does not depend on the size of the pieces. */
#include "test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/metrics.h"

#define TEXT_MAX (1 << 20)
#define SAMPLES  8192

static char text[TEXT_MAX];

/* What the parser has found. */
static struct sample {
	char name[128], labels[512], type[16];
	double value;
} samples[SAMPLES];
static unsigned sample_count, family_count;

static void write_pieces(const struct ob_metrics *metrics, size_t piece)
{
	struct ob_metrics_cursor cursor = { 0 };
	size_t used = 0, n;

	while ((n = ob_metrics_write(metrics, &cursor, text + used, OB_MIN(piece, TEXT_MAX - 1 - used))) > 0) {
		assert_true(n <= piece);
		used += n;
		assert_true(used < TEXT_MAX - 1);
	}
	text[used] = '\0';
	assert_int_equal(ob_metrics_write(metrics, &cursor, text + used, 1), 0);
}

static bool is_name(const char *name, size_t length)
{
	return length && strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") >= length && (name[0] < '0' || name[0] > '9');
}

/* {a="x",b="y"}, with \\, \" and \n in values. Returns behind it. */
static const char *parse_labels(const char *at)
{
	if (*at != '{')
		return at;
	do {
		size_t length = strcspn(++at, "=");

		assert_true(is_name(at, length));
		at += length + 1;
		assert_int_equal(*at++, '"');
		for (; *at != '"'; at++) {
			assert_true(*at && *at != '\n');
			if (*at == '\\') {
				at++;
				assert_true(*at == '\\' || *at == '"' || *at == 'n');
			}
		}
		at++;
	} while (*at == ',');
	assert_int_equal(*at, '}');
	return at + 1;
}

/* Families one after the other: HELP, TYPE, then all samples; each family and each sample once. */
static void parse(void)
{
	char family[128] = "", type[16] = "", *rest = text, *line;
	static char names[512][128];

	sample_count = family_count = 0;
	assert_int_equal(text[strlen(text) - 1], '\n');
	while ((line = strsep(&rest, "\n")) && *line) {
		struct sample *sample = &samples[sample_count];
		const char *at;
		char *end;

		if (!strncmp(line, "# HELP ", 7)) {
			snprintf(family, sizeof(family), "%.*s", (int)strcspn(line + 7, " "), line + 7);
			assert_true(is_name(family, strlen(family)) && strlen(line) > 8 + strlen(family));
			for (unsigned i = 0; i < family_count; i++)
				assert_string_not_equal(names[i], family);
			strcpy(names[family_count++], family);
			line = strsep(&rest, "\n");
			assert_true(!strncmp(line, "# TYPE ", 7) && !strncmp(line + 7, family, strlen(family)) && line[7 + strlen(family)] == ' ');
			snprintf(type, sizeof(type), "%s", line + 8 + strlen(family));
			assert_true(!strcmp(type, "gauge") || !strcmp(type, "counter") || !strcmp(type, "histogram"));
			continue;
		}
		snprintf(sample->name, sizeof(sample->name), "%.*s", (int)strcspn(line, " {"), line);
		snprintf(sample->type, sizeof(sample->type), "%s", type);
		at = line + strlen(sample->name);
		assert_true(is_name(sample->name, strlen(sample->name)) && !strncmp(sample->name, family, strlen(family)));
		if (strcmp(sample->name, family))
			assert_true(!strcmp(type, "histogram") && strstr("_bucket _sum _count", sample->name + strlen(family)));
		snprintf(sample->labels, sizeof(sample->labels), "%.*s", (int)(parse_labels(at) - at), at);
		at = parse_labels(at);
		assert_int_equal(*at, ' ');
		sample->value = strtod(at + 1, &end);
		assert_true(end > at + 1 && !*end);
		for (unsigned i = 0; i < sample_count; i++)
			assert_true(strcmp(samples[i].name, sample->name) || strcmp(samples[i].labels, sample->labels));
		assert_true(++sample_count < SAMPLES);
	}
	assert_null(rest ? (*rest ? rest : NULL) : NULL);
}

static double value_of(const char *name, const char *labels)
{
	for (unsigned i = 0; i < sample_count; i++)
		if (!strcmp(samples[i].name, name) && !strcmp(samples[i].labels, labels))
			return samples[i].value;
	print_error("there is no %s%s\n", name, labels);
	fail();
	return 0;
}

static bool has(const char *name, const char *part)
{
	for (unsigned i = 0; i < sample_count; i++)
		if (!strcmp(samples[i].name, name) && strstr(samples[i].labels, part))
			return true;
	return false;
}

static struct ob_metrics_machine machines[3];
static struct ob_metrics metrics;

static int set_up(void **state)
{
	uint64_t *value = (uint64_t *)&machines[0].stats;

	memset(machines, 0, sizeof(machines));
	memset(&metrics, 0, sizeof(metrics));
	metrics.version = "0.1.0";
	metrics.memory_state = "clear";
	metrics.budget_bytes = 1ull << 40;
	metrics.machine = machines;
	metrics.count = 3;
	strcpy(machines[0].name, "web");
	strcpy(machines[0].domain, "shop");
	machines[0].state = "running";
	machines[0].is_reported = true;
	machines[0].report_age_ns = 1500000000;
	for (unsigned i = 0; i < sizeof(machines[0].stats) / sizeof(*value); i++)
		value[i] = i + 1;
	for (unsigned i = 0; i < OB_MEANS_KINDS; i++)
		machines[0].means[i] = (struct ob_metrics_means){ 100 * i + 1, 100 * i + 2, i ? 1u << i : 0, 1500000000u * i, 1000000000u * i };
	strcpy(machines[1].name, "new");
	machines[1].state = "starting";
	/* No such name gets here; nor would it do harm. */
	memset(machines[2].name, '"', sizeof(machines[2].name) - 1);
	memset(machines[2].domain, '\\', sizeof(machines[2].domain) - 2);
	machines[2].domain[OB_NAME_MAX - 1] = '\n';
	machines[2].state = "lost";
	machines[2].is_reported = true;
	return 0;
}

#define WEB "{machine=\"web\",domain=\"shop\"}"

static void names_and_units_are_prometheus_own(void **state)
{
	write_pieces(&metrics, TEXT_MAX);
	parse();
	assert_true(value_of("overbook_build_info", "{version=\"0.1.0\"}") == 1);
	assert_true(value_of("overbook_budget_bytes", "") == (double)(1ull << 40));
	assert_true(value_of("overbook_machine_ram_bytes", WEB) == 1);
	assert_true(value_of("overbook_machine_report_age_seconds", WEB) == 1.5);
	assert_true(value_of("overbook_machine_stall_seconds_total", WEB) == (double)machines[0].stats.stall_ns / 1e9);
	assert_true(value_of("overbook_machine_faults_touch_total", WEB) == (double)machines[0].stats.faults_touch);
	assert_true(value_of("overbook_machine_guest_swap_in_bytes_total", WEB) == (double)machines[0].stats.guest_swap_in_bytes);
	assert_true(value_of("overbook_machine_state", "{machine=\"web\",domain=\"shop\",state=\"running\"}") == 1);
	assert_true(value_of("overbook_memory_state", "{state=\"clear\"}") == 1 && value_of("overbook_memory_state", "{state=\"high\"}") == 0);
	for (unsigned i = 0; i < sample_count; i++) {
		const char *name = samples[i].name, *total = strstr(name, "_total");
		bool is_total = total && !total[6];

		assert_true(!strncmp(name, "overbook_", 9) && !strstr(name, "_ns"));
		if (strcmp(samples[i].type, "histogram"))
			assert_int_equal(is_total, !strcmp(samples[i].type, "counter"));
	}
}

/* Each line of proto/stats.h has its metric. */
static void everything_that_is_counted_is_shown(void **state)
{
	static const struct {
		const char *name;
		bool is_counter;
	} fields[] = {
#define gauge false
#define counter true
#define X(name, kind, help) { #name, kind },
		OB_STATS(X)
#undef X
#undef gauge
#undef counter
	};

	write_pieces(&metrics, TEXT_MAX);
	parse();
	for (unsigned i = 0; i < OB_ARRAY_LEN(fields); i++) {
		char name[128];
		size_t length = strlen(fields[i].name);
		bool is_ns = !strcmp(fields[i].name + length - 3, "_ns");

		snprintf(name, sizeof(name), "overbook_machine_%.*s%s%s", (int)(is_ns ? length - 3 : length), fields[i].name,
			 is_ns ? "_seconds" : "", fields[i].is_counter ? "_total" : "");
		assert_true(value_of(name, WEB) == (double)(i + 1) / (is_ns ? 1e9 : 1));
	}
	assert_true(family_count > OB_ARRAY_LEN(fields) + 20);
}

static void who_has_told_nothing_is_shown_by_what_is_known(void **state)
{
	write_pieces(&metrics, TEXT_MAX);
	parse();
	assert_true(has("overbook_machine_shares", "\"new\"") && has("overbook_machine_state", "starting"));
	assert_true(!has("overbook_machine_cost_bytes", "\"new\"") && !has("overbook_machine_fault_latency_seconds_count", "\"new\""));
	metrics.memory_state = NULL;
	metrics.count = 0;
	write_pieces(&metrics, TEXT_MAX);
	parse();
	assert_true(!has("overbook_memory_state", "") && has("overbook_machines", ""));
}

#define MEANS(name) "{machine=\"web\",domain=\"shop\",means=\"" name "\"}"

static void means_are_told_apart(void **state)
{
	write_pieces(&metrics, TEXT_MAX);
	parse();
	assert_true(value_of("overbook_machine_means_expected_bytes_total", MEANS("sharing")) == 1);
	assert_true(value_of("overbook_machine_means_gained_bytes_total", MEANS("swap")) == 402);
	assert_true(value_of("overbook_machine_means_held_bytes", MEANS("compression")) == 8);
	assert_true(value_of("overbook_machine_means_lost_seconds_total", MEANS("balloon")) == 3);
	/* Two seconds a second for a GiB. */
	assert_true(value_of("overbook_machine_means_price_per_byte", MEANS("balloon")) == 1.86264515e-09);
	/* What is not known, and what is none, is not there. */
	assert_true(has("overbook_machine_means_held_bytes", "\"applications\"") && !has("overbook_machine_means_lost_seconds_total", "\"applications\""));
	assert_true(!has("overbook_machine_means_price_per_byte", "\"applications\"") && !has("overbook_machine_means_price_per_byte", "\"sharing\""));
	assert_true(!has("overbook_machine_means_expected_bytes_total", "\"new\""));
}

static void latencies_are_a_histogram(void **state)
{
	static const char format[] = "{machine=\"web\",domain=\"shop\",kind=\"swapped\",le=\"%s\"}";
	static const char *const bounds[] = { "1.024e-06", "0.001048576", "17.17986918", "+Inf" };
	static const double counts[] = { 3, 10, 110, 1110 };
	char labels[256];
	double last = -1;

	machines[0].hists.count[OB_HIST_swapped][ob_hist_bucket(1000)] = 3;
	machines[0].hists.count[OB_HIST_swapped][ob_hist_bucket(1024)] = 5;
	machines[0].hists.count[OB_HIST_swapped][ob_hist_bucket(1048575)] = 2;
	machines[0].hists.count[OB_HIST_swapped][ob_hist_bucket(17179869183)] = 100;
	machines[0].hists.count[OB_HIST_swapped][OB_HIST_BUCKETS - 1] = 1000;
	machines[0].stats.fault_swapped_wait_ns = 1000000000;
	machines[0].stats.fault_swapped_fetch_ns = 500000000;
	machines[0].stats.fault_swapped_install_ns = 1;
	write_pieces(&metrics, TEXT_MAX);
	parse();
	for (unsigned i = 0; i < OB_ARRAY_LEN(bounds); i++) {
		snprintf(labels, sizeof(labels), format, bounds[i]);
		assert_true(value_of("overbook_machine_fault_latency_seconds_bucket", labels) == counts[i]);
	}
	assert_true(value_of("overbook_machine_fault_latency_seconds_count", "{machine=\"web\",domain=\"shop\",kind=\"swapped\"}") == 1110);
	assert_true(value_of("overbook_machine_fault_latency_seconds_sum", "{machine=\"web\",domain=\"shop\",kind=\"swapped\"}") == 1.500000001);
	/* Boundaries and counts rise, in the order of the lines. */
	for (unsigned i = 0; i < sample_count; i++) {
		const char *bound = strstr(samples[i].labels, "le=\"");

		if (!bound || !strstr(samples[i].labels, "web") || !strstr(samples[i].labels, "swapped"))
			continue;
		assert_true(samples[i].value >= last);
		last = samples[i].value;
	}
	assert_true(last == 1110);
}

static void pieces_of_any_size_make_the_same_text(void **state)
{
	static const size_t sizes[] = { 1, 2, 7, 100, 4096 };
	char *whole;

	write_pieces(&metrics, TEXT_MAX);
	whole = strdup(text);
	for (unsigned i = 0; i < OB_ARRAY_LEN(sizes); i++) {
		write_pieces(&metrics, sizes[i]);
		assert_string_equal(text, whole);
	}
	free(whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(names_and_units_are_prometheus_own, set_up),
		cmocka_unit_test_setup(everything_that_is_counted_is_shown, set_up),
		cmocka_unit_test_setup(who_has_told_nothing_is_shown_by_what_is_known, set_up),
		cmocka_unit_test_setup(means_are_told_apart, set_up),
		cmocka_unit_test_setup(latencies_are_a_histogram, set_up),
		cmocka_unit_test_setup(pieces_of_any_size_make_the_same_text, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
