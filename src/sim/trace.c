/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/units.h"
#include "proto/env.h"
#include "proto/wire.h"

/* The members of a line that say something of a machine. Those that can be OB_SIM_NONE are null then. */
static const struct field {
	const char *key;
	size_t offset;
	uint64_t most, initial;
	bool can_be_none;
} fields[] = {
#define FIELD(name, ...) { #name, offsetof(struct ob_sim_load, name), __VA_ARGS__ }
	FIELD(ram_bytes, OB_SIM_RAM_MAX, 0, false),
	FIELD(shares, OB_SHARES_MAX, OB_SHARES_DEFAULT, false),
	FIELD(reservation_bytes, OB_SIM_RAM_MAX, 0, false),
	FIELD(limit_bytes, OB_SIM_RAM_MAX, OB_SIM_NONE, true),
	FIELD(content_bytes, OB_SIM_RAM_MAX, 0, false),
	FIELD(working_set_bytes, OB_SIM_RAM_MAX, 0, false),
	FIELD(touches, OB_SIM_TOUCHES_MAX, 0, false),
	FIELD(says_bytes, OB_SIM_RAM_MAX, OB_SIM_NONE, true),
	FIELD(spare_permille, 1000, 0, false),
	FIELD(compressible_permille, 1000, 0, false),
	FIELD(compressed_permille, 1000, 1000, false),
#undef FIELD
};

struct ob_sim_reader {
	struct ob_sim_source source; /* first: it is what callers have */
	FILE *file;
	const char *name;
	struct ob_sim_header header;
	uint64_t line, second;
	bool any; /* there was an event */
	json_t *numbers; /* names to numbers */
	struct ob_sim_load *loads;
	bool *here;
	uint32_t machines, room;
	char text[OB_SIM_LINE_MAX + 2];
};

static uint64_t *value_of(struct ob_sim_load *load, const struct field *field)
{
	return (uint64_t *)((char *)load + field->offset);
}

static uint64_t value_in(const struct ob_sim_load *load, const struct field *field)
{
	return *(const uint64_t *)((const char *)load + field->offset);
}

struct ob_sim_load ob_sim_load_default(void)
{
	struct ob_sim_load load;

	for (size_t i = 0; i < OB_ARRAY_LEN(fields); i++)
		*value_of(&load, &fields[i]) = fields[i].initial;
	return load;
}

int ob_sim_load_check(const struct ob_sim_load *load, struct ob_error *err)
{
	uint64_t limit = OB_MIN(load->limit_bytes, load->ram_bytes);

	if (load->ram_bytes < OB_LIMIT_MIN)
		return ob_error_set(err, EINVAL, "\"ram_bytes\" is %" PRIu64 ": a machine has at least %llu", load->ram_bytes, OB_LIMIT_MIN);
	if (!load->shares)
		return ob_error_set(err, EINVAL, "\"shares\" is 0: must be 1 to %u", OB_SHARES_MAX);
	if (load->limit_bytes < OB_LIMIT_MIN)
		return ob_error_set(err, EINVAL, "\"limit_bytes\" is %" PRIu64 ": must be at least %llu, or null", load->limit_bytes, OB_LIMIT_MIN);
	if (load->reservation_bytes > limit)
		return ob_error_set(err, EINVAL, "\"reservation_bytes\" is %" PRIu64 ": must be at most %" PRIu64 ", the machine's limit or RAM",
				    load->reservation_bytes, limit);
	if (load->content_bytes > load->ram_bytes)
		return ob_error_set(err, EINVAL, "\"content_bytes\" is %" PRIu64 ": must be at most %" PRIu64 ", the machine's RAM",
				    load->content_bytes, load->ram_bytes);
	if (load->working_set_bytes > load->content_bytes)
		return ob_error_set(err, EINVAL, "\"working_set_bytes\" is %" PRIu64 ": must be at most %" PRIu64 ", the machine's content",
				    load->working_set_bytes, load->content_bytes);
	if (load->spare_permille + load->compressible_permille > 1000)
		return ob_error_set(err, EINVAL, "\"spare_permille\" and \"compressible_permille\" are %" PRIu64 " together: must be at most 1000",
				    load->spare_permille + load->compressible_permille);
	return 0;
}

