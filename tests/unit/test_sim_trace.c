/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Traces: what is written is read back, and what is wrong in one is said with its line. */
#include "test.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "sim/synthetic.h"

#define HEADER "{\"overbook_trace\": 1, \"budget_bytes\": 1073741824, \"hosts\": 2}\n"
#define WEB    "{\"second\": 3, \"machine\": \"web\", \"ram_bytes\": 1073741824, \"content_bytes\": 536870912}\n"

struct written {
	char *text;
	size_t size;
};

/* The whole of a made-up trace as text. */
static struct written write_trace(const struct ob_sim_synthetic *synthetic)
{
	struct ob_sim_source *source = ob_sim_synthetic_open(synthetic);
	struct ob_sim_load *before = calloc(synthetic->machines, sizeof(*before));
	uint8_t *here = calloc(synthetic->machines, 1);
	const struct ob_sim_header header = { .budget_bytes = 3 * OB_GIB, .hosts = 3 };
	struct ob_sim_event event = { .kind = OB_SIM_LOAD };
	struct written written;
	FILE *file = open_memstream(&written.text, &written.size);
	char *line = ob_sim_write_header(&header), name[16];

	fputs(line, file);
	free(line);
	while (event.kind != OB_SIM_END) {
		assert_int_equal(source->next(source, &event, NULL), 0);
		snprintf(name, sizeof(name), "m%u", event.machine);
		line = ob_sim_write_event(&event, name, event.kind == OB_SIM_LOAD && here[event.machine] ? &before[event.machine] : NULL);
		assert_non_null(line);
		assert_true(strlen(line) < OB_SIM_LINE_MAX);
		fputs(line, file);
		free(line);
		if (event.kind != OB_SIM_END)
			here[event.machine] = event.kind == OB_SIM_LOAD;
		if (event.kind == OB_SIM_LOAD)
			before[event.machine] = event.load;
	}
	fclose(file);
	free(before);
	free(here);
	ob_sim_synthetic_close(source);
	return written;
}

/* The numbers of machines follow the order in which they come: the n-th that is read is the n-th that was written. */
static void what_is_written_is_read_back(void **state)
{
	for (int kind = 0; kind < OB_SIM_SYNTHETICS; kind++) {
		const struct ob_sim_synthetic synthetic = { .kind = (enum ob_sim_synthetic_kind)kind, .machines = 24, .seconds = 900, .seed = 7 };
		struct written written = write_trace(&synthetic);
		struct ob_sim_source *expected = ob_sim_synthetic_open(&synthetic), *found;
		uint32_t numbers[24], seen = 0;
		struct ob_sim_event a = { .kind = OB_SIM_LOAD }, b;
		struct ob_sim_reader *reader;
		struct ob_error err = { 0 };
		FILE *file = fmemopen(written.text, written.size, "r");

		memset(numbers, 0xff, sizeof(numbers));
		assert_int_equal(ob_sim_reader_open(file, "test", &reader, &err), 0);
		assert_int_equal(ob_sim_reader_header(reader)->hosts, 3);
		assert_int_equal(ob_sim_reader_header(reader)->budget_bytes, 3 * OB_GIB);
		found = ob_sim_reader_source(reader);
		while (a.kind != OB_SIM_END) {
			assert_int_equal(expected->next(expected, &a, NULL), 0);
			if (found->next(found, &b, &err) < 0)
				fail_msg("%s", err.text);
			assert_int_equal(a.second, b.second);
			assert_int_equal(a.kind, b.kind);
			if (a.kind == OB_SIM_END)
				break;
			if (numbers[a.machine] == UINT32_MAX)
				numbers[a.machine] = seen++;
			assert_int_equal(numbers[a.machine], b.machine);
			if (a.kind == OB_SIM_LOAD)
				assert_memory_equal(&a.load, &b.load, sizeof(a.load));
		}
		ob_sim_reader_close(reader);
		ob_sim_synthetic_close(expected);
		fclose(file);
		free(written.text);
	}
}

