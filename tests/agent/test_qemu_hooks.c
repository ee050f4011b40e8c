/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's hooks, called as QEMU calls them, in a process that is no QEMU: one whose name says so, with the agent
 * preloaded and a RAM placeholder of its own. The program executes itself once more for that:
 *
 *     test_qemu_hooks AGENT     in a directory of its own, which is removed again
 *
 * RAM is twice the limit, so that most of it is away whenever it is used.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../engine/account.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "proto/env.h"

#define RAM_BYTES   (32ull << 20)
#define LIMIT_TEXT  "16777216"
#define PIECE       (1ull << 20)
#define HANG_NS     (30 * OB_NS_PER_SEC)
#define IOMMUFD_MAP _IO(';', 0x85) /* not in Debian 12's headers */

ssize_t __pread64_chk(int fd, void *buf, size_t size, off_t offset, size_t room);

static char directory[256];
static char *ram;
static int placeholder = -1;

/* A page of this number: half of it does not compress. */
static void fill(uint64_t *page, uint64_t number)
{
	uint64_t x = number * 0x9e3779b97f4a7c15 + 1;

	for (unsigned i = 0; i < 512; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		page[i] = i % 2 ? x : number;
	}
}

static void check_bytes(const char *bytes, uint64_t first, uint64_t pages)
{
	uint64_t want[512];

	for (uint64_t i = 0; i < pages; i++) {
		fill(want, first + i);
		assert_memory_equal(bytes + i * 4096, want, 4096);
	}
}

static void fill_ram(void)
{
	for (uint64_t i = 0; i < RAM_BYTES / 4096; i++)
		fill((uint64_t *)(void *)(ram + i * 4096), i);
}

static int scratch_file(int flags)
{
	int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);

	assert_true(fd >= 0);
	return fd;
}

static int set_up(void **state)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/ram", directory);
	placeholder = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (placeholder < 0 || unlink(path) < 0 || ftruncate(placeholder, RAM_BYTES) < 0)
		return -1;
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, placeholder, 0);
	return ram == MAP_FAILED ? -1 : 0;
}

static void ram_is_anonymous_and_the_file_stays_empty(void **state)
{
	struct stat st;

	fill_ram();
	check_bytes(ram, 0, RAM_BYTES / 4096);
	assert_int_equal(fstat(placeholder, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_null(getenv("LD_PRELOAD"));
	assert_null(getenv(OB_ENV_NAME));
}

static void all_kinds_of_io(void **state)
{
	char *copy = malloc(PIECE);
	uint64_t pages = PIECE / 4096, n = RAM_BYTES / PIECE;
	int fd = scratch_file(0);

	fill_ram();
	for (uint64_t i = 0; i < n; i++) {
		struct iovec iov[2] = { { ram + i * PIECE, PIECE / 2 }, { ram + i * PIECE + PIECE / 2, PIECE / 2 } };
		off_t at = (off_t)(i * PIECE);
		ssize_t done = 0;

		switch (i % 4) {
		case 0: done = pwrite(fd, ram + at, PIECE, at); break;
		case 1: done = pwritev(fd, iov, 2, at); break;
		case 2: done = pwritev2(fd, iov, 2, at, 0); break;
		case 3:
			assert_int_equal(lseek(fd, at, SEEK_SET), at);
			done = writev(fd, iov, 2);
		}
		assert_int_equal(done, PIECE);
		assert_int_equal(syscall(SYS_pread64, fd, copy, PIECE, at), PIECE);
		check_bytes(copy, i * pages, pages);
	}
	/* And back, each piece to where its neighbour was. */
	for (uint64_t i = 0; i < n; i++) {
		char *to = ram + (i + 1) % n * PIECE;
		struct iovec iov[2] = { { to, PIECE / 2 }, { to + PIECE / 2, PIECE / 2 } };
		off_t at = (off_t)(i * PIECE);
		ssize_t done = 0;

		switch (i % 4) {
		case 0: done = pread(fd, to, PIECE, at); break;
		case 1: done = preadv(fd, iov, 2, at); break;
		case 2: done = preadv2(fd, iov, 2, at, 0); break;
		case 3: done = __pread64_chk(fd, to, PIECE, at, PIECE);
		}
		assert_int_equal(done, PIECE);
	}
	for (uint64_t i = 0; i < n; i++)
		check_bytes(ram + (i + 1) % n * PIECE, i * pages, pages);
	close(fd);
	free(copy);
}

static void discards(void **state)
{
	static const char zeros[4096];

	fill_ram();
	assert_int_equal(madvise(ram, RAM_BYTES, MADV_MERGEABLE), 0);
	assert_int_equal(madvise(ram + 4096, 4096, MADV_DONTNEED), 0);
	assert_int_equal(fallocate(placeholder, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * 4096, 4096), 0);
	assert_int_equal(fallocate64(placeholder, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * 4096, 4096), 0);
	assert_ptr_equal(mmap(ram + 7 * 4096, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, placeholder, 7 * 4096),
			 ram + 7 * 4096);
	for (uint64_t i = 0; i < 10; i++) {
		if (i == 1 || i == 3 || i == 5 || i == 7)
			assert_memory_equal(ram + i * 4096, zeros, 4096);
		else
			check_bytes(ram + i * 4096, i, 1);
	}
	check_bytes(ram + 10 * 4096, 10, RAM_BYTES / 4096 - 10);
}

static int errno_of_ioctl(unsigned long request, void *arg)
{
	errno = 0;
	assert_int_equal(ioctl(-1, request, arg), -1);
	return errno;
}

static void ioctls_that_would_pin_or_take_over(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct vhost_scsi_target target = { 0 };
	struct vfio_iommu_type1_dma_map vfio = { .argsz = sizeof(vfio), .vaddr = (uintptr_t)ram + PIECE, .size = 4096 };
	struct {
		uint32_t size, flags, ioas_id, reserved;
		uint64_t user_va, length, iova;
	} map = { .size = sizeof(map), .user_va = (uintptr_t)ram, .length = RAM_BYTES };

	assert_int_equal(errno_of_ioctl(UFFDIO_API, &api), EOPNOTSUPP);
	assert_int_equal(errno_of_ioctl(VHOST_SCSI_SET_ENDPOINT, &target), EOPNOTSUPP);
	assert_int_equal(errno_of_ioctl(VFIO_IOMMU_MAP_DMA, &vfio), EOPNOTSUPP);
	assert_int_equal(errno_of_ioctl(IOMMUFD_MAP, &map), EOPNOTSUPP);
	/* Memory that is none of the guest's goes to the kernel, which has no such descriptor. */
	vfio.vaddr = map.user_va = (uintptr_t)directory;
	vfio.size = map.length = 64;
	assert_int_equal(errno_of_ioctl(VFIO_IOMMU_MAP_DMA, &vfio), EBADF);
	assert_int_equal(errno_of_ioctl(IOMMUFD_MAP, &map), EBADF);
}

/* Sends a byte and a descriptor; returns 0 or the errno. */
static int pass_descriptor(int passed)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { directory, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int pair[2], r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.align), &passed, sizeof(int));
	r = sendmsg(pair[0], &msg, 0) == 1 ? 0 : errno;
	close(pair[0]);
	close(pair[1]);
	return r;
}

