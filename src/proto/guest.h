/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is said about the memory of a guest's applications, version 1: between overbookd and overbook-guest over the guest's
 * virtio-serial port, and between overbook-guest and applications over a unix socket. docs/applications.md has the whole.
 *
 * Every message is a frame of 128 bytes, integers little-endian, texts filled up with NUL:
 *
 *     u32 magic 'OBGA'   u8 version   u8 type   u16 0   u32 session   u32 sequence   108 bytes of payload   u32 check
 *
 * The check is FNV-1a of what stands before it. Frames of one size need no lengths, so no length can lie; and a stream that
 * begins in the middle (a port keeps what a former reader has left) is read from the next frame that checks, with what
 * comes after it at the latest. The size, the magic and the check are those of every version, so that frames of another one are passed over whole.
 *
 * The session is drawn by overbook-guest when it starts and stands in all frames of both sides on the port: what was meant for
 * a former overbook-guest is not obeyed by this one. It is 0 between overbook-guest and applications.
 *
 * HELLO (guest)      char[32] program: until WELCOME comes, every few seconds
 * MEMORY (guest)     u32 flags (1: the kernel measures pressure; 2: what applications have given is being moved together, or about to be, and
 *                    worth waiting for), u32 applications, 8 x u64: total, free, available, caches, swap, free of that, microseconds in which some
 *                    and in which all waited for memory, since the guest has started
 * APP (guest, app)   u32 application (an app says 0), u32 kind, u32 pain (0 to 100: how much it suffers a byte), u32 flags (1: it
 *                    will not give more of what it was told, nor take more back; 2: it has gone), u32 -errno or 0, u32 sequence of the TARGET
 *                    that it has heard last, u64 used, u64 could (give in all), u64 target (told), u64 given, u32 pid (an adaptor's
 *                    server; else 0), u32 0, char[32] name, 12 bytes 0
 * WELCOME (host)     u32 milliseconds between MEMORYs, 100 to 60000. With session 0: whoever is there is to say HELLO
 * TARGET (host, guest)  u32 application (0 to an app), u32 milliseconds: after that it is done without, u64 bytes that it is to have
 *                    given in all; less than it has given: it may take the difference back
 *
 * No side believes a number further than its type: that something was given is seen by what the guest has then, and by what
 * arrives on the host.
 */
#ifndef OB_PROTO_GUEST_H
#define OB_PROTO_GUEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_GUEST_FRAME    128
#define OB_GUEST_VERSION  1
#define OB_GUEST_NAME_MAX 31 /* bytes of an application's name: as OB_NAME_MAX otherwise */
#define OB_GUEST_APPS_MAX 16
#define OB_GUEST_PAIN_MAX 100
#define OB_GUEST_BYTES_MAX (1ull << 56) /* no number of bytes is above */
#define OB_GUEST_INTERVAL_MIN_MS 100
#define OB_GUEST_INTERVAL_MAX_MS 60000
#define OB_GUEST_DEADLINE_MAX_MS 600000

#define OB_GUEST_PORT   "org.overbook.guest.0"           /* the port's name */
#define OB_GUEST_SOCKET "/run/overbook-guest/app.sock" /* of overbook-guest, for applications */

enum ob_guest_type {
	OB_GUEST_HELLO = 1,
	OB_GUEST_MEMORY = 2,
	OB_GUEST_APP = 3,
	OB_GUEST_WELCOME = 16,
	OB_GUEST_TARGET = 17,
};

enum ob_guest_kind {
	OB_GUEST_KIND_LIBRARY = 1,
	OB_GUEST_KIND_REDIS = 2,
	OB_GUEST_KIND_MARIADB = 3,
	OB_GUEST_KIND_MEMCACHED = 4,
	OB_GUEST_KIND_POSTGRESQL = 5,
	OB_GUEST_KIND_JVM = 6,
};

#define OB_GUEST_HAS_PRESSURE 1u /* of memory.flags */
#define OB_GUEST_GATHERS      2u
#define OB_GUEST_APP_FINAL    1u /* of app.flags */
#define OB_GUEST_APP_GONE     2u

struct ob_guest_memory {
	uint32_t flags, apps;
	uint64_t total_bytes, free_bytes, available_bytes, caches_bytes, swap_bytes, swap_free_bytes, some_us, full_us;
};

struct ob_guest_app {
	uint32_t app, kind, pain, flags;
	int32_t status;    /* 0 or -errno */
	uint32_t answers;  /* sequence of a TARGET; 0: none was heard */
	uint64_t used_bytes, could_bytes, target_bytes, given_bytes;
	uint32_t pid;
	char name[OB_GUEST_NAME_MAX + 1];
};

struct ob_guest_msg {
	uint8_t type;
	uint32_t session, sequence;
	union {
		struct {
			char program[OB_GUEST_NAME_MAX + 1]; /* printable ASCII */
		} hello;
		struct ob_guest_memory memory;
		struct ob_guest_app app;
		struct {
			uint32_t interval_ms;
		} welcome;
		struct {
			uint32_t app, deadline_ms;
			uint64_t give_bytes;
		} target;
	};
};

/* Writes OB_GUEST_FRAME bytes. Returns 0, or -EINVAL when msg breaks the rules above. */
int ob_guest_encode(const struct ob_guest_msg *msg, uint8_t *buf) OB_MUST_CHECK;

/*
 * Reads OB_GUEST_FRAME bytes. Returns 0; -EBADMSG: it is no frame; -EPROTO: a frame that breaks the rules; -ENOTSUP: one of another version
 * or type, which is passed over. *ret_msg is touched only on success.
 */
int ob_guest_decode(const uint8_t *buf, struct ob_guest_msg *ret_msg) OB_MUST_CHECK;

/* Finds frames in a stream. Zeroed at first, and where the stream is known to begin anew. */
struct ob_guest_reader {
	size_t used;
	uint8_t buf[OB_GUEST_FRAME];
	uint64_t skipped_bytes, bad_frames; /* what was no frame; frames that break the rules */
};

/*
 * Takes bytes from *at on, and moves it. Returns 1: a message is in *ret_msg, and there may be more; 0: all bytes are taken.
 */
int ob_guest_read(struct ob_guest_reader *reader, const uint8_t **at, const uint8_t *end, struct ob_guest_msg *ret_msg);

/* Whether text is an application's name: not empty, and as a machine's otherwise. */
int ob_guest_name_valid(const char *text);

#endif