/* Reads all of it. Returns the second at which it ends, or -1 with the error. */
static int64_t read_all(const char *text, size_t size, struct ob_error *err)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, size, "r");
	struct ob_sim_event event = { .kind = OB_SIM_LOAD };
	struct ob_sim_reader *reader;
	int r = ob_sim_reader_open(file, "t", &reader, err);

	if (r == 0) {
		while (r == 0 && event.kind != OB_SIM_END)
			r = ob_sim_reader_source(reader)->next(ob_sim_reader_source(reader), &event, err);
		ob_sim_reader_close(reader);
	}
	fclose(file);
	return r < 0 ? -1 : (int64_t)event.second;
}

static void a_trace_without_an_end_ends_after_its_last_event(void **state)
{
	struct ob_error err = { 0 };

	assert_int_equal(read_all(HEADER, strlen(HEADER), &err), 0);
	assert_int_equal(read_all(HEADER WEB, strlen(HEADER WEB), &err), 4);
	assert_int_equal(read_all(HEADER WEB, strlen(HEADER WEB) - 1, &err), 4);
	assert_int_equal(read_all(HEADER WEB "{\"second\": 9, \"end\": true}\n", strlen(HEADER WEB) + 27, &err), 9);
}

static void what_is_wrong_is_said_with_its_line(void **state)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{ "{", "trace \"t\": line 1: is not JSON: " },
		{ "[]\n", "trace \"t\": line 1: is not a JSON object" },
		{ "{\"bench\": 1}\n", "trace \"t\": line 1: is not the header of a trace: it must have \"overbook_trace\": 1" },
		{ "{\"overbook_trace\": 2}\n", "trace \"t\": line 1: \"overbook_trace\" is 2: this program reads version 1" },
		{ "{\"overbook_trace\": \"1\"}\n", "trace \"t\": line 1: \"overbook_trace\" must be an integer from 1 to" },
		{ "{\"overbook_trace\": 1, \"hosts\": 0}\n", "trace \"t\": line 1: \"hosts\" must be an integer from 1 to 10000" },
		{ "{\"overbook_trace\": 1, \"budget\": 1}\n", "trace \"t\": line 1: \"budget\" is no member of a header" },
		{ HEADER "\n", "trace \"t\": line 2: is not JSON" },
		{ HEADER "{}\n", "trace \"t\": line 2: \"second\" must be an integer from 0 to" },
		{ HEADER "{\"second\": -1, \"end\": true}\n", "trace \"t\": line 2: \"second\" must be an integer from 0 to" },
		{ HEADER "{\"second\": 1e3, \"end\": true}\n", "trace \"t\": line 2: \"second\" must be an integer from 0 to" },
		{ HEADER "{\"second\": 99999999999999999999, \"end\": true}\n", "trace \"t\": line 2: is not JSON: too big integer" },
		{ HEADER "{\"second\": 40000000, \"end\": true}\n", "trace \"t\": line 2: \"second\" must be an integer from 0 to 31622400" },
		{ HEADER "{\"second\": 1, \"end\": 1}\n", "trace \"t\": line 2: \"end\" must be true" },
		{ HEADER "{\"second\": 1, \"end\": true, \"machine\": \"web\"}\n", "trace \"t\": line 2: \"end\" must be true" },
		{ HEADER "{\"second\": 1}\n", "trace \"t\": line 2: \"machine\" must be a name of at most 63" },
		{ HEADER "{\"second\": 1, \"machine\": \"../x\"}\n", "trace \"t\": line 2: \"machine\" must be a name" },
		{ HEADER "{\"second\": 1, \"machine\": \"web\", \"gone\": true}\n", "trace \"t\": line 2: \"gone\": this machine is not here" },
		{ HEADER "{\"second\": 1, \"machine\": \"web\"}\n", "trace \"t\": line 2: \"ram_bytes\" is 0: a machine has at least 8388608" },
		{ HEADER WEB "{\"second\": 2, \"machine\": \"web\"}\n", "trace \"t\": line 3: \"second\" must be an integer from 3 to" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"cpu\": 1}\n", "trace \"t\": line 3: \"cpu\" is no member of an event" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"shares\": 0}\n", "trace \"t\": line 3: \"shares\" is 0: must be 1 to 1000000" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"shares\": null}\n", "trace \"t\": line 3: \"shares\" must be an integer" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"limit_bytes\": 1}\n", "trace \"t\": line 3: \"limit_bytes\" is 1: must be at least" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"reservation_bytes\": 1073741825}\n",
		  "trace \"t\": line 3: \"reservation_bytes\" is 1073741825: must be at most 1073741824" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"content_bytes\": 1073741825}\n",
		  "trace \"t\": line 3: \"content_bytes\" is 1073741825: must be at most 1073741824" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"working_set_bytes\": 536870913}\n",
		  "trace \"t\": line 3: \"working_set_bytes\" is 536870913: must be at most 536870912" },
		{ HEADER WEB "{\"second\": 4, \"machine\": \"web\", \"spare_permille\": 500, \"compressible_permille\": 501}\n",
		  "trace \"t\": line 3: \"spare_permille\" and \"compressible_permille\" are 1001 together" },
		{ HEADER WEB "{\"second\": 4, \"second\": 5, \"machine\": \"web\"}\n", "trace \"t\": line 3: is not JSON: duplicate object key" },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct ob_error err = { 0 };

		assert_int_equal(read_all(cases[i].text, strlen(cases[i].text), &err), -1);
		if (strncmp(err.text, cases[i].error, strlen(cases[i].error)))
			fail_msg("\"%s\": \"%s\" is said, not \"%s\"", cases[i].text, err.text, cases[i].error);
		assert_null(strchr(err.text, '\n'));
	}
}

