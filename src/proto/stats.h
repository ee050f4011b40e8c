/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is counted about a machine, in the order in which it crosses the wire. Append only: a reader takes the first
 * min(own, sent) values, so older and newer programs understand each other.
 *
 * X(name, kind, help): kind is gauge (a level) or counter (only grows). Names say their unit; pages are of 4 KiB.
 */
#ifndef OB_PROTO_STATS_H
#define OB_PROTO_STATS_H

#include <stdint.h>

#define OB_STATS(X)                                                                                               \
	X(ram_bytes, gauge, "guest RAM that the engine looks after")                                              \
	X(limit_bytes, gauge, "what the machine may cost; 0 without a limit")                                     \
	X(cost_bytes, gauge, "what it costs the host: resident, benched, compressed pool and tables")             \
	X(resident_bytes, gauge, "pages in place; an upper bound while chunks are open")                          \
	X(benched_bytes, gauge, "lifted pages that still lie on the bench")                                       \
	X(zero_bytes, gauge, "pages known to be all zero, kept nowhere")                                          \
	X(compressed_bytes, gauge, "guest memory held in the compressed pool")                                    \
	X(pool_bytes, gauge, "host memory that the compressed pool takes")                                        \
	X(swapped_bytes, gauge, "pages in the swap store")                                                        \
	X(ballooned_bytes, gauge, "pages given back by the guest")                                                \
	X(pinned_bytes, gauge, "pages that a device or the kernel held when they were last tried")                \
	X(absent_bytes, gauge, "pages never touched")                                                             \
	X(tables_bytes, gauge, "the engine's own tables and buffers")                                             \
	X(swap_file_bytes, gauge, "space that the swap store takes on disk")                                      \
	X(swap_cached_bytes, gauge, "resident pages whose copy in the swap store may still be good")              \
	X(bench_target_bytes, gauge, "what the bench is meant to hold at present")                                \
	X(faults_touch, counter, "first touches of absent or ballooned pages")                                    \
	X(faults_open, counter, "first touches answered by handing a whole chunk to the kernel")                  \
	X(faults_bench, counter, "faults answered from the bench")                                                \
	X(faults_zero, counter, "faults on zero pages")                                                           \
	X(faults_compressed, counter, "faults answered by decompression")                                         \
	X(faults_swapped, counter, "faults answered from the swap store")                                         \
	X(faults_spurious, counter, "faults that had been answered already")                                      \
	X(faults_stalled, counter, "faults that waited for room under the limit")                                 \
	X(stall_ns, counter, "time that faults waited for room")                                                  \
	X(prefetched_pages, counter, "pages brought back beside the one that was asked for")                      \
	X(lifted_pages, counter, "pages lifted to the bench")                                                     \
	X(lift_busy_pages, counter, "lifts refused because a device or the kernel held the page")                 \
	X(returned_pages, counter, "pages moved back from the bench")                                             \
	X(zero_pages_found, counter, "pages dropped because they were all zero")                                  \
	X(compressed_pages, counter, "pages compressed")                                                          \
	X(incompressible_pages, counter, "pages that did not compress")                                           \
	X(swap_out_pages, counter, "pages written to the swap store")                                             \
	X(swap_out_saved_pages, counter, "pages dropped without a write since the store still had them")          \
	X(swap_in_pages, counter, "pages read from the swap store")                                               \
	X(swap_write_ops, counter, "writes to the swap store")                                                    \
	X(swap_read_ops, counter, "reads from the swap store")                                                    \
	X(swap_write_errors, counter, "writes to the swap store that failed")                                     \
	X(swap_read_errors, counter, "reads from the swap store that failed or did not verify")                   \
	X(discarded_pages, counter, "pages that QEMU discarded (balloon, free-page reporting)")                   \
	X(over_limit_ns, counter, "time spent above the limit")                                                   \
	X(over_limit_bytes, gauge, "how far the machine is above its limit")                                      \
	X(reclaim_cpu_ns, counter, "CPU time of the reclaim thread")                                              \
	X(fault_cpu_ns, counter, "CPU time of the fault threads")                                                 \
	X(degraded, gauge, "bits: 1 swap full, 2 swap failing, 4 pool full, 8 machine stopped by an unreadable page") \
	X(internal_errors, counter, "answers of the kernel that should not happen; each one is logged")            \
	X(open_chunks, gauge, "chunks of 2 MiB left to the kernel")                                               \
	X(pool_writeback_pages, counter, "pages moved from the compressed pool to the swap store")                \
	/* What faults spend their time on: three sums a kind, in the order of OB_HISTS; the engine counts on that order. */ \
	X(fault_touch_wait_ns, counter, "first touches: between the event and the answer's beginning, waiting for room included") \
	X(fault_touch_fetch_ns, counter, "first touches: decompressing, reading or verifying")                    \
	X(fault_touch_install_ns, counter, "first touches: putting the page in place and waking who waits")       \
	X(fault_bench_wait_ns, counter, "faults on the bench: between the event and the answer's beginning, waiting for room included") \
	X(fault_bench_fetch_ns, counter, "faults on the bench: decompressing, reading or verifying")              \
	X(fault_bench_install_ns, counter, "faults on the bench: putting the page in place and waking who waits") \
	X(fault_zero_wait_ns, counter, "faults on zero pages: between the event and the answer's beginning, waiting for room included") \
	X(fault_zero_fetch_ns, counter, "faults on zero pages: decompressing, reading or verifying")              \
	X(fault_zero_install_ns, counter, "faults on zero pages: putting the page in place and waking who waits") \
	X(fault_compressed_wait_ns, counter, "faults on compressed pages: between the event and the answer's beginning, waiting for room included") \
	X(fault_compressed_fetch_ns, counter, "faults on compressed pages: decompressing, reading or verifying")  \
	X(fault_compressed_install_ns, counter, "faults on compressed pages: putting the page in place and waking who waits") \
	X(fault_swapped_wait_ns, counter, "faults on swapped pages: between the event and the answer's beginning, waiting for room included") \
	X(fault_swapped_fetch_ns, counter, "faults on swapped pages: decompressing, reading or verifying")        \
	X(fault_swapped_install_ns, counter, "faults on swapped pages: putting the page in place and waking who waits") \
	X(fault_shared_wait_ns, counter, "faults on shared pages: between the event and the answer's beginning, waiting for room included") \
	X(fault_shared_fetch_ns, counter, "faults on shared pages: decompressing, reading or verifying")          \
	X(fault_shared_install_ns, counter, "faults on shared pages: putting the page in place and waking who waits") \
	X(shared_bytes, gauge, "pages whose only copy is a canonical page, shared with others")                   \
	X(share_offered_pages, counter, "pages whose hash was offered for sharing")                               \
	X(share_adopted_pages, counter, "pages that became, or were moved to, a canonical page with the same bytes") \
	X(share_refused_pages, counter, "canonical pages that were refused since the page was written meanwhile") \
	X(faults_shared, counter, "faults answered from a canonical page")                                        \
	X(share_dropped_pages, counter, "canonical pages let go of, once for each page that was one")             \
	X(scan_pages, counter, "pages that the scanner took out to see whether they are used")                    \
	X(scan_cpu_ns, counter, "CPU time of the scanner")                                                        \
	X(scan_returned_pages, counter, "pages that came back by a fault while the scanner watched them") \
	X(scan_unwritten_pages, counter, "pages that the scanner passed over: not written since it had looked at them") \
	X(mapped_bytes, gauge, "shared pages that are mapped from the canonical store, a part of shared_bytes")   \
	X(mapped_runs, gauge, "runs that they make; each takes up to 4 of vm.max_map_count")                      \
	X(map_pages, counter, "shared pages that were mapped, once for each time")                                \
	X(map_breaks, counter, "writes that had to take pages out of a mapped run")                               \
	X(map_taken_out_pages, counter, "mapped pages that were made cold again, by writes and all else")         \
	X(map_refused_runs, counter, "runs that were not mapped for want of mappings, or by the kernel")           \
	X(large_bytes, gauge, "guest RAM in large pages, when each of them was last looked at")                   \
	X(large_sampled_pages, counter, "pages of large pages that were looked at, in place, for whether they could be shared") \
	X(large_shareable_pages, counter, "of those: pages of zeros, and pages that somebody has an equal of")    \
	X(large_broken_chunks, counter, "large pages that were broken to share what is in them")                  \
	X(large_kept_chunks, counter, "decisions to keep a large page that was looked at")                        \
	X(large_collapsed_chunks, counter, "broken chunks that were made large pages again")                      \
	X(large_whole_returns, counter, "large pages that came back from the bench whole, by one fault")          \
	X(large_given_pages, counter, "pages of broken large pages that were shared, or dropped as zeros, by the time they were settled") \
	/* Of the balloon, by QEMU, and of the guest, by its driver: both as they were looked at last, which overbookd orders. */ \
	X(balloon_flags, gauge, "bits: what is known of the balloon and its driver (OB_BALLOON_LOOKED and so on)") \
	X(balloon_bytes, gauge, "what the guest has put into its balloon, as it says")                            \
	X(balloon_target_bytes, gauge, "what Overbook has told the balloon last to hold")                         \
	X(machine_bytes, gauge, "the machine's memory as QEMU has it, plugged-in memory included")                \
	X(guest_updates, counter, "times that the guest has told of its memory")                                  \
	X(guest_known, gauge, "bits: which of the numbers below it tells (OB_GUEST_TOTAL and so on)")             \
	X(guest_total_bytes, gauge, "the guest says: memory that it has, without what is in its balloon")         \
	X(guest_free_bytes, gauge, "the guest says: of that, unused")                                             \
	X(guest_available_bytes, gauge, "the guest says: of that, what programs could have without swapping")     \
	X(guest_caches_bytes, gauge, "the guest says: of that, caches of its disks")                              \
	X(guest_swap_in_bytes, counter, "the guest says: read from its own swap")                                 \
	X(guest_swap_out_bytes, counter, "the guest says: written to its own swap")                               \
	X(guest_major_faults, counter, "the guest says: page faults that waited for a disk")                      \
	X(noted_image_pages, counter, "pages that were read from a disk image that other machines may read too")  \
	X(noted_wanted_pages, counter, "pages that overbookd has asked for while they were in place")             \
	X(noted_scan_pages, counter, "pages that the scanner took out for being one or the other, ahead of its round: a part of scan_pages") \
	X(noted_found_pages, counter, "of those: pages that were shared, or dropped as zeros, by the time they were settled") \
	X(leases, counter, "times that a thread was kept on its processor while its faults were answered there")  \
	X(leases_broken, counter, "times that this ended early: somebody else wanted the processor, or chose the thread's") \
	X(leases_refused, counter, "times that the kernel would not have it")                                     \
	X(active_bytes, gauge, "memory that the guest uses, wherever it is, by a sample of late; counts only with active_samples") \
	X(active_samples, gauge, "how many sampled pages that stands for; 0: it is not known")                    \
	X(active_sampled_pages, counter, "pages that were watched for whether the guest uses them")               \
	X(active_touched_pages, counter, "of those: pages that it touched")                                       \
	X(share_shed_pages, counter, "shared pages that nobody used, made the machine's own to be evicted")

