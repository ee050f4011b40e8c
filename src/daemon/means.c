/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/means.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/average.h"

#define MEMORY_NS    (180 * OB_NS_PER_SEC)
#define TRIAL_NS     (30 * OB_NS_PER_SEC)
#define FORGET_WAITS 8
#define LITTLE       4u           /* less than 1 part of so many */
#define ASKED_LEAST  (8 * OB_MIB) /* a cut of less says nothing of a guest */
#define HELD_LEAST   (16 * OB_MIB)
#define MARGIN       8u           /* of a price, is as good as nothing */
#define LOST_LEAST   OB_NS_PER_MS /* a second */
#define THREADS_MOST 1024u        /* that may wait at a time */
#define BYTES_SANE   (1ull << 56)

__extension__ typedef unsigned __int128 wide;

const char *ob_means_name(enum ob_means_kind kind)
{
	static const char *const names[OB_MEANS_KINDS] = { "sharing", "applications", "balloon", "compression", "swap" };

	return (unsigned)kind < OB_MEANS_KINDS ? names[kind] : "?";
}

bool ob_means_has_price(enum ob_means_kind kind)
{
	return kind != OB_MEANS_APPLICATIONS;
}

const char *ob_means_reason_text(enum ob_means_reason reason)
{
	static const char *const texts[OB_MEANS_REASONS] = {
		[OB_MEANS_GAVE_LITTLE] = "it gave little of what a cut waited for", [OB_MEANS_COSTS_MORE] = "it costs more than eviction",
	};

	return (unsigned)reason < OB_MEANS_REASONS ? texts[reason] : NULL;
}

uint64_t ob_means_price(uint64_t lost_ns, uint64_t held_bytes)
{
	wide price = held_bytes ? (wide)lost_ns * OB_GIB / held_bytes : 0;

	return price > UINT64_MAX ? UINT64_MAX : (uint64_t)price;
}

static uint64_t rise(uint64_t now, uint64_t before)
{
	return OB_MIN(ob_less(now, before), BYTES_SANE);
}

static void note(struct ob_means_record *record, const struct ob_means_seen *seen, uint64_t elapsed_ns)
{
	uint64_t came = (uint64_t)((wide)rise(seen->came_bytes, record->seen.came_bytes) * OB_MIN(seen->came_permille, 1000u) / 1000), lost;
	uint64_t asked = rise(seen->asked_bytes, record->seen.asked_bytes);
	wide most = (wide)elapsed_ns * THREADS_MOST;

	record->asked_bytes = OB_MIN(ob_approach(record->asked_bytes, 0, elapsed_ns, MEMORY_NS) + asked, BYTES_SANE);
	record->asked_total_bytes = OB_MIN(record->asked_total_bytes + asked, BYTES_SANE);
	/* What comes by itself was not asked for. */
	record->came_bytes = OB_MIN(ob_approach(record->came_bytes, 0, elapsed_ns, MEMORY_NS) + came, record->asked_bytes);
	record->came_total_bytes = OB_MIN(record->came_total_bytes + came, record->asked_total_bytes);
	if (!elapsed_ns)
		return;
	/* While they are young they are of all that there was. */
	lost = (uint64_t)OB_MIN((wide)ob_less(seen->lost_ns, record->seen.lost_ns), most);
	record->lost_total_ns += OB_MIN(lost, UINT64_MAX - record->lost_total_ns);
	lost = (uint64_t)((wide)lost * OB_NS_PER_SEC / elapsed_ns);
	record->held_bytes = ob_approach(record->held_bytes, OB_MIN(seen->held_bytes, BYTES_SANE), elapsed_ns, record->age_ns);
	record->lost_ns = ob_approach(record->lost_ns, lost, elapsed_ns, record->age_ns);
	record->age_ns = OB_MIN(elapsed_ns, MEMORY_NS - record->age_ns) + record->age_ns;
}

static void lose_turn(struct ob_means *means, enum ob_means_reason reason, uint64_t now_ns)
{
	means->wait_ns = means->wait_ns ? OB_MIN(2 * means->wait_ns, OB_MEANS_WAIT_MOST_NS) : OB_MEANS_WAIT_LEAST_NS;
	means->until_ns = now_ns + means->wait_ns;
	means->trouble_ns = now_ns;
	means->reason = reason;
	means->losses++;
}

