/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metrics over HTTP. libmicrohttpd speaks it, without a thread: its epoll descriptor is one more in our loop, and
 * MHD_run() does what can be done at once and waits for nothing.
 *
 *     accepted --GET /metrics--> what is to be told is copied --> written piece by piece --> closed
 *              --anything else--> one answer --------------------------------------------> closed
 *
 * Whoever reaches the address may ask; so nobody who does may cost others anything:
 *
 *   - At most CONNECTIONS_MAX connections, MEMORY bytes each for what is asked (a longer head is an error), and a copy of the numbers for
 *     each that is being answered, which those within COPY_NS share.
 *   - A connection lives for DEADLINE_NS, whatever it does, and serves one request. When all places are taken, the oldest that has
 *     not asked yet makes room, or else the oldest: who connects is heard.
 *   - One connection is accepted a turn of the loop, and at most a buffer is written a turn to each; machines and clients come
 *     first in every turn (the priority of our sources). Text is made as it is written.
 *
 * The library closes connections by itself when they fail; to close one ourselves we shut its socket down, which the
 * library then notices. It is told of sockets, not of the listening one, which is ours.
 */
#include "daemon/metrics_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/meminfo.h"
#include "daemon/daemon.h"
#include "daemon/metrics.h"
#include "daemon/registry.h"
#include "daemon/share.h"

#define CONNECTIONS_MAX 16u
#define BACKLOG         64
#define MEMORY          ((size_t)16384)
#define PIECE           16384
#define DEADLINE_NS     (10 * OB_NS_PER_SEC)
#define COPY_NS         (1 * OB_NS_PER_SEC)
#define PRIORITY        (SD_EVENT_PRIORITY_NORMAL + 10)
#define TEXT_TYPE       "text/plain; version=0.0.4; charset=utf-8"

struct connection {
	int fd; /* the library's; -1: this place is free */
	uint64_t began_ns;
	bool has_asked, is_shut;
};

/* A copy of the numbers, owned by all who write from it, and by the server while it may be used again. */
struct copy {
	unsigned references;
	uint64_t made_ns;
	struct ob_metrics metrics;
};

struct answer {
	struct copy *copy;
	struct ob_metrics_cursor cursor;
};

struct ob_metrics_server {
	struct ob_daemon *daemon;
	struct MHD_Daemon *http;
	int fd; /* listening; not of systemd's */
	bool is_passed;
	struct ob_metrics_address address;
	struct connection connections[CONNECTIONS_MAX];
	struct copy *copy; /* the latest; NULL: none */
	sd_event_source *listen_source, *http_source, *timer_source;
};

/* --- what is told --- */

static void copy_unref(struct copy *copy)
{
	if (!copy || --copy->references)
		return;
	free(copy->metrics.machine);
	free(copy);
}

static uint64_t or_zero(uint64_t bytes)
{
	return bytes == OB_BUDGET_NONE ? 0 : bytes;
}

static void copy_host(const struct ob_daemon *daemon, struct ob_metrics *to)
{
	const struct ob_large_host *host = &daemon->large.host;
	const struct ob_ladder *ladder = &daemon->shortage.ladder;

	to->version = OB_VERSION;
	to->memory_state = ladder->is_started ? ob_ladder_state_name(ladder->state) : NULL;
	to->budget_bytes = or_zero(daemon->config.budget_bytes);
	to->free_bytes = host->free_bytes;
	to->min_free_bytes = host->min_free_bytes;
	to->boundary_bytes = host->boundary_bytes;
	to->memory_changes = ladder->changes;
	to->over_bytes = ladder->over_bytes;
	to->waiting_bytes = ladder->waiting_bytes;
	to->boundary_resets = host->resets;
	to->large_pages_allowed = ob_large_may_make(&daemon->large);
	to->store_bytes = ob_share_store_bytes(daemon);
	to->store_allowed_bytes = or_zero(ob_share_allowed_bytes(daemon));
	to->store_orphan_bytes = ob_share_orphan_bytes(daemon);
	ob_share_count(daemon, &to->store_shared_bytes, &to->store_saved_bytes);
	if (ob_memory_pressure(&to->pressure_some_ns, &to->pressure_full_ns) < 0)
		to->pressure_some_ns = to->pressure_full_ns = 0;
	to->pressure_some_ns *= OB_NS_PER_US;
	to->pressure_full_ns *= OB_NS_PER_US;
	to->available_bytes = ob_meminfo("MemAvailable");
	to->machines = daemon->machine_count;
	to->machines_expected = daemon->expected;
}

