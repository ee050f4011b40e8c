/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PostgreSQL: found by its socket, and shown with the reason why it is asked for nothing: shared_buffers is set when it starts.
 *
 * Nothing is said to it. A connection would cost it a process, so it ends at once, of which PostgreSQL takes no notice; that the server is there is
 * seen by its process, the postmaster.
 */
#include <errno.h>

#include "base/fd.h"
#include "base/units.h"
#include "guest/adaptor.h"

static int greet(struct ob_server *server, struct ob_error *err)
{
	ob_fd_close(&server->fd);
	server->grain_bytes = OB_MIB;
	return server->pidfd < 0 ? ob_error_set(err, EPERM, "PostgreSQL's process is not seen from here") : 0;
}

static int set_limit(struct ob_server *server, uint64_t bytes, struct ob_error *err)
{
	(void)server;
	(void)bytes;
	return ob_error_set(err, EOPNOTSUPP, "PostgreSQL cannot change shared_buffers while it runs");
}

static int look(struct ob_server *server, struct ob_server_sizes *ret_sizes, struct ob_error *err)
{
	(void)ret_sizes;
	return ob_server_has_ended(server) ? ob_error_set(err, ECONNRESET, "PostgreSQL has ended") : set_limit(server, 0, err);
}

const struct ob_adaptor ob_postgresql = {
	.name = "postgresql", .kind = OB_GUEST_KIND_POSTGRESQL, .sockets = { "/run/postgresql/.s.PGSQL.5432", NULL },
	.greet = greet, .look = look, .set_limit = set_limit,
};
