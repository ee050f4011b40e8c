/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/events.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION /* where in the source is nobody's concern */
#include <systemd/sd-journal.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/registry.h"

#define NEXT_NS (1 * OB_NS_PER_SEC)
#define OVER_NS (10 * OB_NS_PER_SEC) /* memory moves from machine to machine all the time; that it does not come is an event */

static const struct {
	enum ob_log_level level;
	const char *id;
} kinds[] = {
#define X(kind, level, id) { OB_LOG_##level, id },
	OB_EVENTS(X)
#undef X
};

/* Whether what is written to stderr goes to the journal: systemd names the stream by device and inode. */
static bool is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return text && sscanf(text, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device &&
	       st.st_ino == inode;
}

static struct iovec field(const char *text)
{
	return (struct iovec){ .iov_base = (void *)text, .iov_len = strlen(text) };
}

void ob_event(enum ob_event kind, const char *name, uint32_t pid, const char *fmt, ...)
{
	enum ob_log_level level = kinds[kind].level;
	char text[1024], message[sizeof(text) + 32], priority[32], id[64], name_field[sizeof("MACHINE=") + OB_NAME_MAX], pid_field[32];
	struct iovec fields[5];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!is_journal()) {
		ob_log(level, "%s", text);
		return;
	}
	if (!ob_log_is_wanted(level))
		return;
	snprintf(message, sizeof(message), "MESSAGE=overbookd: %s", text);
	snprintf(priority, sizeof(priority), "PRIORITY=%d", (int)level);
	snprintf(id, sizeof(id), "MESSAGE_ID=%s", kinds[kind].id);
	snprintf(name_field, sizeof(name_field), "MACHINE=%s", name ? name : "");
	snprintf(pid_field, sizeof(pid_field), "MACHINE_PID=%u", pid);
	fields[0] = field(message);
	fields[1] = field(priority);
	fields[2] = field(id);
	fields[3] = field(name_field);
	fields[4] = field(pid_field);
	if (sd_journal_sendv(fields, name ? 5 : 3) < 0)
		ob_log(level, "%s", text);
}

static bool look_at_storage(struct ob_machine *machine)
{
	static const struct {
		uint64_t bit;
		const char *bad, *good;
	} parts[] = {
		{ OB_DEGRADED_SWAP_FULL, "its swap store is full", "its swap store has room again" },
		{ OB_DEGRADED_SWAP_ERROR, "its swap store fails", "its swap store works again" },
		{ OB_DEGRADED_POOL_FULL, "its compressed pool is full", "its compressed pool has room again" },
	};
	uint64_t changed = machine->stats.degraded ^ machine->events.degraded;
	bool is_told = false;

	for (size_t i = 0; i < OB_ARRAY_LEN(parts); i++) {
		bool is_bad = machine->stats.degraded & parts[i].bit;

		if (!(changed & parts[i].bit))
			continue;
		ob_event(is_bad ? OB_EVENT_STORAGE_DEGRADED : OB_EVENT_STORAGE_RECOVERED, machine->name, machine->pid, "machine \"%s\": %s",
			 machine->name, is_bad ? parts[i].bad : parts[i].good);
		is_told = true;
	}
	machine->events.degraded = machine->stats.degraded;
	return is_told;
}

static bool look_at_limit(struct ob_machine *machine, uint64_t now_ns)
{
	struct ob_machine_events *events = &machine->events;
	uint64_t over_bytes = machine->stats.over_limit_bytes;
	bool was_over = events->is_over;
	char over[16], limit[16];

	if (!over_bytes)
		events->over_since_ns = 0;
	else if (!events->over_since_ns)
		events->over_since_ns = now_ns;
	events->is_over = over_bytes && (was_over || now_ns - events->over_since_ns >= OVER_NS);
	if (events->is_over == was_over)
		return false;
	if (was_over)
		ob_event(OB_EVENT_WITHIN_LIMIT, machine->name, machine->pid, "machine \"%s\" is within its limit again", machine->name);
	else
		ob_event(OB_EVENT_OVER_LIMIT, machine->name, machine->pid, "machine \"%s\" has been above its limit of %s for %llu s, now by %s",
			 machine->name, ob_size_format(limit, sizeof(limit), machine->stats.limit_bytes),
			 (unsigned long long)(OVER_NS / OB_NS_PER_SEC), ob_size_format(over, sizeof(over), over_bytes));
	return true;
}

static bool look_at_stop(struct ob_machine *machine)
{
	bool is_stopped = machine->state == OB_MACHINE_STOPPED;

	if (is_stopped == machine->events.is_stopped)
		return false;
	machine->events.is_stopped = is_stopped;
	if (is_stopped)
		ob_event(OB_EVENT_MACHINE_STOPPED, machine->name, machine->pid, "machine \"%s\" is stopped: %s", machine->name, machine->cause);
	else
		ob_event(OB_EVENT_MACHINE_GOES_ON, machine->name, machine->pid, "machine \"%s\" goes on: its page could be read", machine->name);
	return true;
}

void ob_events_look(struct ob_machine *machine)
{
	uint64_t now_ns = ob_now_ns();
	bool is_told;

	if (now_ns < machine->events.next_ns)
		return;
	is_told = look_at_storage(machine);
	is_told |= look_at_limit(machine, now_ns);
	is_told |= look_at_stop(machine);
	if (is_told)
		machine->events.next_ns = now_ns + NEXT_NS;
}
