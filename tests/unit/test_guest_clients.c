/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What of applications' words and memory counts as asked for, and as given, when free memory is put together. */
#include "test.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "guest/guest.h"

#define HELD (64 * OB_MIB)

/* An application, on its side, with HELD bytes of this process's memory, of which it gives. */
struct app {
	int fd;
	struct ob_guest_app said;
	uint32_t number; /* for the host */
	uint8_t *memory;
};

static void turn(void)
{
	struct pollfd fds[1 + OB_CLIENTS_MAX];
	unsigned n = ob_clients_poll(fds);

	assert_true(poll(fds, n, 0) >= 0);
	ob_clients_turn(fds, n);
}

static void say(struct app *app)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_APP, .app = app->said };
	uint8_t packet[OB_GUEST_FRAME];

	assert_int_equal(ob_guest_encode(&msg, packet), 0);
	assert_int_equal(send(app->fd, packet, sizeof(packet), 0), sizeof(packet));
	turn();
}

static void come(struct app *app)
{
	struct ob_guest_app heard;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(ob_clients_add(fds[0], OB_GUEST_KIND_REDIS), 0);
	app->fd = fds[1];
	say(app);
	while (ob_clients_next(&heard))
		app->number = heard.app;
	assert_int_equal(ob_clients_count(), 1);
}

static void go(struct app *app)
{
	ob_fd_close(&app->fd);
	turn();
	assert_int_equal(ob_clients_count(), 0);
}

static void begin(struct app *app)
{
	*app = (struct app){ .said = { .kind = OB_GUEST_KIND_REDIS, .pid = (uint32_t)getpid(), .name = "app", .used_bytes = HELD, .could_bytes = HELD } };
	app->memory = mmap(NULL, HELD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(app->memory, MAP_FAILED);
	(void)madvise(app->memory, HELD, MADV_NOHUGEPAGE);
	memset(app->memory, 1, HELD);
	come(app);
}

static void end(struct app *app)
{
	go(app);
	munmap(app->memory, HELD);
}

/* What it says to have given, and what it really has. */
static void give(struct app *app, uint64_t said_bytes, uint64_t bytes)
{
	assert_int_equal(madvise(app->memory, HELD, MADV_DONTNEED), 0);
	memset(app->memory, 1, HELD - bytes);
	app->said.given_bytes = said_bytes;
	app->said.used_bytes = HELD - said_bytes;
	say(app);
}

/* It is told by the host, and hears it. */
static void tell(struct app *app, uint64_t bytes)
{
	static uint32_t sequence;
	struct ob_guest_msg msg = { .type = OB_GUEST_TARGET, .session = 1, .sequence = ++sequence, .target = { app->number, 1000, bytes } };
	struct pollfd heard = { .fd = app->fd, .events = POLLIN };
	uint8_t packet[OB_GUEST_FRAME];

	ob_clients_target(&msg);
	/* Not at once, if it was told something just before. */
	for (unsigned i = 0; i < 100 && poll(&heard, 1, 10) == 0; i++)
		turn();
	assert_int_equal(recv(app->fd, packet, sizeof(packet), MSG_DONTWAIT), sizeof(packet));
	assert_int_equal(ob_guest_decode(packet, &msg), 0);
	assert_int_equal(msg.target.give_bytes, bytes);
	app->said.answers = sequence;
	app->said.target_bytes = bytes;
	say(app);
}

/* Since then, within a MiB: the kernel does not count to the page, and this process has other memory. */
static void assert_given(uint64_t before, uint64_t mib)
{
	assert_in_range(ob_clients_given_bytes() + OB_MIB - before, mib * OB_MIB, (mib + 2) * OB_MIB);
}

static void more_than_before_is_asked_for(void **state)
{
	uint64_t asked = ob_clients_asked_bytes();
	struct app app;

	begin(&app);
	tell(&app, 20 * OB_MIB);
	assert_int_equal(ob_clients_asked_bytes() - asked, 20 * OB_MIB);
	tell(&app, 20 * OB_MIB);
	tell(&app, 18 * OB_MIB);
	assert_int_equal(ob_clients_asked_bytes() - asked, 20 * OB_MIB);
	tell(&app, 30 * OB_MIB);
	assert_int_equal(ob_clients_asked_bytes() - asked, 32 * OB_MIB);
	tell(&app, 0);
	end(&app);
	assert_int_equal(ob_clients_asked_bytes() - asked, 32 * OB_MIB);
}

static void what_is_seen_is_given(void **state)
{
	uint64_t given = ob_clients_given_bytes();
	struct app app;

	begin(&app);
	tell(&app, 40 * OB_MIB);
	assert_given(given, 0);
	give(&app, 20 * OB_MIB, 20 * OB_MIB);
	assert_given(given, 20);
	/* The host is told of 40 MiB up to a slack, and of what is seen below that: here there is no such jump. */
	give(&app, 40 * OB_MIB, 38 * OB_MIB);
	assert_given(given, 38);
	give(&app, 40 * OB_MIB, 36 * OB_MIB);
	assert_given(given, 36);
	/* No more than it says, and than it was told. */
	give(&app, 30 * OB_MIB, 50 * OB_MIB);
	assert_given(given, 30);
	give(&app, 60 * OB_MIB, 60 * OB_MIB);
	assert_given(given, 40);
	give(&app, 0, 0);
	assert_given(given, 0);
	end(&app);
}

static void who_comes_again_has_given_nothing_by_that(void **state)
{
	uint64_t given, asked;
	struct app app;

	begin(&app);
	tell(&app, 40 * OB_MIB);
	give(&app, 40 * OB_MIB, 40 * OB_MIB);
	given = ob_clients_given_bytes();
	asked = ob_clients_asked_bytes();
	go(&app);
	assert_given(given, 0);
	app.said.answers = 0;
	come(&app);
	/* Whatever it has until it is told something. */
	give(&app, 40 * OB_MIB, 20 * OB_MIB);
	give(&app, 40 * OB_MIB, 40 * OB_MIB);
	tell(&app, 40 * OB_MIB);
	assert_given(given, 0);
	assert_int_equal(ob_clients_asked_bytes(), asked);
	tell(&app, 50 * OB_MIB);
	give(&app, 50 * OB_MIB, 50 * OB_MIB);
	assert_given(given, 10);
	assert_int_equal(ob_clients_asked_bytes() - asked, 10 * OB_MIB);
	end(&app);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(more_than_before_is_asked_for),
		cmocka_unit_test(what_is_seen_is_given),
		cmocka_unit_test(who_comes_again_has_given_nothing_by_that),
	};
	struct ob_error err = { 0 };
	char dir[] = "/tmp/test-clients-XXXXXX", path[64];
	int failed;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/app.sock", dir);
	failed = ob_clients_listen(path, &err) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	rmdir(dir);
	return failed;
}
