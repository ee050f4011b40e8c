/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's side of the protocol: a hostile overbookd behind the real socket, and the real link.c. What it works on, the
 * engine and QEMU's monitor, is played here, with the contracts of engine.h. The handlers are called by the input, a step
 * a line, and not by the link's thread: so this file includes link.c, whose functions and state are its own.
 *
 *     l BYTES MAXIMUM    SET_LIMIT
 *     f STEPS ERRNO      RELEASE, which reports progress STEPS times and ends with ERRNO
 *     p MS               POLL
 *     w HEX              any packet
 *     u TYPE HEX         a message of any type with any payload
 *     x TEXT             the engine says that a page is unreadable (no text: it has been read)
 *     i                  the time for statistics has come
 *     q                  overbookd closes, and is there again
 *
 * What must hold: the agent says HELLO, RANGES and STATS first, each of its packets can be read, numbered one after the
 * other; each order has its answer with what the engine said; a message that does not parse ends the connection, one of an
 * unknown type does not; a new connection tells the maximum that the last order brought.
 */
#include "agent/link.c"

#include <fcntl.h>
#include <stdlib.h>

#include "fuzz.h"

#define STEPS_MAX 200

struct ob_agent ob_agent;

static struct {
	int listener, fd;
	uint32_t sequence; /* of the agent's last packet */
	uint32_t orders;
	uint64_t limit_bytes, stats_limit_bytes; /* the engine's; what was told last */
	uint64_t release_steps;
	int release_result, stops;
	unsigned replies, progress, hellos;
	struct ob_wire_msg reply, hello;
} world = { .listener = -1, .fd = -1 };

/* --- the engine and the monitor --- */

int ob_engine_set_limit(struct ob_engine *engine, uint64_t bytes)
{
	if (bytes && bytes < OB_LIMIT_MIN)
		return -EINVAL;
	world.limit_bytes = bytes;
	return 0;
}

int ob_engine_release(struct ob_engine *engine, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
		      struct ob_error *err)
{
	for (uint64_t i = 0; i < world.release_steps; i++)
		progress(context, i, world.release_steps);
	return world.release_result ? ob_error_sys(err, world.release_result, "page %d cannot be brought back", 7) : 0;
}

void ob_engine_get_stats(struct ob_engine *engine, struct ob_engine_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof(*ret_stats));
	ret_stats->values.limit_bytes = world.limit_bytes;
}

unsigned ob_engine_get_ranges(struct ob_engine *engine, struct ob_engine_range *ranges, unsigned max)
{
	for (unsigned i = 0; i < max; i++)
		ranges[i] = (struct ob_engine_range){ OB_ENGINE_RAM, i * 4096ull, i * 4096ull + 4096 };
	return max + 1;
}

int ob_qmp_stop(void)
{
	world.stops++;
	return world.stops & 1 ? 0 : -ETIMEDOUT;
}

/* --- overbookd --- */

