/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records what the memory of machines holds, for bench/share-index: share_record DIRECTORY RAM[:COUNTS]...
 *
 * RAM is a file that a machine has as its memory, all of one size. COUNTS is what share_stores.c counts for it; without it the
 * writes are sampled: each look at a machine counts the eighths of pages that differ from the last look, by a hash of 64 bits.
 *
 * Orders come on stdin, one a line, and each is answered by "ok" and a number, or a line that says what is wrong:
 *   sample I   looks at machine I (from 0)
 *   pass I     looks, and writes down what its pages hold and how often they were written since its last pass. The machine
 *              should be stopped. Machines in turn, from 0 to the last.
 *   end        a pass is complete; answers how many contents there are
 * The end of stdin is the end.
 */
#include "share_recording.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/compiler.h"

#define MACHINES_MAX  64u
#define EIGHTH_BYTES  (SHARE_PAGE_BYTES / SHARE_EIGHTHS)
#define CONTENTS_MAX  (1u << 26)

struct machine {
	const unsigned char *ram;
	const uint32_t *counts; /* NULL: sampled */
	uint32_t *counted;      /* what counts were at the last pass */
	uint64_t *hashes;       /* of each eighth at the last look */
	struct share_page *now;
	int has_been_seen;
};

/* Contents by hash: open addressing, grown when it is half full. */
struct known {
	XXH128_hash_t hash;
	uint32_t content; /* 0: the place is free */
};

static struct machine machines[MACHINES_MAX];
static uint32_t n_machines, n_pages, n_contents, turn;
static struct known *table;
static uint64_t table_size = 1 << 16;
static FILE *passes, *contents;

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void *array(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		die("memory");
	return p;
}

static const void *map(const char *path, size_t *ret_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st))
		die(path);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die(path);
	close(fd);
	*ret_bytes = (size_t)st.st_size;
	return p;
}

static void open_machine(char *word)
{
	struct machine *m = &machines[n_machines++];
	char *colon = strchr(word, ':');
	size_t bytes, count_bytes;

	if (colon)
		*colon = 0;
	m->ram = map(word, &bytes);
	if (!n_pages)
		n_pages = (uint32_t)(bytes / SHARE_PAGE_BYTES);
	if (!n_pages || bytes != (size_t)n_pages * SHARE_PAGE_BYTES) {
		errno = EINVAL;
		die(word);
	}
	if (colon) {
		m->counts = map(colon + 1, &count_bytes);
		if (count_bytes != (size_t)n_pages * SHARE_EIGHTHS * sizeof(*m->counts)) {
			errno = EINVAL;
			die(colon + 1);
		}
		m->counted = array((size_t)n_pages * SHARE_EIGHTHS, sizeof(*m->counted));
	}
	m->hashes = array((size_t)n_pages * SHARE_EIGHTHS, sizeof(*m->hashes));
	m->now = array(n_pages, sizeof(*m->now));
}

static void write_down(FILE *to, const void *data, size_t n)
{
	if (fwrite(data, 1, n, to) != n)
		die("write");
}

static void write_content(const unsigned char *bytes)
{
	char packed[SHARE_PAGE_BYTES];
	int n = LZ4_compress_default((const char *)bytes, packed, SHARE_PAGE_BYTES, sizeof(packed) - 1);
	uint16_t length = n > 0 ? (uint16_t)n : 0;

	write_down(contents, &length, sizeof(length));
	write_down(contents, length ? packed : (const char *)bytes, length ? length : SHARE_PAGE_BYTES);
}

static struct known *place(struct known *in, uint64_t size, XXH128_hash_t hash)
{
	uint64_t at = hash.low64 & (size - 1);

	while (in[at].content && !XXH128_isEqual(in[at].hash, hash))
		at = (at + 1) & (size - 1);
	return &in[at];
}

static void grow(void)
{
	struct known *bigger = array(table_size * 2, sizeof(*bigger));

	for (uint64_t i = 0; i < table_size; i++)
		if (table[i].content)
			*place(bigger, table_size * 2, table[i].hash) = table[i];
	free(table);
	table = bigger;
	table_size *= 2;
}

