/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's side of the protocol: a hostile overbookd behind the real socket, and the real link.c. What it works on, the
 * engine and QEMU's monitor, is played here, with the contracts of engine.h. The handlers are called by the input, a step
 * a line, and not by the link's thread: so this file includes link.c, whose functions and state are its own.
 *
 *     l BYTES MAXIMUM    SET_LIMIT
 *     f STEPS ERRNO      RELEASE, which reports progress STEPS times and ends with ERRNO
 *     p MS               POLL
 *     c POLICY STATE HOT LOOKS   LARGE
 *     y MODE DRIVE SIZE TARGET   BALLOON, with a monitor that does not answer; fuzz_balloon.c has one that says anything
 *     g N HEX            GUEST, bytes for the guest's port; the port says N bytes itself
 *     w HEX              any packet
 *     u TYPE HEX         a message of any type with any payload
 *     x TEXT             the engine says that a page is unreadable (no text: it has been read)
 *     i                  the time for statistics has come
 *     q                  overbookd closes, and is there again
 *     k                  overbookd is killed, and its successor is there
 *     v N                the Nth message from now on is not taken by the socket, which ends the connection
 *     and what agent_share.h says of sharing
 *
 * What must hold: the agent says HELLO, RANGES and STATS first, each of its packets can be read, numbered one after the
 * other; each order has its answer with what the engine said; a message that does not parse ends the connection, one of an
 * unknown type does not; what is said at either end of the guest's port comes out at the other, as long as there is room; a new connection tells the maximum that the last order brought, and how the balloon is driven.
 */
#define ORPHANS_A_MESSAGE 3u
#include "agent/balloon.c"
#include "agent/blocks.c"
#include "agent/guest.c"
#include "agent/link.c"
#include "agent/share.c"

#include <fcntl.h>
#include <stdlib.h>

#include "agent_engine.h"
#include "agent_share.h"
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
	int breaks;      /* the connection may be gone after what follows */
	int descriptors; /* open between inputs */
	int port_listener, port; /* QEMU's side of the guest's port */
	uint64_t relayed;        /* bytes of the connection to it, each of which is its number */
	pid_t pid;
	unsigned replies, progress, hellos;
	struct ob_wire_msg reply, hello, balloon;
} world = { .listener = -1, .fd = -1, .port_listener = -1, .port = -1 };

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

int ob_qmp_connect(void)
{
	return -ECONNREFUSED;
}

int ob_qmp_stop(void)
{
	world.stops++;
	return world.stops & 1 ? 0 : -ETIMEDOUT;
}

/* --- overbookd --- */

