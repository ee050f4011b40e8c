/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char unit_letters[] = "BKMGTP";

/* The number of bytes that a suffix stands for, 0 when it is not one. */
static uint64_t suffix_bytes(const char *suffix, uint64_t default_unit)
{
	const char *at;

	if (!*suffix)
		return default_unit;
	at = strchr(unit_letters, toupper((unsigned char)*suffix));
	if (!at)
		return 0;
	suffix++;
	if (at != unit_letters && *suffix && strcasecmp(suffix, "iB") && strcasecmp(suffix, "B"))
		return 0;
	if (at == unit_letters && *suffix)
		return 0;
	return 1ull << (10 * (at - unit_letters));
}

int ob_size_parse_unit(const char *text, uint64_t default_unit, uint64_t *ret_bytes)
{
	unsigned long long whole;
	double fraction = 0;
	uint64_t unit;
	char *end;

	if (!text || !isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	whole = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end == '.') {
		char *after;

		if (!isdigit((unsigned char)end[1]))
			return -EINVAL;
		fraction = strtod(end, &after);
		/* strtod would also take an exponent: "1.5e3" is not a size. */
		for (const char *c = end + 1; c < after; c++)
			if (!isdigit((unsigned char)*c))
				return -EINVAL;
		end = after;
	}
	unit = suffix_bytes(end, default_unit);
	if (!unit)
		return -EINVAL;
	if (whole > UINT64_MAX / unit)
		return -ERANGE;
	if ((uint64_t)(fraction * (double)unit) > UINT64_MAX - whole * unit)
		return -ERANGE;
	*ret_bytes = whole * unit + (uint64_t)(fraction * (double)unit);
	return 0;
}

int ob_size_parse(const char *text, uint64_t *ret_bytes)
{
	return ob_size_parse_unit(text, 1, ret_bytes);
}

char *ob_size_format(char *buf, size_t size, uint64_t bytes)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1024 && unit + 1 < OB_ARRAY_LEN(names)) {
		value /= 1024;
		unit++;
	}
	if (unit && value < 10 && (uint64_t)(value * 10) % 10)
		snprintf(buf, size, "%.1f %s", value, names[unit]);
	else
		snprintf(buf, size, "%.0f %s", value, names[unit]);
	return buf;
}
