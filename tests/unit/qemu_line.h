/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the tests of QEMU's command line: makes a plan from a line as one would type it. */
#ifndef OB_TEST_QEMU_LINE_H
#define OB_TEST_QEMU_LINE_H

#include "test.h"

#include <stdio.h>
#include <string.h>

#include "cli/qemu_args.h"

#define TEST_DIR "/run/overbook/machines/t"

struct qemu_line {
	struct ob_qemu_opts opts;
	struct ob_qemu_plan plan;
	struct ob_error err;
	char text[8192];
	char *argv[256];
	int argc;
	int parsed; /* what ob_qemu_opts_parse() said */
};

/* Splits at spaces; single quotes keep them. */
static inline void qemu_line_split(struct qemu_line *line, const char *text)
{
	char *out = line->text;

	assert_true(strlen(text) < sizeof(line->text));
	line->argc = 0;
	while (*text) {
		int quoted = 0;

		line->argv[line->argc++] = out;
		for (; *text && (quoted || *text != ' '); text++) {
			if (*text == '\'')
				quoted = !quoted;
			else
				*out++ = *text;
		}
		*out++ = 0;
		while (*text == ' ')
			text++;
	}
	line->argv[line->argc] = NULL;
}

static inline void qemu_line_plan_for(struct qemu_line *line, const char *text, const struct ob_qemu_plan_config *config)
{
	memset(line, 0, sizeof(*line));
	qemu_line_split(line, text);
	line->parsed = ob_qemu_opts_parse(&line->opts, line->argc, line->argv, &line->err);
	if (!line->parsed)
		ob_qemu_plan_make(&line->opts, config, &line->plan);
}

static inline void qemu_line_plan(struct qemu_line *line, const char *text)
{
	static const struct ob_qemu_plan_config config = { .target = "x86_64", .dir = TEST_DIR };

	qemu_line_plan_for(line, text, &config);
}

static inline const char *qemu_line_result(struct qemu_line *line)
{
	return line->plan.argv ? ob_qemu_quote(&line->opts.arena, line->plan.argv) : "(refused)";
}

#endif
