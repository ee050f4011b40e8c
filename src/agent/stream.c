/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Migration streams that would leave guest RAM out.
 *
 * QEMU believes that guest RAM lies in a file, which another QEMU could open. With the capability x-ignore-shared, and in
 * its modes cpr-transfer and cpr-exec whatever the capabilities, it therefore leaves RAM out of the stream; and since the
 * file is empty in truth, the guest would go on elsewhere without its memory. Nobody can be kept from setting that
 * through a monitor, but no stream comes out of QEMU except through a system call, and each says at its start what it is:
 *
 *     "QEVM", version, 07, machine's name, 05 "configuration/capabilities", each capability that is on and that
 *             both ends must agree about (of these there has been x-ignore-shared alone, since QEMU 4.0): length, name
 *     "QCPR"  the state that goes ahead in a CPR mode (QEMU 10.0)
 *
 * So the first buffer of each call that could carry one is looked at: 4 bytes, nothing more unless they match. The call is
 * then answered with EPERM; QEMU's migration fails by its own path, and the guest goes on. A buffer in guest RAM is never
 * a stream of QEMU's own; a guest that gets such bytes into a copy that QEMU makes (a network packet) denies them to
 * itself alone.
 *
 * Not seen: a stream that TLS has encrypted, and savevm onto a disk with aio=native or io_uring. The capability stays
 * documented as one not to set.
 */
#include <endian.h>
#include <stdint.h>
#include <string.h>

#include "agent/agent.h"
#include "base/compiler.h"

#define HEAD_MAX  1024 /* bytes in which the configuration lies: a name of at most 255 bytes, and a few words */

static const char capability[] = "\x0f" "x-ignore-shared", section[] = "configuration/capabilities";

const char *ob_stream_without_ram(const void *data, size_t length)
{
	const char *found;
	uint32_t magic;

	if (length < sizeof(magic))
		return NULL;
	memcpy(&magic, data, sizeof(magic));
	if (OB_LIKELY(magic != htobe32(0x5145564d) && magic != htobe32(0x51435052)))
		return NULL;
	if (magic == htobe32(0x51435052))
		return "the migration modes cpr-transfer and cpr-exec";
	length = OB_MIN(length, (size_t)HEAD_MAX);
	found = memmem(data, length, section, sizeof(section) - 1);
	if (!found)
		return NULL;
	length -= (size_t)(found - (const char *)data);
	return memmem(found, length, capability, sizeof(capability) - 1) ? "the migration capability x-ignore-shared" : NULL;
}
