/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages between agents and overbookd: any bytes are decoded or refused with a reason; what is decoded can be encoded,
 * and comes back as the same bytes, statistics of another version's length excepted: those come back the same from then on.
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "proto/wire.h"

static void check_message(const struct ob_wire_msg *msg, const uint8_t *data, size_t size)
{
	static uint8_t first[OB_WIRE_MAX], second[OB_WIRE_MAX];
	struct ob_wire_msg again;
	int n = ob_wire_encode(msg, first, sizeof(first));

	FUZZ_CHECK(n >= OB_WIRE_HEADER_SIZE, "type %u is decoded but not encoded: %d", msg->type, n);
	FUZZ_CHECK(msg->type == OB_WIRE_STATS || ((size_t)n == size && !memcmp(first, data, size)), "type %u has two forms", msg->type);
	FUZZ_CHECK(ob_wire_decode(first, (size_t)n, &again, NULL) == 0, "type %u: what was written is not read", msg->type);
	FUZZ_CHECK(!memcmp(msg, &again, sizeof(again)), "type %u comes back changed", msg->type);
	FUZZ_CHECK(ob_wire_encode(&again, second, sizeof(second)) == n && !memcmp(first, second, (size_t)n), "type %u", msg->type);
	FUZZ_CHECK(ob_wire_encode(msg, second, (size_t)n - 1) == -EMSGSIZE, "type %u fits where it cannot", msg->type);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ob_error err = { 0 };
	static struct ob_wire_msg msg;
	int r = ob_wire_decode(data, size, &msg, &err);

	FUZZ_CHECK(r == 0 || r == -EPROTO || r == -ENOTSUP, "%d", r);
	FUZZ_CHECK(r == 0 ? !err.code : err.code == -r && fuzz_is_one_line(err.text), "%d: \"%s\"", r, err.text);
	if (r == 0)
		check_message(&msg, data, size);
	return 0;
}
