/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook top`: who has how much, and what it costs whom, from moment to moment.
 *
 *     top_model    overbookd's answers become rows and rates                  pure, as
 *     top_page     rows become a page of text: the list, one machine          (top_canvas: what it is drawn on)
 *     top_feed     asks overbookd, in a thread
 *     top_screen   the terminal: ncurses
 *
 * Where there is no terminal, or one that cannot be drawn on, and with --once: asks twice, since rates need that, and prints one table.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/option.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/top_feed.h"
#include "cli/top_screen.h"

#define SECONDS_DEFAULT 2
#define SECONDS_MIN     0.2
#define SECONDS_MAX     3600

enum { OPTION_ONCE = 256, OPTION_JSON, OPTION_INTERVAL, OPTION_SORT, OPTION_REVERSE };

static const struct option long_options[] = {
	{ "once", no_argument, NULL, OPTION_ONCE },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "interval", required_argument, NULL, OPTION_INTERVAL },
	{ "sort", required_argument, NULL, OPTION_SORT },
	{ "reverse", no_argument, NULL, OPTION_REVERSE },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static const char help[] =
	"Usage: overbook top [--once] [--json] [--interval SECONDS] [--sort KEY] [--reverse]\n"
	"Shows what machines cost, where their memory is, and how often they have to wait for it.\n\n"
	"  --once              print one table and end, as it does without a terminal\n"
	"  --json              print one object and end\n"
	"  --interval SECONDS  between two looks, 0.2 to 3600; default: 2\n"
	"  --sort KEY          order of the machines, by default cost:\n"
	"                      ";

static void print_help(void)
{
	fputs(help, stdout);
	for (int i = 0; i < OB_TOP_KEYS; i++)
		printf("%s%s", i == 0 ? "" : i == OB_TOP_KEYS / 2 ? ",\n                      " : ", ", ob_top_columns[i].key);
	puts("\n  --reverse           the other way round");
}

static int parse_seconds(const char *text, double *ret_seconds)
{
	char *end;
	double seconds = strtod(text, &end);

	if (!*text || *end || !(seconds >= SECONDS_MIN && seconds <= SECONDS_MAX))
		return -EINVAL;
	*ret_seconds = seconds;
	return 0;
}

struct choices {
	struct ob_top_view view;
	bool once, json, help;
};

/* Returns OB_EXIT_OK, or OB_EXIT_USAGE when it has said what is wrong. */
static int parse_options(int argc, char **argv, struct choices *choices)
{
	int letter, key;

	optind = 0;
	while ((letter = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
		switch (letter) {
		case OPTION_ONCE: choices->once = true; break;
		case OPTION_JSON: choices->json = true; break;
		case OPTION_REVERSE: choices->view.reverse = true; break;
		case OPTION_INTERVAL:
			if (parse_seconds(optarg, &choices->view.seconds) < 0)
				return ob_cli_fail(OB_EXIT_USAGE, "--interval \"%s\" is not a number of seconds from 0.2 to 3600", optarg);
			break;
		case OPTION_SORT:
			key = ob_top_key_parse(optarg);
			if (key < 0)
				return ob_cli_fail(OB_EXIT_USAGE, "--sort \"%s\" is no key: \"overbook top --help\" lists them", optarg);
			choices->view.key = (enum ob_top_key)key;
			break;
		case 'h': choices->help = true; return OB_EXIT_OK;
		default:
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known or lacks its value: see \"overbook top --help\"",
					   ob_option_refused(argv));
		}
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: there are only options", argv[optind]);
	return OB_EXIT_OK;
}

static void wait_for(double seconds)
{
	struct timespec left = { .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

/* Asks, and takes it in. The answer is kept in *news. Returns 0, or a failure as of ob_client_call(). */
static int look(struct ob_top *top, struct ob_top_news *news)
{
	ob_top_feed_ask("", news);
	return news->failure < 0 ? news->failure : ob_top_take(top, news->list, &news->err);
}

static void print_json(const struct ob_top *top, json_t *answer)
{
	json_t *machine;
	size_t i;

	/* Rows are in the order of the answer: they were not sorted. Without memory a member is missing. */
	json_array_foreach(json_object_get(answer, "machines"), i, machine)
		(void)json_object_set_new(machine, "rates", ob_top_render_rates(&top->rows[i].rates));
	(void)json_object_set_new(answer, "rates", ob_top_render_rates(&top->host.rates));
	ob_client_print_json(answer);
}

static int print_table(struct ob_top *top, struct ob_top_view *view)
{
	struct ob_top_canvas canvas = { 0 };
	struct winsize size;
	unsigned width = OB_TOP_ALL_COLUMNS;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
		width = size.ws_col;
	if (ob_top_canvas_reset(&canvas, width, ob_top_plain_height(top)) < 0)
		return ob_cli_fail(OB_EXIT_FAILED, "no memory for the table");
	view->plain = true;
	ob_top_sort(top, view->key, view->reverse);
	ob_top_draw(&canvas, top, view, NULL);
	for (unsigned y = 0, last = 0; y < canvas.height; y++) {
		if (!ob_top_row_length(&canvas, y))
			continue;
		/* Blank lines are for screens; one stays, between the host and the machines. */
		if (y > last + 1)
			putchar('\n');
		printf("%.*s\n", (int)ob_top_row_length(&canvas, y), canvas.cells + (size_t)y * canvas.width);
		last = y;
	}
	ob_top_canvas_free(&canvas);
	return OB_EXIT_OK;
}

static int look_once(struct ob_top_view *view, bool json)
{
	struct ob_top_news news;
	struct ob_top top = { 0 };
	int r = look(&top, &news), code;

	if (r == 0) {
		ob_top_news_free(&news);
		wait_for(view->seconds);
		r = look(&top, &news);
	}
	if (r < 0)
		code = ob_cli_fail(ob_client_exit_code(r), "%s", news.err.text);
	else if (json)
		print_json(&top, news.list), code = OB_EXIT_OK;
	else
		code = print_table(&top, view);
	ob_top_news_free(&news);
	ob_top_clear(&top);
	return code;
}

int ob_cmd_top(int argc, char **argv)
{
	struct choices choices = { .view = { .key = OB_TOP_COST, .seconds = SECONDS_DEFAULT } };
	struct ob_error err = { 0 };
	int code = parse_options(argc, argv, &choices), r;

	if (code != OB_EXIT_OK)
		return code;
	if (choices.help) {
		print_help();
		return OB_EXIT_OK;
	}
	if (choices.once || choices.json || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
		return look_once(&choices.view, choices.json);
	r = ob_top_screen_run(&choices.view, &err);
	if (r == -ENOTSUP)
		return look_once(&choices.view, false);
	return r < 0 ? ob_cli_fail(OB_EXIT_FAILED, "%s", err.text) : OB_EXIT_OK;
}
