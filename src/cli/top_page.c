/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/top_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "base/units.h"
#include "cli/client.h"

#define HEAD_LINES  6  /* of the host, the last of them for messages */
#define HEAD_SHORT  3  /* on a screen of less than SHORT_HEIGHT lines */
#define FOOT_LINES  2
#define SHORT_HEIGHT 14
#define BUDGET_BAR  30
#define BAR_MIN     24
#define BAR_MAX     100
#define OCTAVES     24 /* of latencies, from FIRST_OCTAVE on: 1 us to 17 s */
#define FIRST_OCTAVE 10
#define MUCH_WAITING 0.1 /* of the time: the host itself is short */
#define SHADES      " .:-=+*#%@"

char *ob_top_size(char buf[OB_TOP_SHORT], double bytes)
{
	static const char units[] = "BKMGTPE";
	unsigned unit = 0;

	if (bytes < 0)
		return strcpy(buf, "-");
	/* What would be rounded to 1024 is one of the next unit. */
	while (bytes >= 1023.5 && unit + 2 < sizeof(units)) {
		bytes /= 1024;
		unit++;
	}
	snprintf(buf, OB_TOP_SHORT, unit && bytes < 9.95 ? "%.1f%c" : "%.0f%c", bytes, units[unit]);
	return buf;
}

char *ob_top_rate(char buf[OB_TOP_SHORT], double rate)
{
	static const char units[] = " kMG";
	unsigned unit = 0;

	if (rate < 0)
		return strcpy(buf, "-");
	while (rate >= 9999.5 && unit + 2 < sizeof(units)) {
		rate /= 1000;
		unit++;
	}
	snprintf(buf, OB_TOP_SHORT, rate < 9.95 && rate != (double)(unsigned)rate ? "%.1f" : "%.0f", rate);
	if (unit)
		snprintf(buf + strlen(buf), OB_TOP_SHORT - strlen(buf), "%c", units[unit]);
	return buf;
}

char *ob_top_time(char buf[OB_TOP_SHORT], uint64_t ns)
{
	static const char *const units[] = { "ns", "us", "ms", "s" };
	double value = (double)ns;
	unsigned unit = 0;

	while (value >= 999.5 && unit + 1 < OB_ARRAY_LEN(units)) {
		value /= 1000;
		unit++;
	}
	snprintf(buf, OB_TOP_SHORT, unit && value < 9.95 ? "%.1f%s" : "%.0f%s", value, units[unit]);
	return buf;
}

/* --- the bar --- */

static const struct {
	char letter;
	enum ob_top_style style;
} bar_styles[] = {
	{ '#', OB_TOP_IN_PLACE }, { '=', OB_TOP_IS_SHARED }, { ':', OB_TOP_IS_COMPRESSED }, { '.', OB_TOP_IS_SWAPPED },
	{ 'o', OB_TOP_IS_BALLOONED }, { '|', OB_TOP_MARK }, { '+', OB_TOP_MARK },
};

static void mark(char *buf, unsigned width, double bytes, double scale, char letter)
{
	double at = bytes / scale * width;

	if (bytes > 0 && at < width)
		buf[(unsigned)at] = letter;
}

void ob_top_bar(char *buf, unsigned width, const struct ob_top_row *row)
{
	const struct {
		char letter;
		double bytes;
	} parts[] = {
		{ '#', (double)row->resident_bytes + (double)row->benched_bytes }, { '=', (double)row->shared_bytes },
		{ ':', (double)row->compressed_bytes }, { '.', (double)row->swapped_bytes }, { 'o', (double)row->ballooned_bytes },
	};
	double sum = 0, scale, end = 0;
	unsigned at = 0;

	memset(buf, ' ', width);
	buf[width] = '\0';
	for (size_t i = 0; i < OB_ARRAY_LEN(parts); i++)
		sum += parts[i].bytes;
	/* Pages in place are an upper bound: together they may be more than there are. */
	scale = OB_MAX(OB_MAX(sum, (double)row->ram_bytes), 1.0);
	for (size_t i = 0; i < OB_ARRAY_LEN(parts); i++) {
		end += parts[i].bytes;
		for (; at < width && at + 0.5 < end / scale * width; at++)
			buf[at] = parts[i].letter;
	}
	mark(buf, width, (double)row->target_bytes, scale, '+');
	mark(buf, width, (double)row->limit_bytes, scale, '|');
}