/* --- reading --- */

/* The next line as an object, or NULL in *ret at the end of the file. */
static int read_line(struct ob_sim_reader *reader, json_t **ret, struct ob_error *err)
{
	json_error_t problem;
	size_t length;

	*ret = NULL;
	if (!fgets(reader->text, sizeof(reader->text), reader->file))
		return ferror(reader->file) ? ob_error_sys(err, EIO, "cannot read it") : 0;
	reader->line++;
	length = strlen(reader->text);
	if (length > OB_SIM_LINE_MAX)
		return ob_error_set(err, EINVAL, "is longer than %u bytes", OB_SIM_LINE_MAX);
	if (!feof(reader->file) && (!length || reader->text[length - 1] != '\n'))
		return ob_error_set(err, EINVAL, "has a zero byte in it");
	*ret = json_loadb(reader->text, length, JSON_REJECT_DUPLICATES, &problem);
	if (!*ret)
		return ob_error_set(err, EINVAL, "is not JSON: %s", problem.text);
	if (!json_is_object(*ret))
		return ob_error_set(err, EINVAL, "is not a JSON object: each line is one");
	return 0;
}

static int take_number(const json_t *value, const char *key, uint64_t least, uint64_t most, uint64_t *ret, struct ob_error *err)
{
	json_int_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < 0 || (uint64_t)number < least || (uint64_t)number > most)
		return ob_error_set(err, EINVAL, "\"%s\" must be an integer from %" PRIu64 " to %" PRIu64, key, least, most);
	*ret = (uint64_t)number;
	return 0;
}

static int take_header(struct ob_sim_reader *reader, json_t *line, struct ob_error *err)
{
	uint64_t version = 0, hosts = 1;
	const char *key;
	json_t *value;
	int r = 0;

	if (!json_object_get(line, "overbook_trace"))
		return ob_error_set(err, EINVAL, "is not the header of a trace: it must have \"overbook_trace\": %d", OB_SIM_VERSION);
	json_object_foreach(line, key, value) {
		if (!strcmp(key, "overbook_trace"))
			r = take_number(value, key, 1, UINT32_MAX, &version, err);
		else if (!strcmp(key, "budget_bytes"))
			r = take_number(value, key, OB_LIMIT_MIN, OB_SIM_RAM_MAX, &reader->header.budget_bytes, err);
		else if (!strcmp(key, "hosts"))
			r = take_number(value, key, 1, OB_SIM_HOSTS_MAX, &hosts, err);
		else
			r = ob_error_set(err, EINVAL, "\"%s\" is no member of a header: there are overbook_trace, budget_bytes and hosts", key);
		if (r < 0)
			return r;
	}
	if (version != OB_SIM_VERSION)
		return ob_error_set(err, EINVAL, "\"overbook_trace\" is %" PRIu64 ": this program reads version %d", version, OB_SIM_VERSION);
	reader->header.hosts = (uint32_t)hosts;
	return 0;
}

static int make_room(struct ob_sim_reader *reader)
{
	uint32_t room = reader->room ? 2 * reader->room : 64;
	struct ob_sim_load *loads;
	bool *here;

	if (reader->machines < reader->room)
		return 0;
	loads = realloc(reader->loads, room * sizeof(*loads));
	reader->loads = loads ? loads : reader->loads;
	here = realloc(reader->here, room * sizeof(*here));
	reader->here = here ? here : reader->here;
	if (!loads || !here)
		return -ENOMEM;
	reader->room = room;
	return 0;
}