static void lines_that_are_too_long_or_broken_are_refused(void **state)
{
	static const char zero[] = HEADER "{\"second\": 1,\0 \"end\": true}\n{\"second\": 2, \"end\": true}\n";
	char *line = malloc(2 * OB_SIM_LINE_MAX);
	struct ob_error err = { 0 };

	memset(line, ' ', 2 * OB_SIM_LINE_MAX);
	memcpy(line, HEADER, strlen(HEADER));
	assert_int_equal(read_all(line, 2 * OB_SIM_LINE_MAX, &err), -1);
	assert_string_equal(err.text, "trace \"t\": line 2: is longer than 4096 bytes");
	free(line);
	err = (struct ob_error){ 0 };
	assert_int_equal(read_all(zero, sizeof(zero) - 1, &err), -1);
	assert_string_equal(err.text, "trace \"t\": line 2: has a zero byte in it");
	err = (struct ob_error){ 0 };
	assert_int_equal(read_all("\n", 1, &err), -1);
}

static void there_is_a_greatest_number_of_machines(void **state)
{
	char *text, line[128];
	size_t size;
	FILE *file = open_memstream(&text, &size);
	struct ob_error err = { 0 };

	fputs(HEADER, file);
	for (unsigned i = 0; i <= OB_SIM_MACHINES_MAX; i++) {
		snprintf(line, sizeof(line), "{\"second\":0,\"machine\":\"m%u\",\"ram_bytes\":16777216}\n", i);
		fputs(line, file);
	}
	fclose(file);
	assert_int_equal(read_all(text, size, &err), -1);
	assert_non_null(strstr(err.text, "line 100002: \"m100000\" is one machine too many: there can be 100000"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(a_trace_without_an_end_ends_after_its_last_event),
		cmocka_unit_test(what_is_wrong_is_said_with_its_line),
		cmocka_unit_test(lines_that_are_too_long_or_broken_are_refused),
		cmocka_unit_test(there_is_a_greatest_number_of_machines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
