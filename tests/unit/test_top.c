/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `overbook top` makes of overbookd's answers, without a terminal: rows, rates, orders, and pages as text. */
#include "test.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/top_page.h"

#define MIB (1024.0 * 1024.0)

static struct ob_top top;
static struct ob_top_canvas canvas;

static int reset(void **state)
{
	ob_top_clear(&top);
	ob_top_canvas_free(&canvas);
	return 0;
}

/* A row with single quotes for double ones. */
static json_t *parse(const char *text)
{
	char copy[16384];
	json_t *object;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *c = copy; *c; c++)
		*c = *c == '\'' ? '"' : *c;
	object = json_loads(copy, 0, NULL);
	assert_non_null(object);
	return object;
}

static int take(const char *text)
{
	json_t *answer = parse(text);
	struct ob_error err = { 0 };
	int r = ob_top_take(&top, answer, &err);

	json_decref(answer);
	assert_true(r == 0 || *err.text);
	return r;
}

/* An answer at now_ms about one machine, whose report is of reported_ms. */
static void take_one(unsigned long now_ms, unsigned long reported_ms, unsigned pid, unsigned long touch, unsigned long swap_in)
{
	char text[1024];

	snprintf(text, sizeof(text), "{'now_ms':%lu,'pid':7,'machines':[{'name':'web','pid':%u,'state':'running','cost_bytes':%lu,'counts':"
		 "{'age_ms':%lu,'faults':{'touch':%lu,'swapped':10},'stall_ns':%lu,'swap_in_pages':%lu,'swap_out_pages':0}}]}", now_ms, pid, now_ms,
		 now_ms - reported_ms, touch, touch * 1000000, swap_in);
	assert_int_equal(take(text), 0);
}

static double faults(void)
{
	return ob_top_find(&top, "web")->rates.all_faults;
}

static void a_rate_is_by_the_time_between_reports(void **state)
{
	const struct ob_top_row *row;

	take_one(10000, 9000, 1, 100, 0);
	assert_true(faults() < 0 && top.host.rates.all_faults < 0);
	/* The answers are 1.5 s apart, the reports 2 s. */
	take_one(11500, 11000, 1, 300, 512);
	row = ob_top_find(&top, "web");
	assert_true(row->rates.all_faults == 100 && row->rates.faults[OB_HIST_touch] == 100 && row->rates.faults[OB_HIST_bench] == 0);
	assert_true(row->rates.swap_in_bytes == MIB && row->rates.swap_out_bytes == 0 && row->rates.stalled == 0.1);
	assert_true(top.host.rates.all_faults == 100 && top.host.rates.swap_in_bytes == MIB);
}

static void a_rate_stays_until_the_next_report_for_a_while(void **state)
{
	take_one(10000, 9000, 1, 100, 0);
	take_one(11500, 11000, 1, 300, 0);
	take_one(13500, 11001, 1, 300, 0); /* the clocks' grain */
	assert_true(faults() == 100);
	take_one(15000, 11000, 1, 300, 0);
	assert_true(faults() == 100);
	/* A late one counts from the last one. */
	take_one(16000, 16000, 1, 300, 0);
	assert_true(faults() == 0);
	take_one(27000, 16000, 1, 300, 0);
	assert_true(faults() < 0);
	take_one(28000, 28000, 1, 1500, 0);
	assert_true(faults() == 100);
}

static void another_machine_and_counts_that_fall_begin_anew(void **state)
{
	take_one(10000, 10000, 1, 100, 0);
	take_one(11000, 11000, 1, 200, 0);
	assert_true(faults() == 100 && ob_top_find(&top, "web")->history_count == 2);
	take_one(12000, 12000, 2, 300, 0);
	assert_true(faults() < 0 && ob_top_find(&top, "web")->history_count == 1);
	take_one(13000, 13000, 2, 299, 0);
	assert_true(faults() < 0 && ob_top_find(&top, "web")->history_count == 2);
	take_one(14000, 14000, 2, 300, 0);
	assert_true(faults() == 1);
	/* Its clock may be another host's, after a move of the terminal: never a rate from the past. */
	take_one(5000, 5000, 2, 400, 0);
	assert_true(faults() < 0);
	take_one(6000, 6000, 2, 500, 0);
	assert_true(faults() == 100);
}

