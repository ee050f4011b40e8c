/* SPDX-License-Identifier: GPL-2.0-or-later */
/* overbook-guest's side of adaptors: which servers there are, and a process for each. */
#include "guest/adaptor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "guest/guest.h"

#define LOOK_NS       OB_NS_PER_SEC
#define WAIT_LEAST_NS OB_NS_PER_SEC
#define WAIT_MOST_NS  (60 * OB_NS_PER_SEC)
#define GOOD_LIFE_NS  (60 * OB_NS_PER_SEC)

static struct {
	char state_dir[200];
	unsigned n;
	struct {
		struct ob_service service;
		pid_t pid; /* 0: none */
		uint64_t started_ns, next_ns, wait_ns;
	} item[OB_SERVICES_MAX];
	uint64_t look_ns;
} adaptors;

/* Then its usual place is not looked at besides: there is room for few. */
static bool is_configured(const struct ob_guest_config *config, const char *socket)
{
	for (unsigned i = 0; i < config->n; i++)
		if (!strcmp(config->service[i].socket, socket))
			return true;
	return false;
}

static bool is_taken(const char *name)
{
	for (unsigned i = 0; i < adaptors.n; i++)
		if (!strcmp(adaptors.item[i].service.name, name))
			return true;
	return false;
}

static void add(const struct ob_service *service)
{
	char name[sizeof(service->name)];

	if (adaptors.n == OB_SERVICES_MAX)
		return;
	memcpy(name, service->name, sizeof(name));
	for (unsigned i = 2; is_taken(name); i++)
		snprintf(name, sizeof(name), "%.26s-%u", service->name, i % 1000);
	adaptors.item[adaptors.n].service = *service;
	memcpy(adaptors.item[adaptors.n++].service.name, name, sizeof(name));
}

/* Those that are in their usual places, and not configured. */
static void add_usual(const struct ob_guest_config *config, const struct ob_adaptor *adaptor)
{
	for (const char *const *socket = adaptor->sockets; *socket; socket++) {
		struct ob_service service;

		if (is_configured(config, *socket))
			continue;
		ob_service_init(&service, adaptor);
		snprintf(service.socket, sizeof(service.socket), "%s", *socket);
		add(&service);
	}
}

void ob_adaptors_init(const struct ob_guest_config *config, const char *state_dir)
{
	snprintf(adaptors.state_dir, sizeof(adaptors.state_dir), "%s", state_dir);
	for (unsigned i = 0; i < config->n; i++)
		add(&config->service[i]);
	if (!config->discover)
		return;
	for (const struct ob_adaptor *const *kind = ob_adaptor_kinds; *kind; kind++)
		add_usual(config, *kind);
}

void ob_child_init(const char *name, unsigned first)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, name);
	/* Kernels before 5.9 do not know that; there is little more than clients. */
	if (syscall(SYS_close_range, first, ~0u, 0u) < 0)
		for (unsigned other = first; other < 4 + 2 * OB_CLIENTS_MAX; other++)
			close((int)other);
}

static void become_adaptor(const struct ob_service *service, int fd)
{
	char subject[80];

	if (dup2(fd, 3) != 3)
		_exit(1);
	ob_child_init("overbook-adapt", 4);
	snprintf(subject, sizeof(subject), "overbook-guest: %s", service->name);
	ob_log_set_subject(subject);
	_exit(ob_adaptor_serve(service, 3, adaptors.state_dir));
}

static void start(unsigned i)
{
	const struct ob_service *service = &adaptors.item[i].service;
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return;
	pid = fork();
	if (pid == 0)
		become_adaptor(service, pair[1]);
	ob_fd_close(&pair[1]);
	if (pid < 0 || ob_clients_add(pair[0], service->adaptor->kind) < 0) {
		ob_fd_close(&pair[0]);
		ob_log_limited(OB_LOG_WARNING, "cannot start an adaptor for \"%s\"", service->name);
	}
	if (pid < 0)
		return;
	adaptors.item[i].pid = pid;
	adaptors.item[i].started_ns = ob_now_ns();
}

static void forget(unsigned i)
{
	uint64_t now_ns = ob_now_ns(), *wait_ns = &adaptors.item[i].wait_ns;

	*wait_ns = now_ns - adaptors.item[i].started_ns >= GOOD_LIFE_NS || !*wait_ns ? WAIT_LEAST_NS : OB_MIN(2 * *wait_ns, WAIT_MOST_NS);
	adaptors.item[i].pid = 0;
	adaptors.item[i].next_ns = now_ns + *wait_ns;
}

static void reap(void)
{
	for (unsigned i = 0; i < adaptors.n; i++)
		if (adaptors.item[i].pid && waitpid(adaptors.item[i].pid, NULL, WNOHANG) > 0)
			forget(i);
}

uint64_t ob_adaptors_due_ns(void)
{
	return adaptors.n ? adaptors.look_ns : UINT64_MAX;
}

static bool find_socket(unsigned i, struct stat *ret_st)
{
	return stat(adaptors.item[i].service.socket, ret_st) == 0 && S_ISSOCK(ret_st->st_mode);
}

/* Whether a server, by whatever path, is that of one who comes before it, or is running. */
static bool is_anothers(unsigned i, const struct stat *st)
{
	struct stat other;

	for (unsigned k = 0; k < adaptors.n; k++)
		if (k != i && (k < i || adaptors.item[k].pid) && find_socket(k, &other) && other.st_dev == st->st_dev && other.st_ino == st->st_ino)
			return true;
	return false;
}

/* One that is known by its process is looked for by its adaptor: a user's processes can make who looks at them wait. */
static bool is_there(unsigned i)
{
	struct stat st;

	return adaptors.item[i].service.adaptor->find || (find_socket(i, &st) && !is_anothers(i, &st));
}

void ob_adaptors_turn(void)
{
	uint64_t now_ns = ob_now_ns();

	if (now_ns < adaptors.look_ns)
		return;
	adaptors.look_ns = now_ns + LOOK_NS;
	reap();
	for (unsigned i = 0; i < adaptors.n; i++)
		if (!adaptors.item[i].pid && now_ns >= adaptors.item[i].next_ns && is_there(i))
			start(i);
}

void ob_adaptors_end(void)
{
	for (unsigned i = 0; i < adaptors.n; i++)
		if (adaptors.item[i].pid) {
			kill(adaptors.item[i].pid, SIGKILL);
			waitpid(adaptors.item[i].pid, NULL, 0);
		}
}
