/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The applications: each a connection to our socket (SOCK_SEQPACKET), on which a packet is a frame of proto/guest.h. An application says APP,
 * first to say who it is, then whenever something has changed; it is told TARGET.
 *
 *     connected --APP--> known: has a number, which the host is told --its end, a packet that breaks the rules--> gone, which the host is told
 *         +-- nothing for NAME_NS: closed
 *
 * Whoever is a user of this guest may connect: OF_A_USER applications each, OF_USERS all together, so that there is room for those of root and for
 * adaptors whatever users do. A lie about oneself is worth little:
 *
 * What counts as given is what the process has less than when it was first asked (VmRSS and VmSwap), within SLACK; and never more than its
 * target. So a program that drops a cache and fills another has given nothing. What it could give is at most what it has.
 *
 * An application that connects again (this is a new overbook-guest, or its connection was lost) says its target and what it has given, and
 * is measured from there.
 *
 * Adaptors (adaptor.h) are applications too, for servers, whose processes they name. They have until ADAPTOR_NS to say who they are, since a server
 * may let them wait.
 *
 * Each may say PACKETS packets a second; the rest waits in its socket. A target is told at most every TELL_NS, the latest.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/units.h"
#include "guest/adaptor.h"
#include "guest/guest.h"

#define NAME_NS   (5 * OB_NS_PER_SEC)
#define ADAPTOR_NS (60 * OB_NS_PER_SEC)
#define TELL_NS   (250 * OB_NS_PER_MS)
#define LOOK_NS   (500 * OB_NS_PER_MS) /* at what a process has, while it has a target */
#define PACKETS   32u
#define OF_A_USER 4
#define OF_USERS  (OB_GUEST_APPS_MAX - OB_SERVICES_MAX)
#define SLACK_LEAST (2 * OB_MIB)

struct client {
	int fd; /* -1: this place is free */
	uid_t uid;
	uint32_t adaptor; /* an enum ob_guest_kind; 0: it is none */
	pid_t pid; /* whose memory is measured; 0: nobody's */
	uint64_t since_ns;
	uint64_t window_ns; /* the second that is counted */
	unsigned window_packets;
	struct ob_guest_app app; /* as the host is told; app.app is 0 while it is not known */
	uint64_t said_bytes;     /* given, as it says */
	uint64_t offered_bytes;  /* what it could give, as it says */
	uint64_t base_bytes;     /* what its process would have, had it given nothing; 0: nothing is asked of it */
	uint64_t looked_ns;
	bool is_news;            /* for the host */
	struct ob_guest_msg target; /* the latest from the host */
	bool is_due;             /* to be told that */
	uint64_t told_ns;        /* 0: it was told nothing on this connection */
	uint64_t told_bytes;     /* then, or, as it says, before */
	uint64_t counted_bytes;  /* given, as far as it is seen */
};

static struct {
	int fd;
	uint32_t next_app;
	uint64_t asked_bytes, given_bytes; /* guest.h */
	struct client client[OB_CLIENTS_MAX];
	/* Those who have gone, of which the host has not been told. More than there is room for are left out: it forgets whom it hears nothing of. */
	unsigned gone;
	struct ob_guest_app last_word[OB_GUEST_APPS_MAX];
} clients = { .fd = -1 };

static bool is_known(const struct client *client)
{
	return client->fd >= 0 && client->app.app;
}

unsigned ob_clients_count(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		n += is_known(&clients.client[i]);
	return n;
}

uint64_t ob_clients_given_bytes(void)
{
	return clients.given_bytes;
}

uint64_t ob_clients_asked_bytes(void)
{
	return clients.asked_bytes;
}

static void remove_client(struct client *client, const char *why)
{
	if (is_known(client)) {
		ob_log_limited(OB_LOG_INFO, "application \"%s\" (pid %d) has gone: %s", client->app.name, (int)client->pid, why);
		client->app.flags = OB_GUEST_APP_GONE;
		if (clients.gone < OB_GUEST_APPS_MAX)
			clients.last_word[clients.gone++] = client->app;
	} else {
		ob_log(OB_LOG_DEBUG, "a connection of pid %d has ended: %s", (int)client->pid, why);
	}
	ob_fd_close(&client->fd);
}

/* --- connections --- */

int ob_clients_listen(const char *path, struct ob_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int OB_FD fd = -1;

	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		clients.client[i].fd = -1;
	if (snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path) >= (int)sizeof(addr.sun_path))
		return ob_error_set(err, ENAMETOOLONG, "the socket's path \"%s\" has more than %zu bytes", path, sizeof(addr.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot make a socket");
	/* Ours of before: that nobody listens there the caller has seen to. */
	unlink(path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(path, 0666) < 0 || listen(fd, OB_CLIENTS_MAX) < 0)
		return ob_error_sys(err, errno, "cannot listen on \"%s\"", path);
	clients.fd = ob_fd_take(&fd);
	return 0;
}

/* Whether another application of that user's may be here. */
static bool is_allowed(uid_t uid)
{
	unsigned own = 0, users = 0;

	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++) {
		const struct client *client = &clients.client[i];

		if (client->fd < 0 || client->adaptor || !client->uid)
			continue;
		users++;
		own += client->uid == uid;
	}
	return !uid || (own < OF_A_USER && users < OF_USERS);
}

