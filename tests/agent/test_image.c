/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which reads the agent notes as those of an image: what it says to the engine, which the test plays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "agent/image.c"

#define PAGE 4096u

static int wanted;
static struct {
	const char *addr;
	size_t length;
} notes[8];
static unsigned note_count;
static char memory[4 * PAGE];

int ob_engine_wants_notes(const struct ob_engine *engine)
{
	return wanted;
}

void ob_engine_note_image(struct ob_engine *engine, const void *addr, size_t length)
{
	assert_true(note_count < OB_ARRAY_LEN(notes));
	notes[note_count].addr = addr;
	notes[note_count++].length = length;
}

static int set_up(void **state)
{
	wanted = 1;
	note_count = 0;
	for (unsigned i = 0; i < ENTRIES; i++)
		known[i] = 0;
	return 0;
}

static int a_file(int flags)
{
	char path[] = "/tmp/overbook-image-XXXXXX";
	int writable = mkstemp(path), fd = open(path, flags | O_CLOEXEC);

	assert_true(writable >= 0 && fd >= 0);
	close(writable);
	unlink(path);
	return fd;
}

/* Reads a page; returns how many notes there were. */
static unsigned notes_of(int fd)
{
	struct iovec iov = { memory, PAGE };

	note_count = 0;
	ob_image_has_read(NULL, fd, &iov, 1, PAGE);
	return note_count;
}

static void only_what_cannot_be_written_is_noted(void **state)
{
	int base = a_file(O_RDONLY), own = a_file(O_RDWR), out = a_file(O_WRONLY);

	for (unsigned i = 0; i < 3 * ASK_EVERY; i++) {
		assert_int_equal(notes_of(base), 1);
		assert_int_equal(notes_of(own), 0);
		assert_int_equal(notes_of(out), 0);
	}
	assert_int_equal(notes_of(-1), 0);
	wanted = 0;
	assert_int_equal(notes_of(base), 0);
	close(base);
	close(own);
	close(out);
}

static void as_much_as_was_read(void **state)
{
	const struct iovec iov[] = { { memory, PAGE }, { memory + 2 * PAGE, PAGE }, { memory + PAGE, PAGE } };
	int fd = a_file(O_RDONLY);

	ob_image_has_read(NULL, fd, iov, 3, PAGE + 100);
	assert_int_equal(note_count, 2);
	assert_ptr_equal(notes[0].addr, memory);
	assert_int_equal(notes[0].length, PAGE);
	assert_ptr_equal(notes[1].addr, memory + 2 * PAGE);
	assert_int_equal(notes[1].length, 100);
	close(fd);
}

/* A descriptor's number that is used again, and numbers that have one entry: the answer is right at last. */
static void numbers_that_are_used_again(void **state)
{
	int base = a_file(O_RDONLY), own = a_file(O_RDWR), other;
	unsigned wrong = 0;

	assert_int_equal(notes_of(base), 1);
	assert_int_equal(dup3(own, base, O_CLOEXEC), base);
	while (notes_of(base))
		assert_true(++wrong < ASK_EVERY);
	other = fcntl(own, F_DUPFD_CLOEXEC, base + (int)ENTRIES);
	assert_int_equal(other, base + (int)ENTRIES);
	close(base);
	base = a_file(O_RDONLY);
	assert_int_equal((unsigned)base % ENTRIES, (unsigned)other % ENTRIES);
	assert_int_equal(notes_of(other), 0);
	assert_int_equal(notes_of(base), 1);
	assert_int_equal(notes_of(other), 0);
	close(base);
	close(own);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(only_what_cannot_be_written_is_noted, set_up),
		cmocka_unit_test_setup(as_much_as_was_read, set_up),
		cmocka_unit_test_setup(numbers_that_are_used_again, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
