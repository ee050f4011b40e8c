/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connected agent.
 *
 *     accepted --HELLO--> bound to a machine --EOF, a broken rule--> closed (the machine is lost, or gone with its process)
 *         |
 *         +-- no HELLO within 5 s, a name that lives already, a pid that is not the peer's: closed and logged
 *
 * Only overbookd's user and root get as far as a first message (runtime.c). An agent runs inside somebody's QEMU all the
 * same, so each message is decoded with its bounds and whatever breaks the rules ends the connection: the agent comes
 * back with a clean one, the machine's memory stays accounted for meanwhile.
 *
 * One message is read a turn of the loop, so an agent that floods overbookd slows nobody but itself. Nothing is queued
 * towards an agent: what is wanted of it (a limit, a release, an interval, large pages, the balloon, whether it shares) is kept as wanted until its socket
 * takes it, so an agent that does not read costs no memory and misses nothing but orders that are out of date. What sharing
 * asks for page by page is given up when the socket is full (share_match.c).
 */
#include "daemon/link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/runtime.h"
#include "daemon/share.h"

#define HELLO_TIMEOUT_NS (5 * OB_NS_PER_SEC)
#define LINKS_MAX        (OB_DAEMON_MACHINES_MAX + 64)

struct ob_link {
	struct ob_link *next;
	struct ob_daemon *daemon;
	struct ob_machine *machine; /* NULL until HELLO */
	struct ucred peer;
	int fd;
	sd_event_source *source, *hello_source;
	uint32_t next_sequence;
	bool limit_wanted, release_wanted, poll_wanted, blocked;
	uint32_t poll_ms; /* ordered last; 0: never */
};

static const char *link_name(const struct ob_link *link)
{
	return link->machine ? link->machine->name : "?";
}

static void link_close(struct ob_link *link)
{
	struct ob_daemon *daemon = link->daemon;
	struct ob_link **at;

	for (at = &daemon->links; *at && *at != link; at = &(*at)->next)
		;
	if (*at) {
		*at = link->next;
		daemon->link_count--;
	}
	sd_event_source_disable_unref(link->source);
	sd_event_source_disable_unref(link->hello_source);
	ob_fd_close(&link->fd);
	if (link->machine)
		ob_registry_disconnected(link->machine);
	free(link);
}

void ob_link_forget_machine(struct ob_link *link)
{
	link->machine = NULL;
	link_close(link);
}

void ob_link_close_all(struct ob_daemon *daemon)
{
	while (daemon->links)
		link_close(daemon->links);
	daemon->agents_source = sd_event_source_disable_unref(daemon->agents_source);
}

/* Returns 0, -EAGAIN when the socket is full, or -errno. fd: a descriptor that goes with it, or -1. */
static int link_send_fd(struct ob_link *link, struct ob_wire_msg *msg, int fd)
{
	static uint8_t buf[OB_WIRE_MAX];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = buf };
	struct msghdr packet = { .msg_iov = &part, .msg_iovlen = 1 };
	int n;

	msg->sequence = ++link->next_sequence;
	n = ob_wire_encode(msg, buf, sizeof(buf));
	if (n < 0)
		return n;
	part.iov_len = (size_t)n;
	if (fd >= 0) {
		struct cmsghdr *head;

		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control.bytes);
		head = CMSG_FIRSTHDR(&packet);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &fd, sizeof(fd));
	}
	/* ETOOMANYREFS: it leaves descriptors unread. */
	if (sendmsg(link->fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return errno == ENOBUFS || errno == EINTR || errno == ETOOMANYREFS ? -EAGAIN : -errno;
	return 0;
}

static int link_send(struct ob_link *link, struct ob_wire_msg *msg)
{
	return link_send_fd(link, msg, -1);
}

int ob_link_send(struct ob_machine *machine, struct ob_wire_msg *msg, int fd)
{
	return link_send_fd(machine->link, msg, fd);
}

static uint64_t to_wire(uint64_t bytes)
{
	return bytes == OB_BUDGET_NONE ? 0 : bytes;
}

static uint64_t from_wire(uint64_t bytes)
{
	return bytes ? bytes : OB_BUDGET_NONE;
}

static int send_limit(struct ob_link *link)
{
	struct ob_machine *machine = link->machine;
	struct ob_wire_msg msg = { .type = OB_WIRE_SET_LIMIT };
	int r;

	msg.set_limit.bytes = to_wire(machine->limit_bytes);
	msg.set_limit.maximum_bytes = to_wire(machine->maximum_bytes);
	r = link_send(link, &msg);
	if (r < 0)
		return r;
	link->limit_wanted = false;
	machine->ordered_maximum_bytes = machine->maximum_bytes;
	machine->order = OB_ORDER_SENT;
	machine->order_sequence = msg.sequence;
	return 0;
}

static int send_release(struct ob_link *link)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_RELEASE };
	int r = link_send(link, &msg);

	if (r < 0)
		return r;
	link->release_wanted = false;
	link->machine->release_sequence = msg.sequence;
	return 0;
}

