/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"

#define OCTAVE_FIRST 10 /* 2^10 ns */
#define OCTAVES      25
#define HIST_LINES   (OCTAVES + 3) /* +Inf, _sum and _count */
#define LABELS_MAX   (4 * OB_NAME_MAX + 128) /* two names of which every letter is escaped, and short words */

enum family_kind { KIND_gauge, KIND_counter };
enum family_source { SOURCE_HOST, SOURCE_MACHINE, SOURCE_STATS, SOURCE_MEANS };

static const struct family {
	const char *name, *help;
	enum family_kind kind;
	enum family_source source;
	size_t offset;
} families[] = {
#define X(name, kind, help) { #name, help, KIND_##kind, SOURCE_HOST, offsetof(struct ob_metrics, name) },
	OB_METRICS_HOST(X)
#undef X
#define X(name, kind, help) { #name, help, KIND_##kind, SOURCE_MACHINE, offsetof(struct ob_metrics_machine, name) },
	OB_METRICS_MACHINE(X)
#undef X
#define X(name, kind, help) { #name, help, KIND_##kind, SOURCE_STATS, offsetof(struct ob_metrics_machine, stats.name) },
	OB_STATS(X)
#undef X
#define X(name, kind, help) { #name, help, KIND_##kind, SOURCE_MEANS, offsetof(struct ob_metrics_means, name) },
	OB_METRICS_MEANS(X)
#undef X
};

/* After those come the ones that are made by hand. */
enum { FAMILY_BUILD = OB_ARRAY_LEN(families), FAMILY_MEMORY, FAMILY_STATE, FAMILY_LATENCY, FAMILY_PRICE, FAMILY_COUNT };

static bool is_time(const struct family *family)
{
	size_t length = strlen(family->name);

	return length > 3 && !strcmp(family->name + length - 3, "_ns");
}

static void make_name(const struct family *family, char *buf, size_t size)
{
	static const char *const of[] = { [SOURCE_HOST] = "", [SOURCE_MACHINE] = "machine_", [SOURCE_STATS] = "machine_", [SOURCE_MEANS] = "machine_means_" };
	int length = (int)strlen(family->name) - (is_time(family) ? 3 : 0);

	snprintf(buf, size, "overbook_%s%.*s%s%s", of[family->source], length, family->name,
		 is_time(family) ? "_seconds" : "", family->kind == KIND_counter ? "_total" : "");
}

/* A label's value: names are valid by construction, and cannot break a line even if they are not. */
static char *put_label(char *at, const char *end, const char *label, const char *value)
{
	at += snprintf(at, (size_t)(end - at), "%s=\"", label);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"' || *value == '\n')
			*at++ = '\\';
		*at++ = *value == '\n' ? 'n' : *value;
	}
	*at++ = '"';
	*at = '\0';
	return at;
}

/* {machine="...",domain="..." and no closing brace. */
static char *put_labels(char buf[LABELS_MAX], const struct ob_metrics_machine *machine)
{
	const char *end = buf + LABELS_MAX;
	char *at = put_label(buf, end, "{machine", machine->name);

	return put_label(at, end, ",domain", machine->domain);
}

static void put_value(struct ob_metrics_cursor *cursor, const char *name, const char *labels, uint64_t value, bool is_ns)
{
	if (is_ns)
		snprintf(cursor->text, sizeof(cursor->text), "%s%s %" PRIu64 ".%09" PRIu64 "\n", name, labels,
			 value / (uint64_t)OB_NS_PER_SEC, value % (uint64_t)OB_NS_PER_SEC);
	else
		snprintf(cursor->text, sizeof(cursor->text), "%s%s %" PRIu64 "\n", name, labels, value);
}

/* A sample of a family of numbers. Returns false when there is none. */
static bool write_number(const struct ob_metrics *metrics, const struct family *family, size_t sample, struct ob_metrics_cursor *cursor)
{
	const struct ob_metrics_machine *machine;
	char name[128], labels[LABELS_MAX];
	uint64_t value;

	make_name(family, name, sizeof(name));
	if (family->source == SOURCE_HOST) {
		memcpy(&value, (const char *)metrics + family->offset, sizeof(value));
		put_value(cursor, name, "", value, is_time(family));
		return true;
	}
	machine = &metrics->machine[sample];
	if (family->source == SOURCE_STATS && !machine->is_reported)
		return false;
	memcpy(&value, (const char *)machine + family->offset, sizeof(value));
	strcpy(put_labels(labels, machine), "}");
	put_value(cursor, name, labels, value, is_time(family));
	return true;
}

