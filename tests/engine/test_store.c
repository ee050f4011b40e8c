/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A store that is full, failing or broken for a while: nothing is lost, it shows, and service resumes by itself.
 *
 * The full store is a real one where this may mount a file system of its own (root, in a private mount namespace), and an
 * injected ENOSPC everywhere.
 */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account.h"
#include "base/fault.h"
#include "base/fd.h"
#include "engine/internal.h"
#include "player.h"

#define RAM_MIB     48u
#define LIMIT_BYTES (16 * OB_MIB)
#define SETTLE_MS   15000u

static int is_degraded(void *context)
{
	return bed_stats(context).degraded != 0;
}

static int has_been_over(void *context)
{
	return bed_stats(context).over_limit_ns > 0;
}

static int is_well(void *context)
{
	struct ob_stats stats = bed_stats(context);

	return !stats.degraded && !stats.over_limit_bytes && stats.cost_bytes <= stats.limit_bytes;
}

static void play(struct bed *bed, struct ram *ram, enum crew_mix mix)
{
	struct crew_config config = { .engine = bed->engine, .rams = { ram }, .ram_count = 1, .players = 2,
				      .ops_each = bed_scale(1000, 3000, 100000), .seed = 11, .mix = mix };
	struct crew *crew = NULL;

	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
}

/* The whole of it: memory that does not fit is written; it must show which way the store fails; then it is mended. */
static void suffers_and_recovers(struct bed *bed, uint64_t degraded_bits, void (*mend)(void *context), void *context)
{
	struct ram *ram = ram_new(RAM_MIB * MIB_PAGES, 0x57);
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, RAM_MIB * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	bed_assert_ok(bed, account_wait(is_degraded, bed, SETTLE_MS));
	play(bed, ram, CREW_CHECK_WRITE);
	stats = bed_stats(bed);
	assert_int_equal(stats.degraded & degraded_bits, degraded_bits);
	assert_true(stats.over_limit_bytes > 4 * OB_MIB);
	bed_assert_ok(bed, account_wait(has_been_over, bed, SETTLE_MS));
	assert_true(stats.cost_bytes == stats.limit_bytes + stats.over_limit_bytes);
	bed_assert_ok(bed, ram_check_all(ram));
	mend(context);
	bed_assert_ok(bed, account_wait(is_well, bed, SETTLE_MS));
	play(bed, ram, CREW_CHECK_WRITE);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(bed->unreadable_count, 0);
	bed_free(bed);
	assert_int_equal(ram_check_all(ram), 0);
	ram_free(ram);
}

static void disarm(void *context)
{
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
}

static void no_space_by_injection(void **state)
{
	assert_int_equal(ob_fault_configure("swap_grow:2+:ENOSPC", NULL), 0);
	suffers_and_recovers(bed_new(LIMIT_BYTES, 1), OB_DEGRADED_SWAP_FULL, disarm, NULL);
}

static void every_write_fails(void **state)
{
	assert_int_equal(ob_fault_configure("swap_write:5+:EIO", NULL), 0);
	suffers_and_recovers(bed_new(LIMIT_BYTES, 1), OB_DEGRADED_SWAP_ERROR, disarm, NULL);
}

static void writes_run_out_of_space(void **state)
{
	assert_int_equal(ob_fault_configure("swap_write:5+:ENOSPC", NULL), 0);
	suffers_and_recovers(bed_new(LIMIT_BYTES, 1), OB_DEGRADED_SWAP_FULL, disarm, NULL);
}

/* A pool that was made small for the guest's good is large while there is nothing else. */
static void the_pool_takes_what_the_store_does_not(void **state)
{
	struct ram *ram = ram_new(RAM_MIB * MIB_PAGES, 0x59);
	struct bed *bed = bed_new(LIMIT_BYTES, 1);

	ob_store(&bed->engine->pool_parts, OB_POOL_PARTS / 16);
	assert_int_equal(ob_fault_configure("swap_write:1+:EIO", NULL), 0);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, RAM_MIB * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_MIXED);
	assert_true(bed_stats(bed).pool_bytes > LIMIT_BYTES / 4);
	bed_assert_ok(bed, ram_check_all(ram));
	disarm(NULL);
	bed_assert_ok(bed, account_wait(is_well, bed, SETTLE_MS));
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