static void the_past_is_a_ring(void **state)
{
	const struct ob_top_row *row;

	for (unsigned i = 1; i <= OB_TOP_HISTORY + 10; i++)
		take_one(i * 1000, i * 1000, 1, i, 0);
	row = ob_top_find(&top, "web");
	assert_int_equal(row->history_count, OB_TOP_HISTORY);
	assert_true(ob_top_point(row, 0)->cost_bytes == (OB_TOP_HISTORY + 10) * 1000);
	assert_true(ob_top_point(row, OB_TOP_HISTORY - 1)->cost_bytes == 11 * 1000);
	assert_true(ob_top_point(row, 0)->working_set_bytes == OB_TOP_UNKNOWN);
}

static void what_is_no_list_changes_nothing(void **state)
{
	char *many = malloc(3 * OB_TOP_ROWS_MAX + 100), *at = many;

	take_one(1000, 1000, 1, 1, 1);
	assert_int_equal(take("{}"), -EPROTO);
	assert_int_equal(take("{'machines':{}}"), -EPROTO);
	at += sprintf(at, "{\"machines\":[{}");
	for (unsigned i = 0; i < OB_TOP_ROWS_MAX; i++)
		at += sprintf(at, ",{}");
	sprintf(at, "]}");
	json_t *answer = json_loads(many, 0, NULL);
	assert_non_null(answer);
	assert_int_equal(ob_top_take(&top, answer, NULL), -EPROTO);
	json_decref(answer);
	free(many);
	assert_int_equal(top.count, 1);
	assert_non_null(ob_top_find(&top, "web"));
}

static void nonsense_is_taken_as_nothing(void **state)
{
	const struct ob_top_row *row;

	assert_int_equal(take("{'now_ms':-5,'budget_bytes':'x','memory':'x','large_pages':[],'stores':7,'machines':[7,null,'x',[],"
			      "{'name':'\\u001b[31mred\\u001b[0m\\n\\u00e9','state':7,'pid':-1,'cost_bytes':1e9,'working_set_bytes':null,'counts':[]},"
			      "{'name':'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'},"
			      "{'name':'twice','pid':3},{'name':'twice','pid':3}]}"), 0);
	assert_int_equal(top.count, 8);
	row = &top.rows[4];
	assert_string_equal(row->name, "?[31mred?[0m???");
	assert_true(!row->pid && !row->cost_bytes && row->working_set_bytes == OB_TOP_UNKNOWN && !*row->state);
	assert_int_equal(strlen(top.rows[5].name), OB_NAME_MAX);
	assert_int_equal(take("{'now_ms':9223372036854775807,'machines':[{'name':'twice','pid':3},{'name':'twice','pid':3}]}"), 0);
	assert_int_equal(top.rows[0].history_count + top.rows[1].history_count, 3);
}

static const char three[] =
	"{'now_ms':5000,'pid':42,'program_version':'0.1.0','budget_bytes':1073741824,"
	"'memory':{'state':'high','because':null},'large_pages':{'policy':'proactive','state':'high','may_make':true,'free_bytes':268435456,'min_free_bytes':67108864,"
	"'boundary_bytes':134217728,'shareable_pages':9},'stores':{'store_bytes':67108864,'shared_bytes':134217728,'saved_bytes':67108864},"
	"'machines':["
	"{'name':'b','pid':1,'state':'running','ram_bytes':1073741824,'cost_bytes':268435456,'limit_bytes':0,'target_bytes':0,"
	"'working_set_bytes':134217728,'working_set_low_bytes':100663296,'working_set_high_bytes':167772160,'resident_bytes':268435456},"
	"{'name':'a','pid':2,'state':'lost','ram_bytes':1073741824,'cost_bytes':268435456,'limit_bytes':536870912,'target_bytes':805306368,"
	"'resident_bytes':268435456,'shared_bytes':268435456,'swapped_bytes':268435456,'working_set_bytes':null,'working_set_samples':7},"
	"{'name':'c','pid':3,'state':'stopped','cause':'page 7 cannot be read','ram_bytes':536870912,'cost_bytes':536870912,"
	"'limit_bytes':268435456,'target_bytes':268435456,'over_limit_bytes':268435456,'degraded':2,'resident_bytes':1073741824}]}";

