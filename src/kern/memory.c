/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "kern/probe.h"

#define LARGE          (2ull << 20)
#define LARGE_PAGES    (LARGE / 4096)
#define POPULATE_READ  22 /* MADV_POPULATE_READ: Linux 5.14 */
#define POPULATE_WRITE 23
#define COLLAPSE       25 /* MADV_COLLAPSE: Linux 6.1 */

/* Private anonymous memory that is congruent to `like` modulo 2 MiB. */
static int map_congruent(size_t length, uint64_t like, int prot, uint64_t *ret_base)
{
	size_t padded = length + LARGE;
	uint64_t start, base;
	long r = ob_fault(OB_FP_mmap);

	if (r < 0)
		return (int)r;
	r = syscall(SYS_mmap, NULL, padded, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
	if (r == -1)
		return -errno;
	start = (uint64_t)r;
	base = start + (like - start) % LARGE;
	if (base > start)
		syscall(SYS_munmap, start, base - start);
	if (start + padded > base + length)
		syscall(SYS_munmap, base + length, start + padded - base - length);
	*ret_base = base;
	return 0;
}

int ob_memory_reserve(size_t length, uint64_t like, void **ret_base)
{
	uint64_t base = 0;
	int r = map_congruent(length, like, PROT_READ | PROT_WRITE, &base);

	if (r < 0)
		return r;
	if (!like)
		syscall(SYS_madvise, base, length, MADV_NOHUGEPAGE);
	syscall(SYS_madvise, base, length, MADV_DONTFORK);
	syscall(SYS_madvise, base, length, MADV_DONTDUMP);
	*ret_base = (void *)(uintptr_t)base;
	return 0;
}

int ob_memory_reserve_addresses(size_t length, uint64_t like, void **ret_base)
{
	uint64_t base = 0;
	int r = map_congruent(length, like, PROT_NONE, &base);

	if (r == 0)
		*ret_base = (void *)(uintptr_t)base;
	return r;
}

int ob_memory_empty_addresses(void *base, size_t length)
{
	int r = ob_fault(OB_FP_mmap), flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	if (r < 0)
		return r;
	return syscall(SYS_mmap, base, length, PROT_NONE, flags, -1, 0L) == -1 ? -errno : 0;
}

int ob_memory_map_private(int fd, uint64_t offset, size_t length, void **ret_base)
{
	long base;
	int r = ob_fault(OB_FP_mmap);

	if (r < 0)
		return r;
	base = syscall(SYS_mmap, NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, offset);
	if (base == -1)
		return -errno;
	/* A child that had these pages, and not what makes a write wait, would write to copies of its own: harmless. */
	syscall(SYS_madvise, base, length, MADV_DONTFORK);
	syscall(SYS_madvise, base, length, MADV_DONTDUMP);
	*ret_base = (void *)base;
	return 0;
}

void ob_memory_populate(void *base, size_t length)
{
	syscall(SYS_madvise, base, length, POPULATE_READ);
}

int ob_memory_own(void *base, size_t length)
{
	return syscall(SYS_madvise, base, length, POPULATE_WRITE) < 0 ? -errno : 0;
}

int ob_memory_move(void *from, size_t length, void *to, int keep)
{
	int r = ob_fault(OB_FP_mremap), flags = MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0);

	if (r < 0)
		return r;
	/* What the kernel does when it has no memory for the second half of it. */
	if (OB_UNLIKELY(r == OB_FAULT_SHORT)) {
		syscall(SYS_munmap, to, length);
		return -ENOMEM;
	}
	return syscall(SYS_mremap, from, length, length, flags, to) == -1 ? -errno : 0;
}

int ob_memory_is_mapped(const void *base, size_t length)
{
	unsigned char there[LARGE_PAGES];

	return length <= LARGE && syscall(SYS_mincore, base, length, there) == 0;
}

void ob_memory_unreserve(void *base, size_t length)
{
	if (base)
		syscall(SYS_munmap, base, length);
}

int ob_memory_map_sealed(int fd, size_t length, int writable, void **ret_base)
{
	int seals, r = ob_fault(OB_FP_mmap);
	struct stat st;
	long base;

	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size != length)
		return -EINVAL;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return -EPERM;
	if (!(seals & F_SEAL_SHRINK) || !(seals & F_SEAL_GROW) || (!writable && !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))))
		return -EPERM;
	base = syscall(SYS_mmap, NULL, length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0L);
	if (base == -1)
		return -errno;
	syscall(SYS_madvise, base, length, MADV_DONTFORK);
	syscall(SYS_madvise, base, length, MADV_DONTDUMP);
	*ret_base = (void *)base;
	return 0;
}

int ob_memory_drop(void *addr, size_t length)
{
	int r = ob_fault(OB_FP_madvise);

	if (r < 0)
		return r;
	return syscall(SYS_madvise, addr, length, MADV_DONTNEED) < 0 ? -errno : 0;
}

int ob_memory_collapse(void *addr, size_t length)
{
	int r = ob_fault(OB_FP_madvise);

	if (r < 0)
		return r;
	return syscall(SYS_madvise, addr, length, COLLAPSE) < 0 ? -errno : 0;
}

int ob_memory_large_pages(void *addr, size_t length, int may_make)
{
	/* With holes the kernel does what it can, and says that there were some. */
	if (syscall(SYS_madvise, addr, length, may_make ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 && errno != ENOMEM)
		return -errno;
	return 0;
}

int ob_memory_self(void)
{
	long fd;

	if (ob_kern_pretend_without("drop_ranges"))
		return -ENOSYS;
	fd = syscall(SYS_pidfd_open, getpid(), 0);
	return fd < 0 ? -errno : (int)fd;
}

/* How many whole ranges the first `bytes` bytes of them are. */
static unsigned whole_ranges(const struct iovec *ranges, unsigned n, size_t bytes)
{
	unsigned i = 0;

	for (; i < n && ranges[i].iov_len <= bytes; i++)
		bytes -= ranges[i].iov_len;
	return i;
}

unsigned ob_memory_drop_ranges(int self, const struct iovec *ranges, unsigned n)
{
	unsigned done = 0;

	if (self >= 0 && n > 1 && ob_fault(OB_FP_madvise) == 0) {
		long r = syscall(SYS_process_madvise, self, ranges, n, MADV_DONTNEED, 0u);

		if (r > 0)
			done = whole_ranges(ranges, n, (size_t)r);
	}
	while (done < n && ob_memory_drop(ranges[done].iov_base, ranges[done].iov_len) == 0)
		done++;
	return done;
}

uint64_t ob_memory_address_space(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur : UINT64_MAX;
}
