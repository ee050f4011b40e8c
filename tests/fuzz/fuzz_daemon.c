/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbookd among hostile agents and clients (daemon_bed.h): the input is a script, a step a line. N is who, 0 to 3.
 *
 *     b BYTES                     the budget, if it is the first step; none otherwise
 *     a N                         agent N connects
 *     h N NAME SHARES RESERVATION MAXIMUM LIMIT FLAGS DOMAIN     HELLO, with the right pid
 *     s N RAM COST COMPRESSED SWAPPED DEGRADED OTHER             STATS; OTHER is every other number of it
 *     g N KIND START END          RANGES
 *     x N TEXT                    STOPPED
 *     r N STATUS TEXT             REPLY to the last SET_LIMIT (STATUS is an errno number)
 *     e N STATUS TEXT             REPLY to the last RELEASE
 *     O N PAGE CONTENT TIMES CLASS     OFFER of so many pages from PAGE on, all with the hash of this content
 *     F N STATUS CONTENT          STAGED for all FETCHes that have come: STATUS is an errno number, CONTENT what is in the pages
 *     A N STATUS                  HELD for all ADOPTs that have come
 *     D N TIMES INDEX             DROPPED of the slot that it was to adopt last, moved by INDEX
 *     H N TIMES INDEX             HOLDS of the same; TIMES 0: the last of them
 *     P N EXTENT HELD             ORPHANS; M: MORE_ORPHANS, 512 from EXTENT on
 *     K N DOMAIN PAGES            systemd has kept an extent of DOMAIN, of which so many slots were filled; D and H of N are of its slots
 *     u N STATUS TEXT             REPLY to the last UNSHARE
 *     w N HEX                     any packet
 *     q N                         agent N closes
 *     c N                         client N connects
 *     j N TEXT                    client N sends a line; "$PID" in it is a living process
 *     p N TEXT                    the same without the newline
 *     o N BYTES                   client N sends so many letters without a newline
 *     d N                         client N reads what has come
 *     k N                         client N ends its requests
 *     z N                         client N closes
 *     t SECONDS                   time passes
 *     i NUMBER                    overbookd has another index: 0: without classes; 1 to 4: by 1, 2, 4 or 8 sub-pages
 *     l POLICY BYTES              other settings for large pages
 *     B N MODE SIZE TARGET        BALLOON_SET
 *     S N RAM COST FLAGS HELD AVAILABLE UPDATES   STATS of a guest with a balloon, of which nothing has been evicted
 *     G N FLAGS HEX               GUEST: bytes of the guest's port
 *     A N APP COULD GIVEN TARGET PAIN FLAGS   GUEST: a guest's agent says HELLO, MEMORY, and APP of an application
 *     L AUTO BYTES                other settings for balloons; BYTES 0: the floor is 25%
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon_bed.h"
#include "fuzz.h"
#include "share/page_hash.h"

#define STEPS_MAX 300
#define WORDS_MAX 10

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

static void put_text(char *to, size_t size, const char *text)
{
	snprintf(to, size, "%s", text);
}

static void say_hello(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_HELLO };

	put_text(msg.hello.name, sizeof(msg.hello.name), fuzz_word(words, n, 2));
	put_text(bed->agent[who].name, sizeof(bed->agent[who].name), msg.hello.name);
	msg.hello.pid = (uint32_t)getpid();
	msg.hello.shares = (uint32_t)fuzz_number(words, n, 3);
	msg.hello.reservation_bytes = fuzz_number(words, n, 4);
	msg.hello.maximum_bytes = fuzz_number(words, n, 5);
	msg.hello.limit_bytes = fuzz_number(words, n, 6);
	msg.hello.flags = (uint32_t)fuzz_number(words, n, 7);
	put_text(msg.hello.domain, sizeof(msg.hello.domain), fuzz_word(words, n, 8));
	put_text(msg.hello.program, sizeof(msg.hello.program), fuzz_word(words, n, 9));
	bed_agent_say(bed, who, &msg);
}

static void say_stats(struct bed *bed, unsigned who, char *const *words, int n)
{
	uint64_t other = fuzz_number(words, n, 7), fields[sizeof(struct ob_stats) / sizeof(uint64_t)];
	struct ob_wire_msg msg = { .type = OB_WIRE_STATS };
	struct ob_stats *stats = &msg.stats.stats;

	for (size_t i = 0; i < OB_ARRAY_LEN(fields); i++)
		fields[i] = other;
	memcpy(stats, fields, sizeof(fields));
	stats->ram_bytes = fuzz_number(words, n, 2);
	stats->cost_bytes = fuzz_number(words, n, 3);
	stats->compressed_bytes = fuzz_number(words, n, 4);
	stats->swapped_bytes = fuzz_number(words, n, 5);
	stats->degraded = fuzz_number(words, n, 6);
	for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
		msg.stats.hists.count[i % OB_HIST_KINDS][i] = other;
	bed_agent_say(bed, who, &msg);
}