static void the_placeholder_is_not_handed_out(void **state)
{
	int other = scratch_file(0);

	assert_int_equal(pass_descriptor(placeholder), EPERM);
	assert_int_equal(ftruncate(other, 4096), 0);
	close(other);
	assert_int_equal(pass_descriptor(STDERR_FILENO), 0);
}

/* The four ways in which a stream leaves QEMU; each returns 0 or the errno. */
static int by_writev(int fd, int socket, struct iovec *iov)
{
	return writev(fd, iov, 1) < 0 ? errno : 0;
}

static int by_sendmsg(int fd, int socket, struct iovec *iov)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 1 };

	return sendmsg(socket, &msg, 0) < 0 ? errno : 0;
}

static int by_pwritev(int fd, int socket, struct iovec *iov)
{
	return pwritev(fd, iov, 1, 0) < 0 ? errno : 0;
}

static int by_pwrite(int fd, int socket, struct iovec *iov)
{
	return pwrite(fd, iov->iov_base, iov->iov_len, 0) < 0 ? errno : 0;
}

/* What QEMU 7.2 and 10.0 were seen to write. */
#define HEAD "QEVM\0\0\0\3\7\0\0\0\3pc1"
#define SECTION "\5\32configuration/capabilities\0\0\0\1\0\0\0\1"

static void streams_without_ram(void **state)
{
	static const char whole[] = HEAD, other[] = HEAD SECTION "\17x-ignore-dreams",
		ignoring[] = HEAD SECTION "\17x-ignore-shared", cpr[] = "QCPR\0\0\0\1", end_only[] = HEAD SECTION "\17x-ignore-share";
	static int (*const ways[])(int, int, struct iovec *) = { by_writev, by_sendmsg, by_pwritev, by_pwrite };
	static const struct {
		const char *bytes;
		size_t length;
		int want;
	} cases[] = {
		{ whole, sizeof(whole), 0 },		{ whole, 3, 0 },
		{ other, sizeof(other), 0 },		{ end_only, sizeof(end_only) - 1, 0 },
		{ ignoring, sizeof(ignoring), EPERM },	{ cpr, sizeof(cpr), EPERM },
	};
	int fd = scratch_file(0), pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		for (size_t k = 0; k < OB_ARRAY_LEN(ways); k++) {
			struct iovec iov = { (void *)(uintptr_t)cases[i].bytes, cases[i].length };

			assert_int_equal(ways[k](fd, pair[0], &iov), cases[i].want);
			/* From guest RAM it is the guest's own business. */
			memcpy(ram, cases[i].bytes, cases[i].length);
			iov.iov_base = ram;
			assert_int_equal(ways[k](fd, pair[0], &iov), 0);
		}
	}
	close(fd);
	close(pair[0]);
	close(pair[1]);
}

