/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fuzz.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"

static char directory[64];
static pid_t directory_owner;

void fuzz_fail(const char *file, int line, const char *condition, const char *fmt, ...)
{
	char text[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	dprintf(STDERR_FILENO, "%s:%d: %s does not hold: %s\n", file, line, condition, text);
	abort();
}

char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	FUZZ_CHECK(text, "no memory");
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	return text;
}

int fuzz_step(char **at, char **ret_words, int max)
{
	char *line = strsep(at, "\n");
	int n = 0;

	if (!line)
		return -1;
	while (*line && n < max) {
		line += strspn(line, " ");
		if (!*line)
			break;
		ret_words[n++] = line;
		if (n < max) {
			line += strcspn(line, " ");
			if (*line)
				*line++ = 0;
		}
	}
	return n;
}

const char *fuzz_word(char *const *words, int n, int index)
{
	return index < n ? words[index] : "";
}

uint64_t fuzz_number(char *const *words, int n, int index)
{
	const char *text = fuzz_word(words, n, index), *unit;
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	unit = *end ? strchr("KMGT", *end) : NULL;
	return unit ? value << (10 * (unit - "KMGT" + 1)) : value;
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t fuzz_hex(const char *text, uint8_t *buf, size_t size)
{
	size_t digits = 0;

	for (; *text && digits / 2 < size; text++) {
		int value = digit(*text);

		if (value < 0)
			continue;
		buf[digits / 2] = (uint8_t)(digits & 1 ? buf[digits / 2] << 4 | value : value);
		digits++;
	}
	return digits / 2;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)remove(path);
	return 0;
}

static void remove_directory(void)
{
	if (getpid() == directory_owner)
		nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_directory(void)
{
	if (!*directory) {
		strcpy(directory, "/tmp/overbook-fuzz-XXXXXX");
		FUZZ_CHECK(mkdtemp(directory), "cannot make a directory in /tmp");
		directory_owner = getpid();
		atexit(remove_directory);
	}
	return directory;
}

void fuzz_mute_stdio(void)
{
	FILE *nowhere = fopen("/dev/null", "w");

	FUZZ_CHECK(nowhere, "/dev/null");
	stdout = stderr = nowhere;
}

int fuzz_is_one_line(const char *text)
{
	if (!*text)
		return 0;
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return 0;
	return 1;
}
