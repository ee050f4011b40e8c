/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Averages that forget. */
#ifndef OB_DAEMON_AVERAGE_H
#define OB_DAEMON_AVERAGE_H

#include <stdint.h>

/* On the way from one value to another, of which a step as long as memory_ns goes half, and many short ones go two thirds in that time. */
static inline uint64_t ob_approach(uint64_t from, uint64_t to, uint64_t elapsed_ns, uint64_t memory_ns)
{
	__extension__ typedef unsigned __int128 wide;
	wide part = (wide)(to > from ? to - from : from - to) * elapsed_ns / ((wide)elapsed_ns + memory_ns);

	return to > from ? from + (uint64_t)part : from - (uint64_t)part;
}

#endif