static enum ob_top_style bar_style(char letter)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(bar_styles); i++)
		if (bar_styles[i].letter == letter)
			return bar_styles[i].style;
	return OB_TOP_PLAIN;
}

static void put_bar(struct ob_top_canvas *canvas, unsigned y, unsigned x, unsigned width, const struct ob_top_row *row)
{
	char bar[BAR_MAX + 1];

	width = OB_MIN(width, BAR_MAX + 2u);
	if (width < 3)
		return;
	ob_top_bar(bar, width - 2, row);
	ob_top_put(canvas, y, x, OB_TOP_DIM, "[");
	for (unsigned i = 0; i < width - 2; i++)
		ob_top_put(canvas, y, x + 1 + i, bar_style(bar[i]), "%c", bar[i]);
	ob_top_put(canvas, y, x + width - 1, OB_TOP_DIM, "]");
}

/* --- the host --- */

static void put_budget(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_host *host)
{
	char budget[OB_TOP_SHORT], cost[OB_TOP_SHORT], store[OB_TOP_SHORT], left[OB_TOP_SHORT], bar[BUDGET_BAR];
	double total = (double)host->budget_bytes, end;
	unsigned x, at = 0;

	ob_top_size(cost, (double)host->cost_bytes);
	ob_top_size(store, (double)host->store_bytes);
	if (!host->budget_bytes) {
		ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "No budget: machines cost %s, stores of shared pages %s", cost, store);
		return;
	}
	memset(bar, ' ', sizeof(bar));
	end = (double)host->cost_bytes / total * BUDGET_BAR;
	for (; at < BUDGET_BAR && at + 0.5 < end; at++)
		bar[at] = '#';
	end += (double)host->store_bytes / total * BUDGET_BAR;
	for (; at < BUDGET_BAR && at + 0.5 < end; at++)
		bar[at] = '=';
	x = ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "Budget %s [", ob_top_size(budget, total));
	for (unsigned i = 0; i < BUDGET_BAR; i++)
		x = ob_top_put(canvas, y, x, bar_style(bar[i]), "%c", bar[i]);
	x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, "] cost %s, stores %s, ", cost, store);
	if (host->memory_known)
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, "free %s", ob_top_size(left, (double)host->free_bytes));
	else
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, "free not known yet");
}

static void put_memory(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_host *host)
{
	char clear[OB_TOP_SHORT], soft[OB_TOP_SHORT];
	bool is_high = !strcmp(host->memory_state, "high");
	unsigned x;

	if (!host->memory_known) {
		ob_top_put(canvas, y, 0, OB_TOP_ALARM, "Memory: machines of before are expected back");
		return;
	}
	x = ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "Memory ");
	x = ob_top_put(canvas, y, x, is_high ? OB_TOP_BOLD : OB_TOP_ALARM, "%s", host->memory_state);
	if (*host->memory_because)
		x = ob_top_put(canvas, y, x, OB_TOP_ALARM, ", %s", host->memory_because);
	else if (host->budget_bytes)
		x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, " (clear < %s, soft < %s free)",
			       ob_top_size(clear, (double)host->boundary_bytes), ob_top_size(soft, (double)host->min_free_bytes));
	x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, "; large pages %s, %s", host->large_policy,
		       host->may_make_large ? "new ones may come" : "no new ones");
	if (host->shareable_pages != OB_TOP_UNKNOWN)
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, "; %" PRIu64 " of 512 pages could be shared", host->shareable_pages);
}

