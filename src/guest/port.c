/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port to the host, proto/guest.h's frames.
 *
 *     closed --it is there--> open --WELCOME--> welcome --the host has gone, or asks who is there--> open
 *
 * A port that is open without a host has end of file for ever, so it is looked at again after RETRY_NS only. HELLO is said every HELLO_NS until
 * it is answered; then MEMORY as often as the host wants it, and an APP for each application that has changed, and for each every ALL_NS.
 * A host that was silent for FORGET_NS, since nothing is wanted or it has gone, hears HELLO again, and nothing else until it answers.
 *
 * The driver takes a frame whole or not at all, a socket may take a part: the rest of a frame goes first. Of what the host says FRAMES frames a second are
 * obeyed; what is above that waits in the port.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "guest/guest.h"

#define PORTS     "/sys/class/virtio-ports"
#define RETRY_NS  OB_NS_PER_SEC
#define HELLO_NS  (3 * OB_NS_PER_SEC)
#define FORGET_NS (60 * OB_NS_PER_SEC)
#define ALL_NS    (5 * OB_NS_PER_SEC)
#define FRAMES    64u
#define PROGRAM   "overbook-guest " OB_VERSION

static struct {
	const char *path;
	int fd;
	bool is_welcome, gathers, has_said_gathers;
	uint32_t session, interval_ms;
	uint64_t retry_ns; /* not looked at before */
	uint64_t hello_ns, memory_ns, all_ns; /* when each is due */
	uint64_t heard_ns;
	uint64_t window_ns; /* the second that is counted, and what was heard in it */
	unsigned window_frames;
	struct ob_guest_reader reader;
	size_t at, used; /* of out: what has not been taken yet */
	uint8_t out[OB_GUEST_FRAME];
} port = { .fd = -1 };

void ob_port_init(const char *path)
{
	port.path = path;
	while (!port.session)
		if (getrandom(&port.session, sizeof(port.session), 0) != sizeof(port.session))
			port.session = (uint32_t)ob_now_ns() | 1;
}

/* The device of the port with our name, as the kernel has it: udev's link to it need not be there. Returns 0 or -errno. */
static int find_device(char *ret_path, size_t size)
{
	DIR *list = opendir(PORTS);
	struct dirent *entry;
	int r = -ENOENT;

	while (list && r < 0 && (entry = readdir(list))) {
		char path[PATH_MAX], name[64];

		snprintf(path, sizeof(path), PORTS "/%s/name", entry->d_name);
		if (entry->d_name[0] == '.' || ob_read_text(path, name, sizeof(name)) < 0 || strcmp(name, OB_GUEST_PORT))
			continue;
		r = snprintf(ret_path, size, "/dev/%s", entry->d_name) < (int)size ? 0 : -ENAMETOOLONG;
	}
	if (list)
		closedir(list);
	return r;
}

static int open_path(void)
{
	char found[PATH_MAX];
	const char *path = port.path;
	struct stat st;
	int fd;

	if (!path) {
		int r = find_device(found, sizeof(found));

		if (r < 0)
			return r;
		path = found;
	}
	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISSOCK(st.st_mode))
		return ob_fd_connect(path);
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

/* Nobody there has heard of us, nor will at once. */
static void begin_anew(void)
{
	if (port.is_welcome)
		ob_log(OB_LOG_INFO, "the host has gone");
	port.is_welcome = false;
	port.hello_ns = 0;
	port.at = port.used = 0;
	memset(&port.reader, 0, sizeof(port.reader));
	port.retry_ns = ob_now_ns() + RETRY_NS;
}

static void close_port(void)
{
	ob_fd_close(&port.fd);
	begin_anew();
}

static void open_port(void)
{
	int fd = open_path();

	port.retry_ns = ob_now_ns() + RETRY_NS;
	if (fd < 0) {
		if (fd != -ENOENT && fd != -ECONNREFUSED)
			ob_log_limited(OB_LOG_WARNING, "cannot open the port to the host: %s", strerror(-fd));
		return;
	}
	port.fd = fd;
	port.retry_ns = 0;
}

/* --- what the host says --- */

static void take_welcome(const struct ob_guest_msg *msg)
{
	if (!msg->session) {
		port.is_welcome = false;
		port.hello_ns = 0;
	} else if (msg->session != port.session) {
		return;
	} else if (!port.is_welcome) {
		ob_log(OB_LOG_INFO, "the host is there");
		port.is_welcome = true;
		port.memory_ns = port.all_ns = 0;
	}
	port.interval_ms = msg->welcome.interval_ms;
}

