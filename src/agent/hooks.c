/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions of libc that QEMU finds here first. Each looks whether the call concerns guest RAM, and if not makes the
 * system call that libc would have made. Only 64-bit hosts are supported, so off_t and off64_t are one. pthread_create() alone
 * is libc's business, and is looked up there.
 */
#undef _FILE_OFFSET_BITS /* with it the headers would give mmap() and its like their 64-bit names: here both are defined */
#undef _FORTIFY_SOURCE   /* with it they would define pread() and its like inline */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/log.h"

/* iommufd's ABI, which Debian 12's headers do not have: include/uapi/linux/iommufd.h of 6.2 (map) and 6.14 (map file). */
struct iommufd_map {
	uint32_t size, flags, ioas_id, reserved;
	uint64_t user_va, length, iova;
};
struct iommufd_map_file {
	uint32_t size, flags, ioas_id;
	int32_t fd;
	uint64_t start, length, iova;
};
#define IOMMUFD_MAP      _IO(';', 0x85)
#define IOMMUFD_MAP_FILE _IO(';', 0x8f)

#define PINS "QEMU wants to plug in a device that pins all guest RAM (VFIO), so that nothing could be reclaimed: refused; "\
	     "use a virtio device"

_Static_assert(sizeof(long) == 8, "preadv and its like take the offset in one register");

/* The fortified forms are in no header. */
ssize_t __pread_chk(int fd, void *buf, size_t size, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *buf, size_t size, off_t offset, size_t room);

/* --- mappings --- */

static void *do_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	if (fd >= 0 && !(flags & MAP_ANONYMOUS) && ob_ram_is_placeholder(fd))
		return ob_ram_map(addr, length, prot, flags, fd, offset);
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

OB_EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return do_mmap(addr, length, prot, flags, fd, offset);
}

OB_EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return do_mmap(addr, length, prot, flags, fd, offset);
}

OB_EXPORT int munmap(void *addr, size_t length)
{
	struct ob_engine *engine = ob_agent_engine();

	ob_blocks_forget(addr, length);
	if (engine && ob_engine_covers(engine, addr, length))
		return ob_ram_unmap(addr, length);
	return (int)syscall(SYS_munmap, addr, length);
}

OB_EXPORT void *mremap(void *addr, size_t old_length, size_t new_length, int flags, ...)
{
	struct ob_engine *engine = ob_agent_engine();
	void *to = NULL;
	va_list ap;

	va_start(ap, flags);
	if (flags & MREMAP_FIXED)
		to = va_arg(ap, void *);
	va_end(ap);
	if (engine && ob_engine_covers(engine, addr, old_length)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	ob_blocks_forget(addr, old_length);
	return (void *)syscall(SYS_mremap, addr, old_length, new_length, flags, to);
}

OB_EXPORT int madvise(void *addr, size_t length, int advice)
{
	struct ob_engine *engine = ob_agent_engine();
	int r;

	if (!engine || !ob_engine_covers(engine, addr, length))
		return ob_blocks_advise(addr, length, advice);
	switch (advice) {
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
		return 0; /* KSM takes write protection away and keeps pages from moving; sharing is Overbook's own business */
	case MADV_HUGEPAGE:
		r = ob_engine_allow_large(engine, addr, length);
		if (r < 0)
			errno = -r;
		return r < 0 ? -1 : 0;
	case MADV_DONTNEED:
	case MADV_FREE:
	case MADV_REMOVE:
		r = ob_engine_discard(engine, addr, length);
		if (r < 0)
			errno = -r;
		return r < 0 ? -1 : 0;
	default:
		return (int)syscall(SYS_madvise, addr, length, advice);
	}
}

static int do_fallocate(int fd, int mode, off_t offset, off_t length)
{
	if ((mode & FALLOC_FL_PUNCH_HOLE) && ob_agent_engine() && ob_ram_is_placeholder(fd))
		return ob_ram_punch(fd, offset, length);
	return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

OB_EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return do_fallocate(fd, mode, offset, length);
}

OB_EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length)
{
	return do_fallocate(fd, mode, offset, length);
}

/* --- I/O straight into and out of guest RAM --- */

static void mark_vector(struct ob_engine *engine, const struct iovec *iov, int n,
			void (*mark)(struct ob_engine *, const void *, size_t))
{
	for (int i = 0; i < n; i++)
		mark(engine, iov[i].iov_base, iov[i].iov_len);
}

