/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How short the host's memory is, and so by which means machines are brought down. Pure functions on small structs: no clock, no I/O.
 * overbookd calls ob_ladder_step() once a second (shortage.c).
 *
 * Theory of operation. The states have the names that VMware ESXi gave them. There each is a part of min_free (400%, 100%, 64%, 32%, 16%),
 * since machines take what they touch, and what is free is what the host has left. Here each machine has a limit, which its engine keeps at
 * once, and limits never sum up to more than the budget. A host that has sold more than it has is full for good, with nothing free but what
 * lies between its engines' marks, and may be well. So the upper states go by what is free, and are those of largepages/host.h, whose `low`
 * is `soft` here; the lower ones by whether those who are to give can give in time:
 *
 *     state   when                                            what is done
 *     high    plenty is free                                  large pages are made and kept. Who costs more than he is entitled to is asked
 *                                                             first, applications and then the balloon; his limit follows his cost down
 *     clear   less than the boundary is free                  no large pages are made, some are broken: all are looked at anew, and the scanner
 *                                                             may have more in hand. Else as in high
 *     soft    less than min_free is free: memory goes         they are broken wherever it helps, and looked at anew once more. Else as in high
 *             from one machine to another
 *     hard    gentle means are outrun, or the host waits      large pages by what is free. Who costs more than he is entitled to is cut at
 *             for memory                                      once, and his engine compresses and swaps; he is asked all the same
 *     low     the budget is exceeded, or the host does        as in hard, and limits grow no further than to what is guaranteed
 *             little but wait for memory
 *
 * Outrun. While cuts wait for gentle means (`waiting`), those who are to get that memory have room left below their limits, and use
 * it up. What they use beyond what the gentle means give in the same time would go on for as long as these need for what is waited
 * for: by the speed that they have shown, or are believed to have (SPEED_FIRST), between LAG and OB_LADDER_GRACE_NS, after which cuts
 * are made anyhow. If the room is used up before that, cuts are made now. So who needs memory at once does not stand at his limit
 * while another one's balloon is being asked, and where balloons keep pace nothing is evicted. A machine that stands at its limit and
 * fills whatever it is given uses no more than that, and is no reason. Nor is what comes and goes between an engine's marks: a machine
 * counts that has grown by more than that of late (ob_ladder_follow).
 *
 * Pressure, by the kernel's account of who waits for memory. The budget may be more than the host has, or somebody else has taken it. The
 * account knows of everything that waits, whatever that is confined to, so it counts only when the host has hardly anything available.
 *
 * Down at once, to whatever is deserved; up a state at a time when even half of what is said above has not been so for a while (HOLD, DWELL).
 *
 * Invariants, which the unit tests check against any input:
 *   1. The state is never above `upper`, which is high, clear or soft, and is `upper` while nothing has been amiss for HOLD and DWELL.
 *   2. What deserves hard or low has it after that very step.
 *   3. In any time T hard and low are left at most T/HOLD + 1 times; what leads to them does so no more often, and once.
 *
 * What comes in may be anything: sums saturate; time that goes by in one leap counts for at most OB_LADDER_STEP_MAX_NS of calm. Without a
 * budget the state is high.
 */
#ifndef OB_DAEMON_LADDER_H
#define OB_DAEMON_LADDER_H

#include <stdbool.h>
#include <stdint.h>

#define OB_LADDER_GRACE_NS    10000000000ull /* a cut waits for gentle means no longer */
#define OB_LADDER_HOLD_NS     3000000000ull  /* from low to hard */
#define OB_LADDER_DWELL_NS    10000000000ull /* from hard upwards */
#define OB_LADDER_STEP_MAX_NS 2000000000ull

enum ob_ladder_state { OB_LADDER_HIGH, OB_LADDER_CLEAR, OB_LADDER_SOFT, OB_LADDER_HARD, OB_LADDER_LOW, OB_LADDER_STATES };

enum ob_ladder_reason {
	OB_LADDER_BY_FREE,     /* `upper` */
	OB_LADDER_BY_RATE,     /* gentle means are outrun */
	OB_LADDER_BY_EXCESS,   /* the budget is exceeded */
	OB_LADDER_BY_PRESSURE, /* the host waits for memory */
	OB_LADDER_REASONS
};

/* What was seen since the last step. */
struct ob_ladder_input {
	uint64_t elapsed_ns;
	uint64_t budget_bytes; /* 0: none */
	enum ob_ladder_state upper;
	uint64_t over_bytes;    /* above the budget */
	uint64_t waiting_bytes; /* that machines cost above what they are entitled to, and have not been cut to */
	uint64_t room_bytes;    /* that those who are entitled to more have below their limits */
	uint64_t used_bytes;    /* that these have used since, by ob_ladder_follow() */
	uint64_t given_bytes;   /* that those who are waited for have come down since */
	bool has_pressure;      /* the next two count, which grow: for how long some, and all, of the host has waited for memory */
	uint64_t some_us, full_us;
	uint64_t available_bytes, scarce_bytes; /* to the host, 0: not known; it has hardly anything below the latter */
};

struct ob_ladder {
	enum ob_ladder_state state;
	enum ob_ladder_reason reason;
	enum ob_ladder_state grip; /* hard, low, or high while there is no reason for these */
	uint64_t calm_ns;          /* for so long less than the grip has been deserved */
	uint64_t speed;            /* bytes a second that gentle means give */
	uint64_t use;              /* bytes a second by which they were outrun in the last step */
	uint64_t over_bytes, waiting_bytes, room_bytes;
	bool has_pressure;         /* the next four count */
	uint64_t some_us, full_us;
	unsigned some_share, full_share; /* of the time, in millionths, on average of the last seconds */
	uint64_t changes;
	bool is_started;
};

/* Everything 0 is a host that has not started. Returns whether the state has changed. */
bool ob_ladder_step(struct ob_ladder *ladder, const struct ob_ladder_input *input);

/* What a machine costs from step to step; zeroed at first, and when it is not known what it was. */
struct ob_ladder_follower {
	uint64_t cost_bytes, low_bytes; /* at the last step; what it has risen from of late */
	bool is_seen;
};

/* By how much it has grown since the last step, and come down; nothing but what goes beyond what it has between its marks. */
struct ob_ladder_way {
	uint64_t up_bytes, down_bytes;
};

struct ob_ladder_way ob_ladder_follow(struct ob_ladder_follower *follower, uint64_t cost_bytes, uint64_t marks_bytes, uint64_t elapsed_ns);

const char *ob_ladder_state_name(enum ob_ladder_state state);
/* NULL: it is what is free. */
const char *ob_ladder_reason_text(enum ob_ladder_reason reason);

#endif
