/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which reads into guest RAM come from a disk image that other machines may have read from too: those that the scanner is
 * told of (engine/notes.c).
 *
 * Theory of operation. Images that several machines use at a time are open for reading alone: base images, backing files of snapshots,
 * installation media. QEMU's locks on images see to that. What a machine may write is its own, whatever it has been copied from. So a
 * descriptor without write access is the sign, and nothing of QEMU's configuration needs to be known.
 *
 * To ask the kernel for it costs a system call, so an answer is good for ASK_EVERY reads, by the descriptor's number. Numbers are used
 * again, and the answer may then be that of another file for some reads. That costs nothing but a look too many, or too late.
 *
 * Not seen are reads that are no system call of this thread with guest RAM as its buffer: aio=native and io_uring, images over the network by a
 * driver of QEMU's, compressed and encrypted clusters and whatever else goes through a buffer of QEMU's own, virtiofs and
 * vhost-user devices. Their pages wait for the scanner's hand.
 *
 * Locking: none. An entry is one atomic word; two threads that use one up at a time count one of their reads.
 */
#include <fcntl.h>

#include "agent/agent.h"

#define ASK_EVERY 64u
#define ENTRIES   64u

/* The descriptor, how many more reads it is good for, and whether it is for reading alone. */
static uint32_t known[ENTRIES];

static int is_read_only(int fd)
{
	uint32_t *entry = &known[(unsigned)fd % ENTRIES], was = __atomic_load_n(entry, __ATOMIC_RELAXED);
	int flags;

	if (was >> 8 != (uint32_t)fd || !(was & 0xfe)) {
		flags = fcntl(fd, F_GETFL);
		was = (uint32_t)fd << 8 | ASK_EVERY << 1 | (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY);
	}
	__atomic_store_n(entry, was - 2, __ATOMIC_RELAXED);
	return was & 1;
}

void ob_image_has_read(struct ob_engine *engine, int fd, const struct iovec *iov, int n, size_t length)
{
	if (!ob_engine_wants_notes(engine) || !is_read_only(fd))
		return;
	for (int i = 0; i < n && length; i++) {
		size_t part = OB_MIN(iov[i].iov_len, length);

		ob_engine_note_image(engine, iov[i].iov_base, part);
		length -= part;
	}
}
