/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static char log_subject[80] = "overbook";
static enum ob_log_level log_level;
static int log_prefix_priority = -1, log_never_waits;

static enum ob_log_level level_from_environment(void)
{
	const char *text = getenv("OVERBOOK_LOG");

	if (text && !strcmp(text, "error"))
		return OB_LOG_ERROR;
	if (text && !strcmp(text, "warning"))
		return OB_LOG_WARNING;
	if (text && !strcmp(text, "debug"))
		return OB_LOG_DEBUG;
	return OB_LOG_INFO;
}

void ob_log_set_subject(const char *subject)
{
	snprintf(log_subject, sizeof(log_subject), "%s", subject);
	log_prefix_priority = getenv("JOURNAL_STREAM") != NULL;
	if (!log_level)
		log_level = level_from_environment();
}

void ob_log_set_level(enum ob_log_level level)
{
	log_level = level;
}

int ob_log_is_wanted(enum ob_log_level level)
{
	return level <= (log_level ? log_level : OB_LOG_INFO);
}

void ob_log_never_wait(void)
{
	log_never_waits = 1;
}

void ob_log(enum ob_log_level level, const char *fmt, ...)
{
	char line[1024];
	int saved = errno;
	size_t used = 0;
	va_list ap;

	if (!ob_log_is_wanted(level))
		return;
	if (log_prefix_priority > 0)
		used = (size_t)snprintf(line, sizeof(line), "<%d>", (int)level);
	used += (size_t)snprintf(line + used, sizeof(line) - used, "%s: ", log_subject);
	va_start(ap, fmt);
	vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	va_end(ap);
	used = strlen(line);
	line[used++] = '\n';
	if (log_never_waits && poll(&(struct pollfd){ .fd = STDERR_FILENO, .events = POLLOUT }, 1, 0) != 1)
		used = 0;
	while (used && write(STDERR_FILENO, line, used) < 0 && errno == EINTR)
		;
	errno = saved;
}

int ob_log_allowed(struct ob_log_limit *limit, unsigned *ret_suppressed)
{
	uint64_t now = ob_now_ns();
	uint64_t next = __atomic_load_n(&limit->next_ns, __ATOMIC_RELAXED);

	if (now < next || !__atomic_compare_exchange_n(&limit->next_ns, &next, now + OB_NS_PER_SEC, 0,
						       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(&limit->suppressed, 1, __ATOMIC_RELAXED);
		return 0;
	}
	*ret_suppressed = __atomic_exchange_n(&limit->suppressed, 0, __ATOMIC_RELAXED);
	return 1;
}
