/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Metrics over HTTP (--metrics): GET /metrics, for Prometheus. */
#ifndef OB_DAEMON_METRICS_SERVER_H
#define OB_DAEMON_METRICS_SERVER_H

#include <sys/socket.h>

#include "base/error.h"

struct ob_daemon;

struct ob_metrics_address {
	struct sockaddr_storage socket;
	socklen_t length; /* 0: none */
	char text[128];   /* as it was written; "" for none */
};

/*
 * "127.0.0.1:9273", "[::1]:9273", "unix:/path" or "none", as it is written; what names where. Host names are none of them: nothing is
 * looked up here. *ret_address is left alone on failure. 0 or -EINVAL.
 */
int ob_metrics_parse(const char *what, const char *text, struct ob_metrics_address *ret_address, struct ob_error *err) OB_MUST_CHECK;

/*
 * Listens on daemon->metrics_address, or on the socket that systemd has passed, whatever the address; on nothing when there is
 * neither. Again after the address has changed: what it listened on before is given up when the new one is there, and kept when
 * that fails. 0 or -errno.
 */
int ob_metrics_listen(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;
void ob_metrics_close(struct ob_daemon *daemon);

#endif
