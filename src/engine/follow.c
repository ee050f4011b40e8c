/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a fault worker runs: beside the thread whose faults it answers; and that thread beside it.
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
 * The lease. That is not enough on a host with idle processors: the thread is woken by a worker that is running on its processor, so
 * the kernel (select_idle_sibling) finds that one busy and puts the thread on one that idles, where the worker finds it 10 ms
 * later, and the same begins again. So the thread's own mask is set to that one processor as well. On a virtual machine of two
 * processors that idle otherwise a fault takes 9 us instead of 45 (docs/architecture.md). On a host without idle processors nothing changes: the thread
 * stays where it is anyhow.
 *
 * It is the host's thread, with which nothing must happen that anybody notices:
 *
 * - A lease is short. Every 10 ms it is looked at, and ends when faults no longer come mostly from that thread, or fewer than 20 in
 *   10 ms, or when most of them wait for reads from a store that is not brisk (below): while they do the processor idles anyhow, and such
 *   a run is no faster with a lease. Whoever waits for events during one does so for 20 ms at most, so a lease ends with its storm. Only a worker
 *   that will wait next takes one; and what remains when the engine ends is ended then.
 * - It ends as well when the thread has waited for its processor for more than a quarter of the time since the last look: somebody else
 *   wants it, and the scheduler must be able to place the thread. (Waiting for the worker is no part of that: a thread that is
 *   woken goes before it. On an idle host it hardly waits at all, and beside one busy loop on the same processor not for
 *   so long either: neither of the two gets less than without a lease.)
 * - The same while the worker mostly spins (below) and has waited for the processor itself, so long: then it takes it from somebody.
 * - The mask that it gets back is the one that it had. When at a look it is not the one that was set, it is somebody else's
 *   (libvirt, taskset), and is left. Only who sets the very same one is not noticed: the thread is free again later.
 * - After either of these, or when the kernel refuses, there is no lease for a second; twice as long each time that it happens
 *   again soon, up to 64 s. Where a worker may not bind itself there is none either: QEMU's -sandbox resourcecontrol=deny, which libvirt
 *   asks for, answers both with EPERM. It is on before there is guest RAM, so no mask stays that could not be given back.
 * - What a thread makes would inherit its mask. The agent calls ob_engine_before_thread() from its hook of pthread_create() and before a
 *   fork(): the lease ends, and there is no other for a second, after which the new thread is there. What makes processes
 *   without fork() (posix_spawn, vfork) is not seen; in QEMU that is the main thread's business, which never gets a lease.
 * - A thread with one processor needs none. Where config.keep_affinity is set nobody gets one.
 *
 * The spin. With a lease and a brisk store, one whose reads take BRISK_NS or less on average, the worker does not sleep until the read has
 * ended: it looks for that, for twice as long at most. The processor has nothing else to do, else there would be no lease; and to be woken from
 * idleness is dear on a virtual machine (docs/architecture.md). It burns no more than the thread would use if its memory were there. What a
 * read takes for longer is slept through.
 *
 * Locking. All but the binding itself is under event_lock, and the lease under a lock of its own, since hooks do not wait for events. ob_follow()
 * looks at is_led and leader without it: the two may be of different windows then, and a worker sits beside the wrong
 * thread, or a thread has a lease in vain, for 10 ms.
 */
#include <sched.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "kern/cpu.h"

#define WINDOW       64u
#define MOST         (WINDOW - WINDOW / 8)
#define AGAIN_NS     (10 * OB_NS_PER_MS)
#define LEAST        20u /* faults in AGAIN_NS that are worth a lease */
#define QUIET_MS     20
#define CROWDED      4u  /* the part of the time that a thread with a lease may wait: one in so many */
#define BRISK_NS     (75 * OB_NS_PER_US)
#define PAUSE_MIN_NS OB_NS_PER_SEC
#define PAUSE_MAX_NS (64 * OB_NS_PER_SEC)

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

