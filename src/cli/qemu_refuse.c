/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What cannot run over guest memory that comes and goes, a line each with the reason and what would be right.
 *
 * Three kinds of trouble: somebody else maps the guest's RAM by its file and would see our empty placeholder (vhost-user,
 * remote devices, blob resources); somebody pins it, so that there is nothing to reclaim, or locks it (VFIO and its like,
 * mem-lock, preallocation, huge page files); or it is not for the host to look at (confidential guests). Devices for which
 * the kernel copies through QEMU's own address space (vhost-net, vhost-vsock) are fine; vhost-scsi keeps plain references.
 */
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/compiler.h"
#include "cli/qemu_plan.h"

struct rule {
	enum ob_qemu_kind kind;
	const char *key;
	const char *prefix; /* of the value; NULL: the key's being there is enough */
	const char *why;
};

#define MAPS_RAM  "the back-end maps guest RAM by itself and would not see pages that are evicted"
#define PINS_RAM  "the device pins all guest RAM, so that nothing could be reclaimed"
#define SECRET    "the memory of a confidential guest cannot be moved or read by the host"
#define LEAVES    "the agent could no longer reach overbookd and the machine's own monitor: start \"overbook run\" as that user, or "\
		  "in that root, from the beginning"
#define EXTERNAL  "its memory has contents that live outside the machine"

static const struct rule rules[] = {
	{ OB_QEMU_DEVICE, "driver", "vhost-user-", MAPS_RAM ": use the virtio device of QEMU's own (virtio-blk, virtio-net, "
	  "9p ...)" },
	{ OB_QEMU_DEVICE, "driver", "vhost-vdpa-", PINS_RAM ": use a virtio device of QEMU's own" },
	{ OB_QEMU_DEVICE, "driver", "vhost-scsi-", "the kernel writes into guest RAM without a mark that could be seen: use "
	  "virtio-scsi" },
	{ OB_QEMU_DEVICE, "driver", "vfio-", PINS_RAM ": use a virtio device instead of passing hardware through" },
	{ OB_QEMU_DEVICE, "driver", "pvrdma", PINS_RAM ": use virtio-net" },
	{ OB_QEMU_DEVICE, "driver", "x-pci-proxy-dev", "the remote process maps guest RAM by itself: use a device inside "
	  "QEMU" },
	{ OB_QEMU_DEVICE, "driver", "virtio-mem", "it gives memory and takes it away behind Overbook's back: give all "
	  "memory with -m and a limit "
						  "with \"overbook run --limit\" or \"overbook limit\"" },
	{ OB_QEMU_DEVICE, "driver", "nvdimm", EXTERNAL ": use a disk" },
	{ OB_QEMU_DEVICE, "driver", "virtio-pmem", EXTERNAL ": use a disk" },
	{ OB_QEMU_DEVICE, "driver", "cxl-type3", EXTERNAL ": give the memory with -m" },
	{ OB_QEMU_NETDEV, "type", "vhost-user", MAPS_RAM ": use -netdev tap, bridge, user or stream" },
	{ OB_QEMU_NETDEV, "type", "vhost-vdpa", PINS_RAM ": use -netdev tap, bridge, user or stream" },
	{ OB_QEMU_NET, "type", "vhost-user", MAPS_RAM ": use tap, bridge or user" },
	{ OB_QEMU_NET, "type", "vhost-vdpa", PINS_RAM ": use tap, bridge or user" },
	{ OB_QEMU_OBJECT, "qom-type", "sev-", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "tdx-guest", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "pef-guest", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "s390-pv-guest", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "arm-rme-guest", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "rme-guest", SECRET ": leave the object out" },
	{ OB_QEMU_OBJECT, "qom-type", "memory-backend-epc", SECRET " (SGX): leave the enclave memory out" },
	{ OB_QEMU_OBJECT, "qom-type", "cryptodev-vhost-user", MAPS_RAM ": use cryptodev-backend-builtin" },
	{ OB_QEMU_OBJECT, "qom-type", "x-remote-object", "the remote process maps guest RAM by itself: use a device inside "
	  "QEMU" },
	{ OB_QEMU_OBJECT, "qom-type", "x-vfio-user-server", "the other side maps guest RAM by itself: use a device inside "
	  "QEMU" },
	{ OB_QEMU_MACHINE, "confidential-guest-support", NULL, SECRET ": leave the property out" },
	{ OB_QEMU_MACHINE, "memory-encryption", NULL, SECRET ": leave the property out" },
	{ OB_QEMU_MACHINE, "memory.size", NULL, "the size of memory is read from -m alone: write it as \"-m SIZE\"" },
	{ OB_QEMU_MACHINE, "accel", "xen", "Xen's guests have their memory outside QEMU: use kvm or tcg" },
	{ OB_QEMU_ACCEL, "accel", "xen", "Xen's guests have their memory outside QEMU: use kvm or tcg" },
	{ OB_QEMU_RUNAS, NULL, NULL, LEAVES },
	{ OB_QEMU_CHROOT, NULL, NULL, LEAVES },
	{ OB_QEMU_RUN_WITH, "user", NULL, LEAVES },
	{ OB_QEMU_RUN_WITH, "chroot", NULL, LEAVES },
	{ OB_QEMU_XEN, NULL, NULL, "Xen's guests have their memory outside QEMU: use KVM or TCG" },
	{ OB_QEMU_MEM_PATH, NULL, NULL, "guest RAM must be ordinary memory, not a file or huge pages of its own: leave it "
	  "out (large pages "
					"come by themselves, see \"overbook doctor\")" },
	{ OB_QEMU_MEM_PREALLOC, NULL, NULL, "memory that is allocated beforehand leaves nothing to save: leave it out and "
	  "use --reservation" },
};

