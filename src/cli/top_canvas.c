/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/top_canvas.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

int ob_top_canvas_reset(struct ob_top_canvas *canvas, unsigned width, unsigned height)
{
	size_t size;
	char *cells;

	width = OB_MAX(width, 1u);
	height = OB_MAX(height, 1u);
	size = (size_t)width * height;
	if (width != canvas->width || height != canvas->height) {
		cells = malloc(2 * size);
		if (!cells)
			return -ENOMEM;
		free(canvas->cells);
		*canvas = (struct ob_top_canvas){ width, height, cells, (unsigned char *)cells + size };
	}
	memset(canvas->cells, ' ', size);
	memset(canvas->styles, OB_TOP_PLAIN, size);
	return 0;
}

void ob_top_canvas_free(struct ob_top_canvas *canvas)
{
	free(canvas->cells);
	*canvas = (struct ob_top_canvas){ 0 };
}

unsigned ob_top_put(struct ob_top_canvas *canvas, unsigned y, unsigned x, enum ob_top_style style, const char *fmt, ...)
{
	char text[512];
	size_t length, room = x < canvas->width && y < canvas->height ? canvas->width - x : 0;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ob_text_clean(text, sizeof(text), text);
	length = strlen(text);
	if (room) {
		memcpy(canvas->cells + (size_t)y * canvas->width + x, text, OB_MIN(length, room));
		memset(canvas->styles + (size_t)y * canvas->width + x, style, OB_MIN(length, room));
	}
	return x + (unsigned)length;
}

void ob_top_paint(struct ob_top_canvas *canvas, unsigned y, enum ob_top_style style)
{
	if (y < canvas->height)
		memset(canvas->styles + (size_t)y * canvas->width, style, canvas->width);
}

unsigned ob_top_row_length(const struct ob_top_canvas *canvas, unsigned y)
{
	const char *row = canvas->cells + (size_t)y * canvas->width;
	unsigned length = y < canvas->height ? canvas->width : 0;

	while (length && row[length - 1] == ' ')
		length--;
	return length;
}
