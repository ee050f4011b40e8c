/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rewritten command lines given to the real qemu-system-x86_64, without an agent: each must be accepted, its RAM must be
 * there under the right id and shared, and our monitor must answer. Also that our table of machine types says what QEMU
 * says. Skipped where QEMU is not installed.
 */
#include "qemu_line.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/qemu_binary.h"

#define DEADLINE_NS (60 * OB_NS_PER_SEC)

static struct ob_qemu_binary binary;
static int have_qemu;

static const struct {
	const char *arguments;
	const char *id; /* of one of its backends */
	uint64_t ram_bytes;
} samples[] = {
	{ "", "pc.ram", 128 * OB_MIB },
	{ "-m 2G -M pc", "pc.ram", 2 * OB_GIB },
	{ "-m 300 --machine q35,usb=off -nographic", "pc.ram", 300 * OB_MIB },
	{ "-m 333k -M pc -M usb=on", "pc.ram", 344064 },
	{ "-m size=1G,slots=4,maxmem=8G -M q35 -smp 2", "pc.ram", OB_GIB },
	{ "-m 1G -m slots=2,maxmem=4G -nodefaults", "pc.ram", OB_GIB },
	{ "-M microvm -m 256", "microvm.ram", 256 * OB_MIB },
	{ "-M isapc -m 64", "pc.ram", 64 * OB_MIB },
	{ "-M pc-i440fx-4.0 -m 1G", "pc.ram", OB_GIB },
	{ "-m 1G -smp 2 -object memory-backend-ram,id=a,size=512M -numa node,cpus=0,memdev=a -object "
	  "memory-backend-memfd,id=b,size=512M,seal=off "
	  "-numa node,cpus=1,memdev=b", "b", OB_GIB },
	{ "-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=768M", "mem", 768 * OB_MIB },
	{ "-machine pc-q35-6.2,memory-backend=pc.ram -m 1024 -nodefaults -no-user-config "
	  "-object '{\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":1073741824}' "
	  "-device '{\"driver\":\"virtio-balloon-pci\",\"id\":\"b0\",\"bus\":\"pcie.0\",\"addr\":\"0x5\"}'", "pc.ram", OB_GIB },
	{ "-m 1G,slots=2,maxmem=4G -M q35 -object memory-backend-ram,id=d,size=512M -device pc-dimm,memdev=d", "d",
	  1536 * OB_MIB },
	{ "-m 1G -device virtio-balloon -device virtio-serial -sandbox "
	  "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	  "pc.ram", OB_GIB },
};

static int set_up(void **state)
{
	static char path[] = "/tmp/overbook-test-XXXXXX";

	have_qemu = !ob_qemu_binary_find("qemu-system-x86_64", &binary, NULL);
	*state = mkdtemp(path);
	return *state ? 0 : -1;
}

static int tear_down(void **state)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/qmp.sock", (char *)*state);
	unlink(path);
	snprintf(path, sizeof(path), "%s/guest.sock", (char *)*state);
	unlink(path);
	return rmdir(*state);
}

static pid_t start(struct qemu_line *line)
{
	char freeze[] = "-S", display[] = "-display", none[] = "none";
	char **argv = ob_arena_alloc(&line->opts.arena, (size_t)(line->plan.argc + 4) * sizeof(*argv));
	pid_t pid;

	memcpy(argv, line->plan.argv, (size_t)line->plan.argc * sizeof(*argv));
	argv[line->plan.argc] = freeze;
	argv[line->plan.argc + 1] = display;
	argv[line->plan.argc + 2] = none;
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		/* A failed assertion ends the test, not QEMU. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, STDIN_FILENO);
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execv(binary.path, argv);
		_exit(127);
	}
	return pid;
}

/* Connects to the monitor as soon as QEMU listens. Returns the descriptor, or -1 when QEMU has ended or time is up. */
static int connect_to(const char *dir, pid_t pid, int *ret_status)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint64_t deadline_ns = ob_now_ns() + DEADLINE_NS;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/qmp.sock", dir);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (waitpid(pid, ret_status, WNOHANG) == pid || ob_now_ns() > deadline_ns) {
			close(fd);
			return -1;
		}
		poll(NULL, 0, 10);
	}
	return fd;
}

