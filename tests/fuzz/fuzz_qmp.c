/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's one QMP command and a monitor that says anything. The input is what the monitor says, cut at each byte 0x1f
 * into pieces that arrive one by one (a socket of packets stands in the monitor's place); then it is silent for ever, which
 * takes no time, since the connection has ended. If the first byte is 'S' it comes as a stream, without pieces.
 *
 * What must hold: "stop" is sent only after a greeting and an answer have been seen, and the outcome says so. A greeting
 * that comes as a stream is seen wherever it stands.
 */
#include "agent/qmp.c"

#include <stdlib.h>

#include "fuzz.h"

#define PIECES_MAX 64

struct ob_agent ob_agent;

static void say(int fd, const uint8_t *data, size_t size, int stream)
{
	if (stream)
		FUZZ_CHECK(send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size, "send");
	for (int pieces = 0; !stream && size && pieces < PIECES_MAX; pieces++) {
		const uint8_t *end = memchr(data, 0x1f, size);
		size_t length = end ? (size_t)(end - data) : size;

		/* An empty packet would be the end. */
		if (length)
			FUZZ_CHECK(send(fd, data, OB_MIN(length, (size_t)8192), MSG_NOSIGNAL) > 0, "send");
		data += length + (end != NULL);
		size -= length + (end != NULL);
	}
	shutdown(fd, SHUT_WR);
}

/* What the agent has sent, as text. */
static size_t hear(int fd, char *buf, size_t size)
{
	size_t used = 0;
	ssize_t n;

	while ((n = recv(fd, buf + used, size - 1 - used, MSG_DONTWAIT)) > 0)
		used += (size_t)n;
	buf[used] = 0;
	return used;
}

/* Whether the monitor says a word, in however many pieces. */
static int says(const uint8_t *data, size_t size, const char *word, int stream)
{
	static char whole[32768];
	size_t used = 0;

	for (size_t i = 0; i < size; i++)
		if (stream || data[i] != 0x1f)
			whole[used++] = (char)data[i];
	return memmem(whole, used, word, strlen(word)) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char negotiate[] = "{\"execute\":\"qmp_capabilities\"}\n", stop[] = "{\"execute\":\"stop\"}\n";
	char heard[256];
	int pair[2], r, greeted, answered, stream;

	size = OB_MIN(size, (size_t)32768);
	stream = size && *data == 'S';
	greeted = says(data, size, "\"QMP\"", stream);
	answered = says(data, size, "\"return\"", stream);
	FUZZ_CHECK(socketpair(AF_UNIX, (stream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	say(pair[0], data, size, stream);
	r = converse(pair[1], ob_now_ns() + WAIT_NS);
	hear(pair[0], heard, sizeof(heard));
	FUZZ_CHECK(!stream || !greeted || memchr(data, 0, size) || *heard, "the greeting has not been seen");
	if (r == 0) {
		FUZZ_CHECK(greeted && answered && !strncmp(heard, negotiate, sizeof(negotiate) - 1) &&
			   !strcmp(heard + sizeof(negotiate) - 1, stop), "stopped by \"%s\"", heard);
	} else {
		FUZZ_CHECK(r < 0 && r > -4096, "%d", r);
		FUZZ_CHECK(!*heard || (greeted && !strcmp(heard, negotiate)), "not stopped by \"%s\"", heard);
	}
	close(pair[0]);
	close(pair[1]);
	return 0;
}
