/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbookd as a whole: one process, one thread, one event loop (sd-event). Everything below belongs to that thread, so
 * nothing is locked.
 *
 *     main.c       options, set-up in its order, the loop
 *     runtime.c    the run directory, the pid file, the listening sockets
 *     config.c     settings, and the file of --config; notify.c: what systemd is told
 *     privilege.c  gives up what is not needed any more
 *     registry.c   who is here
 *     link.c       one connected agent: its messages, the orders to it
 *     arbiter.c    who gets how much, by budget.c, and when to ask and to order
 *     working_set.c  what a machine needs for what it uses
 *     balloon.c    what balloons are to hold, by balloon_policy.c, and what is known of them
 *     machine_means.c  what balloons and all else have given and cost, by means.c
 *     events.c     what happens, in the log and the journal
 *     guest.c      the agent in a machine's guest; app_policy.c: what applications there are asked to give; stall.c: whether the guest waits for memory
 *     large.c      what is to be done with large pages, by largepages/host.h
 *     shortage.c   how short memory is, by ladder.c, and what follows
 *     share.h      pages that machines have in common: share.c, share_match.c, share_holds.c, share_keep.c, share_api.c, store.c
 *     metrics_server.c  metrics over HTTP, by libmicrohttpd; metrics.c: their text
 *     api.c        one connected client: lines in, lines out; command.c: what the lines mean; render.c: how machines look
 *
 * There is no state on disk: a new overbookd learns everything from the agents, which come back by themselves. systemd may keep what they
 * share for it (share_keep.c).
 */
#ifndef OB_DAEMON_DAEMON_H
#define OB_DAEMON_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "daemon/balloon.h"
#include "daemon/budget.h"
#include "daemon/config.h"
#include "daemon/large.h"
#include "daemon/metrics_server.h"
#include "daemon/shortage.h"

#define OB_DAEMON_MACHINES_MAX 1024
#define OB_DAEMON_CLIENTS_MAX  128

struct ob_machine;
struct ob_client;
struct ob_link;
struct ob_metrics_server;
struct ob_share;

struct ob_daemon {
	sd_event *event;
	struct ob_config config;
	const char *config_path; /* where it is read from; NULL: from the options */
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char agents_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char clients_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int lock_fd, agents_fd, clients_fd;
	bool agents_passed, clients_passed; /* systemd made the socket: its path is not ours to remove */

	struct ob_machine *machines; /* in the order in which they came */
	unsigned machine_count;
	struct ob_link *links; /* connected agents, those that have not said HELLO included */
	unsigned link_count;
	struct ob_client *clients;
	unsigned client_count;

	struct ob_share *share;
	struct ob_large large;
	struct ob_shortage shortage;

	int metrics_passed_fd; /* a listening socket that systemd has passed; 0: none */
	struct ob_metrics_server *metrics;

	sd_event_source *agents_source, *clients_source;
	sd_event_source *kick_source, *tick_source; /* arbiter.c */
	uint64_t settle_until_ns;                   /* after a start among living machines: nobody grows before */
	unsigned expected;                          /* machines that lived when this overbookd started and are not back yet */
	uint64_t least_bytes;                       /* the arbiter's, of ob_budget_store_advance() */
	uint64_t stirred_ns;                        /* when something last changed that moves memory */
	uint64_t lack_bytes;                        /* that machines use and are not entitled to */
	bool is_short_of_guarantees;                /* as was told, */
	uint64_t guarantees_ns;                     /* and when */
};

#endif
