/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Settings come from these places, each over those before it:
 *
 *     /etc/overbook/machines.conf             for all machines
 *     /etc/overbook/machines/NAME.conf        for one
 *     the same two in ~/.config/overbook      not for root
 *     variables OVERBOOK_LIMIT ...            of the environment, which a libvirt domain can set (qemu:env)
 *
 * OVERBOOK_CONFIG names one directory that is read instead of both. A file has lines KEY = VALUE; empty lines and those
 * that start with '#' count for nothing. The variables are OVERBOOK_ and the key in capitals, '-' written as '_'.
 *
 * A file that is not there says nothing. One that is wrong ends the run, with its line: a machine must not run without the
 * limit that somebody believes he has given it. So does one that others than its owner could write to, since it names
 * programs and directories. A file of the user's own that cannot be reached counts as not there: libvirt's own home
 * directories are closed to QEMU.
 */
#include "cli/machine_settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "base/units.h"
#include "proto/env.h"

#define FILE_MAX 65536 /* bytes of a settings file */

static const char *const keys[] = { "limit", "reservation", "shares", "domain", "name", "swap", "share_mapped", "keep_affinity",
				    "balloon", "require", "enabled", "otherwise", "devices", "emulator", "rundir" };

static int set_truth(const char *key, const char *value, int *ret_truth, struct ob_error *err)
{
	if (strcmp(value, "yes") && strcmp(value, "no") && strcmp(value, "1") && strcmp(value, "0"))
		return ob_error_set(err, EINVAL, "%s: \"%s\" must be yes or no", key, value);
	*ret_truth = *value == 'y' || *value == '1';
	return 0;
}

/* One of two words. */
static int set_choice(const char *key, const char *value, const char *off, const char *on, int *ret_on, struct ob_error *err)
{
	if (strcmp(value, off) && strcmp(value, on))
		return ob_error_set(err, EINVAL, "%s: \"%s\" must be %s or %s", key, value, off, on);
	*ret_on = !strcmp(value, on);
	return 0;
}

static int set_path(const char *key, const char *value, const char **ret_path, struct ob_error *err)
{
	if (*value != '/')
		return ob_error_set(err, EINVAL, "%s: \"%s\" must be an absolute path", key, value);
	*ret_path = value;
	return 0;
}

/* A size, or "50%". */
static int set_amount(struct ob_machine_settings *settings, const char *key, const char *value, unsigned *ret_percent,
		      struct ob_error *err)
{
	char *end;
	unsigned long percent = strtoul(value, &end, 10);

	if (!isdigit((unsigned char)*value) || strcmp(end, "%")) {
		*ret_percent = 0;
		return ob_run_options_set(&settings->options, key, value, err);
	}
	if (!percent || percent > 100)
		return ob_error_set(err, EINVAL, "%s: \"%s\" must be from 1%% to 100%% of the machine's memory", key, value);
	*ret_percent = (unsigned)percent;
	return 0;
}

static int set_swap(struct ob_machine_settings *settings, const char *value, struct ob_error *err)
{
	settings->options.no_swap = !strcmp(value, "none");
	settings->options.swap = NULL;
	return settings->options.no_swap ? 0 : set_path("swap", value, &settings->options.swap, err);
}

static int set_one(struct ob_machine_settings *settings, const char *key, const char *value, struct ob_error *err)
{
	int enabled = 1, r = 0;

	if (!strcmp(key, "limit"))
		return set_amount(settings, key, value, &settings->limit_percent, err);
	if (!strcmp(key, "reservation"))
		return set_amount(settings, key, value, &settings->reservation_percent, err);
	if (!strcmp(key, "swap"))
		return set_swap(settings, value, err);
	if (!strcmp(key, "require"))
		return set_truth(key, value, &settings->options.require, err);
	if (!strcmp(key, "share_mapped"))
		return set_truth(key, value, &settings->options.share_mapped, err);
	if (!strcmp(key, "keep_affinity"))
		return set_truth(key, value, &settings->options.keep_affinity, err);
	if (!strcmp(key, "otherwise"))
		return set_choice(key, value, "refuse", "plain", &settings->plain, err);
	if (!strcmp(key, "devices"))
		return set_choice(key, value, "keep", "add", &settings->add_devices, err);
	if (!strcmp(key, "emulator"))
		return set_path(key, value, &settings->emulator, err);
	if (!strcmp(key, "rundir"))
		return set_path(key, value, &settings->rundir, err);
	if (!strcmp(key, "enabled")) {
		r = set_truth(key, value, &enabled, err);
		settings->disabled = !enabled;
		return r;
	}
	r = ob_run_options_set(&settings->options, key, value, err);
	if (r == -ENOENT)
		return ob_error_set(err, EINVAL, "\"%s\" is not a setting: see overbook-qemu(1)", key);
	return r;
}

