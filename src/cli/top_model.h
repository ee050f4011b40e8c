/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `overbook top` knows: overbookd's answers to `ps` with "counts", one after the other, as rows with rates. No I/O.
 *
 * A row belongs to a name and a pid; when either is another, it is another machine and begins anew. A rate is the difference
 * of two counts by the time between the reports that had them, not between the answers: reports come about once a
 * second, whoever asks. While no newer report has come the rate stays as it was, for at most RATE_MAX_MS; it is not known
 * before the second report and after a count that has become less. A new overbookd changes nothing of that: counts
 * are the agents' own, and its clock is the host's.
 *
 * Everything in an answer is from outside: texts are reduced to printable ASCII of bounded length, numbers that are missing
 * or negative are 0, and there are at most OB_TOP_ROWS_MAX rows.
 */
#ifndef OB_CLI_TOP_MODEL_H
#define OB_CLI_TOP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "proto/stats.h"
#include "proto/wire.h"

#define OB_TOP_ROWS_MAX 4096
#define OB_TOP_HISTORY  300u /* answers that a machine's curves go back */
#define OB_TOP_TEXT     80
#define OB_TOP_UNKNOWN  UINT64_MAX

/* As counted by the agent, since the machine started. */
struct ob_top_counts {
	uint64_t reported_ms; /* by overbookd's clock; 0: nothing yet */
	uint64_t faults[OB_HIST_KINDS], stall_ns, swap_in_pages, swap_out_pages;
};

/* A second; negative: not known. */
struct ob_top_rates {
	double faults[OB_HIST_KINDS], all_faults, swap_in_bytes, swap_out_bytes;
	double stalled; /* seconds of waiting for room; more than 1 where several processors wait */
};

/* What a machine cost and used at one answer; the working set may be OB_TOP_UNKNOWN. */
struct ob_top_point {
	uint64_t cost_bytes, working_set_bytes;
};

struct ob_top_row {
	char name[OB_NAME_MAX + 1], state[16], domain[OB_NAME_MAX + 1], cause[OB_TOP_TEXT];
	uint64_t pid, shares, degraded;
	uint64_t ram_bytes, cost_bytes, resident_bytes, benched_bytes, zero_bytes, compressed_bytes, pool_bytes, swapped_bytes, shared_bytes;
	uint64_t ballooned_bytes, over_limit_bytes, reservation_bytes;
	uint64_t limit_bytes, target_bytes, maximum_bytes; /* 0: none */
	uint64_t working_set_bytes, working_set_low_bytes, working_set_high_bytes; /* OB_TOP_UNKNOWN: overbookd does not tell */
	uint64_t working_set_samples;
	struct ob_top_counts counts;
	struct ob_top_rates rates;
	struct ob_top_point *history; /* OB_TOP_HISTORY of them, a ring */
	unsigned history_next, history_count;
};

struct ob_top_host {
	char version[32], memory_state[16], memory_because[64], large_policy[16];
	bool memory_known, may_make_large;
	uint64_t pid, now_ms;
	uint64_t budget_bytes; /* 0: none */
	uint64_t free_bytes, min_free_bytes, boundary_bytes;
	uint64_t shareable_pages; /* OB_TOP_UNKNOWN */
	uint64_t store_bytes, shared_bytes, saved_bytes;
	uint64_t cost_bytes, ram_bytes; /* of all machines */
	unsigned not_running, over_limit;
	uint64_t total_bytes, available_bytes; /* of the host; 0: not known */
	uint64_t pressure_us, pressure_ms;     /* how long it had waited for memory, at that time; OB_TOP_UNKNOWN */
	double waits;                          /* the part of the time that it waits; negative: not known */
	struct ob_top_rates rates; /* of all machines whose rates are known */
};

/* What rows can be sorted by, and shown as; ob_top_columns has one of each. */
enum ob_top_key {
	OB_TOP_NAME, OB_TOP_STATE, OB_TOP_COST, OB_TOP_LIMIT, OB_TOP_TARGET, OB_TOP_FAULTS, OB_TOP_SWAP_IN, OB_TOP_SWAP_OUT, OB_TOP_SWAPPED,
	OB_TOP_RAM, OB_TOP_WORKING_SET, OB_TOP_RESIDENT, OB_TOP_SHARED, OB_TOP_COMPRESSED, OB_TOP_BALLOONED, OB_TOP_STALLED, OB_TOP_TOUCH,
	OB_TOP_BENCH, OB_TOP_ZERO, OB_TOP_DECOMPRESS, OB_TOP_SWAP_READ, OB_TOP_COPY,
	OB_TOP_KEYS
};

enum ob_top_form { OB_TOP_IS_TEXT, OB_TOP_IS_SIZE, OB_TOP_IS_SIZE_OR_NONE, OB_TOP_IS_RATE, OB_TOP_IS_SIZE_RATE, OB_TOP_IS_SHARE };

struct ob_top_column {
	const char *key, *title;
	enum ob_top_form form;
	unsigned width;
	unsigned rank; /* on a narrow screen those of a high rank are left out first */
};

extern const struct ob_top_column ob_top_columns[OB_TOP_KEYS];

struct ob_top {
	struct ob_top_host host;
	struct ob_top_row *rows;
	size_t count;
};

/* The next answer to `ps`. Returns 0, -EPROTO or -ENOMEM with the reason; then everything is as it was. */
int ob_top_take(struct ob_top *top, const json_t *answer, struct ob_error *err) OB_MUST_CHECK;
void ob_top_clear(struct ob_top *top);

/* Rows in the order of a key: names from a to z, numbers from the most to the least, or the other way; equals by name. */
void ob_top_sort(struct ob_top *top, enum ob_top_key key, bool reverse);

/* What a row is sorted by; negative where it is not known, infinite where there is no limit, 0 for texts. */
double ob_top_value(const struct ob_top_row *row, enum ob_top_key key);

/* The key of that name, or -EINVAL. */
int ob_top_key_parse(const char *text);

/* The row of that name, or NULL. */
const struct ob_top_row *ob_top_find(const struct ob_top *top, const char *name);

/* The n-th last point, 0 being the latest; n below history_count. */
const struct ob_top_point *ob_top_point(const struct ob_top_row *row, unsigned n);

/* Rates, as an object that belongs to each machine of `top --json`. NULL when memory is short. */
json_t *ob_top_render_rates(const struct ob_top_rates *rates);

#endif
