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
 * SET_LIMIT (overbookd)     u64 bytes, 0 for none, u64 maximum: what the agent says in its next HELLO; answered by REPLY,
 *                           after which no STATS may be older than the new limit
 * RELEASE (overbookd)       empty; answered by REPLYs of progress and a last one
 * POLL (overbookd)          u32 milliseconds between STATS, 20 to 60000
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
#define OB_WIRE_RANGES_MAX  64
#define OB_WIRE_POLL_MIN_MS 20
#define OB_WIRE_POLL_MAX_MS 60000

enum ob_wire_type {
	OB_WIRE_HELLO = 1,
	OB_WIRE_STATS = 2,
	OB_WIRE_RANGES = 3,
	OB_WIRE_STOPPED = 4,
	OB_WIRE_REPLY = 5,
	OB_WIRE_SET_LIMIT = 16,
	OB_WIRE_RELEASE = 17,
	OB_WIRE_POLL = 18,
};

#define OB_WIRE_RELEASED 1u /* of hello.flags: RELEASE was obeyed, and no limit has been set since */

enum ob_range_kind { OB_RANGE_RAM = 1, OB_RANGE_BENCH = 2, OB_RANGE_POOL = 3, OB_RANGE_TABLES = 4 };

struct ob_wire_range {
	uint32_t kind;
	uint64_t start, end; /* half open, in QEMU's address space */
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
