/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What machines would do, second by second: the input of a simulation. docs/simulate.md describes the format for people.
 *
 * A trace is text, a JSON object a line. The first one is the header, each of the others an event, in the order of time:
 *
 *     {"overbook_trace": 1, "budget_bytes": 8589934592, "hosts": 1}
 *     {"second": 0, "machine": "web", "ram_bytes": 4294967296, "content_bytes": 1073741824, "working_set_bytes": 268435456}
 *     {"second": 60, "machine": "web", "working_set_bytes": 805306368, "touches": 20000}
 *     {"second": 90, "machine": "web", "gone": true}
 *     {"second": 120, "end": true}
 *
 * A machine comes with the first line that names it, and goes with "gone"; a line says what changes, and what it does not name stays
 * as it was. Without an end the trace ends a second after its last event: so what a recorder had written when it died is a trace.
 *
 * Nothing of a trace is believed. Lines have a greatest length, numbers a greatest value, unknown members are refused, seconds do not
 * go back, no machine has more content than RAM or a larger working set than content. What is wrong is one error with
 * the number of the line. The first error is the last thing that a reader says.
 *
 * Reading is streamed: what is kept is the last load of each machine, by number, and the names.
 */
#ifndef OB_SIM_TRACE_H
#define OB_SIM_TRACE_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define OB_SIM_VERSION      1
#define OB_SIM_NONE         UINT64_MAX
#define OB_SIM_MACHINES_MAX 100000u
#define OB_SIM_HOSTS_MAX    10000u
#define OB_SIM_SECONDS_MAX  (366ull * 86400)
#define OB_SIM_RAM_MAX      (1ull << 46)
#define OB_SIM_TOUCHES_MAX  1000000000ull
#define OB_SIM_LINE_MAX     4096u

/* What a machine is, and what it does from some second on. */
struct ob_sim_load {
	uint64_t ram_bytes;
	uint64_t shares;
	uint64_t reservation_bytes; /* guaranteed; 0: nothing */
	uint64_t limit_bytes;       /* the user's; OB_SIM_NONE */
	uint64_t content_bytes;     /* memory that it has */
	uint64_t working_set_bytes; /* of that, what it uses */
	uint64_t touches;           /* pages of it that it would touch in a second if all of them were in place */
	uint64_t says_bytes;        /* what its statistics say that it uses; OB_SIM_NONE: the truth */
	uint64_t spare_permille;    /* of its content: zero, or equal to somebody else's */
	uint64_t compressible_permille; /* of its content, beside that: compresses ... */
	uint64_t compressed_permille;   /* ... to so much of its size */
};

enum ob_sim_kind { OB_SIM_LOAD, OB_SIM_GONE, OB_SIM_END };

struct ob_sim_event {
	uint64_t second;
	enum ob_sim_kind kind;
	uint32_t machine; /* numbers from 0, in the order in which machines are first named; one that comes again keeps its own */
	struct ob_sim_load load;
};

/* Where events come from. next() returns 0, or -errno with the reason; the last event is OB_SIM_END, and nothing is asked for after it. */
struct ob_sim_source {
	int (*next)(struct ob_sim_source *source, struct ob_sim_event *ret_event, struct ob_error *err);
};

struct ob_sim_header {
	uint64_t budget_bytes; /* of each host; 0: the trace does not say */
	uint32_t hosts;
};

struct ob_sim_reader;

/* Takes the header. name is for errors. file stays the caller's. Returns 0, or -errno with the reason. */
int ob_sim_reader_open(FILE *file, const char *name, struct ob_sim_reader **ret_reader, struct ob_error *err) OB_MUST_CHECK;
void ob_sim_reader_close(struct ob_sim_reader *reader);
const struct ob_sim_header *ob_sim_reader_header(const struct ob_sim_reader *reader);
struct ob_sim_source *ob_sim_reader_source(struct ob_sim_reader *reader);

/* A load in which nothing is set but what has a default. */
struct ob_sim_load ob_sim_load_default(void);
/* Whether it can be. Returns 0, or -EINVAL with what is wrong. */
int ob_sim_load_check(const struct ob_sim_load *load, struct ob_error *err) OB_MUST_CHECK;

/*
 * Lines of a trace, with a newline at the end; the caller frees. NULL when memory is short. before: the machine's load by its last line, or
 * NULL.
 */
char *ob_sim_write_header(const struct ob_sim_header *header);
char *ob_sim_write_event(const struct ob_sim_event *event, const char *name, const struct ob_sim_load *before);

#endif
