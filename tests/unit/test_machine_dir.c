/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who has a machine's name, and what a dead machine leaves. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/machine_dir.h"

static char root[64];

static int set_up(void **state)
{
	snprintf(root, sizeof(root), "/tmp/overbook-test-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	char path[128];

	ob_machine_dir_sweep(root);
	snprintf(path, sizeof(path), "%s/machines", root);
	rmdir(path);
	return rmdir(root);
}

static void make_file(const char *dir, const char *name)
{
	char path[PATH_MAX + 32];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	close(fd);
}

static int is_there(const char *dir, const char *name)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return !access(path, F_OK);
}

static void a_name_is_held_as_long_as_its_lock(void **state)
{
	struct ob_machine_dir first, second;
	struct ob_error err = { 0 };
	char pid[32];

	assert_int_equal(ob_machine_dir_claim(root, "web", &first, &err), 0);
	assert_int_equal(ob_machine_dir_claim(root, "web", &second, &err), -EBUSY);
	snprintf(pid, sizeof(pid), "(pid %ld)", (long)getpid());
	assert_non_null(strstr(err.text, pid));
	assert_int_equal(ob_machine_dir_claim(root, "db", &second, &err), 0);
	ob_machine_dir_discard(&second);
	assert_false(is_there(second.path, ""));
	ob_machine_dir_sweep(root);
	assert_true(is_there(first.path, "lock"));
	ob_machine_dir_discard(&first);
	assert_int_equal(ob_machine_dir_claim(root, "web", &first, &err), 0);
	ob_machine_dir_discard(&first);
}

static void the_lock_goes_into_the_next_program(void **state)
{
	struct ob_machine_dir dir;
	struct stat st;

	assert_int_equal(ob_machine_dir_claim(root, "web", &dir, NULL), 0);
	assert_false(fcntl(dir.lock_fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(stat(dir.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	ob_machine_dir_discard(&dir);
}

static void what_a_dead_machine_left_is_removed(void **state)
{
	struct ob_machine_dir dir;

	assert_int_equal(ob_machine_dir_claim(root, "web", &dir, NULL), 0);
	make_file(dir.path, "qmp.sock");
	make_file(dir.path, "guest.sock");
	close(dir.lock_fd); /* it dies */
	assert_int_equal(ob_machine_dir_claim(root, "web", &dir, NULL), 0);
	assert_false(is_there(dir.path, "qmp.sock"));
	assert_false(is_there(dir.path, "guest.sock"));
	make_file(dir.path, "qmp.sock");
	close(dir.lock_fd);
	ob_machine_dir_sweep(root);
	assert_false(is_there(dir.path, ""));
}

static void what_others_can_write_to_is_refused(void **state)
{
	struct ob_machine_dir dir;
	struct ob_error err = { 0 };
	char path[128];

	snprintf(path, sizeof(path), "%s/machines", root);
	mkdir(path, 0755);
	chmod(path, 0777);
	assert_int_equal(ob_machine_dir_claim(root, "web", &dir, &err), -EPERM);
	assert_non_null(strstr(err.text, "mode 777"));
	chmod(path, 0755);
	strcat(path, "/web");
	assert_int_equal(symlink("/tmp", path), 0);
	assert_int_equal(ob_machine_dir_claim(root, "web", &dir, &err), -ENOTDIR);
	assert_int_equal(unlink(path), 0);
}

static void a_path_that_is_too_long_for_a_socket_is_refused(void **state)
{
	char path[PATH_MAX], name[64];
	struct ob_error err = { 0 };

	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	assert_int_equal(ob_machine_dir_path("/run/overbook", name, path, sizeof(path), &err), 0);
	assert_int_equal(ob_machine_dir_path("/run/user/1000/a/longer/path", name, path, sizeof(path), &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "shorter --name"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_is_held_as_long_as_its_lock),
		cmocka_unit_test(the_lock_goes_into_the_next_program),
		cmocka_unit_test(what_a_dead_machine_left_is_removed),
		cmocka_unit_test(what_others_can_write_to_is_refused),
		cmocka_unit_test(a_path_that_is_too_long_for_a_socket_is_refused),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
