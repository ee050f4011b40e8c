/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An adaptor's life, in its own process: adaptor.h says what it does. Everything may wait here, for PATIENCE_MS at most. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/units.h"
#include "guest/adaptor.h"

#define PATIENCE_MS 20000
#define TURN_MS     500  /* from one look to the next while something is asked */
#define REST_MS     2000 /* while nothing is */
#define REFUSED_MS  15000
#define AGAIN_NS    (10 * OB_NS_PER_SEC) /* from one try to the next, of what the server has refused */

static struct {
	struct ob_server server;
	int fd; /* to clients.c */
	struct ob_guest_app app;
	char state_path[256];
	unsigned long long start_time; /* of the server's process */
	/* While app.target_bytes is not 0: */
	uint64_t original_bytes, base_bytes; /* the limit, and what was used, before */
	uint64_t limit_bytes;                /* that was set */
	bool has_come;                       /* down to it */
} self;

/* --- the connection to the server --- */

int ob_server_send(struct ob_server *server, const void *data, size_t size, struct ob_error *err)
{
	int r = ob_write_full(server->fd, data, size);

	server->asked_ns = ob_now_ns();
	if (r == -EAGAIN)
		r = -ETIMEDOUT;
	return r < 0 ? ob_error_sys(err, -r, "cannot ask it") : 0;
}

int ob_server_more(struct ob_server *server, struct ob_error *err)
{
	ssize_t n;

	if (server->used == sizeof(server->in))
		return ob_error_set(err, EPROTO, "an answer of more than %zu bytes", sizeof(server->in));
	if (ob_now_ns() >= server->asked_ns + PATIENCE_MS * OB_NS_PER_MS)
		return ob_error_set(err, ETIMEDOUT, "its answer takes more than %d s", PATIENCE_MS / 1000);
	n = recv(server->fd, server->in + server->used, sizeof(server->in) - server->used, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return ob_error_set(err, ETIMEDOUT, "it has not answered for %d s", PATIENCE_MS / 1000);
	if (n < 0)
		return ob_error_sys(err, errno, "cannot read its answer");
	if (n == 0)
		return ob_error_set(err, ECONNRESET, "it has closed the connection");
	server->used += (size_t)n;
	return 0;
}

void ob_server_drop(struct ob_server *server, size_t bytes)
{
	server->used -= bytes;
	memmove(server->in, server->in + bytes, server->used);
}

int ob_server_secret(const struct ob_server *server, char *ret_secret, struct ob_error *err)
{
	const char *path = server->service->password_path;
	int r;

	ret_secret[0] = '\0';
	if (!path[0])
		return 0;
	r = ob_read_text(path, ret_secret, OB_SECRET_MAX);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot read the password in \"%s\"", path);
	return strlen(ret_secret) == (size_t)r && !strpbrk(ret_secret, "\r\n") ? 0 : ob_error_set(err, EINVAL, "\"%s\" is not a line", path);
}

bool ob_server_has_ended(const struct ob_server *server)
{
	struct pollfd fd = { .fd = server->pidfd, .events = POLLIN };

	return poll(&fd, 1, 0) == 1;
}

int ob_server_connect(struct ob_server *server, const char *path, struct ob_error *err)
{
	const struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	server->asked_ns = ob_now_ns();
	server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server->fd < 0 || setsockopt(server->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(server->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(server->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return ob_error_sys(err, errno, "cannot connect to \"%s\"", path);
	return 0;
}

static int connect_socket(const char *path, pid_t *ret_pid, struct ob_error *err)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	int r = ob_server_connect(&self.server, path, err);

	if (r == 0 && getsockopt(self.server.fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		r = ob_error_sys(err, errno, "cannot see who listens on \"%s\"", path);
	if (r == 0)
		*ret_pid = OB_MAX(peer.pid, 0);
	return r;
}

/* Waits for its process, where it is known by that. 0: overbook-guest does not wait any more, which has an end for those who have not said who they are. */
static pid_t wait_process(const struct ob_service *service)
{
	struct pollfd fd = { .fd = self.fd };
	pid_t pid = service->adaptor->find(service);

	while (!pid && poll(&fd, 1, REST_MS) == 0)
		pid = service->adaptor->find(service);
	return pid;
}

static int greet_server(pid_t pid, struct ob_error *err)
{
	struct ob_server *server = &self.server;

	server->pid = pid;
	server->pidfd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	self.app.pid = (uint32_t)pid;
	return server->service->adaptor->greet(server, err);
}

/* --- the file about the limit --- */

/* When the server's process was started; 0: not known. */
static unsigned long long start_time_of(uint32_t pid)
{
	char path[64], text[1024];
	unsigned long long start = 0;
	const char *at;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	if (!pid || ob_read_text(path, text, sizeof(text)) < 0)
		return 0;
	/* Behind the program's name, which may hold anything: field 22. */
	at = strrchr(text, ')');
	if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &start) != 1)
		return 0;
	return start;
}

static int save_state(struct ob_error *err)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "%u %llu %llu %llu %llu\n", self.app.pid, self.start_time, (unsigned long long)self.original_bytes,
			 (unsigned long long)self.base_bytes, (unsigned long long)self.app.target_bytes);
	char fresh[sizeof(self.state_path) + 8];
	int r, OB_FD fd = -1;

	snprintf(fresh, sizeof(fresh), "%s.new", self.state_path);
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = fd < 0 ? -errno : ob_pwrite_full(fd, text, (size_t)n, 0);
	if (r == 0 && rename(fresh, self.state_path) < 0)
		r = -errno;
	return r < 0 ? ob_error_sys(err, -r, "cannot write \"%s\"", self.state_path) : 0;
}

