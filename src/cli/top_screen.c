/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The screen of `overbook top`, by ncurses: puts a canvas on the terminal, and turns keys into another view. It waits for keys, for the
 * feed, and for a second, after which it draws again, since it says for how long overbookd has been silent.
 *
 * overbookd may go and come: the rows stay as they were, a line says since when, and another overbookd is announced for
 * NOTE_NS. Changes of the terminal's size arrive as a key. Signals that end a program end it by ncurses' own handlers, which
 * restore the terminal. Colours are used where the terminal has them and NO_COLOR is not set; letters tell the same.
 */
#include "cli/top_screen.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <curses.h>
#include <term.h>

#include "base/clock.h"
#include "cli/top_feed.h"

#define NOTE_NS     (10 * OB_NS_PER_SEC)
#define SILENT_NS   (3 * OB_NS_PER_SEC) /* without an answer for so long is worth a word */
#define REDRAW_MS   1000
#define ESCAPE_MS   50 /* a key's sequence arrives within that; Esc alone is followed by nothing */
#define KEY_ESCAPE  27
#define KEY_REDRAW  ('L' & 0x1f)

struct screen {
	struct ob_top top;
	struct ob_top_view *view;
	struct ob_top_detail detail;
	struct ob_top_canvas canvas;
	struct ob_top_feed *feed;
	uint64_t answered_ns, noted_ns; /* 0: never; the latter: since when another overbookd answers */
	char failure[sizeof(((struct ob_error *)0)->text)];
	attr_t attributes[OB_TOP_STYLES];
	bool is_ended;
};

static const struct {
	attr_t attributes;
	short colour; /* -1: the terminal's own */
} styles[OB_TOP_STYLES] = {
	[OB_TOP_PLAIN] = { A_NORMAL, -1 },
	[OB_TOP_BOLD] = { A_BOLD, -1 },
	[OB_TOP_DIM] = { A_DIM, -1 },
	[OB_TOP_TITLE] = { A_REVERSE, -1 },
	[OB_TOP_SORTED] = { A_REVERSE | A_BOLD | A_UNDERLINE, -1 },
	[OB_TOP_SELECTED] = { A_REVERSE, -1 },
	[OB_TOP_ALARM] = { A_BOLD, COLOR_RED },
	[OB_TOP_IN_PLACE] = { A_NORMAL, COLOR_GREEN },
	[OB_TOP_IS_SHARED] = { A_NORMAL, COLOR_CYAN },
	[OB_TOP_IS_COMPRESSED] = { A_NORMAL, COLOR_YELLOW },
	[OB_TOP_IS_SWAPPED] = { A_NORMAL, COLOR_RED },
	[OB_TOP_IS_BALLOONED] = { A_NORMAL, COLOR_BLUE },
	[OB_TOP_MARK] = { A_BOLD, -1 },
};

static void choose_attributes(struct screen *screen)
{
	const char *no_color = getenv("NO_COLOR");
	bool colours = has_colors() && !(no_color && *no_color) && start_color() == OK && use_default_colors() == OK;

	for (short i = 0; i < OB_TOP_STYLES; i++) {
		screen->attributes[i] = styles[i].attributes;
		if (colours && styles[i].colour >= 0 && init_pair(i + 1, styles[i].colour, -1) == OK)
			screen->attributes[i] |= (attr_t)COLOR_PAIR(i + 1);
	}
}

static void show_canvas(const struct screen *screen)
{
	const struct ob_top_canvas *canvas = &screen->canvas;

	erase();
	for (unsigned y = 0; y < canvas->height; y++)
		for (unsigned x = 0, end; x < canvas->width; x = end) {
			const unsigned char *row = canvas->styles + (size_t)y * canvas->width;

			for (end = x + 1; end < canvas->width && row[end] == row[x]; end++)
				;
			attrset((int)screen->attributes[row[x]]);
			/* Behind the last letter of the last line the cursor has nowhere to go, which is an error of no effect. */
			(void)mvaddnstr((int)y, (int)x, canvas->cells + (size_t)y * canvas->width + x, (int)(end - x));
		}
	refresh();
}

static void choose_message(struct screen *screen)
{
	struct ob_top_view *view = screen->view;
	uint64_t now_ns = ob_now_ns(), silent_ns = ob_top_feed_silent_ns(screen->feed);
	double old = screen->answered_ns ? (double)(now_ns - screen->answered_ns) / 1e9 : 0;

	view->is_alarm = *screen->failure || silent_ns > SILENT_NS;
	if (*screen->failure && screen->answered_ns)
		snprintf(view->message, sizeof(view->message), "As it was %.0f s ago: %.200s", old, screen->failure);
	else if (*screen->failure)
		snprintf(view->message, sizeof(view->message), "%.200s", screen->failure);
	else if (silent_ns > SILENT_NS)
		snprintf(view->message, sizeof(view->message), "overbookd has not answered for %.0f s", (double)silent_ns / 1e9);
	else if (screen->noted_ns && now_ns - screen->noted_ns < NOTE_NS)
		snprintf(view->message, sizeof(view->message), "Another overbookd answers now, pid %" PRIu64, screen->top.host.pid);
	else
		*view->message = '\0';
}

static int draw(struct screen *screen)
{
	int r = ob_top_canvas_reset(&screen->canvas, (unsigned)OB_MAX(COLS, 1), (unsigned)OB_MAX(LINES, 1));

	if (r < 0)
		return r;
	choose_message(screen);
	ob_top_draw(&screen->canvas, &screen->top, screen->view, &screen->detail);
	show_canvas(screen);
	return 0;
}

