/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The installation: the agent's file, QEMU, the swap directory, the run directory and overbookd. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "cli/balloon_text.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/doctor.h"
#include "cli/qemu_binary.h"
#include "cli/run_host.h"

#define QEMU_OLDEST    501 /* 5.1: the first with free-page reporting */
#define SWAP_SPACE_MIN (4 * OB_GIB)
#define CLIENTS_SOCKET "overbookd.sock"
#define UNIT_FILE      "/usr/lib/systemd/system/overbookd.socket" /* where the package puts it */

static void check_agent(struct ob_doctor_report *report)
{
	struct ob_error err = { 0 };
	char path[PATH_MAX];

	if (!ob_host_find_agent(path, sizeof(path), &err)) {
		ob_doctor_add(report, "agent", OB_DOCTOR_OK, "%.400s", path);
		return;
	}
	ob_doctor_add(report, "agent", OB_DOCTOR_BAD, "%s", err.text);
	ob_doctor_advise(report, "machines run without Overbook",
			 "install it: meson install -C BUILD   (in a build tree: ninja -C BUILD)");
}

/* "QEMU emulator version 7.2.22 (...)" as 702, or 0. */
static unsigned parse_version(const char *text)
{
	const char *at = strstr(text, "version ");
	unsigned major, minor;

	return at && sscanf(at, "version %u.%u", &major, &minor) == 2 ? major * 100 + minor : 0;
}

static void check_qemu(struct ob_doctor_report *report, const char *qemu)
{
	struct ob_qemu_binary binary;
	struct ob_error err = { 0 };
	char version[256];
	unsigned number;

	if (ob_qemu_binary_find(qemu, &binary, &err) < 0) {
		ob_doctor_add(report, "qemu", OB_DOCTOR_BAD, "%s", err.text);
		ob_doctor_advise(report, "there is nothing to run",
				 "apt install qemu-system-x86   (or: overbook doctor --qemu PATH)");
		return;
	}
	if (ob_qemu_binary_ask_version(binary.path, version, sizeof(version), &err) < 0) {
		ob_doctor_add(report, "qemu", OB_DOCTOR_BAD, "%s", err.text);
		ob_doctor_advise(report, "there is nothing to run", "%.200s -version", binary.path);
		return;
	}
	number = parse_version(version);
	ob_doctor_add(report, "qemu", number >= QEMU_OLDEST ? OB_DOCTOR_OK : OB_DOCTOR_WARN, "%.200s: %.200s", binary.path,
		      version);
	if (number < QEMU_OLDEST)
		ob_doctor_advise(report, "before 5.1 there is no free-page reporting, and the line that is added for it is "
				 "not accepted",
				 "apt install qemu-system-x86");
}

static const struct {
	long type;
	const char *name, *costs; /* costs NULL: fine */
} file_systems[] = {
	{ 0xef53, "ext4", NULL },
	{ 0x58465342, "xfs", NULL },
	{ 0xf2f52010, "f2fs", NULL },
	{ 0x9123683e, "btrfs", "copy-on-write and checksums make every write dearer: use a directory with chattr +C, or "
	  "another file system" },
	{ 0x2fc12fc1, "zfs", "copy-on-write and checksums make every write dearer" },
	{ 0x01021994, "tmpfs", "it is memory: what is swapped out there saves nothing" },
	{ 0x858458f6, "ramfs", "it is memory: what is swapped out there saves nothing" },
	{ 0x6969, "nfs", "every fault waits for the network, and machines stop when the server does" },
	{ 0xff534d42, "cifs", "every fault waits for the network, and machines stop when the server does" },
	{ 0x794c7630, "overlay", NULL },
};

/* The directory itself, or the nearest one above it that exists. */
static void find_existing(char *path)
{
	while (access(path, F_OK) < 0 && strrchr(path, '/') > path)
		*strrchr(path, '/') = 0;
}

static void check_file_system(struct ob_doctor_report *report, const char *dir, const char *exists)
{
	const char *name = "unknown", *costs = NULL;
	uint64_t free_bytes;
	struct statfs fs;
	char space[16];

	if (statfs(exists, &fs) < 0) {
		ob_doctor_add(report, "swap-space", OB_DOCTOR_BAD, "cannot look at the file system of \"%.300s\": %s",
			      exists, strerror(errno));
		ob_doctor_advise(report, "evicted pages have nowhere to go", "overbook doctor --swap DIR");
		return;
	}
	for (size_t i = 0; i < OB_ARRAY_LEN(file_systems); i++)
		if ((unsigned)fs.f_type == (unsigned)file_systems[i].type) {
			name = file_systems[i].name;
			costs = file_systems[i].costs;
		}
	ob_doctor_add(report, "swap-fs", costs ? OB_DOCTOR_WARN : OB_DOCTOR_OK, "\"%.300s\" lies on %s", dir, name);
	if (costs)
		ob_doctor_advise(report, costs, "overbook run --swap DIR, on a local disk");
	free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	ob_size_format(space, sizeof(space), free_bytes);
	ob_doctor_add(report, "swap-space", free_bytes < SWAP_SPACE_MIN ? OB_DOCTOR_WARN : OB_DOCTOR_OK, "%s free there",
		      space);
	if (free_bytes < SWAP_SPACE_MIN)
		ob_doctor_advise(report, "when it is full, eviction stops and machines exceed their limits",
				 "df -h %.200s   (and make room, or --swap DIR elsewhere)",
				 exists);
}