static int read_line(struct ob_machine_settings *settings, char *line, struct ob_error *err)
{
	char *equals;

	line = ob_text_trim(line);
	if (!*line || *line == '#')
		return 0;
	equals = strchr(line, '=');
	if (!equals)
		return ob_error_set(err, EINVAL, "expected KEY = VALUE");
	*equals = 0;
	return set_one(settings, ob_text_trim(line), ob_text_trim(equals + 1), err);
}

static int check_file(int fd, const char *path, struct stat *ret_st, struct ob_error *err)
{
	if (fstat(fd, ret_st) < 0)
		return ob_error_sys(err, errno, "cannot look at \"%s\"", path);
	if (!S_ISREG(ret_st->st_mode) || ret_st->st_size > FILE_MAX)
		return ob_error_set(err, EINVAL, "\"%s\" must be a regular file of at most %d bytes", path, FILE_MAX);
	if ((ret_st->st_uid && ret_st->st_uid != geteuid()) || (ret_st->st_mode & (S_IWGRP | S_IWOTH)))
		return ob_error_set(err, EPERM, "\"%s\" can be written by others (owner %u, mode %o): it must belong to root or "
				    "you, with mode 644", path, (unsigned)ret_st->st_uid, (unsigned)ret_st->st_mode & 07777);
	return 0;
}

static int read_file(struct ob_arena *arena, struct ob_machine_settings *settings, const char *path, int own,
		     struct ob_error *err)
{
	int OB_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text, *line;
	struct stat st;
	int r;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || (own && errno == EACCES)))
		return 0;
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot read \"%s\"", path);
	r = check_file(fd, path, &st, err);
	if (r < 0)
		return r;
	text = ob_arena_alloc(arena, (size_t)st.st_size + 1);
	r = ob_pread_full(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot read \"%s\"", path);
	for (unsigned number = 1; (line = strsep(&text, "\n")); number++)
		if (read_line(settings, line, err) < 0)
			return ob_error_wrap(err, "\"%s\", line %u", path, number);
	return 0;
}

static int read_dir(struct ob_arena *arena, struct ob_machine_settings *settings, const char *dir, int own, const char *name,
		    struct ob_error *err)
{
	int r = read_file(arena, settings, ob_arena_printf(arena, "%s/machines.conf", dir), own, err);

	if (r == 0 && name)
		r = read_file(arena, settings, ob_arena_printf(arena, "%s/machines/%s.conf", dir, name), own, err);
	return r;
}

static int read_environment(struct ob_arena *arena, struct ob_machine_settings *settings, struct ob_error *err)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(keys); i++) {
		char *variable = ob_arena_printf(arena, "OVERBOOK_%s", keys[i]);
		const char *value;

		for (char *at = variable; *at; at++)
			*at = (char)toupper((unsigned char)*at);
		value = getenv(variable);
		if (value && *value && set_one(settings, keys[i], ob_arena_strdup(arena, value), err) < 0)
			return ob_error_wrap(err, "%s in the environment", variable);
	}
	return 0;
}

int ob_machine_settings_read(struct ob_arena *arena, const char *name, struct ob_machine_settings *ret_settings,
			     struct ob_error *err)
{
	const char *given = getenv("OVERBOOK_CONFIG"), *home = getenv("HOME");
	int r;

	memset(ret_settings, 0, sizeof(*ret_settings));
	ret_settings->options.shares = OB_SHARES_DEFAULT;
	if (given && *given) {
		r = read_dir(arena, ret_settings, given, 0, name, err);
	} else {
		r = read_dir(arena, ret_settings, OB_CONFIG_DIR, 0, name, err);
		if (r == 0 && geteuid() && home && *home == '/')
			r = read_dir(arena, ret_settings, ob_arena_printf(arena, "%s/.config/overbook", home), 1, name, err);
	}
	return r < 0 ? r : read_environment(arena, ret_settings, err);
}

static uint64_t fit(uint64_t bytes, unsigned percent, uint64_t ram_bytes)
{
	return percent ? ram_bytes / 100 * percent : OB_MIN(bytes, ram_bytes);
}

int ob_machine_settings_fit(struct ob_machine_settings *settings, uint64_t ram_bytes, struct ob_error *err)
{
	struct ob_run_options *options = &settings->options;
	char limit[16], reservation[16];

	options->limit_bytes = fit(options->limit_bytes, settings->limit_percent, ram_bytes);
	options->reservation_bytes = fit(options->reservation_bytes, settings->reservation_percent, ram_bytes);
	/* A machine too small to be limited is left without. */
	if (options->limit_bytes < OB_LIMIT_MIN)
		options->limit_bytes = 0;
	if (options->limit_bytes && options->reservation_bytes > options->limit_bytes)
		return ob_error_set(err, EINVAL, "reservation (%s) is more than limit (%s): it can be as much at most",
				    ob_size_format(reservation, sizeof(reservation), options->reservation_bytes),
				    ob_size_format(limit, sizeof(limit), options->limit_bytes));
	return 0;
}