static void copy_means(const struct ob_means *means, struct ob_metrics_means to[OB_MEANS_KINDS])
{
	for (unsigned i = 0; i < OB_MEANS_KINDS; i++) {
		const struct ob_means_record *record = &means->record[i];

		to[i] = (struct ob_metrics_means){
			.expected_bytes = record->asked_total_bytes, .gained_bytes = record->came_total_bytes, .held_bytes = record->held_bytes,
			.lost_ns = record->lost_total_ns, .price_ns = ob_means_price(record->lost_ns, record->held_bytes),
		};
	}
}

static void copy_machine(const struct ob_machine *machine, uint64_t now_ns, struct ob_metrics_machine *to)
{
	memcpy(to->name, machine->name, sizeof(to->name));
	memcpy(to->domain, machine->domain, sizeof(to->domain));
	to->state = ob_machine_state_name(machine);
	to->shares = machine->shares;
	to->reservation_bytes = machine->reservation_bytes;
	to->maximum_bytes = or_zero(machine->maximum_bytes);
	to->target_bytes = or_zero(machine->target_bytes);
	to->working_set_bytes = or_zero(machine->working_set.believed_bytes);
	to->working_set_low_bytes = or_zero(machine->working_set.low_bytes);
	to->working_set_high_bytes = or_zero(machine->working_set.high_bytes);
	to->guest_first = ob_means_may_wait(&machine->means.means, now_ns);
	to->guest_turn_losses = machine->means.means.losses;
	copy_means(&machine->means.means, to->means);
	to->is_reported = machine->stats_ns != 0;
	to->report_age_ns = to->is_reported ? now_ns - machine->stats_ns : 0;
	to->stats = machine->stats;
	to->hists = machine->hists;
}

/* A reference to a copy that is not older than COPY_NS, or NULL when memory is short. */
static struct copy *take_copy(struct ob_metrics_server *server)
{
	const struct ob_daemon *daemon = server->daemon;
	uint64_t now_ns = ob_now_ns();
	struct copy *copy = server->copy;

	if (copy && now_ns - copy->made_ns < COPY_NS) {
		copy->references++;
		return copy;
	}
	copy = calloc(1, sizeof(*copy));
	if (copy)
		copy->metrics.machine = calloc(daemon->machine_count + 1, sizeof(*copy->metrics.machine));
	if (!copy || !copy->metrics.machine) {
		free(copy);
		return NULL;
	}
	copy_host(daemon, &copy->metrics);
	for (const struct ob_machine *machine = daemon->machines; machine && copy->metrics.count < daemon->machine_count; machine = machine->next)
		copy_machine(machine, now_ns, &copy->metrics.machine[copy->metrics.count++]);
	copy->made_ns = now_ns;
	copy->references = 2;
	copy_unref(server->copy);
	server->copy = copy;
	return copy;
}

/* --- answers --- */

static ssize_t read_answer(void *context, uint64_t position, char *buf, size_t max)
{
	struct answer *answer = context;
	size_t n = ob_metrics_write(&answer->copy->metrics, &answer->cursor, buf, max);

	return n ? (ssize_t)n : MHD_CONTENT_READER_END_OF_STREAM;
}

static void free_answer(void *context)
{
	struct answer *answer = context;

	copy_unref(answer->copy);
	free(answer);
}

/* NULL when memory is short. */
static struct MHD_Response *answer_metrics(struct ob_metrics_server *server)
{
	struct answer *answer = calloc(1, sizeof(*answer));
	struct MHD_Response *response = NULL;

