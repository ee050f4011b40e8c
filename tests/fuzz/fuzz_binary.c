/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the CLI reads about QEMU: the program's file (is it ELF with a loader, is it Debian's kvm script), its name, and what
 * it answers when it is asked which RAM a machine type has. The input is each of these in turn. The functions are
 * qemu_binary.c's own, so this file includes it.
 */
#include "cli/qemu_binary.c"

#include <sys/mman.h>

#include "fuzz.h"

static int file = -1;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	file = memfd_create("program", MFD_CLOEXEC);
	return 0;
}

static void check_program(const uint8_t *data, size_t size)
{
	int r;

	FUZZ_CHECK(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size, "memfd");
	r = has_loader(file);
	FUZZ_CHECK(r == 0 || r == 1 || (r < 0 && r > -4096), "%d", r);
	FUZZ_CHECK(r < 0 || (size >= sizeof(Elf64_Ehdr) && !memcmp(data, ELFMAG, SELFMAG)), "a program without a header");
	FUZZ_CHECK(!is_kvm_script(file) || memmem(data, size, "qemu-system-x86_64", 18), "a script that starts something else");
}

static void check_name(const char *text)
{
	struct ob_qemu_binary binary;

	memset(&binary, 0, sizeof(binary));
	if (parse_name(text, &binary) == 0)
		FUZZ_CHECK(*binary.target && strlen(binary.target) < sizeof(binary.target) && !strpbrk(binary.target, "-."),
			   "\"%s\" has the target \"%s\"", text, binary.target);
}

static void check_answer(char *text)
{
	static const char *const types[] = { NULL, "pc", "q35" };
	char id[16];

	for (size_t i = 0; i < OB_ARRAY_LEN(types); i++) {
		char *copy = strdup(text);
		int r = find_ram_id(copy, types[i], id, sizeof(id));

		FUZZ_CHECK(r == 0 || r == -ENOENT || r == -EPROTO, "%d", r);
		FUZZ_CHECK(r || strlen(id) < sizeof(id), "an id without an end");
		free(copy);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);

	check_program(data, size);
	check_name(text);
	check_answer(text);
	free(text);
	return 0;
}
