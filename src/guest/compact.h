/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Free memory in pieces that are too small to be reported to the host, and having the kernel move together what lies between them.
 *
 * What is free goes to the host in two ways. The balloon takes any page, when somebody wants memory of the guest. Free page reporting gives back
 * by itself, but whole blocks alone, of the kernel's reporting order (2 MiB on x86), and of those zones that have ZONE_BLOCKS of them free or more.
 * What an application lets go of page by page is free then, and stays in the host's memory for as long as nobody uses it. The kernel can move
 * pages together (/proc/sys/vm/compact_memory): what was free between them is free in blocks, which it reports two seconds later.
 *
 *     resting --at LOOKS looks in a row enough is free in pieces, and the host is there--> at work --the kernel has done it--> resting, WAIT
 *        +------applications have given enough of what they are asked for, have ended to, and it is free in pieces------^
 *
 *     enough   a 64th of the guest's memory, 16 MiB at least
 *     WAIT     nothing is asked before: a minute, and twice as long each time that half of the pieces were left, up to an hour. What lies between
 *              them cannot be moved then (the kernel's own, pages that are pinned), or they were used meanwhile. After applications have given it is
 *              10 s, and 16 times as long as the kernel has taken for it, unless that was in vain
 *
 * What applications give is wanted at once, and the balloon would take it before LOOKS are over, page by page, as it lies: each page is a
 * hole in a large page of the host's, and the guest is slower for as long as it runs. So it is put together first, as soon as they have
 * given it, and the host is told to wait for that (MEMORY's flag), which it does for some seconds from when the flag has risen.
 *
 *     quiet --they have given enough of what they are asked for--> giving --not a MiB more at a look, and it is free in pieces--> at work --> quiet
 *        ^------not a MiB more, and it is not free in pieces, or they take it back------+
 *
 * It is quiet for 10 s at least after giving, and after work as above.
 *
 * Only what they are asked for counts, and ASKED_NS after that nothing does. What they have goes up and down by itself, when one forks, or its
 * allocator lets go of something late, and one that connects anew has given long ago: no host waits for that, and LOOKS are good enough.
 *
 * While they are giving the flag is up for the first HOLD_NS. That is as long as most take, and leaves the kernel most of the host's seconds. If one
 * takes longer it goes down, the balloon takes what there is, and for the work it rises anew, with all of the host's seconds before it.
 *
 * The kernel works as long as it takes, seconds where much is moved, so whoever asks is a process of its own, and nothing waits for it. Where
 * a balloon does not report nothing is done, nor where the kernel cannot, or this process may not. What is moved is in use, and may go to pages
 * that the host has to find memory for; these are as many as it gets back or fewer, and the limit of the machine is kept meanwhile.
 *
 * The reporting order is left as it is, the other way to have pieces reported: each would be a report of its own, and a hole in a large page of the host's. Who has
 * lowered it himself has fewer pieces here.
 */
#ifndef OB_GUEST_COMPACT_H
#define OB_GUEST_COMPACT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* Zeroed at first. */
struct ob_compact {
	unsigned looks;   /* in a row at which there was enough */
	uint64_t wait_ns; /* the last WAIT */
	uint64_t next_ns; /* no work before */
	uint64_t soon_ns; /* the same, after applications have given */
	uint64_t asked_bytes, wanted_bytes; /* of applications: in all; of that, what is to be put together when they have given it */
	uint64_t until_ns;                  /* nothing of that counts from then on */
	uint64_t giving_ns;                 /* since when they are giving; 0: they are not */
	uint64_t given_bytes, last_bytes;   /* by applications: before that, or less since; at the last look */
};

enum ob_compact_advice {
	OB_COMPACT_NOT,
	OB_COMPACT_SOON,  /* when applications have ended to give, which the host is to wait for */
	OB_COMPACT_LATER, /* the same, but they take too long for that */
	OB_COMPACT_NOW,   /* the kernel is to be asked */
};

/* Bytes that are free in pieces below the order, by the text of /proc/buddyinfo, where the zone reports at all. */
uint64_t ob_compact_pieces(const char *buddyinfo, unsigned order, uint64_t page_bytes);

/* Applications were asked for so much more in all, each time: a number that only rises. */
void ob_compact_ask(struct ob_compact *compact, uint64_t asked_bytes, uint64_t now_ns);
/* Whether they have given enough of that. given_bytes: a number that rises by what they give, and falls by what they take back. */
bool ob_compact_have_given(const struct ob_compact *compact, uint64_t given_bytes, uint64_t memory_bytes);
/* A look. Returns what is to be done. */
enum ob_compact_advice ob_compact_look(struct ob_compact *compact, uint64_t pieces_bytes, uint64_t given_bytes, uint64_t memory_bytes,
				       uint64_t now_ns) OB_MUST_CHECK;
/* It has done it. */
void ob_compact_did(struct ob_compact *compact, uint64_t before_bytes, uint64_t after_bytes, uint64_t took_ns, uint64_t now_ns);

/* --- for the loop --- */

/* is_wanted: by the configuration. */
void ob_compact_init(bool is_wanted);
/* has_host: there is one that would get what is reported. asked_bytes, given_bytes: as above. */
void ob_compact_turn(bool has_host, uint64_t asked_bytes, uint64_t given_bytes);
/* Whether what applications have given is worth waiting for: it is, or is about to be, moved together. */
bool ob_compact_is_gathering(void);
uint64_t ob_compact_due_ns(void);
void ob_compact_end(void);

#endif
