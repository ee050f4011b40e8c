/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent's constructor and its state. See agent.h. */
#include "agent/agent.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"

struct ob_agent ob_agent;

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);
	char *end;
	uint64_t value;

	if (!text || !*text)
		return otherwise;
	value = strtoull(text, &end, 10);
	return *end ? otherwise : value;
}

/* Copies a variable; one that does not fit counts as absent. */
static void text_from(const char *variable, char *buf, size_t size)
{
	const char *text = getenv(variable);

	buf[0] = '\0';
	if (text && strlen(text) < size)
		memcpy(buf, text, strlen(text) + 1);
}

/* Whether this process is the emulator, and not a shell or wrapper on the way to it. */
static int is_emulator(void)
{
	char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *base;

	if (n <= 0)
		return 0;
	path[n] = '\0';
	base = strrchr(path, '/');
	base = base ? base + 1 : path;
	return strstr(base, "qemu") != NULL;
}

/* Takes the agent out of LD_PRELOAD, so that QEMU's children are spared it. */
static void leave_preload(void)
{
	const char *list = getenv("LD_PRELOAD");
	char rest[4096] = "", copy[4096], *save = NULL;
	size_t used = 0;

	if (!list || strlen(list) >= sizeof(copy))
		return;
	snprintf(copy, sizeof(copy), "%s", list);
	for (char *item = strtok_r(copy, ": ", &save); item; item = strtok_r(NULL, ": ", &save)) {
		const char *base = strrchr(item, '/');

		if (!strcmp(base ? base + 1 : item, "liboverbook-agent.so"))
			continue;
		used += (size_t)snprintf(rest + used, sizeof(rest) - used, "%s%s", used ? ":" : "", item);
	}
	if (used)
		setenv("LD_PRELOAD", rest, 1);
	else
		unsetenv("LD_PRELOAD");
}

static void leave_environment(void)
{
	static const char *const variables[] = {
		OB_ENV_NAME, OB_ENV_DIR, OB_ENV_LIMIT, OB_ENV_MAXIMUM, OB_ENV_RESERVATION, OB_ENV_SHARES,
		OB_ENV_DOMAIN, OB_ENV_SWAP, OB_ENV_SOCKET, OB_ENV_REQUIRE, OB_ENV_SHARE_MAPPED, OB_ENV_KEEP_AFFINITY, OB_ENV_BALLOON,
		OB_ENV_LARGE, OB_ENV_FAULT,
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(variables); i++)
		unsetenv(variables[i]);
	leave_preload();
}

static void read_environment(void)
{
	struct ob_error err = { 0 };
	char dir[sizeof(ob_agent.dir)], require[8], mapped[8], affinity[8], balloon[8], large[8], subject[96];

	text_from(OB_ENV_NAME, ob_agent.name, sizeof(ob_agent.name));
	text_from(OB_ENV_DOMAIN, ob_agent.domain, sizeof(ob_agent.domain));
	text_from(OB_ENV_SOCKET, ob_agent.socket, sizeof(ob_agent.socket));
	text_from(OB_ENV_SWAP, ob_agent.swap, sizeof(ob_agent.swap));
	text_from(OB_ENV_DIR, dir, sizeof(dir));
	text_from(OB_ENV_REQUIRE, require, sizeof(require));
	ob_agent.require = !strcmp(require, "1");
	text_from(OB_ENV_SHARE_MAPPED, mapped, sizeof(mapped));
	ob_agent.share_mapped = !strcmp(mapped, "1");
	text_from(OB_ENV_KEEP_AFFINITY, affinity, sizeof(affinity));
	ob_agent.keep_affinity = !strcmp(affinity, "1");
	text_from(OB_ENV_LARGE, large, sizeof(large));
	ob_agent.no_large = !strcmp(large, "off");
	text_from(OB_ENV_BALLOON, balloon, sizeof(balloon));
	if (*balloon)
		ob_agent.balloon = strcmp(balloon, "auto") ? OB_BALLOON_OFF : OB_BALLOON_AUTO;
	ob_agent.limit_bytes = number_from(OB_ENV_LIMIT, 0);
	ob_agent.maximum_bytes = number_from(OB_ENV_MAXIMUM, 0);
	ob_agent.reservation_bytes = number_from(OB_ENV_RESERVATION, 0);
	ob_agent.shares = (uint32_t)number_from(OB_ENV_SHARES, OB_SHARES_DEFAULT);
	snprintf(subject, sizeof(subject), "overbook[%s]", ob_agent.name);
	ob_log_set_subject(subject);
	ob_log_never_wait();
	if (ob_fault_configure(getenv(OB_ENV_FAULT), &err) < 0)
		ob_log(OB_LOG_WARNING, "%s: %s", OB_ENV_FAULT, err.text);
	/* The kernel names open files by their canonical path. */
	if (dir[0]) {
		char *canonical = realpath(dir, NULL);

		if (canonical && strlen(canonical) < sizeof(ob_agent.dir))
			memcpy(ob_agent.dir, canonical, strlen(canonical) + 1);
		free(canonical);
	}
}

__attribute__((constructor)) static void agent_init(void)
{
	if (!getenv(OB_ENV_NAME) || !is_emulator())
		return;
	read_environment();
	leave_environment();
	ob_agent.active = ob_agent.name[0] && ob_agent.dir[0];
	if (!ob_agent.active)
		ob_log(OB_LOG_ERROR, "%s and %s do not name a machine and its directory: nothing is looked after", OB_ENV_NAME,
		       OB_ENV_DIR);
	else if (pthread_atfork(ob_hooks_before_thread, NULL, NULL))
		ob_agent.active = 0;
}