static void check_swap(struct ob_doctor_report *report, const char *given)
{
	char wanted[PATH_MAX], path[PATH_MAX], real[PATH_MAX];
	struct ob_error err = { 0 };
	int r = 0;

	if (given)
		snprintf(wanted, sizeof(wanted), "%s", given);
	else
		r = ob_host_default_swap(wanted, sizeof(wanted), &err);
	if (r == 0 && (given || !access(wanted, F_OK)))
		r = ob_host_find_swap(given, 0, real, sizeof(real), &err);
	if (r < 0) {
		ob_doctor_add(report, "swap-dir", given ? OB_DOCTOR_BAD : OB_DOCTOR_WARN, "%s", err.text);
		ob_doctor_advise(report, "machines have no swap store: what does not compress stays in memory",
				 given && !access(given, F_OK) ? "overbook doctor --swap DIR   (another one, on a local disk)" :
				 "mkdir -m 0700 -p %.200s   (as the user who runs the machines)", given ? given : "DIR");
		return;
	}
	snprintf(path, sizeof(path), "%s", wanted);
	find_existing(path);
	ob_doctor_add(report, "swap-dir", OB_DOCTOR_OK, "\"%.300s\"%s", wanted, strcmp(path, wanted) ? " (made when it is "
		      "needed)" : "");
	check_file_system(report, wanted, path);
}

/* Whether what guests free comes back by itself; the first machine where it does not is named. */
static void check_guests(struct ob_doctor_report *report)
{
	struct ob_error err = { 0 };
	const char *why = NULL, *name = "";
	json_t *answer, *machine;
	size_t i, n, kept = 0;

	if (ob_client_call("ps", NULL, NULL, NULL, &answer, &err) < 0)
		return;
	n = json_array_size(json_object_get(answer, "machines"));
	json_array_foreach(json_object_get(answer, "machines"), i, machine) {
		const char *reason = ob_balloon_why_kept(machine);

		kept += reason != NULL;
		if (!reason || why)
			continue;
		why = reason;
		name = ob_client_text(machine, "name");
	}
	if (why) {
		ob_doctor_add(report, "free-pages", OB_DOCTOR_WARN, "of %zu machines %zu keep what their guests free; \"%.64s\": %s", n, kept, name,
			      why);
		ob_doctor_advise(report, "such memory is compressed or swapped as if it were in use",
				 "a newer kernel in the guest, or its virtio_balloon module; overbook stats NAME says what is missing");
	} else if (n) {
		ob_doctor_add(report, "free-pages", OB_DOCTOR_OK, "no machine is known to keep what its guest frees");
	}
	json_decref(answer);
}

static void check_daemon(struct ob_doctor_report *report)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int OB_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ob_error err = { 0 };
	const char *dir = ob_cli_rundir(&err);

	if (!dir) {
		ob_doctor_add(report, "rundir", OB_DOCTOR_BAD, "%s", err.text);
		ob_doctor_advise(report, "machines have no place for their sockets",
				 "export OVERBOOK_RUNDIR=$HOME/.overbook");
		return;
	}
	snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/" CLIENTS_SOCKET,
		 (int)(sizeof(address.sun_path) - sizeof("/" CLIENTS_SOCKET)), dir);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		ob_doctor_add(report, "overbookd", OB_DOCTOR_OK, "answers at \"%s\"", address.sun_path);
		check_guests(report);
		return;
	}
	ob_doctor_add(report, "overbookd", OB_DOCTOR_WARN, "does not answer at \"%s\": %s", address.sun_path,
		      strerror(errno));
	ob_doctor_advise(report, "no budget for the whole host: every machine has just its own --limit; ps, stats and limit "
			 "do not work", "%s",
			 access(UNIT_FILE, F_OK) ? "overbookd --budget SIZE"
			 : geteuid() ? "systemctl --user enable --now overbookd.socket   (or: overbookd --budget SIZE)"
				     : "systemctl enable --now overbookd.socket overbookd   (or: overbookd --budget SIZE)");
}

void ob_doctor_check_setup(struct ob_doctor_report *report, const char *qemu, const char *swap)
{
	check_agent(report);
	check_qemu(report, qemu);
	check_swap(report, swap);
	check_daemon(report);
}
