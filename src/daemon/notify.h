/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What systemd is told (sd_notify(3), for Type=notify). Without systemd nothing of it happens. */
#ifndef OB_DAEMON_NOTIFY_H
#define OB_DAEMON_NOTIFY_H

#include "daemon/daemon.h"

/* Ready, also after a reload; what went wrong with that, and why: "" for nothing. */
void ob_notify_ready(const struct ob_daemon *daemon, const char *what, const char *why);
void ob_notify_reloading(void);
void ob_notify_stopping(void);

/* Tells how many machines there are, if that has changed. Once a second at most: systemd may be slow to read. */
void ob_notify_machines(const struct ob_daemon *daemon);

/*
 * Gives systemd a descriptor to keep for the next overbookd, under a name of at most 64 letters, digits and dashes, or lets it forget that.
 * Nobody tells whether it does. Returns 0 or more, or -errno.
 */
int ob_notify_keep(const char *name, int fd) OB_MUST_CHECK;
void ob_notify_forget(const char *name);

/* Feeds the watchdog if systemd asks for it (WatchdogSec=). 0 or -errno. */
int ob_notify_watchdog(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;

/* "16 GiB" or "none" into buf, which has 16 bytes. Returns buf. */
const char *ob_notify_budget(const struct ob_daemon *daemon, char *buf);

#endif
