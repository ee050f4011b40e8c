/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The protocol between an agent and overbookd, version 1.
 *
 * A SOCK_SEQPACKET unix socket; a packet is one message; the agent connects and speaks first. All integers are
 * little-endian and of fixed width. A message is a header of 24 bytes and a payload:
 *
 *     u32 magic 'OVBK'   u16 version   u16 type   u32 payload length   u32 sequence   u64 reserved, 0
 *
 * HELLO (agent, first)      u32 pid, u32 shares, u64 reservation, u64 maximum, u64 limit, u32 flags (1: released),
 *                           str name, str domain, str program version         (str: u16 length, bytes, no NUL)
 * STATS (agent)             u32 n, n x u64 in the order of proto/stats.h, u32 kinds, u32 buckets, kinds x buckets x u64
 * RANGES (agent)            u32 n, n x { u32 kind, u32 0, u64 start, u64 end }: where guest RAM, bench, pool and tables
 *                           lie in QEMU's address space, for those who check the cost by the kernel's accounting
 * STOPPED (agent)           str cause: an unreadable page has stopped the machine; empty: it goes on
 * REPLY (agent)             u32 sequence of what is answered, i32 0 or -errno, str text; progress while errno is EINPROGRESS:
 *                           the text is then "DONE TOTAL" in bytes
 * OFFER (agent)             u32 n, n x { u64 page, u64 lo, u64 hi, u32 class, u32 0 }: pages that may be shared, and their hashes
 * STAGED (agent)            u32 n, n x { u64 page, i32 status, u32 staging }: answers FETCH: the page's bytes lie in that page of the
 *                           staging memory, or -errno
 * HELD (agent)              u32 n, n x { u64 page, u64 extent, u32 index, i32 status }: answers ADOPT: 0: the page is this slot
 *                           now; else -errno, and nothing is held
 * DROPPED (agent)           u32 n, n x { u64 extent, u32 index, u32 count }: holds that have ended
 * WORN (agent)              as DROPPED, which follows: pages of these slots have been mapped, so that they must never be filled again
 * MAPS (agent)              empty, after HELLO: it would map pages of the store; answered by MAY_MAP by those who understand WORN
 * HOLDS (agent)             as DROPPED: what the agent holds, and what it has yet to say DROPPED of, in any number of messages; one
 *                           with n = 0 ends them. After the first SHARE of a connection, before OFFER and DROPPED
 * ORPHANS (agent)           u32 n, n x { u64 extent, u32 held, u32 0 }: extents that this overbookd has not sent, and how many holds of
 *                           each there are; after HELLO, and when it changes; n = 0: none any more
 * MORE_ORPHANS (agent)      as ORPHANS, which follows and ends the list: a part of a list that one message has no room for, 4096 in all
 * BALLOON_SET (agent)       u32 mode, u32 0, u64 size, u64 target: how the machine's balloon is driven: as BALLOON said last, or as it was
 *                           started. After HELLO; who says it understands BALLOON
 * SET_LIMIT (overbookd)     u64 bytes, 0 for none, u64 maximum: what the agent says in its next HELLO; answered by REPLY,
 *                           after which no STATS may be older than the new limit
 * RELEASE (overbookd)       empty; answered by REPLYs of progress and a last one
 * POLL (overbookd)          u32 milliseconds between STATS, 20 to 60000
 * SHARE (overbookd)         u32 flags (1: on), u32 permille of one processor for scanning, 192 bytes: the hash's key; with a
 *                           descriptor when it is on: the staging memory, 64 pages. Off: no more scans and offers; what is shared
 *                           stays so
 * EXTENT (overbookd)        u64 extent, u32 pages, u32 0; with a descriptor: the extent
 * FETCH (overbookd)         u32 n, n x { u64 page, u64 lo, u64 hi, u32 staging, u32 0 }: copy these pages there, if they still have
 *                           that hash
 * ADOPT (overbookd)         u32 n, n x { u64 page, u64 extent, u32 index, u32 0 }: let the page be that slot, if the bytes are equal
 * UNSHARE (overbookd)       empty, after SHARE with flags 0: bring every shared page back; answered as RELEASE is
 * DROP_EXTENT (overbookd)   u64 extent: nobody holds anything of it
 * MAY_MAP (overbookd)       empty: pages of extents that are sent from now on may be mapped; what the machine holds when it ends counts as
 *                           worn
 * KEPT (overbookd)          u32 n, n x { u64 extent }, before the first SHARE of a connection, in any number of messages: extents of a former
 *                           overbookd that this one has: from that SHARE on they are as if it had sent them
 * DRAIN (overbookd)         u64 extent: offer its pages anew, as those of an extent that ORPHANS names: they are to move to another one
 * SUBPAGES (overbookd)      u32 1, 2, 4 or 8, before SHARE: from that SHARE to the next an offer's class tells which of so many parts of the
 *                           page have changed since it was looked at before (those who do not know this tell of none)
 * LARGE (overbookd)         u32 policy, u32 state, u32 hot pages, u32 cold pages, u32 flags (1: new large pages may come about), u32 looks,
 *                           u32 breaks, u32 collapses a second: what is to be done with large pages from now on, as in
 *                           largepages/host.h, the rates for this machine alone
 * BALLOON (overbookd)       u32 mode (0: as overbookd's settings say, 1 off, 2 fixed, 3 auto), u32 flags (1: drive it), u64 size: what is to
 *                           be left to the guest, mode 2 alone, u64 target: what the balloon is to hold, u32 milliseconds from one look
 *                           at it to the next, 100 to 600000, u32 0. Mode and size are for the next BALLOON_SET alone. Statistics
 *                           whose names begin with balloon_ and guest_ follow in STATS
 * GUEST (both)              u32 flags (1: what comes from the guest's port begins anew), u32 n, n bytes, 2048 at most: what comes from
 *                           the guest's port, and what goes there (proto/guest.h). overbookd says it first, and the agent relays from then
 *                           on, without looking into it
 *
 * Sharing: a page is named by region number << 36 | page number in the region, which only the agent understands. A slot is
 * page `index` of an extent of the canonical store; extents have random names that are not 0. A slot is held from the moment that
 * ADOPT is sent until HELD with an error, or DROPPED, takes it back, or HOLDS on a later connection leaves it out. Descriptors go
 * by SCM_RIGHTS with their message.
 *
 * Either side closes the connection on a message that does not parse, after logging what was wrong with it. A type
 * that is not known is skipped, so that newer peers may say more. Nothing is ever interpreted before it is checked.
 */
#ifndef OB_PROTO_WIRE_H
#define OB_PROTO_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/error.h"
#include "proto/env.h"
#include "proto/stats.h"

#define OB_WIRE_MAGIC       0x4b42564fu /* "OVBK" */
#define OB_WIRE_VERSION     1
#define OB_WIRE_HEADER_SIZE 24
#define OB_WIRE_MAX         65536 /* bytes of the largest message, header and all */
#define OB_WIRE_TEXT_MAX    512   /* bytes of the longest string */
#define OB_WIRE_RANGES_MAX  64u
#define OB_WIRE_POLL_MIN_MS 20
#define OB_WIRE_POLL_MAX_MS 60000
#define OB_WIRE_SHARES_MAX  512u /* entries of a message about sharing */
#define OB_WIRE_KEY_SIZE    192  /* bytes of the hash's key */
#define OB_WIRE_STAGING_MAX 64   /* pages of the staging memory */
#define OB_WIRE_EXTENT_MAX  4096 /* pages of the largest extent */
#define OB_WIRE_SUBPAGES_MAX 8
#define OB_WIRE_ORPHANS_MAX 4096 /* entries of MORE_ORPHANS and the ORPHANS that ends them */
#define OB_WIRE_LARGE_POLICIES 4
#define OB_WIRE_LARGE_STATES 3
#define OB_WIRE_LARGE_PAGES_MAX 513 /* one more than a large page has: never */
#define OB_WIRE_LARGE_RATE_MAX 65536
#define OB_WIRE_LOOK_MIN_MS 100
#define OB_WIRE_LOOK_MAX_MS 600000
#define OB_WIRE_GUEST_MAX   2048 /* bytes of a message from or to the guest's port */

enum ob_wire_type {
	OB_WIRE_HELLO = 1,
	OB_WIRE_STATS = 2,
	OB_WIRE_RANGES = 3,
	OB_WIRE_STOPPED = 4,
	OB_WIRE_REPLY = 5,
	OB_WIRE_OFFER = 6,
	OB_WIRE_STAGED = 7,
	OB_WIRE_HELD = 8,
	OB_WIRE_DROPPED = 9,
	OB_WIRE_ORPHANS = 10,
	OB_WIRE_WORN = 11,
	OB_WIRE_MAPS = 12,
	OB_WIRE_HOLDS = 13,
	OB_WIRE_MORE_ORPHANS = 14,
	OB_WIRE_BALLOON_SET = 15,
	OB_WIRE_SET_LIMIT = 16,
	OB_WIRE_RELEASE = 17,
	OB_WIRE_POLL = 18,
	OB_WIRE_SHARE = 19,
	OB_WIRE_EXTENT = 20,
	OB_WIRE_FETCH = 21,
	OB_WIRE_ADOPT = 22,
	OB_WIRE_UNSHARE = 23,
	OB_WIRE_DROP_EXTENT = 24,
	OB_WIRE_MAY_MAP = 25,
	OB_WIRE_SUBPAGES = 26,
	OB_WIRE_KEPT = 27,
	OB_WIRE_DRAIN = 28,
	OB_WIRE_LARGE = 29,
	OB_WIRE_BALLOON = 30,
	OB_WIRE_GUEST = 31,
};

#define OB_WIRE_RELEASED 1u /* of hello.flags: RELEASE was obeyed, and no limit has been set since */
#define OB_WIRE_SHARE_ON 1u /* of share.flags */
#define OB_WIRE_LARGE_MAY_MAKE 1u /* of large.flags */
#define OB_WIRE_BALLOON_DRIVE 1u /* of balloon.flags: the balloon is to be what target says; otherwise it is only looked at */
#define OB_WIRE_GUEST_ANEW 1u /* of guest.flags, the agent's alone */
/* Of an offer's class: the low byte is what kind of page it is; in the next, bit i: sub-page i has changed since it was looked at before. */
#define OB_WIRE_CLASS_KIND 0xffu
#define OB_WIRE_CLASS_ORPHAN 2u /* a kind: it is a slot of an extent that ORPHANS or DRAIN names */
#define OB_WIRE_CLASS_USED   3u /* a kind: if it is not shared it goes on taking memory */
#define OB_WIRE_CLASS_COLD_ORPHAN 4u /* a kind: as ORPHAN, but it will be evicted if it gets no other slot; others are free to agents */
#define OB_WIRE_CLASS_CHANGED_SHIFT 8

/* Which sub-pages have changed, a bit each. */
static inline uint16_t ob_wire_class_changed(uint32_t class)
{
	return class >> OB_WIRE_CLASS_CHANGED_SHIFT & 0xff;
}

/* What drives a machine's balloon. */
enum ob_balloon_mode { OB_BALLOON_DEFAULT, OB_BALLOON_OFF, OB_BALLOON_FIXED, OB_BALLOON_AUTO, OB_BALLOON_MODES };

enum ob_range_kind { OB_RANGE_RAM = 1, OB_RANGE_BENCH = 2, OB_RANGE_POOL = 3, OB_RANGE_TABLES = 4 };

struct ob_wire_range {
	uint32_t kind;
	uint64_t start, end; /* half open, in QEMU's address space */
};

struct ob_wire_offer {
	uint64_t page, lo, hi;
	uint32_t class;
};

struct ob_wire_staged {
	uint64_t page;
	int32_t status;
	uint32_t staging;
};

struct ob_wire_held {
	uint64_t page, extent;
	uint32_t index;
	int32_t status;
};

struct ob_wire_dropped {
	uint64_t extent;
	uint32_t index, count; /* count is not 0 */
};

struct ob_wire_orphan {
	uint64_t extent;
	uint32_t held;
};

struct ob_wire_fetch {
	uint64_t page, lo, hi;
	uint32_t staging;
};

struct ob_wire_adopt {
	uint64_t page, extent;
	uint32_t index;
};

struct ob_wire_large {
	uint32_t policy, state, hot_pages, cold_pages, flags, scan_rate, break_rate, collapse_rate;
};

struct ob_wire_balloon {
	uint32_t mode, flags;
	uint64_t size_bytes, target_bytes;
	uint32_t look_ms; /* flags and look_ms are BALLOON's alone */
};

/* A decoded message; strings are copies and end with NUL. Which members count depends on type. */
struct ob_wire_msg {
	uint16_t type;
	uint32_t sequence;
	union {
		struct {
			uint32_t pid, shares, flags;
			uint64_t reservation_bytes, maximum_bytes, limit_bytes;
			char name[OB_NAME_MAX + 1], domain[OB_NAME_MAX + 1], program[OB_NAME_MAX + 1];
		} hello;
		struct {
			struct ob_stats stats;
			struct ob_hists hists;
		} stats;
		struct {
			uint32_t n;
			struct ob_wire_range range[OB_WIRE_RANGES_MAX];
		} ranges;
		struct {
			char cause[OB_WIRE_TEXT_MAX + 1];
		} stopped;
		struct {
			uint32_t to;
			int32_t status;
			char text[OB_WIRE_TEXT_MAX + 1];
		} reply;
		struct {
			uint64_t bytes, maximum_bytes;
		} set_limit;
		struct {
			uint32_t interval_ms;
		} poll;
		struct {
			uint32_t n;
			struct ob_wire_offer item[OB_WIRE_SHARES_MAX];
		} offer;
		struct {
			uint32_t n;
			struct ob_wire_staged item[OB_WIRE_SHARES_MAX];
		} staged;
		struct {
			uint32_t n;
			struct ob_wire_held item[OB_WIRE_SHARES_MAX];
		} held;
		struct {
			uint32_t n;
			struct ob_wire_dropped item[OB_WIRE_SHARES_MAX];
		} dropped; /* of WORN and HOLDS too */
		struct {
			uint32_t n;
			struct ob_wire_orphan item[OB_WIRE_SHARES_MAX];
		} orphans;
		struct {
			uint32_t n;
			struct ob_wire_fetch item[OB_WIRE_SHARES_MAX];
		} fetch;
		struct {
			uint32_t n;
			struct ob_wire_adopt item[OB_WIRE_SHARES_MAX];
		} adopt;
		struct {
			uint32_t flags, cpu_permille;
			uint8_t key[OB_WIRE_KEY_SIZE];
		} share;
		struct {
			uint32_t n;
		} subpages;
		struct ob_wire_large large;
		struct ob_wire_balloon balloon; /* of BALLOON_SET too */
		struct {
			uint64_t id;
			uint32_t pages;
		} extent;
		struct {
			uint64_t id;
		} drop_extent; /* of DRAIN too */
		struct {
			uint32_t n;
			uint64_t item[OB_WIRE_SHARES_MAX];
		} kept;
		struct {
			uint32_t flags, n;
			uint8_t bytes[OB_WIRE_GUEST_MAX];
		} guest;
	};
};

/*
 * Writes msg to buf. Allocates nothing. Returns the length, or -EMSGSIZE when buf is too small, -EINVAL when msg breaks
 * the rules above (a name that is too long, too many ranges).
 */
int ob_wire_encode(const struct ob_wire_msg *msg, void *buf, size_t size) OB_MUST_CHECK;

/*
 * Reads one message of len bytes. Returns 0; -EPROTO with the reason when it breaks the rules; -ENOTSUP when its type
 * is not known (skip it). *ret_msg is touched only on success.
 */
int ob_wire_decode(const void *buf, size_t len, struct ob_wire_msg *ret_msg, struct ob_error *err) OB_MUST_CHECK;

/* Whether text is a valid name of a machine or domain (proto/env.h). */
int ob_name_valid(const char *text);

#endif
