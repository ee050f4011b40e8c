/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taking QEMU's command line apart: words, lists, JSON, configuration files, sizes. */
#include "qemu_line.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/units.h"

static void help_is_recognised_and_nothing_else(void **state)
{
	static const char *const helps[] = {
		"qemu -h", "qemu --help", "qemu -version", "qemu -m 1G -M help", "qemu -machine '?'", "qemu -cpu help", "qemu -device help",
		"qemu -device virtio-blk,help", "qemu -object help", "qemu -netdev help", "qemu -display help", "qemu -d help",
		"qemu -M q35,help", "qemu -object memory-backend-ram,help", "qemu -accel help", "qemu -audio-help",
	};
	static const char *const others[] = {
		"qemu -append help", "qemu -kernel help", "qemu -name help", "qemu help", "qemu -hda help", "qemu -device virtio-blk,id=help",
	};
	struct qemu_line line;

	for (size_t i = 0; i < OB_ARRAY_LEN(helps); i++) {
		qemu_line_plan(&line, helps[i]);
		assert_true(line.opts.prints_and_ends);
		ob_qemu_opts_free(&line.opts);
	}
	for (size_t i = 0; i < OB_ARRAY_LEN(others); i++) {
		qemu_line_plan(&line, others[i]);
		assert_false(line.opts.prints_and_ends);
		ob_qemu_opts_free(&line.opts);
	}
}

static void lists_have_escapes_bare_words_and_an_implied_key(void **state)
{
	struct qemu_line line;
	struct ob_qemu_option *option;

	qemu_line_plan(&line, "qemu -device virtio-x,a=1,,2,on,nooff,b=,a=3,,");
	option = &line.opts.option[0];
	assert_string_equal(ob_qemu_option_get(option, "driver"), "virtio-x");
	assert_string_equal(ob_qemu_option_get(option, "a"), "3,");
	assert_string_equal(ob_qemu_option_get(option, "b"), "");
	assert_null(ob_qemu_option_get(option, "c"));
	assert_true(ob_qemu_option_is_on(option, "on", 0));
	assert_false(ob_qemu_option_is_on(option, "off", 1));
	assert_true(ob_qemu_option_has(option, "off"));
	assert_true(ob_qemu_option_is_on(option, "absent", 1));
	ob_qemu_option_set(&line.opts, option, "off", "on", NULL);
	assert_string_equal(ob_qemu_option_text(&line.opts, option), "virtio-x,a=1,,2,on,b=,a=3,,,off=on");
	ob_qemu_option_remove(option, "a");
	assert_string_equal(ob_qemu_option_text(&line.opts, option), "virtio-x,on,b=,off=on");
	ob_qemu_opts_free(&line.opts);
}

static void what_does_not_parse_says_why(void **state)
{
	static const struct {
		const char *line, *says;
	} samples[] = {
		{ "qemu -m", "\"-m\" needs an argument" },
		{ "qemu --kernel", "\"--kernel\" needs an argument" },
		{ "qemu -object '{\"qom-type\":'", "not valid JSON" },
		{ "qemu -device '{\"a\":1,\"a\":2}'", "not valid JSON" },
		{ "qemu -readconfig /nonexistent", "/nonexistent" },
		{ "qemu -readconfig /dev/null", "not a regular file" },
	};
	struct qemu_line line;

	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++) {
		qemu_line_plan(&line, samples[i].line);
		assert_true(line.parsed < 0);
		if (!strstr(line.err.text, samples[i].says))
			fail_msg("%s: %s", samples[i].line, line.err.text);
		ob_qemu_opts_free(&line.opts);
	}
}

static void deep_json_is_survived(void **state)
{
	struct qemu_line line;
	char text[4096] = "qemu -device ";

	for (int i = 0; i < 500; i++)
		strcat(text, "{\"a\":");
	strcat(text, "1");
	for (int i = 0; i < 500; i++)
		strcat(text, "}");
	qemu_line_plan(&line, text);
	assert_int_equal(line.parsed, 0);
	ob_qemu_opts_free(&line.opts);
}

/* Plans "qemu ARGS -readconfig FILE" with a file of that content. */
static void plan_with_file(struct qemu_line *line, const char *arguments, const char *content)
{
	char path[] = "/tmp/overbook-test-XXXXXX", text[256];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
	snprintf(text, sizeof(text), "qemu %s -readconfig %s", arguments, path);
	qemu_line_plan(line, text);
	unlink(path);
}

