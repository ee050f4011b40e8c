/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM: from QEMU's mappings of the placeholder to regions of the engine. QEMU maps, unmaps and resizes RAM under its
 * own global lock, so the table of maps has one writer; hooks in other threads read it through atomic bases.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/log.h"

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;

static struct ob_agent_map *map_of_file(const struct stat *st)
{
	for (unsigned i = 0; i < OB_AGENT_MAPS_MAX; i++) {
		struct ob_agent_map *map = &ob_agent.map[i];

		if (__atomic_load_n(&map->base, __ATOMIC_ACQUIRE) && map->device == st->st_dev && map->inode == st->st_ino)
			return map;
	}
	return NULL;
}

int ob_ram_is_placeholder(int fd)
{
	int saved = errno, found = 0;
	size_t dir = strlen(ob_agent.dir);
	char link[64], path[1024];
	struct stat st;
	ssize_t n;

	if (fd >= 0 && ob_agent.active && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, path, sizeof(path) - 1);
		found = n > (ssize_t)dir && !strncmp(path, ob_agent.dir, dir) && path[dir] == '/';
	}
	errno = saved;
	return found;
}

/*
 * The lock on the machine's directory came through exec as an open descriptor. Children of QEMU must not keep it, or the
 * name would stay taken after QEMU; and after -daemonize this is not the process that wrote its number into it.
 */
static void take_lock_over(void)
{
	char path[sizeof(ob_agent.dir) + 16], text[16];
	struct stat want, have;
	int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	snprintf(path, sizeof(path), "%s/%s", ob_agent.dir, OB_FILE_LOCK);
	if (stat(path, &want) < 0)
		return;
	for (int fd = STDERR_FILENO + 1; fd < 256; fd++) {
		if (fstat(fd, &have) < 0 || have.st_dev != want.st_dev || have.st_ino != want.st_ino)
			continue;
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
			ob_log(OB_LOG_WARNING, "cannot write to \"%s\": %s", path, strerror(errno));
		return;
	}
}

static void start_engine(void)
{
	struct ob_engine_config config = {
		.limit_bytes = ob_agent.limit_bytes,
		.swap_dir = ob_agent.swap[0] ? ob_agent.swap : NULL,
		.map_shared = ob_agent.share_mapped,
		.keep_affinity = ob_agent.keep_affinity,
		.no_large = ob_agent.no_large,
		.on_unreadable = ob_link_unreadable,
	};
	struct ob_engine *engine = NULL;
	struct ob_error err = { 0 };
	int r;

	take_lock_over();
	r = ob_engine_create(&config, &engine, &err);
	if (r < 0) {
		ob_agent.failed = 1;
		ob_log(OB_LOG_ERROR, "this machine's memory cannot be looked after: %s", err.text);
		return;
	}
	__atomic_store_n(&ob_agent.engine, engine, __ATOMIC_RELEASE);
	r = ob_link_start();
	if (r < 0)
		ob_log(OB_LOG_WARNING, "cannot talk to overbookd: no thread for it: %s", strerror(-r));
}

/* The engine, started if this is the first call; NULL when it cannot run. */
static struct ob_engine *engine_for_ram(void)
{
	pthread_mutex_lock(&start_lock);
	if (!ob_agent_engine() && !ob_agent.failed)
		start_engine();
	pthread_mutex_unlock(&start_lock);
	return ob_agent_engine();
}

static int remember(char *base, size_t length, int fd, off_t offset)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	for (unsigned i = 0; i < OB_AGENT_MAPS_MAX; i++) {
		struct ob_agent_map *map = &ob_agent.map[i];

		if (map->base)
			continue;
		map->device = st.st_dev;
		map->inode = st.st_ino;
		map->offset = (uint64_t)offset;
		map->length = length;
		__atomic_store_n(&map->base, base, __ATOMIC_RELEASE);
		return 0;
	}
	return -ENOSPC;
}

static int adopt(char *base, size_t length, int fd, off_t offset)
{
	struct ob_engine *engine = engine_for_ram();
	struct ob_error err = { 0 };
	int r;

	if (!engine)
		return -ENOTSUP;
	r = ob_engine_add_region(engine, base, length, &err);
	if (r < 0) {
		ob_log(OB_LOG_ERROR, "%zu MiB of guest RAM stay unmanaged: %s", length >> 20, err.text);
		return r;
	}
	r = remember(base, length, fd, offset);
	if (r < 0)
		ob_engine_remove_region(engine, base);
	return r;
}

void *ob_ram_map(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct ob_engine *engine = ob_agent_engine();
	long base;
	int r;

	/* QEMU maps a range anew to replace pages that the hardware has lost: to the guest that is a discard. */
	if (engine && (flags & MAP_FIXED) && ob_engine_covers(engine, addr, length)) {
		r = ob_engine_discard(engine, addr, length);
		if (r < 0)
			errno = -r;
		return r < 0 ? MAP_FAILED : addr;
	}
	flags = (flags & MAP_FIXED) | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	base = syscall(SYS_mmap, addr, length, prot, flags, -1, 0L);
	if (base == -1)
		return MAP_FAILED;
	r = adopt((char *)base, length, fd, offset);
	if (r < 0 && ob_agent.require) {
		syscall(SYS_munmap, base, length);
		errno = ENOTSUP;
		return MAP_FAILED;
	}
	return (void *)base;
}

int ob_ram_unmap(void *addr, size_t length)
{
	char *start = addr;

	for (unsigned i = 0; i < OB_AGENT_MAPS_MAX; i++) {
		struct ob_agent_map *map = &ob_agent.map[i];

		if (!map->base || map->base >= start + length || start >= map->base + map->length)
			continue;
		if (map->base < start || map->base + map->length > start + length) {
			ob_log(OB_LOG_ERROR, "QEMU unmaps a part of its RAM at %p: refused", addr);
			errno = EINVAL;
			return -1;
		}
		ob_engine_remove_region(ob_agent_engine(), map->base);
		__atomic_store_n(&map->base, NULL, __ATOMIC_RELEASE);
	}
	return (int)syscall(SYS_munmap, addr, length);
}

int ob_ram_punch(int fd, off_t offset, off_t length)
{
	const struct ob_agent_map *map;
	uint64_t start, end;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -1;
	map = map_of_file(&st);
	if (!map)
		return 0; /* an empty file: there is nothing to punch */
	start = OB_MAX((uint64_t)offset, map->offset);
	end = OB_MIN((uint64_t)offset + (uint64_t)length, map->offset + map->length);
	if (offset < 0 || length <= 0 || start >= end)
		return 0;
	r = ob_engine_discard(ob_agent_engine(), map->base + (start - map->offset), end - start);
	if (r < 0)
		errno = -r;
	return r < 0 ? -1 : 0;
}