/* Takes up what a former adaptor has left of this very process. */
static void load_state(void)
{
	unsigned long long start, original, base, target;
	char text[160];
	unsigned pid;

	if (ob_read_text(self.state_path, text, sizeof(text)) < 0)
		return;
	if (sscanf(text, "%u %llu %llu %llu %llu", &pid, &start, &original, &base, &target) != 5 || pid != self.app.pid ||
	    start != self.start_time || !pid || base > OB_GUEST_BYTES_MAX || target > OB_GUEST_BYTES_MAX) {
		ob_log(OB_LOG_INFO, "it has been started anew, with its own settings");
		unlink(self.state_path);
		return;
	}
	self.original_bytes = original;
	self.base_bytes = base;
	self.app.target_bytes = target;
}

/* --- what it is asked --- */

/* Sets a limit, and sees whether it is so: within the server's grain. */
static int set_limit(uint64_t bytes, struct ob_error *err)
{
	const struct ob_adaptor *adaptor = self.server.service->adaptor;
	struct ob_server_sizes sizes;
	int r = adaptor->set_limit(&self.server, bytes, err);

	if (r == 0)
		r = adaptor->look(&self.server, &sizes, err);
	if (r < 0)
		return r;
	if (sizes.limit_bytes != bytes && (sizes.limit_bytes < ob_less(bytes, self.server.grain_bytes) || sizes.limit_bytes > bytes + self.server.grain_bytes))
		return ob_error_set(err, EIO, "it was told a limit of %llu bytes and has one of %llu: it ignores what it is told", (unsigned long long)bytes,
				    (unsigned long long)sizes.limit_bytes);
	self.limit_bytes = sizes.limit_bytes;
	return 0;
}

static int shrink(uint64_t give_bytes, struct ob_error *err)
{
	uint64_t floor = self.server.service->floor_bytes, limit;
	struct ob_server_sizes sizes;
	int r = self.server.service->adaptor->look(&self.server, &sizes, err);

	if (r < 0)
		return r;
	if (!sizes.can_shrink)
		return ob_error_set(err, EOPNOTSUPP, "it cannot be shrunk as it is set up");
	if (!self.app.target_bytes) {
		self.original_bytes = sizes.limit_bytes;
		self.base_bytes = sizes.used_bytes;
	}
	self.app.target_bytes = give_bytes;
	r = save_state(err);
	if (r < 0)
		return r;
	limit = ob_less(self.base_bytes, give_bytes);
	limit = OB_MAX(limit, floor);
	limit = OB_MAX(limit, sizes.least_bytes);
	if (self.original_bytes)
		limit = OB_MIN(limit, self.original_bytes);
	self.has_come = false;
	return set_limit(limit, err);
}

static int restore(struct ob_error *err)
{
	int r = self.app.target_bytes ? set_limit(self.original_bytes, err) : 0;

	if (r < 0)
		return r;
	unlink(self.state_path);
	self.app.target_bytes = self.app.given_bytes = 0;
	return 0;
}

/* Logs what has gone wrong once, for as long as it is the same. */
static void note(int r, const struct ob_error *err)
{
	int status = r < 0 ? r : 0;

	if (status && status != self.app.status)
		ob_log(OB_LOG_WARNING, "%s", err->text);
	self.app.status = status;
}

static bool has_ended(int r)
{
	return r == -ECONNRESET || r == -EPIPE || r == -ETIMEDOUT || r == -EPROTO || r == -ECONNREFUSED;
}

/* TARGET. Returns 0, or -errno: the connection to the server is of no more use. */
static int obey(const struct ob_guest_msg *msg)
{
	struct ob_error err = { 0 };
	int r = msg->target.give_bytes ? shrink(msg->target.give_bytes, &err) : restore(&err);

	self.app.answers = msg->sequence;
	self.app.flags = r < 0 ? OB_GUEST_APP_FINAL : 0;
	note(r, &err);
	return has_ended(r) ? r : 0;
}

/* Whether what was asked last has not been done. */
static bool has_refused(const struct ob_guest_msg *msg)
{
	return msg->type && self.app.flags & OB_GUEST_APP_FINAL && self.app.status;
}

