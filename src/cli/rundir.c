/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/rundir.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/cli.h"
#include "proto/wire.h"

static const char *current_command;

void ob_cli_set_command(const char *command)
{
	current_command = command;
}

static void say(const char *kind, const char *fmt, va_list ap)
{
	fprintf(stderr, "overbook: %s%s%s", current_command ? current_command : "", current_command ? ": " : "", kind);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

int ob_cli_fail(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
	return code;
}

int ob_cli_check_name(const char *name)
{
	if (ob_name_valid(name))
		return 0;
	return ob_cli_fail(OB_EXIT_USAGE, "\"%s\" is not a machine's name: up to %d letters, digits and . _ -, the first a letter, a digit "
			   "or _", name, OB_NAME_MAX);
}

int ob_cli_take_count(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || *text < '0' || *text > '9' || *end || number < least || number > most)
		return ob_cli_fail(OB_EXIT_USAGE, "--%s %s: must be a number from %llu to %llu", option, text, (unsigned long long)least,
				   (unsigned long long)most);
	*ret = number;
	return 0;
}

int ob_cli_take_size(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	char least_text[16], most_text[16];
	uint64_t bytes;

	if (ob_size_parse(text, &bytes) < 0 || bytes < least || bytes > most)
		return ob_cli_fail(OB_EXIT_USAGE, "--%s %s: must be a size from %s to %s, such as 512M", option, text,
				   ob_size_format(least_text, sizeof(least_text), least), ob_size_format(most_text, sizeof(most_text), most));
	*ret = bytes;
	return 0;
}

void ob_cli_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("warning: ", fmt, ap);
	va_end(ap);
}

/* What XDG_RUNTIME_DIR would say: libvirt, for one, starts a user's machines without it. */
static int find_user_dir(char *ret_path, size_t size)
{
	struct stat st;

	snprintf(ret_path, size, "/run/user/%u", (unsigned)geteuid());
	return !stat(ret_path, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

const char *ob_cli_rundir(struct ob_error *err)
{
	static char dir[PATH_MAX];
	char session[64];
	const char *given = getenv("OVERBOOK_RUNDIR"), *user = getenv("XDG_RUNTIME_DIR");
	int length;

	if (given && *given)
		length = snprintf(dir, sizeof(dir), "%s", given);
	else if (!geteuid())
		length = snprintf(dir, sizeof(dir), "/run/overbook");
	else if (user && *user)
		length = snprintf(dir, sizeof(dir), "%s/overbook", user);
	else if (find_user_dir(session, sizeof(session)))
		length = snprintf(dir, sizeof(dir), "%s/overbook", session);
	else
		return ob_error_set(err, ENOENT, "there is no directory for sockets: XDG_RUNTIME_DIR is not set; set "
				    "OVERBOOK_RUNDIR to a directory "
				    "of your own"), NULL;
	if (length >= (int)sizeof(dir) || dir[0] != '/')
		return ob_error_set(err, EINVAL, "the directory for sockets, \"%s\", must be an absolute path", dir), NULL;
	return dir;
}