static void take_pressure(unsigned long now_ms, const char *some_us)
{
	char text[512];

	snprintf(text, sizeof(text), "{'now_ms':%lu,'machines':[],'host':{'total_bytes':2048,'available_bytes':1024,'pressure_some_us':%s}}", now_ms, some_us);
	assert_int_equal(take(text), 0);
}

static void the_host_waits_for_a_part_of_the_time(void **state)
{
	take_pressure(10000, "5000000");
	assert_true(top.host.total_bytes == 2048 && top.host.available_bytes == 1024 && top.host.waits < 0);
	take_pressure(12000, "5500000");
	assert_true(fabs(top.host.waits - 0.25) < 1e-9);
	/* Too soon to tell; what has come meanwhile is in the next. */
	take_pressure(12001, "5501000");
	assert_true(fabs(top.host.waits - 0.25) < 1e-9);
	take_pressure(14000, "5900000");
	assert_true(fabs(top.host.waits - 0.2) < 1e-9);
	take_pressure(16000, "9900000");
	assert_true(fabs(top.host.waits - 1) < 1e-9);
	/* Another host, or a kernel that does not tell. */
	take_pressure(18000, "1");
	assert_true(top.host.waits < 0);
	take_pressure(20000, "null");
	assert_true(top.host.waits < 0);
	take_pressure(22000, "7");
	assert_true(top.host.waits < 0);
}

static void released_machines_run(void **state)
{
	assert_int_equal(take("{'machines':[{'name':'a','state':'released'},{'name':'b','state':'releasing'},{'name':'c','state':'waiting'}]}"), 0);
	assert_int_equal(top.host.not_running, 1);
}

static void expect_order(enum ob_top_key key, bool reverse, const char *names)
{
	char found[8] = "";

	ob_top_sort(&top, key, reverse);
	for (size_t i = 0; i < top.count; i++)
		strcat(found, top.rows[i].name);
	assert_string_equal(found, names);
}

static void rows_are_sorted_by_any_key(void **state)
{
	assert_int_equal(take(three), 0);
	expect_order(OB_TOP_NAME, false, "abc");
	expect_order(OB_TOP_NAME, true, "cba");
	expect_order(OB_TOP_STATE, false, "abc");
	expect_order(OB_TOP_STATE, true, "cba");
	/* Equals by name, whichever way. */
	expect_order(OB_TOP_COST, false, "cab");
	expect_order(OB_TOP_COST, true, "abc");
	expect_order(OB_TOP_LIMIT, false, "bac");
	expect_order(OB_TOP_TARGET, true, "cab");
	expect_order(OB_TOP_FAULTS, false, "abc");
	/* What is not known comes last. */
	expect_order(OB_TOP_WORKING_SET, false, "bac");
	for (int key = 0; key < OB_TOP_KEYS; key++) {
		assert_int_equal(ob_top_key_parse(ob_top_columns[key].key), key);
		assert_true(strlen(ob_top_columns[key].title) <= ob_top_columns[key].width);
		ob_top_sort(&top, (enum ob_top_key)key, key & 1);
	}
	assert_int_equal(ob_top_key_parse("nam"), -EINVAL);
}

static void expect_bar(const char *machine, const char *expected)
{
	char bar[128];

	ob_top_bar(bar, (unsigned)strlen(expected), ob_top_find(&top, machine));
	assert_string_equal(bar, expected);
}

