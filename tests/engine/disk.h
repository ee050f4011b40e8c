/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk of the test's guests: an unlinked file of known pages, read and written by direct, asynchronous (kernel AIO) and
 * buffered I/O straight into and out of test memory. One a thread; its pages are the thread's own.
 */
#ifndef OB_TESTS_ENGINE_DISK_H
#define OB_TESTS_ENGINE_DISK_H

#include "ram.h"

#define DISK_PAGES 256u
#define DISK_RUN   16u /* most pages of one request */

enum disk_how { DISK_DIRECT, DISK_BUFFERED };

struct disk {
	int direct_fd, buffered_fd;
	int has_aio;
	unsigned long aio;
	struct pattern pages[DISK_PAGES];
};

/* Creates it in dir and fills it. Returns 0, or -errno with the cause (-EINVAL: no direct I/O on this file system). */
int disk_open(struct disk *disk, const char *dir, uint64_t seed, struct ob_error *err) OB_MUST_CHECK;
void disk_close(struct disk *disk);

/* A run of locked pages of test memory and a run of the disk's. */
struct disk_request {
	struct ram *ram;
	uint32_t page, block, count;
	int write; /* to the disk */
};

/*
 * Copies between the two; what is known about either follows. The engine is told of it (io_begin, io_end) as the agent's
 * hooks do. Returns 0 or -errno.
 */
int disk_transfer(struct disk *disk, struct ob_engine *engine, const struct disk_request *request, enum disk_how how);

/* The same by the kernel's AIO and without telling the engine, for several at once: submit, then wait. */
int disk_submit(struct disk *disk, const struct disk_request *requests, unsigned count);
int disk_wait(struct disk *disk, const struct disk_request *requests, unsigned count);

#endif