static void say_balloon_set(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_BALLOON_SET };

	msg.balloon.mode = (uint32_t)(fuzz_number(words, n, 2) % OB_BALLOON_MODES);
	msg.balloon.size_bytes = msg.balloon.mode == OB_BALLOON_FIXED ? OB_MAX(fuzz_number(words, n, 3), 1ull) : 0;
	msg.balloon.target_bytes = fuzz_number(words, n, 4);
	bed_agent_say(bed, who, &msg);
}

static void say_balloon_stats(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_STATS };
	struct ob_stats *stats = &msg.stats.stats;

	stats->ram_bytes = stats->machine_bytes = fuzz_number(words, n, 2);
	stats->cost_bytes = fuzz_number(words, n, 3);
	stats->balloon_flags = fuzz_number(words, n, 4);
	stats->balloon_bytes = stats->ballooned_bytes = fuzz_number(words, n, 5);
	stats->guest_available_bytes = fuzz_number(words, n, 6);
	stats->guest_updates = fuzz_number(words, n, 7);
	stats->guest_known = 127;
	bed_agent_say(bed, who, &msg);
}

static void say_guest(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_GUEST };

	msg.guest.flags = fuzz_number(words, n, 2) & OB_WIRE_GUEST_ANEW;
	msg.guest.n = (uint32_t)fuzz_hex(fuzz_word(words, n, 3), msg.guest.bytes, sizeof(msg.guest.bytes));
	bed_agent_say(bed, who, &msg);
}

static void say_app(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_GUEST };
	struct ob_guest_msg frame[] = {
		{ .type = OB_GUEST_HELLO, .session = 1, .hello.program = "overbook-guest" },
		{ .type = OB_GUEST_MEMORY, .session = 1, .memory = { .flags = OB_GUEST_HAS_PRESSURE, .total_bytes = 1ull << 30 } },
		{ .type = OB_GUEST_APP, .session = 1, .app = { .app = (uint32_t)fuzz_number(words, n, 2), .kind = 1, .name = "app" } },
	};
	struct ob_guest_app *app = &frame[2].app;

	frame[1].memory.some_us = fuzz_number(words, n, 3);
	app->could_bytes = fuzz_number(words, n, 3) % OB_GUEST_BYTES_MAX;
	app->given_bytes = fuzz_number(words, n, 4) % OB_GUEST_BYTES_MAX;
	app->target_bytes = fuzz_number(words, n, 5) % OB_GUEST_BYTES_MAX;
	app->pain = (uint32_t)(fuzz_number(words, n, 6) % (OB_GUEST_PAIN_MAX + 1));
	app->flags = fuzz_number(words, n, 7) & (OB_GUEST_APP_FINAL | OB_GUEST_APP_GONE);
	for (size_t i = 0; i < OB_ARRAY_LEN(frame); i++, msg.guest.n += OB_GUEST_FRAME)
		FUZZ_CHECK(ob_guest_encode(&frame[i], msg.guest.bytes + msg.guest.n) == 0, "a frame of type %u", frame[i].type);
	bed_agent_say(bed, who, &msg);
}

static void say_ranges(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_RANGES, .ranges.n = 2 };

	msg.ranges.range[0] = (struct ob_wire_range){ (uint32_t)fuzz_number(words, n, 2), fuzz_number(words, n, 3),
						      fuzz_number(words, n, 4) };
	msg.ranges.range[1] = (struct ob_wire_range){ 1, 4096, 8192 };
	bed_agent_say(bed, who, &msg);
}

static void say_text(struct bed *bed, unsigned who, char letter, char *const *words, int n)
{
	struct ob_wire_msg msg = { .type = letter == 'x' ? OB_WIRE_STOPPED : OB_WIRE_REPLY };

	if (letter == 'x') {
		put_text(msg.stopped.cause, sizeof(msg.stopped.cause), fuzz_word(words, n, 2));
	} else {
		msg.reply.to = letter == 'r' ? bed->agent[who].limit_sequence :
			       letter == 'u' ? bed->agent[who].unshare_sequence : bed->agent[who].release_sequence;
		msg.reply.status = -(int32_t)(fuzz_number(words, n, 2) & 4095);
		put_text(msg.reply.text, sizeof(msg.reply.text), fuzz_word(words, n, 3));
	}
	bed_agent_say(bed, who, &msg);
}

