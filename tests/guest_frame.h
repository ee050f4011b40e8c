/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests that change the bytes of a frame of proto/guest.h: worked out here once more, so that guest.c is not held to what it says itself. */
#ifndef OB_TEST_GUEST_FRAME_H
#define OB_TEST_GUEST_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/guest.h"

/* Makes its check right: FNV-1a. */
static inline void seal_guest_frame(uint8_t *frame)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < OB_GUEST_FRAME - 4; i++)
		hash = (hash ^ frame[i]) * 16777619u;
	for (unsigned i = 0; i < 4; i++)
		frame[OB_GUEST_FRAME - 4 + i] = (uint8_t)(hash >> (8 * i));
}

#endif
