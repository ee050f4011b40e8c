/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test's guests: threads that read, write, patch, discard and do I/O on test memory and check every byte they see.
 *
 * A crew is a number of players on the same regions. Each does a given number of operations, drawn from a table by
 * weight, most of them in a window of the memory that moves on from time to time (a working set). All of them also add to
 * counters that they share, whose sums must come out exactly: pages that several processors write at the same time.
 *
 * The thread that runs the test follows the crew's progress by crew_wait_ops() and changes things meanwhile.
 */
#ifndef OB_TESTS_ENGINE_PLAYER_H
#define OB_TESTS_ENGINE_PLAYER_H

#include <pthread.h>
#include <stdint.h>

#include "disk.h"
#include "ram.h"

#define CREW_PLAYERS_MAX 8u
#define CREW_RAMS_MAX    4

enum crew_mix {
	CREW_EVERYTHING,   /* all operations */
	CREW_CHECK_WRITE,  /* read, write, patch */
	CREW_DIRTY,        /* write incompressible pages as fast as possible; a check now and then */
	CREW_READ,         /* check only */
	CREW_MIXES
};

struct crew_config {
	struct ob_engine *engine;
	struct ram *rams[CREW_RAMS_MAX];
	unsigned ram_count;
	struct ram *counters; /* may be NULL: no shared counters */
	unsigned players;
	uint64_t ops_each;
	uint64_t seed;
	enum crew_mix mix;
	const char *disk_dir; /* NULL: no I/O */
	int discards_may_fail; /* a failed discard is no failure: the player writes what it lost */
};

struct crew;

/* Starts the players. Returns 0 or -errno with the cause. */
int crew_start(const struct crew_config *config, struct crew **ret_crew, struct ob_error *err) OB_MUST_CHECK;

/* Waits until the crew has done ops operations in all, or has ended. Returns 0, or -ETIMEDOUT after timeout_ms without progress. */
int crew_wait_ops(struct crew *crew, uint64_t ops, unsigned timeout_ms) OB_MUST_CHECK;

/* As crew_wait_ops until all have ended; then joins, checks the counters' sums and frees. Returns 0, -ETIMEDOUT (a player
 * hangs; nothing is freed), or the first failure of a player (-EILSEQ: a wrong byte). */
int crew_finish(struct crew *crew, unsigned timeout_ms) OB_MUST_CHECK;

/* Tells the players to end after the operation they are in. */
void crew_stop(struct crew *crew);

uint64_t crew_ops(struct crew *crew);

#endif
