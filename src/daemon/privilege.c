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
 * no_new_privs keeps an exec from bringing anything back. uid 0 without capabilities is still the owner of root's files;
 * those who mind run overbookd as a user of its own together with its machines.
 */
#include "daemon/privilege.h"

#include <errno.h>
#include <sys/prctl.h>

#include <cap-ng.h>

int ob_privilege_drop(struct ob_error *err)
{
	capng_select_t sets = CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT;

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
