/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes QEMU's command line apart and puts changed options together again.
 *
 * QEMU accepts "-opt" and "--opt", and an option that has an argument always takes the next word, whatever it looks like.
 * So one must know of every option whether it has one: the table below does, for QEMU 5.2 to 10.x, options that were
 * removed on the way included. Of an option that is not in it we assume an argument when the next word has no dash: that
 * word would otherwise be a disk image, and neither is read here.
 *
 * Two grammars share "key=value,key=value": in both a comma in a value is doubled, and the first element may be a value
 * alone when the option has an implied key. The older one also knows bare words, "key" and "nokey". A bare word is kept
 * as it is. Options of the newer kind may be a JSON object instead.
 *
 * What has a meaning to us is parsed; the rest is passed on as it came. Nothing here judges: qemu_refuse.c does.
 */
#include "cli/qemu_opts.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/units.h"
#include "cli/qemu_config.h"

#define DESCRIBE_MAX 100

enum { NONE = 0, ARG = 1, HELP = 2, KEYS = 4, JSON = 8 };

struct option_row {
	const char *name;
	int flags;
	enum ob_qemu_kind kind;
	const char *implied_key;
};

/* clang-format off */
static const struct option_row rows[] = {
	{ "h", NONE, OB_QEMU_HELP, NULL }, { "help", NONE, OB_QEMU_HELP, NULL }, { "version", NONE, OB_QEMU_HELP, NULL },
	{ "audio-help", NONE, OB_QEMU_HELP, NULL }, { "cpu-help", NONE, OB_QEMU_HELP, NULL },
	{ "machine", ARG | HELP | KEYS, OB_QEMU_MACHINE, "type" }, { "M", ARG | HELP | KEYS, OB_QEMU_MACHINE, "type" },
	{ "m", ARG | KEYS, OB_QEMU_M, "size" },
	{ "mem-path", ARG, OB_QEMU_MEM_PATH, NULL }, { "mem-prealloc", NONE, OB_QEMU_MEM_PREALLOC, NULL },
	{ "overcommit", ARG | KEYS, OB_QEMU_OVERCOMMIT, NULL }, { "realtime", ARG | KEYS, OB_QEMU_REALTIME, NULL },
	{ "object", ARG | HELP | KEYS | JSON, OB_QEMU_OBJECT, "qom-type" },
	{ "device", ARG | HELP | KEYS | JSON, OB_QEMU_DEVICE, "driver" },
	{ "netdev", ARG | HELP | KEYS | JSON, OB_QEMU_NETDEV, "type" },
	{ "nic", ARG | HELP | KEYS, OB_QEMU_NET, "type" }, { "net", ARG | HELP | KEYS, OB_QEMU_NET, "type" },
	{ "chardev", ARG | HELP | KEYS | JSON, OB_QEMU_CHARDEV, "backend" },
	{ "numa", ARG | KEYS, OB_QEMU_NUMA, "type" },
	{ "accel", ARG | HELP | KEYS, OB_QEMU_ACCEL, "accel" }, { "enable-kvm", NONE, OB_QEMU_ENABLE_KVM, NULL },
	{ "drive", ARG | HELP | KEYS, OB_QEMU_DRIVE, NULL }, { "blockdev", ARG | HELP | KEYS | JSON, OB_QEMU_BLOCKDEV, "driver" },
	{ "name", ARG | KEYS, OB_QEMU_NAME, "guest" }, { "readconfig", ARG, OB_QEMU_READCONFIG, NULL },
	{ "monitor", ARG, OB_QEMU_MONITOR, NULL }, { "mon", ARG | KEYS, OB_QEMU_MONITOR, "chardev" },
	{ "qmp", ARG, OB_QEMU_MONITOR, NULL }, { "qmp-pretty", ARG, OB_QEMU_MONITOR, NULL },
	{ "serial", ARG, OB_QEMU_SERIAL, NULL }, { "nographic", NONE, OB_QEMU_NOGRAPHIC, NULL },
	{ "nodefaults", NONE, OB_QEMU_NODEFAULTS, NULL }, { "cpu", ARG | HELP | KEYS, OB_QEMU_CPU, "model" },
	{ "xen-domid", ARG, OB_QEMU_XEN, NULL }, { "xen-attach", NONE, OB_QEMU_XEN, NULL },
	{ "xen-domid-restrict", NONE, OB_QEMU_XEN, NULL },
	/* Passed on unread, with an argument. */
	{ "D", ARG }, { "L", ARG | HELP }, { "acpitable", ARG }, { "action", ARG }, { "add-fd", ARG }, { "alt-grab", NONE },
	{ "append", ARG }, { "audio", ARG | HELP }, { "audiodev", ARG | HELP }, { "bios", ARG }, { "boot", ARG }, { "bt", ARG },
	{ "cdrom", ARG, OB_QEMU_DISK }, { "chroot", ARG, OB_QEMU_CHROOT, NULL }, { "clock", ARG }, { "compat", ARG }, { "d", ARG | HELP }, { "debugcon", ARG },
	{ "dfilter", ARG }, { "display", ARG | HELP }, { "dtb", ARG }, { "dump-vmstate", ARG }, { "echr", ARG }, { "fda", ARG, OB_QEMU_DISK },
	{ "fdb", ARG, OB_QEMU_DISK }, { "fsdev", ARG }, { "fw_cfg", ARG }, { "g", ARG }, { "gdb", ARG }, { "global", ARG }, { "hda", ARG, OB_QEMU_DISK },
	{ "hdachs", ARG }, { "hdb", ARG, OB_QEMU_DISK }, { "hdc", ARG, OB_QEMU_DISK }, { "hdd", ARG, OB_QEMU_DISK }, { "id", ARG }, { "icount", ARG }, { "incoming", ARG }, { "initrd", ARG },
	{ "iscsi", ARG }, { "k", ARG }, { "kernel", ARG }, { "loadvm", ARG }, { "msg", ARG }, { "mtdblock", ARG, OB_QEMU_DISK },
	{ "option-rom", ARG }, { "parallel", ARG }, { "pflash", ARG, OB_QEMU_DISK }, { "pidfile", ARG }, { "plugin", ARG }, { "prom-env", ARG },
	{ "qtest", ARG }, { "qtest-log", ARG }, { "rotate", ARG }, { "rtc", ARG }, { "run-with", ARG | HELP | KEYS, OB_QEMU_RUN_WITH, NULL }, { "runas", ARG, OB_QEMU_RUNAS, NULL },
	{ "sandbox", ARG }, { "sd", ARG, OB_QEMU_DISK }, { "seed", ARG }, { "semihosting-config", ARG }, { "set", ARG }, { "shim", ARG },
	{ "smbios", ARG }, { "smp", ARG }, { "soundhw", ARG | HELP }, { "spice", ARG }, { "tb-size", ARG }, { "tdf", NONE },
	{ "tpmdev", ARG | HELP }, { "trace", ARG | HELP }, { "usbdevice", ARG }, { "uuid", ARG }, { "vga", ARG | HELP },
	{ "virtfs", ARG }, { "virtfs_synth", NONE }, { "virtioconsole", ARG }, { "vnc", ARG }, { "watchdog", ARG | HELP },
	{ "watchdog-action", ARG }, { "writeconfig", ARG },
	/* Passed on unread, without. */
	{ "S", NONE }, { "async-teardown", NONE }, { "ctrl-grab", NONE }, { "curses", NONE }, { "daemonize", NONE },
	{ "enable-fips", NONE }, { "enable-hax", NONE }, { "enable-sync-profile", NONE }, { "full-screen", NONE },
	{ "jitdump", NONE }, { "mouse-wheel", NONE }, { "no-acpi", NONE }, { "no-fd-bootchk", NONE }, { "no-frame", NONE },
	{ "no-hpet", NONE }, { "no-quit", NONE }, { "no-reboot", NONE }, { "no-shutdown", NONE }, { "no-user-config", NONE },
	{ "old-param", NONE }, { "one-insn-per-tick", NONE }, { "only-migratable", NONE }, { "perfmap", NONE }, { "portrait", NONE },
	{ "preconfig", NONE }, { "s", NONE }, { "sdl", NONE }, { "semihosting", NONE }, { "show-cursor", NONE },
	{ "singlestep", NONE }, { "snapshot", NONE }, { "usb", NONE }, { "win2k-hack", NONE },
};
/* clang-format on */

