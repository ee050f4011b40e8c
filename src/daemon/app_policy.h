/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the applications of one guest are asked to give, after Salomie and others, EuroSys 2013: pure functions of what is
 * seen, once a second. docs/applications.md has the whole; who asks and is answered is guest.c's matter.
 *
 * An application can do with less memory than it has, and knows best what to do without. It is told a target: so many bytes
 * it is to have given in all. What it says it has given counts, when the guest's agent has seen it to be so; nothing else does. Partial
 * compliance is normal: nobody waits longer than DEADLINE.
 *
 * States of an application, and what leads from one to another. `wanted` is what the rest of this page would have of it, `given` what it has
 * given, both in all; what differs by less than GRAIN is the same.
 *
 *     state       it has been told               goes to       when
 *     resting     nothing                        asked         something is wanted                                       told wanted
 *     asked       to give more than it has       given         it has given its target, or what is wanted of it by now       told wanted
 *                                                short         DEADLINE is over, or it says that it will not give more   told given
 *                                                returning     less is wanted than it has given                          told wanted
 *                                                resting       nothing is wanted, and nothing was given                  told 0
 *                                                asked         more, or less, is wanted, but more than it has given      told wanted, by the
 *                                                                                                                        same deadline
 *     given       what it has given              asked         more is wanted                                            told wanted
 *                                                returning     less is wanted                                            told wanted
 *                                                short         it has taken some of it back                              told given
 *     short       what it has given: it gives    given         WAIT is over, or less is wanted, and it has given that    told wanted
 *                 no more, and is not asked      resting       the same, and that is nothing                             told 0
 *                 for a while                    returning     less is wanted than it has given                          told wanted
 *                                                short         it has taken some of it back                              told given
 *     returning   to take some of it back        given         it has, or says that it will not, and has not got all back
 *                                                resting       it has got all back
 *                                                asked         more is wanted than it has given                          told wanted
 *                                                short         less is wanted, and it has taken more back than that      told given
 *
 * One that was told `given` when it has given nearly that (three quarters) goes on being told what it was: what it counts is not what is
 * seen to be gone (an allocator's pages are half filled, say), and if it were told less it would fill up, and be seen to have given less again. By
 * so much more than counts it is told what is wanted of it from then on, until that is nothing; but for its holes. What it had been told
 * beyond what counts when it fell short, and has not given since, lies in pages that it has anyhow, so it takes that back, FILL a step for all of
 * a guest's, while the machine is calm (balloon_policy.h), it is not short, and what counts is there. Once for each time that it was asked; and not after
 * a restart of overbookd, which does not know of it.
 *
 * WAIT is 10 s, doubles each time up to 10 minutes, and is forgotten when a target is met. An application that goes is
 * forgotten: what it had is the guest's.
 *
 * How much is wanted. The balloon is to hold `goal`; it holds `held`, and can take `spare` more without harm to the guest. If
 * that is not enough for SETTLE looks in a row, the least that was missing in these is asked for, on top of what has been given: of those that
 * suffer least a byte first, of each what it could give at most. While one is asked, until its DEADLINE, no more is asked for of
 * anybody; nor is it while the guest stalls (stall.h). Meanwhile the balloon takes free memory only, and leaves the guest's caches alone; after it, or when nobody can give more, it takes
 * what it can (ob_apps_hold).
 *
 * On the way back it is the reverse: applications are told only of what the balloon has let go of, and nothing before the host has room for
 * it. That less is wanted at the moment is not enough: the engine may have evicted instead, or the balloon, which takes
 * it in steps and leaves the guest a margin, has not got what they gave. Where the host has a bound, and room, and the guest memory to spare,
 * they get that too, a quarter at a time (a MiB at least), and never more in all than there is room for: what they were told to take back
 * and do not use yet (`full`) is not there for anybody, until that has been so for long. `own` is what the balloon has got that no
 * application gave; what applications are to have given is never more than the greater of goal and held, less own. So host memory
 * comes first, then the balloon shrinks, then those are told who suffer most; at most as much a second as the guest has to spare,
 * or a sixteenth of what is due. A balloon that shrinks by itself, since the guest suffers, tells nobody to take anything: the goal is as high as it was.
 *
 * Nothing oscillates: a target rises only with the goal above what there is, falls only with goal and balloon both, or with room that has been there
 * for REST steps (balloon_policy.h), and an application that
 * did not do as it said is left alone ever longer.
 */
#ifndef OB_DAEMON_APP_POLICY_H
#define OB_DAEMON_APP_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/guest.h"

#define OB_APP_DEADLINE_MS 10000

enum ob_app_state { OB_APP_RESTING, OB_APP_ASKED, OB_APP_GIVEN, OB_APP_SHORT, OB_APP_RETURNING, OB_APP_STATES };

/* One application; zeroed at first, but for a target that it has been told before. */
struct ob_app {
	uint32_t pain;
	uint64_t could_bytes, given_bytes, used_bytes;
	bool is_final; /* it has said so of the present target */

	enum ob_app_state state;
	uint64_t target_bytes, told_bytes; /* what counts, and what it is told: as much, or more */
	uint64_t holes_bytes; /* of what it is told beyond what counts, what it may take back */
	uint64_t full_bytes; /* what it will use when it has taken all that it was told to take back; 0: nothing */
	uint64_t until_ns, wait_ns; /* the deadline, while it is asked; no question before, while it is short; the last WAIT */
	uint64_t shorts;            /* times */
};

struct ob_apps_view {
	uint64_t now_ns;
	uint64_t goal_bytes, held_bytes; /* of the balloon */
	uint64_t spare_bytes;            /* the balloon can take without harm */
	bool is_known;                   /* spare_bytes counts */
	bool is_calm;                    /* by ob_balloon_is_calm() */
	bool is_stalled;                 /* by ob_stall_is() */
	uint64_t room_bytes;             /* that the host has for what the balloon does not hold; UINT64_MAX: for all */
};

struct ob_apps {
	unsigned n;
	struct ob_app app[OB_GUEST_APPS_MAX];
	uint64_t own_bytes, beyond_bytes; /* what is in the balloon and no application gave, or what they gave and it has not got */
	uint64_t held_bytes; /* at the last look */
	unsigned looks; /* in a row at which something was missing */
	uint64_t missing_bytes; /* the least at these */
};

const char *ob_app_state_name(enum ob_app_state state);

/* One edge at most. */
void ob_app_step(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns);

/* All of a guest's. Targets have changed afterwards. */
void ob_apps_step(struct ob_apps *apps, const struct ob_apps_view *view);

/* Whether an application is being waited for; whether that is so, or about to be. */
bool ob_apps_are_asked(const struct ob_apps *apps);
bool ob_apps_may_give(const struct ob_apps *apps);
/* Whether they do without something, or are to, or have yet to make use of what they were told to take back. */
bool ob_apps_have_given(const struct ob_apps *apps);

/* What the balloon is to go for now, given what it would hold if it took free memory alone; never less than it is told to hold already. */
uint64_t ob_apps_hold(const struct ob_apps *apps, uint64_t goal_bytes, uint64_t told_bytes, uint64_t with_free_bytes);

#endif
