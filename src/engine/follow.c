/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a fault worker runs: beside the thread whose faults it answers.
 *
 * Theory of operation. A fault puts its thread to sleep and wakes a worker; the answer does the reverse. Where both share
 * a processor these are two plain switches. Where they do not, each is an interrupt to another processor, which idles and
 * must first be woken, which is dear, above all on a virtual machine (five to ten times there), while the faulting thread's
 * own processor has nothing to do meanwhile. Spinning on another processor would avoid half of that, and burn the processor.
 *
 * So while nearly all faults come from one thread (7 of 8 in a window of 64), a worker binds itself to the processor on
 * which that thread ran last, and looks again every 10 ms. When the faults come from several threads it takes the
 * processors back that it had at its start, and the scheduler places it. A processor on which it may not run (a cpuset
 * that was changed) leaves it where it is.
 *
 * All but the binding itself is under event_lock. ob_follow() looks at is_led and leader without it: the two may be of
 * different windows then, and a worker sits beside the wrong thread for 10 ms.
 */
#include "base/clock.h"
#include "engine/internal.h"
#include "kern/cpu.h"

#define WINDOW     64u
#define MOST       (WINDOW - WINDOW / 8)
#define AGAIN_NS   (10 * OB_NS_PER_MS)

void ob_follow_start(struct ob_worker *worker)
{
	worker->bound = -1;
	worker->may_bind = sched_getaffinity(0, sizeof(worker->allowed), &worker->allowed) == 0;
}

static void unbind(struct ob_worker *worker)
{
	if (worker->bound >= 0 && sched_setaffinity(0, sizeof(worker->allowed), &worker->allowed) == 0)
		worker->bound = -1;
}

static void bind_to(struct ob_worker *worker, uint32_t thread)
{
	int cpu = ob_cpu_of_thread(thread);

	if (cpu < 0 || cpu == worker->bound || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &worker->allowed))
		return;
	if (ob_cpu_bind(cpu) == 0)
		worker->bound = cpu;
}

void ob_follow_note(struct ob_worker *worker, const struct ob_uffd_fault *faults, int n)
{
	struct ob_follow *follow = &worker->engine->follow;

	for (int i = 0; i < n; i++) {
		follow->of_leader += faults[i].thread == follow->leader;
		if (!follow->seen)
			follow->candidate = faults[i].thread;
		if (++follow->seen < WINDOW)
			continue;
		ob_store(&follow->is_led, follow->of_leader >= MOST);
		if (!follow->is_led)
			ob_store(&follow->leader, follow->candidate);
		follow->seen = follow->of_leader = 0;
	}
}

void ob_follow(struct ob_worker *worker, uint64_t now)
{
	const struct ob_follow *follow = &worker->engine->follow;

	if (!worker->may_bind || now - worker->followed_ns < AGAIN_NS)
		return;
	worker->followed_ns = now;
	if (ob_load(&follow->is_led))
		bind_to(worker, ob_load(&follow->leader));
	else
		unbind(worker);
}
