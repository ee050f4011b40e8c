/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Time. Everything inside is monotonic nanoseconds; wall time is for logs only. */
#ifndef OB_BASE_CLOCK_H
#define OB_BASE_CLOCK_H

#include <stdint.h>

#define OB_NS_PER_SEC 1000000000ull
#define OB_NS_PER_MS  1000000ull
#define OB_NS_PER_US  1000ull

/* CLOCK_MONOTONIC in nanoseconds. Never fails, takes no lock. */
uint64_t ob_now_ns(void);

/* CPU time that the calling thread has used, in nanoseconds. */
uint64_t ob_thread_cpu_ns(void);

#endif