/* Whether what is about to be written begins a migration stream that must not be (stream.c); then says so and sets errno. */
static int is_bad_stream(const struct ob_engine *engine, const void *data, size_t length)
{
	const char *why;

	if (OB_LIKELY(length < sizeof(uint32_t)) || ob_engine_covers(engine, data, length))
		return 0;
	why = ob_stream_without_ram(data, length);
	if (OB_LIKELY(!why))
		return 0;
	ob_log_limited(OB_LOG_ERROR, "%s would leave this machine's memory behind: refused; migrate without", why);
	errno = EPERM;
	return 1;
}

static ssize_t do_io(long number, int fd, void *buf, size_t size, off_t offset)
{
	struct ob_engine *engine = ob_agent_engine();
	long r;

	if (!engine)
		return syscall(number, fd, buf, size, offset);
	if (number == SYS_pwrite64 && is_bad_stream(engine, buf, size))
		return -1;
	if (!ob_engine_covers(engine, buf, size)) {
		int has_begun = ob_blocks_io_begin(&(struct iovec){ buf, size }, 1);

		r = syscall(number, fd, buf, size, offset);
		ob_blocks_io_end(has_begun);
		return r;
	}
	ob_engine_io_begin(engine, buf, size);
	r = syscall(number, fd, buf, size, offset);
	if (number == SYS_pread64 && r > 0)
		ob_image_has_read(engine, fd, &(struct iovec){ buf, size }, 1, (size_t)r);
	ob_engine_io_end(engine, buf, size);
	return r;
}

static ssize_t do_vector_io(long number, int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	struct ob_engine *engine = ob_agent_engine();
	int has_begun;
	long r;

	if (!engine || n < 0)
		return syscall(number, fd, iov, n, offset, 0L, flags);
	if ((number == SYS_pwritev || number == SYS_pwritev2) && n && is_bad_stream(engine, iov->iov_base, iov->iov_len))
		return -1;
	has_begun = ob_blocks_io_begin(iov, n);
	mark_vector(engine, iov, n, ob_engine_io_begin);
	r = syscall(number, fd, iov, n, offset, 0L, flags);
	if ((number == SYS_preadv || number == SYS_preadv2) && r > 0)
		ob_image_has_read(engine, fd, iov, n, (size_t)r);
	mark_vector(engine, iov, n, ob_engine_io_end);
	ob_blocks_io_end(has_begun);
	return r;
}

OB_EXPORT ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
	return do_io(SYS_pread64, fd, buf, size, offset);
}

OB_EXPORT ssize_t pread64(int fd, void *buf, size_t size, off_t offset)
{
	return do_io(SYS_pread64, fd, buf, size, offset);
}

/* The fortified forms: the caller's compiler knew that room bytes are left in buf. */
OB_EXPORT ssize_t __pread_chk(int fd, void *buf, size_t size, off_t offset, size_t room)
{
	if (size > room) {
		errno = EFAULT;
		return -1;
	}
	return do_io(SYS_pread64, fd, buf, size, offset);
}

OB_EXPORT ssize_t __pread64_chk(int fd, void *buf, size_t size, off_t offset, size_t room)
{
	return __pread_chk(fd, buf, size, offset, room);
}

OB_EXPORT ssize_t pwrite(int fd, const void *buf, size_t size, off_t offset)
{
	return do_io(SYS_pwrite64, fd, (void *)(uintptr_t)buf, size, offset);
}

OB_EXPORT ssize_t pwrite64(int fd, const void *buf, size_t size, off_t offset)
{
	return do_io(SYS_pwrite64, fd, (void *)(uintptr_t)buf, size, offset);
}

OB_EXPORT ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	return do_vector_io(SYS_preadv, fd, iov, n, offset, 0);
}

OB_EXPORT ssize_t preadv64(int fd, const struct iovec *iov, int n, off_t offset)
{
	return do_vector_io(SYS_preadv, fd, iov, n, offset, 0);
}

OB_EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	return do_vector_io(SYS_pwritev, fd, iov, n, offset, 0);
}

OB_EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset)
{
	return do_vector_io(SYS_pwritev, fd, iov, n, offset, 0);
}

OB_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return do_vector_io(SYS_preadv2, fd, iov, n, offset, flags);
}

OB_EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return do_vector_io(SYS_preadv2, fd, iov, n, offset, flags);
}

OB_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return do_vector_io(SYS_pwritev2, fd, iov, n, offset, flags);
}

OB_EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return do_vector_io(SYS_pwritev2, fd, iov, n, offset, flags);
}