static void listen_once(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (world.listener >= 0)
		return;
	ob_log_set_level((enum ob_log_level)1);
	snprintf(ob_agent.socket, sizeof(ob_agent.socket), "%s/agents.sock", fuzz_directory());
	strcpy(ob_agent.name, "web");
	ob_agent.shares = 1000;
	memcpy(address.sun_path, ob_agent.socket, strlen(ob_agent.socket) + 1);
	unlink(ob_agent.socket);
	world.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	FUZZ_CHECK(world.listener >= 0 && !bind(world.listener, (struct sockaddr *)&address, sizeof(address)) &&
		   !listen(world.listener, 4), "%s: %s", ob_agent.socket, strerror(errno));
	self.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* Reads all that the agent has said. */
static void hear(void)
{
	static uint8_t packet[OB_WIRE_MAX];
	struct ob_error err = { 0 };
	struct ob_wire_msg msg;
	ssize_t n;

	while ((n = recv(world.fd, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
		FUZZ_CHECK(ob_wire_decode(packet, (size_t)n, &msg, &err) == 0, "the agent says what cannot be read: %s", err.text);
		FUZZ_CHECK(msg.type < OB_WIRE_SET_LIMIT, "the agent sends a message of type %u", msg.type);
		FUZZ_CHECK(msg.sequence == ++world.sequence, "message %u is numbered %u", world.sequence, msg.sequence);
		if (msg.type == OB_WIRE_HELLO) {
			world.hello = msg;
			world.hellos++;
		} else if (msg.type == OB_WIRE_STATS) {
			world.stats_limit_bytes = msg.stats.stats.limit_bytes;
		} else if (msg.type == OB_WIRE_REPLY && msg.reply.status == -EINPROGRESS) {
			world.progress++;
		} else if (msg.type == OB_WIRE_REPLY) {
			world.reply = msg;
			world.replies++;
		}
	}
}

/* The agent connects as its thread would. */
static void meet(void)
{
	unsigned hellos = world.hellos;

	ob_fd_close(&world.fd);
	if (self.fd >= 0)
		receive();
	FUZZ_CHECK(self.fd < 0, "the agent does not see that overbookd has closed");
	try_connect();
	FUZZ_CHECK(self.fd >= 0, "the agent does not connect");
	world.fd = accept4(world.listener, NULL, NULL, SOCK_CLOEXEC);
	FUZZ_CHECK(world.fd >= 0, "accept");
	hear();
	FUZZ_CHECK(world.hellos == hellos + 1, "the agent says no HELLO");
	FUZZ_CHECK(world.hello.hello.maximum_bytes == ob_agent.maximum_bytes && world.hello.hello.limit_bytes == world.limit_bytes,
		   "HELLO does not tell the limit");
}

/* Sends a packet and lets the agent handle it. Returns what it must have been taken for: 0, -ENOTSUP, -EPROTO. */
static int tell(const uint8_t *packet, size_t size)
{
	struct ob_wire_msg msg;
	int r = ob_wire_decode(packet, size, &msg, NULL);

	if (!size || send(world.fd, packet, size, MSG_NOSIGNAL) < 0)
		return -EPROTO;
	receive();
	hear();
	/* An agent's own words are nothing to it. */
	FUZZ_CHECK((self.fd >= 0) == (r == 0 || r == -ENOTSUP), "%d: the connection is %s", r, self.fd < 0 ? "closed" : "open");
	if (self.fd >= 0 && ob_now_ns() >= self.next_stats_ns)
		FUZZ_CHECK(send_stats() == 0, "statistics");
	hear();
	if (self.fd < 0)
		meet();
	return r;
}

static void order(struct ob_wire_msg *msg, int expected)
{
	static uint8_t packet[OB_WIRE_MAX];
	unsigned replies = world.replies;
	int n;

	msg->sequence = ++world.orders;
	n = ob_wire_encode(msg, packet, sizeof(packet));
	if (n < 0)
		return;
	(void)tell(packet, (size_t)n);
	if (msg->type == OB_WIRE_POLL)
		return;
	FUZZ_CHECK(world.replies == replies + 1 && world.reply.reply.to == world.orders, "order %u has no answer", world.orders);
	FUZZ_CHECK(world.reply.reply.status == expected, "order %u: %d, not %d", world.orders, world.reply.reply.status, expected);
}

static void order_limit(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_SET_LIMIT };
	uint64_t before = world.limit_bytes;
	int small;

	msg.set_limit.bytes = fuzz_number(words, n, 1);
	msg.set_limit.maximum_bytes = fuzz_number(words, n, 2);
	small = msg.set_limit.bytes && msg.set_limit.bytes < OB_LIMIT_MIN;
	order(&msg, small ? -EINVAL : 0);
	FUZZ_CHECK(world.limit_bytes == (small ? before : msg.set_limit.bytes), "the engine's limit");
}

static void order_release(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_RELEASE };
	unsigned progress = world.progress;

	world.release_steps = OB_MIN(fuzz_number(words, n, 1), 20ull);
	world.release_result = (int)(fuzz_number(words, n, 2) % EINPROGRESS); /* which no engine ends with */
	order(&msg, -world.release_result);
	FUZZ_CHECK(world.progress == progress + world.release_steps, "progress is told %u times", world.progress - progress);
	FUZZ_CHECK(ob_agent.released == !world.release_result, "released");
}

static void tell_any(char letter, char *const *words, int n)
{
	static uint8_t packet[4096];
	size_t size;

	if (letter == 'w') {
		(void)tell(packet, fuzz_hex(fuzz_word(words, n, 1), packet, sizeof(packet)));
		return;
	}
	size = fuzz_hex(fuzz_word(words, n, 2), packet + OB_WIRE_HEADER_SIZE, sizeof(packet) - OB_WIRE_HEADER_SIZE);
	memset(packet, 0, OB_WIRE_HEADER_SIZE);
	memcpy(packet, "OVBK\1", 5);
	packet[6] = (uint8_t)fuzz_number(words, n, 1);
	packet[8] = (uint8_t)size;
	packet[9] = (uint8_t)(size >> 8);
	(void)tell(packet, OB_WIRE_HEADER_SIZE + size);
}

static void step(char letter, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_POLL };

	switch (letter) {
	case 'l':
		order_limit(words, n);
		break;
	case 'f':
		order_release(words, n);
		break;
	case 'p':
		msg.poll.interval_ms = (uint32_t)fuzz_number(words, n, 1);
		order(&msg, 0);
		break;
	case 'w':
	case 'u':
		tell_any(letter, words, n);
		break;
	case 'x':
		ob_link_unreadable(NULL, n > 1 ? words[1] : NULL);
		report_stopped();
		hear();
		break;
	case 'i':
		FUZZ_CHECK(send_stats() == 0, "statistics");
		hear();
		FUZZ_CHECK(world.stats_limit_bytes == world.limit_bytes, "statistics of another limit");
		break;
	case 'q':
		meet();
		break;
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[4];
	int n;

	listen_once();
	world.limit_bytes = ob_agent.maximum_bytes = 0;
	ob_agent.released = 0;
	self.cause[0] = 0;
	meet();
	for (int i = 0; i < STEPS_MAX && at; i++) {
		char letter = *at;

		n = fuzz_step(&at, words, letter == 'x' || letter == 'w' ? 2 : 3);
		if (n > 0)
			step(letter, words, n);
	}
	disconnect();
	ob_fd_close(&world.fd);
	free(text);
	return 0;
}