static unsigned put_swap(struct ob_top_canvas *canvas, unsigned y, unsigned x, const struct ob_top_rates *rates)
{
	char in[OB_TOP_SHORT], out[OB_TOP_SHORT];

	return ob_top_put(canvas, y, x, OB_TOP_PLAIN, "Swap in %s/s, out %s/s", ob_top_size(in, rates->swap_in_bytes),
			  ob_top_size(out, rates->swap_out_bytes));
}

static void put_shared(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_host *host)
{
	char shared[OB_TOP_SHORT], store[OB_TOP_SHORT], saved[OB_TOP_SHORT];
	unsigned x = ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "Shared: %s of pages in stores of %s, %s saved. ",
				ob_top_size(shared, (double)host->shared_bytes), ob_top_size(store, (double)host->store_bytes),
				ob_top_size(saved, (double)host->saved_bytes));

	put_swap(canvas, y, x, &host->rates);
}

static void put_rates(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_rates *rates)
{
	char text[OB_TOP_SHORT];
	unsigned x = ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "Faults %s/s:", ob_top_rate(text, rates->all_faults));

	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++)
		x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, " %s %s", ob_hist_names[kind], ob_top_rate(text, rates->faults[kind]));
}

static void put_right(struct ob_top_canvas *canvas, unsigned y, unsigned left, const struct ob_top_host *host)
{
	char text[80];
	unsigned length;

	if (!host->pid)
		return;
	length = (unsigned)snprintf(text, sizeof(text), "overbookd %s, pid %" PRIu64, host->version, host->pid);
	if (left + 2 + length <= canvas->width)
		ob_top_put(canvas, y, canvas->width - length, OB_TOP_DIM, "%s", text);
}

static void put_message(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_view *view)
{
	ob_top_put(canvas, y, 0, view->is_alarm ? OB_TOP_ALARM : OB_TOP_BOLD, "%s", view->message);
}

static unsigned head_lines(unsigned height)
{
	return height < SHORT_HEIGHT ? HEAD_SHORT : HEAD_LINES;
}

unsigned ob_top_list_lines(unsigned height)
{
	unsigned other = head_lines(height) + 1 + FOOT_LINES;

	return height > other ? height - other : 1;
}

unsigned ob_top_plain_height(const struct ob_top *top)
{
	return HEAD_LINES + 1 + (unsigned)OB_MAX(top->count, (size_t)SHORT_HEIGHT) + FOOT_LINES;
}

static unsigned put_host(struct ob_top_canvas *canvas, unsigned y, unsigned x, const struct ob_top_host *host)
{
	char available[OB_TOP_SHORT], total[OB_TOP_SHORT];

	if (!host->total_bytes)
		return x;
	x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, "; host: %s of %s available", ob_top_size(available, (double)host->available_bytes),
		       ob_top_size(total, (double)host->total_bytes));
	if (host->waits >= 0)
		x = ob_top_put(canvas, y, x, host->waits >= MUCH_WAITING ? OB_TOP_ALARM : OB_TOP_PLAIN, ", waits %.1f%%", host->waits * 100);
	return x;
}

static void put_head(struct ob_top_canvas *canvas, const struct ob_top *top, const struct ob_top_view *view)
{
	const struct ob_top_host *host = &top->host;
	unsigned last = head_lines(canvas->height) - 1;
	unsigned x = ob_top_put(canvas, 0, 0, OB_TOP_BOLD, "%zu machine%s", top->count, top->count == 1 ? "" : "s");

	if (host->not_running)
		x = ob_top_put(canvas, 0, x, OB_TOP_ALARM, ", %u not running", host->not_running);
	if (host->over_limit)
		x = ob_top_put(canvas, 0, x, OB_TOP_ALARM, ", %u above the limit", host->over_limit);
	x = put_host(canvas, 0, x, host);
	put_right(canvas, 0, x, host);
	put_budget(canvas, 1, host);
	if (last + 1 == HEAD_LINES) {
		put_memory(canvas, 2, host);
		put_shared(canvas, 3, host);
		put_rates(canvas, 4, &host->rates);
	}
	put_message(canvas, last, view);
}

/* --- the list --- */

struct layout {
	bool has[OB_TOP_KEYS];
	unsigned name_width, bar_width;
};

