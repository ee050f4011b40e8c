/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program. It runs at CPL 3 in long mode, with a stack and nothing else: no libc, no data of its own, no
 * vector registers, position independent. It is one section, which the host copies into guest memory; guest_main must stay
 * free of calls out of that section (the build forbids the compiler to invent memcpy and the like).
 */
#include "guest_code.h"

#define GUEST __attribute__((section("guest_text"), noinline, used))

GUEST static uint64_t next_random(struct guest_vcpu *vcpu)
{
	uint64_t x = vcpu->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	vcpu->random = x;
	return x * 0x2545f4914f6cdd1dull;
}

GUEST static void check_page(struct guest_vcpu *vcpu, uint64_t page, uint64_t version)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(vcpu->memory + page * GUEST_PAGE);

	for (uint64_t i = 0; i < GUEST_WORDS; i++) {
		uint64_t seen = words[i], expected = guest_word(page, version, i);

		if (seen == expected)
			continue;
		if (!vcpu->wrong++) {
			vcpu->wrong_page = page;
			vcpu->wrong_word = i;
			vcpu->wrong_seen = seen;
			vcpu->wrong_expected = expected;
		}
		break;
	}
	vcpu->checked++;
}

GUEST static void write_page(struct guest_vcpu *vcpu, uint64_t page, uint64_t version)
{
	volatile uint64_t *words = (volatile uint64_t *)(vcpu->memory + page * GUEST_PAGE);

	for (uint64_t i = 0; i < GUEST_WORDS; i++)
		words[i] = guest_word(page, version, i);
}

GUEST static void visit(struct guest_vcpu *vcpu, uint64_t page, int write)
{
	volatile uint32_t *version = (volatile uint32_t *)vcpu->versions + page;

	check_page(vcpu, page, *version);
	if (!write)
		return;
	write_page(vcpu, page, *version + 1);
	*version += 1;
}

/* Every page of one's own in order, written and then checked: the first touch of all memory. */
GUEST static void walk(struct guest_vcpu *vcpu)
{
	for (int write = 1; write >= 0; write--)
		for (uint64_t page = vcpu->number; page < vcpu->pages && !vcpu->wrong; page += vcpu->vcpus)
			visit(vcpu, page, write);
}

/* Pages of one's own at random, most of them in a window that moves on, and counters that all processors share. */
GUEST static void play(struct guest_vcpu *vcpu)
{
	uint64_t own = vcpu->pages / vcpu->vcpus, window = 0;

	for (uint64_t op = 0; op < vcpu->operations && !vcpu->wrong; op++) {
		uint64_t x = next_random(vcpu), page;
		uint64_t *counter = (uint64_t *)(vcpu->counters + (x >> 7) % GUEST_COUNTERS * GUEST_PAGE);

		if (op % 2048 == 0)
			window = (x >> 20) % own;
		page = (x >> 16) % 16 ? (window + (x >> 24) % (own / 8)) % own : (x >> 24) % own;
		visit(vcpu, page * vcpu->vcpus + vcpu->number, x % 3 == 0);
		__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
		vcpu->counted++;
	}
}

/* From pointer to pointer. */
GUEST static void chase(struct guest_vcpu *vcpu)
{
	uint64_t at = vcpu->chased;

	for (uint64_t op = 0; op < vcpu->operations; op++)
		at = *(const volatile uint64_t *)at;
	vcpu->chased = at;
}

GUEST void guest_main(struct guest_vcpu *vcpu)
{
	if (vcpu->job == GUEST_WALK)
		walk(vcpu);
	else if (vcpu->job == GUEST_PLAY)
		play(vcpu);
	else
		chase(vcpu);
	__atomic_store_n(&vcpu->done, vcpu->done + 1, __ATOMIC_RELEASE);
	for (;;)
		*(volatile uint8_t *)vcpu->exit_address = 1;
}