static void a_configuration_file_is_read(void **state)
{
	struct qemu_line line;
	const char *result;

	plan_with_file(&line, "-m 1G",
		       "# a comment\n\n[memory]\n  size = \"2G\"\n[machine]\n  type = \"q35\"\n\n[device \"b\"]\n  driver = \"virtio-balloon-pci\"\n"
		       "[name]\n guest = \"from \"file\"\n[mon]\n chardev = \"c\"\n");
	assert_int_equal(line.parsed, 0);
	assert_int_equal(line.plan.n_refusals, 0);
	assert_true(line.plan.ram_bytes == 2 * OB_GIB);
	result = qemu_line_result(&line);
	assert_non_null(strstr(result, "-global virtio-balloon-device.free-page-reporting=on"));
	assert_null(strstr(result, "overbook-balloon"));
	assert_non_null(strstr(result, "-monitor vc:80Cx24C"));
	assert_null(strstr(result, "q35"));
	assert_string_equal(ob_qemu_name(&line.opts), "from__file");
	ob_qemu_opts_free(&line.opts);
}

static void a_configuration_file_is_judged(void **state)
{
	static const struct {
		const char *content, *says;
	} samples[] = {
		{ "[object \"m\"]\nqom-type = \"memory-backend-ram\"\nsize = \"1G\"\n", "move it to the command line" },
		{ "[device]\ndriver = \"vfio-pci\"\n", "pins all guest RAM" },
		{ "[overcommit]\nmem-lock = \"on\"\n", "locked memory" },
		{ "[memory]\nsize = \"lots\"\n", "not a size" },
	};
	static const struct {
		const char *content, *says;
	} broken[] = {
		{ "size = \"1G\"\n", "line 1: \"size\" stands before any [group]" },
		{ "[memory]\nsize = 1G\n", "line 2: expected key = \"value\"" },
		{ "[memory\n", "line 1: expected [group]" },
		{ "[a \"b\" c]\n", "line 1: expected [group]" },
		{ "[]\n", "line 1: expected [group]" },
		{ "\n[m]\nnonsense\n", "line 3: expected key" },
	};
	struct qemu_line line;

	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++) {
		plan_with_file(&line, "", samples[i].content);
		assert_int_equal(line.plan.n_refusals, 1);
		assert_non_null(strstr(line.plan.refusals[0], samples[i].says));
		ob_qemu_opts_free(&line.opts);
	}
	for (size_t i = 0; i < OB_ARRAY_LEN(broken); i++) {
		plan_with_file(&line, "", broken[i].content);
		assert_true(line.parsed < 0);
		if (!strstr(line.err.text, broken[i].says))
			fail_msg("%s: %s", broken[i].content, line.err.text);
		ob_qemu_opts_free(&line.opts);
	}
}

static void sizes_are_read_as_qemu_reads_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "1", OB_MIB }, { "1b", 1 }, { "2K", 2048 }, { "1.5G", 1536 * OB_MIB }, { "0x1000", 4096 }, { "1e", 1ull << 60 }, { "0.5", OB_MIB / 2 },
		{ "15E", 15ull << 60 },
	};
	static const char *const bad[] = { "", "M", "1GiB", "1GB", "-1", "+1", "0x", "0x1G", "1G2", "1 G", "1.5.5" };
	uint64_t bytes;

	for (size_t i = 0; i < OB_ARRAY_LEN(good); i++) {
		assert_int_equal(ob_qemu_size_parse(good[i].text, OB_MIB, &bytes), 0);
		assert_true(bytes == good[i].bytes);
	}
	for (size_t i = 0; i < OB_ARRAY_LEN(bad); i++)
		if (ob_qemu_size_parse(bad[i], OB_MIB, &bytes) != -EINVAL)
			fail_msg("%s", bad[i]);
	assert_int_equal(ob_qemu_size_parse(NULL, 1, &bytes), -EINVAL);
	assert_int_equal(ob_qemu_size_parse("16E", 1, &bytes), -ERANGE);
	assert_int_equal(ob_qemu_size_parse("99999999999999999999", 1, &bytes), -ERANGE);
}

static void words_are_quoted_for_the_shell(void **state)
{
	char plain[] = "a=b,c", space[] = "a b", quote[] = "it's", empty[] = "", dollar[] = "$HOME";
	char *argv[] = { plain, space, quote, empty, dollar, NULL };
	struct ob_arena arena = { 0 };

	assert_string_equal(ob_qemu_quote(&arena, argv), "a=b,c 'a b' 'it'\\''s' '' '$HOME'");
	ob_arena_free(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(help_is_recognised_and_nothing_else),
		cmocka_unit_test(lists_have_escapes_bare_words_and_an_implied_key),
		cmocka_unit_test(what_does_not_parse_says_why),
		cmocka_unit_test(deep_json_is_survived),
		cmocka_unit_test(a_configuration_file_is_read),
		cmocka_unit_test(a_configuration_file_is_judged),
		cmocka_unit_test(sizes_are_read_as_qemu_reads_them),
		cmocka_unit_test(words_are_quoted_for_the_shell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