/* Of a machine's means that has reported; NULL when it has not. Its labels go to labels. */
static const struct ob_metrics_means *find_means(const struct ob_metrics *metrics, size_t sample, char labels[LABELS_MAX])
{
	const struct ob_metrics_machine *machine = &metrics->machine[sample / OB_MEANS_KINDS];
	unsigned kind = (unsigned)(sample % OB_MEANS_KINDS);

	if (!machine->is_reported)
		return NULL;
	strcpy(put_label(put_labels(labels, machine), labels + LABELS_MAX, ",means", ob_means_name((enum ob_means_kind)kind)), "}");
	return &machine->means[kind];
}

static bool write_means(const struct ob_metrics *metrics, const struct family *family, size_t sample, struct ob_metrics_cursor *cursor)
{
	char name[128], labels[LABELS_MAX];
	const struct ob_metrics_means *means = find_means(metrics, sample, labels);
	uint64_t value;

	if (!means || (is_time(family) && !ob_means_has_price((enum ob_means_kind)(sample % OB_MEANS_KINDS))))
		return false;
	make_name(family, name, sizeof(name));
	memcpy(&value, (const char *)means + family->offset, sizeof(value));
	put_value(cursor, name, labels, value, is_time(family));
	return true;
}

static bool write_price(const struct ob_metrics *metrics, size_t sample, struct ob_metrics_cursor *cursor)
{
	char labels[LABELS_MAX];
	const struct ob_metrics_means *means = find_means(metrics, sample, labels);

	if (!means || !means->held_bytes || !ob_means_has_price((enum ob_means_kind)(sample % OB_MEANS_KINDS)))
		return false;
	snprintf(cursor->text, sizeof(cursor->text), "overbook_machine_means_price_per_byte%s %.9g\n", labels,
		 (double)means->price_ns / (double)OB_NS_PER_SEC / (double)OB_GIB);
	return true;
}

static uint64_t sum_ns(const struct ob_stats *stats, unsigned kind)
{
	/* Three sums a kind, in the order of OB_HISTS: proto/stats.h. */
	const uint64_t *parts = &stats->fault_touch_wait_ns + kind * 3u;

	return parts[0] + parts[1] + parts[2];
}

/* One line of one machine's histogram of one kind. */
static bool write_latency(const struct ob_metrics *metrics, size_t sample, struct ob_metrics_cursor *cursor)
{
	const struct ob_metrics_machine *machine = &metrics->machine[sample / (HIST_LINES * OB_HIST_KINDS)];
	unsigned kind = (unsigned)(sample / HIST_LINES % OB_HIST_KINDS), line = (unsigned)(sample % HIST_LINES);
	unsigned end = line < OCTAVES ? 2 * (OCTAVE_FIRST + line) : OB_HIST_BUCKETS;
	char labels[LABELS_MAX], *at;
	uint64_t count = 0;

	if (!machine->is_reported)
		return false;
	at = put_label(put_labels(labels, machine), labels + sizeof(labels), ",kind", ob_hist_names[kind]);
	for (unsigned i = 0; i < end; i++)
		count += machine->hists.count[kind][i];
	if (line < OCTAVES)
		snprintf(at, (size_t)(labels + sizeof(labels) - at), ",le=\"%.10g\"}", (double)(1ull << (OCTAVE_FIRST + line)) / 1e9);
	else
		strcpy(at, line == OCTAVES ? ",le=\"+Inf\"}" : "}");
	if (line == OCTAVES + 1)
		put_value(cursor, "overbook_machine_fault_latency_seconds_sum", labels, sum_ns(&machine->stats, kind), true);
	else
		put_value(cursor, line > OCTAVES ? "overbook_machine_fault_latency_seconds_count" :
						   "overbook_machine_fault_latency_seconds_bucket", labels, count, false);
	return true;
}

static bool write_state(const struct ob_metrics *metrics, size_t sample, struct ob_metrics_cursor *cursor)
{
	const struct ob_metrics_machine *machine = &metrics->machine[sample];
	char labels[LABELS_MAX];

	strcpy(put_label(put_labels(labels, machine), labels + sizeof(labels), ",state", machine->state), "}");
	put_value(cursor, "overbook_machine_state", labels, 1, false);
	return true;
}

static bool write_memory(const struct ob_metrics *metrics, size_t sample, struct ob_metrics_cursor *cursor)
{
	const char *name = ob_ladder_state_name((enum ob_ladder_state)sample);
	char labels[LABELS_MAX];

	if (!metrics->memory_state)
		return false;
	strcpy(put_label(labels, labels + sizeof(labels), "{state", name), "}");
	put_value(cursor, "overbook_memory_state", labels, !strcmp(name, metrics->memory_state), false);
	return true;
}

