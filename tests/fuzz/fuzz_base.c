/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Small grammars that people and environment variables bring in: sizes (ours and QEMU's), fault points, names, and the
 * options of `overbook run`. The whole input is given to each; what is accepted is compared with a second reading that is
 * as simple as can be.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/fault.h"
#include "base/units.h"
#include "cli/qemu_opts.h"
#include "cli/run_options.h"
#include "fuzz.h"
#include "proto/env.h"
#include "proto/wire.h"

typedef unsigned __int128 wide;

/* The size in 1/10^18 of a byte, from "DIGITS[.DIGITS][unit]"; *ret_unit is what stands behind. */
static const char *read_decimal(const char *text, wide *ret_whole, wide *ret_fraction)
{
	wide scale = 1000000000000000000ull;

	*ret_whole = *ret_fraction = 0;
	for (; isdigit((unsigned char)*text); text++)
		*ret_whole = OB_MIN(*ret_whole * 10 + (wide)(*text - '0'), (wide)UINT64_MAX + 1);
	if (*text != '.')
		return text;
	for (text++; isdigit((unsigned char)*text); text++) {
		scale /= 10;
		*ret_fraction += scale * (wide)(*text - '0');
	}
	return text;
}

static void check_value(const char *text, uint64_t unit, uint64_t bytes)
{
	wide whole, fraction, least, most;

	read_decimal(text, &whole, &fraction);
	/* What 18 digits cut off, and what a double rounds. */
	least = whole * unit + fraction * unit / 1000000000000000000ull;
	most = least + 1 + unit / (1ull << 50);
	least -= OB_MIN(least, (wide)1 + unit / (1ull << 50));
	FUZZ_CHECK(bytes >= least && bytes <= most, "\"%s\" is read as %llu", text, (unsigned long long)bytes);
}

static void check_size(const char *text)
{
	static const char letters[] = "BKMGTP";
	uint64_t bytes = 77;
	char formatted[16];
	wide whole, fraction;
	const char *unit = read_decimal(text, &whole, &fraction), *letter;
	int r = ob_size_parse(text, &bytes);

	FUZZ_CHECK(r == 0 || bytes == 77, "the output is touched on failure");
	if (r < 0)
		return;
	letter = *unit ? strchr(letters, toupper((unsigned char)*unit)) : letters;
	FUZZ_CHECK(isdigit((unsigned char)*text) && letter, "\"%s\" is taken for a size", text);
	FUZZ_CHECK(strlen(unit) <= 1 || !strcasecmp(unit + 1, "iB") || !strcasecmp(unit + 1, "B"), "\"%s\"", text);
	check_value(text, 1ull << (10 * (letter - letters)), bytes);
	FUZZ_CHECK(strlen(ob_size_format(formatted, sizeof(formatted), bytes)) < sizeof(formatted) - 1, "%s is cut off", formatted);
}

static void check_qemu_size(const char *text)
{
	static const char letters[] = "bkmgtpe";
	uint64_t bytes = 77;
	wide whole, fraction;
	const char *unit = read_decimal(text, &whole, &fraction), *letter;
	int r = ob_qemu_size_parse(text, OB_MIB, &bytes);

	FUZZ_CHECK(r == 0 || bytes == 77, "the output is touched on failure");
	if (r < 0)
		return;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		FUZZ_CHECK(!text[2 + strspn(text + 2, "0123456789abcdefABCDEF")], "\"%s\" is taken for hexadecimal", text);
		return;
	}
	letter = *unit ? strchr(letters, tolower((unsigned char)*unit)) : letters + 2;
	FUZZ_CHECK(isdigit((unsigned char)*text) && letter && strlen(unit) <= 1, "\"%s\" is taken for a size", text);
	check_value(text, 1ull << (10 * (letter - letters)), bytes);
}

/* Whether text is N, N+, N-M or /N with numbers that are not 0. */
static int is_when(const char *text)
{
	size_t digits;

	if (*text == '/')
		return isdigit((unsigned char)text[1]) && !text[1 + strspn(text + 1, "0123456789")];
	digits = strspn(text, "0123456789");
	if (!digits)
		return 0;
	text += digits;
	if (!*text || !strcmp(text, "+"))
		return 1;
	return *text == '-' && text[1] && !text[1 + strspn(text + 1, "0123456789")];
}

static void check_fault(const char *text)
{
	struct ob_error err = { 0 };
	int r = ob_fault_configure(text, &err);
	char *copy, *rest, *rule;

	FUZZ_CHECK(r == 0 || (r == -EINVAL && *err.text), "%d", r);
	if (r < 0)
		return;
	for (unsigned point = 0; point < OB_FP_COUNT && !strstr(text, ":slow"); point++)
		for (int i = 0; i < 3; i++)
			(void)ob_fault((enum ob_fault_point)point);
	rest = copy = strdup(text);
	while ((rule = strsep(&rest, ","))) {
		char *when = strchr(rule, ':'), *what = when ? strchr(when + 1, ':') : NULL;

		if (!*rule)
			continue;
		FUZZ_CHECK(what, "rule \"%s\" is taken", rule);
		*what = 0;
		FUZZ_CHECK(is_when(when + 1), "when \"%s\" is taken", when + 1);
	}
	free(copy);
	FUZZ_CHECK(ob_fault_configure(NULL, NULL) == 0, "disarming");
}

static void check_name(const char *text)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t length = strlen(text);
	int valid = length && length <= OB_NAME_MAX && strspn(text, good) == length && *text != '.' && *text != '-';

	FUZZ_CHECK(!!ob_name_valid(text) == valid, "\"%s\"", text);
}

static void check_options(char *text)
{
	struct ob_run_options options;
	struct ob_error err = { 0 };
	char *argv[32] = { (char *)"run" };
	int argc = 1, r;

	for (char *rest = text, *word; argc < 31 && (word = strsep(&rest, " \n"));)
		argv[argc++] = word;
	r = ob_run_options_parse(argc, argv, &options, &err);
	FUZZ_CHECK(r == 0 ? !err.code : r == -EINVAL && *err.text, "%d \"%s\"", r, err.text);
	if (r < 0 || options.help)
		return;
	FUZZ_CHECK(options.first > 0 && options.first < argc, "there is no QEMU at word %d of %d", options.first, argc);
	FUZZ_CHECK(!options.limit_bytes || options.limit_bytes >= OB_LIMIT_MIN, "limit");
	FUZZ_CHECK(!options.limit_bytes || options.reservation_bytes <= options.limit_bytes, "reservation above the limit");
	FUZZ_CHECK(options.shares && options.shares <= OB_SHARES_MAX, "shares %u", options.shares);
	FUZZ_CHECK(!options.name || ob_name_valid(options.name), "name \"%s\"", options.name);
	FUZZ_CHECK(!options.domain || ob_name_valid(options.domain), "domain \"%s\"", options.domain);
	r = ob_run_options_check(&options, OB_GIB, &err);
	FUZZ_CHECK(r == 0 || *err.text, "refused without a reason");
	FUZZ_CHECK(r < 0 || (options.limit_bytes <= OB_GIB && options.reservation_bytes <= OB_GIB), "more than there is");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);

	check_size(text);
	check_qemu_size(text);
	check_fault(text);
	check_name(text);
	check_options(text);
	free(text);
	return 0;
}