static const struct option_row *row_find(const char *name)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(rows); i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

static struct ob_qemu_option *option_new(struct ob_qemu_opts *opts, enum ob_qemu_kind kind, const char *name)
{
	struct ob_qemu_option *option;

	opts->option = ob_arena_grow(&opts->arena, opts->option, opts->n_options, sizeof(*option));
	option = &opts->option[opts->n_options++];
	memset(option, 0, sizeof(*option));
	option->kind = kind;
	option->name = name;
	return option;
}

static struct ob_qemu_prop *prop_new(struct ob_qemu_opts *opts, struct ob_qemu_option *option)
{
	struct ob_qemu_prop *prop;

	option->props = ob_arena_grow(&opts->arena, option->props, option->n_props, sizeof(*prop));
	prop = &option->props[option->n_props++];
	memset(prop, 0, sizeof(*prop));
	return prop;
}

void ob_qemu_option_add(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *key, const char *value)
{
	struct ob_qemu_prop *prop = prop_new(opts, option);

	prop->key = ob_arena_strdup(&opts->arena, key);
	prop->value = ob_arena_strdup(&opts->arena, value);
}

struct ob_qemu_option *ob_qemu_opts_add_section(struct ob_qemu_opts *opts, const char *file, const char *group,
						const char *id)
{
	/* The groups are called as the options are, but for this one. */
	const struct option_row *row = row_find(!strcmp(group, "memory") ? "m" : group);
	struct ob_qemu_option *option = option_new(opts, row ? row->kind : OB_QEMU_OTHER, ob_arena_strdup(&opts->arena,
			group));

	/* A section makes no default monitor go away, an option does. */
	if (option->kind == OB_QEMU_MONITOR)
		option->kind = OB_QEMU_OTHER;
	option->file = file;
	option->implied_key = row ? row->implied_key : NULL;
	if (id)
		ob_qemu_option_add(opts, option, "id", id);
	return option;
}

