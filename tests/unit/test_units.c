/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "test.h"

#include <errno.h>

#include "base/units.h"

static void parses_what_people_write(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },          { "4096", 4096 },         { "512M", 512 * OB_MIB }, { "1.5G", 1536 * OB_MIB },
		{ "64k", 64 * OB_KIB }, { "2GiB", 2 * OB_GIB }, { "2gb", 2 * OB_GIB },    { "7B", 7 },
		{ "16383P", 16383ull << 50 },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(good); i++) {
		uint64_t bytes = 1;

		assert_int_equal(ob_size_parse(good[i].text, &bytes), 0);
		assert_true(bytes == good[i].bytes);
	}
}

static void refuses_what_is_not_a_size(void **state)
{
	static const char *const bad[] = { "", "M", "-1", "1X", "1.5e3", "1.", "12MM", "1 G", "0x10", "1Bi", "+1", "1.M" };
	uint64_t bytes = 77;

	for (size_t i = 0; i < OB_ARRAY_LEN(bad); i++)
		assert_int_equal(ob_size_parse(bad[i], &bytes), -EINVAL);
	assert_int_equal(ob_size_parse(NULL, &bytes), -EINVAL);
	assert_int_equal(ob_size_parse("16384P", &bytes), -ERANGE);
	assert_int_equal(ob_size_parse("99999999999999999999", &bytes), -ERANGE);
	assert_true(bytes == 77);
}

static void a_bare_number_takes_the_default_unit(void **state)
{
	uint64_t bytes;

	assert_int_equal(ob_size_parse_unit("512", OB_MIB, &bytes), 0);
	assert_true(bytes == 512 * OB_MIB);
	assert_int_equal(ob_size_parse_unit("512k", OB_MIB, &bytes), 0);
	assert_true(bytes == 512 * OB_KIB);
}

static void formats_shortly(void **state)
{
	char buf[16];

	assert_string_equal(ob_size_format(buf, sizeof(buf), 0), "0 B");
	assert_string_equal(ob_size_format(buf, sizeof(buf), 1536), "1.5 KiB");
	assert_string_equal(ob_size_format(buf, sizeof(buf), 512 * OB_MIB), "512 MiB");
	assert_string_equal(ob_size_format(buf, sizeof(buf), 2 * OB_GIB), "2 GiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_what_people_write),
		cmocka_unit_test(refuses_what_is_not_a_size),
		cmocka_unit_test(a_bare_number_takes_the_default_unit),
		cmocka_unit_test(formats_shortly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
