/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Areas: the places where the witness keeps pages.
 *
 *     anon    private anonymous memory, read and written in place
 *     fork    the same; work.c forks children that check their copy of it
 *     grown   anonymous memory as well, asked for while the guest runs (memory that was plugged in is used by it); once a boot
 *     tmpfs   a file in tmpfs: even pages through a shared mapping, odd ones by pread and pwrite
 *     cache   the front of the disk through the page cache, by pread and pwrite
 *     direct  the part of the disk behind that, by O_DIRECT
 *     image   the front of a disk that others have as well, through the page cache, never written: all pages are of version 1
 *
 * O_DIRECT buffers move through 8 MiB of memory for each thread, so that devices read and write pages that the host
 * may just be taking away; each buffer is filled with a wrong pattern before a read.
 *
 * A page belongs to one worker, so nothing here is locked but the counters-> An I/O error is reported, counted and
 * leaves the version of the page alone.
 */
#include "witness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUFFER_PAGES 2048u
#define RUN_PAGES    16u /* of a disk, in one request */
#define SPARE_MIB    24u /* what the witness itself and the kernel need beside the areas */
#define ROOM_NS      5000000000ull
#define WRONG_LINES  40u
#define ERROR_LINES  20u

struct io_buffer {
	unsigned char *memory;
	unsigned next;
};

static struct pattern_mix image_mix; /* what an image holds is the same in all machines */

struct area areas[AREAS_MAX];
unsigned area_count;

struct io_buffer *io_buffer_create(void)
{
	struct io_buffer *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->memory = mmap(NULL, (size_t)BUFFER_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->memory == MAP_FAILED) {
		free(b);
		return NULL;
	}
	return b;
}

static unsigned char *next_buffer(struct io_buffer *b)
{
	b->next = (b->next + 37) % BUFFER_PAGES;
	return b->memory + (size_t)b->next * PAGE_BYTES;
}

static void io_failed(const struct area *area, const char *what, size_t page, ssize_t got)
{
	if (atomic_fetch_add(&counters->io_errors, 1) < ERROR_LINES)
		report("error what=%s area=%s page=%zu result=%zd errno=%d", what, area->name, page, got, got < 0 ? errno : 0);
}

static int in_place(const struct area *area, size_t page)
{
	return area->map && (area->kind != AREA_TMPFS || page % 2 == 0);
}

static const struct pattern_mix *mix_of(const struct area *area)
{
	return area->kind == AREA_IMAGE ? &image_mix : &params.mix;
}

static void page_wrong(const struct area *area, size_t page, int word, uint64_t want, const unsigned char *data)
{
	uint64_t got;

	memcpy(&got, data + (size_t)word * 8, 8);
	if (atomic_fetch_add(&counters->wrong, 1) < WRONG_LINES)
		report("wrong area=%s page=%zu offset=%d version=%u want=%016llx got=%016llx looks=%s", area->name, page,
		       word * 8, area->version[page], (unsigned long long)want, (unsigned long long)got,
		       pattern_guess(mix_of(area), area_page_id(area, page), area->version[page], data));
}

static void check_data(struct area *area, size_t page, const unsigned char *data)
{
	uint64_t want;
	int word = pattern_check(mix_of(area), area_page_id(area, page), area->version[page], data, &want);

	if (word >= 0)
		page_wrong(area, page, word, want, data);
	atomic_fetch_add(&counters->checked, 1);
}

/* Takes count buffers, scattered over the thread's memory, so that a request of several pages has as many parts. */
static void take_buffers(struct io_buffer *buffers, struct iovec *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		parts[i] = (struct iovec){ .iov_base = next_buffer(buffers), .iov_len = PAGE_BYTES };
}

static void check_run(struct area *area, size_t first, size_t count, struct io_buffer *buffers)
{
	struct iovec parts[RUN_PAGES];
	ssize_t got;

	take_buffers(buffers, parts, count);
	for (size_t i = 0; i < count; i++)
		memset(parts[i].iov_base, 0x5a, PAGE_BYTES);
	got = preadv(area->fd, parts, (int)count, (off_t)(area->offset + first * PAGE_BYTES));
	if (got != (ssize_t)(count * PAGE_BYTES)) {
		io_failed(area, "read", first, got);
		return;
	}
	if (area->kind == AREA_DIRECT)
		atomic_fetch_add(&counters->direct_pages, count);
	for (size_t i = 0; i < count; i++)
		/* What a block of a disk holds that was never written is not known. */
		if (area->version[first + i] || area->kind == AREA_TMPFS)
			check_data(area, first + i, parts[i].iov_base);
}

