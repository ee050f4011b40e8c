/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's port, the agent's part: carries bytes between the machine's virtio-serial port and overbookd, and does not look
 * into them. What they mean is proto/guest.h's matter, and that it is overbookd who reads them and not we, the matter of
 * daemon/guest.c.
 *
 * The port is a socket in the machine's directory that QEMU listens on. It is opened when overbookd asks for it (GUEST), and closed when
 * overbookd goes, so that a guest sees somebody come and go; it is tried again every RETRY_NS. Who else opens it keeps us waiting,
 * which costs nothing.
 *
 * From the guest at most RATE bytes a second are read. What is above that stays in the socket, where QEMU and then the guest's driver
 * wait for room: a guest that talks without end slows itself. To the guest nothing waits beyond the buffer: what has no room
 * is dropped, overbookd says it again.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/fd.h"

#define RATE     16384u
#define RETRY_NS OB_NS_PER_SEC

static struct {
	int fd;
	int is_ordered; /* by the overbookd that is connected */
	int is_anew;    /* nothing of this connection has been told */
	uint64_t next_ns;
	uint64_t window_ns; /* the second that is counted, and how much was read in it */
	uint32_t window_bytes;
	uint32_t used; /* of out */
	uint8_t out[OB_WIRE_GUEST_MAX];
} port = { .fd = -1 };

static void close_port(void)
{
	ob_fd_close(&port.fd);
	port.used = 0;
	port.next_ns = ob_now_ns() + RETRY_NS;
}

static void open_port(void)
{
	char path[sizeof(ob_agent.dir) + sizeof("/" OB_FILE_GUEST)];
	int fd;

	port.next_ns = ob_now_ns() + RETRY_NS;
	snprintf(path, sizeof(path), "%s/" OB_FILE_GUEST, ob_agent.dir);
	fd = ob_fd_connect(path);
	if (fd < 0)
		return;
	port.fd = fd;
	port.is_anew = 1;
}

static int is_full(void)
{
	return port.window_bytes >= RATE && ob_now_ns() - port.window_ns < OB_NS_PER_SEC;
}

static void send_out(void)
{
	ssize_t n = send(port.fd, port.out, port.used, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		close_port();
	if (n <= 0)
		return;
	port.used -= (uint32_t)n;
	memmove(port.out, port.out + n, port.used);
}

/* Reads once, and hands it on. As ob_link_send(). */
static int relay(void)
{
	struct ob_wire_msg *out = ob_link_message();
	ssize_t n = read(port.fd, out->guest.bytes, sizeof(out->guest.bytes));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		close_port();
		return 0;
	}
	if (ob_now_ns() - port.window_ns >= OB_NS_PER_SEC) {
		port.window_ns = ob_now_ns();
		port.window_bytes = 0;
	}
	port.window_bytes += (uint32_t)n;
	out->guest.n = (uint32_t)n;
	out->guest.flags = port.is_anew ? OB_WIRE_GUEST_ANEW : 0;
	port.is_anew = 0;
	return ob_link_send(OB_WIRE_GUEST);
}

int ob_guest_fd(void)
{
	return port.fd;
}

short ob_guest_events(void)
{
	return (short)((is_full() ? 0 : POLLIN) | (port.used ? POLLOUT : 0));
}

int ob_guest_ready(short events)
{
	if (events & POLLOUT)
		send_out();
	return port.fd >= 0 && events & ~POLLOUT ? relay() : 0;
}

uint64_t ob_guest_due_ns(void)
{
	if (!port.is_ordered)
		return UINT64_MAX;
	if (port.fd < 0)
		return port.next_ns;
	return is_full() ? port.window_ns + OB_NS_PER_SEC : UINT64_MAX;
}

void ob_guest_turn(void)
{
	if (port.is_ordered && port.fd < 0 && ob_now_ns() >= port.next_ns)
		open_port();
}

void ob_guest_obey(const struct ob_wire_msg *in)
{
	if (!port.is_ordered)
		port.next_ns = 0;
	port.is_ordered = 1;
	ob_guest_turn();
	if (port.fd < 0 || in->guest.n > sizeof(port.out) - port.used)
		return;
	memcpy(port.out + port.used, in->guest.bytes, in->guest.n);
	port.used += in->guest.n;
	send_out();
}

void ob_guest_forget(void)
{
	port.is_ordered = 0;
	close_port();
}
