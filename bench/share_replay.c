/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replays strategies that find equal pages over a recording: share_replay DIRECTORY ROUNDS STRATEGY[,OPTION=VALUE...]...
 *
 * The pages of all machines are one list, machine after machine, which each pass goes through; a page counts as written when it
 * holds something else than in the last pass. Pages of zeros are no candidates, as they are dropped without being shared (with
 * "zeros=1" they are like others). Hashes and checksums are computed from the bytes each time one is asked for, and bytes
 * are compared up to the first 8 that differ, so that CPU time is that of the real thing with memory as slow as here.
 * With "history=1" the writes are those since the recording began, or with a monitor that counted since boot, since then.
 * What the checksum is: XXH64 cut to 32 bits, as the kernel's KSM; the hash: overbookd's.
 *
 * First there is a line of JSON about the recording, then one for each run; a round runs all strategies, one after the other.
 * "exact" is the pages that would be saved if all that are equal were shared, found by sorting the hashes of all pages, and
 * "exact_rested" counts only those that held the same in the last pass. Both, and "saved", by pass.
 */
#include "share_recording.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "share/page_hash.h"
#include "share/strategy.h"

#define PASSES_MAX 1000u

struct hash {
	uint64_t lo, hi;
};

/* The recording, all of it in memory. */
static struct {
	struct share_header header;
	uint32_t pages;                        /* of all machines */
	uint32_t passes;
	struct share_page *pass[PASSES_MAX];   /* pages of each */
	unsigned char *bytes;                  /* of all contents, number 0 too */
	uint32_t contents;                     /* so many, number 0 too */
	struct hash *hashes;                   /* of the contents: for counting what there is to find */
	uint64_t exact[PASSES_MAX], exact_rested[PASSES_MAX], candidates[PASSES_MAX];
	uint32_t now;                          /* the pass that is being replayed */
} recording;

static unsigned char key[OB_PAGE_HASH_KEY];

static void die(const char *what, const char *why)
{
	fprintf(stderr, "share_replay: %s: %s\n", what, why);
	exit(1);
}

static void *array(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		die("memory", strerror(errno));
	return p;
}

static FILE *open_file(const char *directory, const char *name)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	f = fopen(path, "re");
	if (!f)
		die(path, strerror(errno));
	return f;
}

static void read_passes(FILE *f)
{
	const struct share_header *header = &recording.header;
	uint32_t length;
	int raw;

	if (fread(&recording.header, sizeof(recording.header), 1, f) != 1 || memcmp(header->magic, SHARE_MAGIC, 8) ||
	    !header->pages || header->pages > INT_MAX / sizeof(struct share_page) || !header->machines ||
	    header->machines > UINT32_MAX / header->pages)
		die("passes", "this is no recording");
	recording.pages = header->machines * header->pages;
	raw = (int)(header->pages * sizeof(struct share_page));
	for (uint64_t n = 0; fread(&length, sizeof(length), 1, f) == 1; n++) {
		uint32_t machine = (uint32_t)(n % header->machines);
		char *packed = array(1, length), *to;

		if (!machine) {
			if (recording.passes == PASSES_MAX)
				die("passes", "there are too many");
			recording.pass[recording.passes++] = array(recording.pages, sizeof(struct share_page));
		}
		to = (char *)&recording.pass[recording.passes - 1][machine * header->pages];
		if (fread(packed, 1, length, f) != length || LZ4_decompress_safe(packed, to, (int)length, raw) != raw)
			die("passes", "it is damaged");
		free(packed);
	}
}

static void read_contents(FILE *f)
{
	for (uint32_t i = 1; i < recording.contents; i++) {
		char packed[SHARE_PAGE_BYTES], *to = (char *)recording.bytes + (size_t)i * SHARE_PAGE_BYTES;
		uint16_t length;
		int is_whole = fread(&length, sizeof(length), 1, f) == 1 && length < sizeof(packed);

		if (is_whole && !length)
			is_whole = fread(to, SHARE_PAGE_BYTES, 1, f) == 1;
		else if (is_whole)
			is_whole = fread(packed, length, 1, f) == 1 &&
				   LZ4_decompress_safe(packed, to, length, SHARE_PAGE_BYTES) == (int)SHARE_PAGE_BYTES;
		if (!is_whole)
			die("contents", "it is damaged");
	}
}

