/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KVM is the one that faults: a bare-metal guest walks, writes and verifies its memory under a limit of a quarter of it,
 * on one and two processors, while the limit moves. Between the start of the guest and its end no thread of the host touches
 * the memory, so every fault that the engine answers meanwhile is KVM's; that there were such faults is asserted, and in the
 * end the host reads all memory and finds what the guest says it wrote. The guest's page tables, code and stacks lie in the
 * memory that is lifted.
 */
#include "../engine/bed.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../engine/account.h"
#include "base/clock.h"
#include "vm.h"

#define RAM_BYTES   (bed_scale(96, 96, 256) * OB_MIB)
#define LIMIT_BYTES (RAM_BYTES / 4)
#define OWN_BYTES   OB_MIB /* what KVM and the test take beside */

struct machine {
	struct bed *bed;
	uint8_t *mapping, *ram;
	struct vm vm;
};

struct processor {
	struct machine *machine;
	unsigned number;
	enum guest_job job;
	uint64_t operations;
	struct ob_error err;
	int result, ended;
	pthread_t thread;
};

/* Whether a guest runs at all here, without any engine. */
static int kvm_works(char *why, size_t size)
{
	struct ob_error err = { 0 };
	struct vm vm;
	uint8_t *ram = mmap(NULL, 16 * OB_MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	if (ram == MAP_FAILED)
		return 0;
	r = vm_create(&vm, ram, 16 * OB_MIB, 1, &err);
	if (!r) {
		r = vm_run(&vm, 0, GUEST_PLAY, 100, &err);
		if (!r && (vm.shared[0]->wrong || vm.shared[0]->checked != 100))
			r = ob_error_set(&err, EPROTO, "the guest does not compute right");
		vm_destroy(&vm);
	}
	munmap(ram, 16 * OB_MIB);
	snprintf(why, size, "%s", err.text);
	return !r;
}

static void make(struct machine *machine, uint64_t limit_bytes, unsigned vcpus)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uintptr_t start;

	machine->bed = bed_new(limit_bytes, 1);
	machine->mapping = mmap(NULL, RAM_BYTES + OB_CHUNK_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	assert_true(machine->mapping != MAP_FAILED);
	start = ((uintptr_t)machine->mapping + OB_CHUNK_SIZE - 1) & ~(uintptr_t)(OB_CHUNK_SIZE - 1);
	machine->ram = (uint8_t *)start;
	assert_int_equal(madvise(machine->ram, RAM_BYTES, MADV_DONTFORK), 0);
	assert_int_equal(madvise(machine->ram, RAM_BYTES, MADV_HUGEPAGE), 0);
	bed_assert_ok(machine->bed, ob_engine_add_region(machine->bed->engine, machine->ram, RAM_BYTES, &machine->bed->err));
	bed_assert_ok(machine->bed, vm_create(&machine->vm, machine->ram, RAM_BYTES, vcpus, &machine->bed->err));
}

static void unmake(struct machine *machine)
{
	vm_destroy(&machine->vm);
	bed_free(machine->bed);
	munmap(machine->mapping, RAM_BYTES + OB_CHUNK_SIZE);
}

static void *run_processor(void *argument)
{
	struct processor *processor = argument;

	processor->result = vm_run(&processor->machine->vm, processor->number, processor->job, processor->operations,
				   &processor->err);
	__atomic_store_n(&processor->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void start_all(struct machine *machine, struct processor *processors, enum guest_job job, uint64_t operations)
{
	for (unsigned i = 0; i < machine->vm.vcpus; i++) {
		processors[i] = (struct processor){ .machine = machine, .number = i, .job = job, .operations = operations };
		assert_int_equal(pthread_create(&processors[i].thread, NULL, run_processor, &processors[i]), 0);
	}
}

static int all_ended(const struct machine *machine, struct processor *processors)
{
	for (unsigned i = 0; i < machine->vm.vcpus; i++)
		if (!__atomic_load_n(&processors[i].ended, __ATOMIC_ACQUIRE))
			return 0;
	return 1;
}

static void join_all(struct machine *machine, struct processor *processors)
{
	for (unsigned i = 0; i < machine->vm.vcpus; i++) {
		const struct guest_vcpu *guest = machine->vm.shared[i];

		pthread_join(processors[i].thread, NULL);
		if (processors[i].result)
			print_error("%s\n", processors[i].err.text);
		assert_int_equal(processors[i].result, 0);
		if (guest->wrong)
			print_error("guest page %llu word %llu: %#llx instead of %#llx\n",
				    (unsigned long long)guest->wrong_page, (unsigned long long)guest->wrong_word,
				    (unsigned long long)guest->wrong_seen, (unsigned long long)guest->wrong_expected);
		assert_int_equal(guest->wrong, 0);
		assert_true(guest->checked > 0);
	}
}

static uint64_t faults_of(const struct ob_stats *stats)
{
	return stats->faults_touch + stats->faults_open + stats->faults_bench + stats->faults_zero +
	       stats->faults_compressed + stats->faults_swapped;
}

/* What the guest wrote, as the host reads it. */
static void check_from_host(struct machine *machine)
{
	uint64_t sum = 0, counted = 0, wrong = 0;

	for (uint64_t page = 0; page < vm_guest_pages(&machine->vm); page++) {
		const uint64_t *words = (const uint64_t *)(void *)(machine->ram + (GUEST_COUNTERS + page) * GUEST_PAGE);

		for (unsigned i = 0; i < GUEST_WORDS; i++)
			wrong += words[i] != guest_word(page, machine->vm.versions[page], i);
	}
	for (unsigned page = 0; page < GUEST_COUNTERS; page++) {
		const uint64_t *words = (const uint64_t *)(void *)(machine->ram + page * (size_t)GUEST_PAGE);

		sum += words[0];
		for (unsigned i = 1; i < GUEST_WORDS; i++)
			wrong += words[i] != 0;
	}
	for (unsigned i = 0; i < machine->vm.vcpus; i++)
		counted += machine->vm.shared[i]->counted;
	assert_int_equal(wrong, 0);
	assert_int_equal(sum, counted);
}

/* Runs a job and looks at the process's memory meanwhile; allowed_bytes is what it may hold above before_bytes. */
static void run_job(struct machine *machine, enum guest_job job, uint64_t operations, int64_t before_bytes)
{
	int64_t allowed = before_bytes + (int64_t)(LIMIT_BYTES + LIMIT_BYTES / 50 + OWN_BYTES), worst = 0;
	struct processor processors[GUEST_VCPUS];
	struct ob_stats before = bed_stats(machine->bed), after;
	uint64_t samples = 0, faults, compressed, swapped;

	start_all(machine, processors, job, operations);
	while (!all_ended(machine, processors)) {
		int64_t now = account_rss_bytes();

		worst = OB_MAX(worst, now);
		samples++;
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	join_all(machine, processors);
	after = bed_stats(machine->bed);
	faults = faults_of(&after) - faults_of(&before);
	compressed = after.faults_compressed - before.faults_compressed;
	swapped = after.faults_swapped - before.faults_swapped;
	print_message("# %u vCPU, %s: %llu faults by KVM (%llu compressed, %llu swapped), worst %.1f of %.1f MiB\n",
		      machine->vm.vcpus, job == GUEST_WALK ? "walk" : "play", (unsigned long long)faults,
		      (unsigned long long)compressed, (unsigned long long)swapped, (double)(worst - before_bytes) / OB_MIB,
		      (double)LIMIT_BYTES / OB_MIB);
	assert_true(samples > 10);
	assert_true(BED_SANITIZED || worst <= allowed);
	assert_true(faults > 1000);
	assert_true(swapped > 0);
	assert_true(compressed > 0);
	assert_true(after.lifted_pages > before.lifted_pages);
	assert_int_equal(after.internal_errors, 0);
}

static void guest_in_a_quarter(unsigned vcpus)
{
	uint64_t operations = bed_scale(3000, 10000, 500000);
	int64_t before = account_rss_bytes() + (int64_t)VM_LOW_BYTES;
	struct machine machine;

	make(&machine, LIMIT_BYTES, vcpus);
	run_job(&machine, GUEST_WALK, 0, before);
	run_job(&machine, GUEST_PLAY, operations, before);
	check_from_host(&machine);
	unmake(&machine);
}

static void one_processor_in_a_quarter(void **state)
{
	guest_in_a_quarter(1);
}

static void two_processors_in_a_quarter(void **state)
{
	guest_in_a_quarter(2);
}

static void set_limit(struct machine *machine, unsigned step)
{
	static const unsigned percent[] = { 25, 75, 50, 0, 25, 200, 30 };
	uint64_t limit = RAM_BYTES * percent[step % OB_ARRAY_LEN(percent)] / 100;

	if (percent[step % OB_ARRAY_LEN(percent)] == 200)
		bed_assert_ok(machine->bed, ob_engine_release(machine->bed->engine, NULL, NULL, &machine->bed->err));
	else
		bed_assert_ok(machine->bed, ob_engine_set_limit(machine->bed->engine, limit));
}

/* The guest starts with all the memory it wants; then the limit moves, and the engine lets go and engages again. */
static void limits_move_under_a_running_guest(void **state)
{
	uint64_t operations = bed_scale(1500, 4000, 200000);
	struct processor processors[GUEST_VCPUS];
	struct machine machine;

	make(&machine, 0, GUEST_VCPUS);
	start_all(&machine, processors, GUEST_WALK, 0);
	join_all(&machine, processors);
	for (unsigned step = 0; step < bed_scale(7, 7, 28); step++) {
		start_all(&machine, processors, GUEST_PLAY, operations / 4);
		set_limit(&machine, step);
		join_all(&machine, processors);
	}
	check_from_host(&machine);
	unmake(&machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_processor_in_a_quarter),
		cmocka_unit_test(two_processors_in_a_quarter),
		cmocka_unit_test(limits_move_under_a_running_guest),
	};
	char why[800];

	if (!kvm_works(why, sizeof(why))) {
		printf("1..0 # SKIP no guest can run here: %s\n", why);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
