/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pages of `overbook top`, drawn from what it knows. No I/O.
 *
 * The list has the host in its first lines, then a row a machine, then a legend and the keys. Columns that do not fit are left
 * out by their rank; what is left of the width is the bar, which shows where a machine's RAM is:
 *
 *     # in place or on the bench   = shared   : compressed   . swapped   o ballooned   blank: zero, or never touched
 *     | its limit   + what it is entitled to: both of what it may cost, on the scale of its RAM
 *
 * The page of a machine has the same about one, the latency of its faults by kind, and its working set over time. Latency is
 * shown as a row a kind: the darker a letter of SHADES, the more faults took that long.
 *
 * As plain text the list has all machines and all columns that fit into the canvas, and neither selection nor keys.
 */
#ifndef OB_CLI_TOP_PAGE_H
#define OB_CLI_TOP_PAGE_H

#include "cli/top_canvas.h"
#include "cli/top_model.h"

#define OB_TOP_ALL_COLUMNS 210 /* a width that has room for all of them */

/* How one looks at it. */
struct ob_top_view {
	enum ob_top_key key;
	bool reverse, plain;
	char selected[OB_NAME_MAX + 1]; /* a machine; "": the row, whichever machine that is, since nobody has chosen one */
	size_t selected_row;            /* where it was last */
	size_t first;                 /* the first row on the screen */
	char shown[OB_NAME_MAX + 1];  /* whose page it is; "": the list */
	bool since_opened;            /* the page's latencies: of faults since it was opened, not since the machine started */
	double seconds;               /* between two answers */
	char message[256];            /* "": none */
	bool is_alarm;
};

/* The answer to `stats` about the machine of a page, and the one with which the page was opened. */
struct ob_top_detail {
	char name[OB_NAME_MAX + 1];
	uint64_t pid;
	bool is_known;
	struct ob_hists hists, at_first;
};

/* Takes in an answer to `stats`; about another machine it begins anew. */
void ob_top_take_detail(struct ob_top_detail *detail, const json_t *answer);

/* Moves the selection by so many rows. The list must be sorted; so below. */
void ob_top_move(struct ob_top_view *view, const struct ob_top *top, long rows);

/* How many rows of the list fit on so many lines. */
unsigned ob_top_list_lines(unsigned height);

/* How many lines the whole list takes as plain text. */
unsigned ob_top_plain_height(const struct ob_top *top);

/* Draws the view; its selection and first row are moved to where they can be. detail may be NULL. */
void ob_top_draw(struct ob_top_canvas *canvas, const struct ob_top *top, struct ob_top_view *view, const struct ob_top_detail *detail);

/* A machine's bar, of width letters and NUL. */
void ob_top_bar(char *buf, unsigned width, const struct ob_top_row *row);

/* Short texts of at most 7 letters: "512M", "1.5G"; a rate, "-" when it is not known; a latency. Return buf. */
#define OB_TOP_SHORT 24
char *ob_top_size(char buf[OB_TOP_SHORT], double bytes);
char *ob_top_rate(char buf[OB_TOP_SHORT], double rate);
char *ob_top_time(char buf[OB_TOP_SHORT], uint64_t ns);

#endif