static void take_news(struct screen *screen)
{
	struct ob_top_news news;
	uint64_t pid = screen->top.host.pid;

	if (!ob_top_feed_take(screen->feed, &news))
		return;
	if (news.failure == 0)
		news.failure = ob_top_take(&screen->top, news.list, &news.err);
	snprintf(screen->failure, sizeof(screen->failure), "%s", news.failure < 0 ? news.err.text : "");
	if (news.failure == 0) {
		screen->answered_ns = ob_now_ns();
		if (pid && screen->top.host.pid != pid)
			screen->noted_ns = screen->answered_ns;
		ob_top_sort(&screen->top, screen->view->key, screen->view->reverse);
		if (news.detail)
			ob_top_take_detail(&screen->detail, news.detail);
	}
	ob_top_news_free(&news);
}

static void sort_by(struct screen *screen, enum ob_top_key key, bool reverse)
{
	screen->view->key = key;
	screen->view->reverse = reverse;
	ob_top_sort(&screen->top, key, reverse);
}

static void show_machine(struct screen *screen, const char *name)
{
	struct ob_top_view *view = screen->view;

	snprintf(view->shown, sizeof(view->shown), "%s", name);
	view->since_opened = false;
	screen->detail = (struct ob_top_detail){ 0 };
	ob_top_feed_watch(screen->feed, name);
}

static void obey_in_list(struct screen *screen, int key)
{
	struct ob_top_view *view = screen->view;
	long page = ob_top_list_lines((unsigned)OB_MAX(LINES, 1)), all = (long)screen->top.count;

	switch (key) {
	case KEY_UP: case 'k': ob_top_move(view, &screen->top, -1); break;
	case KEY_DOWN: case 'j': ob_top_move(view, &screen->top, 1); break;
	case KEY_PPAGE: ob_top_move(view, &screen->top, -page); break;
	case KEY_NPAGE: ob_top_move(view, &screen->top, page); break;
	case KEY_HOME: ob_top_move(view, &screen->top, -all); break;
	case KEY_END: ob_top_move(view, &screen->top, all); break;
	case KEY_LEFT: case '<': sort_by(screen, (view->key + OB_TOP_KEYS - 1) % OB_TOP_KEYS, view->reverse); break;
	case KEY_RIGHT: case '>': sort_by(screen, (view->key + 1) % OB_TOP_KEYS, view->reverse); break;
	case 'r': sort_by(screen, view->key, !view->reverse); break;
	case 'n': sort_by(screen, OB_TOP_NAME, false); break;
	case 'c': sort_by(screen, OB_TOP_COST, false); break;
	case 'f': sort_by(screen, OB_TOP_FAULTS, false); break;
	case 's': sort_by(screen, OB_TOP_SWAP_IN, false); break;
	case '\n': case '\r': case KEY_ENTER:
		ob_top_move(view, &screen->top, 0);
		if (screen->top.count)
			show_machine(screen, view->selected);
		break;
	default: break;
	}
}

static void obey(struct screen *screen, int key)
{
	if (key == 'q' || key == 'Q')
		screen->is_ended = true;
	else if (key == KEY_REDRAW)
		clearok(curscr, TRUE);
	else if (!*screen->view->shown)
		obey_in_list(screen, key);
	else if (key == 't')
		screen->view->since_opened = !screen->view->since_opened;
	else if (key == KEY_ESCAPE || key == KEY_BACKSPACE || key == KEY_LEFT)
		show_machine(screen, "");
}

static int loop(struct screen *screen)
{
	struct pollfd sources[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN }, { .fd = ob_top_feed_fd(screen->feed), .events = POLLIN },
	};
	int r = 0, key;

	while (r == 0 && !screen->is_ended) {
		r = draw(screen);
		if (poll(sources, OB_ARRAY_LEN(sources), REDRAW_MS) < 0)
			sources[0].revents = sources[1].revents = 0; /* a signal: its key is there */
		if (sources[1].revents)
			take_news(screen);
		while (!screen->is_ended && (key = getch()) != ERR)
			obey(screen, key);
		if (sources[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			screen->is_ended = true;
	}
	return r;
}

/* Whether the terminal can be drawn on: its type is known, and the cursor goes where it is sent. */
static bool can_draw(void)
{
	int status;
	const char *move;

	if (setupterm(NULL, STDOUT_FILENO, &status) != OK)
		return false;
	move = tigetstr("cup");
	return move && move != (char *)-1;
}

int ob_top_screen_run(struct ob_top_view *view, struct ob_error *err)
{
	struct screen screen = { .view = view };
	SCREEN *terminal = NULL;
	int r;

	if (can_draw())
		terminal = newterm(NULL, stdout, stdin);
	if (!terminal)
		return -ENOTSUP;
	r = ob_top_feed_start(&screen.feed, view->seconds, err);
	if (r == 0) {
		choose_attributes(&screen);
		cbreak();
		noecho();
		curs_set(0);
		keypad(stdscr, TRUE);
		nodelay(stdscr, TRUE);
		set_escdelay(ESCAPE_MS);
		r = loop(&screen);
		if (r < 0)
			(void)ob_error_sys(err, -r, "cannot draw");
	}
	endwin();
	delscreen(terminal);
	ob_top_clear(&screen.top);
	ob_top_canvas_free(&screen.canvas);
	return r;
}
