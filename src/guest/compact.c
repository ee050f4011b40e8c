/* SPDX-License-Identifier: GPL-2.0-or-later */
/* compact.h says what this is for. */
#include "guest/compact.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/units.h"
#include "guest/guest.h"

#define COMPACT       "/proc/sys/vm/compact_memory"
#define ORDER         "/sys/module/page_reporting/parameters/page_reporting_order"
#define BALLOONS      "/sys/bus/virtio/drivers/virtio_balloon"
#define REPORTING     5 /* the number of that feature of a balloon's */
#define ORDER_USUAL   9 /* of kernels before 5.14, which do not tell */
#define ORDERS        32u
#define ZONE_BLOCKS   32u /* PAGE_REPORTING_CAPACITY of Linux */
#define LOOK_NS       (2 * OB_NS_PER_SEC)
#define LOOK_SOON_NS  (600 * OB_NS_PER_MS) /* while applications give; they are measured more often */
#define ASKED_NS      (60 * OB_NS_PER_SEC)
#define HOLD_NS       (3 * OB_NS_PER_SEC) /* half of the host's */
#define LOOKS         5u
#define ENOUGH_PART   64
#define ENOUGH_LEAST  (16 * OB_MIB)
#define WAIT_LEAST_NS (60 * OB_NS_PER_SEC)
#define WAIT_MOST_NS  (3600 * OB_NS_PER_SEC)
#define SOON_NS       (10 * OB_NS_PER_SEC)
#define SOON_PARTS    16 /* of the time, at most, it is at work for what applications have given */

static struct {
	struct ob_compact policy;
	bool is_wanted;
	pid_t pid; /* who waits for the kernel; 0: nobody */
	bool is_gathering; /* what applications have given */
	uint64_t before_bytes, began_ns, given_bytes, looked_ns;
} self;

/* --- when --- */

/* Behind "Node N, zone NAME" come the numbers of free blocks of each order. */
static uint64_t pieces_of_zone(const char *line, unsigned order, uint64_t page_bytes)
{
	uint64_t pieces = 0, all = 0;
	const char *at = strstr(line, "zone");

	at = at ? at + strcspn(at, " ") : line;
	at += strspn(at, " ");
	at += strcspn(at, " \n");
	for (unsigned k = 0; k < ORDERS; k++) {
		char *end;
		uint64_t blocks = strtoull(at, &end, 10);

		/* A line's end is skipped as space is: the next one begins with no number. */
		if (end == at)
			break;
		at = end;
		all += blocks << k;
		pieces += k < order ? blocks << k : 0;
	}
	return all >= (uint64_t)ZONE_BLOCKS << order ? pieces * page_bytes : 0;
}

uint64_t ob_compact_pieces(const char *buddyinfo, unsigned order, uint64_t page_bytes)
{
	uint64_t bytes = 0;

	for (const char *line = buddyinfo; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, "Node ", 5))
			bytes += pieces_of_zone(line, order, page_bytes);
	}
	return bytes;
}

static uint64_t enough_of(uint64_t memory_bytes)
{
	return OB_MAX(memory_bytes / ENOUGH_PART, ENOUGH_LEAST);
}

/* By so much or more, of numbers that wrap. */
static bool has_risen(uint64_t from, uint64_t to, uint64_t bytes)
{
	return (int64_t)(to - from) >= (int64_t)bytes;
}

void ob_compact_ask(struct ob_compact *compact, uint64_t asked_bytes, uint64_t now_ns)
{
	if (asked_bytes == compact->asked_bytes)
		return;
	compact->wanted_bytes += asked_bytes - compact->asked_bytes;
	compact->asked_bytes = asked_bytes;
	compact->until_ns = now_ns + ASKED_NS;
}

bool ob_compact_have_given(const struct ob_compact *compact, uint64_t given_bytes, uint64_t memory_bytes)
{
	uint64_t enough = enough_of(memory_bytes);

	return compact->wanted_bytes >= enough && has_risen(compact->given_bytes, given_bytes, enough);
}