/* How it is with the server. As obey(). */
static int look(void)
{
	const struct ob_adaptor *adaptor = self.server.service->adaptor;
	struct ob_server_sizes sizes = { 0 };
	struct ob_error err = { 0 };
	uint64_t floor;
	int r = adaptor->look(&self.server, &sizes, &err);
	bool is_down = sizes.used_bytes <= self.limit_bytes + self.server.grain_bytes;

	if (r == 0 && self.app.target_bytes && adaptor->let_go && !self.has_come) {
		r = adaptor->let_go(&self.server, &err);
		/* What has gone is said at once: clients.c measures an adaptor that is new from what it says then. */
		if (r == 0)
			r = adaptor->look(&self.server, &sizes, &err);
	}
	if (r < 0 || !self.app.target_bytes || !(self.app.flags & OB_GUEST_APP_FINAL) || !self.app.status)
		note(r, &err);
	if (r < 0 && r != -EOPNOTSUPP)
		return has_ended(r) ? r : 0;
	floor = OB_MAX(self.server.service->floor_bytes, sizes.least_bytes);
	self.app.used_bytes = sizes.used_bytes;
	self.app.could_bytes = sizes.can_shrink ? ob_less(self.app.target_bytes ? self.base_bytes : sizes.used_bytes, floor) : 0;
	if (!self.app.target_bytes || r < 0)
		return 0;
	self.app.given_bytes = ob_less(self.base_bytes, sizes.used_bytes);
	/* Once it is down to its limit, and has let go of it, it will not come nearer. */
	if (self.has_come)
		self.app.flags |= OB_GUEST_APP_FINAL;
	self.has_come = is_down;
	return 0;
}

static int tell(void)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_APP, .app = self.app };
	uint8_t packet[OB_GUEST_FRAME];
	int r = ob_guest_encode(&msg, packet);

	if (r < 0)
		return r;
	return send(self.fd, packet, sizeof(packet), MSG_NOSIGNAL) == sizeof(packet) ? 0 : -EPIPE;
}

/* Waits for the next TARGET, the last of those that are there. Returns 1, 0: there is none, or -errno: overbook-guest has gone. */
static int wait_target(struct ob_guest_msg *ret_msg)
{
	struct pollfd fd = { .fd = self.fd, .events = POLLIN };
	int found = 0;

	if (poll(&fd, 1, self.app.target_bytes ? TURN_MS : REST_MS) <= 0)
		return 0;
	for (;;) {
		uint8_t packet[OB_GUEST_FRAME];
		ssize_t n = recv(self.fd, packet, sizeof(packet), MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return found;
		if (n != sizeof(packet) || ob_guest_decode(packet, ret_msg) < 0 || ret_msg->type != OB_GUEST_TARGET)
			return -EPIPE;
		found = 1;
	}
}

/* Returns when the server, or overbook-guest, is not there any more. What the server has refused stays to be done: above all, to give back its limit. */
static void work(void)
{
	struct ob_guest_msg msg = { 0 };
	uint64_t again_ns = 0;
	int r = 0;

	while (r == 0) {
		int n;

		r = look();
		if (tell() < 0 || r < 0)
			return;
		n = wait_target(&msg);
		if (n < 0)
			return;
		if (!n && (!has_refused(&msg) || ob_now_ns() < again_ns))
			continue;
		r = obey(&msg);
		again_ns = ob_now_ns() + AGAIN_NS;
	}
	(void)(tell() < 0);
}

/* One that does not let us in is shown with the reason for a while; then overbook-guest tries again. */
static void stay_refused(int r)
{
	struct pollfd fd = { .fd = self.fd };

	if ((r == -EACCES || r == -EPERM || r == -EINVAL) && tell() == 0)
		(void)poll(&fd, 1, REFUSED_MS);
}

int ob_adaptor_serve(const struct ob_service *service, int fd, const char *state_dir)
{
	struct ob_error err = { 0 };
	pid_t pid = 0;
	int r = 0;

	self.server.service = service;
	self.server.fd = -1;
	self.fd = fd;
	self.app.kind = service->adaptor->kind;
	self.app.pain = service->pain;
	memcpy(self.app.name, service->name, sizeof(self.app.name));
	snprintf(self.state_path, sizeof(self.state_path), "%s/%s.state", state_dir, service->name);
	if (service->adaptor->find) {
		pid = wait_process(service);
		if (!pid)
			return 0;
	} else {
		r = connect_socket(service->socket, &pid, &err);
	}
	if (r == 0)
		r = greet_server(pid, &err);
	if (r < 0) {
		note(r, &err);
		stay_refused(r);
		return 1;
	}
	self.start_time = start_time_of(self.app.pid);
	load_state();
	/* What it was told may not have been done. */
	if (self.app.target_bytes)
		note(shrink(self.app.target_bytes, &err), &err);
	work();
	return 0;
}
