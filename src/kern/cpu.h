/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which processor a thread of this process runs on. */
#ifndef OB_KERN_CPU_H
#define OB_KERN_CPU_H

#include <sched.h>
#include <stdint.h>

#include "base/compiler.h"

/* The processor on which a thread of this process ran last, or -errno. */
int ob_cpu_of_thread(uint32_t thread) OB_MUST_CHECK;

/* Binds the calling thread to one processor. 0 or -errno (it may not run there). */
int ob_cpu_bind(int cpu) OB_MUST_CHECK;

#endif