static void load(const char *directory)
{
	FILE *f = open_file(directory, "passes");

	read_passes(f);
	fclose(f);
	for (uint32_t pass = 0; pass < recording.passes; pass++)
		for (uint32_t page = 0; page < recording.pages; page++)
			recording.contents = OB_MAX(recording.contents, recording.pass[pass][page].content + 1);
	recording.bytes = array(recording.contents, SHARE_PAGE_BYTES);
	recording.hashes = array(recording.contents, sizeof(*recording.hashes));
	f = open_file(directory, "contents");
	read_contents(f);
	fclose(f);
}

static int by_hash(const void *a, const void *b)
{
	const struct hash *x = a, *y = b;

	if (x->hi != y->hi)
		return x->hi < y->hi ? -1 : 1;
	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static uint64_t duplicates(struct hash *hashes, uint64_t n)
{
	uint64_t found = 0;

	qsort(hashes, n, sizeof(*hashes), by_hash);
	for (uint64_t i = 1; i < n; i++)
		found += !by_hash(&hashes[i - 1], &hashes[i]);
	return found;
}

/* What there is to find in each pass. */
static void count_exact(void)
{
	struct hash *all = array(recording.pages, sizeof(*all)), *rested = array(recording.pages, sizeof(*rested));

	for (uint32_t i = 0; i < recording.contents; i++)
		ob_page_hash(key, recording.bytes + (size_t)i * SHARE_PAGE_BYTES, &recording.hashes[i].lo, &recording.hashes[i].hi);
	for (uint32_t pass = 0; pass < recording.passes; pass++) {
		uint64_t n = 0, n_rested = 0;

		for (uint32_t page = 0; page < recording.pages; page++) {
			uint32_t content = recording.pass[pass][page].content;

			if (!content)
				continue;
			all[n++] = recording.hashes[content];
			if (pass && recording.pass[pass - 1][page].content == content)
				rested[n_rested++] = recording.hashes[content];
		}
		recording.candidates[pass] = n;
		recording.exact[pass] = duplicates(all, n);
		recording.exact_rested[pass] = duplicates(rested, n_rested);
	}
	free(all);
	free(rested);
}

static const unsigned char *bytes_of(uint64_t content)
{
	return recording.bytes + (size_t)content * SHARE_PAGE_BYTES;
}

static uint64_t source_content(void *context, uint32_t page)
{
	return recording.pass[recording.now][page].content;
}

static int source_compare(void *context, uint64_t a, uint64_t b, uint32_t *ret_bytes)
{
	const uint64_t *x = (const void *)bytes_of(a), *y = (const void *)bytes_of(b);
	uint32_t i = 0, words = SHARE_PAGE_BYTES / 8;

	while (i < words && x[i] == y[i])
		i++;
	if (i == words) {
		*ret_bytes = SHARE_PAGE_BYTES;
		return 0;
	}
	*ret_bytes = (i + 1) * 8;
	return memcmp(&x[i], &y[i], 8);
}

static uint32_t source_checksum(void *context, uint64_t content)
{
	return (uint32_t)XXH64(bytes_of(content), SHARE_PAGE_BYTES, 0);
}

static struct ob_strategy_hash128 source_hash(void *context, uint64_t content)
{
	struct ob_strategy_hash128 hash;

	ob_page_hash(key, bytes_of(content), &hash.low, &hash.high);
	return hash;
}

static const struct ob_strategy_source source = { source_content, source_compare, source_checksum, source_hash };

/* A strategy as the command line names it. */
struct plan {
	char name[32];
	struct ob_strategy_options options;
	uint32_t zeros, history;
	uint32_t *writes; /* with history: to each eighth of each page so far */
};

static struct plan parse(const char *word)
{
	struct plan plan = { .options = OB_STRATEGY_OPTIONS_DEFAULT };
	const struct {
		const char *name;
		uint32_t *to;
	} numbers[] = {
		{ "ranges", &plan.options.ranges },       { "count_width", &plan.options.count_width },
		{ "subpages", &plan.options.subpages },   { "count_classes", &plan.options.count_classes },
		{ "threshold", &plan.options.threshold }, { "eager", (uint32_t *)&plan.options.eager },
		{ "zeros", &plan.zeros },                 { "tracked", (uint32_t *)&plan.options.tracked },
		{ "history", &plan.history },
	};
	char *copy = strdup(word), *rest = copy, *part;

	if (!copy)
		die("memory", strerror(errno));
	snprintf(plan.name, sizeof(plan.name), "%s", strsep(&rest, ","));
	while ((part = strsep(&rest, ","))) {
		char *name = strsep(&part, "="), *end = NULL;
		size_t i;

		for (i = 0; i < OB_ARRAY_LEN(numbers) && strcmp(numbers[i].name, name); i++)
			;
		if (i == OB_ARRAY_LEN(numbers) || !part)
			die(word, "there is no such option");
		*numbers[i].to = (uint32_t)strtoul(part, &end, 10);
		if (*end || end == part)
			die(word, "this is no number");
	}
	free(copy);
	plan.options.pages = recording.pages;
	if (plan.history)
		plan.writes = array((size_t)recording.pages * SHARE_EIGHTHS, sizeof(*plan.writes));
	return plan;
}

static void add_to_history(const struct plan *plan)
{
	for (uint32_t page = 0; page < recording.pages; page++)
		for (unsigned i = 0; i < SHARE_EIGHTHS; i++)
			plan->writes[page * SHARE_EIGHTHS + i] += recording.pass[recording.now][page].writes[i];
}

static void replay_pass(struct ob_strategy *strategy, const struct plan *plan)
{
	const struct share_page *now = recording.pass[recording.now];
	const struct share_page *before = recording.now ? recording.pass[recording.now - 1] : NULL;

	for (uint32_t page = 0; page < recording.pages; page++) {
		struct ob_strategy_view view = { .page = page, .written = !before || now[page].content != before[page].content };

		if (!now[page].content && !plan->zeros) {
			ob_strategy_forget(strategy, page);
			continue;
		}
		for (unsigned i = 0; i < SHARE_EIGHTHS; i++)
			view.writes[i] = plan->writes ? plan->writes[page * SHARE_EIGHTHS + i] : now[page].writes[i];
		if (ob_strategy_look(strategy, &view) < 0)
			die(plan->name, "it fails");
	}
	ob_strategy_pass_end(strategy);
}

static void print_list(const char *name, const uint64_t *numbers)
{
	printf(", \"%s\": [", name);
	for (uint32_t pass = 0; pass < recording.passes; pass++)
		printf("%s%llu", pass ? ", " : "", (unsigned long long)numbers[pass]);
	printf("]");
}

static void run(const char *word)
{
	struct plan plan = parse(word);
	struct ob_strategy_counters c;
	struct ob_strategy *strategy;
	uint64_t saved[PASSES_MAX], cpu[PASSES_MAX], total = 0;
	int r = ob_strategy_open(plan.name, &plan.options, &source, NULL, &strategy);

	if (r < 0)
		die(word, strerror(-r));
	for (recording.now = 0; recording.now < recording.passes; recording.now++) {
		uint64_t began;

		if (plan.writes)
			add_to_history(&plan);
		began = ob_thread_cpu_ns();
		replay_pass(strategy, &plan);
		cpu[recording.now] = ob_thread_cpu_ns() - began;
		total += cpu[recording.now];
		ob_strategy_count(strategy, &c);
		saved[recording.now] = c.saved_pages;
	}
	printf("{\"strategy\": \"%s\", \"cpu_ns\": %llu, \"looks\": %llu, \"comparisons\": %llu, \"futile_comparisons\": %llu, "
	       "\"compared_bytes\": %llu, \"hashed_pages\": %llu, \"merged\": %llu, \"broken\": %llu, \"classes\": %llu, "
	       "\"memory_bytes\": %llu", word, (unsigned long long)total, (unsigned long long)c.looks, (unsigned long long)c.comparisons,
	       (unsigned long long)c.futile_comparisons, (unsigned long long)c.compared_bytes, (unsigned long long)c.hashed_pages,
	       (unsigned long long)c.merged, (unsigned long long)c.broken, (unsigned long long)c.classes,
	       (unsigned long long)c.memory_bytes);
	print_list("saved", saved);
	print_list("pass_cpu_ns", cpu);
	printf("}\n");
	fflush(stdout);
	ob_strategy_close(strategy);
	free(plan.writes);
}

int main(int argc, char **argv)
{
	long rounds = argc > 3 ? strtol(argv[2], NULL, 10) : 0;

	if (rounds < 1) {
		fprintf(stderr, "usage: share_replay DIRECTORY ROUNDS STRATEGY[,OPTION=VALUE...]...\n");
		return 2;
	}
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (unsigned char)(i * 151 + 43);
	load(argv[1]);
	count_exact();
	printf("{\"machines\": %u, \"pages\": %u, \"passes\": %u, \"contents\": %u", recording.header.machines,
	       recording.pages, recording.passes, recording.contents - 1);
	print_list("candidates", recording.candidates);
	print_list("exact", recording.exact);
	print_list("exact_rested", recording.exact_rested);
	printf("}\n");
	/* The order turns round from one round to the next. */
	for (long round = 0; round < rounds; round++)
		for (int i = 3; i < argc; i++)
			run(argv[round % 2 ? argc - 1 - (i - 3) : i]);
	return 0;
}
