/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers, as servers write them. */
#include <errno.h>
#include <stdlib.h>

#include "guest/adaptor.h"

int ob_server_parse_bytes(const char *text, uint64_t *ret_bytes)
{
	char *end;
	unsigned long long bytes;

	errno = 0;
	bytes = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || bytes > OB_GUEST_BYTES_MAX)
		return -EPROTO;
	*ret_bytes = bytes;
	return 0;
}
