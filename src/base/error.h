/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Errors: one convention for the whole project.
 *
 * Data plane (engine, kern): functions return 0 or more on success, or -errno, and leave their outputs
 * alone on failure. They say nothing.
 *
 * Control plane (cli, daemon, set-up code): the same return value, and a struct ob_error that holds the
 * first cause and, in front of it, the chain of what was being done:
 *
 *     cannot start machine "web": cannot open swap directory "/srv/swap": No such file or directory
 *
 * A function either returns an error or logs it, never both. A NULL struct ob_error is allowed everywhere
 * and means that the caller does not want the text.
 */
#ifndef OB_BASE_ERROR_H
#define OB_BASE_ERROR_H

#include <stdarg.h>

#include "base/compiler.h"

struct ob_error {
	int code;       /* a positive errno value; 0 while nothing has failed */
	char text[768]; /* one line, no newline at its end; cut, never overrun; control characters of what is quoted are '?' */
};

/* Records the first cause: code is a positive errno. The text is used as given; strerror is not added. Returns -code. */
int ob_error_set(struct ob_error *err, int code, const char *fmt, ...) OB_PRINTF(3, 4);

/* As ob_error_set, and appends ": " and the description of code. Returns -code. */
int ob_error_sys(struct ob_error *err, int code, const char *fmt, ...) OB_PRINTF(3, 4);

/* Puts "what was being done: " in front of what is recorded. Returns -err->code (or -EIO where nothing was recorded). */
int ob_error_wrap(struct ob_error *err, const char *fmt, ...) OB_PRINTF(2, 3);

/* Puts '?' in the place of control characters (newlines, escapes), as is done to every error: for texts that quote what others wrote. */
void ob_error_one_line(char *text);

#endif
