/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine types that we know without asking QEMU: what their RAM is called, which bus a virtio device of ours goes
 * on, and how much RAM they have without -m. The RAM's name is part of every snapshot and migration stream, so it must be
 * QEMU's own. The values are those of QEMU 5.2 to 10.x; a type that is not here is asked of the program.
 */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "cli/qemu_args.h"

struct machine_row {
	const char *targets; /* names between spaces */
	const char *prefix;  /* the type is this, or this and "-" and a version, or (Proxmox) this and "+pve0" */
	struct ob_qemu_machine machine;
};

#define X86 " x86_64 i386 "

static const struct machine_row rows[] = {
	{ X86, "pc", { "pc.ram", OB_QEMU_BUS_PCI, 128 * OB_MIB } },
	{ X86, "q35", { "pc.ram", OB_QEMU_BUS_PCI, 128 * OB_MIB } },
	{ X86, "isapc", { "pc.ram", OB_QEMU_BUS_NONE, 128 * OB_MIB } },
	{ X86, "microvm", { "microvm.ram", OB_QEMU_BUS_MMIO, 128 * OB_MIB } },
	{ " aarch64 arm ", "virt", { "mach-virt.ram", OB_QEMU_BUS_PCI, 128 * OB_MIB } },
	{ " riscv64 riscv32 ", "virt", { "riscv_virt_board.ram", OB_QEMU_BUS_PCI, 128 * OB_MIB } },
	{ " loongarch64 ", "virt", { "loongarch.ram", OB_QEMU_BUS_PCI, OB_GIB } },
	{ " ppc64 ", "pseries", { "ppc_spapr.ram", OB_QEMU_BUS_PCI, 512 * OB_MIB } },
	{ " s390x ", "s390-ccw-virtio", { "s390.ram", OB_QEMU_BUS_CCW, 128 * OB_MIB } },
};

static const struct {
	const char *targets, *type;
} defaults[] = {
	{ X86, "pc" },
	{ " loongarch64 ", "virt" },
	{ " ppc64 ", "pseries" },
	{ " s390x ", "s390-ccw-virtio" },
};

static const struct {
	const char *prefix, *why;
} impossible[] = {
	{ "none", "it has no memory to look after: leave \"overbook run\" out" },
	{ "x-remote", "it has no memory of its own: leave \"overbook run\" out" },
	{ "xenfv", "Xen's guests have their memory outside QEMU: use KVM or TCG" },
	{ "xenpv", "Xen's guests have their memory outside QEMU: use KVM or TCG" },
	{ "xenpvh", "Xen's guests have their memory outside QEMU: use KVM or TCG" },
};

static int is_of_target(const char *targets, const char *target)
{
	const char *at = strstr(targets, target);
	size_t length = strlen(target);

	return at && length && at > targets && at[-1] == ' ' && at[length] == ' ';
}

static int has_prefix(const char *type, const char *prefix)
{
	size_t length = strlen(prefix);

	return !strncmp(type, prefix, length) && (!type[length] || type[length] == '-' || type[length] == '+');
}

int ob_qemu_machine_find(const char *target, const char *type, struct ob_qemu_machine *ret_machine, struct ob_error *err)
{
	for (size_t i = 0; !type && i < OB_ARRAY_LEN(defaults); i++)
		if (is_of_target(defaults[i].targets, target))
			type = defaults[i].type;
	if (!type)
		return -ENOENT;
	for (size_t i = 0; i < OB_ARRAY_LEN(impossible); i++)
		if (has_prefix(type, impossible[i].prefix))
			return ob_error_set(err, EINVAL, "machine type \"%s\": %s", type, impossible[i].why);
	for (size_t i = 0; i < OB_ARRAY_LEN(rows); i++) {
		if (!is_of_target(rows[i].targets, target) || !has_prefix(type, rows[i].prefix))
			continue;
		*ret_machine = rows[i].machine;
		return 0;
	}
	return -ENOENT;
}