/* Takes the text up to a single comma; doubled ones become one. Returns where the next element starts, or NULL at the end. */
static const char *take_element(struct ob_arena *arena, const char *at, char **ret_element)
{
	char *out = ob_arena_alloc(arena, strlen(at) + 1);
	size_t length = 0;

	*ret_element = out;
	for (; *at; at++) {
		if (*at == ',') {
			if (at[1] != ',')
				return at + 1;
			at++;
		}
		out[length++] = *at;
	}
	return NULL;
}

static void parse_keys(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *implied_key)
{
	const char *at = option->arg;

	option->implied_key = implied_key ? implied_key : "";
	for (int first = 1; at && *at; first = 0) {
		struct ob_qemu_prop *prop = prop_new(opts, option);
		char *element, *equals;

		at = take_element(&opts->arena, at, &element);
		equals = strchr(element, '=');
		if (equals) {
			*equals = 0;
			prop->key = element;
			prop->value = equals + 1;
		} else if (first && implied_key) {
			prop->key = ob_arena_strdup(&opts->arena, implied_key);
			prop->value = element;
			prop->implied = 1;
		} else {
			prop->key = element;
		}
	}
}

static void flatten(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *prefix, json_t *value,
		    unsigned depth)
{
	const char *dot = *prefix ? "." : "", *key;
	struct ob_qemu_prop *prop;
	json_t *child;
	size_t i;

	if (json_is_object(value) && depth < 16) {
		json_object_foreach (value, key, child)
			flatten(opts, option, ob_arena_printf(&opts->arena, "%s%s%s", prefix, dot, key), child, depth + 1);
		return;
	}
	if (json_is_array(value) && depth < 16) {
		json_array_foreach (value, i, child)
			flatten(opts, option, ob_arena_printf(&opts->arena, "%s%s%zu", prefix, dot, i), child, depth + 1);
		return;
	}
	prop = prop_new(opts, option);
	prop->key = ob_arena_strdup(&opts->arena, prefix);
	if (json_is_string(value))
		prop->value = ob_arena_strdup(&opts->arena, json_string_value(value));
	else if (json_is_integer(value))
		prop->value = ob_arena_printf(&opts->arena, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_boolean(value))
		prop->value = ob_arena_strdup(&opts->arena, json_is_true(value) ? "on" : "off");
	else
		prop->value = ob_arena_strdup(&opts->arena, "");
}

static int parse_json(struct ob_qemu_opts *opts, struct ob_qemu_option *option, struct ob_error *err)
{
	json_error_t where;

	option->implied_key = "";
	option->json = json_loads(option->arg, JSON_REJECT_DUPLICATES, &where);
	if (!option->json)
		return ob_error_set(err, EINVAL, "%s is not valid JSON: %s at character %d", ob_qemu_option_describe(opts,
				option), where.text,
				    where.position);
	flatten(opts, option, "", option->json, 0);
	return 0;
}

