/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a balloon is told to hold next, from what the guest says of its memory and what has arrived. Pure functions: no
 * clock, no I/O; the state is the caller's. One step a second or so, for each machine.
 *
 * A balloon takes memory blindly: the guest's kernel gives what it is asked for, if it must by dropping caches, by
 * swapping, and at last by killing. So it is never told the goal; it is led there in steps, and what the guest shows of
 * itself decides about each:
 *
 *     step        1/16 of the machine, 8 MiB to 512 MiB; after the first half of what is free above the margin, if that is more,
 *                 up to four times as much: nobody uses that. Never more than half of what the guest has to spare, which is what it calls available above the
 *                 margin. The next one waits until this one has arrived and the guest has told of its memory since; what it tells first may be of
 *                 before that, so by then this one counts as not there yet.
 *     margin      1/16 of the machine, 32 MiB to 1 GiB: stays available to the guest
 *     floor       what is left to the guest in any case, by the setting: a bound on the target, whatever anybody says
 *     suffering   available below half of the margin, a MiB a second to its swap or from it, 200 major faults a second.
 *                 Then the balloon gives two steps back at once, or what is missing of the margin if that is more, and
 *                 does not grow for WAIT after the last of it, which doubles each time (10 s to 10 min) and is forgotten
 *                 after eight times as long without trouble. Afterwards it grows by quarters of a step.
 *     stalling    by the guest's own account (stall.h): the same, but a step every GAP (2 s) for as long as it goes on, and while memory is hard
 *                 or low what it holds stays
 *
 * Nobody is believed. A balloon that has not come nearer to its target for STUCK_NS is told to hold what it holds, and
 * is left alone for WAIT: so a driver that cannot find pages does not go on looking for them. One that becomes smaller
 * by itself (the guest's kernel does that when it would kill otherwise) counts as suffering. A guest that says it has
 * given what the host still has (by the engine: what is neither ballooned, never touched nor zero, beyond a quarter) is
 * told after DOUBT_NS to hold what the host has got. Statistics that do not come, or that go back, are no statistics:
 * without them nothing is inflated, unless there were none for BLIND (5 s) and the user has named a size himself. So a guest that
 * lies can keep its own memory, which is its right, and can make its own life hard; the limit is kept by the engine in
 * any case.
 *
 * States, and what leads from one to the other (any to any unless said; the first that holds):
 *
 *     no driver   the guest has none: the target is 0, so that a guest that starts anew starts with all its memory
 *     starting    it has one, with nothing in its balloon, and had none START (10 s) ago: nothing is asked of it while its programs take what they need
 *     easing      the guest suffers, stalls, or has deflated by itself: smaller at once. For WAIT
 *     stuck       what is asked for does not arrive, or has not arrived in truth. For WAIT
 *     deflating   the goal is lower: four steps a second, no questions asked
 *     inflating   a step is on its way
 *     blind       the goal is higher, and the guest tells nothing
 *     holding     at the goal, or nothing to spare on the way to it
 *     empty       the goal is 0, and reached
 *
 * Invariants: the target is a multiple of MIB, at most machine less floor, rises by at most a step above what is held,
 * and never while WAIT or START lasts. So what swings swings ever more slowly.
 */
#ifndef OB_DAEMON_BALLOON_POLICY_H
#define OB_DAEMON_BALLOON_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define OB_BALLOON_REST_STEPS 8

enum ob_balloon_state {
	OB_BALLOON_EMPTY,
	OB_BALLOON_INFLATING,
	OB_BALLOON_HOLDING,
	OB_BALLOON_DEFLATING,
	OB_BALLOON_EASING,
	OB_BALLOON_STUCK,
	OB_BALLOON_BLIND,
	OB_BALLOON_NO_DRIVER,
	OB_BALLOON_STARTING,
	OB_BALLOON_STATES
};

/* What is seen at a step. */
struct ob_balloon_view {
	uint64_t now_ns;
	uint64_t machine_bytes; /* 0: not known */
	uint64_t held_bytes;    /* in the balloon, as the guest says */
	uint64_t gone_bytes;    /* of the machine's memory, what the host does not have to keep, by the engine */
	uint64_t floor_bytes;   /* left to the guest at least */
	uint64_t goal_bytes;    /* the balloon is to hold, if the guest can give it */
	bool has_driver;
	bool may_be_blind;      /* to be inflated even if the guest tells nothing */
	bool is_stalled;        /* nothing more is to be asked of the guest, since it stalls */
	bool is_owed;           /* and it is to have some of it back */
	uint64_t updates, known; /* as ob_stats has them, and these too: */
	uint64_t free_bytes, available_bytes, caches_bytes, swap_in_bytes, swap_out_bytes, major_faults;
};

/* Zeroed at first. */
struct ob_balloon_policy {
	enum ob_balloon_state state;
	uint64_t target_bytes;
	uint64_t until_ns, wait_ns; /* no growth before; the last WAIT, 0: none of late */
	uint64_t trouble_ns;        /* when it last suffered or was stuck; 0: not of late */
	uint64_t moved_ns, moved_bytes; /* when the balloon last came nearer to its target, and what it held then */
	uint64_t doubt_ns;          /* since when more is said to be given than is; 0: it is not */
	uint64_t most_bytes;        /* that it has held of the present target */
	uint64_t blind_ns;          /* since when it would grow, had the guest told anything; 0: it has not wanted to */
	uint64_t step_updates;      /* the guest's statistics at the last step up */
	uint64_t step_bytes;        /* that step */
	uint64_t updates, update_ns; /* the last that were looked at, and when they came; 0: none yet */
	uint64_t swap_in_bytes, swap_out_bytes, major_faults; /* by them */
	uint64_t eased, stuck;      /* times */
	uint64_t room_bytes[OB_BALLOON_REST_STEPS]; /* for what applications have given, at the last steps, in a ring */
	unsigned steps;
};

const char *ob_balloon_state_name(enum ob_balloon_state state);

/* The size of a step, and what is to stay available, on a machine of that size. */
uint64_t ob_balloon_step_bytes(uint64_t machine_bytes);
uint64_t ob_balloon_margin_bytes(uint64_t machine_bytes);

/* Decides, and returns the target. */
uint64_t ob_balloon_policy_step(struct ob_balloon_policy *policy, const struct ob_balloon_view *view);

/*
 * The goal of a balloon that is driven by what its machine costs, and is entitled to cost (OB_BUDGET_NONE: there is no bound).
 *
 *     needed      what it costs, and of what has been evicted as much as has come back of late (working_set.h), beyond a sixteenth of what it
 *                 is entitled to: the engine keeps the limit at once and the balloon later, so what it costs alone would say that
 *                 nothing more is wanted, while the machine faults. For what was evicted and is cold nobody has to make
 *                 room, and a little that comes and goes costs less than what applications would do without
 *     room        what it could have besides everything that it has, evicted or not, and an eighth to spare. While applications do without something
 *                 for it, that is worth more than what might be: besides what it costs, and of what was evicted as much as has come back of late,
 *                 and a thirty-sixth, 2 to 32 MiB, where the engine has nothing to do (cost.c); the least of the last REST steps, or what
 *                 comes and goes in the guest would have them give and take
 *
 *     needed is above what it is entitled to    the balloon is to take the difference, and a thirty-second, 36 MiB at most; and what is unused: it gets that
 *                                               first, and nothing costs less for it
 *     all that it has is                        it takes of the difference what is free in the guest, at no loss to it: the engine knows no
 *                                               better than to evict that. But applications that have given take that back while there is room
 *     there is room                             it gives that back, a quarter of it each time, less what is unused of what the guest has, or
 *                                               free, where applications take that
 *     neither                                   it stays
 *
 * Nothing turns round by itself: between the two lies the eighth, less the thirty-second, and all that is evicted and cold; where applications
 * have given, the thirty-sixth and the sixteenth that may come and go. And what has been given back is not given again before it is used.
 */
struct ob_balloon_balance {
	uint64_t held_bytes;
	uint64_t free_bytes;   /* in the guest, beyond its margin */
	uint64_t unused_bytes; /* of that, what the host does not keep: never touched, or reported */
	uint64_t cost_bytes;
	uint64_t away_bytes;   /* evicted, less what it costs there */
	uint64_t back_bytes;   /* came back of late */
	bool have_given;       /* applications have, or are asked to */
	uint64_t entitled_bytes;
};

/* Once a step, before the goal. */
void ob_balloon_note_room(struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance);
/*
 * Whether the machine costs no more than it is entitled to, and hardly anything comes back of what has been evicted, less than a 64th of
 * that: what an application takes back into pages that it has anyhow costs little, and for that little the engine may evict what is cold.
 */
bool ob_balloon_is_calm(const struct ob_balloon_balance *balance);
uint64_t ob_balloon_room(const struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance);
uint64_t ob_balloon_auto_goal(const struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance);

#endif
