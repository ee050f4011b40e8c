/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory and who limits it. It is mapped as QEMU maps guest RAM: private, anonymous, aligned to a large page, large
 * pages advised.
 *
 * By the kernel: the process enters the memory cgroup when its own tables are there and written to, so that only the
 * memory (with its page tables and what swapping takes) is charged to the group. Version 1 and 2 differ in file names.
 */
#include "pager.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/units.h"

#define RECLAIM_DEADLINE_NS (120 * OB_NS_PER_SEC)
#define RETRY_NS            OB_NS_PER_MS         /* what the kernel gets to write before it is asked again */
#define LOOK_NS             (200 * OB_NS_PER_US) /* how often the engine's cost is looked at */

static int write_file(const char *dir, const char *name, uint64_t value)
{
	char path[4096], text[32];
	int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	OB_FD int fd = -1;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, (size_t)n) == n ? 0 : -errno;
}

static int read_file(const char *dir, const char *name, uint64_t *ret_value)
{
	char path[4096], text[64];
	int r;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return -ENAMETOOLONG;
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return r;
	*ret_value = strtoull(text, NULL, 10);
	return 0;
}

/* The group's file of this purpose: version 1's if there is one. */
static const char *group_file(const char *cgroup, const char *v1, const char *v2)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", cgroup, v1);
	return access(path, F_OK) == 0 ? v1 : v2;
}

static int enter_cgroup(const struct pager_options *options, struct ob_error *err)
{
	int r = write_file(options->cgroup, "cgroup.procs", (uint64_t)getpid());

	return r < 0 ? ob_error_sys(err, -r, "cannot enter the cgroup \"%s\"", options->cgroup) : 0;
}

static void on_unreadable(void *context, const char *cause)
{
	if (!cause)
		return;
	fprintf(stderr, "pager: a page cannot be read: %s\n", cause);
	_exit(3);
}

static int map_memory(struct pager *pager, struct ob_error *err)
{
	uint64_t size = pager->options->size_bytes;
	uint8_t *mapping = mmap(NULL, size + OB_CHUNK_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t start = ((uintptr_t)mapping + OB_CHUNK_SIZE - 1) & ~(uintptr_t)(OB_CHUNK_SIZE - 1);

	if (mapping == MAP_FAILED)
		return ob_error_sys(err, errno, "cannot map memory");
	pager->base = (uint8_t *)start;
	if (mprotect(pager->base, size, PROT_READ | PROT_WRITE) < 0)
		return ob_error_sys(err, errno, "cannot map memory");
	if (madvise(pager->base, size, MADV_DONTFORK) < 0 ||
	    madvise(pager->base, size, pager->options->small_pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE) < 0)
		return ob_error_sys(err, errno, "cannot advise the kernel about memory");
	return 0;
}

int pager_memory_open(struct pager *pager, struct ob_error *err)
{
	const struct pager_options *options = pager->options;
	struct ob_engine_config config = { .swap_dir = options->swap_dir, .on_unreadable = on_unreadable };
	int r;

	pager->versions = malloc(pager->pages * sizeof(*pager->versions));
	if (!pager->versions)
		return ob_error_sys(err, ENOMEM, "cannot remember %u pages", pager->pages);
	memset(pager->versions, 0, pager->pages * sizeof(*pager->versions));
	r = map_memory(pager, err);
	if (!r && options->cgroup)
		r = enter_cgroup(options, err);
	if (r < 0 || options->by != PAGER_BY_ENGINE)
		return r;
	config.limit_bytes = options->measure_reclaim ? 0 : options->limit_bytes;
	r = ob_engine_create(&config, &pager->engine, err);
	return r < 0 ? r : ob_engine_add_region(pager->engine, pager->base, options->size_bytes, err);
}

static void sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / OB_NS_PER_SEC), .tv_nsec = (long)(ns % OB_NS_PER_SEC) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

/* In order, as a guest's first use of memory. With a rate the peer has time to write. */
int pager_memory_fill(struct pager *pager, struct ob_error *err)
{
	const struct pager_options *options = pager->options;
	uint64_t start_ns = ob_now_ns(), words[PAGER_WORDS];

	for (uint32_t page = 0; page < pager->pages; page++) {
		pager->versions[page] = 1;
		pager_content_fill(words, options->content, options->seed, page, 1);
		memcpy(pager->base + (uint64_t)page * PAGER_PAGE, words, PAGER_PAGE);
		if (options->fill_rate_bytes && page % 64 == 0)
			sleep_until(start_ns + (uint64_t)((double)page * PAGER_PAGE * 1e9 / (double)options->fill_rate_bytes));
	}
	return 0;
}

int pager_memory_verify(struct pager *pager, struct ob_error *err)
{
	const struct pager_options *options = pager->options;
	uint64_t words[PAGER_WORDS];

	for (uint32_t page = 0; page < pager->pages; page++) {
		const uint8_t *bytes = pager->base + (uint64_t)page * PAGER_PAGE;

		pager_content_fill(words, options->content, options->seed, page, pager->versions[page]);
		if (memcmp(bytes, words, PAGER_PAGE))
			return ob_error_set(err, EILSEQ, "page %u is wrong although its stamp was not", page);
	}
	return 0;
}