static int find_machine(struct ob_sim_reader *reader, const json_t *value, uint32_t *ret, struct ob_error *err)
{
	const char *name = json_string_value(value);
	const json_t *number;

	if (!name || !ob_name_valid(name))
		return ob_error_set(err, EINVAL, "\"machine\" must be a name of at most %d letters, digits, '.', '_' and '-'", OB_NAME_MAX);
	number = json_object_get(reader->numbers, name);
	if (number) {
		*ret = (uint32_t)json_integer_value(number);
		return 0;
	}
	if (reader->machines == OB_SIM_MACHINES_MAX)
		return ob_error_set(err, EINVAL, "\"%s\" is one machine too many: there can be %u", name, OB_SIM_MACHINES_MAX);
	if (make_room(reader) < 0 || json_object_set_new(reader->numbers, name, json_integer(reader->machines)) < 0)
		return ob_error_sys(err, ENOMEM, "cannot keep it");
	reader->here[reader->machines] = false;
	*ret = reader->machines++;
	return 0;
}

static int take_field(struct ob_sim_load *load, const char *key, const json_t *value, struct ob_error *err)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(fields); i++) {
		if (strcmp(fields[i].key, key))
			continue;
		if (!fields[i].can_be_none || !json_is_null(value))
			return take_number(value, key, 0, fields[i].most, value_of(load, &fields[i]), err);
		*value_of(load, &fields[i]) = OB_SIM_NONE;
		return 0;
	}
	return ob_error_set(err, EINVAL, "\"%s\" is no member of an event: docs/simulate.md lists them", key);
}

/* What a line says of its machine. */
static int take_load(struct ob_sim_reader *reader, json_t *line, struct ob_sim_event *event, struct ob_error *err)
{
	const char *key;
	json_t *value;
	int r;

	event->load = reader->here[event->machine] ? reader->loads[event->machine] : ob_sim_load_default();
	json_object_foreach(line, key, value) {
		if (!strcmp(key, "second") || !strcmp(key, "machine"))
			continue;
		r = take_field(&event->load, key, value, err);
		if (r < 0)
			return r;
	}
	r = ob_sim_load_check(&event->load, err);
	if (r < 0)
		return r;
	reader->loads[event->machine] = event->load;
	reader->here[event->machine] = true;
	return 0;
}

static bool says_alone(const json_t *line, const char *key, size_t members)
{
	return json_is_true(json_object_get(line, key)) && json_object_size(line) == members;
}

static int take_event(struct ob_sim_reader *reader, json_t *line, struct ob_sim_event *event, struct ob_error *err)
{
	int r = take_number(json_object_get(line, "second"), "second", reader->second, OB_SIM_SECONDS_MAX, &event->second, err);

	if (r < 0)
		return r;
	reader->second = event->second;
	reader->any = true;
	event->kind = OB_SIM_END;
	if (json_object_get(line, "end"))
		return says_alone(line, "end", 2) ? 0 : ob_error_set(err, EINVAL, "\"end\" must be true, with \"second\" alone beside it");
	r = find_machine(reader, json_object_get(line, "machine"), &event->machine, err);
	if (r < 0)
		return r;
	event->kind = OB_SIM_LOAD;
	if (!json_object_get(line, "gone"))
		return take_load(reader, line, event, err);
	if (!says_alone(line, "gone", 3))
		return ob_error_set(err, EINVAL, "\"gone\" must be true, with \"second\" and \"machine\" alone beside it");
	if (!reader->here[event->machine])
		return ob_error_set(err, EINVAL, "\"gone\": this machine is not here");
	reader->here[event->machine] = false;
	event->kind = OB_SIM_GONE;
	return 0;
}

static int in_line(const struct ob_sim_reader *reader, struct ob_error *err)
{
	return ob_error_wrap(err, "trace \"%s\": line %" PRIu64, reader->name, reader->line);
}