static bool costs_more(const struct ob_means *means)
{
	const struct ob_means_record *balloon = &means->record[OB_MEANS_BALLOON];
	const struct ob_means_record *pool = &means->record[OB_MEANS_COMPRESSION], *swap = &means->record[OB_MEANS_SWAP];
	uint64_t held = pool->held_bytes + swap->held_bytes, price = ob_means_price(balloon->lost_ns, balloon->held_bytes);

	return balloon->age_ns >= TRIAL_NS && balloon->held_bytes >= HELD_LEAST && held >= HELD_LEAST && balloon->lost_ns >= LOST_LEAST &&
	       price - price / MARGIN > ob_means_price(pool->lost_ns + swap->lost_ns, held);
}

/* It has its turn again: by what it costs from now on. */
static void try_again(struct ob_means *means)
{
	struct ob_means_record *balloon = &means->record[OB_MEANS_BALLOON];

	if (means->reason == OB_MEANS_COSTS_MORE)
		balloon->held_bytes = balloon->lost_ns = balloon->age_ns = 0;
	means->reason = OB_MEANS_NO_REASON;
}

void ob_means_step(struct ob_means *means, const struct ob_means_seen *seen, uint64_t elapsed_ns, uint64_t now_ns)
{
	for (unsigned i = 0; i < OB_MEANS_KINDS; i++) {
		if (means->is_seen)
			note(&means->record[i], &seen[i], elapsed_ns);
		means->record[i].seen = seen[i];
	}
	means->is_seen = true;
	if (now_ns < means->until_ns)
		return;
	try_again(means);
	if (means->wait_ns && ob_less(now_ns, means->trouble_ns) >= FORGET_WAITS * means->wait_ns)
		means->wait_ns = 0;
	if (costs_more(means))
		lose_turn(means, OB_MEANS_COSTS_MORE, now_ns);
}

void ob_means_pause(struct ob_means *means, uint64_t now_ns)
{
	means->until_ns = OB_MAX(means->until_ns, now_ns + OB_MEANS_PAUSE_NS);
}

void ob_means_cut_ended(struct ob_means *means, uint64_t asked_bytes, uint64_t came_bytes, uint64_t now_ns)
{
	bool is_worth_judging = asked_bytes >= ASKED_LEAST;

	if (came_bytes < asked_bytes / LITTLE && is_worth_judging)
		lose_turn(means, OB_MEANS_GAVE_LITTLE, now_ns);
	else if (came_bytes < asked_bytes)
		ob_means_pause(means, now_ns);
	else if (is_worth_judging)
		means->wait_ns = 0;
}

bool ob_means_may_wait(const struct ob_means *means, uint64_t now_ns)
{
	return now_ns >= means->until_ns;
}

bool ob_means_may_ask(const struct ob_means *means, uint64_t now_ns)
{
	return means->reason == OB_MEANS_NO_REASON || now_ns >= means->until_ns;
}

void ob_means_follow_guest(struct ob_means_guest *guest, uint64_t updates, uint64_t faults, bool is_empty, uint64_t fault_ns, uint64_t now_ns)
{
	uint64_t elapsed_ns = ob_less(now_ns, guest->at_ns), more = OB_MIN(ob_less(faults, guest->faults), 1ull << 32), usual;

	if (updates == guest->updates)
		return;
	if (guest->at_ns && elapsed_ns && is_empty) {
		guest->usual_permille = ob_approach(guest->usual_permille, (uint64_t)((wide)more * 1000 * OB_NS_PER_SEC / elapsed_ns), elapsed_ns, MEMORY_NS);
	} else if (guest->at_ns) {
		usual = (uint64_t)OB_MIN((wide)guest->usual_permille * elapsed_ns / OB_NS_PER_SEC / 1000, (wide)UINT64_MAX);
		guest->lost_ns += ob_less(more, usual) * OB_MIN(fault_ns, OB_NS_PER_SEC);
	}
	guest->updates = updates;
	guest->faults = faults;
	guest->at_ns = now_ns;
}