static void write_run(struct area *area, size_t first, size_t count, struct io_buffer *buffers)
{
	struct iovec parts[RUN_PAGES];
	ssize_t got;

	take_buffers(buffers, parts, count);
	for (size_t i = 0; i < count; i++)
		pattern_fill(&params.mix, area_page_id(area, first + i), area->version[first + i] + 1, parts[i].iov_base);
	got = pwritev(area->fd, parts, (int)count, (off_t)(area->offset + first * PAGE_BYTES));
	if (got != (ssize_t)(count * PAGE_BYTES)) {
		io_failed(area, "write", first, got);
		return;
	}
	if (area->kind == AREA_DIRECT)
		atomic_fetch_add(&counters->direct_pages, count);
	for (size_t i = 0; i < count; i++)
		area->version[first + i]++;
	atomic_fetch_add(&counters->written, count);
}

void area_check_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers)
{
	while (count) {
		size_t run = area->map ? 1 : count < RUN_PAGES ? count : RUN_PAGES;

		if (in_place(area, first))
			check_data(area, first, area->map + first * PAGE_BYTES);
		else
			check_run(area, first, run, buffers);
		first += run;
		count -= run;
	}
}

void area_write_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers)
{
	while (count && area->kind != AREA_IMAGE) {
		size_t run = area->map ? 1 : count < RUN_PAGES ? count : RUN_PAGES;

		if (in_place(area, first)) {
			pattern_fill(&params.mix, area_page_id(area, first), area->version[first] + 1, area->map + first * PAGE_BYTES);
			area->version[first]++;
			atomic_fetch_add(&counters->written, 1);
		} else {
			write_run(area, first, run, buffers);
		}
		first += run;
		count -= run;
	}
}

size_t area_fill_pages(struct area *area, size_t first, size_t count, struct io_buffer *buffers)
{
	size_t filled = 0;

	for (size_t page = first; page < first + count; page++) {
		if (area->version[page])
			continue;
		area_write_pages(area, page, 1, buffers);
		filled++;
	}
	return filled;
}

int area_is_anonymous(const struct area *area)
{
	return area->kind == AREA_ANON || area->kind == AREA_GROWN;
}

size_t area_free_pages(struct area *area, size_t first, size_t count)
{
	if (!area_is_anonymous(area) || !count)
		return 0;
	if (madvise(area->map + first * PAGE_BYTES, count * PAGE_BYTES, MADV_DONTNEED) < 0) {
		io_failed(area, "madvise", first, -1);
		return 0;
	}
	memset(area->version + first, 0, count * sizeof(*area->version));
	return count;
}

static uint64_t cached_pages(const struct area *area)
{
	static unsigned char present[65536];
	size_t bytes = area->pages * PAGE_BYTES;
	uint64_t n = 0;
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, area->fd, (off_t)area->offset);

	if (map == MAP_FAILED)
		return 0;
	for (size_t at = 0; at < area->pages; at += sizeof(present)) {
		size_t count = area->pages - at < sizeof(present) ? area->pages - at : sizeof(present);

		if (mincore((char *)map + at * PAGE_BYTES, count * PAGE_BYTES, present) < 0)
			break;
		for (size_t i = 0; i < count; i++)
			n += present[i] & 1;
	}
	munmap(map, bytes);
	return n;
}

/* Called by the reporter alone; a version that changes meanwhile makes the figure a page wrong, no more. */
uint64_t areas_touched_bytes(void)
{
	uint64_t pages = 0;

	for (unsigned a = 0; a < area_count; a++) {
		if (areas[a].kind == AREA_DIRECT)
			continue;
		if (areas[a].kind == AREA_CACHE || areas[a].kind == AREA_IMAGE) {
			pages += cached_pages(&areas[a]);
			continue;
		}
		for (size_t i = 0; i < areas[a].pages; i++)
			pages += areas[a].version[i] != 0;
	}
	return pages * PAGE_BYTES;
}

