/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each means of taking memory from one machine was expected to give, what it gave, and what that costs the guest; and whether the guest
 * is waited for when the machine is cut, by that. Pure functions on one struct: no clock, no I/O. A step a second or so for each machine
 * (machine_means.c says where the numbers come from).
 *
 * Theory of operation. Of each means is kept, of the last minutes (MEMORY):
 *
 *     asked   bytes that were expected of it
 *     came    of these, what the host was relieved of
 *     held    what it keeps away from the host, on average
 *     lost    the time that the guest's threads wait for it, a second, on average
 *
 * lost/held is its price: so much time a second for so much memory that is somewhere else. What is kept away costs nothing once and for all, it
 * costs as long as it is missed. So a means that took what nobody misses is cheap, and gets dear when that changes.
 *
 * The engine is always there: it evicts what is above the limit, whatever else is done. The guest, its applications and its balloon, comes
 * before that as long as it has its turn. It loses its turn when it
 *
 *     gave little     a cut has waited for it, and less than a quarter of what was to come has come: ob_means_cut_ended()
 *     costs more      the balloon's price is above that of what the engine has compressed and swapped, by an eighth of it. Both must have
 *                     something to show (HELD_LEAST; the balloon for TRIAL), and the guest must lose a millisecond a second at least
 *
 * Without its turn cuts do not wait, and no more is asked of it than it has been told. That lasts for a WAIT, 10 s at first, which doubles
 * each time up to 10 minutes, and is forgotten when it has given all that a cut waited for, or after eight times as long without trouble.
 * Then it is tried again, and what it has cost so far is forgotten, or that would be no trial.
 *
 * A balloon that has not given for reasons of balloon_policy.h (easing, stuck) has a WAIT there, and so has an application that falls short
 * (app_policy.h): they are not punished twice. After such a cut, and after one that got something and not all, the next one does not wait
 * for PAUSE, and that is all.
 *
 * What is decided elsewhere. Equal pages are looked for all the time, as far as what is found is worth it (engine/scan_balance.h), and large pages
 * are looked at anew when memory becomes clear or soft (ladder.h); what goes to the pool is offered as it goes. How much of what the engine evicts
 * is compressed and how much swapped is by what it takes to bring a page back from the one and the other, as measured in the machine
 * (engine/pool_size.h). In the guest free memory comes first, then applications, by the pain that they tell, then caches (app_policy.h).
 *
 * Limits of what is known. Sharing counts pages, also those whose only copy is the slot. What a guest loses because of its balloon is told by
 * its major faults, as many as there are more a second than were usual while the balloon was empty, each taken to cost what a read from the
 * swap store costs this machine, or 100 us before there were any: a guess, since its disk may be another one. What applications lose is not
 * known at all.
 */
#ifndef OB_DAEMON_MEANS_H
#define OB_DAEMON_MEANS_H

#include <stdbool.h>
#include <stdint.h>

#define OB_MEANS_WAIT_LEAST_NS 10000000000ull
#define OB_MEANS_WAIT_MOST_NS  600000000000ull
#define OB_MEANS_PAUSE_NS      10000000000ull

enum ob_means_kind { OB_MEANS_SHARING, OB_MEANS_APPLICATIONS, OB_MEANS_BALLOON, OB_MEANS_COMPRESSION, OB_MEANS_SWAP, OB_MEANS_KINDS };

/* Of one means. */
struct ob_means_seen {
	uint64_t asked_bytes, came_bytes; /* counters, or levels of which the rises count */
	unsigned came_permille;           /* so much of came_bytes is a relief */
	uint64_t held_bytes;              /* now */
	uint64_t lost_ns;                 /* a counter */
};

struct ob_means_record {
	struct ob_means_seen seen; /* at the last step */
	uint64_t asked_bytes, came_bytes, held_bytes, lost_ns;
	uint64_t age_ns;           /* of the averages */
	uint64_t asked_total_bytes, came_total_bytes, lost_total_ns; /* nothing of these is forgotten */
};

enum ob_means_reason { OB_MEANS_NO_REASON, OB_MEANS_GAVE_LITTLE, OB_MEANS_COSTS_MORE, OB_MEANS_REASONS };

struct ob_means {
	bool is_seen;
	struct ob_means_record record[OB_MEANS_KINDS];
	enum ob_means_reason reason; /* why the guest has lost its turn last */
	uint64_t until_ns, wait_ns;  /* no turn before; the last WAIT, 0: none of late */
	uint64_t trouble_ns;
	uint64_t losses;             /* times */
};

/* seen: OB_MEANS_KINDS of them. */
void ob_means_step(struct ob_means *means, const struct ob_means_seen *seen, uint64_t elapsed_ns, uint64_t now_ns);

/* A cut has waited for as long as it would: for asked_bytes, of which came_bytes have come. */
void ob_means_cut_ended(struct ob_means *means, uint64_t asked_bytes, uint64_t came_bytes, uint64_t now_ns);

/* One has ended for another reason, which says nothing. */
void ob_means_pause(struct ob_means *means, uint64_t now_ns);

/* Whether a cut may wait for the guest; whether more than before may be asked of it. */
bool ob_means_may_wait(const struct ob_means *means, uint64_t now_ns);
bool ob_means_may_ask(const struct ob_means *means, uint64_t now_ns);

/* Nanoseconds a second for a GiB; 0 while nothing is held. Saturates. */
uint64_t ob_means_price(uint64_t lost_ns, uint64_t held_bytes);

/* What a guest loses because of its balloon; zeroed at first. */
struct ob_means_guest {
	uint64_t updates, at_ns, faults; /* by the last statistics; at_ns 0: there were none */
	uint64_t usual_permille;         /* thousandths of a fault a second while the balloon was empty */
	uint64_t lost_ns;                /* the sum */
};

void ob_means_follow_guest(struct ob_means_guest *guest, uint64_t updates, uint64_t faults, bool is_empty, uint64_t fault_ns, uint64_t now_ns);

/* Whether what it costs the guest is known. */
bool ob_means_has_price(enum ob_means_kind kind);

const char *ob_means_name(enum ob_means_kind kind);
/* NULL: there is none. */
const char *ob_means_reason_text(enum ob_means_reason reason);

#endif
