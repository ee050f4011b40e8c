/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbookd's JSON protocol: the input is what one client sends, any bytes, in two parts. There are two machines: "web"
 * runs, with an agent that answers every order at once, "old" is lost. Each line gets one answer, unless it is the last and
 * the connection has been closed on it, or the client waits for what does not happen here.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon_bed.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_directory();
	return 0;
}

static void add_machine(struct bed *bed, unsigned index, const char *name)
{
	struct ob_wire_msg hello = { .type = OB_WIRE_HELLO, .hello = { .shares = 1000 } }, stats = { .type = OB_WIRE_STATS };

	hello.hello.pid = (uint32_t)getpid();
	strcpy(hello.hello.name, name);
	stats.stats.stats.ram_bytes = 1ull << 30;
	stats.stats.stats.cost_bytes = 100ull << 20;
	bed_agent_connect(bed, index);
	bed_agent_say(bed, index, &hello);
	bed_agent_say(bed, index, &stats);
}

static void answer_orders(struct bed *bed)
{
	struct ob_wire_msg reply = { .type = OB_WIRE_REPLY }, stats = { .type = OB_WIRE_STATS };

	stats.stats.stats.ram_bytes = 1ull << 30;
	reply.reply.to = bed->agent[0].limit_sequence;
	bed_agent_say(bed, 0, &reply);
	bed_agent_say(bed, 0, &stats);
	reply.reply.to = bed->agent[0].release_sequence;
	bed_agent_say(bed, 0, &reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bed *bed = bed_get(size & 1 ? OB_BUDGET_NONE : 2ull << 30);
	size_t half = size / 2, lines = 0;

	for (size_t i = 0; i < size; i++)
		lines += data[i] == '\n';
	add_machine(bed, 0, "web");
	add_machine(bed, 1, "old");
	bed_agent_close(bed, 1);
	bed_client_connect(bed, 0);
	bed_client_send(bed, 0, (const char *)data, half);
	bed_client_read(bed, 0);
	answer_orders(bed);
	bed_client_send(bed, 0, (const char *)data + half, size - half);
	bed_client_end(bed, 0);
	for (int i = 0; i < 3; i++) {
		bed_client_read(bed, 0);
		answer_orders(bed);
		bed_pass(bed, 35);
	}
	bed_client_read(bed, 0);
	FUZZ_CHECK(bed->client[0].answers <= lines + 1, "%u answers to %zu lines", bed->client[0].answers, lines);
	bed_empty(bed);
	return 0;
}
