/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a guest waits for memory, by the account of its own kernel (PSI), of which overbook-guest tells the sums. Pure functions: no clock, no I/O; the
 * state is the caller's. A report a second or so, for each guest.
 *
 * Theory of operation. What the balloon's statistics show are causes: little is available, much is swapped. The account has the effect, whatever it comes from: the
 * part of the time in which some of what would run waited for pages that were dropped too early, for swap, or for room. `some` and not `full`,
 * which hides it if the one that waits is the data base, while anything else runs.
 *
 *     share      of the time, on average of the last 10 s, as the kernel has it in avg10; but by the host's clock
 *     stalls     from a share of 10% on until it is below 5%. What counts as suffering elsewhere (balloon_policy.h), 200 major faults a second, is
 *                as much at half a millisecond each. The work of the balloon itself, and of the guest's kernel for it, is in the account too, and is
 *                far less even at its full speed
 *     goes on    it stalls, and by the last report alone its share is not below 5%: what was given back helps at once, and shows in the average late
 *
 * While it stalls nothing more is asked of it, neither of its balloon nor of its applications; while that goes on it gets back what is in its
 * balloon, step by step, unless memory is hard or low: then others would have to be cut for it. And what it uses is not believed to become less (working_set.h),
 * since who waits does not touch.
 *
 * The guest may lie. It keeps its own balloon empty by that, as by any statistics; its limit is what it is. What it is believed to use is at most
 * what its engine has seen of it before, and remains so for KEEP from the first stall on, in which a balloon that gives back has given all; and then not again before it has not
 * stalled for as long. So an idle guest is taxed as such a minute later. No report for STALE is no account, nor are sums that go
 * back: then it does not stall. More than all of the time is all of it. Reports that come closer than CLOSE wait for the next one.
 */
#ifndef OB_DAEMON_STALL_H
#define OB_DAEMON_STALL_H

#include <stdbool.h>
#include <stdint.h>

#define OB_STALL_STALE_NS 10000000000ull /* twice what there is between reports at most (guest.c) */
#define OB_STALL_KEEP_NS  60000000000ull

/* Zeroed at first. */
struct ob_stall {
	bool is_known;                /* the next two count */
	uint64_t some_us, at_ns;      /* by the last report, and when it came */
	unsigned share, last_share;   /* in millionths; that of the last report alone */
	bool stalls;
	uint64_t since_ns, stalled_ns; /* when it first stalled without a rest of KEEP, and last; 0: never */
};

/* A report; or that there is none any more, with has_pressure false. */
void ob_stall_note(struct ob_stall *stall, bool has_pressure, uint64_t some_us, uint64_t now_ns);

bool ob_stall_is(const struct ob_stall *stall, uint64_t now_ns);
bool ob_stall_goes_on(const struct ob_stall *stall, uint64_t now_ns);

/* Whether it is to be taken to use what it did. */
bool ob_stall_keeps(const struct ob_stall *stall, uint64_t now_ns);

#endif
