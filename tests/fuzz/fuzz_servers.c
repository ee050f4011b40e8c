/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What servers answer to adaptors, and the configuration of overbook-guest. The first letter of the input says which: r: a Redis, m: a MariaDB,
 * k: a memcached, j: a JVM, c: the configuration. The second is how many bytes come at a time. The rest is all that comes, whatever is said to it;
 * from a JVM, on a connection up to the next byte of 4.
 *
 * What must hold: what fails has one of the codes of adaptor.h and a reason of one line; sizes are within bounds; a configuration that is taken has
 * names and paths as they are promised.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "guest/jvm.h"

static struct {
	const uint8_t *at, *end;
	size_t piece;
	unsigned asked;
	bool is_divided;
} world;

int ob_server_send(struct ob_server *server, const void *data, size_t size, struct ob_error *err)
{
	FUZZ_CHECK(size && size <= 1024, "%zu bytes are said", size);
	world.asked++;
	return 0;
}

int ob_server_more(struct ob_server *server, struct ob_error *err)
{
	size_t room = sizeof(server->in) - server->used, n = OB_MIN(world.piece, (size_t)(world.end - world.at));

	if (!room)
		return ob_error_set(err, EPROTO, "too much");
	n = OB_MIN(n, room);
	if (n && world.is_divided && *world.at == 4) {
		world.at++;
		return ob_error_set(err, ECONNRESET, "the end of it");
	}
	if (!n)
		return ob_error_set(err, ECONNRESET, "the end");
	if (world.is_divided && memchr(world.at, 4, n))
		n = (size_t)((const uint8_t *)memchr(world.at, 4, n) - world.at);
	memcpy(server->in + server->used, world.at, n);
	server->used += n;
	world.at += n;
	return 0;
}

void ob_server_drop(struct ob_server *server, size_t bytes)
{
	FUZZ_CHECK(bytes <= server->used, "%zu of %zu bytes are dropped", bytes, server->used);
	server->used -= bytes;
	memmove(server->in, server->in + bytes, server->used);
}

bool ob_server_has_ended(const struct ob_server *server)
{
	return world.at == world.end;
}

pid_t ob_jvm_find(const struct ob_service *service)
{
	return 0;
}

int ob_jvm_open(struct ob_server *server, struct ob_error *err)
{
	return world.at == world.end ? ob_error_set(err, ECONNRESET, "it has ended") : 0;
}

int ob_server_secret(const struct ob_server *server, char *ret_secret, struct ob_error *err)
{
	strcpy(ret_secret, "se-cr-et");
	return 0;
}

static void check_result(int r, const struct ob_error *err)
{
	FUZZ_CHECK(r == 0 || r == -EACCES || r == -EPERM || r == -ETIMEDOUT || r == -ECONNRESET || r == -EPROTO || r == -EAGAIN || r == -EOPNOTSUPP, "%d", r);
	FUZZ_CHECK(r == 0 || (err->code == -r && fuzz_is_one_line(err->text)), "%d: \"%s\"", r, err->text);
}

static void talk(const struct ob_adaptor *adaptor)
{
	static struct ob_server server;
	struct ob_service service = { .adaptor = adaptor, .user = "user", .socket = "/run/socket" };
	struct ob_error err = { 0 };
	int r;

	memset(&server, 0, sizeof(server));
	server.service = &service;
	r = adaptor->greet(&server, &err);
	check_result(r, &err);
	FUZZ_CHECK(adaptor == &ob_mariadb || !strstr(err.text, "se-cr-et"), "the password is told: \"%s\"", err.text);
	for (unsigned i = 0; i < 4 && r == 0; i++) {
		struct ob_server_sizes sizes;

		FUZZ_CHECK(server.grain_bytes >= 1u << 20 && server.grain_bytes <= OB_GUEST_BYTES_MAX * 2, "a grain of %llu",
			   (unsigned long long)server.grain_bytes);
		r = adaptor->look(&server, &sizes, &err);
		check_result(r, &err);
		if (r == 0)
			FUZZ_CHECK(sizes.limit_bytes <= OB_GUEST_BYTES_MAX && sizes.used_bytes <= OB_GUEST_BYTES_MAX &&
				   sizes.least_bytes <= OB_GUEST_BYTES_MAX, "sizes");
		if (r == 0) {
			r = adaptor->set_limit(&server, sizes.used_bytes / 2, &err);
			check_result(r, &err);
		}
		if (r == 0 && adaptor->let_go) {
			r = adaptor->let_go(&server, &err);
			check_result(r, &err);
		}
	}
}

static void configure(const uint8_t *data, size_t size)
{
	static struct ob_guest_config config;
	struct ob_error err = { 0 };
	char path[512];
	FILE *file;
	int r;

	snprintf(path, sizeof(path), "%s/config", fuzz_directory());
	file = fopen(path, "wb");
	FUZZ_CHECK(file && fwrite(data, 1, size, file) == size && fclose(file) == 0 && chmod(path, 0600) == 0, "%s", path);
	r = ob_guest_config_read(path, false, &config, &err);
	FUZZ_CHECK(r == 0 || (r == -err.code && fuzz_is_one_line(err.text)), "%d: \"%s\"", r, err.text);
	for (unsigned i = 0; r == 0 && i < config.n; i++) {
		const struct ob_service *service = &config.service[i];

		FUZZ_CHECK(ob_guest_name_valid(service->name) && service->socket[0] == (service->adaptor->find ? '\0' : '/') && service->pain <= OB_GUEST_PAIN_MAX &&
			   service->floor_bytes <= OB_GUEST_BYTES_MAX, "a server \"%s\"", service->name);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	world.at = data + 2;
	world.end = data + size;
	world.piece = data[1];
	world.is_divided = data[0] == 'j';
	if (data[0] == 'r')
		talk(&ob_redis);
	else if (data[0] == 'm')
		talk(&ob_mariadb);
	else if (data[0] == 'k')
		talk(&ob_memcached);
	else if (data[0] == 'j')
		talk(&ob_jvm);
	else
		configure(data + 2, size - 2);
	return 0;
}