static unsigned column_width(const struct layout *layout, unsigned key)
{
	return key == OB_TOP_NAME ? layout->name_width : ob_top_columns[key].width;
}

static struct layout lay_out(const struct ob_top *top, unsigned width)
{
	struct layout layout = { .name_width = 4 };
	unsigned used = 0;

	for (size_t i = 0; i < top->count; i++)
		layout.name_width = OB_MAX(layout.name_width, (unsigned)strlen(top->rows[i].name));
	layout.name_width = OB_MIN(layout.name_width, OB_MAX(width / 5, 4u));
	for (unsigned rank = 0; rank < OB_TOP_KEYS; rank++)
		for (unsigned key = 0; key < OB_TOP_KEYS; key++) {
			unsigned more = column_width(&layout, key) + 1;

			if (ob_top_columns[key].rank != rank || (rank && used + more + BAR_MIN > width))
				continue;
			layout.has[key] = true;
			used += more;
		}
	layout.bar_width = width > used ? OB_MIN(width - used, BAR_MAX + 2u) : 0;
	return layout;
}

static void put_cell(struct ob_top_canvas *canvas, unsigned y, unsigned x, unsigned width, const struct ob_top_row *row, unsigned key)
{
	double value = ob_top_value(row, key);
	char text[OB_TOP_SHORT] = "";

	switch (ob_top_columns[key].form) {
	case OB_TOP_IS_TEXT:
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, "%.*s", (int)width, key == OB_TOP_NAME ? row->name : row->state);
		return;
	case OB_TOP_IS_SIZE_OR_NONE:
		if (isinf(value))
			strcpy(text, "none");
		else
			ob_top_size(text, value);
		break;
	case OB_TOP_IS_SIZE:
	case OB_TOP_IS_SIZE_RATE:
		ob_top_size(text, value);
		break;
	case OB_TOP_IS_RATE:
		ob_top_rate(text, value);
		break;
	case OB_TOP_IS_SHARE:
		if (value < 0)
			strcpy(text, "-");
		else
			snprintf(text, sizeof(text), "%.0f%%", value * 100);
	}
	ob_top_put(canvas, y, x, OB_TOP_PLAIN, "%*s", (int)width, text);
}

static void put_titles(struct ob_top_canvas *canvas, unsigned y, const struct layout *layout, const struct ob_top_view *view)
{
	unsigned x = 0;

	ob_top_paint(canvas, y, OB_TOP_TITLE);
	for (unsigned key = 0; key < OB_TOP_KEYS; key++) {
		unsigned width = column_width(layout, key);
		enum ob_top_style style = key == view->key ? OB_TOP_SORTED : OB_TOP_TITLE;

		if (!layout->has[key])
			continue;
		ob_top_put(canvas, y, x, style, "%*s", ob_top_columns[key].form == OB_TOP_IS_TEXT ? -(int)width : (int)width,
			   ob_top_columns[key].title);
		x += width + 1;
	}
	if (layout->bar_width >= 3)
		ob_top_put(canvas, y, x, OB_TOP_TITLE, "WHERE ITS RAM IS");
}

static void put_row(struct ob_top_canvas *canvas, unsigned y, const struct layout *layout, const struct ob_top_row *row, bool is_selected)
{
	unsigned x = 0;

	for (unsigned key = 0; key < OB_TOP_KEYS; key++)
		if (layout->has[key]) {
			put_cell(canvas, y, x, column_width(layout, key), row, key);
			x += column_width(layout, key) + 1;
		}
	if (is_selected)
		ob_top_paint(canvas, y, OB_TOP_SELECTED);
	else if (*row->cause || row->over_limit_bytes)
		ob_top_paint(canvas, y, OB_TOP_ALARM);
	put_bar(canvas, y, x, layout->bar_width, row);
}

