/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * --guest: a bare-metal guest under KVM (tests/kvm) has the memory and touches it itself, so that whoever faults is KVM. Its
 * fill is a walk that writes every page and checks it; an access is a page checked, every byte of it, and one in three
 * rewritten, most of them in a window of an eighth of memory that moves on. Its pages are an eighth zero, three eighths
 * compressible, half random; --content, --pattern and --write-percent say nothing to it. It runs for some thousand accesses
 * at a time, between which the clock is looked at. How long its faults take cannot be seen from here.
 */
#include "pager.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "../tests/kvm/vm.h"
#include "base/clock.h"

#define TURN 1000 /* accesses */

struct processor {
	struct pager_guest *guest;
	pthread_t thread;
	unsigned number;
	enum guest_job job;
	uint64_t ops, deadline_ns, done, faults; /* of the stage that runs */
	struct ob_error err;
	int result;
};

struct pager_guest {
	struct vm vm;
	struct processor processors[GUEST_VCPUS];
};

static uint64_t faults_of_thread(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

static int run_turn(struct processor *processor)
{
	struct vm *vm = &processor->guest->vm;
	const struct guest_vcpu *vcpu = vm->shared[processor->number];
	uint64_t checked = vcpu->checked;
	int r = vm_run(vm, processor->number, processor->job, TURN, &processor->err);

	if (!r && vcpu->wrong)
		r = ob_error_set(&processor->err, EILSEQ, "guest page %llu is wrong: word %llu is %#llx instead of %#llx",
				 (unsigned long long)vcpu->wrong_page, (unsigned long long)vcpu->wrong_word,
				 (unsigned long long)vcpu->wrong_seen, (unsigned long long)vcpu->wrong_expected);
	processor->done += vcpu->checked - checked;
	return r;
}

static void *run_processor(void *argument)
{
	struct processor *processor = argument;
	uint64_t faults = faults_of_thread();

	do
		processor->result = run_turn(processor);
	while (!processor->result && processor->job == GUEST_PLAY &&
	       (processor->ops ? processor->done < processor->ops : ob_now_ns() < processor->deadline_ns));
	processor->faults = faults_of_thread() - faults;
	return NULL;
}

static int run_all(struct pager_guest *guest, enum guest_job job, struct pager_stage *stage, struct ob_error *err)
{
	uint64_t deadline_ns = ob_now_ns() + (uint64_t)(stage->seconds * 1e9);
	unsigned started = 0;
	int r = 0;

	for (; started < guest->vm.vcpus && !r; started += r ? 0 : 1) {
		struct processor *processor = &guest->processors[started];

		*processor = (struct processor){ .guest = guest, .number = started, .job = job, .deadline_ns = deadline_ns,
						 .ops = stage->ops ? OB_MAX(stage->ops / guest->vm.vcpus, 1u) : 0 };
		r = pthread_create(&processor->thread, NULL, run_processor, processor);
	}
	if (r)
		ob_error_sys(err, r, "cannot start a thread");
	for (unsigned i = 0; i < started; i++) {
		const struct processor *processor = &guest->processors[i];

		pthread_join(processor->thread, NULL);
		stage->tally.ops += processor->done;
		stage->tally.faults += processor->faults;
		if (processor->result && !r) {
			*err = processor->err;
			r = processor->result;
		}
	}
	return r > 0 ? -r : r;
}

int pager_guest_open(struct pager *pager, struct pager_guest **ret_guest, struct ob_error *err)
{
	struct pager_guest *guest = calloc(1, sizeof(*guest));
	struct pager_stage walk = { 0 };
	int r;

	if (!guest)
		return ob_error_sys(err, ENOMEM, "cannot make a guest");
	r = vm_create(&guest->vm, pager->base, pager->options->size_bytes, pager->options->threads, err);
	if (r < 0) {
		free(guest);
		return ob_error_wrap(err, "no guest can run here");
	}
	*ret_guest = guest;
	return run_all(guest, GUEST_WALK, &walk, err);
}

int pager_guest_run(struct pager_guest *guest, struct pager_stage *stage, struct ob_error *err)
{
	uint64_t start_ns = ob_now_ns();
	struct rusage first, last;
	int r;

	getrusage(RUSAGE_SELF, &first);
	r = run_all(guest, GUEST_PLAY, stage, err);
	getrusage(RUSAGE_SELF, &last);
	stage->wall_seconds = (double)(ob_now_ns() - start_ns) / 1e9;
	stage->user_seconds = pager_seconds_of(&last.ru_utime) - pager_seconds_of(&first.ru_utime);
	stage->system_seconds = pager_seconds_of(&last.ru_stime) - pager_seconds_of(&first.ru_stime);
	return r;
}