void pager_wrong(const struct pager *pager, uint32_t page, uint64_t seen, uint64_t expected)
{
	fprintf(stderr, "pager: page %u is wrong: its stamp is %#llx instead of %#llx\n", page, (unsigned long long)seen,
		(unsigned long long)expected);
	_exit(2);
}

static struct ob_stats engine_stats(struct pager *pager)
{
	struct ob_engine_stats stats;

	ob_engine_get_stats(pager->engine, &stats);
	return stats.values;
}

static uint64_t engine_cost(struct pager *pager)
{
	return engine_stats(pager).cost_bytes;
}

/* Sets the limit and waits until the cost is under it: the engine's own threads do the work. */
static int reclaim_by_engine(struct pager *pager, struct pager_reclaim *reclaim, struct ob_error *err)
{
	uint64_t limit = pager->options->limit_bytes, start_ns = ob_now_ns();
	int r;

	/* Without a limit the engine need not know what is there; all of it is, since it has just been filled. */
	reclaim->before_bytes = pager->options->size_bytes + engine_stats(pager).tables_bytes;
	r = ob_engine_set_limit(pager->engine, limit);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot set the limit");
	for (uint64_t now = start_ns; engine_cost(pager) > limit; now = ob_now_ns()) {
		if (now - start_ns > RECLAIM_DEADLINE_NS)
			return ob_error_set(err, ETIMEDOUT, "the cost is still %llu bytes", (unsigned long long)engine_cost(pager));
		sleep_until(now + LOOK_NS);
	}
	reclaim->attempts = 1;
	reclaim->after_bytes = engine_cost(pager);
	return 0;
}

uint64_t pager_memory_usage_bytes(const struct pager *pager)
{
	const char *cgroup = pager->options->cgroup;
	uint64_t bytes = 0;

	return read_file(cgroup, group_file(cgroup, "memory.usage_in_bytes", "memory.current"), &bytes) < 0 ? 0 : bytes;
}

uint64_t pager_memory_pool_bytes(void)
{
	char text[8192], *line;

	if (ob_read_text("/proc/meminfo", text, sizeof(text)) < 0)
		return 0;
	line = strstr(text, "\nZswap:");
	return line ? strtoull(line + strlen("\nZswap:"), NULL, 10) * OB_KIB : 0;
}

/* The kernel reclaims in the writer: version 1 when the limit is lowered, version 2 when memory.reclaim is written to. */
static int reclaim_by_kernel(struct pager *pager, struct pager_reclaim *reclaim, struct ob_error *err)
{
	const char *cgroup = pager->options->cgroup, *usage = group_file(cgroup, "memory.usage_in_bytes", "memory.current");
	uint64_t limit = pager->options->limit_bytes, start_ns = ob_now_ns(), now_bytes, pool_after;
	uint64_t pool = pager_memory_pool_bytes();
	const char *file = group_file(cgroup, "memory.limit_in_bytes", "memory.reclaim");
	int r = read_file(cgroup, usage, &reclaim->before_bytes);

	now_bytes = reclaim->before_bytes;
	while (!r && now_bytes > limit) {
		reclaim->attempts++;
		r = write_file(cgroup, file, strcmp(file, "memory.reclaim") ? limit : now_bytes - limit);
		if (r == -EBUSY || r == -EAGAIN) {
			sleep_until(ob_now_ns() + RETRY_NS);
			r = 0;
		}
		if (!r)
			r = read_file(cgroup, usage, &now_bytes);
		if (!r && now_bytes > limit && ob_now_ns() - start_ns > RECLAIM_DEADLINE_NS)
			r = -ETIMEDOUT;
	}
	reclaim->after_bytes = now_bytes;
	pool_after = pager_memory_pool_bytes();
	reclaim->pool_growth_bytes = pool_after > pool ? pool_after - pool : 0;
	return r ? ob_error_sys(err, -r, "the kernel does not bring \"%s\" to its limit", cgroup) : 0;
}

int pager_memory_reclaim(struct pager *pager, struct pager_reclaim *ret, struct ob_error *err)
{
	uint64_t start_ns = ob_now_ns();
	struct rusage first, last;
	int r;

	*ret = (struct pager_reclaim){ 0 };
	getrusage(RUSAGE_SELF, &first);
	r = pager->engine ? reclaim_by_engine(pager, ret, err) : reclaim_by_kernel(pager, ret, err);
	getrusage(RUSAGE_SELF, &last);
	ret->wall_seconds = (double)(ob_now_ns() - start_ns) / 1e9;
	ret->user_seconds = pager_seconds_of(&last.ru_utime) - pager_seconds_of(&first.ru_utime);
	ret->system_seconds = pager_seconds_of(&last.ru_stime) - pager_seconds_of(&first.ru_stime);
	return r;
}
