/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proto/stats.h"

const char *const ob_hist_names[OB_HIST_KINDS] = {
#define X(name) #name,
	OB_HISTS(X)
#undef X
};

uint64_t ob_hist_quantile_ns(const uint64_t *buckets, unsigned n, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < n; i++)
		total += buckets[i];
	for (unsigned i = 0; i < n; i++) {
		seen += buckets[i];
		if (total && (double)seen >= share * (double)total)
			return ob_hist_bucket_ns(i);
	}
	return 0;
}
