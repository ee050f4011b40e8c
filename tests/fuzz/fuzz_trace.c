/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Traces that somebody else has written: any bytes, to the reader; what it takes is played under every rule for a few seconds.
 *
 * What must hold: an error is one line that names the trace and a line of it; what is read passes the check, does not go
 * back in time, and is the same after it was written and read again; no rule breaks down at it, and what is measured are
 * numbers. (That the budget holds is test_sim_rules.c's: a machine whose tables alone are more than the budget is a trace
 * too.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "fuzz.h"
#include "sim/sim.h"

#define SECONDS  24u
#define MACHINES 64u /* more of them are only read */

static int here[MACHINES];

/* The line that a writer would write says the same. */
static void check_event(const struct ob_sim_event *event)
{
	static const struct ob_sim_header header = { .hosts = 1 };
	char *head = ob_sim_write_header(&header), *line, *text;
	struct ob_sim_event again;
	struct ob_sim_reader *reader;
	FILE *file;

	if (event->kind == OB_SIM_LOAD)
		FUZZ_CHECK(ob_sim_load_check(&event->load, NULL) == 0, "a load that cannot be");
	line = ob_sim_write_event(event, "m", NULL);
	FUZZ_CHECK(head && line && strlen(line) < OB_SIM_LINE_MAX, "%s", line);
	FUZZ_CHECK(asprintf(&text, "%s%s", head, line) > 0, "memory");
	file = fmemopen(text, strlen(text), "r");
	FUZZ_CHECK(file && ob_sim_reader_open(file, "again", &reader, NULL) == 0, "%s", head);
	/* Whether one that goes was here is not this line's to say. */
	if (event->kind != OB_SIM_GONE) {
		FUZZ_CHECK(ob_sim_reader_source(reader)->next(ob_sim_reader_source(reader), &again, NULL) == 0, "%s", line);
		FUZZ_CHECK(again.second == event->second && again.kind == event->kind, "%s", line);
		FUZZ_CHECK(event->kind == OB_SIM_END || !memcmp(&again.load, &event->load, sizeof(again.load)), "%s", line);
	}
	ob_sim_reader_close(reader);
	fclose(file);
	free(text);
	free(line);
	free(head);
}

static void check_error(const struct ob_error *err)
{
	FUZZ_CHECK(!strncmp(err->text, "trace \"fuzz\": line ", 19) && fuzz_is_one_line(err->text), "\"%s\"", err->text);
}

/* What has been read is also played. */
struct played {
	struct ob_sim_source source;
	struct ob_sim_source *from;
	uint64_t second;
};

static int next(struct ob_sim_source *source, struct ob_sim_event *ret_event, struct ob_error *err)
{
	struct played *played = (struct played *)source;
	int r = played->from->next(played->from, ret_event, err);

	if (r < 0)
		return r;
	check_event(ret_event);
	FUZZ_CHECK(ret_event->second >= played->second && ret_event->second <= OB_SIM_SECONDS_MAX + 1, "second %llu",
		   (unsigned long long)ret_event->second);
	played->second = ret_event->second;
	if (ret_event->kind != OB_SIM_END && ret_event->machine < MACHINES) {
		FUZZ_CHECK(ret_event->kind == OB_SIM_LOAD || here[ret_event->machine], "one goes that is not here");
		here[ret_event->machine] = ret_event->kind == OB_SIM_LOAD;
	}
	return 0;
}

static int is_enough(void *context, uint64_t second)
{
	return second + 1 >= SECONDS;
}

static void play(struct ob_sim_reader *reader)
{
	const struct ob_sim_header *header = ob_sim_reader_header(reader);
	struct played played = { .source.next = next, .from = ob_sim_reader_source(reader) };
	struct ob_sim *sims[OB_SIM_RULES];
	struct ob_error err = { 0 };
	int r;

	for (size_t i = 0; i < OB_SIM_RULES; i++)
		FUZZ_CHECK(ob_sim_create(ob_sim_rules[i], OB_MIN(header->hosts, 4u), header->budget_bytes ? header->budget_bytes : OB_GIB, 1, &sims[i]) == 0,
			   "memory");
	r = ob_sim_play(&played.source, sims, OB_SIM_RULES, is_enough, NULL, &err);
	FUZZ_CHECK(r >= 0 || *err.text, "%d", r);
	if (r < 0)
		check_error(&err);
	for (size_t i = 0; i < OB_SIM_RULES; i++) {
		struct ob_sim_result result;

		ob_sim_measure(sims[i], &result);
		FUZZ_CHECK(result.slowdown_mean >= 1 && result.slowdown_mean <= 1000 && result.fairness >= 0 && result.fairness <= 1.0001,
			   "%f %f", result.slowdown_mean, result.fairness);
		FUZZ_CHECK(result.swapped_out_bytes >= 0 && result.excess_bytes >= 0, "%f", result.swapped_out_bytes);
		ob_sim_destroy(sims[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ob_sim_reader *reader;
	struct ob_error err = { 0 };
	FILE *file;
	char *text;

	if (!size)
		return 0;
	memset(here, 0, sizeof(here));
	text = fuzz_text(data, size);
	file = fmemopen(text, size, "r");
	if (ob_sim_reader_open(file, "fuzz", &reader, &err) < 0) {
		check_error(&err);
	} else {
		play(reader);
		ob_sim_reader_close(reader);
	}
	fclose(file);
	free(text);
	return 0;
}
