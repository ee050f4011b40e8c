/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"

#define LARGE (2ull << 20)

int ob_memory_reserve(size_t length, uint64_t like, void **ret_base)
{
	size_t padded = length + LARGE;
	uint64_t start, base;
	long r = ob_fault(OB_FP_mmap);

	if (r < 0)
		return (int)r;
	r = syscall(SYS_mmap, NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
	if (r == -1)
		return -errno;
	start = (uint64_t)r;
	base = start + (like - start) % LARGE;
	if (base > start)
		syscall(SYS_munmap, start, base - start);
	if (start + padded > base + length)
		syscall(SYS_munmap, base + length, start + padded - base - length);
	if (!like)
		syscall(SYS_madvise, base, length, MADV_NOHUGEPAGE);
	syscall(SYS_madvise, base, length, MADV_DONTFORK);
	syscall(SYS_madvise, base, length, MADV_DONTDUMP);
	*ret_base = (void *)(uintptr_t)base;
	return 0;
}

void ob_memory_unreserve(void *base, size_t length)
{
	if (base)
		syscall(SYS_munmap, base, length);
}

int ob_memory_drop(void *addr, size_t length)
{
	int r = ob_fault(OB_FP_madvise);

	if (r < 0)
		return r;
	return syscall(SYS_madvise, addr, length, MADV_DONTNEED) < 0 ? -errno : 0;
}
