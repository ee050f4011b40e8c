/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

#define MAX_IN_FLIGHT 4

static int fill(struct disk *disk, uint64_t seed)
{
	uint8_t bytes[PATTERN_PAGE];
	int r;

	for (uint32_t block = 0; block < DISK_PAGES; block++) {
		disk->pages[block] = (struct pattern){ .key = pattern_key(seed, block, 0, PATTERN_ANY) };
		pattern_fill(bytes, &disk->pages[block]);
		r = ob_pwrite_full(disk->buffered_fd, bytes, sizeof(bytes), (uint64_t)block * PATTERN_PAGE);
		if (r < 0)
			return r;
	}
	return fsync(disk->buffered_fd) ? -errno : 0;
}

int disk_open(struct disk *disk, const char *dir, uint64_t seed, struct ob_error *err)
{
	char path[512];
	aio_context_t aio = 0;
	int r;

	*disk = (struct disk){ .direct_fd = -1, .buffered_fd = -1 };
	snprintf(path, sizeof(path), "%s/overbook-test-disk.XXXXXX", dir);
	disk->buffered_fd = mkostemp(path, O_CLOEXEC);
	if (disk->buffered_fd < 0)
		return ob_error_sys(err, errno, "cannot create \"%s\"", path);
	disk->direct_fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk->direct_fd < 0)
		ob_error_sys(err, errno, "cannot open \"%s\" for direct I/O", path);
	unlink(path);
	if (disk->direct_fd < 0) {
		disk_close(disk);
		return -err->code;
	}
	r = fill(disk, seed);
	if (r < 0) {
		disk_close(disk);
		return ob_error_sys(err, -r, "cannot fill a file in \"%s\"", dir);
	}
	if (!syscall(SYS_io_setup, MAX_IN_FLIGHT, &aio)) {
		disk->aio = aio;
		disk->has_aio = 1;
	}
	return 0;
}

void disk_close(struct disk *disk)
{
	if (disk->has_aio)
		syscall(SYS_io_destroy, (aio_context_t)disk->aio);
	disk->has_aio = 0;
	ob_fd_close(&disk->direct_fd);
	ob_fd_close(&disk->buffered_fd);
}

/* Direct writes and buffered reads of one file see each other's bytes: the kernel drops its cache around direct I/O. */
static int fd_of(const struct disk *disk, enum disk_how how)
{
	return how == DISK_DIRECT ? disk->direct_fd : disk->buffered_fd;
}

static void note_done(struct disk *disk, const struct disk_request *request, enum ram_did in, enum ram_did out)
{
	struct pattern *of_ram = &request->ram->expected[request->page], *of_disk = &disk->pages[request->block];

	if (request->write)
		memcpy(of_disk, of_ram, request->count * sizeof(*of_ram));
	else
		memcpy(of_ram, of_disk, request->count * sizeof(*of_ram));
	for (uint32_t i = 0; i < request->count; i++)
		ram_note(request->ram, request->page + i, request->write ? out : in);
}

int disk_transfer(struct disk *disk, struct ob_engine *engine, const struct disk_request *request, enum disk_how how)
{
	void *memory = ram_page(request->ram, request->page);
	size_t bytes = (size_t)request->count * PATTERN_PAGE;
	uint64_t offset = (uint64_t)request->block * PATTERN_PAGE;
	int r;

	ob_engine_io_begin(engine, memory, bytes);
	if (request->write)
		r = ob_pwrite_full(fd_of(disk, how), memory, bytes, offset);
	else
		r = ob_pread_full(fd_of(disk, how), memory, bytes, offset);
	ob_engine_io_end(engine, memory, bytes);
	if (!r && how == DISK_DIRECT)
		note_done(disk, request, RAM_DID_DIRECT_IN, RAM_DID_DIRECT_OUT);
	else if (!r)
		note_done(disk, request, RAM_DID_READ_IN, RAM_DID_WRITE_OUT);
	return r;
}

int disk_submit(struct disk *disk, const struct disk_request *requests, unsigned count)
{
	struct iocb iocbs[MAX_IN_FLIGHT], *pointers[MAX_IN_FLIGHT];
	unsigned submitted = 0;

	if (count > MAX_IN_FLIGHT)
		return -EINVAL;
	memset(iocbs, 0, sizeof(iocbs));
	for (unsigned i = 0; i < count; i++) {
		iocbs[i].aio_lio_opcode = requests[i].write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		iocbs[i].aio_fildes = (uint32_t)disk->direct_fd;
		iocbs[i].aio_buf = (uintptr_t)ram_page(requests[i].ram, requests[i].page);
		iocbs[i].aio_nbytes = (uint64_t)requests[i].count * PATTERN_PAGE;
		iocbs[i].aio_offset = (int64_t)requests[i].block * PATTERN_PAGE;
		iocbs[i].aio_data = i;
		pointers[i] = &iocbs[i];
	}
	while (submitted < count) {
		long n = syscall(SYS_io_submit, (aio_context_t)disk->aio, (long)(count - submitted), pointers + submitted);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		submitted += n > 0 ? (unsigned)n : 0;
	}
	return 0;
}

int disk_wait(struct disk *disk, const struct disk_request *requests, unsigned count)
{
	unsigned done = 0;
	int failed = 0;

	while (done < count) {
		struct io_event events[MAX_IN_FLIGHT];
		long n = syscall(SYS_io_getevents, (aio_context_t)disk->aio, 1L, (long)MAX_IN_FLIGHT, events, NULL);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (long i = 0; i < n; i++) {
			const struct disk_request *request = &requests[events[i].data];

			if (events[i].res != (int64_t)request->count * PATTERN_PAGE)
				failed = events[i].res < 0 ? (int)events[i].res : -EIO;
			else
				note_done(disk, request, RAM_DID_ASYNC_IN, RAM_DID_ASYNC_OUT);
			done++;
		}
	}
	return failed;
}