static int open_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

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
	snprintf(ob_agent.dir, sizeof(ob_agent.dir), "%s", fuzz_directory());
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/" OB_FILE_GUEST, fuzz_directory());
	unlink(address.sun_path);
	world.port_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FUZZ_CHECK(world.port_listener >= 0 && !bind(world.port_listener, (struct sockaddr *)&address, sizeof(address)) &&
		   !listen(world.port_listener, 1), "%s: %s", address.sun_path, strerror(errno));
	world.pid = getpid();
	self.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	FUZZ_CHECK(ob_share_start() == 0, "eventfd");
	world.descriptors = open_descriptors();
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
		FUZZ_CHECK(msg.type < OB_WIRE_SET_LIMIT || msg.type == OB_WIRE_GUEST, "the agent sends a message of type %u", msg.type);
		FUZZ_CHECK(msg.sequence == ++world.sequence, "message %u is numbered %u", world.sequence, msg.sequence);
		peer_heard(&msg);
		if (msg.type == OB_WIRE_HELLO) {
			world.hello = msg;
			world.hellos++;
		} else if (msg.type == OB_WIRE_GUEST) {
			FUZZ_CHECK(!(msg.guest.flags & OB_WIRE_GUEST_ANEW) == (world.relayed > 0), "a connection to the port begins when it should not");
			for (uint32_t i = 0; i < msg.guest.n; i++)
				FUZZ_CHECK(msg.guest.bytes[i] == (uint8_t)world.relayed++, "the guest has not said that");
		} else if (msg.type == OB_WIRE_BALLOON_SET) {
			world.balloon = msg;
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

/* The agent connects as its thread would. successor: to another process. */
static void meet(int successor)
{
	unsigned hellos = world.hellos;

	hear();
	ob_fd_close(&world.fd);
	if (self.fd >= 0)
		receive();
	FUZZ_CHECK(self.fd < 0, "the agent does not see that overbookd has closed");
	if (successor)
		share.peer = -1;
	if (world.breaks)
		world.sequence = self.sequence; /* what was not sent has a number too */
	FUZZ_CHECK(ob_fault_configure(NULL, NULL) == 0, "faults");
	world.breaks = 0;
	peer_met(share.peer == world.pid);
	try_connect();
	FUZZ_CHECK(self.fd >= 0, "the agent does not connect");
	world.fd = accept4(world.listener, NULL, NULL, SOCK_CLOEXEC);
	FUZZ_CHECK(world.fd >= 0, "accept");
	hear();
	FUZZ_CHECK(world.hellos == hellos + 1, "the agent says no HELLO");
	FUZZ_CHECK(world.hello.hello.maximum_bytes == ob_agent.maximum_bytes && world.hello.hello.limit_bytes == world.limit_bytes,
		   "HELLO does not tell the limit");
	FUZZ_CHECK(world.balloon.balloon.mode == balloon.order.mode && world.balloon.balloon.size_bytes == balloon.order.size_bytes &&
		   !world.balloon.balloon.target_bytes, "BALLOON_SET does not tell how the balloon is driven");
}

/* What the thread does in a turn when nothing comes from overbookd. */
static void turn(void)
{
	ob_share_woken();
	for (int i = 0; self.fd >= 0 && ob_share_wants_to_send() && i < 1000; i++) {
		if (ob_share_send() < 0)
			disconnect();
		hear();
	}
	FUZZ_CHECK(self.fd < 0 || !ob_share_wants_to_send(), "the agent does not come to an end");
	FUZZ_CHECK(self.fd >= 0 || world.breaks, "the connection is closed");
	if (self.fd < 0)
		meet(0);
}

static ssize_t send_packet(const uint8_t *packet, size_t size, const int *fds, int n)
{
	union {
		char space[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)packet, .iov_len = size };
	struct msghdr msg = { .msg_iov = &part, .msg_iovlen = 1 };

	if (n) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ CMSG_LEN((size_t)n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, (size_t)n * sizeof(int));
	}
	return sendmsg(world.fd, &msg, MSG_NOSIGNAL);
}

/* Sends a packet and lets the agent handle it. Returns what it must have been taken for: 0, -ENOTSUP, -EPROTO. */
static int tell_with(const uint8_t *packet, size_t size, const int *fds, int n)
{
	static struct ob_wire_msg msg;
	int r = ob_wire_decode(packet, size, &msg, NULL);

	if (!size || send_packet(packet, size, fds, n) < 0)
		return -EPROTO;
	receive();
	hear();
	/* An agent's own words are nothing to it. */
	FUZZ_CHECK(world.breaks || (self.fd >= 0) == (r == 0 || r == -ENOTSUP), "%d: the connection is %s", r,
		   self.fd < 0 ? "closed" : "open");
	if (self.fd >= 0 && ob_now_ns() >= self.next_stats_ns && send_stats() < 0) {
		FUZZ_CHECK(world.breaks, "statistics");
		disconnect();
	}
	hear();
	if (self.fd < 0)
		meet(0);
	return r;
}

int agent_tell(struct ob_wire_msg *msg, const int *fds, int n)
{
	static uint8_t packet[OB_WIRE_MAX];
	unsigned hellos = world.hellos;
	int length;

	msg->sequence = ++world.orders;
	length = ob_wire_encode(msg, packet, sizeof(packet));
	FUZZ_CHECK(length > 0, "a message of type %u that cannot be written", msg->type);
	(void)tell_with(packet, (size_t)length, fds, n);
	return world.hellos == hellos ? 0 : -1;
}

/* Gives an order, and looks whether it is answered as expected. Returns 0, or -1 when the connection was lost over it. */
static int order(struct ob_wire_msg *msg, int expected)
{
	unsigned replies = world.replies;

	if (agent_tell(msg, NULL, 0) < 0)
		return -1;
	FUZZ_CHECK(world.replies == replies + 1 && world.reply.reply.to == world.orders, "order %u has no answer", world.orders);
	FUZZ_CHECK(world.reply.reply.status == expected, "order %u: %d, not %d", world.orders, world.reply.reply.status, expected);
	return 0;
}

static void order_limit(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_SET_LIMIT };
	uint64_t before = world.limit_bytes;
	int small;

	msg.set_limit.bytes = fuzz_number(words, n, 1);
	msg.set_limit.maximum_bytes = fuzz_number(words, n, 2);
	small = msg.set_limit.bytes && msg.set_limit.bytes < OB_LIMIT_MIN;
	(void)order(&msg, small ? -EINVAL : 0);
	FUZZ_CHECK(world.limit_bytes == (small ? before : msg.set_limit.bytes), "the engine's limit");
}

