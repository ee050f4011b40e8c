/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest: what it is told and what it tells, in a page that host and guest share and that the engine knows nothing of,
 * and its program (guest_code.c), which is compiled for the host and copied into guest memory as it is.
 */
#ifndef OB_TESTS_KVM_GUEST_CODE_H
#define OB_TESTS_KVM_GUEST_CODE_H

#include <stdint.h>

#define GUEST_PAGE    4096u
#define GUEST_WORDS   (GUEST_PAGE / 8)
#define GUEST_VCPUS   2u
#define GUEST_COUNTERS 512u /* shared counters, one a page */

enum guest_job { GUEST_WALK, GUEST_PLAY, GUEST_CHASE };

/* Everything of one processor; nothing is written by both sides at a time. */
struct guest_vcpu {
	/* the host's words */
	uint64_t number, vcpus; /* which pages are its own: page % vcpus == number */
	uint64_t job, operations, random;
	uint64_t memory;        /* the guest's address of its memory, pages, and where versions and counters are */
	uint64_t pages;
	uint64_t versions, counters;
	uint64_t exit_address;  /* a store here ends the run */
	uint64_t chased;        /* GUEST_CHASE: a pointer to begin with; in the end, the one that it has come to */
	/* the guest's words */
	uint64_t done, checked, wrong;
	uint64_t wrong_page, wrong_word, wrong_seen, wrong_expected;
	uint64_t counted;
};

/* What word i of a page holds in a version; version 0 is a page that was never written. */
static inline __attribute__((always_inline)) uint64_t guest_word(uint64_t page, uint64_t version, uint64_t i)
{
	uint64_t x = (page * 0x9e3779b97f4a7c15ull) ^ (version * 0xd1342543de82ef95ull);

	if (!version || (page + version) % 8 == 0)
		return 0;
	if ((page + version) % 8 < 4) /* compressible */
		return x + i / 64;
	x += i * 0x2545f4914f6cdd1dull;
	x ^= x >> 31;
	x *= 0xbf58476d1ce4e5b9ull;
	return x ^ (x >> 29);
}

/* The guest's entry and the bounds of its code, by the linker. */
void guest_main(struct guest_vcpu *vcpu);
extern const char __start_guest_text[] __attribute__((visibility("hidden")));
extern const char __stop_guest_text[] __attribute__((visibility("hidden")));

#endif
