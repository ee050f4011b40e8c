/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The witness: runs inside a guest, fills memory with pages whose every byte it can predict, reads and rewrites them
 * for the whole run, and says at once when a byte is wrong. Static, libc alone; started by init.
 *
 * PARAMETERS: words of the kernel's command line that start with "witness=", each a list KEY=NUMBER,KEY=NUMBER...
 * (or the same lists as arguments, for trying it on a host). Unknown keys are refused.
 *
 *     seed        1    content follows from it; give each machine its own
 *     anon        0    MiB of anonymous memory
 *     fill      100    percent of anon (and grown) that is filled; the rest is not touched before an order "fill N"
 *     fork        0    MiB of anonymous memory that forked children check (costs up to twice as much meanwhile)
 *     tmpfs       0    MiB of a file in tmpfs, half of it through mmap
 *     cache       0    MiB of the first disk (/dev/vda, else sda) through the page cache. THE DISK IS OVERWRITTEN.
 *     direct      0    MiB of the same disk behind that, by O_DIRECT
 *     image       0    MiB of the same disk, from its front, through the page cache. It is only read, and only by an order "check" or at a rate: a host
 *                      has written there what tests/guest/pattern.py says, the same for all machines. Not with cache or direct
 *     net         0    1: loopback TCP traffic beside it
 *     random     60    percent of the page contents that do not compress
 *     zero        5    percent that are all zero; the rest compresses about 4:1
 *     same        0    percent of the pages that are as the same page of every other machine, in the same version
 *     nearly      0    percent of the pages that are so but for one bit
 *     rate      max    pages checked a second by all threads together; 0: none; "max": as fast as it goes
 *     writes     30    percent of the steps that also write the page anew
 *     hot        10    percent of each area that is the hot set
 *     hotness    90    percent of the random steps that go there
 *     sequential 10    percent of the steps that walk on in order
 *     scatter     0    1: the hot set is every n-th page instead of a contiguous range
 *     drift       0    seconds after which the hot set moves on; 0: it stays
 *     threads     0    workers; 0: one a processor; at most 16
 *     seconds     0    checks all and ends so long after it was ready; 0: runs until told to stop
 *
 * OUTPUT, on the console: lines "WITNESS word key=value key=value ...", no spaces in values, numbers decimal unless
 * said. Other lines (the kernel's) may come between, so look for "WITNESS " in a line. The words:
 *
 *     start     threads= processors= memory_bytes= boot=     it runs; filling begins. boot is another (hexadecimal) at each boot
 *               of the guest, and comes back with the memory of a snapshot or a migration
 *     refused   what= ...                                     parameters cannot be met; the guest goes down
 *     ready     touched_bytes= seconds=                       all pages are filled that are to be
 *     status    boot= seconds= filled= pages_checked= pages_written= pages_wrong= io_errors= forks= direct_pages= net_bytes= slowest_us=
 *               once a second from the start; totals, except slowest_us: the slowest step since the last status line;
 *               filled=0 until ready
 *     wrong     area= page= offset= version= want= got= looks=   a wrong word (want, got hexadecimal); looks is zero, stale
 *               (an earlier version), common (as a page of another machine may be), word (no other is wrong), torn (right at its end) or unknown. The first 40 are told, all are counted in pages_wrong.
 *     error     what= ... errno=                              an I/O error or the like; counted in io_errors
 *     checked   pages= wrong= touched_bytes=                  answers "check": every page has been read once
 *     touched   pages= wrong= touched_bytes=                  answers "touch": every page has been written once
 *     freed     pages= wrong= touched_bytes=                  answers "free N": N percent of anon (and grown) given back to the kernel
 *     sieved    pages= wrong= touched_bytes=                  answers "sieve": of each two pages of anon (and grown) one given back
 *     filled    pages= wrong= touched_bytes=                  answers "fill N": N percent of anon (and grown) are held from then on: what
 *               was missing of them has been written (pages), what is beyond given back to the kernel
 *     grown     pages= wrong= touched_bytes=                  answers "grow N": N MiB of anonymous memory more, filled; once a boot.
 *               "refused what=grow" where that cannot be
 *     answered  pages= wrong= us=                             answers "request N": N pages have been checked, and some written anew, chosen as at
 *               a rate; us is what that took, by the guest's clock. N is at most 1000000
 *     corrupted area= page= offset=                           answers "corrupt": a byte was made wrong on purpose (tests of
 *               the witness itself); then corrupted-done pages= ... Say "rate 0" before it, or the page may be
 *               written anew before a check sees it.
 *     rate      pages=                                        answers "rate N" (or "rate max")
 *     unknown   command=                                      answers what it does not understand
 *     done      seconds= pages_checked= pages_written= pages_wrong= io_errors= forks= direct_pages= net_bytes=
 *               the last line; the guest then powers off ("stop", "seconds") or resets ("reboot")
 *     exit      status=                                       printed by init: 0 orderly, else the witness died
 *
 * INPUT, lines on the console: check, touch, free N, sieve, fill N, grow N, request N, corrupt, rate N, stop, reboot. One order at a time: one
 * that comes while another is being carried out, or before ready, waits (at most 8 are kept; more are answered by unknown).
 */
#include "witness.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define EXIT_REBOOT 64
#define QUEUE_MAX   8
#define REQUEST_MAX 1000000u

struct params params = {
	.mix = { .seed = 1 },
	.fill = 100, .random = 60, .zero = 5, .writes = 30, .hot = 10, .hotness = 90, .sequential = 10,
};
struct counters *counters;
static uint64_t initial_rate = RATE_MAX;
static char boot_id[9] = "unknown";

static const struct key {
	const char *name;
	uint64_t *value;
	uint64_t max;
} keys[] = {
	{ "seed", &params.mix.seed, UINT64_MAX },  { "anon", &params.anon_mib, 1 << 20 },
	{ "fill", &params.fill, 100 },             { "fork", &params.fork_mib, 1 << 20 },
	{ "tmpfs", &params.tmpfs_mib, 1 << 20 },
	{ "cache", &params.cache_mib, 1 << 20 },   { "direct", &params.direct_mib, 1 << 20 },
	{ "image", &params.image_mib, 1 << 20 },
	{ "net", &params.net, 1 },                 { "random", &params.random, 100 },
	{ "zero", &params.zero, 100 },             { "rate", &initial_rate, UINT64_MAX },
	{ "same", &params.same, 100 },             { "nearly", &params.nearly, 100 },
	{ "writes", &params.writes, 100 },         { "hot", &params.hot, 100 },
	{ "hotness", &params.hotness, 100 },       { "sequential", &params.sequential, 100 },
	{ "scatter", &params.scatter, 1 },         { "drift", &params.drift, 1 << 20 },
	{ "threads", &params.threads, THREADS_MAX }, { "seconds", &params.seconds, 1 << 20 },
};

struct session {
	uint64_t began_ns, ready_ns, status_ns, order_ns;
	enum order order; /* being carried out; ORDER_NONE: none */
	int ready, last_check, leaving, reboot, input_fd;
	char queue[QUEUE_MAX][64];
	unsigned queued;
	char line[64];
	size_t length;
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void report(const char *fmt, ...)
{
	char line[512] = "WITNESS ";
	size_t length = 8;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(line + length, sizeof(line) - length - 1, fmt, args);
	va_end(args);
	length += n < 0 ? 0 : (size_t)n < sizeof(line) - length - 1 ? (size_t)n : sizeof(line) - length - 2;
	line[length++] = '\n';
	for (size_t at = 0; at < length;) {
		ssize_t done = write(STDOUT_FILENO, line + at, length - at);

		if (done < 0 && errno != EINTR && errno != EAGAIN)
			return;
		at += done > 0 ? (size_t)done : 0;
	}
}

static int number(const char *text, uint64_t *ret)
{
	char *end;

	if (!strcmp(text, "max")) {
		*ret = UINT64_MAX;
		return 0;
	}
	if (!isdigit((unsigned char)*text))
		return -1;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno || *end ? -1 : 0;
}

static int set_key(const char *pair)
{
	const char *equals = strchr(pair, '=');
	uint64_t value;

	for (size_t i = 0; equals && i < sizeof(keys) / sizeof(keys[0]); i++) {
		size_t length = strlen(keys[i].name);

		if (length != (size_t)(equals - pair) || strncmp(pair, keys[i].name, length))
			continue;
		if (number(equals + 1, &value) < 0 || value > keys[i].max)
			break;
		*keys[i].value = value;
		return 0;
	}
	report("refused what=parameter text=%s", pair);
	return -1;
}

static int set_list(char *list)
{
	char *save;

	for (char *pair = strtok_r(list, ",", &save); pair; pair = strtok_r(NULL, ",", &save))
		if (set_key(pair) < 0)
			return -1;
	return 0;
}

static int read_params(int argc, char **argv)
{
	char cmdline[4096], *save;
	FILE *f;
	size_t n;

	for (int i = 1; i < argc; i++)
		if (set_list(argv[i]) < 0)
			return -1;
	if (argc > 1)
		return 0;
	f = fopen("/proc/cmdline", "re");
	n = f ? fread(cmdline, 1, sizeof(cmdline) - 1, f) : 0;
	if (f)
		fclose(f);
	cmdline[n] = 0;
	for (char *word = strtok_r(cmdline, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		if (!strncmp(word, "witness=", 8) && set_list(word + 8) < 0)
			return -1;
	return 0;
}

static void read_boot_id(void)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (f && fscanf(f, "%8[0-9a-f]", boot_id) != 1)
		strcpy(boot_id, "unknown");
	if (f)
		fclose(f);
}

static void report_totals(const char *word, double seconds, int with_status, int filled)
{
	char tail[64] = "", head[32] = "", boot[32] = "";

	if (with_status) {
		snprintf(boot, sizeof(boot), " boot=%s", boot_id);
		snprintf(head, sizeof(head), " filled=%d", filled);
		snprintf(tail, sizeof(tail), " slowest_us=%llu",
			 (unsigned long long)atomic_exchange(&counters->slowest_ns, 0) / 1000);
	}
	report("%s%s seconds=%.1f%s pages_checked=%llu pages_written=%llu pages_wrong=%llu io_errors=%llu forks=%llu "
	       "direct_pages=%llu net_bytes=%llu%s",
	       word, boot, seconds, head, (unsigned long long)counters->checked, (unsigned long long)counters->written,
	       (unsigned long long)counters->wrong, (unsigned long long)counters->io_errors, (unsigned long long)counters->forks,
	       (unsigned long long)counters->direct_pages, (unsigned long long)counters->net_bytes, tail);
}

static void give_order(struct session *s, enum order order, unsigned amount)
{
	s->order = order;
	s->order_ns = now_ns();
	workers_order(order, amount);
}

static void obey(struct session *s, const char *line)
{
	uint64_t n = 0;

	if (!strcmp(line, "check")) {
		give_order(s, ORDER_CHECK, 100);
	} else if (!strcmp(line, "touch")) {
		give_order(s, ORDER_TOUCH, 100);
	} else if (!strcmp(line, "corrupt")) {
		give_order(s, ORDER_CORRUPT, 100);
	} else if (!strcmp(line, "stop") || !strcmp(line, "reboot")) {
		s->leaving = 1;
		s->reboot = line[0] == 'r';
		give_order(s, ORDER_STOP, 100);
	} else if (!strncmp(line, "free ", 5) && !number(line + 5, &n) && n <= 100) {
		give_order(s, ORDER_FREE, (unsigned)n);
	} else if (!strcmp(line, "sieve")) {
		give_order(s, ORDER_SIEVE, 100);
	} else if (!strncmp(line, "fill ", 5) && !number(line + 5, &n) && n <= 100) {
		params.fill = n;
		give_order(s, ORDER_FILL, (unsigned)n);
	} else if (!strncmp(line, "grow ", 5) && !number(line + 5, &n) && n <= 1 << 20) {
		if (area_grow(n) < 0)
			report("refused what=grow mib=%llu", (unsigned long long)n);
		else
			give_order(s, ORDER_GROW, 100);
	} else if (!strncmp(line, "request ", 8) && !number(line + 8, &n) && n <= REQUEST_MAX) {
		give_order(s, ORDER_REQUEST, (unsigned)n);
	} else {
		report("unknown command=%.32s", line);
	}
}

static void take_line(struct session *s, const char *line)
{
	uint64_t n;

	if (!strncmp(line, "rate ", 5) && !number(line + 5, &n)) {
		workers_set_rate(n);
		report("rate pages=%llu", (unsigned long long)n);
	} else if (*line && s->queued < QUEUE_MAX) {
		strcpy(s->queue[s->queued++], line);
	} else if (*line) {
		report("unknown command=%.32s", line);
	}
}

static void read_input(struct session *s)
{
	char buf[256];
	ssize_t n = read(s->input_fd, buf, sizeof(buf));

	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		s->input_fd = -1; /* hung up: go on without orders */
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || buf[i] == '\r') {
			s->line[s->length] = 0;
			s->length = 0;
			take_line(s, s->line);
		} else if (s->length < sizeof(s->line) - 1) {
			s->line[s->length++] = buf[i];
		}
	}
}

/* Returns whether the run is over. */
static int finish_order(struct session *s)
{
	static const char *const words[] = {
		[ORDER_CHECK] = "checked", [ORDER_TOUCH] = "touched", [ORDER_FREE] = "freed", [ORDER_SIEVE] = "sieved", [ORDER_FILL] = "filled", [ORDER_GROW] = "grown",
		[ORDER_CORRUPT] = "corrupted-done",
	};
	uint64_t pages, wrong;

	if (!workers_order_done(&pages, &wrong))
		return 0;
	if (s->leaving)
		return 1;
	if (s->order == ORDER_REQUEST) /* without the sum, which takes longer than the request */
		report("answered pages=%llu wrong=%llu us=%llu", (unsigned long long)pages, (unsigned long long)wrong,
		       (unsigned long long)(now_ns() - s->order_ns) / 1000);
	else
		report("%s pages=%llu wrong=%llu touched_bytes=%llu", words[s->order], (unsigned long long)pages,
		       (unsigned long long)wrong, (unsigned long long)areas_touched_bytes());
	s->order = ORDER_NONE;
	return 0;
}

static void next_order(struct session *s)
{
	if (s->queued) {
		obey(s, s->queue[0]);
		memmove(s->queue[0], s->queue[1], sizeof(s->queue[0]) * --s->queued);
		return;
	}
	if (!params.seconds || now_ns() - s->ready_ns < params.seconds * 1000000000ull)
		return;
	obey(s, s->last_check ? "stop" : "check");
	s->last_check = 1;
}

static void run(struct session *s)
{
	s->began_ns = s->status_ns = now_ns();
	for (;;) {
		struct pollfd fds[2] = { { .fd = s->input_fd, .events = POLLIN }, { .fd = workers_event_fd(), .events = POLLIN } };
		uint64_t now = now_ns(), count;
		int wait_ms = now - s->status_ns >= 1000000000ull ? 0 : (int)((s->status_ns + 1000000000ull - now) / 1000000) + 1;

		if (poll(fds, 2, wait_ms) > 0) {
			if (fds[0].revents)
				read_input(s);
			if (fds[1].revents && read(workers_event_fd(), &count, sizeof(count)) < 0)
				continue;
		}
		now = now_ns();
		if (!s->ready && workers_ready()) {
			s->ready = 1;
			s->ready_ns = now;
			report("ready touched_bytes=%llu seconds=%.1f", (unsigned long long)areas_touched_bytes(),
			       (double)(now - s->began_ns) / 1e9);
		}
		if (s->order != ORDER_NONE && finish_order(s))
			return;
		if (s->ready && s->order == ORDER_NONE)
			next_order(s);
		if (now - s->status_ns >= 1000000000ull) {
			s->status_ns = now;
			report_totals("status", (double)(now - s->began_ns) / 1e9, 1, s->ready);
		}
	}
}

/* The console as a plain line of bytes: no echo, no translation of what is typed. */
static void set_console(void)
{
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &t) < 0)
		return;
	t.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG);
	t.c_iflag &= ~(tcflag_t)(ICRNL | IXON);
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

