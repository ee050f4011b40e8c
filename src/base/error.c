/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void ob_error_one_line(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

static void append(char *buf, size_t size, const char *text)
{
	size_t used = strlen(buf);

	if (used + 1 < size)
		snprintf(buf + used, size - used, "%s", text);
}

int ob_error_set(struct ob_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return -code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	ob_error_one_line(err->text);
	return -code;
}

int ob_error_sys(struct ob_error *err, int code, const char *fmt, ...)
{
	char number[64];
	const char *what;
	va_list ap;

	if (!err)
		return -code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	ob_error_one_line(err->text);
	what = strerror_r(code, number, sizeof(number));
	append(err->text, sizeof(err->text), ": ");
	append(err->text, sizeof(err->text), what ? what : "unknown error");
	return -code;
}

int ob_error_wrap(struct ob_error *err, const char *fmt, ...)
{
	char cause[sizeof(err->text)];
	va_list ap;

	if (!err)
		return -EIO;
	memcpy(cause, err->text, sizeof(cause));
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	ob_error_one_line(err->text);
	if (!err->code) {
		err->code = EIO;
	} else {
		append(err->text, sizeof(err->text), ": ");
		append(err->text, sizeof(err->text), cause);
	}
	return -err->code;
}