static void bars_show_where_memory_is(void **state)
{
	assert_int_equal(take(three), 0);
	expect_bar("b", "####            ");
	expect_bar("a", "####====|...+   ");
	/* More in place than there is: an upper bound. */
	expect_bar("c", "####|###########");
	expect_bar("b", "");
	assert_int_equal(take("{'machines':[{'name':'z','resident_bytes':0}]}"), 0);
	expect_bar("z", "     ");
}

static void figures_are_short(void **state)
{
	static const struct {
		double value;
		const char *size, *rate;
	} cases[] = {
		{ -1, "-", "-" }, { 0, "0B", "0" }, { 0.25, "0B", "0.2" }, { 9.9, "10B", "9.9" }, { 1023, "1023B", "1023" }, { 1023.6, "1.0K", "1024" },
		{ 10000, "9.8K", "10k" }, { 1048575, "1.0M", "1049k" }, { 512 * MIB, "512M", "537M" }, { 1e19, "9E", NULL },
	};
	char buf[OB_TOP_SHORT];

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		if (cases[i].value < 1e19)
			assert_string_equal(ob_top_size(buf, cases[i].value), cases[i].size);
		assert_true(strlen(ob_top_size(buf, cases[i].value)) <= 5);
		if (cases[i].rate)
			assert_string_equal(ob_top_rate(buf, cases[i].value), cases[i].rate);
		assert_true(strlen(ob_top_rate(buf, cases[i].value)) <= 12);
	}
	assert_string_equal(ob_top_time(buf, 640), "640ns");
	assert_string_equal(ob_top_time(buf, 1280), "1.3us");
	assert_string_equal(ob_top_time(buf, 999999), "1.0ms");
	assert_string_equal(ob_top_time(buf, 17000000000), "17s");
}

/* --- pages --- */

static const char *line(unsigned y)
{
	static char text[512];

	snprintf(text, sizeof(text), "%.*s", (int)ob_top_row_length(&canvas, y), canvas.cells + (size_t)y * canvas.width);
	return text;
}

static void draw(struct ob_top_view *view, const struct ob_top_detail *detail, unsigned width, unsigned height)
{
	assert_int_equal(ob_top_canvas_reset(&canvas, width, height), 0);
	ob_top_draw(&canvas, &top, view, detail);
	for (size_t i = 0; i < (size_t)canvas.width * canvas.height; i++) {
		assert_true(canvas.cells[i] >= ' ' && canvas.cells[i] <= '~');
		assert_true(canvas.styles[i] < OB_TOP_STYLES);
	}
}

static bool page_has(const char *text)
{
	for (unsigned y = 0; y < canvas.height; y++)
		if (strstr(line(y), text))
			return true;
	return false;
}

static void the_list_shows_host_and_machines(void **state)
{
	struct ob_top_view view = { .key = OB_TOP_COST };

	assert_int_equal(take(three), 0);
	ob_top_sort(&top, view.key, false);
	draw(&view, NULL, 80, 24);
	assert_string_equal(line(0), "3 machines, 2 not running, 1 above the limit             overbookd 0.1.0, pid 42");
	assert_string_equal(line(1), "Budget 1.0G [##############################] cost 1.0G, stores 64M, free 256M");
	assert_string_equal(line(2), "Memory high (clear < 128M, soft < 64M free); large pages proactive, new ones may");
	assert_string_equal(line(3), "Shared: 128M of pages in stores of 64M, 64M saved. Swap in -/s, out -/s");
	assert_string_equal(line(4), "Faults -/s: touch - bench - zero - compressed - swapped - shared -");
	assert_string_equal(line(6), "NAME STATE      COST LIMIT TARGET FAULT/s  IN/s OUT/s WHERE ITS RAM IS");
	assert_string_equal(line(7), "c    stopped    512M  256M   256M       -     -     - [######|#################]");
	assert_string_equal(line(8), "a    lost       256M  512M   768M       -     -     - [######======|.....+     ]");
	assert_string_equal(line(9), "b    running    256M  none   none       -     -     - [######                  ]");
	assert_string_equal(line(22), "# in place  = shared  : compressed  . swapped  o ballooned  | limit  + entitled");
	assert_true(strstr(line(23), "q end") && strstr(line(23), "by cost"));
	/* The selection has a style of its own, and so has what is wrong. */
	assert_int_equal(canvas.styles[7 * 80], OB_TOP_SELECTED);
	ob_top_move(&view, &top, 1);
	draw(&view, NULL, 80, 24);
	assert_int_equal(canvas.styles[7 * 80], OB_TOP_ALARM);
	assert_int_equal(canvas.styles[8 * 80], OB_TOP_SELECTED);
}