static void remove_file(void *context)
{
	assert_int_equal(unlink(context), 0);
}

static int fill_file(const char *path, size_t bytes)
{
	int OB_FD fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	return -posix_fallocate(fd, 0, (off_t)bytes);
}

static char dir[512]; /* where the small file system is, so that it goes whatever becomes of the test */

static int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "%s/overbook-test-full.XXXXXX", bed_dir());
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	umount2(dir, MNT_DETACH);
	return rmdir(dir);
}

static void a_small_file_system_fills_up(void **state)
{
	char ballast[600];
	struct bed *bed;
	int r;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("overbook-test", dir, "tmpfs", 0, "size=80M")) {
		print_message("# no file system can be mounted here: nothing to see\n");
		return;
	}
	snprintf(ballast, sizeof(ballast), "%s/ballast", dir);
	assert_int_equal(fill_file(ballast, 64 * OB_MIB), 0);
	r = bed_try(LIMIT_BYTES, dir, &bed);
	bed_assert_ok(bed, r);
	suffers_and_recovers(bed, OB_DEGRADED_SWAP_FULL, remove_file, ballast);
}

/* One page after another cannot be read: the machine is stopped, the cause told, and nothing is guessed. */
static int was_unreadable(void *context)
{
	struct bed *bed = context;
	int seen;

	pthread_mutex_lock(&bed->lock);
	seen = bed->unreadable_count > 0;
	pthread_mutex_unlock(&bed->lock);
	return seen;
}

static int was_read_at_last(void *context)
{
	struct bed *bed = context;
	int seen;

	pthread_mutex_lock(&bed->lock);
	seen = bed->readable_count > 0;
	pthread_mutex_unlock(&bed->lock);
	return seen;
}

static void reads_fail(const char *spec)
{
	struct bed *bed = bed_new(LIMIT_BYTES, 1);
	struct ram *ram = ram_new(RAM_MIB * MIB_PAGES, 0x58);
	struct crew_config config = { .engine = bed->engine, .rams = { ram }, .ram_count = 1, .players = 2,
				      .ops_each = 1000000, .seed = 12, .mix = CREW_READ };
	struct crew *crew = NULL;
	uint64_t ops;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, RAM_MIB * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	assert_int_equal(ob_fault_configure(spec, NULL), 0);
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	bed_assert_ok(bed, account_wait(was_unreadable, bed, SETTLE_MS));
	assert_true(bed_stats(bed).degraded & OB_DEGRADED_STOPPED);
	assert_true(bed_stats(bed).swap_read_errors > 0);
	assert_int_equal(ram_wrong_count(), 0);
	assert_true(strlen(bed->cause) > 0);
	disarm(NULL);
	bed_assert_ok(bed, account_wait(was_read_at_last, bed, SETTLE_MS));
	ops = crew_ops(crew);
	bed_assert_ok(bed, crew_wait_ops(crew, ops + 1000, HANG_MS)); /* the guest goes on */
	crew_stop(crew);
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	assert_false(bed_stats(bed).degraded & OB_DEGRADED_STOPPED);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

static void reads_fail_with_an_error(void **state)
{
	reads_fail("swap_read:10+:EIO");
}

static void reads_are_cut_short(void **state)
{
	reads_fail("swap_read:10+:short");
}

static void reads_bring_wrong_bytes(void **state)
{
	reads_fail("swap_read:10+:flip");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_space_by_injection),
		cmocka_unit_test(every_write_fails),
		cmocka_unit_test(the_pool_takes_what_the_store_does_not),
		cmocka_unit_test(writes_run_out_of_space),
		cmocka_unit_test_setup_teardown(a_small_file_system_fills_up, make_dir, remove_dir),
		cmocka_unit_test(reads_fail_with_an_error),
		cmocka_unit_test(reads_are_cut_short),
		cmocka_unit_test(reads_bring_wrong_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