/* Returns whether the worker is where the thread ran last. */
static int bind_to(struct ob_worker *worker, uint32_t thread)
{
	int cpu = ob_cpu_of_thread(thread);

	if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &worker->allowed))
		return 0;
	if (cpu != worker->bound && ob_cpu_bind(cpu) == 0)
		worker->bound = cpu;
	return cpu == worker->bound;
}

void ob_follow_note(struct ob_worker *worker, const struct ob_uffd_fault *faults, int n)
{
	struct ob_follow *follow = &worker->engine->follow;

	ob_store(&follow->faults, follow->faults + (uint64_t)OB_MAX(n, 0));
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

/* No lease for a while: for twice as long as the last time, if that was lately. */
static void pause_leases(struct ob_lease *lease, uint64_t now)
{
	int is_often = now - lease->paused_until_ns < lease->pause_ns;

	lease->pause_ns = is_often ? OB_MIN(2 * lease->pause_ns, PAUSE_MAX_NS) : PAUSE_MIN_NS;
	lease->paused_until_ns = now + lease->pause_ns;
}

static void take_lease(struct ob_engine *engine, uint32_t thread, int cpu, uint64_t now)
{
	struct ob_lease *lease = &engine->follow.lease;
	cpu_set_t one;
	int r = ob_cpu_mask(thread, &lease->had);

	if (r == 0 && (CPU_COUNT(&lease->had) == 1 || !CPU_ISSET(cpu, &lease->had)))
		return;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (r == 0)
		r = ob_cpu_waited(thread, &lease->waited_ns);
	if (r == 0)
		r = ob_cpu_set_mask(thread, &one);
	if (r < 0) {
		ob_count(engine, leases_refused, 1);
		pause_leases(lease, now);
		return;
	}
	lease->cpu = cpu;
	ob_count(engine, leases, 1);
	ob_store(&lease->thread, thread);
}

static int is_ours(const struct ob_lease *lease, const cpu_set_t *mask)
{
	return CPU_COUNT(mask) == 1 && CPU_ISSET(lease->cpu, mask);
}

/*
 * Gives the thread back what it had, unless somebody else has given it something meanwhile. Where our processor is no part of that, it
 * may have been the kernel, for a cpuset that changed; it remembers our wish until there is another, so this one becomes the
 * thread's. Returns whether the mask was ours, or the thread is gone. What the kernel refuses now remains.
 */
static int end_lease(struct ob_lease *lease)
{
	uint32_t thread = lease->thread;
	cpu_set_t mask;
	int r = ob_cpu_mask(thread, &mask), was_ours = r < 0 || is_ours(lease, &mask);

	if (r == 0 && was_ours)
		r = ob_cpu_restore_mask(thread, &lease->had);
	else if (r == 0 && !CPU_ISSET(lease->cpu, &mask))
		r = ob_cpu_restore_mask(thread, &mask);
	ob_store(&lease->thread, 0);
	return was_ours;
}

/* Whether the thread has waited for its processor for long since the last look. */
static int is_crowded(struct ob_lease *lease, uint64_t elapsed)
{
	uint64_t before = lease->waited_ns;

	return ob_cpu_waited(lease->thread, &lease->waited_ns) == 0 && lease->waited_ns - before > elapsed / CROWDED;
}

static int is_brisk(const struct ob_engine *engine)
{
	return ob_load(&engine->read_ns) <= BRISK_NS;
}

/* Whether a lease would have paid since the last look: there were many faults, and not most of them waited for a store that is not brisk. */
static int is_worth_it(struct ob_engine *engine, uint64_t elapsed)
{
	struct ob_lease *lease = &engine->follow.lease;
	uint64_t faults = ob_load(&engine->follow.faults), reads = ob_load(&engine->counters.faults_swapped);
	uint64_t came = faults - lease->faults, read = reads - lease->reads;

	lease->faults = faults;
	lease->reads = reads;
	ob_store(&lease->mostly_reads, 2 * read >= came);
	return ob_load(&engine->follow.is_led) && came * AGAIN_NS >= LEAST * elapsed && (!lease->mostly_reads || is_brisk(engine));
}

/* Whether a worker that mostly spins has waited for its processor for long since it asked last. Else its waiting is that for its thread. */
static int is_in_the_way(struct ob_worker *worker, uint64_t now)
{
	uint64_t before = worker->waited_ns, elapsed = now - worker->asked_ns;

	worker->asked_ns = now;
	return ob_cpu_waited((uint32_t)gettid(), &worker->waited_ns) == 0 && worker->engine->follow.lease.mostly_reads &&
	       worker->waited_ns - before > elapsed / CROWDED;
}

/* Takes, keeps or ends the lease; its lock is held. The worker is where the leader ran last, or it is not. */
static void look_at_lease(struct ob_worker *worker, int is_beside, uint64_t now)
{
	struct ob_engine *engine = worker->engine;
	struct ob_lease *lease = &engine->follow.lease;
	uint64_t elapsed = now - lease->looked_ns;
	uint32_t leader = ob_load(&engine->follow.leader);
	int is_worth, crowded;
	cpu_set_t mask;

	if (elapsed < AGAIN_NS)
		return;
	lease->looked_ns = now;
	is_worth = is_worth_it(engine, elapsed);
	if (!lease->thread) {
		if (is_worth && is_beside && worker->holds_events && now >= lease->paused_until_ns && leader != (uint32_t)getpid())
			take_lease(engine, leader, worker->bound, now);
		return;
	}
	/* Both are asked: each goes by what it saw last. */
	crowded = is_crowded(lease, elapsed) | is_in_the_way(worker, now);
	if (is_worth && leader == lease->thread && !crowded && ob_cpu_mask(leader, &mask) == 0 && is_ours(lease, &mask))
		return;
	if (!end_lease(lease) || crowded) {
		ob_count(engine, leases_broken, 1);
		pause_leases(lease, now);
	}
}

void ob_follow(struct ob_worker *worker, uint64_t now)
{
	struct ob_follow *follow = &worker->engine->follow;
	int is_beside = 0;

	if (!worker->may_bind || now - worker->followed_ns < AGAIN_NS)
		return;
	worker->followed_ns = now;
	if (ob_load(&follow->is_led))
		is_beside = bind_to(worker, ob_load(&follow->leader));
	else
		unbind(worker);
	if (ob_load(&worker->engine->config.keep_affinity))
		return;
	pthread_mutex_lock(&follow->lease.lock);
	look_at_lease(worker, is_beside, now);
	pthread_mutex_unlock(&follow->lease.lock);
}

uint64_t ob_follow_spin_ns(const struct ob_engine *engine)
{
	return ob_load(&engine->follow.lease.thread) && is_brisk(engine) ? 2 * BRISK_NS : 0;
}

int ob_follow_patience_ms(const struct ob_engine *engine)
{
	return ob_load(&engine->follow.lease.thread) ? QUIET_MS : -1;
}

void ob_engine_before_thread(struct ob_engine *engine)
{
	struct ob_follow *follow = &engine->follow;
	struct ob_lease *lease = &follow->lease;
	uint32_t self = (uint32_t)gettid();

	/* Who is not the leader gets no lease before he has faulted often. */
	if (self != ob_load(&lease->thread) && self != ob_load(&follow->leader))
		return;
	pthread_mutex_lock(&lease->lock);
	if (self == lease->thread)
		end_lease(lease);
	lease->paused_until_ns = OB_MAX(lease->paused_until_ns, ob_now_ns() + PAUSE_MIN_NS);
	pthread_mutex_unlock(&lease->lock);
}

void ob_follow_stop(struct ob_engine *engine)
{
	if (engine->follow.lease.thread)
		end_lease(&engine->follow.lease);
}
