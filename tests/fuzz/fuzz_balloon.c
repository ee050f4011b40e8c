/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's looks at the balloon, and a monitor that says anything. The first line of the input is the order, in the
 * form "MODE DRIVE SIZE TARGET"; each further one is what the monitor says when it is asked something, and when there
 * are no more it closes. A line of '-' alone lets the time pass after which the agent gives up. A '+' at the end of a
 * line stands in the place of its end: the next line goes with it. A line that begins with '!' is another order, which
 * comes before the monitor says anything.
 *
 * What must hold: what the agent sends are commands, one on its way at a time, none before the greeting; "balloon" only
 * when it is to drive, and never to less than 16 MiB or more than the machine has; what is seen is no more than there
 * is; what was looked for has been found when the agent says so; what counts as taken is what was asked last, and when
 * the answer to that never comes it counts as not known.
 */
#include "agent/balloon.c"

#include <poll.h>
#include <stdlib.h>

#include "fuzz.h"

#define TURNS_MAX 400

struct ob_agent ob_agent;

static struct {
	int fd;          /* the monitor's end; -1: closed */
	const char *at;  /* what is left of the input */
	unsigned connections, commands, balloons;
	uint64_t asked_bytes, taken_bytes; /* the order when "balloon" was heard last; what the agent takes for done */
	struct ob_wire_msg out;
} world = { .fd = -1 };

struct ob_wire_msg *ob_link_message(void)
{
	return &world.out;
}

int ob_link_send(uint16_t type)
{
	FUZZ_CHECK(type == OB_WIRE_BALLOON_SET && world.out.balloon.target_bytes == taken_bytes(), "BALLOON_SET");
	return 0;
}

int ob_qmp_connect(void)
{
	int pair[2];

	FUZZ_CHECK(ob_balloon_fd() < 0, "a second connection");
	ob_fd_close(&world.fd);
	if (!world.at || !*world.at)
		return -ECONNREFUSED;
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	world.fd = pair[0];
	world.connections++;
	world.commands = 0;
	return pair[1];
}

static void check_command(const char *text)
{
	const char *value = strstr(text, "\"balloon\",\"arguments\":{\"value\":");

	FUZZ_CHECK(!strncmp(text, "{\"execute\":\"", 12) && strlen(text) > 3 && !strcmp(text + strlen(text) - 2, "}\n"), "no command: %s", text);
	FUZZ_CHECK(!strcmp(strchr(text, '\n'), "\n"), "two commands: %s", text);
	FUZZ_CHECK(balloon.has_greeting && (world.commands || strstr(text, "qmp_capabilities")), "too early: %s", text);
	world.commands++;
	if (!value)
		return;
	world.balloons++;
	world.asked_bytes = balloon.order.target_bytes;
	FUZZ_CHECK(balloon.order.flags & OB_WIRE_BALLOON_DRIVE, "driven without an order");
	value = strrchr(value, ':') + 1;
	FUZZ_CHECK(strtoull(value, NULL, 10) >= LEAST_BYTES && strtoull(value, NULL, 10) <= balloon.seen.machine_bytes, "left: %s", value);
}