	if (answer)
		answer->copy = take_copy(server);
	if (answer && answer->copy)
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE, read_answer, answer, free_answer);
	if (answer && !response)
		free_answer(answer);
	return response;
}

static struct MHD_Response *answer_text(const char *text)
{
	return MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result send_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
	enum MHD_Result r = MHD_NO;

	/* One request a connection. */
	if (response && MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES &&
	    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, TEXT_TYPE) == MHD_YES &&
	    (status != MHD_HTTP_METHOD_NOT_ALLOWED || MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD") == MHD_YES))
		r = MHD_queue_response(connection, status, response);
	if (response)
		MHD_destroy_response(response);
	return r;
}

static struct connection *find_connection(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* A request's head is there. MHD_NO closes the connection. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
				  const char *version, const char *data, size_t *data_size, void **request_context)
{
	struct connection *own = find_connection(connection);

	if (own)
		own->has_asked = true;
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return send_answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, answer_text("There is nothing here but to GET.\n"));
	if (!strcmp(url, "/metrics"))
		return send_answer(connection, MHD_HTTP_OK, answer_metrics(context));
	if (!strcmp(url, "/"))
		return send_answer(connection, MHD_HTTP_OK, answer_text("overbookd " OB_VERSION ": metrics are at /metrics.\n"));
	return send_answer(connection, MHD_HTTP_NOT_FOUND, answer_text("There is only /metrics.\n"));
}

static void on_connection(void *context, struct MHD_Connection *connection, void **own, enum MHD_ConnectionNotificationCode code)
{
	struct ob_metrics_server *server = context;
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct connection *place = *own;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (place)
			place->fd = -1;
		return;
	}
	for (unsigned i = 0; i < CONNECTIONS_MAX && info; i++)
		if (server->connections[i].fd < 0) {
			server->connections[i] = (struct connection){ .fd = info->connect_fd, .began_ns = ob_now_ns() };
			*own = &server->connections[i];
			return;
		}
}

/* --- connections --- */

static void shut(struct connection *connection)
{
	shutdown(connection->fd, SHUT_RDWR);
	connection->is_shut = true;
}

/* Ends connections that have lived long enough. Returns when the next one will have; UINT64_MAX: none. */
static uint64_t shut_overdue(struct ob_metrics_server *server, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;

	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *connection = &server->connections[i];
		uint64_t end_ns = connection->began_ns + DEADLINE_NS;

		if (connection->fd < 0 || connection->is_shut)
			continue;
		if (end_ns <= now_ns)
			shut(connection);
		else
			next_ns = OB_MIN(next_ns, end_ns);
	}
	return next_ns;
}

/* Does what can be done, and sets the timer to when there is more. */
static void run(struct ob_metrics_server *server)
{
	uint64_t now_ns = ob_now_ns(), next_ns = shut_overdue(server, now_ns);
	MHD_UNSIGNED_LONG_LONG wait_ms;
	int r = 0;

	MHD_run(server->http);
	if (MHD_get_timeout(server->http, &wait_ms) == MHD_YES)
		next_ns = OB_MIN(next_ns, now_ns + wait_ms * OB_NS_PER_MS);
	if (next_ns != UINT64_MAX)
		r = sd_event_source_set_time(server->timer_source, next_ns / OB_NS_PER_US + 1);
	if (r >= 0)
		r = sd_event_source_set_enabled(server->timer_source, next_ns == UINT64_MAX ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
	if (r < 0)
		ob_log_limited(OB_LOG_WARNING, "metrics: cannot set a timer: %s", strerror(-r));
}

static int on_http(sd_event_source *source, int fd, uint32_t events, void *context)
{
	run(context);
	return 0;
}

static int on_timer(sd_event_source *source, uint64_t now_us, void *context)
{
	run(context);
	return 0;
}

/* Makes a place free if there is none. Returns whether there is one. */
static bool make_place(struct ob_metrics_server *server)
{
	struct connection *oldest = NULL;

	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *connection = &server->connections[i];

		if (connection->fd < 0)
			return true;
		if (!oldest || connection->has_asked < oldest->has_asked ||
		    (connection->has_asked == oldest->has_asked && connection->began_ns < oldest->began_ns))
			oldest = connection;
	}
	shut(oldest);
	MHD_run(server->http);
	return oldest->fd < 0;
}

