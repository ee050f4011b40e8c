/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the kernel can do, how it is set, and what on the host works against us. Everything is read from /proc and /sys. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/meminfo.h"
#include "base/units.h"
#include "cli/doctor.h"
#include "kern/probe.h"

#define MAP_COUNT_GOOD 262144
#define UFFD_GROUP     "overbook" /* contrib/host/60-overbook.rules */
#define THP            "/sys/kernel/mm/transparent_hugepage/enabled"
#define KSM            "/sys/kernel/mm/ksm/run"

/* Whether the package's udev rule is in force. */
static int uffd_is_our_groups(void)
{
	const struct group *group = getgrnam(UFFD_GROUP);
	struct stat st;

	return group && stat("/dev/userfaultfd", &st) == 0 && st.st_gid == group->gr_gid && (st.st_mode & 060) == 060;
}

static void check_kernel(struct ob_doctor_report *report)
{
	struct ob_kern_features features = { 0 };
	struct ob_error err = { 0 };
	int r = ob_kern_probe(&features, &err);

	if (r == 0) {
		ob_doctor_add(report, "kernel", OB_DOCTOR_OK,
			      "Linux %s: userfaultfd (through %s), UFFDIO_MOVE, PAGEMAP_SCAN%s%s", features.release,
			      features.uffd_device ? "/dev/userfaultfd" : "the system call", features.uffd_wp_async ? ", asynchronous write-protection" : "",
			      features.io_uring ? ", io_uring" : "; no io_uring: the swap store reads and writes one thing at a time");
		return;
	}
	ob_doctor_add(report, "kernel", OB_DOCTOR_BAD, "%s", err.text);
	if (r == -EPERM)
		ob_doctor_advise(report, "the engine cannot start: machines run without Overbook", "%s",
				 uffd_is_our_groups() ? "adduser $USER " UFFD_GROUP "   (and log in again; or run as root)"
						      : "setfacl -m u:$USER:rw /dev/userfaultfd   (or run as root)");
	else
		ob_doctor_advise(report, "the engine cannot start: machines run without Overbook",
				 "boot Linux 6.8 or newer (Debian 12: apt install -t bookworm-backports linux-image-amd64)");
}

/* The word in brackets in "always [madvise] never". */
static void chosen_word(char *text)
{
	char *start = strchr(text, '['), *end = start ? strchr(start, ']') : NULL;

	if (!end)
		return;
	*end = 0;
	memmove(text, start + 1, strlen(start + 1) + 1);
}