static void take(const struct ob_guest_msg *msg)
{
	port.window_frames++;
	port.heard_ns = ob_now_ns();
	if (msg->type == OB_GUEST_WELCOME)
		take_welcome(msg);
	else if (msg->type == OB_GUEST_TARGET && msg->session == port.session && port.is_welcome)
		ob_clients_target(msg);
}

static bool has_heard_enough(void)
{
	uint64_t now_ns = ob_now_ns();

	if (now_ns - port.window_ns >= OB_NS_PER_SEC) {
		port.window_ns = now_ns;
		port.window_frames = 0;
	}
	return port.window_frames >= FRAMES;
}

static void hear_host(void)
{
	uint8_t bytes[OB_GUEST_FRAME * 4];
	const uint8_t *at = bytes;
	struct ob_guest_msg msg;
	struct stat st;
	ssize_t n = read(port.fd, bytes, sizeof(bytes));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		close_port();
		return;
	}
	if (n == 0) {
		/* A socket that was closed stays so; a device is there for the next host. */
		if (fstat(port.fd, &st) == 0 && S_ISSOCK(st.st_mode))
			ob_fd_close(&port.fd);
		begin_anew();
		return;
	}
	while (ob_guest_read(&port.reader, &at, bytes + n, &msg))
		take(&msg);
}

/* --- what it is told --- */

/* Whether it is to be said who is here. */
static bool is_unheard(uint64_t now_ns)
{
	return !port.is_welcome || now_ns >= port.heard_ns + FORGET_NS;
}

static uint64_t next_due_ns(void)
{
	uint64_t due;

	if (is_unheard(ob_now_ns()))
		return port.hello_ns;
	due = port.gathers != port.has_said_gathers ? 0 : OB_MIN(port.memory_ns, port.all_ns);
	return OB_MIN(due, port.heard_ns + FORGET_NS);
}

/* Makes the next frame. Returns whether there is one. */
static bool make_frame(void)
{
	struct ob_guest_msg msg = { .session = port.session };
	uint64_t now_ns = ob_now_ns();

	if (is_unheard(now_ns)) {
		if (now_ns < port.hello_ns)
			return false;
		port.hello_ns = now_ns + HELLO_NS;
		msg.type = OB_GUEST_HELLO;
		snprintf(msg.hello.program, sizeof(msg.hello.program), "%s", PROGRAM);
	} else if ((now_ns >= port.memory_ns || port.gathers != port.has_said_gathers) && ob_memory_read(&msg.memory) == 0) {
		port.memory_ns = now_ns + port.interval_ms * OB_NS_PER_MS;
		port.has_said_gathers = port.gathers;
		msg.type = OB_GUEST_MEMORY;
		msg.memory.flags |= port.has_said_gathers ? OB_GUEST_GATHERS : 0;
		msg.memory.apps = ob_clients_count();
	} else {
		if (now_ns >= port.all_ns) {
			port.all_ns = now_ns + ALL_NS;
			ob_clients_tell_all();
		}
		if (!ob_clients_next(&msg.app))
			return false;
		msg.type = OB_GUEST_APP;
	}
	port.at = 0;
	port.used = ob_guest_encode(&msg, port.out) == 0 ? sizeof(port.out) : 0;
	return port.used;
}

static void tell_host(void)
{
	/* A few at a time: the loop has others to look after. */
	for (unsigned i = 0; i < 2 * OB_GUEST_APPS_MAX && (port.used || make_frame()); i++) {
		ssize_t n = write(port.fd, port.out + port.at, port.used);

		if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE)
			close_port();
		if (n <= 0)
			return;
		port.at += (size_t)n;
		port.used -= (size_t)n;
	}
}

/* --- for the loop --- */

static bool is_resting(void)
{
	return ob_now_ns() < port.retry_ns;
}

void ob_port_poll(struct pollfd *ret_fd)
{
	*ret_fd = (struct pollfd){ .fd = is_resting() ? -1 : port.fd, .events = (short)((has_heard_enough() ? 0 : POLLIN) | (port.used ? POLLOUT : 0)) };
}

void ob_port_gathers(bool gathers)
{
	port.gathers = gathers;
}

bool ob_port_has_host(void)
{
	return port.is_welcome;
}

uint64_t ob_port_due_ns(void)
{
	uint64_t due;

	if (port.fd < 0 || is_resting())
		return port.retry_ns;
	due = next_due_ns();
	if (port.window_frames >= FRAMES)
		due = OB_MIN(due, port.window_ns + OB_NS_PER_SEC);
	return due;
}

void ob_port_turn(const struct pollfd *fd)
{
	if (is_resting())
		return;
	if (port.fd < 0)
		open_port();
	else if (fd->fd == port.fd && fd->revents & ~POLLOUT)
		hear_host();
	if (port.fd >= 0 && !is_resting())
		tell_host();
}