static void refuse_option(struct ob_qemu_planner *planner, const struct ob_qemu_option *option, const char *why)
{
	ob_qemu_refuse(planner, "%s: %s", ob_qemu_option_describe(planner->opts, option), why);
}

static int rule_matches(const struct rule *rule, const struct ob_qemu_option *option)
{
	const char *value;

	if (rule->kind != option->kind)
		return 0;
	if (!rule->key)
		return 1;
	if (!rule->prefix)
		return ob_qemu_option_has(option, rule->key);
	value = ob_qemu_option_get(option, rule->key);
	return value && !strncmp(value, rule->prefix, strlen(rule->prefix));
}

/* Whether the last part of "prefix.name" is this name. */
static int key_ends_in(const char *key, const char *name)
{
	const char *dot = strrchr(key, '.');

	return !strcmp(dot ? dot + 1 : key, name);
}

/* Whether an image's name asks for such a driver. */
static int names_bad_block(const char *value)
{
	if (!strncmp(value, "json:", 5))
		return strstr(value, "\"nvme") || strstr(value, "\"virtio-blk-");
	return !strncmp(value, "nvme://", 7);
}

/* Block drivers that hand guest RAM to a device by themselves. */
static void check_block(struct ob_qemu_planner *planner, const struct ob_qemu_option *option)
{
	int bad = option->arg && option->kind == OB_QEMU_DISK && names_bad_block(option->arg);

	for (size_t i = 0; i < option->n_props; i++) {
		const char *value = option->props[i].value ? option->props[i].value : "";

		/* -drive calls the driver format, too. */
		if (key_ends_in(option->props[i].key, "driver") || key_ends_in(option->props[i].key, "format"))
			bad |= !strncmp(value, "nvme", 4) || !strncmp(value, "virtio-blk-", 11);
		bad |= names_bad_block(value);
	}
	if (bad)
		refuse_option(planner, option, PINS_RAM ": use the block device of the kernel (host_device)");
}

long ob_qemu_fs_type(const struct ob_qemu_plan_config *config, const char *path)
{
	struct statfs fs;

	if (config->fs_type)
		return config->fs_type(path);
	return statfs(path, &fs) == 0 ? (long)fs.f_type : 0;
}

