/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plugin of QEMU's TCG, for bench/density: notes which pages of RAM the guest's processor touches.
 *
 *     -plugin libdensity_touches.so,touches=FILE,ram=FILE
 *
 * ram is the file that the guest has as its memory, which must lie below the hole for PCI. touches has a byte for each page of it: 1 if
 * the page was read, 2 if it was written, 4 if a block of instructions that lies in it was run; whoever reads the file sets them
 * back. One byte more, at the end, says whether to note anything: until it is set the guest runs faster.
 * Not seen: what devices touch, and the processor on its way through page tables.
 *
 * Debian has no header for plugins; what is used of the interface, version 1 (QEMU 4.2 to 8.2), is declared here.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/compiler.h"

#define PAGE 4096u

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
enum { READ = 1, WRITTEN = 2, RUN = 4 };
typedef void (*on_translation)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*on_access)(unsigned cpu, uint32_t info, uint64_t address, void *context);
typedef void (*on_run)(unsigned cpu, void *context);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, on_run callback, int flags, void *context);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t at);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, on_access callback, int flags, int which, void *context);
_Bool qemu_plugin_mem_is_store(uint32_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(uint32_t info, uint64_t address);
_Bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *address);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *address);

OB_EXPORT int qemu_plugin_version = 1;
OB_EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

static volatile uint8_t *touches, *is_on;
static uint64_t ram_bytes;
static uintptr_t ram_base; /* in QEMU; 0: not found yet */
static const char *ram_path;

static void touch(unsigned cpu, uint32_t info, uint64_t address, void *context)
{
	struct qemu_plugin_hwaddr *where;
	uint64_t at;

	if (!*is_on)
		return;
	where = qemu_plugin_get_hwaddr(info, address);
	if (!where || qemu_plugin_hwaddr_is_io(where))
		return;
	at = qemu_plugin_hwaddr_phys_addr(where);
	if (at < ram_bytes)
		touches[at / PAGE] |= qemu_plugin_mem_is_store(info) ? WRITTEN : READ;
}

static void run(unsigned cpu, void *context)
{
	if (*is_on)
		touches[(uintptr_t)context] |= RUN;
}

static void find_ram(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[4096 + 128];
	unsigned long from, to;

	while (f && fgets(line, sizeof(line), f)) {
		char *path = strchr(line, '/');

		line[strcspn(line, "\n")] = 0;
		if (path && !strcmp(path, ram_path) && sscanf(line, "%lx-%lx", &from, &to) == 2 && to - from == ram_bytes)
			ram_base = from;
	}
	if (f)
		fclose(f);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);
	uint64_t last = UINT64_MAX;

	if (!ram_base)
		find_ram();
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t at = (uintptr_t)qemu_plugin_insn_haddr(insn) - ram_base;

		if (ram_base && at < ram_bytes && at / PAGE != last) {
			last = at / PAGE;
			qemu_plugin_register_vcpu_tb_exec_cb(tb, run, NO_REGISTERS, (void *)(uintptr_t)last);
		}
		qemu_plugin_register_vcpu_mem_cb(insn, touch, NO_REGISTERS, READS_AND_WRITES, NULL);
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	const char *path = NULL;
	struct stat st;
	int fd;

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "touches=", 8))
			path = argv[i] + 8;
		else if (!strncmp(argv[i], "ram=", 4))
			ram_path = strdup(argv[i] + 4);
	}
	if (!path || !ram_path || stat(ram_path, &st))
		return -1;
	ram_bytes = (uint64_t)st.st_size;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	touches = mmap(NULL, ram_bytes / PAGE + 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (touches == MAP_FAILED)
		return -1;
	is_on = touches + ram_bytes / PAGE;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