/* Sends a command and returns its "return", skipping greeting and events. */
static json_t *command(FILE *monitor, const char *name)
{
	char text[65536];

	fprintf(monitor, "{\"execute\":\"%s\"}\n", name);
	fflush(monitor);
	while (fgets(text, sizeof(text), monitor)) {
		json_t *object = json_loads(text, 0, NULL), *answer = json_incref(json_object_get(object, "return"));

		assert_null(json_object_get(object, "error"));
		json_decref(object);
		if (answer)
			return answer;
	}
	return NULL;
}

static void check_memory(FILE *monitor, size_t i)
{
	json_t *list = command(monitor, "query-memdev"), *entry;
	uint64_t bytes = 0;
	int found = 0;
	size_t k;

	json_array_foreach (list, k, entry) {
		assert_true(json_is_true(json_object_get(entry, "share")));
		found |= !strcmp(json_string_value(json_object_get(entry, "id")), samples[i].id);
		bytes += (uint64_t)json_integer_value(json_object_get(entry, "size"));
	}
	assert_true(found);
	assert_true(bytes == samples[i].ram_bytes);
	json_decref(list);
}

static void check_sample(size_t i, const char *dir)
{
	struct ob_qemu_plan_config config = { .target = "x86_64", .dir = dir };
	char text[2048];
	struct qemu_line line;
	FILE *monitor;
	int fd, status = 0;
	pid_t pid;

	snprintf(text, sizeof(text), "qemu-system-x86_64 %s", samples[i].arguments);
	qemu_line_plan_for(&line, text, &config);
	assert_int_equal(line.parsed, 0);
	assert_int_equal(line.plan.n_refusals, 0);
	assert_true(line.plan.ram_bytes == samples[i].ram_bytes);
	pid = start(&line);
	fd = connect_to(dir, pid, &status);
	if (fd < 0)
		fail_msg("%s: QEMU ended with status %d", qemu_line_result(&line), status);
	monitor = fdopen(fd, "r+");
	json_decref(command(monitor, "qmp_capabilities"));
	check_memory(monitor, i);
	json_decref(command(monitor, "quit"));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
	fclose(monitor);
	ob_qemu_opts_free(&line.opts);
}

static void qemu_accepts_what_is_written(void **state)
{
	if (!have_qemu)
		skip();
	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++)
		check_sample(i, *state);
}

static void the_table_says_what_qemu_says(void **state)
{
	static const char *const types[] = { NULL, "pc", "q35", "isapc", "microvm", "pc-i440fx-4.0", "pc-q35-7.2" };
	struct ob_qemu_machine machine;
	char id[64];

	if (!have_qemu)
		skip();
	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		struct ob_error err = { 0 };
		int r = ob_qemu_binary_ask_ram_id(&binary, types[i], id, sizeof(id), &err);

		if (r == -ENOENT)
			continue; /* another version of QEMU may not have it */
		if (r < 0)
			fail_msg("%s", err.text);
		assert_int_equal(ob_qemu_machine_find("x86_64", types[i], &machine, NULL), 0);
		assert_string_equal(machine.ram_id, id);
	}
	assert_int_equal(ob_qemu_binary_ask_ram_id(&binary, "nonesuch", id, sizeof(id), NULL), -ENOENT);
}

static void qemu_tells_its_version(void **state)
{
	char text[128];

	if (!have_qemu)
		skip();
	assert_int_equal(ob_qemu_binary_ask_version(binary.path, text, sizeof(text), NULL), 0);
	assert_non_null(strstr(text, "version"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qemu_accepts_what_is_written),
		cmocka_unit_test(the_table_says_what_qemu_says),
		cmocka_unit_test(qemu_tells_its_version),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
