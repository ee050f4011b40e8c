/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbook-guest: one process, one thread, one loop around poll(). docs/applications.md has what it is for.
 *
 *     main.c     options, set-up, the loop
 *     port.c     the virtio-serial port: what the host says, and what it is told
 *     clients.c  the applications: their sockets, what they say, what they are told, whether it is so
 *     adaptor.h  servers that know nothing of us: adaptor.c, serve.c, config.c; redis.c, mariadb.c, memcached.c, postgresql.c,
 *                jvm.c (with attach.c)
 *     memory.c   what the kernel says of the guest's memory, and of a process's
 *     compact.h  free memory in pieces that are too small to be reported to the host
 *
 * Both sides are hostile. The host's words are frames of one size with two numbers in them; nothing that it says is a path, a name or a command, and no
 * application is asked for more than it has offered. Applications say numbers about themselves, in frames of the same size; each has
 * a bounded number of them a second. There are no queues: what is to be said is state, of which the latest is said when there is room.
 *
 * Nothing grows after the start, and no names are looked up: it is linked statically, so that one file runs in any guest.
 */
#ifndef OB_GUEST_GUEST_H
#define OB_GUEST_GUEST_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/error.h"
#include "proto/guest.h"

#define OB_CLIENTS_MAX (OB_GUEST_APPS_MAX + 8) /* connections; those beyond OB_GUEST_APPS_MAX have not said who they are */

/* --- memory.c --- */

/* What the kernel says now. Returns 0 or -errno. */
int ob_memory_read(struct ob_guest_memory *ret_memory) OB_MUST_CHECK;

/* What a process has in memory and in swap. Returns 0, or -errno: it has ended. */
int ob_memory_of_process(pid_t pid, uint64_t *ret_bytes) OB_MUST_CHECK;

/* --- adaptor.c --- */

/* In a child: it ends with overbook-guest, whose signals it does not take, and has no descriptors from first on. */
void ob_child_init(const char *name, unsigned first);

/* --- port.c --- */

/* path: of a device or a socket; NULL: the port of the name OB_GUEST_PORT, wherever it is. Opened when it is there. */
void ob_port_init(const char *path);
void ob_port_poll(struct pollfd *ret_fd);
/* After poll(). */
void ob_port_turn(const struct pollfd *fd);
uint64_t ob_port_due_ns(void);
/* Whether free memory is being moved together, and the host is to wait for that. */
void ob_port_gathers(bool gathers);
/* Whether there is an overbookd that knows of us. */
bool ob_port_has_host(void);

/* --- clients.c --- */

/* Listens for applications. Returns 0 or -errno with the reason. */
int ob_clients_listen(const char *path, struct ob_error *err) OB_MUST_CHECK;
/* Fills in what is to be waited for: 1 + OB_CLIENTS_MAX descriptors at most. Returns how many. */
unsigned ob_clients_poll(struct pollfd *ret_fds);
void ob_clients_turn(const struct pollfd *fds, unsigned n);
uint64_t ob_clients_due_ns(void);

/* An adaptor, at the other end of fd, which is taken over. Returns 0, or -ENOSPC. */
int ob_clients_add(int fd, enum ob_guest_kind kind) OB_MUST_CHECK;

/* What the host wants of an application. */
void ob_clients_target(const struct ob_guest_msg *msg);
/* Somebody has not heard of them yet: all are to be told of. */
void ob_clients_tell_all(void);
/* The next of which the host is to be told, and how it is. Returns whether there is one. */
bool ob_clients_next(struct ob_guest_app *ret_app);
unsigned ob_clients_count(void);
/* What they were asked for beyond what they had been told before, each time: it only rises. */
uint64_t ob_clients_asked_bytes(void);
/*
 * Rises by what those give that were told something since they have connected, and falls by what they take back: by what is seen of it, without
 * slack. Who connects or goes changes nothing. It wraps below 0: only differences mean something.
 */
uint64_t ob_clients_given_bytes(void);

#endif
