/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients: lines in, lines out.
 *
 *     reading  --a whole line-->  the command answers at once  --> writing --> reading
 *                                 or waits for a machine       --> waiting --> writing --> reading
 *
 * One request at a time: while a client waits or has not read its answer, nothing more is read from it, so that a client
 * costs at most one request (64 KiB), one answer (4 MiB) and a little progress. A line that is longer, or that has not
 * arrived or been read after IDLE_NS without any movement, ends the connection. When all OB_DAEMON_CLIENTS_MAX
 * places are taken, the client that has been idle for longest makes room.
 *
 * All reading, writing and closing happens in the client's own event handler. Other modules only append to its output.
 */
#include "daemon/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/link.h"
#include "daemon/runtime.h"

#define IDLE_NS      (60 * OB_NS_PER_SEC)
#define IN_FIRST     4096
#define PROGRESS_MAX 4096

struct ob_client {
	struct ob_client *next;
	struct ob_daemon *daemon;
	int fd;
	sd_event_source *source, *idle_source;
	uint64_t active_ns;
	char *in, *out;
	size_t in_used, in_size, out_used, out_sent;
	bool ended;  /* it sends no more */
	bool doomed; /* close once the output is sent */
	struct ob_wait wait;
};

struct ob_daemon *ob_client_daemon(struct ob_client *client)
{
	return client->daemon;
}

struct ob_wait *ob_client_wait(struct ob_client *client)
{
	return &client->wait;
}

struct ob_client *ob_client_next(struct ob_client *client)
{
	return client->next;
}

static void client_close(struct ob_client *client)
{
	struct ob_client **at;

	for (at = &client->daemon->clients; *at && *at != client; at = &(*at)->next)
		;
	if (*at) {
		*at = client->next;
		client->daemon->client_count--;
	}
	ob_wait_cancel(client);
	sd_event_source_disable_unref(client->source);
	sd_event_source_disable_unref(client->idle_source);
	ob_fd_close(&client->fd);
	free(client->in);
	free(client->out);
	free(client);
}

void ob_api_close_all(struct ob_daemon *daemon)
{
	while (daemon->clients)
		client_close(daemon->clients);
	daemon->clients_source = sd_event_source_disable_unref(daemon->clients_source);
}

static bool is_waiting(const struct ob_client *client)
{
	return client->wait.kind != OB_WAIT_NOTHING;
}

static bool has_output(const struct ob_client *client)
{
	return client->out_sent < client->out_used;
}

/* Chooses the events that this state is interested in; a hang-up is always reported. */
static void watch(struct ob_client *client)
{
	uint32_t events = 0;

	if (has_output(client) || client->doomed)
		events = EPOLLOUT;
	else if (!is_waiting(client))
		events = EPOLLIN;
	sd_event_source_set_io_events(client->source, events);
}

/* Appends object (stolen) and a newline to the output. */
static void append(struct ob_client *client, json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL, *grown;
	size_t len = text ? strlen(text) : 0;

	json_decref(object);
	grown = text && client->out_used + len + 1 <= OB_API_ANSWER_MAX ? realloc(client->out, client->out_used + len + 1) : NULL;
	if (!grown) {
		ob_log_limited(OB_LOG_WARNING, "no memory for an answer of %zu bytes: a client's connection is closed", len);
		client->doomed = true;
	} else {
		client->out = grown;
		memcpy(client->out + client->out_used, text, len);
		client->out_used += len;
		client->out[client->out_used++] = '\n';
	}
	free(text);
	watch(client);
}

void ob_client_answer(struct ob_client *client, json_t *body)
{
	json_t *head = json_pack("{s:i, s:b}", "version", OB_API_VERSION, "ok", 1);

	memset(&client->wait, 0, sizeof(client->wait));
	if (!head || !body || json_object_update(head, body) < 0) {
		json_decref(head);
		json_decref(body);
		ob_client_refuse(client, "failed", "overbookd is out of memory");
		return;
	}
	json_decref(body);
	append(client, head);
}

void ob_client_refuse(struct ob_client *client, const char *code, const char *fmt, ...)
{
	char text[1024], clean[1024];
	va_list ap;

	memset(&client->wait, 0, sizeof(client->wait));
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ob_text_clean(clean, sizeof(clean), text);
	append(client, json_pack("{s:i, s:b, s:s, s:s}", "version", OB_API_VERSION, "ok", 0, "code", code, "error", clean));
}

void ob_client_progress(struct ob_client *client, uint64_t done, uint64_t total, const char *what)
{
	if (client->out_used - client->out_sent > PROGRESS_MAX)
		return;
	/* What an agent says may be above what JSON integers hold. */
	append(client, json_pack("{s:i, s:{s:I, s:I, s:s}}", "version", OB_API_VERSION, "progress", "done",
				 (json_int_t)OB_MIN(done, (uint64_t)INT64_MAX), "total", (json_int_t)OB_MIN(total, (uint64_t)INT64_MAX),
				 "what", what));
}

