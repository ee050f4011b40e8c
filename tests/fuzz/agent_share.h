/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbookd's part in page sharing, for fuzz_agent: what it has sent to the agent, what it must believe after each answer.
 *
 *     s KEY CPU KIND           SHARE on
 *     z                        SHARE off
 *     e ID PAGES KIND          EXTENT
 *     y ID                     KEPT, for the next SHARE
 *     r ID                     DRAIN
 *     d ID                     DROP_EXTENT
 *     g PAGE STAGING N         FETCH of N pages; every third by a hash that it does not have
 *     a PAGE ID INDEX N        ADOPT of N pages, by slots from INDEX on; even pages are equal to their slot
 *     b STEPS ERRNO            UNSHARE, which reports progress STEPS times and ends with ERRNO
 *     o N                      the engine offers N pages
 *     t ID INDEX COUNT         the guest touches: holds of a slot end
 *     m                        the machine would map pages, and MAY_MAP; what is dropped of even slots of extents that come then was mapped
 *     n                        what the agent says of sharing is lost from now on, until it connects again
 *
 * KIND: 0 the descriptor is what it must be (an extent has one memory, whoever sends it), 1 not sealed, 2 too small, 3 there is none,
 * 4 there are two (of another memory), 5 a pipe, 6 too large.
 *
 * What must hold: an overbookd, known by its key, is told exactly once of each hold that ends, and of no other; what it was not told
 * since it was lost it knows after HOLDS, which comes first and never names more than it believes; what is held of
 * extents that are not its own is what ORPHANS says; each FETCH and ADOPT has its answer, and what is staged has the page's bytes. A
 * slot that was mapped is worn before it is dropped; extents come with a file for the engine after MAY_MAP, on that connection, and
 * never else.
 */
#ifndef OB_FUZZ_AGENT_SHARE_H
#define OB_FUZZ_AGENT_SHARE_H

#include "proto/wire.h"

/* fuzz_agent's: sends a message with descriptors and lets the agent handle it. Returns 0, or -1 when the connection was lost over it. */
int agent_tell(struct ob_wire_msg *msg, const int *fds, int n);

/* Another overbookd is there, or maybe the same (same: the same process, whose key will tell). */
void peer_met(int same);
void peer_heard(const struct ob_wire_msg *msg);
/* The agent has said all there is to say. */
void peer_check(void);
/* Returns whether the letter was one of the above. */
int peer_step(char letter, char *const *words, int n);
void peer_reset(void);

#endif
