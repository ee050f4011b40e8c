/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Zeros in memory of the host's that is in no region: guests see it, but it is not their RAM (the tables of ACPI, images of ROMs, video memory).
 *
 * Theory of operation. Such memory is not looked after: nothing about it is kept here, and it never waits for this process. But much of it is
 * zeros that take memory; QEMU fills 2 MiB for tables of 128 KiB, at each reset. What is zero is given back, and is a page of zeros anew when
 * it is touched, by the kernel alone. That takes the lift of lift.c, once, for 2 MiB at a time:
 *
 *     1. the piece is registered with a userfaultfd of its own, on which nobody answers: who touches what is not there waits
 *     2. its pages are moved aside, but for those that the host has swapped out: to read them would take long, and memory. One that a device,
 *        direct I/O or a fork has pinned refuses, and stays where it is
 *     3. those that are not zero are moved back
 *     4. the piece is registered no longer: who waits is woken, and goes on
 *
 * I/O may hold pages in an older way, which a move does not see (lift.c). So the caller counts what I/O of this process is under way on such memory, and
 * while there is any nothing is moved; when some turns out to have begun before the move, all goes back, zero or not. What begins later
 * meets a hole, and waits.
 *
 * So nobody sees or changes a page between being looked at and being dropped. The place aside is not registered while it is read: there a hole, a
 * page that stayed, reads as zeros, which is right too, for there is nothing of it to be put back. Who touches the
 * memory meanwhile waits for that, which is 512 pages at most, once a minute.
 *
 * Failure. Before anything has been moved it ends there. Afterwards what is aside goes back, however often that takes: the kernel may be short of memory,
 * or hold a page for a moment. Only where the memory itself has been unmapped or replaced meanwhile there is nowhere to put it, and nobody who wants it.
 */
#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/pagemap.h"
#include "kern/uffd.h"

struct zeros {
	struct ob_engine *engine;
	const unsigned *io_inflight;
	int fd;
	uint64_t start, length; /* the piece */
	uint64_t in_ram[OB_CHUNK_PAGES / 64];
	char *aside;            /* congruent to it modulo 2 MiB, and empty between pieces */
};

static void rest(void)
{
	const struct timespec a_moment = { .tv_nsec = OB_NS_PER_MS };

	nanosleep(&a_moment, NULL);
}

static int is_in_ram(const struct zeros *z, uint64_t at)
{
	return z->in_ram[at / OB_PAGE_SIZE / 64] >> (at / OB_PAGE_SIZE % 64) & 1;
}

/* Moves what moves of what is in RAM. */
static void move_aside(const struct zeros *z)
{
	for (uint64_t at = 0, end; at < z->length; at = end) {
		uint64_t done = 0, to = (uint64_t)(uintptr_t)z->aside + at;

		for (end = at; end < z->length && is_in_ram(z, end);)
			end += OB_PAGE_SIZE;
		if (end == at)
			end += OB_PAGE_SIZE;
		else if (ob_uffd_move_with_holes(z->fd, to, z->start + at, end - at, &done) < 0)
			end = at + done + OB_PAGE_SIZE;
	}
}

static int has_io(const struct zeros *z)
{
	return __atomic_load_n(z->io_inflight, __ATOMIC_SEQ_CST) != 0;
}

/* The kernel would not move a page back. Returns 1 when there is nothing to be put back any more, 0 when it should be tried again. */
static int is_settled(const struct zeros *z, uint64_t at, int r)
{
	uint64_t there = 0, done;

	/* Such a move may have been done: lift.c. */
	if (r == -EEXIST || r == -ENOENT) {
		int left = ob_pagemap_present(z->engine->pagemap, (uint64_t)(uintptr_t)z->aside + at, OB_PAGE_SIZE, &there);

		if (left <= 0)
			return left == 0;
	} else if (r == -EAGAIN || r == -ENOMEM) {
		return 0;
	}
	r = ob_uffd_copy(z->fd, z->start + at, z->aside + at, OB_PAGE_SIZE, &done);
	/* The last two: nothing is mapped there any more, or something else. */
	return r == 0 || r == -ENOENT || r == -EINVAL;
}

static void put_back(const struct zeros *z, uint64_t at, uint64_t end)
{
	for (uint64_t done = 0; at < end; at += done) {
		int r = ob_uffd_move(z->fd, z->start + at, (uint64_t)(uintptr_t)z->aside + at, end - at, 0, &done);

		if (r == 0)
			break;
		if (done)
			continue;
		if (is_settled(z, at, r))
			done = OB_PAGE_SIZE;
		else
			rest();
	}
}

/* Puts back what is not zero. */
static void judge(const struct zeros *z)
{
	for (uint64_t at = 0; at < z->length; at += OB_PAGE_SIZE) {
		uint64_t from = at;

		while (at < z->length && !ob_content_is_zero(z->aside + at))
			at += OB_PAGE_SIZE;
		if (at > from)
			put_back(z, from, at);
	}
}

/* Returns 0 or -errno; nothing has been moved then. */
static int drop_piece(struct zeros *z)
{
	uint64_t aside = (uint64_t)(uintptr_t)z->aside;
	int r = ob_pagemap_in_ram(z->engine->pagemap, z->start, z->length, z->in_ram);

	if (r <= 0)
		return r;
	if (has_io(z))
		return -EBUSY;
	r = ob_uffd_register(z->fd, aside, z->length);
	if (r == 0)
		r = ob_uffd_register(z->fd, z->start, z->length);
	if (r < 0)
		return r;
	move_aside(z);
	/* It is the engine's own, so that this cannot fail for long. */
	while (ob_uffd_unregister(z->fd, aside, z->length) < 0)
		rest();
	if (has_io(z))
		put_back(z, 0, z->length);
	else
		judge(z);
	return ob_uffd_unregister(z->fd, z->start, z->length);
}

int ob_engine_drop_zeros(struct ob_engine *engine, void *base, size_t length, const unsigned *io_inflight)
{
	struct zeros z = { .engine = engine, .io_inflight = io_inflight, .start = (uint64_t)(uintptr_t)base };
	uint64_t features = 0, end = z.start + length;
	void *aside = NULL;
	int r = 0;

	if ((z.start | length) & (OB_PAGE_SIZE - 1))
		return -EINVAL;
	for (; z.start < end && r == 0; z.start += z.length) {
		int OB_FD fd = ob_uffd_open(&features, NULL);

		/* One for each piece: that it is closed ends what is registered, whatever else fails. */
		z.fd = fd;
		z.length = OB_MIN(end, (z.start / OB_CHUNK_SIZE + 1) * OB_CHUNK_SIZE) - z.start;
		r = fd < 0 ? fd : ob_memory_reserve(z.length, z.start, &aside);
		if (r < 0)
			break;
		z.aside = aside;
		r = drop_piece(&z);
		ob_memory_unreserve(aside, z.length);
	}
	return r;
}
