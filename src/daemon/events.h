/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens to machines and to the host, for people and for programs: a line in the log as any other; and where that is
 * systemd's journal, the same line with fields to look for: MESSAGE_ID by the kind of event, MACHINE and MACHINE_PID.
 * overbookd(8) lists the kinds with their ids, which are for ever.
 *
 * What an agent's statistics tell, and that it has stopped, is looked at again a second after something was told, no sooner. That it
 * is here is told each time it connects.
 */
#ifndef OB_DAEMON_EVENTS_H
#define OB_DAEMON_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* X(kind, level of the log, id) */
#define OB_EVENTS(X)                                                        \
	X(MACHINE_HERE, INFO, "82db77a2c60741318fddced67abd607f")           \
	X(MACHINE_GONE, INFO, "02153112358f46f480c550f5b3a0ef6b")           \
	X(MACHINE_REFUSED, WARNING, "07f2c3db6e504da8aef0913b1b757761")     \
	X(MACHINE_FORCED, WARNING, "af3e5a562f2741b4954135aedcfd43ac")      \
	X(MACHINE_STOPPED, ERROR, "47e2eeacbd7b43a5bdfc3e8b41be6f66")       \
	X(MACHINE_GOES_ON, INFO, "2b2d9d0cc60143a48b07c4457cf1478b")        \
	X(MACHINE_RELEASED, INFO, "a0c1bb547a2e423686216a4729c8760a")       \
	X(OVER_LIMIT, WARNING, "92cb3445fb8c46c1b9f652601b9b7b94")          \
	X(WITHIN_LIMIT, INFO, "2a861879966a4e7cba874b083af08b81")           \
	X(STORAGE_DEGRADED, WARNING, "2aef72d3bc114c0b87c01357b5ac3aeb")    \
	X(STORAGE_RECOVERED, INFO, "97e2105569cf4ba8be3860e16d0c5a4f")      \
	X(MEMORY_STATE, INFO, "2f6ab9a8789c4901978f41aed7962456")           \
	X(GUARANTEES_UNMET, WARNING, "9edf9e6a4a9b47d7a32f140d921f754e")    \
	X(GUARANTEES_MET, INFO, "a3543c0e61b347428bada80644ca9e08")

enum ob_event {
#define X(kind, level, id) OB_EVENT_##kind,
	OB_EVENTS(X)
#undef X
};

struct ob_machine;

/* What was told of a machine. */
struct ob_machine_events {
	uint64_t next_ns;       /* the earliest time of the next event of ob_events_look() */
	uint64_t over_since_ns; /* 0: it is not above its limit */
	uint64_t degraded;      /* bits of ob_stats.degraded */
	bool is_over, is_stopped;
};

/* An event of a machine; name is NULL when it is the host's. The text says which machine, too. */
void ob_event(enum ob_event kind, const char *name, uint32_t pid, const char *fmt, ...) OB_PRINTF(4, 5);

/* Statistics have come, or a page could not be read, or could again: tells what has changed of that, of its limit and its storage. */
void ob_events_look(struct ob_machine *machine);

#endif
