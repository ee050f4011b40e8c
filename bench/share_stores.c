/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plugin of QEMU's TCG, for bench/share-index: counts the stores of the guest's processor to each eighth of each page.
 *
 *     -plugin libshare_stores.so,counts=FILE,bytes=N
 *
 * FILE has a u32 for each 512 bytes of RAM, of which there are N bytes from address 0 (so RAM must lie below the hole for PCI).
 * It stands in for the card on the memory bus with which CMD saw writes. Not the same: there are no caches, so each store
 * counts; what devices write is not seen. Counts of more than one processor may lose some.
 *
 * Debian has no header for plugins; what is used of the interface, version 1 (QEMU 4.2 to 8.2), is declared here.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/compiler.h"

#define EIGHTH_BYTES 512u

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
enum { NO_REGISTERS = 0, WRITES = 2 };
typedef void (*on_translation)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*on_access)(unsigned cpu, uint32_t info, uint64_t address, void *context);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation callback);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t at);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, on_access callback, int flags, int which, void *context);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(uint32_t info, uint64_t address);
_Bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *address);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *address);

OB_EXPORT int qemu_plugin_version = 1;
OB_EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

static uint32_t *counts;
static uint64_t ram_bytes;

static void store(unsigned cpu, uint32_t info, uint64_t address, void *context)
{
	struct qemu_plugin_hwaddr *where = qemu_plugin_get_hwaddr(info, address);
	uint64_t at;

	if (!where || qemu_plugin_hwaddr_is_io(where))
		return;
	at = qemu_plugin_hwaddr_phys_addr(where);
	if (at < ram_bytes)
		counts[at / EIGHTH_BYTES]++;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	for (size_t i = 0; i < n; i++)
		qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), store, NO_REGISTERS, WRITES, NULL);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	const char *path = NULL;
	int fd;

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "counts=", 7))
			path = argv[i] + 7;
		else if (!strncmp(argv[i], "bytes=", 6))
			ram_bytes = strtoull(argv[i] + 6, NULL, 10);
	}
	if (!path || !ram_bytes)
		return -1;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	counts = mmap(NULL, ram_bytes / EIGHTH_BYTES * sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (counts == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