static int large_pages_are_forbidden(void)
{
	struct account_mapping mapping;

	assert_int_equal(account_mapping(ram, OB_PAGE_SIZE, &mapping), 0);
	return mapping.large_forbidden;
}

/* As overbookd has said when it admitted the machine; QEMU asks for them all the same. */
static void no_large_pages_come_about(void **state)
{
	assert_int_equal(large_pages_are_forbidden(), 1);
	assert_int_equal(madvise(ram, RAM_BYTES, MADV_HUGEPAGE), 0);
	assert_int_equal(large_pages_are_forbidden(), 1);
	assert_null(getenv(OB_ENV_LARGE));
}

static void *note_processors(void *mask)
{
	sched_getaffinity(0, sizeof(cpu_set_t), mask);
	return NULL;
}

/* Faults until the engine keeps this thread on one processor, and makes a thread, or a process, then. */
static void *make_one_while_kept(void *is_process)
{
	static cpu_set_t had, theirs;
	uint64_t x = 1, until = ob_now_ns() + HANG_NS;
	pthread_t thread;
	pid_t pid;
	int status;

	note_processors(&had);
	do {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		((volatile char *)ram)[x % RAM_BYTES];
		note_processors(&theirs);
	} while (CPU_COUNT(&theirs) > 1 && ob_now_ns() < until);
	if (CPU_COUNT(&theirs) > 1)
		return &theirs;
	if (is_process) {
		pid = fork();
		if (pid == 0) {
			note_processors(&theirs);
			_exit(!CPU_EQUAL(&theirs, &had));
		}
		return waitpid(pid, &status, 0) == pid && status == 0 ? NULL : is_process;
	}
	if (pthread_create(&thread, NULL, note_processors, &theirs) == 0)
		pthread_join(thread, NULL);
	return CPU_EQUAL(&theirs, &had) ? NULL : &had;
}

static void what_a_busy_thread_makes_may_run_anywhere(void **state)
{
	static char is_process;
	pthread_t thread;
	cpu_set_t mask;
	void *wrong;

	note_processors(&mask);
	if (CPU_COUNT(&mask) == 1) {
		print_message("skipped: there is one processor\n");
		skip();
	}
	fill_ram();
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_create(&thread, NULL, make_one_while_kept, i % 2 ? &is_process : NULL), 0);
		pthread_join(thread, &wrong);
		assert_null(wrong);
	}
}

static int run_inside(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_is_anonymous_and_the_file_stays_empty),
		cmocka_unit_test(all_kinds_of_io),
		cmocka_unit_test(discards),
		cmocka_unit_test(ioctls_that_would_pin_or_take_over),
		cmocka_unit_test(the_placeholder_is_not_handed_out),
		cmocka_unit_test(streams_without_ram),
		cmocka_unit_test(no_large_pages_come_about),
		cmocka_unit_test(what_a_busy_thread_makes_may_run_anywhere),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}

static void execute_inside(char *self, char *agent)
{
	char inside[] = "inside", *argv[] = { self, inside, directory, NULL };

	setenv(OB_ENV_NAME, "hooks", 1);
	setenv(OB_ENV_DIR, directory, 1);
	setenv(OB_ENV_LIMIT, LIMIT_TEXT, 1);
	setenv(OB_ENV_SWAP, directory, 1);
	setenv(OB_ENV_REQUIRE, "1", 1);
	setenv(OB_ENV_LARGE, "off", 1);
	setenv("LD_PRELOAD", agent, 1);
	execv("/proc/self/exe", argv);
	_exit(127);
}

int main(int argc, char **argv)
{
	const char *where = getenv("OVERBOOK_TEST_DIR");
	int status = 0;
	pid_t pid;

	if (argc == 3 && !strcmp(argv[1], "inside")) {
		snprintf(directory, sizeof(directory), "%s", argv[2]);
		return run_inside();
	}
	if (argc != 2)
		return fprintf(stderr, "usage: test_qemu_hooks AGENT\n"), 2;
	snprintf(directory, sizeof(directory), "%.200s/overbook-hooks-XXXXXX", where && *where ? where : "/var/tmp");
	if (!mkdtemp(directory))
		return perror(directory), 1;
	pid = fork();
	if (pid == 0)
		execute_inside(argv[0], argv[1]);
	waitpid(pid, &status, 0);
	rmdir(directory);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
