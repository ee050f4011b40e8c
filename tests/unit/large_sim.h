/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A simulated host for the policies of large pages: the real controller and the real rules per chunk, on a model of
 * everything else.
 *
 * The model, in steps of a second, chunks of 2 MiB and pages of 4 KiB:
 *
 *     memory     a budget of SIM_BUDGET chunks. Machines fill memory chunk by chunk, as a trace says, and give the youngest
 *                back when it falls. A chunk is large if new ones may be made when it is filled
 *     contents   half of the chunks are mostly shareable, half hardly, so that `shareable_percent` of all pages are.
 *                SIM_COPIES equal pages cost one. The shareable ones of a chunk lie together
 *     use        half of the chunks are hot. A hot chunk's pages are written now and then: a fifth of those that look
 *                shareable are not, and what is shared is broken again at SIM_UNSHARE_PPM a second
 *     sharing    a scanner looks at scan_pages pages a second of broken chunks, oldest first, whatever the policy is: then a
 *                shareable page is shared. Pages of large chunks cannot be shared
 *     sampling   as chunk.h asks, scan_rate chunks a second by the hand of a clock; breaking at break_rate, collapsing at
 *                collapse_rate
 *     shortage   below 64% of min_free (ESXi's soft) pages are swapped, whole chunks, cold ones first, until that much is
 *                free again. Nobody waits for the disk. Shared pages are not swapped
 *     return     of what is swapped 5% a second comes back where the chunk is hot, 0.1% where it is cold, and may have to go
 *                again
 *
 * What it leaves out: ballooning, compression, the time that faults take, machines that differ. It says how much is swapped
 * by one policy beside another, and nothing of how fast guests are.
 */
#ifndef OB_TESTS_UNIT_LARGE_SIM_H
#define OB_TESTS_UNIT_LARGE_SIM_H

#include <stdint.h>

#include "largepages/chunk.h"

#define SIM_BUDGET  4096u /* chunks: 8 GiB */
#define SIM_CHUNKS  (2 * SIM_BUDGET)
#define SIM_COPIES  8u
#define SIM_UNSHARE_PPM 500u

struct sim_setting {
	enum ob_large_policy policy;
	unsigned shareable_percent;
	unsigned scan_pages;                    /* a second */
	unsigned seconds;
	unsigned (*chunks_at)(unsigned second); /* that machines have filled: SIM_CHUNKS at most */
};

struct sim_result {
	uint64_t swapped_pages, returned_pages, shared_pages; /* written to swap, read back; shared at the end */
	uint64_t broken, forced, collapsed, sampled;          /* chunks: for sharing, by eviction, made whole again; looks */
	uint64_t hot_seconds, hot_large_seconds;              /* of hot chunks; ... that were large */
	uint64_t changes;                                     /* of the host's state */
};

struct sim_result sim_run(const struct sim_setting *setting);

#endif
