/* SPDX-License-Identifier: GPL-2.0-or-later */
/* On which processors threads of this process run, and may run. */
#ifndef OB_KERN_CPU_H
#define OB_KERN_CPU_H

#include <sched.h>
#include <stdint.h>

#include "base/compiler.h"

/* The processor on which a thread of this process ran last, or -errno. */
int ob_cpu_of_thread(uint32_t thread) OB_MUST_CHECK;

/* Binds the calling thread to one processor. 0 or -errno (it may not run there). */
int ob_cpu_bind(int cpu) OB_MUST_CHECK;

/* How long a thread of this process has waited for a processor so far. 0 or -errno (a kernel without CONFIG_SCHED_INFO). */
int ob_cpu_waited(uint32_t thread, uint64_t *ret_ns) OB_MUST_CHECK;

/*
 * Asks for the calling thread to have its turn soon after it wakes, for short pieces of work: it gets turns of OB_CPU_SHORT_NS, and the
 * scheduler takes first whose turn would end first (EEVDF with a thread's own slice: Linux 6.12; older kernels ignore it). It gets no
 * more of the processor for that, and needs no privilege. Nothing else of how it is scheduled is changed. 0 or -errno.
 */
#define OB_CPU_SHORT_NS 100000ull /* the least that Linux takes */
int ob_cpu_short_turns(void) OB_MUST_CHECK;

/* The processors on which a thread may run, and what is to be them: of a thread of this process alone. 0 or -errno. */
int ob_cpu_mask(uint32_t thread, cpu_set_t *ret_mask) OB_MUST_CHECK;
int ob_cpu_set_mask(uint32_t thread, const cpu_set_t *mask) OB_MUST_CHECK;

/*
 * The same for a mask that the thread had before. Since Linux 6.2 a thread never gets more than it asked for last, its cpuset may
 * grow as it likes; so where the mask is all that the cpuset allows, the thread is made one that has asked for nothing.
 */
int ob_cpu_restore_mask(uint32_t thread, const cpu_set_t *mask) OB_MUST_CHECK;

#endif