/* Finds the selected machine again; where it has gone, the one that stands there now is selected. */
static void find_selected(struct ob_top_view *view, const struct ob_top *top)
{
	const struct ob_top_row *row = *view->selected ? ob_top_find(top, view->selected) : NULL;

	view->selected_row = row ? (size_t)(row - top->rows) : OB_MIN(view->selected_row, top->count ? top->count - 1 : 0);
	if (*view->selected && top->count)
		memcpy(view->selected, top->rows[view->selected_row].name, sizeof(view->selected));
}

/* Brings the selection on the screen. */
static void settle(struct ob_top_view *view, const struct ob_top *top, unsigned lines)
{
	find_selected(view, top);
	if (view->selected_row < view->first)
		view->first = view->selected_row;
	if (view->selected_row >= view->first + lines)
		view->first = view->selected_row - lines + 1;
	/* No blank lines below while there are rows above. */
	view->first = OB_MIN(view->first, top->count > lines ? top->count - lines : 0);
}

void ob_top_move(struct ob_top_view *view, const struct ob_top *top, long rows)
{
	long last = (long)top->count - 1, at;

	find_selected(view, top);
	if (last < 0)
		return;
	at = OB_MAX(OB_MIN((long)view->selected_row + rows, last), 0l);
	memcpy(view->selected, top->rows[at].name, sizeof(view->selected));
	view->selected_row = (size_t)at;
}

static void put_legend(struct ob_top_canvas *canvas, unsigned y)
{
	static const char *const words[] = { "in place", "shared", "compressed", "swapped", "ballooned", "limit", "entitled" };
	unsigned x = 0;

	for (size_t i = 0; i < OB_ARRAY_LEN(words); i++) {
		x = ob_top_put(canvas, y, x, bar_styles[i].style, "%c", bar_styles[i].letter);
		x = ob_top_put(canvas, y, x, OB_TOP_DIM, " %s  ", words[i]);
	}
}

static void draw_list(struct ob_top_canvas *canvas, const struct ob_top *top, struct ob_top_view *view)
{
	unsigned head = head_lines(canvas->height), lines = view->plain ? (unsigned)top->count : ob_top_list_lines(canvas->height);
	struct layout layout = lay_out(top, canvas->width);

	if (!view->plain)
		settle(view, top, lines);
	put_head(canvas, top, view);
	put_titles(canvas, head, &layout, view);
	for (unsigned i = 0; i < lines && view->first + i < top->count; i++)
		put_row(canvas, head + 1 + i, &layout, &top->rows[view->first + i],
			!view->plain && view->first + i == view->selected_row);
	if (view->plain) {
		put_legend(canvas, head + 1 + lines);
		return;
	}
	if (canvas->height < head + 1 + FOOT_LINES + 1)
		return;
	put_legend(canvas, canvas->height - 2);
	ob_top_put(canvas, canvas->height - 1, 0, OB_TOP_TITLE, "q end  Enter page  < > by %s%s  r turn  n name  c cost  f faults  s swap ",
		   ob_top_columns[view->key].key, view->reverse ? " (turned)" : "");
}

/* --- the page of a machine --- */

void ob_top_take_detail(struct ob_top_detail *detail, const json_t *answer)
{
	const json_t *kinds = json_object_get(answer, "fault_latency");
	bool is_first;
	char name[sizeof(detail->name)];
	uint64_t pid = ob_client_number(answer, "pid");

	ob_text_clean(name, sizeof(name), ob_client_text(answer, "name"));
	is_first = !detail->is_known || strcmp(detail->name, name) || detail->pid != pid;
	memcpy(detail->name, name, sizeof(name));
	detail->pid = pid;
	for (unsigned kind = 0; kind < OB_HIST_KINDS; kind++) {
		const json_t *buckets = json_object_get(json_object_get(kinds, ob_hist_names[kind]), "buckets");

		for (unsigned i = 0; i < OB_HIST_BUCKETS; i++) {
			json_int_t count = json_integer_value(json_array_get(buckets, i));

			detail->hists.count[kind][i] = count > 0 ? (uint64_t)count : 0;
		}
	}
	if (is_first)
		detail->at_first = detail->hists;
	detail->is_known = true;
}

