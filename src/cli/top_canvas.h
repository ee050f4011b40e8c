/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A page of text with styles, as `overbook top` draws it, before it becomes a screen or lines. What does not fit is cut off. */
#ifndef OB_CLI_TOP_CANVAS_H
#define OB_CLI_TOP_CANVAS_H

#include <stddef.h>

#include "base/compiler.h"

enum ob_top_style {
	OB_TOP_PLAIN, OB_TOP_BOLD, OB_TOP_DIM, OB_TOP_TITLE, OB_TOP_SORTED, OB_TOP_SELECTED, OB_TOP_ALARM,
	OB_TOP_IN_PLACE, OB_TOP_IS_SHARED, OB_TOP_IS_COMPRESSED, OB_TOP_IS_SWAPPED, OB_TOP_IS_BALLOONED, OB_TOP_MARK,
	OB_TOP_STYLES
};

struct ob_top_canvas {
	unsigned width, height;
	char *cells;           /* height rows of width characters, each printable ASCII */
	unsigned char *styles; /* enum ob_top_style */
};

/* Makes it so large (0 counts as 1), and blank. Returns 0, or -ENOMEM; then it is as it was. */
int ob_top_canvas_reset(struct ob_top_canvas *canvas, unsigned width, unsigned height) OB_MUST_CHECK;
void ob_top_canvas_free(struct ob_top_canvas *canvas);

/* Writes text; returns the column behind it, also where it was cut off. Bytes that are no printable ASCII become '?'. */
unsigned ob_top_put(struct ob_top_canvas *canvas, unsigned y, unsigned x, enum ob_top_style style, const char *fmt, ...) OB_PRINTF(5, 6);

/* Gives a row one style. */
void ob_top_paint(struct ob_top_canvas *canvas, unsigned y, enum ob_top_style style);

/* How much of a row is not blank at its end. */
unsigned ob_top_row_length(const struct ob_top_canvas *canvas, unsigned y);

#endif
