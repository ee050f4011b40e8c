/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CLI and a hostile overbookd: what the input says is the answer to one request of each subcommand that asks, printed as
 * text and as JSON, of `run`, `top`, of the demo and of `record`. A thread plays overbookd on the real socket: it reads nothing before it has answered.
 *
 * What must hold: the subcommand comes back with an exit code of cli.h; an admission gives an absolute path that fits and
 * a limit, or a reason of one line. What is printed goes nowhere.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/demo.h"
#include "cli/record_load.h"
#include "cli/top_page.h"
#include "fuzz.h"

static struct {
	int listener;
	const uint8_t *data;
	size_t size;
	sem_t answered;
} daemon_ = { .listener = -1 };

static void *play_daemon(void *unused)
{
	char request[4096];

	for (;;) {
		int fd = accept4(daemon_.listener, NULL, NULL, SOCK_CLOEXEC);
		size_t sent = 0;
		ssize_t n = 1;

		FUZZ_CHECK(fd >= 0, "accept: %s", strerror(errno));
		while (n > 0 && sent < daemon_.size) {
			n = send(fd, daemon_.data + sent, daemon_.size - sent, MSG_NOSIGNAL);
			sent += n > 0 ? (size_t)n : 0;
		}
		shutdown(fd, SHUT_WR);
		while (read(fd, request, sizeof(request)) > 0)
			;
		close(fd);
		sem_post(&daemon_.answered);
	}
	return NULL;
}

static void start_daemon(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pthread_t thread;

	if (daemon_.listener >= 0)
		return;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/overbookd.sock", fuzz_directory());
	unlink(address.sun_path);
	setenv("OVERBOOK_RUNDIR", fuzz_directory(), 1);
	daemon_.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FUZZ_CHECK(daemon_.listener >= 0 && !bind(daemon_.listener, (struct sockaddr *)&address, sizeof(address)) &&
		   !listen(daemon_.listener, 4), "%s: %s", address.sun_path, strerror(errno));
	sem_init(&daemon_.answered, 0, 0);
	FUZZ_CHECK(!pthread_create(&thread, NULL, play_daemon, NULL), "thread");
}

static void wait_for_daemon(void)
{
	while (sem_wait(&daemon_.answered) < 0 && errno == EINTR)
		;
}

static void run(int (*command)(int argc, char **argv), const char *a, const char *b, const char *c)
{
	char *argv[] = { (char *)"x", (char *)a, (char *)b, (char *)c, NULL };
	int argc = 1 + !!a + !!b + !!c, code = command(argc, argv);

	FUZZ_CHECK(code >= OB_EXIT_OK && code <= OB_EXIT_REFUSED && code != OB_EXIT_USAGE, "exit code %d", code);
	wait_for_daemon();
}

static void admit(void)
{
	struct ob_client_admission admission = { .name = "web", .ram_bytes = 1 << 30, .shares = 1000, .pid = 1 };
	struct ob_error err = { 0 };
	struct ob_client_admitted admitted = { 0 };
	int r = ob_client_admit(&admission, &admitted, &err);

	FUZZ_CHECK(r == 0 ? *admitted.socket == '/' && memchr(admitted.socket, 0, sizeof(admitted.socket)) : r < 0 && fuzz_is_one_line(err.text), "%d: \"%s\"", r, err.text);
	FUZZ_CHECK(admitted.limit_bytes <= INT64_MAX && (admitted.no_large & ~1) == 0, "limit or large pages");
	wait_for_daemon();
}

/* What the demo makes of the statistics. */
static void fetch(void)
{
	static struct demo demo;

	memset(&demo, 0, sizeof(demo));
	demo.machines = 1;
	strcpy(demo.machine[0].name, "web");
	demo.machine[0].pid = getpid();
	/* It asks about the machine, and about what is shared. */
	demo_fetch_figures(&demo);
	wait_for_daemon();
	wait_for_daemon();
	demo_sum_figures(&demo);
	for (unsigned i = 0; i < demo.failures; i++)
		FUZZ_CHECK(fuzz_is_one_line(demo.failure[i]), "\"%s\"", demo.failure[i]);
}

/* What is recorded of a machine. */
static void record(const uint8_t *data, size_t size)
{
	json_t *answer = json_loadb((const char *)data, size, JSON_DISABLE_EOF_CHECK, NULL);
	uint64_t faults = 1;
	struct ob_sim_load load;

	for (int look = 0; look < 2 && answer; look++)
		if (ob_record_load(answer, (uint64_t)look, &faults, &load) == 0)
			FUZZ_CHECK(ob_sim_load_check(&load, NULL) == 0 && load.ram_bytes <= OB_SIM_RAM_MAX && load.touches <= OB_SIM_TOUCHES_MAX, "a load");
	json_decref(answer);
}

/* What `top` makes of it, twice: rows, rates, and pages of printable letters. */
static void watch(void)
{
	struct ob_top top = { 0 };
	struct ob_top_detail detail = { 0 };
	struct ob_top_canvas canvas = { 0 };
	struct ob_top_view view = { .key = OB_TOP_FAULTS, .seconds = 2 };
	struct ob_error err = { 0 };
	json_t *answer;
	int r = ob_client_call("ps", NULL, NULL, NULL, &answer, &err);

	wait_for_daemon();
	if (r < 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		r = ob_top_take(&top, answer, &err);
		FUZZ_CHECK(r == 0 || fuzz_is_one_line(err.text), "\"%s\"", err.text);
		ob_top_take_detail(&detail, answer);
		ob_top_sort(&top, view.key, i);
		FUZZ_CHECK(ob_top_canvas_reset(&canvas, 100, 30) == 0, "memory");
		memcpy(view.shown, i ? detail.name : "", i ? sizeof(view.shown) : 1);
		ob_top_draw(&canvas, &top, &view, &detail);
		for (size_t at = 0; at < (size_t)canvas.width * canvas.height; at++)
			FUZZ_CHECK(canvas.cells[at] >= ' ' && canvas.cells[at] <= '~', "letter %d", canvas.cells[at]);
	}
	json_decref(answer);
	ob_top_canvas_free(&canvas);
	ob_top_clear(&top);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	fuzz_mute_stdio();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	start_daemon();
	daemon_.data = data;
	daemon_.size = size;
	run(ob_cmd_ps, NULL, NULL, NULL);
	run(ob_cmd_ps, "--json", NULL, NULL);
	run(ob_cmd_stats, "web", NULL, NULL);
	run(ob_cmd_limit, "web", "512M", "--wait");
	run(ob_cmd_release, "web", NULL, NULL);
	run(ob_cmd_balloon, "web", NULL, NULL);
	run(ob_cmd_balloon, "web", "512M", "--json");
	run(ob_cmd_share, NULL, NULL, NULL);
	run(ob_cmd_share, "--json", NULL, NULL);
	run(ob_cmd_share, "--off", "web", NULL);
	admit();
	fetch();
	watch();
	record(data, size);
	return 0;
}
