/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Logging: one line to stderr a call, "<N>" priorities in front when systemd's journal listens, and the subject
 * (program, or machine) in every line. Libraries (kern, proto, engine) do not log above debug.
 *
 * Safe from any thread; formats into a buffer on the stack and writes it with one write(2): no heap, no stdio lock.
 */
#ifndef OB_BASE_LOG_H
#define OB_BASE_LOG_H

#include <stdint.h>

#include "base/compiler.h"

enum ob_log_level { OB_LOG_ERROR = 3, OB_LOG_WARNING = 4, OB_LOG_INFO = 6, OB_LOG_DEBUG = 7 };

/* Sets what every line starts with; the text is copied (at most 79 bytes). Call before threads start. */
void ob_log_set_subject(const char *subject);

/* Lines less urgent than level are dropped; the default is OB_LOG_INFO, or what OVERBOOK_LOG (error, warning, info, debug) says. */
void ob_log_set_level(enum ob_log_level level);

/* Whether a line of that level is written. */
int ob_log_is_wanted(enum ob_log_level level);

/* From now on a line that stderr (a full pipe) would not take at once is dropped: for threads that must never wait. */
void ob_log_never_wait(void);

void ob_log(enum ob_log_level level, const char *fmt, ...) OB_PRINTF(2, 3);

/* At most one line a second from one place of the code; the next one says how many were left out. */
struct ob_log_limit {
	uint64_t next_ns;
	unsigned suppressed;
};
int ob_log_allowed(struct ob_log_limit *limit, unsigned *ret_suppressed);
#define ob_log_limited(level, fmt, ...)                                                                             \
	do {                                                                                                        \
		static struct ob_log_limit limit_;                                                                  \
		unsigned left_out_;                                                                                 \
		if (ob_log_allowed(&limit_, &left_out_))                                                            \
			ob_log(level, left_out_ ? fmt " (and %u more)" : fmt "%.0u", ##__VA_ARGS__, left_out_);     \
	} while (0)

#endif
