/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What can be set: by options, or by the file that --config names, which is read at the start and at each SIGHUP. */
#ifndef OB_DAEMON_CONFIG_H
#define OB_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "daemon/balloon.h"
#include "daemon/metrics_server.h"
#include "largepages/host.h"

#define OB_CONFIG_MAX 16384 /* bytes of the file */

struct ob_config {
	uint64_t budget_bytes; /* OB_BUDGET_NONE: no budget */
	enum ob_log_level log_level; /* 0: not said */
	bool sharing;
	unsigned share_cpu_permille;
	unsigned share_subpages;
	enum ob_large_policy large_policy;
	uint64_t min_free_bytes; /* 0: by the sliding scale */
	bool balloon_auto;
	struct ob_balloon_floor balloon_floor;
	unsigned idle_tax_percent;
	struct ob_metrics_address metrics_address;
};

/* What holds where nothing is said. */
extern const struct ob_config ob_config_default;

/* Takes a setting from the command line: "share-cpu" for SHARE_CPU. 0, or -EINVAL with the option's name, the value, and what would be right. */
int ob_config_take_option(struct ob_config *config, const char *option, const char *value, struct ob_error *err) OB_MUST_CHECK;

/* Reads the whole file; what it does not say is as by default. *ret_config is left alone on failure. 0 or -errno with the file and line. */
int ob_config_read(const char *path, struct ob_config *ret_config, struct ob_error *err) OB_MUST_CHECK;

/* Writes all settings, as such a file has them. */
void ob_config_write(const struct ob_config *config, FILE *to);

#endif