static int reader_next(struct ob_sim_source *source, struct ob_sim_event *ret_event, struct ob_error *err)
{
	struct ob_sim_reader *reader = (struct ob_sim_reader *)source;
	struct ob_error own = { 0 };
	json_t *line;
	int r;

	err = err ? err : &own;
	*ret_event = (struct ob_sim_event){ .kind = OB_SIM_END, .second = reader->any ? reader->second + 1 : 0 };
	r = read_line(reader, &line, err);
	if (r == 0 && line)
		r = take_event(reader, line, ret_event, err);
	json_decref(line);
	return r < 0 ? in_line(reader, err) : 0;
}

int ob_sim_reader_open(FILE *file, const char *name, struct ob_sim_reader **ret_reader, struct ob_error *err)
{
	struct ob_sim_reader *reader = calloc(1, sizeof(*reader));
	struct ob_error own = { 0 };
	json_t *line = NULL;
	int r;

	err = err ? err : &own;
	if (!reader)
		return ob_error_sys(err, ENOMEM, "cannot read trace \"%s\"", name);
	*reader = (struct ob_sim_reader){ .source.next = reader_next, .file = file, .name = name, .numbers = json_object() };
	r = reader->numbers ? read_line(reader, &line, err) : ob_error_sys(err, ENOMEM, "cannot read it");
	if (r == 0)
		r = line ? take_header(reader, line, err) : ob_error_set(err, EINVAL, "is missing: the file is empty");
	json_decref(line);
	if (r < 0) {
		reader->line = 1;
		r = in_line(reader, err);
		ob_sim_reader_close(reader);
		return r;
	}
	*ret_reader = reader;
	return 0;
}

void ob_sim_reader_close(struct ob_sim_reader *reader)
{
	if (!reader)
		return;
	json_decref(reader->numbers);
	free(reader->loads);
	free(reader->here);
	free(reader);
}

const struct ob_sim_header *ob_sim_reader_header(const struct ob_sim_reader *reader)
{
	return &reader->header;
}

struct ob_sim_source *ob_sim_reader_source(struct ob_sim_reader *reader)
{
	return &reader->source;
}

/* --- writing --- */

/* Gives up the object. */
static char *to_line(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL, *line = NULL;

	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	json_decref(object);
	return line;
}

char *ob_sim_write_header(const struct ob_sim_header *header)
{
	json_t *object = json_pack("{s:i, s:I}", "overbook_trace", OB_SIM_VERSION, "hosts", (json_int_t)header->hosts);

	if (object && header->budget_bytes && json_object_set_new(object, "budget_bytes", json_integer((json_int_t)header->budget_bytes)) < 0) {
		json_decref(object);
		return NULL;
	}
	return to_line(object);
}

static int add_load(json_t *object, const struct ob_sim_load *load, const struct ob_sim_load *before)
{
	const struct ob_sim_load initial = ob_sim_load_default();

	for (size_t i = 0; i < OB_ARRAY_LEN(fields); i++) {
		uint64_t value = value_in(load, &fields[i]);

		if (value == value_in(before ? before : &initial, &fields[i]))
			continue;
		if (json_object_set_new(object, fields[i].key, value == OB_SIM_NONE ? json_null() : json_integer((json_int_t)value)) < 0)
			return -ENOMEM;
	}
	return 0;
}

char *ob_sim_write_event(const struct ob_sim_event *event, const char *name, const struct ob_sim_load *before)
{
	json_t *object = json_pack("{s:I}", "second", (json_int_t)event->second);
	int r = object ? 0 : -ENOMEM;

	if (r == 0 && event->kind != OB_SIM_END)
		r = json_object_set_new(object, "machine", json_string(name));
	if (r == 0 && event->kind == OB_SIM_LOAD)
		r = add_load(object, &event->load, before);
	if (r == 0 && event->kind != OB_SIM_LOAD)
		r = json_object_set_new(object, event->kind == OB_SIM_END ? "end" : "gone", json_true());
	if (r < 0) {
		json_decref(object);
		return NULL;
	}
	return to_line(object);
}