static struct client *free_place(void)
{
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		if (clients.client[i].fd < 0)
			return &clients.client[i];
	return NULL;
}

static void accept_client(void)
{
	int OB_FD fd = accept4(clients.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client = free_place();
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return;
	if (!client || !is_allowed(peer.uid)) {
		ob_log_limited(OB_LOG_WARNING, "pid %d of user %u is turned away: there may be %d applications of a user, %d of all users but root, %d in all",
			       (int)peer.pid, (unsigned)peer.uid, OF_A_USER, OF_USERS, OB_CLIENTS_MAX);
		return;
	}
	*client = (struct client){ .fd = ob_fd_take(&fd), .uid = peer.uid, .pid = peer.pid, .since_ns = ob_now_ns() };
}

int ob_clients_add(int fd, enum ob_guest_kind kind)
{
	struct client *client = free_place();

	if (!client)
		return -ENOSPC;
	*client = (struct client){ .fd = fd, .adaptor = kind, .since_ns = ob_now_ns() };
	return 0;
}

/* --- what they say, and whether it is so --- */

static void count(struct client *client, uint64_t bytes)
{
	if (client->told_ns)
		clients.given_bytes += bytes - client->counted_bytes;
	client->counted_bytes = bytes;
}

/* Looks at the process, and counts what it has given. */
static void measure(struct client *client)
{
	uint64_t has, seen, slack, given = OB_MIN(client->said_bytes, client->app.target_bytes);

	client->looked_ns = ob_now_ns();
	/* A server of which the process is not known (in a container, say) is believed; a process that has ended has nothing. */
	if (!client->pid)
		has = client->app.used_bytes;
	else if (ob_memory_of_process(client->pid, &has) < 0)
		has = 0;
	seen = client->pid ? ob_less(client->base_bytes, has) : given;
	count(client, OB_MIN(seen, given));
	slack = OB_MAX(SLACK_LEAST, given / 16);
	given = seen + slack >= given ? given : seen;
	if (given != client->app.given_bytes)
		client->is_news = true;
	client->app.given_bytes = given;
	client->app.could_bytes = OB_MIN(client->offered_bytes, has + given);
}

/* Measures from now on, from what it says to have given already. */
static void set_base(struct client *client, uint64_t given_bytes)
{
	uint64_t has;

	client->base_bytes = client->pid && ob_memory_of_process(client->pid, &has) == 0 ? has + given_bytes : 0;
}

static void introduce(struct client *client, const struct ob_guest_app *said)
{
	client->app.app = ++clients.next_app;
	memcpy(client->app.name, said->name, sizeof(client->app.name));
	client->app.kind = client->adaptor ? client->adaptor : OB_GUEST_KIND_LIBRARY;
	if (client->adaptor)
		client->pid = (pid_t)said->pid;
	client->app.pain = said->pain;
	client->app.target_bytes = client->told_bytes = said->target_bytes;
	if (said->target_bytes)
		set_base(client, said->given_bytes);
	ob_log_limited(OB_LOG_INFO, "application \"%s\" (pid %d) is here", client->app.name, (int)client->pid);
}

/* Whether two lines of the configuration have led to one JVM. Of other servers the sockets are compared before. */
static bool is_known_otherwise(const struct client *client, pid_t pid)
{
	for (unsigned i = 0; client->adaptor == OB_GUEST_KIND_JVM && i < OB_CLIENTS_MAX; i++)
		if (is_known(&clients.client[i]) && clients.client[i].adaptor == OB_GUEST_KIND_JVM && clients.client[i].pid == pid)
			return true;
	return false;
}

static void take_app(struct client *client, const struct ob_guest_msg *msg)
{
	const struct ob_guest_app *said = &msg->app;

	if (!client->app.app && ob_clients_count() >= OB_GUEST_APPS_MAX) {
		remove_client(client, "there is no room for another application");
		return;
	}
	if (!client->app.app && is_known_otherwise(client, (pid_t)said->pid)) {
		remove_client(client, "another adaptor speaks with that process");
		return;
	}
	if (!client->app.app)
		introduce(client, said);
	/* What it was told is known here better than there, once it has heard it. */
	if (said->answers && said->answers == client->target.sequence)
		client->app.target_bytes = client->target.target.give_bytes;
	if (!client->app.target_bytes && !client->is_due && said->answers == client->target.sequence)
		client->base_bytes = 0;
	client->app.flags = said->flags & OB_GUEST_APP_FINAL;
	client->app.status = said->status;
	client->app.answers = said->answers;
	client->app.used_bytes = said->used_bytes;
	client->offered_bytes = said->could_bytes;
	client->said_bytes = said->given_bytes;
	client->is_news = true;
	measure(client);
}

static bool has_said_enough(struct client *client)
{
	uint64_t now_ns = ob_now_ns();

	if (now_ns - client->window_ns >= OB_NS_PER_SEC) {
		client->window_ns = now_ns;
		client->window_packets = 0;
	}
	return client->window_packets >= PACKETS;
}

static void hear_client(struct client *client)
{
	uint8_t packet[OB_GUEST_FRAME + 1];
	ssize_t n = recv(client->fd, packet, sizeof(packet), MSG_DONTWAIT);
	struct ob_guest_msg msg;
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		remove_client(client, "it has closed the connection");
		return;
	}
	client->window_packets++;
	r = n == OB_GUEST_FRAME ? ob_guest_decode(packet, &msg) : -EBADMSG;
	if (r == -ENOTSUP)
		return;
	if (r < 0 || msg.type != OB_GUEST_APP)
		remove_client(client, "it has said something that breaks the rules");
	else
		take_app(client, &msg);
}