/* Returns 0 or -errno when the connection is no good any more. */
static int send_output(struct ob_client *client)
{
	ssize_t n;

	if (!has_output(client))
		return 0;
	n = send(client->fd, client->out + client->out_sent, client->out_used - client->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	client->out_sent += (size_t)n;
	client->active_ns = ob_now_ns();
	if (has_output(client))
		return 0;
	free(client->out);
	client->out = NULL;
	client->out_used = client->out_sent = 0;
	return 0;
}

/* Makes room for more input. Returns 0, -EMSGSIZE when the line is too long, or -ENOMEM. */
static int grow_input(struct ob_client *client)
{
	size_t size = client->in_size ? client->in_size * 2 : IN_FIRST;
	char *grown;

	if (client->in_used < client->in_size)
		return 0;
	if (client->in_size >= OB_API_REQUEST_MAX)
		return -EMSGSIZE;
	grown = realloc(client->in, size);
	if (!grown)
		return -ENOMEM;
	client->in = grown;
	client->in_size = size;
	return 0;
}

static int read_input(struct ob_client *client)
{
	ssize_t n;
	int r = grow_input(client);

	if (r < 0)
		return r;
	n = recv(client->fd, client->in + client->in_used, client->in_size - client->in_used, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		client->ended = true;
	client->in_used += (size_t)n;
	client->active_ns = ob_now_ns();
	return 0;
}

/* Runs the first whole line, if there is one and the client is free for it. Returns whether there was. */
static bool run_line(struct ob_client *client)
{
	char *end = client->in_used ? memchr(client->in, '\n', client->in_used) : NULL;
	size_t len;

	if (!end || is_waiting(client) || has_output(client) || client->doomed)
		return false;
	len = (size_t)(end - client->in);
	ob_command_run(client, client->in, len);
	client->in_used -= len + 1;
	memmove(client->in, end + 1, client->in_used);
	return true;
}

/* Reads, runs and writes what can be. Returns 0, or -errno when it is time to close. */
static int serve(struct ob_client *client, uint32_t events)
{
	int r = 0;

	if (events & EPOLLIN)
		r = read_input(client);
	if (r == -EMSGSIZE) {
		ob_client_refuse(client, "bad-request", "a request of more than %d bytes on one line", OB_API_REQUEST_MAX);
		client->doomed = true;
		client->in_used = 0;
	} else if (r < 0) {
		return r;
	}
	do {
		r = send_output(client);
	} while (r >= 0 && !has_output(client) && run_line(client));
	if (r < 0)
		return r;
	if (!has_output(client) && (client->doomed || (client->ended && !is_waiting(client))))
		return -ESHUTDOWN;
	return 0;
}

static int on_event(sd_event_source *source, int fd, uint32_t events, void *context)
{
	struct ob_client *client = context;

	if (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN)) {
		client_close(client);
		return 0;
	}
	if (serve(client, events) < 0)
		client_close(client);
	else
		watch(client);
	return 0;
}

static int on_idle(sd_event_source *source, uint64_t now_us, void *context)
{
	struct ob_client *client = context;
	uint64_t now = ob_now_ns(), end = client->active_ns + IDLE_NS;

	/* One that waits is idle only when it does not read what it is told. */
	if (now >= end && (!is_waiting(client) || has_output(client))) {
		client_close(client);
		return 0;
	}
	sd_event_source_set_time_relative(source, (end > now ? end - now : IDLE_NS) / OB_NS_PER_US + 1);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static void client_new(struct ob_daemon *daemon, int fd)
{
	struct ob_client *client = calloc(1, sizeof(*client));
	int r;

	if (!client) {
		ob_fd_close(&fd);
		return;
	}
	client->daemon = daemon;
	client->fd = fd;
	client->active_ns = ob_now_ns();
	client->next = daemon->clients;
	daemon->clients = client;
	daemon->client_count++;
	r = sd_event_add_io(daemon->event, &client->source, fd, EPOLLIN, on_event, client);
	if (r >= 0)
		r = sd_event_add_time_relative(daemon->event, &client->idle_source, CLOCK_MONOTONIC, IDLE_NS / OB_NS_PER_US, 0,
					       on_idle, client);
	if (r < 0) {
		ob_log_limited(OB_LOG_WARNING, "cannot watch a client: %s", strerror(-r));
		client_close(client);
	}
}

/* Closes the client that has been idle for longest and waits for nothing. Returns whether there was one. */
static bool make_place(struct ob_daemon *daemon)
{
	struct ob_client *oldest = NULL;

	for (struct ob_client *client = daemon->clients; client; client = client->next)
		if (!is_waiting(client) && (!oldest || client->active_ns < oldest->active_ns))
			oldest = client;
	if (oldest)
		client_close(oldest);
	return oldest != NULL;
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
		ob_log_limited(OB_LOG_WARNING, "clients' socket: %s", err.text);
	} else if (daemon->client_count >= OB_DAEMON_CLIENTS_MAX && !make_place(daemon)) {
		ob_log_limited(OB_LOG_WARNING, "%u clients wait already: pid %d is turned away", daemon->client_count, (int)peer.pid);
		ob_fd_close(&fd);
	} else {
		client_new(daemon, fd);
	}
	return 0;
}

int ob_api_listen(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = sd_event_add_io(daemon->event, &daemon->clients_source, daemon->clients_fd, EPOLLIN, on_connect, daemon);

	return r < 0 ? ob_error_sys(err, -r, "cannot watch the clients' socket") : 0;
}