static void say_offer(struct bed *bed, unsigned who, char *const *words, int n)
{
	static uint8_t page[OB_PAGE_HASH_BYTES];
	static struct ob_wire_msg msg;
	uint64_t lo, hi;

	memset(page, (int)fuzz_number(words, n, 3), sizeof(page));
	ob_page_hash(bed->agent[who].key, page, &lo, &hi);
	msg = (struct ob_wire_msg){ .type = OB_WIRE_OFFER };
	msg.offer.n = (uint32_t)OB_MIN(fuzz_number(words, n, 4), (uint64_t)OB_WIRE_SHARES_MAX);
	for (uint32_t i = 0; i < msg.offer.n; i++)
		msg.offer.item[i] = (struct ob_wire_offer){ fuzz_number(words, n, 2) + i, lo, hi, (uint32_t)fuzz_number(words, n, 5) };
	bed_agent_say(bed, who, &msg);
}

static void say_staged(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct bed_agent *agent = &bed->agent[who];
	static struct ob_wire_msg msg;

	msg = (struct ob_wire_msg){ .type = OB_WIRE_STAGED };
	msg.staged.n = agent->fetch_count;
	for (unsigned i = 0; i < agent->fetch_count; i++) {
		const struct ob_wire_fetch *fetch = &agent->fetch[i];

		if (agent->staging)
			memset(agent->staging + (size_t)fetch->staging * OB_PAGE_HASH_BYTES, (int)fuzz_number(words, n, 3),
			       OB_PAGE_HASH_BYTES);
		msg.staged.item[i] = (struct ob_wire_staged){ fetch->page, -(int32_t)(fuzz_number(words, n, 2) & 4095), fetch->staging };
	}
	agent->fetch_count = 0;
	bed_agent_say(bed, who, &msg);
}

static void say_held(struct bed *bed, unsigned who, char *const *words, int n)
{
	struct bed_agent *agent = &bed->agent[who];
	static struct ob_wire_msg msg;

	msg = (struct ob_wire_msg){ .type = OB_WIRE_HELD };
	msg.held.n = agent->adopt_count;
	for (unsigned i = 0; i < agent->adopt_count; i++)
		msg.held.item[i] = (struct ob_wire_held){ agent->adopt[i].page, agent->adopt[i].extent, agent->adopt[i].index,
							  -(int32_t)(fuzz_number(words, n, 2) & 4095) };
	agent->adopt_count = 0;
	bed_agent_say(bed, who, &msg);
}

static void say_dropped(struct bed *bed, unsigned who, char letter, char *const *words, int n)
{
	const struct ob_wire_adopt *held = &bed->agent[who].held;
	static struct ob_wire_msg msg;

	msg = (struct ob_wire_msg){ .type = letter == 'D' ? OB_WIRE_DROPPED : letter == 'H' ? OB_WIRE_HOLDS : OB_WIRE_ORPHANS };
	if (letter == 'M') {
		msg.type = OB_WIRE_MORE_ORPHANS;
		for (msg.orphans.n = 0; msg.orphans.n < OB_WIRE_SHARES_MAX; msg.orphans.n++)
			msg.orphans.item[msg.orphans.n] = (struct ob_wire_orphan){ fuzz_number(words, n, 2) % (UINT64_MAX - 1000) + msg.orphans.n,
										   (uint32_t)fuzz_number(words, n, 3) };
	} else if (letter != 'P') {
		msg.dropped.n = letter == 'D' || fuzz_number(words, n, 2);
		msg.dropped.item[0] = (struct ob_wire_dropped){ held->extent, (uint32_t)(held->index + fuzz_number(words, n, 3)),
								(uint32_t)fuzz_number(words, n, 2) };
	} else {
		msg.orphans.n = fuzz_number(words, n, 2) != 0;
		msg.orphans.item[0] = (struct ob_wire_orphan){ fuzz_number(words, n, 2), (uint32_t)fuzz_number(words, n, 3) };
	}
	bed_agent_say(bed, who, &msg);
}

static void sharing_step(struct bed *bed, unsigned who, char letter, char *const *words, int n)
{
	if (letter == 'O')
		say_offer(bed, who, words, n);
	else if (letter == 'F')
		say_staged(bed, who, words, n);
	else if (letter == 'A')
		say_held(bed, who, words, n);
	else if (letter == 'K')
		bed_keep(bed, who, fuzz_word(words, n, 2), (unsigned)(fuzz_number(words, n, 3) % 50));
	else
		say_dropped(bed, who, letter, words, n);
}