/* Returns whether the agent has said something. */
static int hear(void)
{
	char text[1024];
	ssize_t n = recv(world.fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	check_command(text);
	return 1;
}

static void order(char *line)
{
	struct ob_wire_balloon order = { .look_ms = OB_WIRE_LOOK_MIN_MS };
	char *words[4] = { 0 };
	int n = fuzz_step(&line, words, 4);

	order.mode = (uint32_t)(fuzz_number(words, n, 0) % OB_BALLOON_MODES);
	order.flags = fuzz_number(words, n, 1) & OB_WIRE_BALLOON_DRIVE;
	order.size_bytes = order.mode == OB_BALLOON_FIXED ? OB_MAX(fuzz_number(words, n, 2), 1ull) : 0;
	order.target_bytes = fuzz_number(words, n, 3);
	ob_balloon_obey(&order);
}

static void order_anew(const char *line, size_t length)
{
	char *copy = strndup(line, length);

	order(copy);
	free(copy);
}

/* What the monitor says next. Returns whether it says anything. */
static int say(void)
{
	const char *end;

	for (;;) {
		int goes_on;

		if (!*world.at) {
			ob_fd_close(&world.fd);
			return 0;
		}
		end = strchrnul(world.at, '\n');
		if (end == world.at + 1 && *world.at == '-') {
			balloon.since_ns -= SILENCE_NS;
			world.at = *end ? end + 1 : end;
			return 0;
		}
		if (*world.at == '!') {
			order_anew(world.at + 1, (size_t)(end - world.at) - 1);
			world.at = *end ? end + 1 : end;
			continue;
		}
		goes_on = end > world.at && end[-1] == '+';
		(void)(send(world.fd, world.at, (size_t)(end - world.at) - (size_t)goes_on, MSG_NOSIGNAL) < 0);
		if (!goes_on)
			(void)(send(world.fd, "\n", 1, MSG_NOSIGNAL) < 0);
		world.at = *end ? end + 1 : end;
		if (!goes_on)
			return 1;
	}
}

static int is_readable(void)
{
	struct pollfd p = { .fd = ob_balloon_fd(), .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

static void check_seen(void)
{
	struct ob_stats stats;

	memset(&stats, 0, sizeof(stats));
	ob_balloon_fill(&stats);
	FUZZ_CHECK(stats.balloon_bytes <= stats.machine_bytes || !(stats.balloon_flags & OB_BALLOON_DEVICE), "more than there is");
	FUZZ_CHECK(!(stats.balloon_flags & OB_BALLOON_DEVICE) || stats.balloon_flags & OB_BALLOON_LOOKED, "not looked");
	FUZZ_CHECK(stats.balloon_flags & OB_BALLOON_STATUS || !(stats.balloon_flags & ~(OB_BALLOON_LOOKED | OB_BALLOON_DEVICE)), "status");
	FUZZ_CHECK(!stats.guest_known || stats.guest_updates, "statistics from nowhere");
}

/* is_asked: "balloon" was on its way; has_said: the monitor has said something to that. */
static void check_taken(int is_asked, int has_said)
{
	if (balloon.set_bytes != world.taken_bytes)
		FUZZ_CHECK(is_asked && (balloon.set_bytes == world.asked_bytes || balloon.set_bytes == UNKNOWN), "taken: %llu",
			   (unsigned long long)balloon.set_bytes);
	FUZZ_CHECK(!is_asked || has_said || balloon.set_bytes == UNKNOWN, "taken, without an answer");
	world.taken_bytes = balloon.set_bytes;
}

static void begin(char *line)
{
	ob_balloon_drop();
	memset(&balloon, 0, sizeof(balloon));
	balloon.fd = -1;
	world.asked_bytes = world.taken_bytes = 0;
	order(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *first = strchr(text, '\n');

	world.at = first ? first + 1 : "";
	if (first)
		*first = '\0';
	begin(text);
	for (int i = 0; i < TURNS_MAX && (world.fd >= 0 || *world.at); i++) {
		int is_asked, has_said;

		balloon.next_ns = 0;
		ob_balloon_turn();
		if (world.fd < 0)
			continue;
		FUZZ_CHECK(ob_balloon_fd() >= 0 || !balloon.step, "an answer that cannot come");
		while (world.fd >= 0 && hear())
			FUZZ_CHECK(ob_balloon_due_ns() != UINT64_MAX, "nothing is due");
		if (ob_balloon_fd() < 0) {
			ob_fd_close(&world.fd);
			continue;
		}
		is_asked = balloon.step && balloon.step->ask == ask_target;
		has_said = say();
		while (ob_balloon_fd() >= 0 && ob_now_ns() < ob_balloon_due_ns() && is_readable())
			ob_balloon_readable();
		ob_balloon_turn();
		if (ob_balloon_fd() < 0)
			ob_fd_close(&world.fd);
		check_taken(is_asked, has_said);
		check_seen();
	}
	ob_balloon_drop();
	ob_fd_close(&world.fd);
	FUZZ_CHECK(ob_balloon_announce() == 0, "announce");
	free(text);
	return 0;
}