static bool write_build(const struct ob_metrics *metrics, struct ob_metrics_cursor *cursor)
{
	char labels[LABELS_MAX];

	strcpy(put_label(labels, labels + sizeof(labels), "{version", metrics->version), "}");
	put_value(cursor, "overbook_build_info", labels, 1, false);
	return true;
}

static size_t count_samples(const struct ob_metrics *metrics, unsigned family)
{
	switch (family) {
	case FAMILY_BUILD: return 1;
	case FAMILY_MEMORY: return OB_LADDER_STATES;
	case FAMILY_STATE: return metrics->count;
	case FAMILY_LATENCY: return metrics->count * OB_HIST_KINDS * HIST_LINES;
	case FAMILY_PRICE: return metrics->count * OB_MEANS_KINDS;
	default: break;
	}
	switch (families[family].source) {
	case SOURCE_HOST: return 1;
	case SOURCE_MEANS: return metrics->count * OB_MEANS_KINDS;
	default: return metrics->count;
	}
}

/* The two lines in front of a family's samples. */
static void write_head(unsigned family, bool is_type, struct ob_metrics_cursor *cursor)
{
	static const struct {
		const char *name, *type, *help;
	} special[] = {
		{ "overbook_build_info", "gauge", "1; the version of overbookd is a label" },
		{ "overbook_memory_state", "gauge", "how short memory is: 1 for the state that it is in" },
		{ "overbook_machine_state", "gauge", "1; the state of the machine is a label" },
		{ "overbook_machine_fault_latency_seconds", "histogram",
		  "page faults by kind and latency, from the moment at which the engine learned of them to that at which the page was in place" },
		{ "overbook_machine_means_price_per_byte", "gauge",
		  "for how long a second the guest's threads wait for each byte that a means keeps away, on average of the last minutes" },
	};
	char made[128];
	const char *name = made, *type, *help;

	if (family < OB_ARRAY_LEN(families)) {
		make_name(&families[family], made, sizeof(made));
		type = families[family].kind == KIND_counter ? "counter" : "gauge";
		help = families[family].help;
	} else {
		name = special[family - OB_ARRAY_LEN(families)].name;
		type = special[family - OB_ARRAY_LEN(families)].type;
		help = special[family - OB_ARRAY_LEN(families)].help;
	}
	snprintf(cursor->text, sizeof(cursor->text), "# %s %s %s\n", is_type ? "TYPE" : "HELP", name, is_type ? type : help);
}

static bool write_sample(const struct ob_metrics *metrics, unsigned family, size_t sample, struct ob_metrics_cursor *cursor)
{
	switch (family) {
	case FAMILY_BUILD: return write_build(metrics, cursor);
	case FAMILY_MEMORY: return write_memory(metrics, sample, cursor);
	case FAMILY_STATE: return write_state(metrics, sample, cursor);
	case FAMILY_LATENCY: return write_latency(metrics, sample, cursor);
	case FAMILY_PRICE: return write_price(metrics, sample, cursor);
	default: break;
	}
	if (families[family].source == SOURCE_MEANS)
		return write_means(metrics, &families[family], sample, cursor);
	return write_number(metrics, &families[family], sample, cursor);
}

/* Makes the next line. Returns false at the end. */
static bool next_line(const struct ob_metrics *metrics, struct ob_metrics_cursor *cursor)
{
	bool is_made = false;

	while (!is_made && cursor->family < FAMILY_COUNT) {
		if (cursor->line < 2) {
			write_head(cursor->family, cursor->line == 1, cursor);
			is_made = true;
		} else if (cursor->line - 2 < count_samples(metrics, cursor->family)) {
			is_made = write_sample(metrics, cursor->family, cursor->line - 2, cursor);
		} else {
			cursor->family++;
			cursor->line = 0;
			continue;
		}
		cursor->line++;
	}
	cursor->length = is_made ? strlen(cursor->text) : 0;
	cursor->taken = 0;
	return is_made;
}

size_t ob_metrics_write(const struct ob_metrics *metrics, struct ob_metrics_cursor *cursor, char *buf, size_t size)
{
	size_t used = 0;

	while (used < size) {
		size_t part;

		if (cursor->taken == cursor->length && !next_line(metrics, cursor))
			break;
		part = OB_MIN(cursor->length - cursor->taken, size - used);
		memcpy(buf + used, cursor->text + cursor->taken, part);
		cursor->taken += part;
		used += part;
	}
	return used;
}
