/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/stall.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "daemon/average.h"

#define MEMORY_NS      (10 * OB_NS_PER_SEC)
#define CLOSE_NS       (500 * OB_NS_PER_MS)
#define WHOLE          1000000u /* all of the time */
#define ENTER          (WHOLE / 10)
#define LEAVE          (WHOLE / 20)

static unsigned share_of(uint64_t us, uint64_t elapsed_ns)
{
	uint64_t elapsed_us = elapsed_ns / OB_NS_PER_US;

	return us >= elapsed_us ? WHOLE : (unsigned)(us * WHOLE / elapsed_us);
}

static void begin(struct ob_stall *stall, bool has_pressure)
{
	stall->is_known = has_pressure;
	stall->share = stall->last_share = 0;
	stall->stalls = false;
}

static void follow(struct ob_stall *stall, uint64_t us, uint64_t elapsed_ns)
{
	stall->last_share = share_of(us, elapsed_ns);
	stall->share = (unsigned)ob_approach(stall->share, stall->last_share, elapsed_ns, MEMORY_NS);
	stall->stalls = stall->share >= (stall->stalls ? LEAVE : ENTER);
}

void ob_stall_note(struct ob_stall *stall, bool has_pressure, uint64_t some_us, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns - stall->at_ns;

	if (!has_pressure || !stall->is_known || some_us < stall->some_us || elapsed_ns > OB_STALL_STALE_NS)
		begin(stall, has_pressure);
	else if (elapsed_ns < CLOSE_NS)
		return;
	else
		follow(stall, some_us - stall->some_us, elapsed_ns);
	stall->some_us = some_us;
	stall->at_ns = now_ns;
	if (!stall->stalls)
		return;
	if (!stall->since_ns || now_ns - stall->stalled_ns >= OB_STALL_KEEP_NS)
		stall->since_ns = now_ns;
	stall->stalled_ns = now_ns;
}

bool ob_stall_is(const struct ob_stall *stall, uint64_t now_ns)
{
	return stall->stalls && now_ns - stall->at_ns <= OB_STALL_STALE_NS;
}

bool ob_stall_goes_on(const struct ob_stall *stall, uint64_t now_ns)
{
	return ob_stall_is(stall, now_ns) && stall->last_share >= LEAVE;
}

bool ob_stall_keeps(const struct ob_stall *stall, uint64_t now_ns)
{
	return ob_stall_is(stall, now_ns) && now_ns - stall->since_ns < OB_STALL_KEEP_NS;
}
