/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pin.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

int pin_hold(void *addr, size_t length)
{
	struct io_uring_params params = { 0 };
	struct iovec buffer = { .iov_base = addr, .iov_len = length };
	int fd = (int)syscall(SYS_io_uring_setup, 1, &params);
	int error;

	if (fd < 0)
		return -errno;
	if (!syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &buffer, 1))
		return fd;
	error = errno;
	close(fd);
	return -error;
}

void pin_release(int fd)
{
	if (fd < 0)
		return;
	syscall(SYS_io_uring_register, fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
	close(fd);
}