static int refuse(const char *what, uint64_t mib)
{
	report("refused what=%s mib=%llu errno=%d", what, (unsigned long long)mib, errno);
	return -1;
}

static struct area *add_area(const char *name, enum area_kind kind, uint64_t mib)
{
	struct area *area = &areas[area_count];
	size_t bytes;

	area->name = name;
	area->kind = kind;
	area->pages = (size_t)mib * 256;
	area->fd = -1;
	bytes = area->pages * sizeof(*area->version);
	/* At once: a page of versions between the pages it is about would keep them from being free in large blocks one day. */
	area->version = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (area->version == MAP_FAILED) {
		refuse(name, mib);
		return NULL;
	}
	area_count++;
	return area;
}

static int add_memory(const char *name, enum area_kind kind, uint64_t mib)
{
	struct area *area;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd = -1;

	if (!mib)
		return 0;
	area = add_area(name, kind, mib);
	if (!area)
		return -1;
	if (kind == AREA_TMPFS) {
		fd = open("/tmp/witness", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)(mib << 20)) < 0)
			return refuse(name, mib);
		flags = MAP_SHARED;
	}
	area->fd = fd;
	area->map = mmap(NULL, area->pages * PAGE_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
	return area->map == MAP_FAILED ? refuse(name, mib) : 0;
}

static int add_disk(const char *name, enum area_kind kind, uint64_t mib, uint64_t offset)
{
	static const char *const paths[] = { "/dev/vda", "/dev/sda", "/dev/vdb" };
	struct area *area;
	off_t size;

	if (!mib)
		return 0;
	area = add_area(name, kind, mib);
	if (!area)
		return -1;
	for (unsigned i = 0; area->fd < 0 && i < sizeof(paths) / sizeof(paths[0]); i++)
		area->fd = open(paths[i], (kind == AREA_IMAGE ? O_RDONLY : O_RDWR) | O_CLOEXEC | (kind == AREA_DIRECT ? O_DIRECT : 0));
	if (area->fd < 0)
		return refuse(name, mib);
	area->offset = offset;
	size = lseek(area->fd, 0, SEEK_END);
	if (size < 0 || (uint64_t)size < offset + (mib << 20))
		return refuse("disk-too-small", (offset >> 20) + mib);
	for (size_t i = 0; kind == AREA_IMAGE && i < area->pages; i++)
		area->version[i] = 1;
	return 0;
}

static uint64_t available_mib(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib >> 10;
}

/*
 * Whether there is room for so much; the guest's OOM killer would end the witness in the middle. While pages are reported
 * to the balloon they are not counted as free: two seconds after its driver was loaded 100 MiB are missing, for some
 * milliseconds. So what is too little counts only if it stays so.
 */
static int room_for(uint64_t mib, uint64_t *ret_available)
{
	uint64_t began = now_ns();

	while (mib + SPARE_MIB > (*ret_available = available_mib())) {
		if (now_ns() - began > ROOM_NS)
			return 0;
		usleep(20000);
	}
	return 1;
}

int areas_create(void)
{
	uint64_t memory = params.anon_mib + 2 * params.fork_mib + params.tmpfs_mib;
	uint64_t available;

	image_mix = params.mix;
	image_mix.same_percent = 100;
	image_mix.nearly_percent = 0;
	if (!room_for(memory, &available)) {
		report("refused what=memory mib=%llu available_mib=%llu", (unsigned long long)memory,
		       (unsigned long long)available);
		return -1;
	}
	if (add_memory("anon", AREA_ANON, params.anon_mib) < 0 || add_memory("fork", AREA_FORK, params.fork_mib) < 0 ||
	    add_memory("tmpfs", AREA_TMPFS, params.tmpfs_mib) < 0 || add_disk("cache", AREA_CACHE, params.cache_mib, 0) < 0 ||
	    add_disk("direct", AREA_DIRECT, params.direct_mib, params.cache_mib << 20) < 0 ||
	    add_disk("image", AREA_IMAGE, params.image_mib, 0) < 0)
		return -1;
	return 0;
}

int area_grow(uint64_t mib)
{
	uint64_t available;

	for (unsigned a = 0; a < area_count; a++)
		if (areas[a].kind == AREA_GROWN)
			return -1;
	return !mib || !room_for(mib, &available) ? -1 : add_memory("grown", AREA_GROWN, mib);
}
