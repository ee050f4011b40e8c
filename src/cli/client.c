/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One request to overbookd and its answer, over a connection of its own. What comes back is checked like anything from
 * outside: lines of at most ANSWER_MAX bytes that hold one JSON object of the right version. overbookd tells within
 * seconds how far a request that takes time has got; when it is silent for SILENCE_S it is taken for dead.
 */
#include "cli/client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "cli/cli.h"

#define PROTOCOL_VERSION 1
#define ANSWER_MAX       (4u << 20)
#define SILENCE_S        60

struct reader {
	int fd;
	char *buf;
	size_t used, size;
};

static void reader_free(struct reader *reader)
{
	free(reader->buf);
	ob_fd_close(&reader->fd);
}

static void json_free(json_t **object)
{
	json_decref(*object);
	*object = NULL;
}

#define JSON_AUTO OB_CLEANUP(json_free)

static int connect_daemon(int *ret_fd, struct ob_error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval silence = { .tv_sec = SILENCE_S };
	const char *dir = ob_cli_rundir(err);
	int OB_FD fd = -1;
	int n;

	if (!dir)
		return err && err->code ? -err->code : -ENOENT;
	n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/overbookd.sock", dir);
	if ((size_t)n >= sizeof(address.sun_path))
		return ob_error_set(err, ENAMETOOLONG, "the path of overbookd's socket in \"%s\" is longer than %zu bytes", dir,
				    sizeof(address.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot make a unix socket");
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR)
			return ob_error_set(err, ECONNREFUSED, "overbookd does not answer on \"%s\": is it running?", address.sun_path);
		return ob_error_sys(err, errno, "cannot connect to overbookd on \"%s\"", address.sun_path);
	}
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof(silence)) < 0)
		return ob_error_sys(err, errno, "cannot set a time limit on the connection to overbookd");
	*ret_fd = ob_fd_take(&fd);
	return 0;
}

static int send_request(int fd, const char *command, json_t *arguments, struct ob_error *err)
{
	json_t *request JSON_AUTO = json_pack("{s:i, s:s}", "version", PROTOCOL_VERSION, "command", command);
	char *text OB_FREE = NULL;
	int r;

	if (!request || (arguments && json_object_update(request, arguments) < 0))
		return ob_error_sys(err, ENOMEM, "cannot ask overbookd");
	text = json_dumps(request, JSON_COMPACT);
	if (!text)
		return ob_error_sys(err, ENOMEM, "cannot ask overbookd");
	r = ob_write_full(fd, text, strlen(text));
	if (r == 0)
		r = ob_write_full(fd, "\n", 1);
	return r < 0 ? ob_error_sys(err, -r, "cannot ask overbookd") : 0;
}

