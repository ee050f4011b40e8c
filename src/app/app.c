/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * liboverbook-app: a connection to overbook-guest that is there again after it was lost (proto/guest.h has what is said on it).
 *
 *     away --the timer--> connected: it is said who this is, its target and what it has given --the end--> away
 *
 * The caller waits on one descriptor, an epoll with the timer and, while there is one, the connection. What is to be said is the present
 * state, once every SAY_NS at most: changes in between are said together. An application's own memory, and what it was asked, live here, so
 * that the end of overbook-guest changes nothing: what was given stays given.
 *
 * A packet that breaks the rules ends the connection, which is tried again as ever.
 */
#include "app/overbook-app.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "proto/guest.h"

#define RETRY_NS OB_NS_PER_SEC
#define SAY_NS   (100 * OB_NS_PER_MS)
#define OBEY_MAX 8 /* packets in one dispatch */

struct overbook_app {
	int epoll_fd, timer_fd, fd;
	struct sockaddr_un addr;
	void (*target)(void *context, uint64_t give_bytes, uint32_t deadline_ms);
	void *context;
	struct ob_guest_app app; /* as overbook-guest is told */
	bool is_news;
	uint64_t said_ns;
};

static void set_timer(struct overbook_app *app, uint64_t ns)
{
	struct itimerspec when = { .it_value = { .tv_sec = (time_t)(ns / OB_NS_PER_SEC), .tv_nsec = (long)(ns % OB_NS_PER_SEC) } };

	/* It fails with times that do not exist alone. */
	(void)timerfd_settime(app->timer_fd, 0, &when, NULL);
}

static void disconnect(struct overbook_app *app)
{
	ob_fd_close(&app->fd);
	app->is_news = true;
	set_timer(app, RETRY_NS);
}

static void say(struct overbook_app *app)
{
	struct ob_guest_msg msg = { .type = OB_GUEST_APP, .app = app->app };
	uint64_t now_ns = ob_now_ns();
	uint8_t packet[OB_GUEST_FRAME];

	if (app->fd < 0 || !app->is_news)
		return;
	if (now_ns - app->said_ns < SAY_NS) {
		set_timer(app, SAY_NS - (now_ns - app->said_ns));
		return;
	}
	if (ob_guest_encode(&msg, packet) == 0 && send(app->fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno == EAGAIN)
			set_timer(app, SAY_NS);
		else
			disconnect(app);
		return;
	}
	app->is_news = false;
	app->said_ns = now_ns;
}

static void try_connect(struct overbook_app *app)
{
	struct epoll_event event = { .events = EPOLLIN };
	int OB_FD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	set_timer(app, RETRY_NS);
	if (fd < 0 || connect(fd, (struct sockaddr *)&app->addr, sizeof(app->addr)) < 0 || epoll_ctl(app->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return;
	set_timer(app, 0);
	app->fd = ob_fd_take(&fd);
	app->is_news = true;
	app->said_ns = 0;
	say(app);
}

/* Returns whether there may be more. */
static bool hear(struct overbook_app *app)
{
	uint8_t packet[OB_GUEST_FRAME + 1];
	ssize_t n = recv(app->fd, packet, sizeof(packet), MSG_DONTWAIT);
	struct ob_guest_msg msg;
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	r = n == OB_GUEST_FRAME ? ob_guest_decode(packet, &msg) : -EBADMSG;
	if (r == -ENOTSUP)
		return true;
	if (r < 0 || msg.type != OB_GUEST_TARGET) {
		disconnect(app);
		return false;
	}
	app->app.answers = msg.sequence;
	app->app.target_bytes = msg.target.give_bytes;
	app->app.flags = 0;
	app->is_news = true;
	if (app->target)
		app->target(app->context, msg.target.give_bytes, msg.target.deadline_ms);
	return true;
}

static bool is_valid(const struct overbook_app_options *options)
{
	return options && options->size >= sizeof(*options) && options->pain <= OB_GUEST_PAIN_MAX && ob_guest_name_valid(options->name) &&
	       (!options->socket || strlen(options->socket) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

OB_EXPORT struct overbook_app *overbook_app_new(const struct overbook_app_options *options)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct overbook_app *app;
	int failed;

	if (!is_valid(options)) {
		errno = EINVAL;
		return NULL;
	}
	app = calloc(1, sizeof(*app));
	if (!app)
		return NULL;
	app->fd = -1;
	app->target = options->target;
	app->context = options->context;
	app->app.pain = options->pain;
	app->app.kind = OB_GUEST_KIND_LIBRARY;
	snprintf(app->app.name, sizeof(app->app.name), "%s", options->name);
	app->addr.sun_family = AF_UNIX;
	snprintf(app->addr.sun_path, sizeof(app->addr.sun_path), "%s", options->socket ? options->socket : OB_GUEST_SOCKET);
	app->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	app->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (app->epoll_fd < 0 || app->timer_fd < 0 || epoll_ctl(app->epoll_fd, EPOLL_CTL_ADD, app->timer_fd, &event) < 0) {
		failed = errno;
		overbook_app_free(app);
		errno = failed;
		return NULL;
	}
	try_connect(app);
	return app;
}

OB_EXPORT void overbook_app_free(struct overbook_app *app)
{
	if (!app)
		return;
	ob_fd_close(&app->fd);
	ob_fd_close(&app->timer_fd);
	ob_fd_close(&app->epoll_fd);
	free(app);
}

OB_EXPORT int overbook_app_fd(const struct overbook_app *app)
{
	return app->epoll_fd;
}

OB_EXPORT void overbook_app_dispatch(struct overbook_app *app)
{
	uint64_t expired;
	bool is_time = read(app->timer_fd, &expired, sizeof(expired)) == sizeof(expired);

	if (app->fd < 0 && is_time)
		try_connect(app);
	for (unsigned i = 0; i < OBEY_MAX && app->fd >= 0 && hear(app); i++)
		;
	say(app);
}

OB_EXPORT void overbook_app_could(struct overbook_app *app, uint64_t used_bytes, uint64_t could_bytes)
{
	used_bytes = OB_MIN(used_bytes, OB_GUEST_BYTES_MAX);
	could_bytes = OB_MIN(could_bytes, OB_GUEST_BYTES_MAX);
	if (app->app.used_bytes == used_bytes && app->app.could_bytes == could_bytes)
		return;
	app->app.used_bytes = used_bytes;
	app->app.could_bytes = could_bytes;
	app->is_news = true;
	say(app);
}

OB_EXPORT void overbook_app_gave(struct overbook_app *app, uint64_t given_bytes, int is_final)
{
	uint32_t flags = is_final ? OB_GUEST_APP_FINAL : 0;

	given_bytes = OB_MIN(given_bytes, OB_GUEST_BYTES_MAX);
	if (app->app.given_bytes == given_bytes && app->app.flags == flags)
		return;
	app->app.given_bytes = given_bytes;
	app->app.flags = flags;
	app->is_news = true;
	say(app);
}

OB_EXPORT uint64_t overbook_app_target(const struct overbook_app *app)
{
	return app->app.target_bytes;
}

OB_EXPORT int overbook_app_is_connected(const struct overbook_app *app)
{
	return app->fd >= 0;
}
