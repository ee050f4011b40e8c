/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adaptors: servers that know nothing of Overbook, asked by their own official interfaces.
 *
 * An adaptor is a process of its own, which adaptor.c starts for each server that is there, and ends with it: a server that hangs keeps its
 * adaptor waiting and nobody else, and what it answers is read where little can be broken. To clients.c it is an application like any other, on
 * a socket that it was born with, but that it names the process to measure, which is the server's.
 *
 *     absent --its socket is there--> running --the adaptor ends--> waiting, 1 s at first, twice as long each time it did not live for a minute,
 *                                                                   60 s at most --> absent
 *
 * A server that has no such socket is looked for by its adaptor, which runs without it.
 *
 * What all servers have in common is in serve.c: a limit that can be changed while they run, and how much they use. Shrinking is to set the limit to
 * what was used when memory was first asked for, less the target; what is given is what is used less since then, by the server's own count,
 * and what clients.c sees gone from its process.
 *
 *     at rest --TARGET--> the limit that it had is written to a file, then another one is set, and read back --> shrinking
 *     shrinking --TARGET 0--> the limit that it had is set, and read back --> at rest, the file is removed
 *
 * So an adaptor that dies, or an overbook-guest, leaves a server that is smaller than it was, and a file from which the next one knows how large it
 * has to become again. A server that was started anew has its own settings again: the file names the process (pid and start time), and
 * one of another process is removed.
 */
#ifndef OB_GUEST_ADAPTOR_H
#define OB_GUEST_ADAPTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/compiler.h"
#include "base/error.h"
#include "proto/guest.h"

#define OB_SERVICES_MAX 8
#define OB_SECRET_MAX   256

/* A server, as it is configured or was discovered. */
struct ob_service {
	char name[OB_GUEST_NAME_MAX + 1];
	const struct ob_adaptor *adaptor;
	char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char process[128];    /* an argument of its process, for those that are known by that */
	uint64_t floor_bytes; /* of what it uses, is left to it */
	uint32_t pain;
	char user[64];          /* "": the usual one; of those that are known by their process, a number, "": any */
	char password_path[256]; /* "": none */
};

/* What a server says of itself. */
struct ob_server_sizes {
	uint64_t limit_bytes; /* 0: it has none */
	uint64_t used_bytes;  /* of what the limit bounds */
	uint64_t least_bytes; /* no smaller limit does anything */
	bool can_shrink;      /* what is above a smaller limit goes, and nothing else happens */
};

/* A connection to one; what the functions below keep there is theirs. */
struct ob_server {
	const struct ob_service *service;
	int fd;
	pid_t pid; /* of its process; 0: not known */
	int pidfd; /* -1: not known */
	uint64_t asked_ns; /* when something was said to it last */
	size_t used; /* of in */
	uint8_t in[65536];
	uint64_t grain_bytes; /* of a limit */
	uint64_t limit_bytes; /* as it was seen last */
	uint64_t most_bytes;  /* that it has used since its limit was set */
	uint8_t number;       /* of packets */
};

/*
 * A kind of server. All return 0 or -errno with the reason: -EACCES (it does not let us in), -EPERM (nor do that), -ETIMEDOUT, -ECONNRESET,
 * -EPROTO (it says what cannot be understood), -EAGAIN (later), -EOPNOTSUPP (from look: it can give nothing; what it uses is told where it is known).
 */
struct ob_adaptor {
	const char *name;
	enum ob_guest_kind kind;
	const char *sockets[4]; /* where to look for it; NULL at the end */
	pid_t (*find)(const struct ob_service *service); /* its process, where it has no such socket; may be NULL */
	uint64_t floor_bytes;
	uint32_t pain;
	int (*greet)(struct ob_server *server, struct ob_error *err); /* its socket is connected, or its process was found */
	int (*look)(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err);
	int (*set_limit)(struct ob_server *server, uint64_t bytes, struct ob_error *err);
	int (*let_go)(struct ob_server *server, struct ob_error *err); /* what is free, to the kernel; may be NULL */
};
extern const struct ob_adaptor ob_redis, ob_mariadb, ob_memcached, ob_postgresql, ob_jvm;

/* --- config.c --- */

/* All kinds; NULL at the end. */
extern const struct ob_adaptor *const ob_adaptor_kinds[];

struct ob_guest_config {
	bool discover, compact;
	unsigned n;
	struct ob_service service[OB_SERVICES_MAX];
};

/* Reads a file; one that is not there is an empty one if may_miss. Returns 0 or -errno with the reason. */
int ob_guest_config_read(const char *path, bool may_miss, struct ob_guest_config *ret_config, struct ob_error *err) OB_MUST_CHECK;
/* The service as an adaptor's defaults have it. */
void ob_service_init(struct ob_service *service, const struct ob_adaptor *adaptor);

/* --- adaptor.c --- */

/* state_dir: where files about limits are kept. */
void ob_adaptors_init(const struct ob_guest_config *config, const char *state_dir);
/* Looks for servers, and starts adaptors that are due; before those that have ended are forgotten. */
void ob_adaptors_turn(void);
uint64_t ob_adaptors_due_ns(void);
void ob_adaptors_end(void);

/* --- serve.c --- */

/* An adaptor's life. fd: to clients.c. Returns an exit status. */
int ob_adaptor_serve(const struct ob_service *service, int fd, const char *state_dir);

/* For adaptors: sends all, and waits until so much has come that the caller is content. 0 or -errno with the reason. */
int ob_server_send(struct ob_server *server, const void *data, size_t size, struct ob_error *err) OB_MUST_CHECK;
/* Reads more; the caller has looked at what is in server->in. */
int ob_server_more(struct ob_server *server, struct ob_error *err) OB_MUST_CHECK;
/* Connects to a socket: server->fd. */
int ob_server_connect(struct ob_server *server, const char *path, struct ob_error *err) OB_MUST_CHECK;
/* Whether its process has ended, as far as that is known. */
bool ob_server_has_ended(const struct ob_server *server);
/* Drops the first bytes of what has come. */
void ob_server_drop(struct ob_server *server, size_t bytes);
/* A number of bytes in decimal, and nothing else: 0 or -EPROTO. In parse.c. */
int ob_server_parse_bytes(const char *text, uint64_t *ret_bytes) OB_MUST_CHECK;
/* The password of the service, "" for none; at most OB_SECRET_MAX bytes with its end. To be wiped by the caller. */
int ob_server_secret(const struct ob_server *server, char *ret_secret, struct ob_error *err) OB_MUST_CHECK;

#endif