struct ob_stats {
#define X(name, kind, help) uint64_t name;
	OB_STATS(X)
#undef X
};

/* Bits of ob_stats.degraded. */
#define OB_DEGRADED_SWAP_FULL  1u
#define OB_DEGRADED_SWAP_ERROR 2u
#define OB_DEGRADED_POOL_FULL  4u
#define OB_DEGRADED_STOPPED    8u

/* Bits of ob_stats.balloon_flags. While LOOKED is not set nothing is known; DRIVER and the rest count only with STATUS. */
#define OB_BALLOON_LOOKED     1u  /* QEMU was asked */
#define OB_BALLOON_DEVICE     2u  /* the machine has a balloon */
#define OB_BALLOON_STATUS     4u  /* this QEMU (7.2 or newer) tells what guest and device have agreed on */
#define OB_BALLOON_DRIVER     8u  /* the guest's driver is at work */
#define OB_BALLOON_REPORTS    16u /* the guest reports free pages */
#define OB_BALLOON_STATISTICS 32u /* the guest tells of its memory when it is asked */
#define OB_BALLOON_OFFERED    64u /* the device would take reports of free pages */

/* Bits of ob_stats.guest_known, one a number, in their order. */
#define OB_GUEST_TOTAL        1u
#define OB_GUEST_FREE         2u
#define OB_GUEST_AVAILABLE    4u
#define OB_GUEST_CACHES       8u
#define OB_GUEST_SWAP_IN      16u
#define OB_GUEST_SWAP_OUT     32u
#define OB_GUEST_MAJOR_FAULTS 64u

