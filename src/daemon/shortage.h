/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How short memory is: feeds the ladder (ladder.h) with what is known of machines and of the host, and says what follows. */
#ifndef OB_DAEMON_SHORTAGE_H
#define OB_DAEMON_SHORTAGE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "daemon/ladder.h"

struct ob_daemon;

struct ob_shortage {
	struct ob_ladder ladder;
	uint64_t step_ns;
};

/* Once a second, after ob_large_step(). */
void ob_shortage_step(struct ob_daemon *daemon);

/* Whether a cut may wait for what guests give. */
bool ob_shortage_may_wait(const struct ob_daemon *daemon);

/* Whether nobody is to grow beyond what is guaranteed to him. */
bool ob_shortage_is_severe(const struct ob_daemon *daemon);

/* How it looks in JSON; null: not known yet. A new reference, NULL when memory is short. */
json_t *ob_shortage_render(const struct ob_daemon *daemon);

#endif