static int asks_for_help(const struct ob_qemu_option *option)
{
	if (!strcmp(option->arg, "help") || !strcmp(option->arg, "?"))
		return 1;
	for (size_t i = 0; i < option->n_props; i++)
		if (!option->props[i].value && (!strcmp(option->props[i].key, "help") || !strcmp(option->props[i].key, "?")))
			return 1;
	return option->n_props && option->props[0].implied &&
	       (!strcmp(option->props[0].value, "help") || !strcmp(option->props[0].value, "?"));
}

static int parse_argument(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const struct option_row *row,
			  struct ob_error *err)
{
	if ((row->flags & JSON) && *option->arg == '{')
		return parse_json(opts, option, err);
	if (row->flags & KEYS)
		parse_keys(opts, option, row->implied_key);
	if ((row->flags & HELP) && asks_for_help(option))
		opts->prints_and_ends = 1;
	if (row->kind == OB_QEMU_READCONFIG && !opts->prints_and_ends)
		return ob_qemu_config_read(opts, option->arg, err);
	return 0;
}

/* One option, or one disk image, at argv[at]. Returns how many words it has, or -EINVAL. */
static int parse_word(struct ob_qemu_opts *opts, int argc, char *const *argv, int at, struct ob_error *err)
{
	const char *word = argv[at];
	struct ob_qemu_option *option;
	const struct option_row *row;
	int r;

	if (word[0] != '-') {
		option = option_new(opts, OB_QEMU_DISK, "");
		option->dashes = "";
		option->arg = word;
		return 1;
	}
	row = row_find(word + (word[1] == '-' ? 2 : 1));
	option = option_new(opts, row ? row->kind : OB_QEMU_OTHER, word + (word[1] == '-' ? 2 : 1));
	option->dashes = word[1] == '-' ? "--" : "-";
	if (row && row->kind == OB_QEMU_HELP)
		opts->prints_and_ends = 1;
	if (row ? !(row->flags & ARG) : at + 1 >= argc || argv[at + 1][0] == '-')
		return 1;
	if (at + 1 >= argc)
		return ob_error_set(err, EINVAL, "QEMU's option \"%s\" needs an argument, and none follows", word);
	option->arg = argv[at + 1];
	r = row ? parse_argument(opts, option, row, err) : 0;
	return r < 0 ? r : 2;
}

int ob_qemu_opts_parse(struct ob_qemu_opts *opts, int argc, char *const *argv, struct ob_error *err)
{
	memset(opts, 0, sizeof(*opts));
	opts->program = argv[0];
	for (int at = 1; at < argc;) {
		int words = parse_word(opts, argc, argv, at, err);

		if (words < 0)
			return words;
		at += words;
	}
	return 0;
}

void ob_qemu_opts_free(struct ob_qemu_opts *opts)
{
	for (size_t i = 0; i < opts->n_options; i++)
		json_decref(opts->option[i].json);
	ob_arena_free(&opts->arena);
	memset(opts, 0, sizeof(*opts));
}

const char *ob_qemu_option_get(const struct ob_qemu_option *option, const char *key)
{
	const char *found = NULL;

	for (size_t i = 0; i < option->n_props; i++)
		if (!strcmp(option->props[i].key, key))
			found = option->props[i].value ? option->props[i].value : "on";
	return found;
}

static int is_negation(const struct ob_qemu_prop *prop, const char *key)
{
	return !prop->value && !strncmp(prop->key, "no", 2) && !strcmp(prop->key + 2, key);
}

int ob_qemu_option_has(const struct ob_qemu_option *option, const char *key)
{
	for (size_t i = 0; i < option->n_props; i++)
		if (!strcmp(option->props[i].key, key) || is_negation(&option->props[i], key))
			return 1;
	return 0;
}

int ob_qemu_option_is_on(const struct ob_qemu_option *option, const char *key, int absent)
{
	static const char *const on[] = { "on", "yes", "true", "y" };
	int answer = absent;

	for (size_t i = 0; i < option->n_props; i++) {
		const struct ob_qemu_prop *prop = &option->props[i];

		if (is_negation(prop, key))
			answer = 0;
		if (strcmp(prop->key, key))
			continue;
		answer = !prop->value;
		for (size_t k = 0; prop->value && k < OB_ARRAY_LEN(on); k++)
			answer |= !strcmp(prop->value, on[k]);
	}
	return answer;
}

