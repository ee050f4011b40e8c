/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a guest has had more faults for the scanner's sake than what is found of it is worth. A pure function.
 *
 * Theory of operation. A page that is found saves its memory for as long as nobody touches it, and each page that was lifted in vain costs its guest a
 * fault. In a guest that uses most of what it has, and of which all has been found, the scanner would go on and find nothing. So there is an
 * account, in faults: faults are taken from it, and each second adds to it
 *
 *     found    an eighth of a fault for each page found. It is one fault at least when it is used again, and others that were
 *              lifted with it came back. The pages of a chunk that was found hot and is made a large page count like them
 *     free     one for each GiB of RAM, but a half at least, to see whether there is something new
 *
 * It has no more than CREDIT_MAX, and no less than what ten minutes of `free` are: who was expensive is not left alone for ever.
 */
#ifndef OB_ENGINE_SCAN_BALANCE_H
#define OB_ENGINE_SCAN_BALANCE_H

#include <stdint.h>

#include "base/compiler.h"
#include "base/units.h"

#define OB_SCAN_FAULT      8 /* the account's unit is an eighth */
#define OB_SCAN_CREDIT_MAX (64 * OB_SCAN_FAULT)
#define OB_SCAN_DEBT_S     600

/* Of a second; called once in each. */
static inline int64_t ob_scan_balance(int64_t balance, uint64_t faults, uint64_t found, uint64_t ram_bytes)
{
	int64_t free = OB_MAX((int64_t)(ram_bytes * OB_SCAN_FAULT / OB_GIB), (int64_t)OB_SCAN_FAULT / 2);

	balance += free + (int64_t)found - (int64_t)faults * OB_SCAN_FAULT;
	return OB_MIN(OB_MAX(balance, -free * OB_SCAN_DEBT_S), (int64_t)OB_SCAN_CREDIT_MAX);
}

#endif
