/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What overbookd keeps after its set-up: nothing but its user id.
 *
 * It never touches a machine's memory: agents page their own, and it reads no /proc/PID of theirs. What is left to do needs
 * no capability:
 *
 *   accept, read and write sockets    the sockets are its own
 *   remove its two sockets at exit    the directory belongs to its user
 *   pidfd_open() and poll on it       allowed for every visible process
 *   read /proc/meminfo                world-readable
 *   read the file of --config again   if its user may
 *   tell systemd                      a datagram to a socket that lets everybody write
 *
 * So the permitted, effective, inheritable, ambient and (where CAP_SETPCAP was there) bounding sets become empty, and
 * no_new_privs keeps an exec from bringing anything back. Before that, where it may, it asks the kernel to spare it when
 * memory runs out: it holds next to none, and the machines that do would be left without their arbiter.
 *
 * uid 0 without capabilities is still the owner of root's files; those who mind run overbookd as a user of its own together
 * with its machines.
 */
#include "daemon/privilege.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <cap-ng.h>

#include "base/fd.h"

#define OOM_FILE  "/proc/self/oom_score_adj"
#define OOM_SCORE "-900" /* -1000 would be "never" */

/* Lowering the score needs CAP_SYS_RESOURCE: without it overbookd is a process like others. A lower one is left alone. */
static void ask_to_be_spared(void)
{
	char text[16];
	int OB_FD fd = -1;

	if (ob_read_text(OOM_FILE, text, sizeof(text)) < 0 || atoi(text) <= atoi(OOM_SCORE))
		return;
	fd = open(OOM_FILE, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || ob_write_full(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
		return;
}

int ob_privilege_drop(struct ob_error *err)
{
	capng_select_t sets = CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT;

	ask_to_be_spared();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return ob_error_sys(err, errno, "cannot set no_new_privs");
	if (capng_get_caps_process() < 0)
		return ob_error_set(err, EPERM, "cannot read overbookd's own capabilities");
	if (capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP))
		sets |= CAPNG_SELECT_BOUNDS;
	capng_clear(sets);
	if (capng_apply(sets) < 0)
		return ob_error_set(err, EPERM, "cannot drop overbookd's capabilities");
	if (capng_get_caps_process() < 0 || capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE)
		return ob_error_set(err, EPERM, "overbookd still has capabilities after it has dropped them");
	return 0;
}