int main(int argc, char **argv)
{
	struct session session = { .input_fd = STDIN_FILENO };
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	set_console();
	read_boot_id();
	if (read_params(argc, argv) < 0)
		return 2;
	workers_set_rate(initial_rate);
	params.mix.random_percent = (unsigned)params.random;
	params.mix.zero_percent = (unsigned)params.zero;
	params.mix.same_percent = (unsigned)params.same;
	params.mix.nearly_percent = (unsigned)params.nearly;
	if (!params.threads)
		params.threads = processors < 1 ? 1 : processors > THREADS_MAX ? THREADS_MAX : (uint64_t)processors;
	counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counters == MAP_FAILED)
		return 2;
	report("start threads=%llu processors=%ld memory_bytes=%llu boot=%s", (unsigned long long)params.threads, processors,
	       (unsigned long long)sysconf(_SC_PHYS_PAGES) * PAGE_BYTES, boot_id);
	if (areas_create() < 0)
		return 2;
	if (workers_start() < 0 || (params.net && net_start() < 0)) {
		report("refused what=start errno=%d", errno);
		return 2;
	}
	run(&session);
	report_totals("done", (double)(now_ns() - session.began_ns) / 1e9, 0, 0);
	return session.reboot ? EXIT_REBOOT : 0;
}