/* What is shown of one kind's latencies; OB_HIST_KINDS: of all together. */
static void choose_buckets(const struct ob_top_detail *detail, bool since_opened, unsigned kind, uint64_t ret[OB_HIST_BUCKETS])
{
	memset(ret, 0, OB_HIST_BUCKETS * sizeof(*ret));
	for (unsigned k = 0; k < OB_HIST_KINDS; k++)
		for (unsigned i = 0; i < OB_HIST_BUCKETS; i++) {
			uint64_t now = detail->hists.count[k][i], before = since_opened ? detail->at_first.count[k][i] : 0;

			if (k == kind || kind == OB_HIST_KINDS)
				ret[i] += ob_less(now, before);
		}
}

/* The shades of latencies: each letter is per_octave of an octave. */
static void shade(const uint64_t *buckets, unsigned per_octave, char *buf)
{
	unsigned letters = OCTAVES * per_octave;
	uint64_t sums[OCTAVES * 2] = { 0 }, most = 1;

	for (unsigned i = 0; i < OB_HIST_BUCKETS; i++) {
		unsigned first = FIRST_OCTAVE * 2, at = i < first ? 0 : (i - first) * per_octave / 2;

		sums[OB_MIN(at, letters - 1)] += buckets[i];
	}
	for (unsigned i = 0; i < letters; i++)
		most = OB_MAX(most, sums[i]);
	for (unsigned i = 0; i < letters; i++)
		buf[i] = SHADES[sums[i] ? 1 + (unsigned)((double)sums[i] / (double)most * (sizeof(SHADES) - 3)) : 0];
	buf[letters] = '\0';
}

static void put_latency(struct ob_top_canvas *canvas, unsigned y, const char *kind, const uint64_t *buckets, double rate,
			unsigned per_octave)
{
	char count_text[OB_TOP_SHORT], rate_text[OB_TOP_SHORT], middle[OB_TOP_SHORT] = "-", late[OB_TOP_SHORT] = "-";
	char shades[OCTAVES * 2 + 1];
	uint64_t count = 0;

	for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
		count += buckets[i];
	if (count) {
		ob_top_time(middle, ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.50));
		ob_top_time(late, ob_hist_quantile_ns(buckets, OB_HIST_BUCKETS, 0.99));
	}
	shade(buckets, per_octave, shades);
	ob_top_put(canvas, y, 0, OB_TOP_PLAIN, "%-10s %7s %7s %6s %6s  %s", kind, ob_top_rate(count_text, (double)count),
		   ob_top_rate(rate_text, rate), middle, late, shades);
}

#define LATENCY_X     42 /* where the shades of put_latency() begin */
#define LATENCY_LINES (OB_HIST_KINDS + 3)

static void put_latencies(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_row *row, const struct ob_top_view *view,
			  const struct ob_top_detail *detail)
{
	static const char *const scale[] = { "1us", "16us", "256us", "4ms", "64ms", "1s" };
	unsigned per_octave = canvas->width >= LATENCY_X + OCTAVES * 2 ? 2 : 1;

	ob_top_put(canvas, y, 0, OB_TOP_BOLD, "Latency of faults since %s",
		   view->since_opened ? "this page was opened" : "the machine started");
	ob_top_paint(canvas, y + 1, OB_TOP_TITLE);
	ob_top_put(canvas, y + 1, 0, OB_TOP_TITLE, "%-10s %7s %7s %6s %6s", "KIND", "FAULTS", "NOW/s", "p50", "p99");
	for (unsigned i = 0; i < OB_ARRAY_LEN(scale); i += 3 - per_octave)
		ob_top_put(canvas, y + 1, LATENCY_X + i * 4 * per_octave, OB_TOP_TITLE, "%s", scale[i]);
	for (unsigned kind = 0; kind <= OB_HIST_KINDS; kind++) {
		uint64_t buckets[OB_HIST_BUCKETS];
		double rate = !row ? -1 : kind < OB_HIST_KINDS ? row->rates.faults[kind] : row->rates.all_faults;

		choose_buckets(detail, view->since_opened, kind, buckets);
		put_latency(canvas, y + 2 + kind, kind < OB_HIST_KINDS ? ob_hist_names[kind] : "all", buckets, rate, per_octave);
	}
}

