/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The demo and a hostile guest: the input is what comes over the machine's console. What must hold: it is read to its end,
 * what the demo remembers is text, and a failure is one line.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/demo.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct demo *demo = calloc(1, sizeof(*demo));
	struct demo_machine *machine = &demo->machine[0];
	int ends[2], reads = 0;

	FUZZ_CHECK(demo && pipe(ends) == 0, "pipe");
	demo->machines = 1;
	strcpy(machine->name, "anon-1");
	machine->state = size & 1 ? DEMO_CHECKING : DEMO_BOOTING;
	machine->output_fd = ends[0];
	/* A pipe holds 64 KiB. */
	FUZZ_CHECK(ob_write_full(ends[1], data, OB_MIN(size, (size_t)65536)) == 0, "write");
	close(ends[1]);
	while (machine->output_fd >= 0) {
		demo_read_machine(demo, machine);
		FUZZ_CHECK(++reads < 100 && machine->line_length < sizeof(machine->line), "a line of %zu bytes", machine->line_length);
	}
	for (unsigned i = 0; i < demo->failures; i++)
		FUZZ_CHECK(fuzz_is_one_line(demo->failure[i]), "\"%s\"", demo->failure[i]);
	free(demo);
	return 0;
}
