/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What overbookd tells of a machine (`stats`), as the load of a trace (sim/trace.h). Pure: no I/O.
 *
 *     content        RAM but what was never touched, and what the balloon holds
 *     working set    by the engine's sample of late; before there is one, what overbookd believes of it; before that, all of
 *                    the content
 *     touches        at least: the faults that the engine has answered since the last look, by second, and no less than the
 *                    working set once in 16 s, which is how long a page may rest before the sample takes it for idle.
 *                    Touches that are no fault nobody counts
 *     spare          of its content, what is known to be zero or is shared; before such pages are looked for they count as others
 *     compressible   of the rest, as many as the engine found to be so among those that it tried; to what, by what its pool takes now
 */
#ifndef OB_CLI_RECORD_LOAD_H
#define OB_CLI_RECORD_LOAD_H

#include <stdint.h>

#include <jansson.h>

#include "sim/trace.h"

/*
 * machine: an answer to `stats`. *faults: all of them at the last look, 0 at the first; seconds: since then. Returns 0; or
 * -ENODATA while its engine has not reported, or has reported what cannot be.
 */
int ob_record_load(const json_t *machine, uint64_t seconds, uint64_t *faults, struct ob_sim_load *ret);

#endif