/* Working set and cost, the latest at the right. */
static void put_curves(struct ob_top_canvas *canvas, unsigned y, unsigned lines, const struct ob_top_row *row, double seconds)
{
	unsigned left = 7, room = canvas->width > left ? canvas->width - left : 0, count = OB_MIN(room, row->history_count);
	bool is_known = false;
	char text[OB_TOP_SHORT];
	double most = 1;

	for (unsigned n = 0; n < count; n++) {
		const struct ob_top_point *point = ob_top_point(row, n);

		most = OB_MAX(most, (double)point->cost_bytes);
		if (point->working_set_bytes != OB_TOP_UNKNOWN) {
			most = OB_MAX(most, (double)point->working_set_bytes);
			is_known = true;
		}
	}
	ob_top_put(canvas, y, 0, OB_TOP_BOLD, "%s and cost (o), the last %.0f s", is_known ? "Working set (#)" : "Working set (not known)",
		   count ? (count - 1) * seconds : 0);
	ob_top_put(canvas, y + 1, 0, OB_TOP_DIM, "%6s", ob_top_size(text, most));
	ob_top_put(canvas, y + lines, 0, OB_TOP_DIM, "%6s", "0");
	for (unsigned n = 0; n < count; n++) {
		const struct ob_top_point *point = ob_top_point(row, n);
		unsigned x = canvas->width - 1 - n, cost = (unsigned)((double)point->cost_bytes / most * (lines - 1) + 0.5), set = 0;

		if (point->working_set_bytes != OB_TOP_UNKNOWN)
			set = (unsigned)((double)point->working_set_bytes / most * lines + 0.5);
		for (unsigned i = 0; i < set; i++)
			ob_top_put(canvas, y + lines - i, x, OB_TOP_IN_PLACE, "#");
		ob_top_put(canvas, y + lines - cost, x, OB_TOP_MARK, "o");
	}
}

static char *or_none(char buf[OB_TOP_SHORT], uint64_t bytes)
{
	return bytes ? ob_top_size(buf, (double)bytes) : strcpy(buf, "none");
}

static void put_figures(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_row *row)
{
	const struct {
		const char *name;
		uint64_t bytes;
	} parts[] = {
		{ "# in place", row->resident_bytes }, { "on the bench", row->benched_bytes }, { "= shared", row->shared_bytes },
		{ ": compressed", row->compressed_bytes }, { "in a pool of", row->pool_bytes }, { ". swapped", row->swapped_bytes },
		{ "o ballooned", row->ballooned_bytes }, { "zero", row->zero_bytes },
	};
	char cost[OB_TOP_SHORT], limit[OB_TOP_SHORT], target[OB_TOP_SHORT], reserved[OB_TOP_SHORT], most[OB_TOP_SHORT], text[OB_TOP_SHORT];
	unsigned x = 0;

	for (size_t i = 0; i < OB_ARRAY_LEN(parts); i++)
		x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, "%s%s %s", i ? ", " : "", parts[i].name, ob_top_size(text, (double)parts[i].bytes));
	ob_top_put(canvas, y + 1, 0, OB_TOP_PLAIN, "Costs %s; | limit %s, + entitled to %s; reserved %s, maximum %s",
		   ob_top_size(cost, (double)row->cost_bytes), or_none(limit, row->limit_bytes), or_none(target, row->target_bytes),
		   or_none(reserved, row->reservation_bytes), or_none(most, row->maximum_bytes));
}