/* File systems whose direct I/O takes plain references to the pages it reads into: nothing shows that they are in use. */
static int hides_io(long fs_type)
{
	enum { CEPH = 0x00c36400 }; /* not in Debian 12's linux/magic.h */

	return fs_type == NFS_SUPER_MAGIC || fs_type == V9FS_MAGIC || fs_type == FUSE_SUPER_MAGIC || fs_type == CEPH;
}

/* With aio=threads the agent sees each read and keeps its pages in place; what the kernel does by itself it does not see. */
static void check_async(struct ob_qemu_planner *planner, const struct ob_qemu_option *option)
{
	int async = 0, hidden = 0;

	for (size_t i = 0; i < option->n_props; i++) {
		const char *key = option->props[i].key, *value = option->props[i].value ? option->props[i].value : "";

		async |= key_ends_in(key, "aio") && (!strcmp(value, "native") || !strcmp(value, "io_uring"));
		if (key_ends_in(key, "file") || key_ends_in(key, "filename"))
			hidden |= hides_io(ob_qemu_fs_type(planner->config, strncmp(value, "file:", 5) ? value : value + 5));
	}
	if (async && hidden)
		refuse_option(planner, option, "on this file system (NFS, 9p, FUSE, Ceph) asynchronous I/O is not seen, and a "
			      "page could be taken away while it is read into: say aio=threads");
}

static void check_locking(struct ob_qemu_planner *planner, const struct ob_qemu_option *option)
{
	const char *key = option->kind == OB_QEMU_REALTIME ? "mlock" : "mem-lock";
	const char *value = ob_qemu_option_get(option, key);

	/* -realtime alone locks. */
	if (option->kind == OB_QEMU_REALTIME ? ob_qemu_option_is_on(option, key, 1)
					     : ob_qemu_option_is_on(option, key, 0) || (value && !strcmp(value, "on-fault")))
		refuse_option(planner, option, "locked memory cannot be reclaimed: leave it out and use --reservation");
}

static void check_flags(struct ob_qemu_planner *planner, const struct ob_qemu_option *option)
{
	const char *driver = ob_qemu_option_get(option, "driver"), *id = ob_qemu_option_get(option, "id");

	if (option->kind == OB_QEMU_DEVICE && driver && (!strncmp(driver, "virtio-gpu", 10) || !strncmp(driver, "virtio-vga",
			10)) &&
	    ob_qemu_option_is_on(option, "blob", 0))
		refuse_option(planner, option, "blob resources map guest RAM by its file and would see an empty one: say "
			      "blob=off");
	if (option->kind == OB_QEMU_NETDEV && ob_qemu_option_is_on(option, "vhost-user", 0))
		refuse_option(planner, option, MAPS_RAM ": say vhost-user=off");
	if (id && !strncmp(id, OB_QEMU_ID_PREFIX, strlen(OB_QEMU_ID_PREFIX)))
		refuse_option(planner, option, "ids that start with \"" OB_QEMU_ID_PREFIX "\" are Overbook's own: choose "
			      "another (is this the "
					       "line that \"overbook run\" has rewritten already?)");
}

void ob_qemu_check_options(struct ob_qemu_planner *planner)
{
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		const struct ob_qemu_option *option = &planner->opts->option[i];

		for (size_t k = 0; k < OB_ARRAY_LEN(rules); k++)
			if (rule_matches(&rules[k], option))
				refuse_option(planner, option, rules[k].why);
		if (option->kind == OB_QEMU_DRIVE || option->kind == OB_QEMU_BLOCKDEV || option->kind == OB_QEMU_DISK)
			check_block(planner, option);
		if (option->kind == OB_QEMU_DRIVE || option->kind == OB_QEMU_BLOCKDEV)
			check_async(planner, option);
		if (option->kind == OB_QEMU_OVERCOMMIT || option->kind == OB_QEMU_REALTIME)
			check_locking(planner, option);
		check_flags(planner, option);
	}
}
