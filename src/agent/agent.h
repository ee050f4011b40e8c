/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent: what is preloaded into QEMU.
 *
 * Theory of operation. The constructor reads what `overbook run` left in the environment, takes it out of there, and does
 * nothing else, but for a handler of fork(): no thread, no descriptor, since QEMU may still fork (-daemonize). When QEMU maps
 * the placeholder file of its RAM (a file in the machine's directory), the hook of mmap() answers with private anonymous memory
 * and gives that to the engine, which starts with the first such mapping. From then on the hooks tell the engine of discards, of
 * system calls that read or write guest RAM directly, and of mappings that go. A link thread talks to overbookd.
 *
 * The hooks make their system calls themselves, so they neither depend on the order of symbol look-up nor recurse; but for
 * pthread_create(), which tells the engine (follow.c says why) and calls libc's. They take only the engine's locks, which
 * nobody holds while he needs QEMU. They allocate nothing, but for the RAM mapping.
 *
 * When the engine cannot start, guest RAM is plain anonymous memory, the reason is said once, and QEMU runs as if there
 * were no agent; with OVERBOOK_REQUIRE the mapping fails and QEMU ends by its own error path.
 *
 * Nothing here ends the host process. There is no destructor: the engine serves faults until the process is gone, since
 * QEMU still writes guest memory out while it exits.
 */
#ifndef OB_AGENT_AGENT_H
#define OB_AGENT_AGENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "engine/engine.h"
#include "proto/env.h"
#include "proto/wire.h"

#define OB_AGENT_MAPS_MAX OB_REGIONS_MAX

/* A RAM placeholder that QEMU has mapped. */
struct ob_agent_map {
	dev_t device;
	ino_t inode;
	uint64_t offset, length;
	char *base; /* NULL: unused */
};

struct ob_agent {
	int active; /* the constructor found a machine to look after */
	int require;
	int share_mapped; /* shared pages may be mapped */
	int keep_affinity; /* QEMU's threads are never kept on a processor */
	int no_large;     /* no new large pages before overbookd allows them */
	uint32_t balloon; /* enum ob_balloon_mode: what the user has started it with */
	char name[OB_NAME_MAX + 1], domain[OB_NAME_MAX + 1];
	char dir[512];    /* canonical, without a slash at its end */
	char socket[512]; /* empty: none */
	char swap[512];   /* empty: none */
	uint64_t limit_bytes, maximum_bytes, reservation_bytes;
	uint32_t shares;
	int released;             /* the user has taken the machine out of Overbook's care; the link thread's own */
	struct ob_engine *engine; /* atomic; NULL until the first RAM mapping, or when it could not start */
	int failed;               /* the engine could not start: said once, not tried again */
	struct ob_agent_map map[OB_AGENT_MAPS_MAX];
};
extern struct ob_agent ob_agent;

static inline struct ob_engine *ob_agent_engine(void)
{
	return __atomic_load_n(&ob_agent.engine, __ATOMIC_ACQUIRE);
}

/* --- hooks.c --- */

/* Is to be called before a process is made, by who makes it. */
void ob_hooks_before_thread(void);

/* --- ram.c --- */

/* Whether fd is a RAM placeholder of this machine. errno is kept. */
int ob_ram_is_placeholder(int fd);
/* mmap() of a placeholder. As mmap(): MAP_FAILED and errno. */
void *ob_ram_map(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
/* munmap() of a range that the engine covers. */
int ob_ram_unmap(void *addr, size_t length);
/* fallocate(PUNCH_HOLE) on a placeholder. */
int ob_ram_punch(int fd, off_t offset, off_t length);

/* --- blocks.c --- */

/* QEMU offers memory for merging that is no guest RAM; some memory is about to be unmapped. */
void ob_blocks_note(void *addr, size_t length);
void ob_blocks_forget(const void *addr, size_t length);
/* Around I/O with memory that may be of such. */
int ob_blocks_io_begin(const struct iovec *iov, int n);
void ob_blocks_io_end(int has_begun);
/* madvise() of what the engine does not cover. */
int ob_blocks_advise(void *addr, size_t length, int advice);
/* In the link's thread. Pages are shared from now on, or not; as ob_balloon_due_ns(), and ob_balloon_turn(). */
void ob_blocks_switch(int on);
uint64_t ob_blocks_due_ns(void);
void ob_blocks_turn(void);

/* --- stream.c --- */

/* What makes a migration stream that begins with these bytes leave guest RAM out; NULL: nothing, or it is no stream. */
const char *ob_stream_without_ram(const void *data, size_t length);

/* --- image.c --- */

/* So many bytes have been read from fd, at an offset, into these buffers, of which some may be guest RAM. Takes no lock. */
void ob_image_has_read(struct ob_engine *engine, int fd, const struct iovec *iov, int n, size_t length);

/* --- link.c --- */

/* Starts the thread that talks to overbookd. Returns 0 or -errno. */
int ob_link_start(void);
/* The engine's on_unreadable. */
void ob_link_unreadable(void *context, const char *cause);

/* For share.c, in the link's thread: the message to fill, and its sending, which waits for two seconds at most. 0 or -errno. */
struct ob_wire_msg *ob_link_message(void);
int ob_link_send(uint16_t type) OB_MUST_CHECK;

/* --- share.c, in the link's thread --- */

/* Once, before the thread runs. Returns 0 or -errno. */
int ob_share_start(void);
/*
 * Are readable when the engine has something, and when it has much; then ob_share_woken(). The first is -1 where it is not to be looked at before
 * ob_share_due_ns() (UINT64_MAX: nothing is due).
 */
int ob_share_event(void);
int ob_share_urgent_event(void);
uint64_t ob_share_due_ns(void);
void ob_share_woken(void);
/* A connection to the process peer is there, or gone. */
void ob_share_connected(pid_t peer);
void ob_share_disconnected(void);
/* Whether something waits for room in the socket, and its sending: a few messages at most. 0, or -errno: the connection is of no more use. */
int ob_share_wants_to_send(void);
int ob_share_send(void) OB_MUST_CHECK;
/* After HELLO. As ob_share_send(). */
int ob_share_announce(void) OB_MUST_CHECK;
/* Tells overbookd what is still held of extents that are not its own, if that has changed. As ob_share_send(). */
int ob_share_report(void) OB_MUST_CHECK;
/* Does what a message about sharing says (all but UNSHARE); fd came with it, or is -1, and stays the caller's. As ob_share_send(). */
int ob_share_obey(const struct ob_wire_msg *in, int fd) OB_MUST_CHECK;

/* --- balloon.c, in the link's thread --- */

/* What overbookd wants of the balloon. */
void ob_balloon_obey(const struct ob_wire_balloon *order);
/* overbookd has gone: the balloon stays as it is, and is not looked at. */
void ob_balloon_forget(void);
/* After HELLO: how the balloon is driven. As ob_share_send(). */
int ob_balloon_announce(void) OB_MUST_CHECK;
/* The monitor's descriptor, -1 while there is none; when it is readable, ob_balloon_readable(). */
int ob_balloon_fd(void);
void ob_balloon_readable(void);
/* When there is something to do (UINT64_MAX: never), and its doing. */
uint64_t ob_balloon_due_ns(void);
void ob_balloon_turn(void);
/* Lets go of the monitor, which takes one connection at a time, until the next look. */
void ob_balloon_drop(void);
/* What the last look has seen. */
void ob_balloon_fill(struct ob_stats *stats);

/* --- guest.c, in the link's thread --- */

/* GUEST. */
void ob_guest_obey(const struct ob_wire_msg *in);
/* overbookd has gone: nobody is there for the guest. */
void ob_guest_forget(void);
/* The port's descriptor, -1 while there is none, what is waited for of it, and what is to be done then. As ob_share_send(). */
int ob_guest_fd(void);
short ob_guest_events(void);
int ob_guest_ready(short events) OB_MUST_CHECK;
/* As ob_balloon_due_ns(), and ob_balloon_turn(). */
uint64_t ob_guest_due_ns(void);
void ob_guest_turn(void);

/* --- qmp.c --- */

/* A new connection to Overbook's own monitor, that nobody waits on. Returns it, or -errno. */
int ob_qmp_connect(void);

/* Asks QEMU, over Overbook's own monitor, to stop the machine. Waits two seconds at most. Returns 0 or -errno. */
int ob_qmp_stop(void);

#endif