static void wide_pages_have_all_columns_and_narrow_ones_the_first(void **state)
{
	struct ob_top_view view = { .key = OB_TOP_COST };

	assert_int_equal(take(three), 0);
	draw(&view, NULL, OB_TOP_ALL_COLUMNS, 24);
	for (int key = 0; key < OB_TOP_KEYS; key++)
		assert_non_null(strstr(line(6), ob_top_columns[key].title));
	draw(&view, NULL, 20, 24);
	assert_string_equal(line(6), "NAME  COST WHERE ITS");
	for (unsigned width = 0; width < 250; width += 7)
		for (unsigned height = 0; height < 40; height += 3)
			draw(&view, NULL, width, height);
}

static void why_memory_is_short_is_said(void **state)
{
	struct ob_top_view view = { .key = OB_TOP_COST };

	assert_int_equal(take("{'now_ms':5000,'budget_bytes':1073741824,'memory':{'state':'hard','because':'used up faster than guests give\\u001b'},"
			      "'large_pages':{'policy':'late','state':'low','may_make':true},'machines':[]}"), 0);
	draw(&view, NULL, 80, 24);
	assert_string_equal(line(2), "Memory hard, used up faster than guests give?; large pages late, new ones may co");
}

static void take_many(unsigned count, unsigned from)
{
	char *text = malloc(count * 64 + 100), *at = text + sprintf(text, "{\"now_ms\":1000,\"machines\":[");
	json_t *answer;

	for (unsigned i = 0; i < count; i++)
		at += sprintf(at, "%s{\"name\":\"m%03u\",\"pid\":1}", i ? "," : "", from + i);
	strcpy(at, "]}");
	answer = json_loads(text, 0, NULL);
	assert_non_null(answer);
	assert_int_equal(ob_top_take(&top, answer, NULL), 0);
	json_decref(answer);
	free(text);
	ob_top_sort(&top, OB_TOP_NAME, false);
}

static void the_list_scrolls_with_the_selection(void **state)
{
	struct ob_top_view view = { .key = OB_TOP_NAME };

	take_many(100, 0);
	assert_int_equal(ob_top_list_lines(24), 15);
	draw(&view, NULL, 80, 24);
	assert_true(page_has("m000") && page_has("m014") && !page_has("m015"));
	ob_top_move(&view, &top, 20);
	draw(&view, NULL, 80, 24);
	assert_true(!page_has("m005") && page_has("m006") && page_has("m020") && !page_has("m021"));
	ob_top_move(&view, &top, -3);
	draw(&view, NULL, 80, 24);
	assert_true(page_has("m006") && page_has("m020"));
	ob_top_move(&view, &top, 1000);
	draw(&view, NULL, 80, 24);
	assert_true(page_has("m085") && page_has("m099"));
	assert_string_equal(view.selected, "m099");
	/* A larger screen shows more above, a smaller one what is selected. */
	draw(&view, NULL, 80, 60);
	assert_true(page_has("m049") && page_has("m099"));
	draw(&view, NULL, 80, 10);
	assert_true(page_has("m099"));
	/* Machines go: the selection goes to who stands there now, or to the last. */
	take_many(50, 0);
	draw(&view, NULL, 80, 24);
	assert_string_equal(view.selected, "m049");
	take_many(50, 10);
	draw(&view, NULL, 80, 24);
	assert_string_equal(view.selected, "m049");
	assert_int_equal(view.selected_row, 39);
	take_many(0, 0);
	draw(&view, NULL, 80, 24);
	ob_top_move(&view, &top, 1);
	assert_int_equal(view.selected_row, 0);
	assert_true(page_has("0 machines"));
}