/* Reads more. Returns 0 or -errno with the reason; an end of the stream is a failure here. */
static int read_more(struct reader *reader, struct ob_error *err)
{
	size_t size = reader->size ? reader->size * 2 : 8192;
	ssize_t n;
	char *grown;

	if (reader->used == reader->size) {
		if (size > ANSWER_MAX)
			return ob_error_set(err, EPROTO, "overbookd's answer is longer than %u bytes", ANSWER_MAX);
		grown = realloc(reader->buf, size);
		if (!grown)
			return ob_error_sys(err, ENOMEM, "cannot read overbookd's answer");
		reader->buf = grown;
		reader->size = size;
	}
	do {
		n = recv(reader->fd, reader->buf + reader->used, reader->size - reader->used, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return ob_error_set(err, ETIMEDOUT, "overbookd has been silent for %d s", SILENCE_S);
	if (n < 0)
		return ob_error_sys(err, errno, "cannot read overbookd's answer");
	if (n == 0)
		return ob_error_set(err, EPIPE, "overbookd has closed the connection before it answered");
	reader->used += (size_t)n;
	return 0;
}

/* Reads one line and parses it. */
static int read_object(struct reader *reader, json_t **ret_object, struct ob_error *err)
{
	json_error_t problem;
	size_t scanned = 0, len;
	json_t *object;
	char *end;
	int r;

	while (!(end = reader->used > scanned ? memchr(reader->buf + scanned, '\n', reader->used - scanned) : NULL)) {
		scanned = reader->used;
		r = read_more(reader, err);
		if (r < 0)
			return r;
	}
	len = (size_t)(end - reader->buf);
	object = json_loadb(reader->buf, len, JSON_REJECT_DUPLICATES, &problem);
	reader->used -= len + 1;
	memmove(reader->buf, end + 1, reader->used);
	if (!object)
		return ob_error_set(err, EPROTO, "overbookd's answer is not JSON: %s", problem.text);
	if (!json_is_object(object) || json_integer_value(json_object_get(object, "version")) != PROTOCOL_VERSION) {
		json_decref(object);
		return ob_error_set(err, EPROTO, "overbookd does not speak version %d of the protocol", PROTOCOL_VERSION);
	}
	*ret_object = object;
	return 0;
}

/* The failure that an answer tells. */
static int answered_failure(const json_t *answer, struct ob_error *err)
{
	static const struct {
		const char *code;
		int number;
	} codes[] = { { "no-machine", ENOENT }, { "refused", EPERM }, { "bad-request", EINVAL }, { "failed", EIO } };
	const char *code = ob_client_text(answer, "code"), *text = ob_client_text(answer, "error");
	int number = EIO;

	for (size_t i = 0; i < OB_ARRAY_LEN(codes); i++)
		if (!strcmp(codes[i].code, code))
			number = codes[i].number;
	return ob_error_set(err, number, "%s", *text ? text : "overbookd has failed without saying why");
}

static int converse(struct reader *reader, const char *command, json_t *arguments,
		    void (*progress)(void *context, json_t *object), void *context, json_t **ret_answer, struct ob_error *err)
{
	json_t *object JSON_AUTO = NULL;
	int r = send_request(reader->fd, command, arguments, err);

	while (r == 0) {
		r = read_object(reader, &object, err);
		if (r < 0 || !json_object_get(object, "progress"))
			break;
		if (progress)
			progress(context, object);
		json_free(&object);
	}
	if (r < 0)
		return r;
	if (!json_is_true(json_object_get(object, "ok")))
		return answered_failure(object, err);
	*ret_answer = object;
	object = NULL;
	return 0;
}

int ob_client_call(const char *command, json_t *arguments, void (*progress)(void *context, json_t *object), void *context,
		   json_t **ret_answer, struct ob_error *err)
{
	struct reader reader OB_CLEANUP(reader_free) = { .fd = -1 };
	json_t *owned JSON_AUTO = arguments;
	int r = connect_daemon(&reader.fd, err);

	return r < 0 ? r : converse(&reader, command, owned, progress, context, ret_answer, err);
}

int ob_client_admit(const struct ob_client_admission *admission, struct ob_client_admitted *ret, struct ob_error *err)
{
	json_t *answer JSON_AUTO = NULL;
	const char *path;
	json_t *arguments = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "name", admission->name, "domain",
				      admission->domain ? admission->domain : "", "ram_bytes", (json_int_t)admission->ram_bytes,
				      "reservation_bytes", (json_int_t)admission->reservation_bytes, "maximum_bytes",
				      (json_int_t)admission->maximum_bytes, "shares", (json_int_t)admission->shares, "pid",
				      (json_int_t)admission->pid);
	int r;

	/* An older overbookd does not know it. */
	if (!arguments || (admission->force && json_object_set_new(arguments, "force", json_true()) < 0))
		return ob_error_sys(err, ENOMEM, "cannot ask overbookd");
	r = ob_client_call("admit", arguments, ob_client_show_progress, NULL, &answer, err);
	ob_client_end_progress();
	if (r < 0)
		return r;
	path = ob_client_text(answer, "socket");
	if (*path != '/' || strlen(path) >= sizeof(ret->socket))
		return ob_error_set(err, EPROTO, "overbookd names \"%.200s\" as the agents' socket: not a path of at most %zu bytes", path,
				    sizeof(ret->socket) - 1);
	memcpy(ret->socket, path, strlen(path) + 1);
	ret->limit_bytes = ob_client_number(answer, "limit_bytes");
	ret->no_large = json_is_false(json_object_get(answer, "may_make_large"));
	return 0;
}

int ob_client_exit_code(int failure)
{
	switch (failure) {
	case -ECONNREFUSED:
		return OB_EXIT_NO_DAEMON;
	case -ENOENT:
		return OB_EXIT_NO_MACHINE;
	case -EPERM:
		return OB_EXIT_REFUSED;
	default:
		return OB_EXIT_FAILED;
	}
}

static int progress_shown;

void ob_client_show_progress(void *context, json_t *object)
{
	const json_t *progress = json_object_get(object, "progress");
	uint64_t done = ob_client_number(progress, "done"), total = ob_client_number(progress, "total");
	const char *what = ob_client_text(progress, "what");
	char done_text[32], total_text[32];

	if (!isatty(STDERR_FILENO))
		return;
	if (!strncmp(what, "bytes ", 6)) {
		ob_size_format(done_text, sizeof(done_text), done);
		ob_size_format(total_text, sizeof(total_text), total);
		what += 6;
	} else {
		snprintf(done_text, sizeof(done_text), "%" PRIu64, done);
		snprintf(total_text, sizeof(total_text), "%" PRIu64, total);
	}
	fprintf(stderr, "\r\033[K%s of %s %.60s", done_text, total_text, what);
	fflush(stderr);
	progress_shown = 1;
}

void ob_client_end_progress(void)
{
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = 0;
}

void ob_client_print_json(json_t *answer)
{
	json_object_del(answer, "ok");
	json_dumpf(answer, stdout, JSON_INDENT(2));
	putchar('\n');
}

int ob_client_command(const char *command, json_t *arguments, int json, void (*print)(const json_t *answer), const char *hint)
{
	struct ob_error err = { 0 };
	json_t *answer;
	int r;

	if (!arguments)
		return ob_cli_fail(OB_EXIT_FAILED, "cannot ask overbookd: %s", strerror(ENOMEM));
	r = ob_client_call(command, arguments, ob_client_show_progress, NULL, &answer, &err);
	ob_client_end_progress();
	if (r < 0)
		return ob_cli_fail(ob_client_exit_code(r), "%s%s", err.text, r == -EPERM && hint ? hint : "");
	if (json)
		ob_client_print_json(answer);
	else
		print(answer);
	json_decref(answer);
	return OB_EXIT_OK;
}

uint64_t ob_client_number(const json_t *object, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(object, key));

	return number > 0 ? (uint64_t)number : 0;
}

const char *ob_client_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}
