/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A fuzz target is a program fuzz_NAME.c with one function, LLVMFuzzerTestOneInput(), that takes any bytes, gives them to
 * the code and checks what must hold for every input. It is linked in two ways: with driver.c, which replays the corpus
 * in corpus/NAME and small changes of it (suite fuzz), and with clang's libFuzzer, which looks for new inputs (make fuzz).
 *
 * An input is text wherever that is possible, so that a corpus can be written and read: words, lines of JSON, or a script
 * of one step a line, "LETTER ARGUMENT ARGUMENT...".
 */
#ifndef OB_FUZZ_H
#define OB_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

/* In both ways of linking. Returns 0. */
OB_EXPORT int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Called once, before the first input; driver.c forks afterwards. Optional: driver.c has a weak one. */
OB_EXPORT int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What must hold: says what does not, and aborts, which is what both drivers wait for. */
#define FUZZ_CHECK(condition, fmt, ...)                                                                             \
	do {                                                                                                        \
		if (!(condition))                                                                                   \
			fuzz_fail(__FILE__, __LINE__, #condition, fmt "%.0s", ##__VA_ARGS__, "");                   \
	} while (0)
void fuzz_fail(const char *file, int line, const char *condition, const char *fmt, ...) OB_PRINTF(4, 5)
	__attribute__((noreturn));

/* The input as text: a copy with NUL at its end, on the heap so that a sanitizer sees every byte beyond it. */
char *fuzz_text(const uint8_t *data, size_t size);

/*
 * The next step of a script. *at moves behind its line; ret_words gets its words, cut in place (at most max; the last one
 * holds the rest of the line). Returns how many there are, 0 for an empty line, or -1 at the end.
 */
int fuzz_step(char **at, char **ret_words, int max);

/* A decimal number, K M G T behind it allowed; 0 for anything else, and for index >= n. */
uint64_t fuzz_number(char *const *words, int n, int index);
/* A word, "" for index >= n. */
const char *fuzz_word(char *const *words, int n, int index);
/* Hexadecimal digits as bytes, up to size; others are skipped. Returns how many bytes. */
size_t fuzz_hex(const char *text, uint8_t *buf, size_t size);

/* A private directory, removed with everything in it at exit of the process that made it. */
const char *fuzz_directory(void);

/* What the code under test prints goes nowhere; file descriptors 1 and 2 stay as they are. */
void fuzz_mute_stdio(void);

/* Whether text is one line that a terminal can be shown: no control characters. */
int fuzz_is_one_line(const char *text);

#endif