static void plain_text_has_every_machine(void **state)
{
	struct ob_top_view view = { .key = OB_TOP_NAME, .plain = true };

	take_many(100, 0);
	draw(&view, NULL, 80, ob_top_plain_height(&top));
	assert_true(page_has("m000") && page_has("m099") && page_has("+ entitled") && !page_has("q end"));
}

static struct ob_top_detail detail_of(const char *name, unsigned bucket, unsigned count)
{
	struct ob_top_detail detail = { 0 };
	json_t *list = json_array(), *answer;

	for (unsigned i = 0; i < OB_HIST_BUCKETS; i++)
		json_array_append_new(list, json_integer(i == bucket ? (json_int_t)count : i == 3 ? -7 : 0));
	answer = json_pack("{s:s, s:i, s:{s:{s:o}}}", "name", name, "pid", 1, "fault_latency", "swapped", "buckets", list);
	assert_non_null(answer);
	ob_top_take_detail(&detail, answer);
	json_decref(answer);
	return detail;
}

static void a_machine_has_a_page(void **state)
{
	struct ob_top_view view = { .seconds = 2, .shown = "c" };
	struct ob_top_detail detail = detail_of("c", 20, 1000);

	assert_int_equal(take(three), 0);
	draw(&view, &detail, 80, 30);
	assert_true(strstr(line(0), "c  stopped, pid 3") && strstr(line(6), "256M above its limit. Degraded: swap store failing. Stopped: page 7"));
	assert_string_equal(line(14), "swapped       1000       -  1.3us  1.3us  @");
	assert_string_equal(line(16), "all           1000       -  1.3us  1.3us  @");
	view.since_opened = true;
	draw(&view, &detail, 80, 30);
	assert_string_equal(line(14), "swapped          0       -      -      -");
	/* Half octaves, where there is room for them. */
	detail = detail_of("c", 31, 5);
	view.since_opened = false;
	draw(&view, &detail, 100, 30);
	assert_string_equal(line(14), "swapped          5       -   57us   57us             @");
	/* Another machine's are not its own. */
	strcpy(view.shown, "b");
	draw(&view, &detail, 80, 30);
	assert_true(!page_has("Latency") && page_has("Working set (#) and cost (o), the last 0 s") && page_has("working set 128M (96M to 160M)"));
	strcpy(view.shown, "a");
	draw(&view, &detail, 80, 30);
	assert_true(page_has("working set - (7 samples)"));
	strcpy(view.shown, "ghost");
	draw(&view, &detail, 80, 30);
	assert_true(page_has("ghost has gone"));
	strcpy(view.shown, "c");
	for (unsigned width = 0; width < 250; width += 7)
		for (unsigned height = 0; height < 40; height += 3)
			draw(&view, &detail, width, height);
}

static void a_page_begins_anew_with_another_machine(void **state)
{
	struct ob_top_detail detail = { 0 };
	json_t *first = parse("{'name':'a','pid':1,'fault_latency':{'touch':{'buckets':[5]}}}");
	json_t *second = parse("{'name':'a','pid':1,'fault_latency':{'touch':{'buckets':[9,'x',-1,null]}}}");
	json_t *other = parse("{'name':'a','pid':2,'fault_latency':7}");

	ob_top_take_detail(&detail, first);
	ob_top_take_detail(&detail, second);
	assert_true(detail.at_first.count[OB_HIST_touch][0] == 5 && detail.hists.count[OB_HIST_touch][0] == 9);
	assert_true(detail.hists.count[OB_HIST_touch][1] == 0 && detail.hists.count[OB_HIST_touch][2] == 0);
	ob_top_take_detail(&detail, other);
	assert_true(detail.at_first.count[OB_HIST_touch][0] == 0 && detail.pid == 2);
	json_decref(first);
	json_decref(second);
	json_decref(other);
}

