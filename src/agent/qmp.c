/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's own monitor: its socket, and one command, stop (what else is asked: balloon.c). QEMU's main loop may be waiting for the very virtual CPU that waits for a page, so an answer is not
 * waited for beyond two seconds: the command is in the monitor's queue by then, and the other CPUs have been paused.
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

#define WAIT_NS (2 * OB_NS_PER_SEC)

int ob_qmp_connect(void)
{
	char path[sizeof(ob_agent.dir) + sizeof("/" OB_FILE_QMP)];

	snprintf(path, sizeof(path), "%s/" OB_FILE_QMP, ob_agent.dir);
	return ob_fd_connect(path);
}

/* Reads until a line that holds the word has come, or the time is over. */
static int await(int fd, const char *word, uint64_t until_ns)
{
	char buf[4096];
	size_t used = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		uint64_t now = ob_now_ns();
		ssize_t n;

		if (now >= until_ns)
			return -ETIMEDOUT;
		if (poll(&p, 1, (int)((until_ns - now) / OB_NS_PER_MS) + 1) <= 0)
			continue;
		n = read(fd, buf + used, sizeof(buf) - 1 - used);
		if (n <= 0)
			return n < 0 && errno != EAGAIN ? -errno : -EPIPE;
		used += (size_t)n;
		buf[used] = '\0';
		if (strstr(buf, word))
			return 0;
		/* The word may have come in part. */
		if (used == sizeof(buf) - 1) {
			used = strlen(word) - 1;
			memmove(buf, buf + sizeof(buf) - 1 - used, used);
		}
	}
}

static int converse(int fd, uint64_t until_ns)
{
	static const char negotiate[] = "{\"execute\":\"qmp_capabilities\"}\n", stop[] = "{\"execute\":\"stop\"}\n";
	int r = await(fd, "\"QMP\"", until_ns);

	if (r == 0)
		r = ob_write_full(fd, negotiate, sizeof(negotiate) - 1);
	if (r == 0)
		r = await(fd, "\"return\"", until_ns);
	if (r == 0)
		r = ob_write_full(fd, stop, sizeof(stop) - 1);
	if (r == 0 && await(fd, "\"return\"", until_ns) < 0)
		return 0; /* asked for, not yet answered */
	return r;
}

int ob_qmp_stop(void)
{
	uint64_t until_ns = ob_now_ns() + WAIT_NS;
	int OB_FD fd = ob_qmp_connect();

	return fd < 0 ? fd : converse(fd, until_ns);
}
