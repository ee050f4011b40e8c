/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's command line, taken apart the way QEMU does it: which options have an argument, key=value lists with ",,"
 * escapes and an implied first key, JSON objects. An option that is changed is written out again; one that is not
 * keeps its text to the letter.
 */
#ifndef OB_CLI_QEMU_OPTS_H
#define OB_CLI_QEMU_OPTS_H

#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "cli/arena.h"

/* What an option means to us. OB_QEMU_OTHER is every option that is passed on unread. */
enum ob_qemu_kind {
	OB_QEMU_OTHER,
	OB_QEMU_DISK, /* a disk image: a word without a dash, or the argument of -hda and its like */
	OB_QEMU_ACCEL,
	OB_QEMU_BLOCKDEV,
	OB_QEMU_CHARDEV,
	OB_QEMU_CHROOT,
	OB_QEMU_CONFIDENTIAL,
	OB_QEMU_CPU,
	OB_QEMU_DEVICE,
	OB_QEMU_DRIVE,
	OB_QEMU_ENABLE_KVM,
	OB_QEMU_HELP, /* prints something and ends */
	OB_QEMU_M,
	OB_QEMU_MACHINE,
	OB_QEMU_MEM_PATH,
	OB_QEMU_MEM_PREALLOC,
	OB_QEMU_MONITOR, /* any option after which QEMU makes no default monitor */
	OB_QEMU_NAME,
	OB_QEMU_NET,
	OB_QEMU_NETDEV,
	OB_QEMU_NODEFAULTS,
	OB_QEMU_NOGRAPHIC,
	OB_QEMU_NUMA,
	OB_QEMU_OBJECT,
	OB_QEMU_OVERCOMMIT,
	OB_QEMU_READCONFIG,
	OB_QEMU_RUNAS,
	OB_QEMU_RUN_WITH,
	OB_QEMU_REALTIME,
	OB_QEMU_SERIAL,
	OB_QEMU_XEN,
};

struct ob_qemu_prop {
	char *key;     /* for JSON: the path with dots */
	char *value;   /* NULL for a bare word: key or "nokey" */
	int implied;   /* written without its key */
};

struct ob_qemu_option {
	enum ob_qemu_kind kind;
	const char *name;   /* without dashes; "" for a disk image */
	const char *dashes; /* "-" or "--", as the user wrote it; NULL: it comes from a file that -readconfig names */
	const char *file;   /* that file */
	const char *arg;    /* NULL where the option has none */
	const char *implied_key; /* NULL: arg is not a list of keys and values */
	struct ob_qemu_prop *props;
	size_t n_props;
	json_t *json; /* set when arg is a JSON object; owned */
	int changed;  /* arg must be written again from props or json */
};

struct ob_qemu_opts {
	struct ob_arena arena;
	const char *program;
	struct ob_qemu_option *option;
	size_t n_options;
	int prints_and_ends; /* -version, -device help and their like: no machine will run */
};

/*
 * Takes a command line apart; argv[0] is the program. Files that -readconfig names are read and their sections put in
 * their place as options. Returns 0, or -EINVAL (or the error of reading) with the reason. Free in either case.
 */
int ob_qemu_opts_parse(struct ob_qemu_opts *opts, int argc, char *const *argv, struct ob_error *err) OB_MUST_CHECK;
void ob_qemu_opts_free(struct ob_qemu_opts *opts);

/* Adds what a section [group "id"] of a configuration file says; properties follow by ob_qemu_option_add(). */
struct ob_qemu_option *ob_qemu_opts_add_section(struct ob_qemu_opts *opts, const char *file, const char *group,
						const char *id);
void ob_qemu_option_add(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *key, const char *value);

/* The last value of key, or NULL. For a bare word "on". */
const char *ob_qemu_option_get(const struct ob_qemu_option *option, const char *key);
/* The same as a truth: QEMU's on/yes/true/y and a bare word; otherwise what absent says. */
int ob_qemu_option_is_on(const struct ob_qemu_option *option, const char *key, int absent);
/* Whether the option says anything about key ("key", "key=...", "nokey"). */
int ob_qemu_option_has(const struct ob_qemu_option *option, const char *key);

/* Changes. json_value is what goes into a JSON argument (the reference is stolen), text what goes into a list. */
void ob_qemu_option_set(struct ob_qemu_opts *opts, struct ob_qemu_option *option, const char *key, const char *text,
			json_t *json_value);
void ob_qemu_option_remove(struct ob_qemu_option *option, const char *key);

/* The argument as it is to be given to QEMU. */
const char *ob_qemu_option_text(struct ob_qemu_opts *opts, struct ob_qemu_option *option);

/* "-m 2G", "-device nvdimm,id=a" cut to a readable length; "[memory] of \"FILE\"" for one from a file. For messages. */
const char *ob_qemu_option_describe(struct ob_qemu_opts *opts, const struct ob_qemu_option *option);

/* text with every comma doubled. */
const char *ob_qemu_escape(struct ob_arena *arena, const char *text);

/* A size as QEMU reads it: decimal with a fraction or 0x..., suffix B K M G T P E in either case. 0 or -EINVAL/-ERANGE. */
int ob_qemu_size_parse(const char *text, uint64_t default_unit, uint64_t *ret_bytes) OB_MUST_CHECK;

#endif