/* --- what cannot work and must not be tried --- */

/* Migration to a file or a program. */
OB_EXPORT ssize_t writev(int fd, const struct iovec *iov, int n)
{
	struct ob_engine *engine = ob_agent_engine();

	if (engine && n > 0 && is_bad_stream(engine, iov->iov_base, iov->iov_len))
		return -1;
	return syscall(SYS_writev, fd, iov, n);
}

static int is_ram(uint64_t addr, uint64_t length)
{
	return ob_engine_covers(ob_agent_engine(), (void *)(uintptr_t)addr, length);
}

/*
 * What an ioctl would do to guest RAM that must not be done; NULL: nothing.
 *
 * A second userfaultfd context on RAM that the engine looks after cannot work, and where the engine has not registered yet it
 * would shut the engine out. QEMU's handshake is refused, so that it says itself that postcopy or the background
 * snapshot is not available, before anything has been moved. The others come from devices that are plugged in while the
 * machine runs; on its command line `overbook run` refuses them.
 */
static const char *why_not_ioctl(unsigned long request, const void *arg)
{
	const struct vfio_iommu_type1_dma_map *vfio = arg;
	const struct iommufd_map *map = arg;
	const struct iommufd_map_file *file = arg;

	switch (request) {
	case UFFDIO_API:
		return "QEMU's postcopy migration and background snapshot cannot be used on memory that Overbook looks after: "
		       "refused; precopy migration, savevm and dump-guest-memory work";
	case VFIO_IOMMU_MAP_DMA:
		return is_ram(vfio->vaddr, vfio->size) ? PINS : NULL;
	case IOMMUFD_MAP:
		return is_ram(map->user_va, map->length) ? PINS : NULL;
	case IOMMUFD_MAP_FILE:
		return ob_ram_is_placeholder(file->fd) ? PINS : NULL;
	case VHOST_SCSI_SET_ENDPOINT:
		return "QEMU wants to plug in a vhost-scsi device, for which the kernel writes into guest RAM without a mark that "
		       "could be seen: refused; use virtio-scsi";
	default:
		return NULL;
	}
}

OB_EXPORT int ioctl(int fd, unsigned long request, ...)
{
	const char *why;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	why = ob_agent_engine() ? why_not_ioctl(request, arg) : NULL;
	if (OB_UNLIKELY(why)) {
		ob_log_limited(OB_LOG_WARNING, "%s", why);
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static int sends_placeholder(const struct msghdr *msg)
{
	struct msghdr copy = *msg;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(&copy); c; c = CMSG_NXTHDR(&copy, c)) {
		const int *fds = (const int *)(void *)CMSG_DATA(c);
		size_t left = (size_t)((char *)copy.msg_control + copy.msg_controllen - (char *)c);

		if (c->cmsg_len < CMSG_LEN(0) || c->cmsg_len > left)
			break; /* the kernel will refuse it */
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
			if (ob_ram_is_placeholder(fds[i]))
				return 1;
	}
	return 0;
}

/*
 * Whoever gets the placeholder's descriptor (a vhost-user back end, plugged in at run time) would map an empty file. And
 * migration to a socket.
 */
OB_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct ob_engine *engine = ob_agent_engine();

	if (engine && msg->msg_iovlen && is_bad_stream(engine, msg->msg_iov->iov_base, msg->msg_iov->iov_len))
		return -1;
	if (OB_UNLIKELY(msg->msg_controllen) && engine && sends_placeholder(msg)) {
		ob_log(OB_LOG_ERROR, "QEMU wants to hand its RAM to another process (vhost-user?), which cannot work under "
		       "Overbook: refused");
		errno = EPERM;
		return -1;
	}
	return syscall(SYS_sendmsg, fd, msg, flags);
}

/* --- threads and processes --- */

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* What a thread makes inherits the processors on which it may run. */
void ob_hooks_before_thread(void)
{
	struct ob_engine *engine = ob_agent_engine();

	if (engine)
		ob_engine_before_thread(engine);
}

OB_EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *context)
{
	static create_fn *libc_create; /* atomic: whoever comes first looks it up */
	create_fn *create = __atomic_load_n(&libc_create, __ATOMIC_RELAXED);

	if (!create) {
		*(void **)(void *)&create = dlsym(RTLD_NEXT, "pthread_create");
		if (!create)
			return ENOSYS;
		__atomic_store_n(&libc_create, create, __ATOMIC_RELAXED);
	}
	ob_hooks_before_thread();
	return create(thread, attr, run, context);
}