static int send_poll(struct ob_link *link)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_POLL, .poll.interval_ms = link->poll_ms };
	int r = link_send(link, &msg);

	if (r >= 0)
		link->poll_wanted = false;
	return r;
}

/* Sends what is wanted, as far as the socket takes it. A failure is left to the reading side, which sees it as well. */
static void link_flush(struct ob_link *link)
{
	int r = 0;
	bool blocked;

	if (link->limit_wanted)
		r = send_limit(link);
	if (r >= 0 && link->release_wanted)
		r = send_release(link);
	if (r >= 0 && link->poll_wanted)
		r = send_poll(link);
	if (r >= 0 && link->machine)
		r = ob_large_flush(link->machine);
	if (r >= 0 && link->machine)
		r = ob_balloon_flush(link->machine);
	if (r >= 0 && link->machine)
		r = ob_guest_flush(link->machine);
	if (r >= 0 && link->machine)
		r = ob_share_flush(link->machine);
	if (r < 0 && r != -EAGAIN)
		ob_log_limited(OB_LOG_DEBUG, "machine \"%s\": cannot send to its agent: %s", link_name(link), strerror(-r));
	blocked = r == -EAGAIN;
	if (blocked != link->blocked)
		sd_event_source_set_io_events(link->source, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
	link->blocked = blocked;
}

void ob_link_flush(struct ob_machine *machine)
{
	link_flush(machine->link);
}

void ob_link_order_limit(struct ob_machine *machine, uint64_t limit_bytes)
{
	/* A limit that has not been sent yet counts as exposed too: it is about to be. */
	machine->limit_bytes = limit_bytes;
	machine->exposed_bytes = OB_MAX(machine->exposed_bytes, limit_bytes);
	machine->order = OB_ORDER_SENT;
	machine->order_sequence = 0;
	machine->link->limit_wanted = true;
	link_flush(machine->link);
}

void ob_link_order_release(struct ob_machine *machine)
{
	machine->limit_bytes = machine->exposed_bytes = OB_BUDGET_NONE;
	machine->order = OB_ORDER_NONE;
	machine->release = OB_RELEASE_RUNNING;
	machine->release_sequence = 0;
	machine->release_done_bytes = machine->release_total_bytes = 0;
	machine->link->limit_wanted = false;
	machine->link->release_wanted = true;
	link_flush(machine->link);
}

void ob_link_order_poll(struct ob_machine *machine, uint32_t interval_ms)
{
	if (machine->link->poll_ms == interval_ms)
		return;
	machine->link->poll_ms = interval_ms;
	machine->link->poll_wanted = true;
	link_flush(machine->link);
}

/* Whether the other side of a connection has closed it. */
static bool link_hung_up(const struct ob_link *link)
{
	struct pollfd pfd = { .fd = link->fd, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) > 0 && pfd.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

/* A machine that is known already says HELLO. Returns 0 when this is the same one, -EEXIST with who holds the name. */
static int adopt_known(struct ob_machine *machine, const struct ob_wire_msg *msg, struct ob_error *err)
{
	if (machine->link && machine->pid == msg->hello.pid && link_hung_up(machine->link))
		link_close(machine->link);
	if (machine->link || machine->pid != msg->hello.pid)
		return ob_error_set(err, EEXIST, "a machine of the name \"%s\" lives already, with pid %u", machine->name,
				    machine->pid);
	return 0;
}

/* A machine that overbookd has not heard of: run without it, or older than this overbookd. */
static int adopt_new(struct ob_daemon *daemon, const struct ob_wire_msg *msg, struct ob_machine **ret_machine,
		     struct ob_error *err)
{
	struct ob_machine *machine;
	int r = ob_registry_add(daemon, msg->hello.name, msg->hello.pid, &machine, err);

	if (r < 0)
		return r;
	memcpy(machine->domain, msg->hello.domain, sizeof(machine->domain));
	machine->shares = msg->hello.shares;
	machine->reservation_bytes = msg->hello.reservation_bytes;
	machine->maximum_bytes = machine->ordered_maximum_bytes = from_wire(msg->hello.maximum_bytes);
	if (msg->hello.flags & OB_WIRE_RELEASED)
		machine->release = OB_RELEASE_DONE;
	if (daemon->expected)
		daemon->expected--;
	*ret_machine = machine;
	return 0;
}

static int on_hello(struct ob_link *link, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_machine *machine = ob_registry_find(link->daemon, msg->hello.name);
	int r;

	if (link->machine)
		return ob_error_set(err, EPROTO, "a second HELLO");
	if ((pid_t)msg->hello.pid != link->peer.pid)
		return ob_error_set(err, EPERM, "HELLO of \"%s\" says pid %u: the process that has connected is %d", msg->hello.name,
				    msg->hello.pid, (int)link->peer.pid);
	r = machine ? adopt_known(machine, msg, err) : adopt_new(link->daemon, msg, &machine, err);
	if (r < 0)
		return r;
	link->hello_source = sd_event_source_disable_unref(link->hello_source);
	link->machine = machine;
	machine->limit_bytes = machine->exposed_bytes = from_wire(msg->hello.limit_bytes);
	if (machine->release == OB_RELEASE_DONE && !(msg->hello.flags & OB_WIRE_RELEASED))
		machine->release = OB_RELEASE_NO;
	machine->cause[0] = '\0'; /* the agent says STOPPED again if that is so */
	ob_text_clean(machine->program, sizeof(machine->program), msg->hello.program);
	ob_registry_connected(machine, link);
	ob_event(OB_EVENT_MACHINE_HERE, machine->name, machine->pid, "machine \"%s\" (pid %u) is here", machine->name, machine->pid);
	ob_large_connected(machine);
	ob_balloon_connected(machine);
	ob_guest_connected(machine);
	ob_share_connected(machine);
	ob_arbiter_stir(link->daemon);
	return 0;
}

static void on_stopped(struct ob_machine *machine, const struct ob_wire_msg *msg)
{
	ob_text_clean(machine->cause, sizeof(machine->cause), msg->stopped.cause);
	machine->state = *machine->cause ? OB_MACHINE_STOPPED : OB_MACHINE_RUNNING;
	ob_events_look(machine);
}

/* "DONE TOTAL" in bytes; anything else is no progress. */
static void on_release_progress(struct ob_machine *machine, const char *text)
{
	unsigned long long done, total;

	if (sscanf(text, "%20llu %20llu", &done, &total) != 2 || done > total)
		return;
	machine->release_done_bytes = done;
	machine->release_total_bytes = total;
	ob_api_machine_changed(machine);
}

static void on_release_end(struct ob_machine *machine, int status, const char *text)
{
	machine->release = status ? OB_RELEASE_NO : OB_RELEASE_DONE;
	if (status)
		ob_log(OB_LOG_WARNING, "machine \"%s\" could not be released: %s", machine->name, *text ? text : strerror(-status));
	else
		ob_event(OB_EVENT_MACHINE_RELEASED, machine->name, machine->pid, "machine \"%s\" is released", machine->name);
	ob_api_release_ended(machine, status, text);
	ob_arbiter_stir(machine->daemon);
}

static void on_reply(struct ob_machine *machine, const struct ob_wire_msg *msg)
{
	char text[OB_WIRE_TEXT_MAX + 1];

	ob_text_clean(text, sizeof(text), msg->reply.text);
	if (ob_share_reply(machine, msg->reply.to, msg->reply.status, text))
		return;
	if (machine->release == OB_RELEASE_RUNNING && machine->release_sequence && msg->reply.to == machine->release_sequence) {
		if (msg->reply.status == -EINPROGRESS)
			on_release_progress(machine, text);
		else
			on_release_end(machine, msg->reply.status, text);
	} else if (machine->order == OB_ORDER_SENT && machine->order_sequence && msg->reply.to == machine->order_sequence &&
		   msg->reply.status != -EINPROGRESS) {
		ob_arbiter_order_answered(machine, msg->reply.status, text);
	}
}

static int handle(struct ob_link *link, const struct ob_wire_msg *msg, struct ob_error *err)
{
	struct ob_machine *machine = link->machine;

	if (msg->type == OB_WIRE_HELLO)
		return on_hello(link, msg, err);
	if (!machine)
		return ob_error_set(err, EPROTO, "a message of type %u before HELLO", msg->type);
	switch (msg->type) {
	case OB_WIRE_STATS:
		machine->stats = msg->stats.stats;
		machine->hists = msg->stats.hists;
		ob_arbiter_stats_came(machine);
		ob_events_look(machine);
		return 0;
	case OB_WIRE_RANGES:
		machine->range_count = msg->ranges.n;
		memcpy(machine->ranges, msg->ranges.range, sizeof(machine->ranges));
		return 0;
	case OB_WIRE_STOPPED:
		on_stopped(machine, msg);
		return 0;
	case OB_WIRE_REPLY:
		on_reply(machine, msg);
		return 0;
	case OB_WIRE_BALLOON_SET:
		ob_balloon_is_set(machine, &msg->balloon);
		return 0;
	case OB_WIRE_GUEST:
		ob_guest_heard(machine, msg);
		return 0;
	case OB_WIRE_OFFER:
	case OB_WIRE_STAGED:
	case OB_WIRE_HELD:
	case OB_WIRE_DROPPED:
	case OB_WIRE_WORN:
	case OB_WIRE_MAPS:
	case OB_WIRE_ORPHANS:
	case OB_WIRE_MORE_ORPHANS:
	case OB_WIRE_HOLDS:
		return ob_share_handle(machine, msg, err);
	default:
		return ob_error_set(err, EPROTO, "a message of type %u, which only overbookd sends", msg->type);
	}
}

static int on_readable(struct ob_link *link, struct ob_error *err)
{
	static uint8_t buf[OB_WIRE_MAX + 1];
	static struct ob_wire_msg msg;
	ssize_t n = recv(link->fd, buf, sizeof(buf), MSG_DONTWAIT);
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0 && errno != ECONNRESET)
		return ob_error_sys(err, errno, "cannot read");
	if (n <= 0)
		return ob_error_set(err, ESHUTDOWN, "it has closed the connection");
	r = ob_wire_decode(buf, (size_t)n, &msg, err);
	if (r == -ENOTSUP && link->machine) {
		ob_log_limited(OB_LOG_DEBUG, "machine \"%s\" has sent %s: skipped", link_name(link), err->text);
		return 0;
	}
	return r < 0 ? r : handle(link, &msg, err);
}

static int on_event(sd_event_source *source, int fd, uint32_t events, void *context)
{
	struct ob_link *link = context;
	struct ob_error err = { 0 };
	int r = 0;

	if (events & EPOLLOUT)
		link_flush(link);
	if (events & EPOLLIN)
		r = on_readable(link, &err);
	else if (events & (EPOLLHUP | EPOLLERR))
		r = ob_error_set(&err, ESHUTDOWN, "it has closed the connection");
	if (r == 0)
		return 0;
	if (r != -ESHUTDOWN)
		ob_log_limited(OB_LOG_WARNING, "agent of machine \"%s\" (pid %d): %s; connection closed", link_name(link),
			       (int)link->peer.pid, err.text);
	else
		ob_log(OB_LOG_DEBUG, "agent of machine \"%s\" (pid %d): %s", link_name(link), (int)link->peer.pid, err.text);
	link_close(link);
	return 0;
}

static int on_hello_timeout(sd_event_source *source, uint64_t now_us, void *context)
{
	struct ob_link *link = context;

	ob_log_limited(OB_LOG_WARNING, "pid %d has connected as an agent and said nothing for %llu s; connection closed",
		       (int)link->peer.pid, (unsigned long long)(HELLO_TIMEOUT_NS / OB_NS_PER_SEC));
	link_close(link);
	return 0;
}

static void link_new(struct ob_daemon *daemon, int fd, const struct ucred *peer)
{
	struct ob_link *link = calloc(1, sizeof(*link));
	int r;

	if (!link) {
		ob_fd_close(&fd);
		return;
	}
	link->daemon = daemon;
	link->fd = fd;
	link->peer = *peer;
	link->next = daemon->links;
	daemon->links = link;
	daemon->link_count++;
	r = sd_event_add_io(daemon->event, &link->source, fd, EPOLLIN, on_event, link);
	if (r >= 0)
		r = sd_event_add_time_relative(daemon->event, &link->hello_source, CLOCK_MONOTONIC,
					       HELLO_TIMEOUT_NS / OB_NS_PER_US, 0, on_hello_timeout, link);
	if (r < 0) {
		ob_log_limited(OB_LOG_WARNING, "cannot watch the connection of pid %d: %s", (int)peer->pid, strerror(-r));
		link_close(link);
	}
}

static int on_connect(sd_event_source *source, int listener, uint32_t events, void *context)
{
	struct ob_daemon *daemon = context;
	struct ob_error err = { 0 };
	struct ucred peer;
	int fd = ob_runtime_accept(listener, &peer, &err);

	if (fd == -EAGAIN)
		return 0;
	if (fd < 0) {
		ob_log_limited(OB_LOG_WARNING, "agents' socket: %s", err.text);
	} else if (daemon->link_count >= LINKS_MAX) {
		ob_log_limited(OB_LOG_WARNING, "%u agents are connected already: pid %d is turned away", daemon->link_count,
			       (int)peer.pid);
		ob_fd_close(&fd);
	} else {
		link_new(daemon, fd, &peer);
	}
	return 0;
}

int ob_link_listen(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = sd_event_add_io(daemon->event, &daemon->agents_source, daemon->agents_fd, EPOLLIN, on_connect, daemon);

	return r < 0 ? ob_error_sys(err, -r, "cannot watch the agents' socket") : 0;
}