static int on_connect(sd_event_source *source, int listener, uint32_t events, void *context)
{
	struct ob_metrics_server *server = context;
	struct sockaddr_storage peer = { 0 };
	socklen_t size = sizeof(peer);
	int OB_FD fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
			ob_log_limited(OB_LOG_WARNING, "metrics: cannot accept a connection: %s", strerror(errno));
		return 0;
	}
	/* From here on the descriptor is the library's, also when it fails. */
	if (make_place(server) && MHD_add_connection(server->http, ob_fd_take(&fd), (struct sockaddr *)&peer, size) != MHD_YES)
		ob_log_limited(OB_LOG_WARNING, "metrics: cannot serve a connection: %s", strerror(errno));
	run(server);
	return 0;
}

/* --- set-up --- */

/* The digits of a port, 1 to 65535; 0 when they are not. */
static unsigned parse_port(const char *text)
{
	unsigned port = 0;

	if (!*text || strlen(text) > 5)
		return 0;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return 0;
		port = port * 10 + (unsigned)(*text - '0');
	}
	return port <= 65535 ? port : 0;
}

static int parse_inet(const char *text, struct ob_metrics_address *ret)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&ret->socket;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&ret->socket;
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	unsigned port = colon ? parse_port(colon + 1) : 0;
	size_t length = colon ? (size_t)(colon - text) : 0;

	if (!port || length >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, length);
	host[length] = '\0';
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((uint16_t)port);
		ret->length = sizeof(*four);
		return 0;
	}
	if (length < 3 || host[0] != '[' || host[length - 1] != ']')
		return -EINVAL;
	host[length - 1] = '\0';
	if (inet_pton(AF_INET6, host + 1, &six->sin6_addr) != 1)
		return -EINVAL;
	six->sin6_family = AF_INET6;
	six->sin6_port = htons((uint16_t)port);
	ret->length = sizeof(*six);
	return 0;
}

int ob_metrics_parse(const char *what, const char *text, struct ob_metrics_address *ret_address, struct ob_error *err)
{
	struct ob_metrics_address address = { 0 };
	struct sockaddr_un *path = (struct sockaddr_un *)&address.socket;
	int r = 0;

	if (!strncmp(text, "unix:/", 6) && strlen(text + 5) < sizeof(path->sun_path)) {
		path->sun_family = AF_UNIX;
		memcpy(path->sun_path, text + 5, strlen(text + 5) + 1);
		address.length = sizeof(*path);
	} else if (strcmp(text, "none")) {
		r = parse_inet(text, &address);
	}
	if (r < 0)
		return ob_error_set(err, EINVAL, "%s \"%s\" is not an address such as 127.0.0.1:9273, [::1]:9273 or unix:/run/overbook/metrics.sock, "
				    "nor \"none\"", what, text);
	snprintf(address.text, sizeof(address.text), "%s", address.length ? text : "");
	*ret_address = address;
	return 0;
}

/* Removes a socket that nobody listens on any more. Anything else at that path stays. */
static void remove_stale(const struct ob_metrics_address *address)
{
	const struct sockaddr_un *path = (const struct sockaddr_un *)&address->socket;
	int OB_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (fd >= 0 && lstat(path->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
	    connect(fd, (const struct sockaddr *)path, address->length) < 0 && errno == ECONNREFUSED)
		unlink(path->sun_path);
}

static int listen_on(const struct ob_metrics_address *address, int *ret_fd, struct ob_error *err)
{
	int family = address->socket.ss_family, on = 1;
	int OB_FD fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return ob_error_sys(err, errno, "cannot make a socket for metrics on \"%s\"", address->text);
	if (family == AF_UNIX)
		remove_stale(address);
	else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		 (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0))
		return ob_error_sys(err, errno, "cannot set up a socket for metrics on \"%s\"", address->text);
	if (bind(fd, (const struct sockaddr *)&address->socket, address->length) < 0 || listen(fd, BACKLOG) < 0)
		return ob_error_sys(err, errno, "cannot listen for metrics on \"%s\"", address->text);
	*ret_fd = ob_fd_take(&fd);
	return 0;
}

