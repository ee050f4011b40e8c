/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replays a corpus: fuzz_NAME [--slow] DIRECTORY... gives every file of the directories to the target, as a TAP case each, as it is
 * and changed in ways that are the same every time:
 *
 *     cut off at every length, each byte flipped and replaced        (evenly spread places where there are more than STEPS)
 *     ROUNDS random changes, by a generator that starts from the file's name: bytes, blocks doubled, dropped and moved,
 *     parts of the other files
 *
 * A file is played in a process of its own, so that a crash is one failed case: what was played last lies in shared memory
 * and is written to crash-NAME.bin beside the working directory, to be replayed by fuzz_NAME FILE. A target that does
 * not come back is ended by meson's own time limit. --slow plays a fourth of all that, for targets that make hundreds of
 * system calls an input; OVERBOOK_TEST_LONG=1 plays LONGER times as many random changes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "fuzz.h"

#define SIZE_MAX_BYTES (128u << 10) /* of an input */
#define FILES_MAX      1024
#define STEPS          100
#define ROUNDS         100
#define LONGER         100 /* times ROUNDS, with OVERBOOK_TEST_LONG */

struct input {
	char *name;
	uint8_t *data;
	size_t size;
};

/* Shared with the child that plays. */
struct played {
	size_t size;
	unsigned long count;
	uint8_t data[2 * SIZE_MAX_BYTES];
};

static struct input inputs[FILES_MAX];
static size_t input_count;
static struct played *played;
static FILE *tap;
static unsigned steps = STEPS, rounds = ROUNDS;

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

/* The input lies at the end of an allocation of its own size, where a sanitizer sees a read beyond it. */
static void play(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	FUZZ_CHECK(copy && size <= sizeof(played->data), "no memory");
	memcpy(played->data, data, size);
	played->size = size;
	played->count++;
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t below(uint64_t *state, uint64_t n)
{
	return n ? next_random(state) % n : 0;
}

static void play_cut_and_flipped(const struct input *input)
{
	size_t step = input->size / steps + 1;
	uint8_t *copy = malloc(input->size + 1);

	FUZZ_CHECK(copy, "no memory");
	for (size_t i = 0; i < input->size; i += step) {
		static const uint8_t masks[] = { 0xff, 0x01, 0x80 };

		play(input->data, i);
		memcpy(copy, input->data, input->size);
		copy[i] ^= masks[i / step % sizeof(masks)];
		play(copy, input->size);
		copy[i] = (uint8_t)("\0,=\"'-{}[]\n9K:%\xff"[i / step % 17]);
		play(copy, input->size);
	}
	free(copy);
}

/* Puts a part of another file, or of this one, in the place of a part. */
static size_t graft(uint8_t *data, size_t size, uint64_t *state)
{
	const struct input *other = &inputs[below(state, input_count)];
	size_t from = below(state, other->size), length = below(state, other->size - from + 1);
	size_t at = below(state, size + 1), gone = below(state, OB_MIN(size - at, length) + 1);

	if (size - gone + length > SIZE_MAX_BYTES)
		return size;
	memmove(data + at + length, data + at + gone, size - at - gone);
	memcpy(data + at, other->data + from, length);
	return size - gone + length;
}

static size_t change(uint8_t *data, size_t size, uint64_t *state)
{
	size_t at = below(state, size), length = below(state, OB_MIN(size - at, (size_t)64) + 1);

	switch (below(state, size ? 6 : 1)) {
	case 0:
		return graft(data, size, state);
	case 1:
		data[at] = (uint8_t)next_random(state);
		return size;
	case 2:
		data[at] = (uint8_t)(data[at] + (next_random(state) & 1 ? 1 : -1));
		return size;
	case 3: /* drop */
		memmove(data + at, data + at + length, size - at - length);
		return size - length;
	case 4: /* double */
		if (size + length > SIZE_MAX_BYTES)
			return size;
		memmove(data + at + length, data + at, size - at);
		return size + length;
	default:
		memset(data + at, (int)next_random(state), length);
		return size;
	}
}

static void play_changed(const struct input *input)
{
	uint8_t *data = malloc(2 * SIZE_MAX_BYTES);
	uint64_t state = 0;

	FUZZ_CHECK(data, "no memory");
	for (const char *c = input->name; *c; c++)
		state = state * 31 + (uint8_t)*c;
	for (unsigned i = 0; i < rounds; i++) {
		size_t size = input->size;

		memcpy(data, input->data, size);
		for (uint64_t changes = 1 + below(&state, 6); changes; changes--)
			size = change(data, size, &state);
		play(data, size);
	}
	free(data);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static void read_file(const char *path, const char *name)
{
	struct input *input = &inputs[input_count++];
	int OB_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	FUZZ_CHECK(fd >= 0 && !fstat(fd, &st), "cannot read %s", path);
	FUZZ_CHECK(input_count < FILES_MAX && st.st_size <= SIZE_MAX_BYTES, "%s: too many files, or it is too large", path);
	input->name = strdup(name);
	input->size = (size_t)st.st_size;
	input->data = malloc(input->size + 1);
	FUZZ_CHECK(input->name && input->data && ob_pread_full(fd, input->data, input->size, 0) == 0, "cannot read %s", path);
}

static void read_directory(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	char file[4096];

	if (!directory && errno == ENOTDIR) {
		read_file(path, path);
		return;
	}
	FUZZ_CHECK(directory, "cannot read the directory %s", path);
	while ((entry = readdir(directory))) {
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (*entry->d_name != '.')
			read_file(file, entry->d_name);
	}
	closedir(directory);
}

static void keep_crash(const char *program)
{
	const char *slash = strrchr(program, '/');
	char path[256];

	snprintf(path, sizeof(path), "crash-%.200s.bin", slash ? slash + 1 : program);
	int OB_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd >= 0 && ob_write_full(fd, played->data, played->size) == 0)
		fprintf(tap, "# the input of %zu bytes is in %s\n", played->size, path);
}

/* Returns whether all went well. */
static int run_case(size_t number, const struct input *input, const char *program)
{
	int status = 0;
	pid_t pid;

	played->count = 0;
	fflush(tap);
	pid = fork();
	FUZZ_CHECK(pid >= 0, "cannot fork");
	if (!pid) {
		play(input->data, input->size);
		play_cut_and_flipped(input);
		play_changed(input);
		exit(EXIT_SUCCESS);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	fprintf(tap, "%sok %zu - %s (%lu inputs)\n", status ? "not " : "", number, input->name, played->count);
	if (status) {
		fprintf(tap, "# ended by %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		keep_crash(program);
	}
	return !status;
}

int main(int argc, char **argv)
{
	int good = 1;

	tap = fdopen(dup(STDOUT_FILENO), "w");
	played = mmap(NULL, sizeof(*played), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	FUZZ_CHECK(tap && played != MAP_FAILED, "no memory");
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--slow")) {
			read_directory(argv[i]);
		} else {
			steps /= 4;
			rounds /= 4;
		}
	}
	if (getenv("OVERBOOK_TEST_LONG"))
		rounds *= LONGER;
	FUZZ_CHECK(input_count, "usage: %s [--slow] DIRECTORY|FILE...", argv[0]);
	qsort(inputs, input_count, sizeof(*inputs), by_name);
	LLVMFuzzerInitialize(&argc, &argv);
	fprintf(tap, "1..%zu\n", input_count);
	for (size_t i = 0; i < input_count; i++)
		good &= run_case(i + 1, &inputs[i], argv[0]);
	fflush(tap);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
