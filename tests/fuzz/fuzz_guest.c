/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbook-guest between a hostile host and hostile applications, over its real sockets: this file includes its parts, and plays
 * its loop. The input is a script:
 *
 *     p HEX                          bytes from the host
 *     f TYPE HEX                     a frame from the host, in this session, with any payload
 *     g APP BYTES                    TARGET to an application of this script: 1 is the first
 *     c N                            an application connects (N: 0 to 7)
 *     s N HEX                        it sends a packet
 *     a N NAME USED COULD GIVEN TARGET FLAGS ANSWERS   it says APP
 *     e N                            it closes
 *     h                              the host hangs up, and comes again
 *     r                              the same, before it has read what it is told a second later
 *     t SECONDS                      time passes
 *
 * What must hold: whatever it says to the host or to an application are frames that can be read, of this session; it tells nobody to give
 * more than he has offered, or said to have given; numbers of applications are never used again; no descriptor is left; it comes to rest.
 */
#include "../../src/guest/memory.c"
#include "../../src/guest/clients.c"
#include "../../src/guest/port.c"

#include <stdlib.h>

#include "../guest_frame.h"
#include "fuzz.h"

#define STEPS_MAX 200
#define PLAYERS   8
#define APPS_MAX  (STEPS_MAX + 1) /* of one script */
#define FDS_MAX   128

static struct {
	uint64_t now_ns;
	int listener, host, player[PLAYERS];
	uint64_t offered_bytes[PLAYERS]; /* or said to be given, the most on this connection */
	struct ob_guest_reader reader;
	uint32_t before_app, last_target, hellos; /* before_app: the last number of former scripts */
	bool has_gone[APPS_MAX];
	unsigned fds; /* that are open in any case */
} world = { .now_ns = 1000 * OB_NS_PER_SEC, .listener = -1, .host = -1 };

/* Time stands still but for the input. */
uint64_t ob_now_ns(void)
{
	return world.now_ns;
}

static void check_app(const struct ob_guest_app *app)
{
	uint32_t number = app->app - world.before_app;

	FUZZ_CHECK(app->app && app->app <= clients.next_app, "application %u of %u", app->app, clients.next_app);
	FUZZ_CHECK(app->given_bytes <= app->target_bytes, "application %u has given %llu of %llu", app->app, (unsigned long long)app->given_bytes,
		   (unsigned long long)app->target_bytes);
	/* Of those of former scripts their end may have waited for a host. */
	if (app->app <= world.before_app) {
		FUZZ_CHECK(app->flags & OB_GUEST_APP_GONE, "number %u is used again", app->app);
		return;
	}
	FUZZ_CHECK(number < APPS_MAX && !world.has_gone[number], "number %u is used again", app->app);
	world.has_gone[number] = app->flags & OB_GUEST_APP_GONE;
}

