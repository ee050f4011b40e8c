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

/* The smaller and the larger of two. Each argument is evaluated once: it may be a call, or what another thread changes. */
#define OB_MIN(a, b)            OB_PICK(<, a, b, __COUNTER__)
#define OB_MAX(a, b)            OB_PICK(>, a, b, __COUNTER__)
/* Each has names of its own, so that one may stand in another's arguments. */
#define OB_PICK(than, a, b, n)  OB_PICK_(than, a, b, n)
#define OB_PICK_(than, a, b, n) ({ __auto_type ob_a##n = (a); __auto_type ob_b##n = (b); ob_a##n than ob_b##n ? ob_a##n : ob_b##n; })

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