static void server_free(struct ob_metrics_server *server)
{
	if (!server)
		return;
	sd_event_source_disable_unref(server->listen_source);
	sd_event_source_disable_unref(server->http_source);
	sd_event_source_disable_unref(server->timer_source);
	if (server->http)
		MHD_stop_daemon(server->http);
	copy_unref(server->copy);
	if (server->fd >= 0 && !server->is_passed && server->address.socket.ss_family == AF_UNIX)
		unlink(((struct sockaddr_un *)&server->address.socket)->sun_path);
	if (!server->is_passed)
		ob_fd_close(&server->fd);
	free(server);
}

static int start_http(struct ob_metrics_server *server, struct ob_error *err)
{
	sd_event *event = server->daemon->event;
	const union MHD_DaemonInfo *info;
	int r;

	server->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, server, MHD_OPTION_CONNECTION_LIMIT,
					CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, MEMORY, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
					MHD_OPTION_END);
	info = server->http ? MHD_get_daemon_info(server->http, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info)
		return ob_error_set(err, ENOMEM, "cannot start libmicrohttpd for metrics");
	r = sd_event_add_io(event, &server->http_source, info->epoll_fd, EPOLLIN, on_http, server);
	if (r >= 0)
		r = sd_event_add_io(event, &server->listen_source, server->fd, EPOLLIN, on_connect, server);
	if (r >= 0)
		r = sd_event_add_time(event, &server->timer_source, CLOCK_MONOTONIC, 0, 1, on_timer, server);
	if (r >= 0)
		r = sd_event_source_set_enabled(server->timer_source, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_source_set_priority(server->http_source, PRIORITY);
	if (r >= 0)
		r = sd_event_source_set_priority(server->listen_source, PRIORITY);
	if (r >= 0)
		r = sd_event_source_set_priority(server->timer_source, PRIORITY);
	return r < 0 ? ob_error_sys(err, -r, "cannot watch for metrics") : 0;
}

int ob_metrics_listen(struct ob_daemon *daemon, struct ob_error *err)
{
	struct ob_metrics_server *server, *before = daemon->metrics;
	bool is_passed = daemon->metrics_passed_fd > 0;
	int r = 0;

	/* What was passed stays; the same address need not be left. */
	if (before && (before->is_passed || !strcmp(before->address.text, daemon->config.metrics_address.text)))
		return 0;
	if (!is_passed && !daemon->config.metrics_address.length) {
		ob_metrics_close(daemon);
		return 0;
	}
	server = calloc(1, sizeof(*server));
	if (!server)
		return ob_error_sys(err, ENOMEM, "cannot listen for metrics");
	server->daemon = daemon;
	server->address = daemon->config.metrics_address;
	server->is_passed = is_passed;
	server->fd = is_passed ? daemon->metrics_passed_fd : -1;
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		server->connections[i].fd = -1;
	if (!is_passed)
		r = listen_on(&server->address, &server->fd, err);
	if (r >= 0)
		r = start_http(server, err);
	if (r < 0) {
		server_free(server);
		return r;
	}
	server_free(before);
	daemon->metrics = server;
	ob_log(OB_LOG_INFO, "metrics are at %s", is_passed ? "a socket of systemd's" : server->address.text);
	return 0;
}

void ob_metrics_close(struct ob_daemon *daemon)
{
	server_free(daemon->metrics);
	daemon->metrics = NULL;
}
