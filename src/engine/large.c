/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is to be done with large pages. */
#include "engine/internal.h"

void ob_engine_large(struct ob_engine *engine, const struct ob_large_orders *orders)
{
	pthread_rwlock_wrlock(&engine->regions_lock);
	engine->large.orders = *orders;
	engine->large.is_ordered = 1;
	pthread_rwlock_unlock(&engine->regions_lock);
}