/*
 * Latency histograms of faults, a row a kind: from the moment the engine read the event to the moment the page was in
 * place, in buckets of half an octave: bucket(ns) = 2 * floor(log2 ns) + the bit below, at most OB_HIST_BUCKETS - 1.
 */
#define OB_HISTS(X) X(touch) X(bench) X(zero) X(compressed) X(swapped) X(shared)

enum ob_hist_kind {
#define X(name) OB_HIST_##name,
	OB_HISTS(X)
#undef X
	OB_HIST_KINDS
};

extern const char *const ob_hist_names[OB_HIST_KINDS];

#define OB_HIST_BUCKETS 72

struct ob_hists {
	uint64_t count[OB_HIST_KINDS][OB_HIST_BUCKETS];
};

/* The bucket of a latency. */
static inline unsigned ob_hist_bucket(uint64_t ns)
{
	unsigned log2, bucket;

	if (ns < 2)
		return 0;
	log2 = 63u - (unsigned)__builtin_clzll(ns);
	bucket = 2 * log2 + (unsigned)((ns >> (log2 - 1)) & 1);
	return bucket < OB_HIST_BUCKETS ? bucket : OB_HIST_BUCKETS - 1;
}

/* The middle of a bucket, in nanoseconds. */
static inline uint64_t ob_hist_bucket_ns(unsigned bucket)
{
	uint64_t base = 1ull << (bucket / 2);

	return bucket & 1 ? base + base / 2 + base / 4 : base + base / 4;
}

/* The latency below which the given share (0 to 1) of n buckets lies, 0 when they are empty. */
uint64_t ob_hist_quantile_ns(const uint64_t *buckets, unsigned n, double share);

#endif
