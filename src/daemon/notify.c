/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/notify.h"

#include <stdio.h>

#include <systemd/sd-daemon.h>

#include "base/clock.h"
#include "base/units.h"

#define BUDGET_SIZE 16

static unsigned told_machines; /* how many systemd has been told of */

const char *ob_notify_budget(const struct ob_daemon *daemon, char *buf)
{
	if (daemon->config.budget_bytes != OB_BUDGET_NONE)
		return ob_size_format(buf, BUDGET_SIZE, daemon->config.budget_bytes);
	snprintf(buf, BUDGET_SIZE, "none");
	return buf;
}

static void tell(const struct ob_daemon *daemon, const char *ready, const char *what, const char *why)
{
	char budget[BUDGET_SIZE];

	told_machines = daemon->machine_count;
	sd_notifyf(0, "%sSTATUS=%u machine%s, budget %s%s%s%s", ready, told_machines, told_machines == 1 ? "" : "s",
		   ob_notify_budget(daemon, budget), *what ? "; " : "", what, why);
}

void ob_notify_ready(const struct ob_daemon *daemon, const char *what, const char *why)
{
	tell(daemon, "READY=1\n", what, why);
}

void ob_notify_reloading(void)
{
	/* The time is what Type=notify-reload (systemd 253) wants to see. */
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reloading", (unsigned long long)(ob_now_ns() / OB_NS_PER_US));
}

void ob_notify_stopping(void)
{
	sd_notify(0, "STOPPING=1\nSTATUS=Ending; machines go on without it");
}

int ob_notify_keep(const char *name, int fd)
{
	char text[128];

	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", name);
	return sd_pid_notify_with_fds(0, 0, text, &fd, 1);
}

void ob_notify_forget(const char *name)
{
	sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

void ob_notify_machines(const struct ob_daemon *daemon)
{
	if (daemon->machine_count != told_machines)
		tell(daemon, "", "", "");
}

int ob_notify_watchdog(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = sd_event_set_watchdog(daemon->event, true);

	return r < 0 ? ob_error_sys(err, -r, "cannot feed systemd's watchdog") : 0;
}
