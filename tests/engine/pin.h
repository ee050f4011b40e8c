/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds memory as a device does: pinned for long by io_uring's registered buffers, with no system call under way. */
#ifndef OB_TESTS_ENGINE_PIN_H
#define OB_TESTS_ENGINE_PIN_H

#include <stddef.h>

#include "base/compiler.h"

/* Returns a descriptor that holds [addr, addr + length), or -errno (-ENOSYS, -EPERM: not on this host). */
int pin_hold(void *addr, size_t length) OB_MUST_CHECK;

/* Lets go and closes. Nothing is held any more when it returns. */
void pin_release(int fd);

#endif