static void hear_guest(void)
{
	uint8_t bytes[4096];
	ssize_t n;

	while (world.host >= 0 && (n = recv(world.host, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
		const uint8_t *at = bytes;
		struct ob_guest_msg msg;

		while (ob_guest_read(&world.reader, &at, bytes + n, &msg)) {
			FUZZ_CHECK(msg.session == port.session, "a frame of another session");
			FUZZ_CHECK(msg.type == OB_GUEST_HELLO || msg.type == OB_GUEST_MEMORY || msg.type == OB_GUEST_APP, "type %u", msg.type);
			if (msg.type == OB_GUEST_APP)
				check_app(&msg.app);
			world.hellos += msg.type == OB_GUEST_HELLO;
		}
		FUZZ_CHECK(!world.reader.skipped_bytes && !world.reader.bad_frames, "what is said is not frames");
	}
}

static void hear_players(void)
{
	uint8_t packet[4096];

	for (unsigned i = 0; i < PLAYERS; i++) {
		struct ob_guest_msg msg;
		ssize_t n;

		while (world.player[i] >= 0 && (n = recv(world.player[i], packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
			FUZZ_CHECK(n == OB_GUEST_FRAME && ob_guest_decode(packet, &msg) == 0 && msg.type == OB_GUEST_TARGET && !msg.session && !msg.target.app,
				   "an application is told something else");
			FUZZ_CHECK(msg.target.give_bytes <= world.offered_bytes[i], "an application that has offered %llu is told to give %llu",
				   (unsigned long long)world.offered_bytes[i], (unsigned long long)msg.target.give_bytes);
		}
	}
}

static void run_guest(void)
{
	for (unsigned i = 0; i < 300; i++) {
		struct pollfd fds[2 + OB_CLIENTS_MAX];
		unsigned n, ready = 0;

		ob_port_poll(&fds[0]);
		n = ob_clients_poll(&fds[1]);
		(void)poll(fds, n + 1, 0);
		for (unsigned k = 0; k <= n; k++)
			ready += fds[k].fd >= 0 && fds[k].revents;
		ob_clients_turn(&fds[1], n);
		ob_port_turn(&fds[0]);
		if (world.host < 0 && port.fd >= 0)
			world.host = accept4(world.listener, NULL, NULL, SOCK_CLOEXEC);
		hear_guest();
		hear_players();
		if (!ready && ob_port_due_ns() > world.now_ns && ob_clients_due_ns() > world.now_ns)
			return;
		/* What is due now and cannot be done now is due a little later. */
		if (!ready)
			world.now_ns += OB_NS_PER_MS;
	}
	FUZZ_CHECK(false, "it does not come to rest");
}

static void say_frame(char *const *words, int n)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_WELCOME, .session = port.session, .welcome.interval_ms = 1000 };
	uint8_t frame[OB_GUEST_FRAME];

	FUZZ_CHECK(ob_guest_encode(&msg, frame) == 0, "a frame");
	frame[5] = (uint8_t)fuzz_number(words, n, 1);
	memset(frame + 16, 0, OB_GUEST_FRAME - 20);
	fuzz_hex(fuzz_word(words, n, 2), frame + 16, OB_GUEST_FRAME - 20);
	seal_guest_frame(frame);
	if (world.host >= 0)
		(void)!send(world.host, frame, sizeof(frame), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_target(char *const *words, int n)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_TARGET, .session = port.session, .sequence = ++world.last_target };
	uint8_t frame[OB_GUEST_FRAME];

	msg.target.app = world.before_app + (uint32_t)fuzz_number(words, n, 1);
	msg.target.give_bytes = fuzz_number(words, n, 2) % OB_GUEST_BYTES_MAX;
	msg.target.deadline_ms = 10000;
	if (world.host >= 0 && ob_guest_encode(&msg, frame) == 0)
		(void)!send(world.host, frame, sizeof(frame), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_packet(unsigned who, const uint8_t *packet, size_t size)
{
	struct ob_guest_msg msg;

	if (world.player[who] < 0 || send(world.player[who], packet, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
	if (size == OB_GUEST_FRAME && ob_guest_decode(packet, &msg) == 0 && msg.type == OB_GUEST_APP) {
		uint64_t bytes = OB_MAX(msg.app.could_bytes, msg.app.given_bytes);

		world.offered_bytes[who] = OB_MAX(world.offered_bytes[who], bytes);
	}
}

static void say_app(unsigned who, char *const *words, int n)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_APP };
	uint8_t frame[OB_GUEST_FRAME];

	snprintf(msg.app.name, sizeof(msg.app.name), "%s", fuzz_word(words, n, 2));
	msg.app.used_bytes = fuzz_number(words, n, 3) % OB_GUEST_BYTES_MAX;
	msg.app.could_bytes = fuzz_number(words, n, 4) % OB_GUEST_BYTES_MAX;
	msg.app.given_bytes = fuzz_number(words, n, 5) % OB_GUEST_BYTES_MAX;
	msg.app.target_bytes = fuzz_number(words, n, 6) % OB_GUEST_BYTES_MAX;
	msg.app.flags = fuzz_number(words, n, 7) & (OB_GUEST_APP_FINAL | OB_GUEST_APP_GONE);
	msg.app.answers = (uint32_t)fuzz_number(words, n, 8);
	if (ob_guest_encode(&msg, frame) == 0)
		send_packet(who, frame, sizeof(frame));
}

static void connect_player(unsigned who)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	ob_fd_close(&world.player[who]);
	world.offered_bytes[who] = 0;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/app.sock", fuzz_directory());
	world.player[who] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connect(world.player[who], (struct sockaddr *)&addr, sizeof(addr)) < 0)
		ob_fd_close(&world.player[who]);
}

static void leave_unread(void)
{
	struct pollfd fd;

	world.now_ns += OB_NS_PER_SEC;
	ob_port_poll(&fd);
	ob_port_turn(&fd);
}

static void step(char letter, char *const *words, int n)
{
	unsigned who = (unsigned)(fuzz_number(words, n, 1) % PLAYERS);
	uint8_t bytes[4096];
	size_t size = letter == 'p' || letter == 's' ? fuzz_hex(fuzz_word(words, n, letter == 'p' ? 1 : 2), bytes, sizeof(bytes)) : 0;

	switch (letter) {
	case 'p':
		if (world.host >= 0 && size)
			(void)!send(world.host, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 'f':
		say_frame(words, n);
		break;
	case 'g':
		say_target(words, n);
		break;
	case 'c':
		connect_player(who);
		break;
	case 's':
		if (size)
			send_packet(who, bytes, size);
		break;
	case 'a':
		say_app(who, words, n);
		break;
	case 'e':
		ob_fd_close(&world.player[who]);
		break;
	case 'r':
	case 'h':
		if (letter == 'r')
			leave_unread();
		ob_fd_close(&world.host);
		memset(&world.reader, 0, sizeof(world.reader));
		break;
	case 't':
		world.now_ns += OB_MIN(fuzz_number(words, n, 1), 1000ull) * OB_NS_PER_SEC;
		break;
	}
	run_guest();
}

static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < FDS_MAX; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void set_up(void)
{
	static char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (world.listener >= 0)
		return;
	ob_log_set_level((enum ob_log_level)1);
	snprintf(path, sizeof(path), "%s/port.sock", fuzz_directory());
	memcpy(addr.sun_path, path, sizeof(path));
	unlink(path);
	world.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	FUZZ_CHECK(world.listener >= 0 && !bind(world.listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(world.listener, 4), "%s", path);
	for (unsigned i = 0; i < PLAYERS; i++)
		world.player[i] = -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/app.sock", fuzz_directory());
	FUZZ_CHECK(ob_clients_listen(addr.sun_path, NULL) == 0, "%s", addr.sun_path);
	ob_port_init(path);
	world.fds = count_fds();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[9];
	uint32_t hellos;
	int n;

	set_up();
	world.before_app = clients.next_app;
	memset(world.has_gone, 0, sizeof(world.has_gone));
	run_guest();
	for (int i = 0; i < STEPS_MAX && at; i++) {
		char letter = *at;

		n = fuzz_step(&at, words, letter == 'f' || letter == 's' ? 3 : letter == 'p' ? 2 : 9);
		if (n > 0)
			step(letter, words, n);
	}
	/* All go: nothing is left of them, and a host that comes is greeted. */
	for (unsigned i = 0; i < PLAYERS; i++)
		ob_fd_close(&world.player[i]);
	step('h', NULL, 0);
	for (unsigned i = 0; i < 20; i++) {
		world.now_ns += OB_NS_PER_SEC;
		run_guest();
	}
	FUZZ_CHECK(!ob_clients_count(), "%u applications are left", ob_clients_count());
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		FUZZ_CHECK(clients.client[i].fd < 0, "a connection is left");
	FUZZ_CHECK(world.host >= 0, "the port is not opened again");
	hellos = world.hellos;
	ob_fd_close(&world.host);
	memset(&world.reader, 0, sizeof(world.reader));
	for (unsigned i = 0; i < 5; i++) {
		world.now_ns += OB_NS_PER_SEC;
		run_guest();
	}
	FUZZ_CHECK(world.hellos > hellos, "no HELLO");
	FUZZ_CHECK(count_fds() == world.fds + (port.fd >= 0) + (world.host >= 0), "%u descriptors are open, not %u", count_fds(),
		   world.fds + (port.fd >= 0) + (world.host >= 0));
	free(text);
	return 0;
}
