/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine counts. The fields are those of proto/stats.h, which also crosses the wire and documents each one;
 * the engine uses the layout, not the protocol.
 */
#ifndef OB_ENGINE_STATS_H
#define OB_ENGINE_STATS_H

#include "proto/stats.h"

struct ob_engine_stats {
	struct ob_stats values;
	struct ob_hists hists;
};

#endif