static void check_large_pages(struct ob_doctor_report *report)
{
	char text[128];

	if (ob_read_text(THP, text, sizeof(text)) < 0) {
		ob_doctor_add(report, "large-pages", OB_DOCTOR_WARN, "the kernel has no transparent huge pages");
		ob_doctor_advise(report, "guests run slower: more TLB misses, and every page is lifted by itself",
				 "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
		return;
	}
	chosen_word(text);
	if (strcmp(text, "never")) {
		ob_doctor_add(report, "large-pages", OB_DOCTOR_OK, "transparent huge pages: %s", text);
		return;
	}
	ob_doctor_add(report, "large-pages", OB_DOCTOR_WARN, "transparent huge pages are switched off");
	ob_doctor_advise(report, "guests run slower: more TLB misses, and every page is lifted by itself",
			 "echo madvise > " THP);
}

static void check_map_count(struct ob_doctor_report *report)
{
	unsigned long maximum = ob_kern_max_map_count();

	ob_doctor_add(report, "max-map-count", maximum >= MAP_COUNT_GOOD ? OB_DOCTOR_OK : OB_DOCTOR_WARN,
		      "vm.max_map_count is %lu", maximum);
	if (maximum < MAP_COUNT_GOOD)
		ob_doctor_advise(report, "a machine of many GiB in small pieces runs out of mappings, and reclaims less "
				 "than it could",
				 "sysctl -w vm.max_map_count=1048576   (keep it: /etc/sysctl.d/overbook.conf)");
}

static void check_overcommit(struct ob_doctor_report *report)
{
	char text[32] = "";

	if (ob_read_text("/proc/sys/vm/overcommit_memory", text, sizeof(text)) < 0)
		return;
	ob_doctor_add(report, "overcommit", strcmp(text, "2") ? OB_DOCTOR_OK : OB_DOCTOR_BAD, "vm.overcommit_memory is %s",
		      text);
	if (!strcmp(text, "2"))
		ob_doctor_advise(report, "the kernel counts every machine's whole memory, twice, against its commit limit "
				 "and refuses it",
				 "sysctl -w vm.overcommit_memory=0");
}

static void check_ksm(struct ob_doctor_report *report)
{
	char text[32] = "0";

	if (ob_read_text(KSM, text, sizeof(text)) < 0)
		snprintf(text, sizeof(text), "0");
	if (strcmp(text, "1")) {
		ob_doctor_add(report, "ksm", OB_DOCTOR_OK, "the kernel's same-page merging does not run");
		return;
	}
	ob_doctor_add(report, "ksm", OB_DOCTOR_WARN, "the kernel's same-page merging (KSM) runs");
	ob_doctor_advise(report, "CPU time for nothing: machines under Overbook are kept out of it",
			 "echo 2 > " KSM "   (and: systemctl disable --now ksmtuned)");
}

static void check_host_swap(struct ob_doctor_report *report)
{
	char text[4096], zswap[8] = "N", *line;
	unsigned areas = 0;

	if (ob_read_text("/proc/swaps", text, sizeof(text)) < 0)
		return;
	for (line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
		areas++;
	if (!areas) {
		ob_doctor_add(report, "host-swap", OB_DOCTOR_OK, "the host has no swap of its own");
		return;
	}
	if (ob_read_text("/sys/module/zswap/parameters/enabled", zswap, sizeof(zswap)) < 0)
		snprintf(zswap, sizeof(zswap), "N");
	ob_doctor_add(report, "host-swap", OB_DOCTOR_WARN, "the host swaps by itself (%u area%s%s)", areas,
		      areas > 1 ? "s" : "",
		      *zswap == 'Y' ? ", zswap on" : "");
	ob_doctor_advise(report, "the kernel may swap out what Overbook holds compressed or keeps as hot, and a machine's "
			 "cost is counted wrongly",
			 "sysctl -w vm.swappiness=1   (or: swapoff -a)");
}

static void check_kvm(struct ob_doctor_report *report)
{
	int OB_FD fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		ob_doctor_add(report, "kvm", OB_DOCTOR_OK, "/dev/kvm can be opened");
		return;
	}
	ob_doctor_add(report, "kvm", OB_DOCTOR_WARN, "/dev/kvm cannot be opened: %s", strerror(errno));
	ob_doctor_advise(report, "guests run under TCG, many times slower",
			 errno == EACCES ? "adduser $USER kvm   (and log in again)"
									  : "modprobe kvm_intel || modprobe kvm_amd   (and switch virtualisation on in the firmware)");
}

static void check_memory(struct ob_doctor_report *report)
{
	uint64_t total_bytes = ob_meminfo("MemTotal");
	char total[16], available[16];

	if (total_bytes)
		ob_doctor_add(report, "memory", OB_DOCTOR_OK, "the host has %s, of which %s are available",
			      ob_size_format(total, sizeof(total), total_bytes),
			      ob_size_format(available, sizeof(available), ob_meminfo("MemAvailable")));
}

void ob_doctor_check_host(struct ob_doctor_report *report)
{
	check_kernel(report);
	check_large_pages(report);
	check_map_count(report);
	check_overcommit(report);
	check_ksm(report);
	check_host_swap(report);
	check_kvm(report);
	check_memory(report);
}
