/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Traces that nobody has recorded, by name. What a machine is and does follows from the seed, its number and the second alone, so that
 * the same machine does the same whatever else there is.
 *
 * Machines have 1, 2, 4 or 8 GiB of RAM and content in 60 to 95% of it; of that a tenth is spare (zero or equal to others'),
 * six tenths compress, to 40%. One of four has twice the shares of the others. An idle machine uses 3 to 10% of its content
 * and touches 200 pages a second; a busy one 50 to 90%, and touches 20,000 to 60,000. Nobody has a reservation or a limit.
 * They come in the first tenth of the time, with nothing in memory yet.
 *
 *     steady    half of the machines are busy all the time, the others idle
 *     diurnal   a day: each is busy for 8 of 24 hours, most at about the same time; how much it uses rises and falls over an
 *               hour. A trace shorter than a day is a shorter day
 *     stampede  all idle; after a third of the time all are busy within 5 seconds; in the last third all are idle
 *     ramp      content and what is used grow from a tenth to everything, over the whole time
 *     mixed     idle, with bursts: in each minute one machine of seven is busy
 *     liar      as mixed; one machine of eight is idle, and its statistics say that it uses all of its RAM
 *     churn     as mixed; machines come and go: each is here for two of three stretches of two to six minutes
 *
 * The figures above are invented. A trace that was recorded says more (overbook record).
 */
#ifndef OB_SIM_SYNTHETIC_H
#define OB_SIM_SYNTHETIC_H

#include "sim/trace.h"

enum ob_sim_synthetic_kind {
	OB_SIM_STEADY, OB_SIM_DIURNAL, OB_SIM_STAMPEDE, OB_SIM_RAMP, OB_SIM_MIXED, OB_SIM_LIAR, OB_SIM_CHURN, OB_SIM_SYNTHETICS
};

struct ob_sim_synthetic {
	enum ob_sim_synthetic_kind kind;
	uint32_t machines;
	uint64_t seconds, seed;
};

/* "steady" and so on; NULL where there are no more. The kind of that name, or -1. */
const char *ob_sim_synthetic_name(unsigned kind);
int ob_sim_synthetic_find(const char *name);

/* What a machine does in a second. Returns whether it is here. */
int ob_sim_synthetic_load(const struct ob_sim_synthetic *synthetic, uint32_t machine, uint64_t second, struct ob_sim_load *ret);

/* The whole of it as a source. The caller frees it by ob_sim_synthetic_close(). NULL when memory is short. */
struct ob_sim_source *ob_sim_synthetic_open(const struct ob_sim_synthetic *synthetic);
void ob_sim_synthetic_close(struct ob_sim_source *source);

/* RAM of all of its machines together. */
uint64_t ob_sim_synthetic_ram(const struct ob_sim_synthetic *synthetic);

#endif
