/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What can be changed while overbookd runs: the file that --config names, read at the start and at each SIGHUP. */
#ifndef OB_DAEMON_CONFIG_H
#define OB_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

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

/* A budget as people write it, "none" included; what names where it was written. 0 or -EINVAL. */
int ob_config_parse_budget(const char *what, const char *text, uint64_t *ret_bytes, struct ob_error *err) OB_MUST_CHECK;

/* "on" or "off"; permille of a processor, 1 to 1000; "hash" (0), or "cmd-subpage" with 4 sub-pages or as many as it says. 0 or -EINVAL. */
int ob_config_parse_share(const char *what, const char *text, bool *ret_sharing, struct ob_error *err) OB_MUST_CHECK;
int ob_config_parse_share_cpu(const char *what, const char *text, unsigned *ret_permille, struct ob_error *err) OB_MUST_CHECK;
int ob_config_parse_share_index(const char *what, const char *text, unsigned *ret_subpages, struct ob_error *err) OB_MUST_CHECK;

/* What is done with large pages; how much of the budget is to stay free, at least 1M. 0 or -EINVAL. */
int ob_config_parse_large_pages(const char *what, const char *text, enum ob_large_policy *ret_policy, struct ob_error *err) OB_MUST_CHECK;
int ob_config_parse_min_free(const char *what, const char *text, uint64_t *ret_bytes, struct ob_error *err) OB_MUST_CHECK;

/* "auto" or "off"; what is left to guests at least, "25%" or a size of at least 64M. 0 or -EINVAL. */
int ob_config_parse_balloon(const char *what, const char *text, bool *ret_auto, struct ob_error *err) OB_MUST_CHECK;
int ob_config_parse_balloon_floor(const char *what, const char *text, struct ob_balloon_floor *ret_floor,
				  struct ob_error *err) OB_MUST_CHECK;

/* Percent, 0 to OB_BUDGET_TAX_MAX, with or without the sign. 0 or -EINVAL. */
int ob_config_parse_idle_tax(const char *what, const char *text, unsigned *ret_percent, struct ob_error *err) OB_MUST_CHECK;

/* Reads the whole file. *ret_config holds the defaults before, and is left alone on failure. 0 or -errno with the file and line. */
int ob_config_read(const char *path, struct ob_config *ret_config, struct ob_error *err) OB_MUST_CHECK;

#endif