void ob_qemu_option_remove(struct ob_qemu_option *option, const char *key)
{
	size_t kept = 0;

	for (size_t i = 0; i < option->n_props; i++)
		if (strcmp(option->props[i].key, key) && !is_negation(&option->props[i], key))
			option->props[kept++] = option->props[i];
	option->changed |= kept != option->n_props;
	option->n_props = kept;
	if (option->json)
		json_object_del(option->json, key);
}

void ob_qemu_option_set(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *key, const char *text,
			json_t *json_value)
{
	struct ob_qemu_prop *place = NULL;

	for (size_t i = 0; i < option->n_props; i++)
		if (!strcmp(option->props[i].key, key))
			place = &option->props[i];
	if (place) {
		place->value = ob_arena_strdup(&opts->arena, text);
	} else {
		ob_qemu_option_remove(option, key); /* a "nokey" may be there */
		ob_qemu_option_add(opts, option, key, text);
	}
	option->changed = 1;
	if (option->json)
		json_object_set_new(option->json, key, json_value);
	else
		json_decref(json_value);
}

const char *ob_qemu_escape(struct ob_arena *arena, const char *text)
{
	char *out = ob_arena_alloc(arena, 2 * strlen(text) + 1), *at = out;

	for (; *text; text++) {
		if (*text == ',')
			*at++ = ',';
		*at++ = *text;
	}
	return out;
}

const char *ob_qemu_option_text(struct ob_qemu_opts *opts, struct ob_qemu_option *option)
{
	const char *text = "";

	if (!option->changed)
		return option->arg;
	if (option->json) {
		char *dumped = json_dumps(option->json, JSON_COMPACT);

		text = ob_arena_strdup(&opts->arena, dumped ? dumped : "");
		free(dumped);
		return text;
	}
	for (size_t i = 0; i < option->n_props; i++) {
		const struct ob_qemu_prop *prop = &option->props[i];

		text = ob_arena_printf(&opts->arena, "%s%s%s%s%s", text, i ? "," : "", prop->implied ? "" : prop->key,
				       prop->value && !prop->implied ? "=" : "",
				       prop->value ? ob_qemu_escape(&opts->arena, prop->value) : "");
	}
	return text;
}

const char *ob_qemu_option_describe(struct ob_qemu_opts *opts, const struct ob_qemu_option *option)
{
	const char *id;

	if (option->file) {
		id = ob_qemu_option_get(option, "id");
		return ob_arena_printf(&opts->arena, "[%s%s%s%s] in \"%s\"", option->name, id ? " \"" : "", id ? id : "",
				       id ? "\"" : "", option->file);
	}
	return ob_arena_printf(&opts->arena, "\"%s%s%s%.*s%s\"", option->dashes, option->name, option->arg ? " " : "",
			       DESCRIBE_MAX,
			       option->arg ? option->arg : "", option->arg && strlen(option->arg) > DESCRIBE_MAX ? "..." : "");
}

/* The number of bits that a suffix shifts by, or -1. */
static int suffix_shift(const char *suffix)
{
	static const char letters[] = "bkmgtpe";
	const char *found;

	if (!suffix[0] || suffix[1])
		return -1;
	found = strchr(letters, tolower((unsigned char)suffix[0]));
	return found ? (int)(found - letters) * 10 : -1;
}

int ob_qemu_size_parse(const char *text, uint64_t default_unit, uint64_t *ret_bytes)
{
	unsigned long long whole;
	double fraction = 0, unit;
	char *end;
	int shift;

	if (!text || !isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		whole = strtoull(text, &end, 16);
		*ret_bytes = *end || errno ? *ret_bytes : whole;
		return errno ? -ERANGE : *end ? -EINVAL : 0;
	}
	whole = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end == '.') {
		double scale = 0.1;

		for (end++; isdigit((unsigned char)*end); end++, scale /= 10)
			fraction += (*end - '0') * scale;
	}
	shift = suffix_shift(end);
	if (*end && shift < 0)
		return -EINVAL;
	unit = (double)(*end ? 1ull << shift : default_unit);
	if ((double)whole * unit + fraction * unit >= 18446744073709551616.0)
		return -ERANGE;
	*ret_bytes = whole * (uint64_t)unit + (uint64_t)(fraction * unit);
	return 0;
}
