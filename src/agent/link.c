/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The link to overbookd: one thread that connects, says who this is, sends statistics, and does what it is told.
 *
 * It is never needed for paging. When overbookd goes, the machine keeps its last limit, and the link tries again twice a
 * second until one comes back. It also does what the engine cannot do from its own threads: stop the machine when a page
 * cannot be read.
 *
 * overbookd is believed when it runs as root or as this process's own user; every message is checked all the same.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "proto/wire.h"

#define RETRY_MS      500
#define STACK_BYTES   (256u << 10)
#define PROGRAM       "agent " OB_VERSION
#define DESCRIPTORS_MAX 8 /* with one packet; the kernel closes those beyond */

static struct {
	int fd;            /* -1: not connected */
	int event;         /* something for report_stopped() */
	uint32_t sequence;
	int interval_ms;
	uint64_t next_stats_ns;
	struct ob_wire_msg in, out;
	unsigned char packet[OB_WIRE_MAX];
	pthread_mutex_t lock; /* of the next two */
	char cause[OB_WIRE_TEXT_MAX + 1];
	int changed;
} self = { .fd = -1, .event = -1, .interval_ms = 1000, .lock = PTHREAD_MUTEX_INITIALIZER };

static void disconnect(void)
{
	ob_fd_close(&self.fd);
	ob_share_disconnected();
	ob_balloon_forget();
	ob_guest_forget();
}

struct ob_wire_msg *ob_link_message(void)
{
	return &self.out;
}

/* Sends self.out. A peer that does not take it within the socket's time is given up. */
int ob_link_send(uint16_t type)
{
	int n, r = ob_fault(OB_FP_link_send);

	self.out.type = type;
	self.out.sequence = ++self.sequence;
	n = r < 0 ? r : ob_wire_encode(&self.out, self.packet, sizeof(self.packet));
	if (n < 0)
		return n;
	return send(self.fd, self.packet, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -EPIPE;
}

static int send_hello(void)
{
	struct ob_engine_stats stats;

	ob_engine_get_stats(ob_agent_engine(), &stats);
	memset(&self.out, 0, sizeof(self.out));
	self.out.hello.flags = ob_agent.released ? OB_WIRE_RELEASED : 0;
	self.out.hello.pid = (uint32_t)getpid();
	self.out.hello.shares = ob_agent.shares;
	self.out.hello.reservation_bytes = ob_agent.reservation_bytes;
	self.out.hello.maximum_bytes = ob_agent.maximum_bytes;
	self.out.hello.limit_bytes = stats.values.limit_bytes;
	memcpy(self.out.hello.name, ob_agent.name, sizeof(self.out.hello.name));
	memcpy(self.out.hello.domain, ob_agent.domain, sizeof(self.out.hello.domain));
	snprintf(self.out.hello.program, sizeof(self.out.hello.program), "%s", PROGRAM);
	return ob_link_send(OB_WIRE_HELLO);
}

static int send_ranges(void)
{
	struct ob_engine_range ranges[OB_WIRE_RANGES_MAX];
	unsigned n = OB_MIN(ob_engine_get_ranges(ob_agent_engine(), ranges, OB_WIRE_RANGES_MAX), OB_WIRE_RANGES_MAX);

	self.out.ranges.n = n;
	for (unsigned i = 0; i < n; i++)
		self.out.ranges.range[i] = (struct ob_wire_range){ ranges[i].kind, ranges[i].start, ranges[i].end };
	return ob_link_send(OB_WIRE_RANGES);
}

static int send_stats(void)
{
	struct ob_engine_stats stats;

	self.next_stats_ns = ob_now_ns() + (uint64_t)self.interval_ms * OB_NS_PER_MS;
	ob_engine_get_stats(ob_agent_engine(), &stats);
	self.out.stats.stats = stats.values;
	ob_balloon_fill(&self.out.stats.stats);
	self.out.stats.hists = stats.hists;
	return ob_link_send(OB_WIRE_STATS);
}

static int send_reply(uint32_t to, int status, const char *text)
{
	self.out.reply.to = to;
	self.out.reply.status = status;
	snprintf(self.out.reply.text, sizeof(self.out.reply.text), "%.*s", OB_WIRE_TEXT_MAX, text);
	return ob_link_send(OB_WIRE_REPLY);
}

static int send_stopped(void)
{
	pthread_mutex_lock(&self.lock);
	memcpy(self.out.stopped.cause, self.cause, sizeof(self.cause));
	pthread_mutex_unlock(&self.lock);
	return ob_link_send(OB_WIRE_STOPPED);
}

/* Returns its process, or -1 when it is not trusted. */
static pid_t trusted_peer(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || (peer.uid != 0 && peer.uid != geteuid()))
		return -1;
	return peer.pid;
}

