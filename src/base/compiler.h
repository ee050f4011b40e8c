/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Attributes and small macros that every layer uses. */
#ifndef OB_BASE_COMPILER_H
#define OB_BASE_COMPILER_H

#include <stddef.h>

#define OB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define OB_MUST_CHECK        __attribute__((warn_unused_result))
#define OB_EXPORT            __attribute__((visibility("default")))
#define OB_CLEANUP(fn)       __attribute__((cleanup(fn)))
#define OB_LIKELY(x)         __builtin_expect(!!(x), 1)
#define OB_UNLIKELY(x)       __builtin_expect(!!(x), 0)
#define OB_ARRAY_LEN(a)      (sizeof(a) / sizeof((a)[0]))
#define OB_MIN(a, b)         ((a) < (b) ? (a) : (b))
#define OB_MAX(a, b)         ((a) > (b) ? (a) : (b))

/* Tells the processor that this thread spins. */
static inline void ob_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
