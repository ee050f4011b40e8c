/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "kern/probe.h"

/* ABI that is newer than Debian 12's headers (Linux 6.1): include/uapi/linux/userfaultfd.h of 6.8. */
struct move_arg {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define MOVE_IOCTL         _IOWR(UFFDIO, 0x05, struct move_arg)
#define MOVE_MODE_DONTWAKE (1ull << 0)
#define MOVE_MODE_HOLES    (1ull << 1) /* UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES */
#define USERFAULTFD_NEW    _IO(0xAA, 0x00) /* on /dev/userfaultfd */

#define MAX_EVENTS  32u
#define LOCK_TRIES  200 /* how often the same page may answer EAGAIN before the caller hears of it */

static int raw_ioctl(int fd, unsigned long request, void *arg)
{
	return syscall(SYS_ioctl, fd, request, arg) < 0 ? -errno : 0;
}

static int register_in(int fd, uint64_t start, uint64_t length, uint64_t mode)
{
	struct uffdio_register arg = { .range = { .start = start, .len = length }, .mode = mode };
	int r = ob_fault(OB_FP_uffd_register);

	return r < 0 ? r : raw_ioctl(fd, UFFDIO_REGISTER, &arg);
}

static int open_device(void)
{
	int OB_FD device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long fd;

	if (device < 0)
		return -errno;
	fd = syscall(SYS_ioctl, device, USERFAULTFD_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : (int)fd;
}

static int open_with(uint64_t wanted, uint64_t *ret_features, int *ret_by_device)
{
	struct uffdio_api api = { .api = UFFD_API, .features = wanted };
	int OB_FD fd = -1;
	int by_device = 0, r;

	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == EPERM) {
		by_device = 1;
		fd = open_device();
		if (fd < 0)
			return -EPERM;
	}
	if (fd < 0)
		return -errno;
	/* A kernel without the feature refuses the whole handshake with EINVAL. */
	r = ob_kern_pretend_without("move") ? -EINVAL : raw_ioctl(fd, UFFDIO_API, &api);
	if (r < 0)
		return r == -EINVAL ? -ENOSYS : r;
	if (ret_features)
		*ret_features = api.features & (wanted | ~OB_UFFD_FEATURE_WP_ASYNC);
	if (ret_by_device)
		*ret_by_device = by_device;
	return ob_fd_take(&fd);
}

static int open_main(uint64_t more, uint64_t *ret_features, int *ret_by_device)
{
	uint64_t needed = OB_UFFD_FEATURE_MOVE | UFFD_FEATURE_THREAD_ID | more;
	int r = ob_fault(OB_FP_userfaultfd);

	if (r < 0)
		return r;
	r = -ENOSYS;
	if (ob_kern_pretend_without("uffd"))
		return r;
	if (!ob_kern_pretend_without("wp_async"))
		r = open_with(needed | OB_UFFD_FEATURE_WP_ASYNC, ret_features, ret_by_device);
	return r == -ENOSYS ? open_with(needed, ret_features, ret_by_device) : r;
}

int ob_uffd_open(uint64_t *ret_features, int *ret_by_device)
{
	return open_main(0, ret_features, ret_by_device);
}

int ob_uffd_open_movable(uint64_t *ret_features)
{
	return open_main(UFFD_FEATURE_EVENT_REMAP, ret_features, NULL);
}

int ob_uffd_open_guard(void)
{
	int r = ob_fault(OB_FP_userfaultfd);

	if (r < 0)
		return r;
	return open_with(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_REMAP |
				 UFFD_FEATURE_THREAD_ID, NULL, NULL);
}

int ob_uffd_guard(int fd, uint64_t start, uint64_t length)
{
	struct uffdio_writeprotect arg = { .range = { .start = start, .len = length }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	int r = register_in(fd, start, length, UFFDIO_REGISTER_MODE_WP);

	if (r == 0)
		r = ob_fault(OB_FP_uffd_protect);
	return r < 0 ? r : raw_ioctl(fd, UFFDIO_WRITEPROTECT, &arg);
}

int ob_uffd_register(int fd, uint64_t start, uint64_t length)
{
	return register_in(fd, start, length, UFFDIO_REGISTER_MODE_MISSING);
}

int ob_uffd_register_armable(int fd, uint64_t start, uint64_t length)
{
	return register_in(fd, start, length, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

int ob_uffd_unregister(int fd, uint64_t start, uint64_t length)
{
	struct uffdio_range arg = { .start = start, .len = length };
	int r = ob_fault(OB_FP_uffd_unregister);

	return r < 0 ? r : raw_ioctl(fd, UFFDIO_UNREGISTER, &arg);
}

/*
 * The three filling ioctls answer alike: 0 when all is done; EAGAIN with a positive count when some of it is; else the
 * errno with a negative count. step() makes one call for the rest and returns that count.
 */
struct fill {
	int fd;
	uint64_t dst, src, length;
	uint64_t mode;
};

static int64_t move_step(const struct fill *fill)
{
	struct move_arg arg = { .dst = fill->dst, .src = fill->src, .len = fill->length, .mode = fill->mode };
	int r = raw_ioctl(fill->fd, MOVE_IOCTL, &arg);

	return r == 0 || (r == -EAGAIN && arg.move > 0) ? arg.move : r;
}

static int64_t copy_step(const struct fill *fill)
{
	struct uffdio_copy arg = { .dst = fill->dst, .src = fill->src, .len = fill->length, .mode = fill->mode };
	int r = raw_ioctl(fill->fd, UFFDIO_COPY, &arg);

	return r == 0 || (r == -EAGAIN && arg.copy > 0) ? arg.copy : r;
}

static int64_t zeropage_step(const struct fill *fill)
{
	struct uffdio_zeropage arg = { .range = { .start = fill->dst, .len = fill->length }, .mode = fill->mode };
	int r = raw_ioctl(fill->fd, UFFDIO_ZEROPAGE, &arg);

	return r == 0 || (r == -EAGAIN && arg.zeropage > 0) ? arg.zeropage : r;
}

static int fill_all(struct fill fill, enum ob_fault_point point, int64_t (*step)(const struct fill *), uint64_t *ret_done)
{
	uint64_t done = 0;
	unsigned tries = 0;
	int r = 0;

	while (fill.length) {
		int64_t fault = ob_fault(point), n = fault < 0 ? fault : step(&fill);

		if (OB_UNLIKELY(fault == OB_FAULT_DENIED))
			n = -EEXIST;
		if (n > 0) {
			done += (uint64_t)n;
			fill.dst += (uint64_t)n;
			fill.src += (uint64_t)n;
			fill.length -= (uint64_t)n;
			tries = 0;
			continue;
		}
		r = n < 0 ? (int)n : -EIO;
		if ((r != -EAGAIN && r != -EINTR) || ++tries >= LOCK_TRIES)
			break;
		r = 0;
		sched_yield();
	}
	*ret_done = done;
	return r;
}

int ob_uffd_move(int fd, uint64_t dst, uint64_t src, uint64_t length, int nowake, uint64_t *ret_done)
{
	struct fill fill = { fd, dst, src, length, nowake ? MOVE_MODE_DONTWAKE : 0 };

	return fill_all(fill, OB_FP_uffd_move, move_step, ret_done);
}

int ob_uffd_move_with_holes(int fd, uint64_t dst, uint64_t src, uint64_t length, uint64_t *ret_done)
{
	struct fill fill = { fd, dst, src, length, MOVE_MODE_HOLES };

	return fill_all(fill, OB_FP_uffd_move, move_step, ret_done);
}

int ob_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t length, uint64_t *ret_done)
{
	struct fill fill = { fd, dst, (uint64_t)(uintptr_t)src, length, 0 };

	return fill_all(fill, OB_FP_uffd_copy, copy_step, ret_done);
}

int ob_uffd_zeropage(int fd, uint64_t dst, uint64_t length, uint64_t *ret_done)
{
	struct fill fill = { fd, dst, 0, length, 0 };

	return fill_all(fill, OB_FP_uffd_zeropage, zeropage_step, ret_done);
}

int ob_uffd_wake(int fd, uint64_t start, uint64_t length)
{
	struct uffdio_range arg = { .start = start, .len = length };
	int r = ob_fault(OB_FP_uffd_wake);

	return r < 0 ? r : raw_ioctl(fd, UFFDIO_WAKE, &arg);
}

int ob_uffd_read(int fd, struct ob_uffd_fault *faults, unsigned max)
{
	struct uffd_msg msgs[MAX_EVENTS];
	unsigned count = 0;
	ssize_t n;

	n = read(fd, msgs, OB_MIN(max, MAX_EVENTS) * sizeof(msgs[0]));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)n / sizeof(msgs[0]); i++) {
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		faults[count].address = msgs[i].arg.pagefault.address & ~4095ull;
		faults[count].thread = msgs[i].arg.pagefault.feat.ptid;
		faults[count].is_write = !!(msgs[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
		count++;
	}
	return (int)count;
}