static uint32_t content_of(const unsigned char *live)
{
	static const unsigned char zeros[SHARE_PAGE_BYTES];
	unsigned char bytes[SHARE_PAGE_BYTES];
	XXH128_hash_t hash;
	struct known *known;

	/* Once, so that what is hashed is what is written down. */
	memcpy(bytes, live, sizeof(bytes));
	if (!memcmp(bytes, zeros, sizeof(bytes)))
		return 0;
	hash = XXH3_128bits(bytes, sizeof(bytes));
	known = place(table, table_size, hash);
	if (!known->content) {
		if (n_contents + 1 == CONTENTS_MAX) {
			errno = ENOSPC;
			die("contents");
		}
		known->hash = hash;
		known->content = ++n_contents;
		write_content(bytes);
		if (n_contents > table_size / 2) {
			grow();
			return n_contents;
		}
	}
	return known->content;
}

/* Notes which eighths of a page differ from the last look, and returns whether one does. */
static int look_at(struct machine *m, uint32_t page)
{
	const unsigned char *bytes = m->ram + (size_t)page * SHARE_PAGE_BYTES;
	uint64_t *hashes = m->hashes + (size_t)page * SHARE_EIGHTHS;
	int changed = !m->has_been_seen;

	for (unsigned i = 0; i < SHARE_EIGHTHS; i++) {
		uint64_t hash = XXH3_64bits(bytes + i * EIGHTH_BYTES, EIGHTH_BYTES);

		if (hash == hashes[i])
			continue;
		hashes[i] = hash;
		changed = 1;
		if (!m->counts && m->has_been_seen && m->now[page].writes[i] < UINT16_MAX)
			m->now[page].writes[i]++;
	}
	return changed;
}

static void take_counts(struct machine *m, uint32_t page)
{
	for (unsigned i = 0; i < SHARE_EIGHTHS; i++) {
		size_t at = (size_t)page * SHARE_EIGHTHS + i;
		uint32_t count = m->counts[at], since = count - m->counted[at];

		m->counted[at] = count;
		m->now[page].writes[i] = (uint16_t)OB_MIN(since, (uint64_t)UINT16_MAX);
	}
}

static void sample(struct machine *m)
{
	for (uint32_t page = 0; page < n_pages; page++)
		look_at(m, page);
	m->has_been_seen = 1;
}

static void pass(struct machine *m)
{
	int raw = (int)(n_pages * sizeof(*m->now)), bound = LZ4_compressBound(raw);
	char *packed = array(1, (size_t)bound);
	uint32_t length;

	for (uint32_t page = 0; page < n_pages; page++) {
		look_at(m, page);
		m->now[page].content = content_of(m->ram + (size_t)page * SHARE_PAGE_BYTES);
		if (m->counts)
			take_counts(m, page);
	}
	m->has_been_seen = 1;
	length = (uint32_t)LZ4_compress_default((const char *)m->now, packed, raw, bound);
	write_down(passes, &length, sizeof(length));
	write_down(passes, packed, length);
	free(packed);
	for (uint32_t page = 0; page < n_pages; page++)
		memset(m->now[page].writes, 0, sizeof(m->now[page].writes));
}

static int obey(const char *line)
{
	uint32_t i;

	if (sscanf(line, "sample %u", &i) == 1 && i < n_machines) {
		sample(&machines[i]);
	} else if (sscanf(line, "pass %u", &i) == 1 && i == turn && i < n_machines) {
		pass(&machines[i]);
		turn++;
	} else if (!strcmp(line, "end\n") && turn == n_machines) {
		turn = 0;
		if (fflush(passes) || fflush(contents))
			die("write");
	} else {
		printf("this cannot be done now: %s", line);
		return -EINVAL;
	}
	printf("ok %u\n", n_contents);
	return fflush(stdout) ? -errno : 0;
}

static FILE *create(const char *directory, const char *name)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	f = fopen(path, "we");
	if (!f)
		die(path);
	return f;
}

int main(int argc, char **argv)
{
	struct share_header header = { .magic = SHARE_MAGIC };
	char line[64];

	if (argc < 3 || argc - 2 > (int)MACHINES_MAX) {
		fprintf(stderr, "usage: share_record DIRECTORY RAM[:COUNTS]...\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		open_machine(argv[i]);
	table = array(table_size, sizeof(*table));
	passes = create(argv[1], "passes");
	contents = create(argv[1], "contents");
	header.machines = n_machines;
	header.pages = n_pages;
	write_down(passes, &header, sizeof(header));
	while (fgets(line, sizeof(line), stdin))
		if (obey(line))
			return 1;
	if (fclose(passes) || fclose(contents))
		die("write");
	return 0;
}