static void try_connect(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 2 };
	int OB_FD fd = -1;
	pid_t peer;

	if (strlen(ob_agent.socket) >= sizeof(addr.sun_path) || ob_fault(OB_FP_link_connect) < 0)
		return;
	memcpy(addr.sun_path, ob_agent.socket, strlen(ob_agent.socket) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	/* Also for connect(), which waits while the other side is stopped and its queue full. */
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return;
	peer = trusted_peer(fd);
	if (peer < 0) {
		ob_log_limited(OB_LOG_WARNING, "who listens on \"%s\" is neither root nor this user: not believed", ob_agent.socket);
		return;
	}
	self.fd = ob_fd_take(&fd);
	self.interval_ms = 1000;
	ob_share_connected(peer);
	if (send_hello() < 0 || ob_share_announce() < 0 || ob_balloon_announce() < 0 || send_ranges() < 0 || send_stats() < 0 || ob_share_report() < 0 ||
	    (self.cause[0] && send_stopped() < 0))
		disconnect();
}

static void do_set_limit(uint32_t sequence, uint64_t bytes, uint64_t maximum_bytes)
{
	int r = ob_engine_set_limit(ob_agent_engine(), bytes);
	char text[128] = "";

	/* What a later overbookd is to know of it. */
	if (r == 0) {
		ob_agent.maximum_bytes = maximum_bytes;
		ob_agent.released = 0;
	}
	if (r == -EINVAL)
		snprintf(text, sizeof(text), "a limit of %llu bytes is below the least that can be kept, %llu",
			 (unsigned long long)bytes, (unsigned long long)OB_LIMIT_MIN);
	else if (r < 0)
		snprintf(text, sizeof(text), "a release is under way");
	if (send_reply(sequence, r, text) < 0)
		disconnect();
}

static void tell_progress(void *context, uint64_t done, uint64_t total)
{
	char text[64];

	snprintf(text, sizeof(text), "%llu %llu", (unsigned long long)(done * OB_PAGE_SIZE),
		 (unsigned long long)(total * OB_PAGE_SIZE));
	if (self.fd >= 0 && send_reply(*(uint32_t *)context, -EINPROGRESS, text) < 0)
		disconnect();
}

static void do_release(uint32_t sequence)
{
	struct ob_error err = { 0 };
	int r = ob_engine_release(ob_agent_engine(), tell_progress, &sequence, &err);

	ob_agent.released = r == 0;
	if (self.fd >= 0 && (send_stats() < 0 || send_reply(sequence, r, r < 0 ? err.text : "") < 0))
		disconnect();
}

static void do_unshare(uint32_t sequence)
{
	struct ob_error err = { 0 };
	int r = ob_engine_unshare(ob_agent_engine(), tell_progress, &sequence, &err);

	if (self.fd >= 0 && (send_stats() < 0 || send_reply(sequence, r, r < 0 ? err.text : "") < 0))
		disconnect();
}

static void do_large(void)
{
	const struct ob_large_orders orders = {
		.policy = self.in.large.policy, .state = self.in.large.state,
		.hot_pages = (uint16_t)self.in.large.hot_pages, .cold_pages = (uint16_t)self.in.large.cold_pages,
		.may_make = self.in.large.flags & OB_WIRE_LARGE_MAY_MAKE,
		.scan_rate = self.in.large.scan_rate, .break_rate = self.in.large.break_rate, .collapse_rate = self.in.large.collapse_rate,
	};

	ob_engine_large(ob_agent_engine(), &orders);
}

static void obey(int fd)
{
	switch (self.in.type) {
	case OB_WIRE_SET_LIMIT:
		do_set_limit(self.in.sequence, self.in.set_limit.bytes, self.in.set_limit.maximum_bytes);
		break;
	case OB_WIRE_RELEASE:
		do_release(self.in.sequence);
		break;
	case OB_WIRE_UNSHARE:
		do_unshare(self.in.sequence);
		break;
	case OB_WIRE_POLL:
		self.interval_ms = (int)self.in.poll.interval_ms;
		self.next_stats_ns = 0;
		break;
	case OB_WIRE_LARGE:
		do_large();
		break;
	case OB_WIRE_BALLOON:
		ob_balloon_obey(&self.in.balloon);
		break;
	case OB_WIRE_GUEST:
		ob_guest_obey(&self.in);
		break;
	default:
		if (ob_share_obey(&self.in, fd) < 0)
			disconnect();
	}
}