static void want_nothing(struct ob_compact *compact)
{
	compact->wanted_bytes = compact->giving_ns = 0;
	compact->given_bytes = compact->last_bytes;
}

static enum ob_compact_advice hold(struct ob_compact *compact, uint64_t now_ns)
{
	if (!compact->giving_ns)
		compact->giving_ns = now_ns;
	return now_ns < compact->giving_ns + HOLD_NS ? OB_COMPACT_SOON : OB_COMPACT_LATER;
}

enum ob_compact_advice ob_compact_look(struct ob_compact *compact, uint64_t pieces_bytes, uint64_t given_bytes, uint64_t memory_bytes,
				       uint64_t now_ns)
{
	bool are_giving = has_risen(compact->last_bytes, given_bytes, OB_MIB), have_given, is_time;

	compact->looks = pieces_bytes >= enough_of(memory_bytes) ? compact->looks + 1 : 0;
	compact->last_bytes = given_bytes;
	if (!compact->giving_ns && (!compact->wanted_bytes || now_ns >= compact->until_ns))
		want_nothing(compact);
	if (has_risen(given_bytes, compact->given_bytes, 0))
		compact->given_bytes = given_bytes;
	have_given = ob_compact_have_given(compact, given_bytes, memory_bytes);
	is_time = now_ns >= compact->soon_ns;
	if (have_given && is_time && are_giving)
		return hold(compact, now_ns);
	if (compact->looks && ((have_given && is_time) || (compact->looks >= LOOKS && now_ns >= compact->next_ns))) {
		/* What is asked for besides, and not given yet, is for the next time. */
		if (have_given || compact->giving_ns)
			want_nothing(compact);
		return OB_COMPACT_NOW;
	}
	/* It has become free in blocks, or was taken at once; or they have taken it back. */
	if ((have_given && is_time) || compact->giving_ns) {
		want_nothing(compact);
		compact->soon_ns = now_ns + SOON_NS;
	}
	return OB_COMPACT_NOT;
}

void ob_compact_did(struct ob_compact *compact, uint64_t before_bytes, uint64_t after_bytes, uint64_t took_ns, uint64_t now_ns)
{
	bool was_in_vain = after_bytes > before_bytes / 2;

	compact->wait_ns = was_in_vain && compact->wait_ns ? OB_MIN(2 * compact->wait_ns, WAIT_MOST_NS) : WAIT_LEAST_NS;
	compact->next_ns = now_ns + compact->wait_ns;
	compact->soon_ns = was_in_vain ? compact->next_ns : now_ns + OB_MAX(SOON_NS, SOON_PARTS * took_ns);
	compact->given_bytes = compact->last_bytes;
	compact->looks = 0;
}

/* --- what the kernel says --- */

/* From which order on blocks are reported; 0: all are, or it is not known. */
static unsigned reporting_order(void)
{
	char text[32];
	unsigned long order;

	if (ob_read_text(ORDER, text, sizeof(text)) < 0)
		return ORDER_USUAL;
	order = strtoul(text, NULL, 10);
	return order < ORDERS ? (unsigned)order : 0;
}

static uint64_t read_pieces(void)
{
	static char text[16384];
	unsigned order = reporting_order();

	if (!order || ob_read_text("/proc/buddyinfo", text, sizeof(text)) < 0)
		return 0;
	return ob_compact_pieces(text, order, (uint64_t)sysconf(_SC_PAGESIZE));
}

/* Whether there is a balloon that reports. */
static bool is_reported(void)
{
	DIR *list = opendir(BALLOONS);
	struct dirent *entry;
	bool is_there = false;

	while (list && !is_there && (entry = readdir(list))) {
		char path[PATH_MAX], features[256];

		snprintf(path, sizeof(path), BALLOONS "/%s/features", entry->d_name);
		is_there = !strncmp(entry->d_name, "virtio", 6) && ob_read_text(path, features, sizeof(features)) > REPORTING &&
			   features[REPORTING] == '1';
	}
	if (list)
		closedir(list);
	return is_there;
}

