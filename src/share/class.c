/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which class a page is of: the rules of CMD and of nuKSM. Pages of different classes are never compared. */
#include "share/internal.h"

unsigned ob_strategy_class_one(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum)
{
	return 0;
}

unsigned ob_strategy_class_address(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum)
{
	return (unsigned)((uint64_t)view->page * strategy->options.ranges / strategy->options.pages);
}

unsigned ob_strategy_class_pagecount(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum)
{
	uint64_t writes = 0;

	for (unsigned i = 0; i < OB_STRATEGY_SUBPAGES_MAX; i++)
		writes += view->writes[i];
	writes /= strategy->options.count_width;
	return writes < strategy->options.count_classes ? (unsigned)writes : strategy->options.count_classes - 1;
}

unsigned ob_strategy_class_subpage(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum)
{
	unsigned eighths = OB_STRATEGY_SUBPAGES_MAX / strategy->options.subpages, class = 0;

	for (unsigned i = 0; i < strategy->options.subpages; i++) {
		uint64_t writes = 0;

		for (unsigned j = 0; j < eighths; j++)
			writes += view->writes[i * eighths + j];
		class |= (unsigned)(writes >= strategy->options.threshold) << i;
	}
	return class;
}

unsigned ob_strategy_class_checksum(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum)
{
	return sum % (uint32_t)strategy->counters.classes;
}
