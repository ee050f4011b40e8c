/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads what -readconfig names. The grammar is QEMU's: empty lines, comments that start with '#', sections [group] or
 * [group "id"], and lines key = "value" that belong to the section before them. A value lies between the first and the
 * last quote of its line; there are no escapes.
 *
 * The file is read here to know what it says, and again by QEMU itself: only a regular file can be read twice, so pipes
 * and /dev/fd are refused. Nothing in it is ever changed: what would have to be is refused by those who look.
 */
#include "cli/qemu_config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static int read_file(struct ob_arena *arena, const char *file, char **ret_text, struct ob_error *err)
{
	int OB_FD fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char *text;
	int r;

	if (fd < 0)
		return ob_error_sys(err, errno, "cannot open -readconfig file \"%s\"", file);
	if (fstat(fd, &st) < 0)
		return ob_error_sys(err, errno, "cannot look at -readconfig file \"%s\"", file);
	if (!S_ISREG(st.st_mode))
		return ob_error_set(err, EINVAL, "-readconfig \"%s\" is not a regular file, so it cannot be read by both "
				    "Overbook and QEMU: "
				    "write it to a file first", file);
	if (st.st_size > OB_QEMU_CONFIG_MAX)
		return ob_error_set(err, EFBIG, "-readconfig file \"%s\" has %lld bytes: at most %d are read", file,
				    (long long)st.st_size,
				    OB_QEMU_CONFIG_MAX);
	text = ob_arena_alloc(arena, (size_t)st.st_size + 1);
	r = ob_pread_full(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot read -readconfig file \"%s\"", file);
	if (strlen(text) != (size_t)st.st_size)
		return ob_error_set(err, EINVAL, "-readconfig file \"%s\" has a NUL byte in it: it must be text", file);
	*ret_text = text;
	return 0;
}

static char *trim(char *line)
{
	size_t length;

	while (isspace((unsigned char)*line))
		line++;
	length = strlen(line);
	while (length && isspace((unsigned char)line[length - 1]))
		line[--length] = 0;
	return line;
}

/* Splits [group] or [group "id"] in place. Returns 0 or -EINVAL. */
static int parse_section(char *line, char **ret_group, char **ret_id)
{
	char *end = strrchr(line, ']'), *quote;

	if (!end || end[1])
		return -EINVAL;
	*end = 0;
	*ret_id = NULL;
	*ret_group = line + 1;
	quote = strchr(line + 1, '"');
	if (quote) {
		char *last = strrchr(quote + 1, '"');

		if (!last || last[1])
			return -EINVAL;
		*last = 0;
		*quote = 0;
		*ret_id = quote + 1;
	}
	*ret_group = trim(*ret_group);
	return **ret_group ? 0 : -EINVAL;
}

/* Splits key = "value" in place. Returns 0 or -EINVAL. */
static int parse_assignment(char *line, char **ret_key, char **ret_value)
{
	char *equals = strchr(line, '='), *value, *last;

	if (!equals)
		return -EINVAL;
	*equals = 0;
	value = trim(equals + 1);
	last = *value == '"' ? strrchr(value + 1, '"') : NULL;
	if (!last || last[1])
		return -EINVAL;
	*last = 0;
	*ret_key = trim(line);
	*ret_value = value + 1;
	return **ret_key ? 0 : -EINVAL;
}

int ob_qemu_config_read(struct ob_qemu_opts *opts, const char *file, struct ob_error *err)
{
	char *text = NULL, *rest, *line;
	struct ob_qemu_option *section = NULL;
	unsigned number = 0;
	int r = read_file(&opts->arena, file, &text, err);

	if (r < 0)
		return r;
	for (rest = text; (line = strsep(&rest, "\n"));) {
		char *first, *second;

		number++;
		line = trim(line);
		if (!*line || *line == '#')
			continue;
		if (*line == '[') {
			if (parse_section(line, &first, &second) < 0)
				return ob_error_set(err, EINVAL, "-readconfig file \"%s\", line %u: expected [group] or "
						    "[group \"id\"]", file, number);
			section = ob_qemu_opts_add_section(opts, file, first, second);
			continue;
		}
		if (parse_assignment(line, &first, &second) < 0)
			return ob_error_set(err, EINVAL, "-readconfig file \"%s\", line %u: expected key = \"value\"", file,
					    number);
		if (!section)
			return ob_error_set(err, EINVAL, "-readconfig file \"%s\", line %u: \"%s\" stands before any "
					    "[group]", file, number, first);
		ob_qemu_option_add(opts, section, first, second);
	}
	return 0;
}