static void order_release(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_RELEASE };
	unsigned progress = world.progress;

	world.release_steps = OB_MIN(fuzz_number(words, n, 1), 20ull);
	world.release_result = (int)(fuzz_number(words, n, 2) % EINPROGRESS); /* which no engine ends with */
	if (order(&msg, -world.release_result) == 0)
		FUZZ_CHECK(world.progress == progress + world.release_steps, "progress is told %u times", world.progress - progress);
	FUZZ_CHECK(ob_agent.released == !world.release_result, "released");
}

static void order_unshare(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_UNSHARE };
	unsigned progress = world.progress;

	played.steps = OB_MIN(fuzz_number(words, n, 1), 20ull);
	played.result = (int)(fuzz_number(words, n, 2) % EINPROGRESS);
	if (order(&msg, -played.result) == 0)
		FUZZ_CHECK(world.progress == progress + played.steps, "progress is told %u times", world.progress - progress);
}

static void order_poll(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_POLL };

	msg.poll.interval_ms = (uint32_t)fuzz_number(words, n, 1);
	if (msg.poll.interval_ms >= OB_WIRE_POLL_MIN_MS && msg.poll.interval_ms <= OB_WIRE_POLL_MAX_MS)
		(void)agent_tell(&msg, NULL, 0);
}

/* The engine hears what overbookd said, and nothing that breaks the rules. */
static void order_large(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_LARGE };

	msg.large.policy = (uint32_t)(fuzz_number(words, n, 1) % OB_WIRE_LARGE_POLICIES);
	msg.large.state = (uint32_t)(fuzz_number(words, n, 2) % OB_WIRE_LARGE_STATES);
	msg.large.hot_pages = (uint32_t)(fuzz_number(words, n, 3) % (OB_WIRE_LARGE_PAGES_MAX + 1));
	msg.large.scan_rate = (uint32_t)(fuzz_number(words, n, 4) % (OB_WIRE_LARGE_RATE_MAX + 1));
	if (agent_tell(&msg, NULL, 0) == 0)
		FUZZ_CHECK(played.large.policy == msg.large.policy && played.large.state == msg.large.state &&
			   played.large.hot_pages == msg.large.hot_pages && played.large.scan_rate == msg.large.scan_rate,
			   "the engine has other orders for large pages");
}

static void order_balloon(char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_BALLOON, .balloon.look_ms = 1000 };
	const struct ob_wire_balloon *order = &msg.balloon;

	msg.balloon.mode = (uint32_t)(fuzz_number(words, n, 1) % OB_BALLOON_MODES);
	msg.balloon.flags = fuzz_number(words, n, 2) & 1;
	msg.balloon.size_bytes = order->mode == OB_BALLOON_FIXED ? OB_MAX(fuzz_number(words, n, 3), 1ull) : 0;
	msg.balloon.target_bytes = fuzz_number(words, n, 4);
	if (agent_tell(&msg, NULL, 0) < 0)
		return;
	ob_balloon_turn();
	FUZZ_CHECK(balloon.is_ordered && balloon.order.mode == order->mode && balloon.order.target_bytes == order->target_bytes &&
		   ob_balloon_fd() < 0, "the order about the balloon");
}

/* QEMU takes the connection that has been made, if there is one, and forgets the one before. */
static void accept_port(void)
{
	struct pollfd p = { .fd = world.port_listener, .events = POLLIN };

	while (poll(&p, 1, 0) > 0) {
		ob_fd_close(&world.port);
		world.port = accept4(world.port_listener, NULL, NULL, SOCK_CLOEXEC);
		world.relayed = 0;
	}
}

