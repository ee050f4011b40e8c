/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/link.h"
#include "daemon/share.h"

static const char *const state_names[] = {
	[OB_MACHINE_WAITING] = "waiting", [OB_MACHINE_STARTING] = "starting", [OB_MACHINE_RUNNING] = "running",
	[OB_MACHINE_STOPPED] = "stopped", [OB_MACHINE_LOST] = "lost",
};

const char *ob_machine_state_name(const struct ob_machine *machine)
{
	if (machine->state == OB_MACHINE_RUNNING && machine->release != OB_RELEASE_NO)
		return machine->release == OB_RELEASE_DONE ? "released" : "releasing";
	return state_names[machine->state];
}

struct ob_machine *ob_registry_find(struct ob_daemon *daemon, const char *name)
{
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		if (!strcmp(machine->name, name))
			return machine;
	return NULL;
}

static void machine_free(struct ob_machine *machine)
{
	if (!machine)
		return;
	sd_event_source_disable_unref(machine->pid_source);
	sd_event_source_disable_unref(machine->start_source);
	ob_fd_close(&machine->pidfd);
	free(machine);
}

static void machine_free_pointer(struct ob_machine **machine)
{
	machine_free(*machine);
}

static int on_process_end(sd_event_source *source, int fd, uint32_t events, void *context)
{
	ob_registry_remove(context, "its process has ended");
	return 0;
}

static int on_start_timeout(sd_event_source *source, uint64_t now_us, void *context)
{
	struct ob_machine *machine = context;

	ob_log(OB_LOG_WARNING, "machine \"%s\": its agent has not connected within %llu s of its admission", machine->name,
	       (unsigned long long)(OB_MACHINE_START_NS / OB_NS_PER_SEC));
	ob_registry_remove(machine, "its agent has not connected");
	return 0;
}

static int watch_process(struct ob_machine *machine, struct ob_error *err)
{
	int r;

	machine->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)machine->pid, 0);
	if (machine->pidfd < 0)
		return ob_error_sys(err, errno, "cannot watch process %u of machine \"%s\"", machine->pid, machine->name);
	r = sd_event_add_io(machine->daemon->event, &machine->pid_source, machine->pidfd, EPOLLIN, on_process_end, machine);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot watch process %u of machine \"%s\"", machine->pid, machine->name);
	/* After what its agent may have said last. */
	sd_event_source_set_priority(machine->pid_source, SD_EVENT_PRIORITY_NORMAL + 10);
	return 0;
}

int ob_registry_add(struct ob_daemon *daemon, const char *name, uint32_t pid, struct ob_machine **ret_machine,
		    struct ob_error *err)
{
	struct ob_machine *machine OB_CLEANUP(machine_free_pointer) = NULL, *known = ob_registry_find(daemon, name), **tail;
	int r;

	if (known)
		return ob_error_set(err, EEXIST, "machine \"%s\" exists already, with pid %u", name, known->pid);
	if (daemon->machine_count >= OB_DAEMON_MACHINES_MAX)
		return ob_error_set(err, ENOSPC, "there are %u machines already, the most that one overbookd looks after",
				    daemon->machine_count);
	machine = calloc(1, sizeof(*machine));
	if (!machine)
		return ob_error_sys(err, ENOMEM, "cannot add machine \"%s\"", name);
	machine->daemon = daemon;
	machine->pidfd = -1;
	machine->pid = pid;
	memcpy(machine->name, name, strlen(name) + 1);
	machine->shares = OB_SHARES_DEFAULT;
	machine->maximum_bytes = machine->ordered_maximum_bytes = machine->low_cost_bytes = OB_BUDGET_NONE;
	ob_working_set_forget(&machine->working_set);
	r = watch_process(machine, err);
	if (r < 0)
		return r;
	for (tail = &daemon->machines; *tail; tail = &(*tail)->next)
		;
	*tail = machine;
	daemon->machine_count++;
	*ret_machine = machine;
	machine = NULL;
	return 0;
}

void ob_registry_start(struct ob_machine *machine, uint64_t limit_bytes)
{
	int r = sd_event_add_time_relative(machine->daemon->event, &machine->start_source, CLOCK_MONOTONIC,
					   OB_MACHINE_START_NS / OB_NS_PER_US, 0, on_start_timeout, machine);

	if (r < 0)
		ob_log(OB_LOG_WARNING, "machine \"%s\": cannot set a timer for its start: %s", machine->name, strerror(-r));
	machine->state = OB_MACHINE_STARTING;
	machine->limit_bytes = machine->exposed_bytes = limit_bytes;
}

void ob_registry_connected(struct ob_machine *machine, struct ob_link *link)
{
	machine->start_source = sd_event_source_disable_unref(machine->start_source);
	machine->state = OB_MACHINE_RUNNING;
	machine->link = link;
	machine->stats_seen = false;
	ob_working_set_forget(&machine->working_set);
	machine->order = OB_ORDER_NONE;
}

void ob_registry_disconnected(struct ob_machine *machine)
{
	machine->link = NULL;
	machine->state = OB_MACHINE_LOST;
	machine->range_count = 0;
	if (machine->release == OB_RELEASE_RUNNING)
		machine->release = OB_RELEASE_NO;
	ob_share_disconnected(machine);
	ob_api_machine_gone(machine, "the connection to its agent has ended");
	ob_arbiter_kick(machine->daemon);
}

void ob_registry_remove(struct ob_machine *machine, const char *why)
{
	struct ob_daemon *daemon = machine->daemon;
	struct ob_machine **at;

	for (at = &daemon->machines; *at && *at != machine; at = &(*at)->next)
		;
	if (!*at)
		return;
	*at = machine->next;
	daemon->machine_count--;
	if (machine->state != OB_MACHINE_WAITING)
		ob_event(OB_EVENT_MACHINE_GONE, machine->name, machine->pid, "machine \"%s\" (pid %u) is gone: %s", machine->name, machine->pid, why);
	ob_api_machine_gone(machine, why);
	ob_share_machine_gone(machine);
	if (machine->link)
		ob_link_forget_machine(machine->link);
	machine_free(machine);
	ob_arbiter_stir(daemon);
}

void ob_registry_clear(struct ob_daemon *daemon)
{
	while (daemon->machines)
		ob_registry_remove(daemon->machines, "overbookd ends");
}
