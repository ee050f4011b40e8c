/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `overbook record`: what the machines of this host do, as a trace that `overbook simulate` plays (sim/trace.h).
 *
 * Once in an interval overbookd is asked who is here, and about each one; a line is written for each machine of which
 * something has changed.
 *
 * The file is a trace at any moment: a line is written by one call that appends, and one that was written in part (the disk
 * is full) is cut off again. A file that exists is not touched. What ends it (SIGINT, SIGTERM, --seconds) ends it with the line that
 * says so; what kills it leaves a trace without one, which is one too.
 *
 * overbookd may go and come: nothing is written while it does not answer, and machines do what they did. One that is not
 * there is gone only after GONE_S of answers without it, since a new overbookd knows nobody at first. One that is silent keeps a round
 * waiting, and who is to be asked next is asked in the next round: so an end waits for a minute at most (client.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/record_load.h"
#include "proto/env.h"
#include "proto/wire.h"

#define GONE_S     10u
#define SECONDS_MAX OB_SIM_SECONDS_MAX

static const char usage[] =
	"Usage: overbook record [--seconds N] [--interval S] FILE\n"
	"Writes what the machines of this host do to a new file, for overbook simulate. Ctrl-C ends it.\n"
	"  --seconds N   ends after so long; without it, when it is told to\n"
	"  --interval S  looks once in so many seconds; default: 1\n";

static const struct option long_options[] = {
	{ "seconds", required_argument, NULL, 's' },
	{ "interval", required_argument, NULL, 'i' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

struct recorded {
	char name[OB_NAME_MAX + 1];
	bool is_here;   /* its last line was not that it is gone */
	uint64_t faults, looked_s, seen_s;
	uint64_t missing_s; /* the first answer without it; OB_SIM_NONE: it was in the last one */
	struct ob_sim_load load;
};

struct record {
	const char *path;
	uint64_t seconds, interval; /* seconds 0: no end */
	int fd;
	uint64_t size, started_ns, last_s; /* of the file; the last event */
	struct recorded *machines;
	size_t n;
};

static uint64_t now_s(const struct record *record)
{
	return (ob_now_ns() - record->started_ns) / OB_NS_PER_SEC;
}

/* --- the file --- */

/* Appends a line, which it frees. */
static int write_line(struct record *record, char *line, struct ob_error *err)
{
	size_t length = line ? strlen(line) : 0;
	int r = line ? ob_write_full(record->fd, line, length) : -ENOMEM;

	free(line);
	if (r < 0) {
		/* What was written of it is no line. */
		if (ftruncate(record->fd, (off_t)record->size) < 0)
			return ob_error_sys(err, -r, "\"%s\" ends in a part of a line: cannot write", record->path);
		return ob_error_sys(err, -r, "cannot write \"%s\"", record->path);
	}
	record->size += length;
	return 0;
}

static int write_event(struct record *record, struct ob_sim_event event, struct recorded *machine, const struct ob_sim_load *before,
		       struct ob_error *err)
{
	record->last_s = event.second;
	return write_line(record, ob_sim_write_event(&event, machine ? machine->name : NULL, before), err);
}

static int begin(struct record *record, struct ob_error *err)
{
	struct ob_sim_header header = { .hosts = 1 };
	json_t *answer;
	int r = ob_client_call("ps", NULL, NULL, NULL, &answer, err);

	if (r < 0)
		return r;
	header.budget_bytes = ob_client_number(answer, "budget_bytes");
	json_decref(answer);
	if (header.budget_bytes < OB_LIMIT_MIN || header.budget_bytes > OB_SIM_RAM_MAX)
		header.budget_bytes = 0;
	record->fd = open(record->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
	if (record->fd < 0 && errno == EEXIST)
		return ob_error_set(err, EEXIST, "\"%s\" exists: name a file that does not", record->path);
	if (record->fd < 0)
		return ob_error_sys(err, errno, "cannot create \"%s\"", record->path);
	return write_line(record, ob_sim_write_header(&header), err);
}

/* --- looks --- */

static struct recorded *find(struct record *record, const char *name)
{
	struct recorded *machines;

	for (size_t i = 0; i < record->n; i++)
		if (!strcmp(record->machines[i].name, name))
			return &record->machines[i];
	if (!ob_name_valid(name))
		return NULL;
	machines = realloc(record->machines, (record->n + 1) * sizeof(*machines));
	if (!machines)
		return NULL;
	record->machines = machines;
	machines[record->n] = (struct recorded){ .faults = OB_SIM_NONE, .missing_s = OB_SIM_NONE };
	memcpy(machines[record->n].name, name, strlen(name) + 1);
	return &machines[record->n++];
}

/* Writes what has changed about a machine. Returns 0, 1 when overbookd answers no more, or -errno. */
static int look_at(struct record *record, const char *name, uint64_t second, struct ob_error *err)
{
	struct recorded *machine = find(record, name);
	struct ob_sim_event event = { .second = second, .kind = OB_SIM_LOAD };
	struct ob_error lost = { 0 };
	json_t *answer;
	int r;

	if (!machine)
		return 0;
	machine->seen_s = second;
	machine->missing_s = OB_SIM_NONE;
	r = ob_client_call("stats", json_pack("{s:s}", "name", name), NULL, NULL, &answer, &lost);
	/* One that has gone since: the next look tells. */
	if (r < 0)
		return r == -ENOENT ? 0 : 1;
	r = ob_record_load(answer, second - machine->looked_s, &machine->faults, &event.load);
	json_decref(answer);
	if (r < 0)
		return 0;
	machine->looked_s = second;
	if (machine->is_here && !memcmp(&event.load, &machine->load, sizeof(event.load)))
		return 0;
	r = write_event(record, event, machine, machine->is_here ? &machine->load : NULL, err);
	machine->is_here = true;
	machine->load = event.load;
	return r;
}

static int note_gone(struct record *record, uint64_t second, struct ob_error *err)
{
	for (size_t i = 0; i < record->n; i++) {
		struct recorded *machine = &record->machines[i];
		int r;

		if (!machine->is_here || machine->seen_s == second)
			continue;
		if (machine->missing_s == OB_SIM_NONE)
			machine->missing_s = second;
		if (second < machine->missing_s + GONE_S)
			continue;
		r = write_event(record, (struct ob_sim_event){ .second = second, .kind = OB_SIM_GONE }, machine, NULL, err);
		if (r < 0)
			return r;
		machine->is_here = false;
		machine->faults = OB_SIM_NONE;
	}
	return 0;
}

static int look(struct record *record, struct ob_error *err)
{
	struct ob_error lost = { 0 };
	const json_t *row;
	json_t *answer;
	uint64_t second;
	size_t i;
	int r = ob_client_call("ps", NULL, NULL, NULL, &answer, &lost) < 0;

	second = now_s(record);
	if (!r) {
		json_array_foreach(json_object_get(answer, "machines"), i, row) {
			r = look_at(record, ob_client_text(row, "name"), second, err);
			if (r)
				break;
		}
		json_decref(answer);
	}
	if (r <= 0)
		return r < 0 ? r : note_gone(record, second, err);
	/* Nobody is missed while overbookd is. */
	for (i = 0; i < record->n; i++)
		record->machines[i].missing_s = OB_SIM_NONE;
	return 0;
}

/* Waits for the next look. Returns whether to go on. */
static bool wait_for_next(const struct record *record, const sigset_t *ends, uint64_t next_ns)
{
	uint64_t end_ns = record->seconds ? record->started_ns + record->seconds * OB_NS_PER_SEC : UINT64_MAX, until = OB_MIN(next_ns, end_ns);
	int number;

	do {
		uint64_t now = ob_now_ns(), left = ob_less(until, now);
		const struct timespec pause = { .tv_sec = (time_t)(left / OB_NS_PER_SEC), .tv_nsec = (long)(left % OB_NS_PER_SEC) };

		number = sigtimedwait(ends, NULL, &pause);
	} while (number < 0 && errno == EINTR);
	return number < 0 && ob_now_ns() < end_ns;
}

static int go_on(struct record *record, const sigset_t *ends, struct ob_error *err)
{
	uint64_t next_ns = record->started_ns;
	int r;

	do {
		r = look(record, err);
		next_ns = OB_MAX(next_ns + record->interval * OB_NS_PER_SEC, ob_now_ns());
	} while (r == 0 && wait_for_next(record, ends, next_ns) && now_s(record) < SECONDS_MAX);
	if (r < 0)
		return r;
	return write_event(record, (struct ob_sim_event){ .second = OB_MAX(now_s(record), record->last_s + 1), .kind = OB_SIM_END }, NULL, NULL, err);
}

/* --- options --- */

/* Returns 0, an exit code, or -1 when help was asked for. */
static int parse_options(struct record *record, int argc, char **argv)
{
	int letter, r = 0;

	optind = 0;
	while (!r && (letter = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		if (letter == 'h')
			return -1;
		if (letter == 's')
			r = ob_cli_take_count("seconds", optarg, 1, SECONDS_MAX, &record->seconds);
		else if (letter == 'i')
			r = ob_cli_take_count("interval", optarg, 1, 3600, &record->interval);
		else
			r = ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known or lacks its value; see overbook record --help", ob_option_refused(argv));
	}
	if (r)
		return r;
	if (optind == argc)
		return ob_cli_fail(OB_EXIT_USAGE, "the file to write is missing; see overbook record --help");
	record->path = argv[optind++];
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is one word too many: one file is written", argv[optind]);
	return 0;
}

int ob_cmd_record(int argc, char **argv)
{
	struct record record = { .interval = 1, .fd = -1 };
	struct ob_error err = { 0 };
	sigset_t ends;
	int r = parse_options(&record, argc, argv);

	if (r < 0) {
		fputs(usage, stdout);
		return OB_EXIT_OK;
	}
	if (r)
		return r;
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	record.started_ns = ob_now_ns();
	r = begin(&record, &err);
	if (r == 0)
		r = go_on(&record, &ends, &err);
	ob_fd_close(&record.fd);
	free(record.machines);
	if (r < 0)
		return ob_cli_fail(r == -ECONNREFUSED ? OB_EXIT_NO_DAEMON : OB_EXIT_FAILED, "%s", err.text);
	printf("%llu s of %zu machines are in \"%s\"\n", (unsigned long long)now_s(&record), record.n, record.path);
	return OB_EXIT_OK;
}
