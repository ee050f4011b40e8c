/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The record of what each means has given and cost (means.h), of the machines that are here. */
#ifndef OB_DAEMON_MACHINE_MEANS_H
#define OB_DAEMON_MACHINE_MEANS_H

#include <jansson.h>

#include "daemon/means.h"

struct ob_daemon;
struct ob_machine;

/* A machine's. */
struct ob_machine_means {
	struct ob_means means;
	struct ob_means_guest guest;
	uint64_t step_ns;
};

/* Once a second. */
void ob_machine_means_step(struct ob_daemon *daemon);

/* How it looks in JSON. A new reference, NULL when memory is short. */
json_t *ob_machine_means_render(const struct ob_machine *machine);

#endif