/* --- what they are told --- */

void ob_clients_target(const struct ob_guest_msg *msg)
{
	uint64_t most;

	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++) {
		struct client *client = &clients.client[i];

		if (!is_known(client) || client->app.app != msg->target.app)
			continue;
		/* Said again, since the answer is late: the application may not have heard it, or the host not the answer. */
		client->is_news = true;
		client->is_due = client->app.answers != msg->sequence || client->app.target_bytes != msg->target.give_bytes;
		client->target = *msg;
		/* No more than it has offered; but what the host has of it is not there to be taken back, whatever it offers now. */
		most = OB_MAX(client->app.could_bytes, client->app.given_bytes);
		client->target.target.give_bytes = OB_MIN(msg->target.give_bytes, most);
	}
}

static void tell_client(struct client *client)
{
	struct ob_guest_msg msg = client->target;
	uint8_t packet[OB_GUEST_FRAME];

	msg.session = msg.target.app = 0;
	if (!client->base_bytes && msg.target.give_bytes)
		set_base(client, 0);
	if (ob_guest_encode(&msg, packet) == 0 && send(client->fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		remove_client(client, strerror(errno));
	client->is_due = false;
	client->told_ns = ob_now_ns();
	clients.asked_bytes += ob_less(msg.target.give_bytes, client->told_bytes);
	client->told_bytes = msg.target.give_bytes;
}

void ob_clients_tell_all(void)
{
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		clients.client[i].is_news = true;
}

bool ob_clients_next(struct ob_guest_app *ret_app)
{
	if (clients.gone) {
		*ret_app = clients.last_word[--clients.gone];
		return true;
	}
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++) {
		struct client *client = &clients.client[i];

		if (!is_known(client) || !client->is_news)
			continue;
		client->is_news = false;
		*ret_app = client->app;
		return true;
	}
	return false;
}

/* --- for the loop --- */

unsigned ob_clients_poll(struct pollfd *ret_fds)
{
	unsigned n = 0;

	ret_fds[n++] = (struct pollfd){ .fd = clients.fd, .events = POLLIN };
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++) {
		struct client *client = &clients.client[i];

		ret_fds[n++] = (struct pollfd){ .fd = client->fd >= 0 && has_said_enough(client) ? -1 : client->fd, .events = POLLIN };
	}
	return n;
}

/* Until when it is to have said who it is. */
static uint64_t name_by_ns(const struct client *client)
{
	return client->since_ns + (client->adaptor ? ADAPTOR_NS : NAME_NS);
}

static uint64_t due_of(const struct client *client)
{
	uint64_t due = UINT64_MAX;

	if (client->fd < 0)
		return due;
	if (!client->app.app)
		due = name_by_ns(client);
	if (client->is_due)
		due = OB_MIN(due, client->told_ns + TELL_NS);
	if (client->app.target_bytes)
		due = OB_MIN(due, client->looked_ns + LOOK_NS);
	if (client->window_packets >= PACKETS)
		due = OB_MIN(due, client->window_ns + OB_NS_PER_SEC);
	return due;
}

uint64_t ob_clients_due_ns(void)
{
	uint64_t due = UINT64_MAX;

	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++) {
		uint64_t of_client = due_of(&clients.client[i]);

		due = OB_MIN(due, of_client);
	}
	return due;
}

static void turn_client(struct client *client)
{
	uint64_t now_ns = ob_now_ns();

	if (!client->app.app && now_ns >= name_by_ns(client)) {
		remove_client(client, "it has not said who it is");
		return;
	}
	if (client->app.target_bytes && now_ns >= client->looked_ns + LOOK_NS)
		measure(client);
	if (client->is_due && now_ns >= client->told_ns + TELL_NS)
		tell_client(client);
}

void ob_clients_turn(const struct pollfd *fds, unsigned n)
{
	for (unsigned i = 0; i + 1 < n; i++)
		if (clients.client[i].fd >= 0 && clients.client[i].fd == fds[i + 1].fd && fds[i + 1].revents)
			hear_client(&clients.client[i]);
	for (unsigned i = 0; i < OB_CLIENTS_MAX; i++)
		if (clients.client[i].fd >= 0)
			turn_client(&clients.client[i]);
	if (fds[0].revents)
		accept_client();
}