/* --- the work --- */

static _Noreturn void ask_kernel(void)
{
	int fd;

	ob_child_init("overbook-gather", 3);
	fd = open(COMPACT, O_WRONLY | O_CLOEXEC);
	_exit(fd < 0 || write(fd, "1", 1) < 0 ? errno : 0);
}

static void start(uint64_t pieces_bytes)
{
	pid_t pid = fork();

	if (pid == 0)
		ask_kernel();
	if (pid < 0)
		return;
	self.pid = pid;
	self.before_bytes = pieces_bytes;
	self.began_ns = ob_now_ns();
}

/* Sees whether it is done. */
static void finish(uint64_t now_ns)
{
	uint64_t after_bytes;
	int status;

	if (waitpid(self.pid, &status, WNOHANG) != self.pid)
		return;
	self.pid = 0;
	self.is_gathering = false;
	if (WIFEXITED(status) && WEXITSTATUS(status)) {
		ob_log(OB_LOG_WARNING, "cannot have free memory moved together, and does without from now on: " COMPACT ": %s", strerror(WEXITSTATUS(status)));
		self.is_wanted = false;
		return;
	}
	after_bytes = read_pieces();
	ob_compact_did(&self.policy, self.before_bytes, after_bytes, now_ns - self.began_ns, now_ns);
	ob_log(OB_LOG_INFO, "%llu MiB were free in pieces that are not reported to the host; moved together, %llu MiB are",
	       (unsigned long long)(self.before_bytes / OB_MIB), (unsigned long long)(after_bytes / OB_MIB));
}

/* --- for the loop --- */

static uint64_t memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t next_look_ns(void)
{
	uint64_t due_ns = self.looked_ns + LOOK_NS, soon_ns = self.looked_ns + LOOK_SOON_NS;

	if (self.pid)
		return soon_ns;
	if (!ob_compact_have_given(&self.policy, self.given_bytes, memory_bytes()))
		return due_ns;
	soon_ns = OB_MAX(soon_ns, self.policy.soon_ns);
	return OB_MIN(due_ns, soon_ns);
}

void ob_compact_init(bool is_wanted)
{
	self.is_wanted = is_wanted;
}

uint64_t ob_compact_due_ns(void)
{
	return self.is_wanted ? next_look_ns() : UINT64_MAX;
}

bool ob_compact_is_gathering(void)
{
	return self.is_gathering;
}

/* Returns whether the host is to wait for what applications have given. */
static bool look(bool has_host, uint64_t now_ns)
{
	bool is_of_use = has_host && is_reported(), have_given = ob_compact_have_given(&self.policy, self.given_bytes, memory_bytes());
	uint64_t pieces_bytes = is_of_use ? read_pieces() : 0;
	enum ob_compact_advice advice = ob_compact_look(&self.policy, pieces_bytes, self.given_bytes, memory_bytes(), now_ns);

	if (advice == OB_COMPACT_NOW)
		start(pieces_bytes);
	return is_of_use && have_given && (advice == OB_COMPACT_SOON || self.pid);
}

void ob_compact_turn(bool has_host, uint64_t asked_bytes, uint64_t given_bytes)
{
	uint64_t now_ns = ob_now_ns();

	ob_compact_ask(&self.policy, asked_bytes, now_ns);
	self.given_bytes = given_bytes;
	if (!self.is_wanted || now_ns < next_look_ns())
		return;
	self.looked_ns = now_ns;
	if (self.pid)
		finish(now_ns);
	else
		self.is_gathering = look(has_host, now_ns);
}

void ob_compact_end(void)
{
	if (self.pid)
		kill(self.pid, SIGKILL);
}