static void send_packet(struct bed *bed, unsigned who, const char *hex)
{
	static uint8_t packet[4096];

	bed_agent_send(bed, who, packet, fuzz_hex(hex, packet, sizeof(packet)));
}

/* With "$PID" replaced, which keeps its length short enough for every pid. */
static void send_line(struct bed *bed, unsigned who, const char *text, int newline)
{
	static char line[65536];
	size_t used = 0;

	while (*text && used + 16 < sizeof(line)) {
		if (!strncmp(text, "$PID", 4)) {
			used += (size_t)snprintf(line + used, 16, "%ld", (long)getpid());
			text += 4;
		} else {
			line[used++] = *text++;
		}
	}
	if (newline)
		line[used++] = '\n';
	bed_client_send(bed, who, line, used);
}

static void send_letters(struct bed *bed, unsigned who, uint64_t bytes)
{
	static char letters[80000];

	memset(letters, 'x', sizeof(letters));
	bed_client_send(bed, who, letters, OB_MIN(bytes, sizeof(letters)));
}

static void agent_step(struct bed *bed, unsigned who, char letter, char *const *words, int n)
{
	switch (letter) {
	case 'a':
		bed_agent_connect(bed, who);
		break;
	case 'h':
		say_hello(bed, who, words, n);
		break;
	case 's':
		say_stats(bed, who, words, n);
		break;
	case 'B':
		say_balloon_set(bed, who, words, n);
		break;
	case 'S':
		say_balloon_stats(bed, who, words, n);
		break;
	case 'G':
		say_guest(bed, who, words, n);
		break;
	case 'A':
		say_app(bed, who, words, n);
		break;
	case 'g':
		say_ranges(bed, who, words, n);
		break;
	case 'x':
	case 'r':
	case 'e':
	case 'u':
		say_text(bed, who, letter, words, n);
		break;
	case 'w':
		send_packet(bed, who, fuzz_word(words, n, 2));
		break;
	case 'q':
		bed_agent_close(bed, who);
		bed_run(bed);
		break;
	}
}

static void client_step(struct bed *bed, unsigned who, char letter, char *const *words, int n)
{
	switch (letter) {
	case 'c':
		bed_client_connect(bed, who);
		break;
	case 'j':
	case 'p':
		send_line(bed, who, fuzz_word(words, n, 2), letter == 'j');
		break;
	case 'o':
		send_letters(bed, who, fuzz_number(words, n, 2));
		break;
	case 'd':
		bed_client_read(bed, who);
		break;
	case 'k':
		bed_client_end(bed, who);
		break;
	case 'z':
		bed_client_close(bed, who);
		break;
	case 't':
		bed_pass(bed, fuzz_number(words, n, 1));
		break;
	case 'i':
		bed_set_subpages(bed, 1u << fuzz_number(words, n, 1) % 5 >> 1);
		break;
	case 'L':
		bed_set_balloons(bed, fuzz_number(words, n, 1) & 1, fuzz_number(words, n, 2));
		break;
	case 'l':
		bed_set_large(bed, (unsigned)fuzz_number(words, n, 1), fuzz_number(words, n, 2));
		break;
	}
}

/* Into how many words a step is cut: the last one holds the rest of the line. */
static int words_of(char letter)
{
	switch (letter) {
	case 'x':
	case 'w':
	case 'j':
	case 'p':
		return 3;
	case 'r':
	case 'e':
	case 'u':
		return 4;
	default:
		return WORDS_MAX;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *at = text, *words[WORDS_MAX];
	uint64_t budget = OB_BUDGET_NONE;
	struct bed *bed;
	int n;

	if (*at == 'b') {
		n = fuzz_step(&at, words, 2);
		budget = OB_MIN(fuzz_number(words, n, 1), (uint64_t)INT64_MAX);
		budget = budget < OB_LIMIT_MIN ? OB_BUDGET_NONE : budget;
	}
	bed = bed_get(budget);
	for (int steps = 0; steps < STEPS_MAX && at && (n = fuzz_step(&at, words, words_of(*at))) >= 0; steps++) {
		unsigned who = (unsigned)fuzz_number(words, n, 1) % OB_MIN(BED_AGENTS, BED_CLIENTS);

		if (n && strchr("OFADPHMK", *words[0]))
			sharing_step(bed, who, *words[0], words, n);
		else if (n && strchr("ahsgxreuwqBS", *words[0]))
			agent_step(bed, who, *words[0], words, n);
		else if (n)
			client_step(bed, who, *words[0], words, n);
	}
	bed_empty(bed);
	free(text);
	return 0;
}
