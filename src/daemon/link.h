/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One connected agent: reads what it says, sends it orders. */
#ifndef OB_DAEMON_LINK_H
#define OB_DAEMON_LINK_H

#include "daemon/registry.h"

/* Accepts agents from now on. 0 or -errno. */
int ob_link_listen(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;

/*
 * Orders. They only say what is wanted and are sent when the socket takes them; a newer one of the same kind replaces an
 * older one that has not been sent.
 */
void ob_link_order_limit(struct ob_machine *machine, uint64_t limit_bytes);
void ob_link_order_release(struct ob_machine *machine);
void ob_link_order_poll(struct ob_machine *machine, uint32_t interval_ms);

/*
 * Sends one message, with a descriptor unless fd is -1; msg->sequence is set. Returns 0, -EAGAIN when the socket is full, or -errno;
 * nothing is kept for later.
 */
int ob_link_send(struct ob_machine *machine, struct ob_wire_msg *msg, int fd) OB_MUST_CHECK;

/* Sends what is wanted of the machine's agent (it has one), sharing's wishes included, or later when its socket is full. */
void ob_link_flush(struct ob_machine *machine);

/* The machine of this link is being removed; the link is closed. */
void ob_link_forget_machine(struct ob_link *link);

void ob_link_close_all(struct ob_daemon *daemon);

#endif