/* Reads a packet, and the descriptor that came with it; more than one are closed. As recv(). */
static ssize_t receive_packet(int *ret_fd)
{
	union {
		char space[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = { .iov_base = self.packet, .iov_len = sizeof(self.packet) };
	struct msghdr msg = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(self.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int OB_FD fd = -1;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (*ret_fd < 0)
				*ret_fd = ob_fd_take(&fd);
		}
	}
	return n;
}

static void receive(void)
{
	struct ob_error err = { 0 };
	int OB_FD fd = -1;
	ssize_t n = receive_packet(&fd);
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		disconnect();
		return;
	}
	r = ob_wire_decode(self.packet, (size_t)n, &self.in, &err);
	if (r == -ENOTSUP)
		return;
	if (r < 0) {
		ob_log(OB_LOG_WARNING, "a message from overbookd does not parse: %s", err.text);
		disconnect();
		return;
	}
	obey(fd);
}

void ob_link_unreadable(void *context, const char *cause)
{
	uint64_t one = 1;

	pthread_mutex_lock(&self.lock);
	snprintf(self.cause, sizeof(self.cause), "%s", cause ? cause : "");
	self.changed = 1;
	pthread_mutex_unlock(&self.lock);
	if (write(self.event, &one, sizeof(one)) < 0)
		return; /* the counter is full: the thread has been told */
}

/* A page cannot be read: stops the machine, says so, and tells overbookd. Or: it has been read at last. */
static void report_stopped(void)
{
	char cause[sizeof(self.cause)];
	uint64_t drained;
	int changed, r;

	if (read(self.event, &drained, sizeof(drained)) < 0 && errno != EAGAIN)
		return;
	pthread_mutex_lock(&self.lock);
	changed = self.changed;
	self.changed = 0;
	memcpy(cause, self.cause, sizeof(cause));
	pthread_mutex_unlock(&self.lock);
	if (!changed)
		return;
	if (self.fd >= 0 && send_stopped() < 0)
		disconnect();
	if (!cause[0]) {
		ob_log(OB_LOG_WARNING, "the page has been read after all: continue the machine with QMP's cont");
		return;
	}
	ob_log(OB_LOG_ERROR, "machine stopped: %s; reading is tried again every second", cause);
	ob_balloon_drop();
	r = ob_qmp_stop();
	if (r < 0)
		ob_log(OB_LOG_ERROR, "QEMU did not take the command to stop: %s; whoever needs the page waits", strerror(-r));
}

static int wait_ms(void)
{
	uint64_t now = ob_now_ns(), due = ob_balloon_due_ns(), guest_due = ob_guest_due_ns(), blocks_due = ob_blocks_due_ns();

	due = OB_MIN(due, guest_due);
	due = OB_MIN(due, blocks_due);
	due = OB_MIN(due, ob_share_due_ns());
	if (self.fd >= 0)
		due = OB_MIN(due, self.next_stats_ns);
	else if (ob_agent.socket[0])
		due = OB_MIN(due, now + RETRY_MS * OB_NS_PER_MS);
	if (due == UINT64_MAX)
		return -1;
	return due > now ? (int)((due - now) / OB_NS_PER_MS) + 1 : 0;
}

static void *link_thread(void *unused)
{
	prctl(PR_SET_NAME, "overbook-link");
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = self.event, .events = POLLIN },
			{ .fd = ob_share_event(), .events = POLLIN },
			{ .fd = self.fd, .events = POLLIN | (ob_share_wants_to_send() ? POLLOUT : 0) },
			{ .fd = ob_balloon_fd(), .events = POLLIN },
			{ .fd = ob_guest_fd(), .events = ob_guest_events() },
			{ .fd = ob_share_urgent_event(), .events = POLLIN },
		};

		if (poll(fds, OB_ARRAY_LEN(fds), wait_ms()) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			report_stopped();
		if (fds[1].revents || fds[5].revents)
			ob_share_woken();
		if (self.fd >= 0 && (fds[2].revents & ~POLLOUT))
			receive();
		if (self.fd >= 0 && (fds[2].revents & POLLOUT) && ob_share_send() < 0)
			disconnect();
		if (self.fd >= 0 && ob_now_ns() >= self.next_stats_ns && (send_stats() < 0 || ob_share_report() < 0))
			disconnect();
		if (fds[3].revents && fds[3].fd == ob_balloon_fd())
			ob_balloon_readable();
		ob_balloon_turn();
		ob_blocks_turn();
		if (self.fd >= 0 && fds[4].revents && fds[4].fd == ob_guest_fd() && ob_guest_ready(fds[4].revents) < 0)
			disconnect();
		ob_guest_turn();
		if (self.fd < 0 && ob_agent.socket[0])
			try_connect();
	}
}

int ob_link_start(void)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	self.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (self.event < 0)
		return -errno;
	r = ob_share_start();
	if (r < 0)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, link_thread, NULL);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}
