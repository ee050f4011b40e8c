/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What overbookd shows to Prometheus, as text (the text-based exposition format, version 0.0.4). Pure: from numbers that
 * metrics_server.c has copied, so that the text can be written piece by piece while the daemon goes on.
 *
 * What is counted of machines is not listed here again: names, kinds and help are those of proto/stats.h, of which
 * conventions make another name:
 *
 *     stall_ns, a counter     overbook_machine_stall_seconds_total     base units; counters end in _total
 *     cost_bytes, a gauge     overbook_machine_cost_bytes
 *
 * What each means of taking memory has given and cost (means.h) is told by machine and means; what applications lose is not known, and left out, and
 * so is a price while nothing is held. A price is lost time for memory: seconds a second, which is threads that wait, for each byte.
 *
 * Latencies of faults are one histogram, by machine and kind. Its boundaries are powers of two in nanoseconds, as those of
 * the engine's buckets are, every octave from a microsecond to 17 seconds. A machine whose agent has told nothing yet is left out but for
 * what overbookd itself knows. Numbers that stand for "none" are 0, as in the JSON protocol, and so is a working set that is not known.
 */
#ifndef OB_DAEMON_METRICS_H
#define OB_DAEMON_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/ladder.h"
#include "daemon/means.h"
#include "proto/stats.h"
#include "proto/wire.h"

/* Of the host: overbook_NAME. */
#define OB_METRICS_HOST(X)                                                                                        \
	X(budget_bytes, gauge, "what all machines together may cost; 0 without a budget")                         \
	X(free_bytes, gauge, "of the budget, what machines do not cost and the stores of shared pages do not take")\
	X(min_free_bytes, gauge, "memory is soft, or worse, when less of the budget is free")                     \
	X(boundary_bytes, gauge, "memory is clear, and not high, when less of the budget is free")                \
	X(memory_changes, counter, "changes of the state of memory")                                              \
	X(over_bytes, gauge, "what machines cost and stores take above the budget")                               \
	X(waiting_bytes, gauge, "what machines cost above what they are entitled to, while guests are asked to give it")\
	X(boundary_resets, counter, "times that a fast fall of free memory has moved the boundary back")          \
	X(large_pages_allowed, gauge, "1 while new large pages may come about")                                   \
	X(store_bytes, gauge, "what the stores of shared pages take")                                             \
	X(store_allowed_bytes, gauge, "what they may take; 0 without a budget")                                   \
	X(store_orphan_bytes, gauge, "of what they take, extents of a former overbookd")                          \
	X(store_shared_bytes, gauge, "pages of machines that are in the stores")                                  \
	X(store_saved_bytes, gauge, "how much more that is than the stores take, domain by domain")               \
	X(machines, gauge, "machines that are known")                                                             \
	X(pressure_some_ns, counter, "time in which something on this host waited for memory; 0 where the kernel does not tell")\
	X(pressure_full_ns, counter, "time in which all that was to run waited for memory; 0 where the kernel does not tell")\
	X(available_bytes, gauge, "what the kernel says that the host has available; 0 where it does not")  \
	X(machines_expected, gauge, "machines that lived when overbookd started and are not back yet")

/* Of a machine, by overbookd: overbook_machine_NAME. */
#define OB_METRICS_MACHINE(X)                                                                                     \
	X(shares, gauge, "its weight in the division of the budget")                                              \
	X(reservation_bytes, gauge, "what is guaranteed to it")                                                   \
	X(maximum_bytes, gauge, "what its user allows it to cost; 0 for no maximum")                              \
	X(target_bytes, gauge, "what it is entitled to; 0 without a budget")                                      \
	X(working_set_bytes, gauge, "what it is believed to use; 0 while that is not known")                      \
	X(working_set_low_bytes, gauge, "with 95% confidence it uses so much at least, by its samples; 0 while that is not known") \
	X(working_set_high_bytes, gauge, "with 95% confidence it uses so much at most, by its samples; 0 while that is not known") \
	X(guest_first, gauge, "1 while cuts of its limit may wait for what the guest gives")                      \
	X(guest_turn_losses, counter, "times that the guest has lost its turn: it gave little, or cost more than eviction") \
	X(report_age_ns, gauge, "how old what its agent has told is")

/* Of a machine's means: overbook_machine_means_NAME. */
#define OB_METRICS_MEANS(X)                                                                                       \
	X(expected_bytes, counter, "what was expected of a means of taking memory")                               \
	X(gained_bytes, counter, "of what was expected of a means, what the host was relieved of")                \
	X(held_bytes, gauge, "what a means keeps away from the host, on average of the last minutes")             \
	X(lost_ns, counter, "how long the guest's threads have waited for what a means keeps away")

struct ob_metrics_machine {
	char name[OB_NAME_MAX + 1], domain[OB_NAME_MAX + 1];
	const char *state;
#define X(name, kind, help) uint64_t name;
	OB_METRICS_MACHINE(X)
#undef X
	bool is_reported; /* what follows counts */
	struct ob_metrics_means {
#define X(name, kind, help) uint64_t name;
		OB_METRICS_MEANS(X)
#undef X
		uint64_t price_ns; /* a second, for a GiB */
	} means[OB_MEANS_KINDS];
	struct ob_stats stats;
	struct ob_hists hists;
};

struct ob_metrics {
	const char *version, *memory_state; /* the latter NULL while it is not known */
#define X(name, kind, help) uint64_t name;
	OB_METRICS_HOST(X)
#undef X
	size_t count;
	struct ob_metrics_machine *machine;
};

/* Where the text is; everything 0: at its beginning. */
struct ob_metrics_cursor {
	unsigned family;
	size_t line;     /* of the family */
	char text[1024]; /* the line that is being taken out */
	size_t length, taken;
};

/* Writes the next piece of at most size bytes, of any size but 0. Returns its length, 0 at the end. */
size_t ob_metrics_write(const struct ob_metrics *metrics, struct ob_metrics_cursor *cursor, char *buf, size_t size);

#endif
