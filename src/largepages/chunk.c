/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "largepages/chunk.h"

#include "base/compiler.h"

static const char *const texts[OB_LARGE_REASON_COUNT] = {
#define X(name, text) [OB_LARGE_R_##name] = text,
	OB_LARGE_REASONS(X)
#undef X
};

const char *ob_large_reason_text(enum ob_large_reason reason)
{
	return (unsigned)reason < OB_LARGE_REASON_COUNT ? texts[reason] : "?";
}

static struct ob_large_verdict verdict(enum ob_large_action action, enum ob_large_reason reason)
{
	return (struct ob_large_verdict){ action, reason };
}

/* So many shareable pages make it worth while to break this one; OB_LARGE_NO_THRESHOLD: none do. */
static unsigned threshold_of(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk)
{
	unsigned threshold = chunk->is_hot ? orders->hot_pages : orders->cold_pages;

	if (threshold >= OB_LARGE_NO_THRESHOLD || chunk->vain >= OB_LARGE_VAIN_MAX)
		return OB_LARGE_NO_THRESHOLD;
	return OB_MIN(threshold << chunk->vain, OB_LARGE_PAGES);
}

static enum ob_large_reason why_never(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk)
{
	if ((chunk->is_hot ? orders->hot_pages : orders->cold_pages) < OB_LARGE_NO_THRESHOLD)
		return OB_LARGE_R_IN_VAIN;
	return orders->policy == OB_LARGE_PROACTIVE ? OB_LARGE_R_PLENTY : OB_LARGE_R_POLICY;
}

static struct ob_large_verdict judge_large(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk, int may_break)
{
	unsigned threshold = threshold_of(orders, chunk), sampled = OB_MIN(chunk->sample.sampled, chunk->sample.pages);
	struct ob_large_estimate estimate;

	if (orders->policy == OB_LARGE_OFF)
		return may_break ? verdict(OB_LARGE_BREAK, OB_LARGE_R_NO_LARGE_PAGES) : verdict(OB_LARGE_KEEP, OB_LARGE_R_RATE);
	if (threshold == OB_LARGE_NO_THRESHOLD)
		return verdict(OB_LARGE_KEEP, why_never(orders, chunk));
	if (!sampled)
		return verdict(OB_LARGE_SAMPLE, OB_LARGE_R_NOT_SAMPLED);
	estimate = ob_large_estimate(&chunk->sample);
	if (estimate.most < threshold)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	if (estimate.least < threshold) {
		if (orders->state != OB_LARGE_LOW && sampled < OB_MIN(OB_LARGE_SAMPLE_MAX, chunk->sample.pages))
			return verdict(OB_LARGE_SAMPLE, OB_LARGE_R_UNCERTAIN);
		if (estimate.likely < threshold)
			return verdict(OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	}
	if (!may_break)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_RATE);
	return verdict(OB_LARGE_BREAK, chunk->is_hot ? OB_LARGE_R_HOT_SHAREABLE : OB_LARGE_R_COLD_SHAREABLE);
}

/* Whether a chunk that is made whole now would soon be broken again: it takes half of what breaks it, lest it goes to and fro. */
static int would_break(const struct ob_large_chunk *chunk)
{
	if (!chunk->sample.sampled || chunk->vain >= OB_LARGE_VAIN_MAX)
		return 0;
	return ob_large_estimate(&chunk->sample).likely > OB_MIN(OB_LARGE_COLLAPSE_MOST << chunk->vain, OB_LARGE_PAGES / 2);
}

static struct ob_large_verdict judge_broken(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk, int may_collapse)
{
	if (orders->policy == OB_LARGE_OFF)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_NO_LARGE_PAGES);
	if (orders->state != OB_LARGE_HIGH)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_SHORT);
	/* A chunk at a region's end may be less than 2 MiB. */
	if (chunk->shared || chunk->away || chunk->holes || chunk->sample.pages != OB_LARGE_PAGES)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_NOT_WHOLE);
	if (!chunk->is_hot)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_COLD);
	if (chunk->held || chunk->armed)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_HELD);
	if (orders->policy == OB_LARGE_PROACTIVE && would_break(chunk))
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_WOULD_BREAK);
	return may_collapse ? verdict(OB_LARGE_COLLAPSE, OB_LARGE_R_HOT_WHOLE) : verdict(OB_LARGE_KEEP, OB_LARGE_R_RATE);
}

struct ob_large_verdict ob_large_chunk_judge(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk, int may_break,
					     int may_collapse)
{
	if (chunk->is_busy)
		return verdict(OB_LARGE_KEEP, OB_LARGE_R_BUSY);
	return chunk->is_large ? judge_large(orders, chunk, may_break) : judge_broken(orders, chunk, may_collapse);
}