static void the_curve_is_the_past(void **state)
{
	struct ob_top_view view = { .seconds = 2, .shown = "w" };
	char text[256];

	for (unsigned i = 1; i <= 4; i++) {
		snprintf(text, sizeof(text), "{'machines':[{'name':'w','pid':1,'cost_bytes':%u,'working_set_bytes':%u}]}", 400, i * 100);
		assert_int_equal(take(text), 0);
	}
	draw(&view, NULL, 40, 14);
	assert_string_equal(line(8), "Working set (#) and cost (o), the last 6");
	assert_string_equal(line(9), "  400B                              oooo");
	assert_string_equal(line(10), "                                      ##");
	assert_string_equal(line(11), "                                     ###");
	assert_string_equal(line(12), "     0                              ####");
}

static void a_canvas_cuts_off_what_does_not_fit(void **state)
{
	assert_int_equal(ob_top_canvas_reset(&canvas, 10, 2), 0);
	assert_int_equal(ob_top_put(&canvas, 0, 8, OB_TOP_BOLD, "%s", "a\x1b\xff" "d"), 12);
	assert_int_equal(ob_top_put(&canvas, 1, 10, OB_TOP_BOLD, "x"), 11);
	assert_int_equal(ob_top_put(&canvas, 2, 0, OB_TOP_BOLD, "x"), 1);
	assert_int_equal(ob_top_put(&canvas, 0, 0, OB_TOP_BOLD, "%600s", "x"), 511);
	assert_string_equal(line(1), "");
	ob_top_put(&canvas, 0, 8, OB_TOP_BOLD, "a\x1b\xff" "d");
	assert_string_equal(line(0), "        a?");
	assert_int_equal(ob_top_canvas_reset(&canvas, 10, 2), 0);
	assert_string_equal(line(0), "");
	ob_top_paint(&canvas, 2, OB_TOP_BOLD);
	assert_int_equal(canvas.styles[19], OB_TOP_PLAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_rate_is_by_the_time_between_reports, reset),
		cmocka_unit_test_teardown(a_rate_stays_until_the_next_report_for_a_while, reset),
		cmocka_unit_test_teardown(another_machine_and_counts_that_fall_begin_anew, reset),
		cmocka_unit_test_teardown(the_past_is_a_ring, reset),
		cmocka_unit_test_teardown(what_is_no_list_changes_nothing, reset),
		cmocka_unit_test_teardown(nonsense_is_taken_as_nothing, reset),
		cmocka_unit_test_teardown(the_host_waits_for_a_part_of_the_time, reset),
		cmocka_unit_test_teardown(released_machines_run, reset),
		cmocka_unit_test_teardown(rows_are_sorted_by_any_key, reset),
		cmocka_unit_test_teardown(bars_show_where_memory_is, reset),
		cmocka_unit_test_teardown(figures_are_short, reset),
		cmocka_unit_test_teardown(the_list_shows_host_and_machines, reset),
		cmocka_unit_test_teardown(wide_pages_have_all_columns_and_narrow_ones_the_first, reset),
		cmocka_unit_test_teardown(why_memory_is_short_is_said, reset),
		cmocka_unit_test_teardown(the_list_scrolls_with_the_selection, reset),
		cmocka_unit_test_teardown(plain_text_has_every_machine, reset),
		cmocka_unit_test_teardown(a_machine_has_a_page, reset),
		cmocka_unit_test_teardown(a_page_begins_anew_with_another_machine, reset),
		cmocka_unit_test_teardown(the_curve_is_the_past, reset),
		cmocka_unit_test_teardown(a_canvas_cuts_off_what_does_not_fit, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