/* What the guest says goes to overbookd, as much as may be in a second. */
static void hear_port(uint64_t n)
{
	uint8_t bytes[4096];

	n = OB_MIN(n, (uint64_t)sizeof(bytes));
	port.window_bytes = 0;
	for (uint64_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)(world.relayed + i);
	if (n && send(world.port, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
		return;
	for (uint64_t end = world.relayed + n; self.fd >= 0 && port.fd >= 0 && world.relayed < end;) {
		if (ob_guest_ready(POLLIN) < 0)
			disconnect();
		hear();
		if (world.breaks)
			return;
	}
}

static void order_guest(char *const *words, int n)
{
	static struct ob_wire_msg msg;
	static uint8_t heard[OB_WIRE_GUEST_MAX];

	msg = (struct ob_wire_msg){ .type = OB_WIRE_GUEST };
	msg.guest.n = (uint32_t)fuzz_hex(fuzz_word(words, n, 2), msg.guest.bytes, sizeof(msg.guest.bytes));
	if (agent_tell(&msg, NULL, 0) < 0)
		return;
	FUZZ_CHECK(port.is_ordered, "the order about the port");
	port.next_ns = 0;
	ob_guest_turn();
	accept_port();
	if (port.fd < 0 || world.port < 0)
		return;
	/* The first order may have been before the port was open. */
	if (recv(world.port, heard, sizeof(heard), MSG_DONTWAIT) == (ssize_t)msg.guest.n && msg.guest.n)
		FUZZ_CHECK(!memcmp(heard, msg.guest.bytes, msg.guest.n), "the guest hears something else");
	hear_port(fuzz_number(words, n, 1));
}

static void report(void)
{
	if (send_stats() < 0 || ob_share_report() < 0) {
		FUZZ_CHECK(world.breaks, "statistics");
		disconnect();
		return;
	}
	hear();
	FUZZ_CHECK(world.stats_limit_bytes == world.limit_bytes, "statistics of another limit");
	peer_check();
}

/* Any packet, but for what agent_share.h has to know of. */
static void tell_raw(const uint8_t *packet, size_t size)
{
	static struct ob_wire_msg msg;

	if (ob_wire_decode(packet, size, &msg, NULL) < 0 || msg.type < OB_WIRE_SHARE || msg.type > OB_WIRE_DRAIN)
		(void)tell_with(packet, size, NULL, 0);
}

static void tell_any(char letter, char *const *words, int n)
{
	static uint8_t packet[4096];
	size_t size;

	if (letter == 'w') {
		tell_raw(packet, fuzz_hex(fuzz_word(words, n, 1), packet, sizeof(packet)));
		return;
	}
	size = fuzz_hex(fuzz_word(words, n, 2), packet + OB_WIRE_HEADER_SIZE, sizeof(packet) - OB_WIRE_HEADER_SIZE);
	memset(packet, 0, OB_WIRE_HEADER_SIZE);
	memcpy(packet, "OVBK\1", 5);
	packet[6] = (uint8_t)fuzz_number(words, n, 1);
	packet[8] = (uint8_t)size;
	packet[9] = (uint8_t)(size >> 8);
	tell_raw(packet, OB_WIRE_HEADER_SIZE + size);
}

static void break_later(char *const *words, int n)
{
	char fault[64];

	snprintf(fault, sizeof(fault), "link_send:%u:EAGAIN", (unsigned)(1 + fuzz_number(words, n, 1) % 16));
	FUZZ_CHECK(ob_fault_configure(fault, NULL) == 0, "%s", fault);
	world.breaks = 1;
}

static void step(char letter, char *const *words, int n)
{
	switch (letter) {
	case 'l':
		order_limit(words, n);
		break;
	case 'f':
		order_release(words, n);
		break;
	case 'b':
		order_unshare(words, n);
		break;
	case 'p':
		order_poll(words, n);
		break;
	case 'c':
		order_large(words, n);
		break;
	case 'y':
		order_balloon(words, n);
		break;
	case 'g':
		order_guest(words, n);
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
		report();
		break;
	case 'q':
	case 'k':
		meet(letter == 'k');
		break;
	case 'v':
		break_later(words, n);
		break;
	default:
		(void)peer_step(letter, words, n);
	}
	turn();
}

/* The state of link.c and share.c, and of what is played here. */
static void begin(void)
{
	world.limit_bytes = ob_agent.maximum_bytes = 0;
	ob_agent.released = ob_agent.share_mapped = 0;
	self.cause[0] = 0;
	memset(&balloon.order, 0, sizeof(balloon.order));
	balloon.order.look_ms = OB_WIRE_LOOK_MAX_MS;
	share.extents = share.foreign = share.files = share.owed_count = share.has_key = 0;
	share.peer = 0;
	played_reset();
	peer_reset();
	meet(0);
}

static void end(void)
{
	disconnect();
	accept_port();
	ob_fd_close(&world.fd);
	ob_fd_close(&world.port);
	played_reset();
	peer_reset();
	FUZZ_CHECK(open_descriptors() == world.descriptors, "a descriptor was not closed");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[5];
	int n;

	listen_once();
	begin();
	for (int i = 0; i < STEPS_MAX && at; i++) {
		char letter = *at;

		n = fuzz_step(&at, words, letter == 'x' || letter == 'w' ? 2 : letter == 'u' || letter == 'g' ? 3 : 5);
		if (n > 0)
			step(letter, words, n);
	}
	end();
	free(text);
	return 0;
}