/* What is wrong with a machine, on one line. */
static void put_troubles(struct ob_top_canvas *canvas, unsigned y, const struct ob_top_row *row)
{
	static const char *const bits[] = { "swap store full", "swap store failing", "compressed pool full", "stopped by an unreadable page" };
	char text[OB_TOP_SHORT];
	unsigned x = 0;

	if (row->over_limit_bytes)
		x = ob_top_put(canvas, y, x, OB_TOP_ALARM, "%s above its limit. ", ob_top_size(text, (double)row->over_limit_bytes));
	for (unsigned i = 0; i < OB_ARRAY_LEN(bits); i++)
		if (row->degraded >> i & 1)
			x = ob_top_put(canvas, y, x, OB_TOP_ALARM, "Degraded: %s. ", bits[i]);
	if (*row->cause)
		ob_top_put(canvas, y, x, OB_TOP_ALARM, "Stopped: %s", row->cause);
}

/* With how sure it is; while it is not known, how far its samples have come. */
static void put_working_set(struct ob_top_canvas *canvas, unsigned y, unsigned x, const struct ob_top_row *row)
{
	char set[OB_TOP_SHORT], low[OB_TOP_SHORT], high[OB_TOP_SHORT];

	x = ob_top_put(canvas, y, x, OB_TOP_PLAIN, "working set %s", ob_top_size(set, ob_top_value(row, OB_TOP_WORKING_SET)));
	if (row->working_set_bytes == OB_TOP_UNKNOWN && row->working_set_samples)
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, " (%" PRIu64 " samples)", row->working_set_samples);
	else if (row->working_set_low_bytes != OB_TOP_UNKNOWN && row->working_set_high_bytes != OB_TOP_UNKNOWN)
		ob_top_put(canvas, y, x, OB_TOP_PLAIN, " (%s to %s)", ob_top_size(low, (double)row->working_set_low_bytes),
			   ob_top_size(high, (double)row->working_set_high_bytes));
}

static void draw_machine(struct ob_top_canvas *canvas, const struct ob_top *top, const struct ob_top_view *view,
			 const struct ob_top_detail *detail)
{
	const struct ob_top_row *row = ob_top_find(top, view->shown);
	unsigned x = ob_top_put(canvas, 0, 0, OB_TOP_BOLD, "%s", view->shown), y = 8, foot = canvas->height - 1;
	char ram[OB_TOP_SHORT], stalled[OB_TOP_SHORT] = "-";

	if (!row) {
		ob_top_put(canvas, 0, x, OB_TOP_ALARM, " has gone");
	} else {
		x = ob_top_put(canvas, 0, x, OB_TOP_PLAIN, "  %s, pid %" PRIu64 ", domain %s, shares %" PRIu64, row->state, row->pid,
			       *row->domain ? row->domain : "of its own", row->shares);
		put_right(canvas, 0, x, &top->host);
		x = ob_top_put(canvas, 1, 0, OB_TOP_PLAIN, "RAM %s ", ob_top_size(ram, (double)row->ram_bytes));
		put_bar(canvas, 1, x, canvas->width > x ? canvas->width - x : 0, row);
		put_figures(canvas, 2, row);
		put_rates(canvas, 4, &row->rates);
		if (row->rates.stalled >= 0)
			snprintf(stalled, sizeof(stalled), "%.0f%%", row->rates.stalled * 100);
		x = put_swap(canvas, 5, 0, &row->rates);
		x = ob_top_put(canvas, 5, x, OB_TOP_PLAIN, "; waits for room %s; ", stalled);
		put_working_set(canvas, 5, x, row);
		put_troubles(canvas, 6, row);
	}
	put_message(canvas, 7, view);
	if (detail && detail->is_known && !strcmp(detail->name, view->shown) && y + LATENCY_LINES < foot) {
		put_latencies(canvas, y, row, view, detail);
		y += LATENCY_LINES + 1;
	}
	if (row && y + 4 < foot)
		put_curves(canvas, y, foot - y - 1, row, view->seconds);
	ob_top_put(canvas, foot, 0, OB_TOP_TITLE, "q end  Esc back to the list  t latency since %s ",
		   view->since_opened ? "the machine started" : "this page was opened");
}

void ob_top_draw(struct ob_top_canvas *canvas, const struct ob_top *top, struct ob_top_view *view, const struct ob_top_detail *detail)
{
	if (*view->shown)
		draw_machine(canvas, top, view, detail);
	else
		draw_list(canvas, top, view);
}
