/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Settings of machines: where they come from, which goes before which, and what is wrong with wrong ones. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "cli/machine_settings.h"
#include "proto/env.h"

static char root[64];
static struct ob_arena arena;

static int set_up(void **state)
{
	char path[PATH_MAX];

	snprintf(root, sizeof(root), "/tmp/overbook-test-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	snprintf(path, sizeof(path), "%s/machines", root);
	setenv("OVERBOOK_CONFIG", root, 1);
	return mkdir(path, 0700);
}

static int tear_down(void **state)
{
	static const char *const names[] = { "machines.conf", "machines/web.conf", "machines", "" };
	char path[PATH_MAX];

	ob_arena_free(&arena);
	unsetenv("OVERBOOK_LIMIT");
	unsetenv("OVERBOOK_REQUIRE");
	for (size_t i = 0; i < OB_ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", root, names[i]);
		remove(path);
	}
	return 0;
}

static void write_file(const char *name, mode_t mode, const char *text)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ob_write_full(fd, text, strlen(text)), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static struct ob_machine_settings read_for(const char *name)
{
	struct ob_machine_settings settings;
	struct ob_error err = { 0 };

	if (ob_machine_settings_read(&arena, name, &settings, &err) < 0)
		fail_msg("%s", err.text);
	return settings;
}

static void nothing_is_set_without_files(void **state)
{
	struct ob_machine_settings settings = read_for("web");

	assert_true(!settings.options.limit_bytes && !settings.limit_percent && !settings.emulator && !settings.rundir);
	assert_true(!settings.options.require && !settings.disabled && !settings.plain && !settings.add_devices);
	assert_int_equal(settings.options.shares, OB_SHARES_DEFAULT);
}

static void the_nearer_goes_before_the_farther(void **state)
{
	struct ob_machine_settings settings;

	write_file("machines.conf", 0644, "# for all\n\nlimit = 50%\n shares=10 \nballoon = auto\nswap = /srv/swap\n"
		   "require = yes\nkeep_affinity = yes\nrundir = /run/x\n");
	write_file("machines/web.conf", 0600, "limit = 1.5G\nswap = none\ndomain = a\nname = other\n"
		   "devices = add\notherwise = plain");
	settings = read_for("web");
	assert_true(settings.options.limit_bytes == 1536 * OB_MIB && !settings.limit_percent);
	assert_true(settings.options.no_swap && !settings.options.swap);
	assert_string_equal(settings.options.domain, "a");
	assert_string_equal(settings.options.name, "other");
	assert_int_equal(settings.options.shares, 10);
	assert_string_equal(settings.options.balloon, "auto");
	assert_true(settings.options.keep_affinity && settings.options.require && settings.add_devices && settings.plain);
	settings = read_for("db");
	assert_int_equal(settings.limit_percent, 50);
	assert_string_equal(settings.options.swap, "/srv/swap");
	assert_string_equal(settings.rundir, "/run/x");
	setenv("OVERBOOK_LIMIT", "64M", 1);
	setenv("OVERBOOK_REQUIRE", "0", 1);
	settings = read_for("db");
	assert_true(settings.options.limit_bytes == 64 * OB_MIB && !settings.limit_percent && !settings.options.require);
	assert_true(read_for(NULL).options.limit_bytes == 64 * OB_MIB);
}

static void they_are_fitted_to_the_machine(void **state)
{
	struct ob_machine_settings settings;
	struct ob_error err = { 0 };

	write_file("machines.conf", 0644, "limit = 25%\nreservation = 64M\n");
	settings = read_for("web");
	assert_int_equal(ob_machine_settings_fit(&settings, OB_GIB, NULL), 0);
	assert_true(settings.options.limit_bytes == OB_GIB / 100 * 25 && settings.options.reservation_bytes == 64 * OB_MIB);
	write_file("machines.conf", 0644, "limit = 4G\n");
	settings = read_for("web");
	assert_int_equal(ob_machine_settings_fit(&settings, OB_GIB, NULL), 0);
	assert_true(settings.options.limit_bytes == OB_GIB);
	write_file("machines.conf", 0644, "limit = 1%\n");
	settings = read_for("web");
	assert_int_equal(ob_machine_settings_fit(&settings, 64 * OB_MIB, NULL), 0);
	assert_true(!settings.options.limit_bytes);
	write_file("machines.conf", 0644, "limit = 25%\nreservation = 50%\n");
	settings = read_for("web");
	assert_int_equal(ob_machine_settings_fit(&settings, OB_GIB, &err), -EINVAL);
	assert_non_null(strstr(err.text, "reservation (512 MiB) is more than limit (256 MiB)"));
}

static void wrong_ones_are_told_with_their_line(void **state)
{
	static const struct {
		const char *text, *says;
	} wrong[] = {
		{ "limit = 64M\nlimit = lots\n", "machines.conf\", line 2: limit: \"lots\" is not a size" },
		{ "limit = 1M\n", "line 1: limit: 1M is too little" },
		{ "limit = 0%\n", "from 1% to 100%" },
		{ "limit = 101%\n", "from 1% to 100%" },
		{ "limit\n", "expected KEY = VALUE" },
		{ "limits = 64M\n", "\"limits\" is not a setting" },
		{ "= 64M\n", "\"\" is not a setting" },
		{ "require = maybe\n", "must be yes or no" },
		{ "otherwise = perhaps\n", "must be refuse or plain" },
		{ "devices = remove\n", "must be keep or add" },
		{ "swap = here\n", "must be an absolute path" },
		{ "emulator = qemu-system-x86_64\n", "must be an absolute path" },
		{ "shares = 0\n", "from 1 to 1000000" },
		{ "balloon = on\n", "neither \"auto\" nor \"off\"" },
		{ "name = a b\n", "is not a name" },
		{ "dry-run = yes\n", "is not a setting" },
	};
	struct ob_machine_settings settings;

	for (size_t i = 0; i < OB_ARRAY_LEN(wrong); i++) {
		struct ob_error err = { 0 };

		write_file("machines.conf", 0644, wrong[i].text);
		assert_int_equal(ob_machine_settings_read(&arena, "web", &settings, &err), -EINVAL);
		if (!strstr(err.text, wrong[i].says))
			fail_msg("%s", err.text);
	}
}

static void files_of_others_are_not_believed(void **state)
{
	struct ob_machine_settings settings;
	struct ob_error err = { 0 };

	write_file("machines.conf", 0666, "limit = 64M\n");
	assert_int_equal(ob_machine_settings_read(&arena, "web", &settings, &err), -EPERM);
	assert_non_null(strstr(err.text, "can be written by others"));
	if (geteuid())
		return;
	write_file("machines.conf", 0644, "limit = 64M\n");
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/machines.conf", root);
	assert_int_equal(chown(path, 65534, 65534), 0);
	assert_int_equal(ob_machine_settings_read(&arena, "web", &settings, NULL), -EPERM);
}

static void what_is_no_file_is_refused(void **state)
{
	struct ob_machine_settings settings;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/machines.conf", root);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(ob_machine_settings_read(&arena, "web", &settings, NULL), -EINVAL);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(nothing_is_set_without_files),
		CASE(the_nearer_goes_before_the_farther),
		CASE(they_are_fitted_to_the_machine),
		CASE(wrong_ones_are_told_with_their_line),
		CASE(files_of_others_are_not_believed),
		CASE(what_is_no_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
