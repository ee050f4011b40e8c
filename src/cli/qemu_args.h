/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `overbook run` makes of QEMU's command line. The user's options stay where they are and as they are, except for
 * memory backends and a balloon of his that need a property; ours are appended, because devices are made in order and
 * an address that QEMU chooses for ours must not take one that the user has given to his.
 *
 * The result is a plan: a new command line, or the reasons why there is none.
 */
#ifndef OB_CLI_QEMU_ARGS_H
#define OB_CLI_QEMU_ARGS_H

#include <stdint.h>

#include "cli/qemu_opts.h"

/* Ids of what we add; no id of the user's may start so. */
#define OB_QEMU_ID_PREFIX "overbook-"

/* How a virtio device is attached to a machine type. */
enum ob_qemu_bus { OB_QEMU_BUS_NONE, OB_QEMU_BUS_PCI, OB_QEMU_BUS_CCW, OB_QEMU_BUS_MMIO };

struct ob_qemu_machine {
	const char *ram_id; /* what QEMU calls the machine's RAM: snapshots and migration streams carry it */
	enum ob_qemu_bus bus;
	uint64_t default_ram_bytes; /* without -m; 0: not known */
};

/*
 * Looks a machine type up; type NULL means the target's default. Returns 0, -ENOENT when it is not known here (the
 * program itself must be asked), or -EINVAL with the reason when the type can never be run.
 */
int ob_qemu_machine_find(const char *target, const char *type, struct ob_qemu_machine *ret_machine,
			 struct ob_error *err) OB_MUST_CHECK;

struct ob_qemu_plan_config {
	const char *target; /* "x86_64" */
	const char *default_type; /* of the program's machines; NULL: the target's usual one */
	const char *dir; /* the machine's directory */
	int keep_devices; /* add nothing that the guest can see: addresses, snapshots and migration stay as they were */
	/* Asks the program for the RAM id of a type that is not known here (NULL: its default). NULL: nobody to ask. */
	int (*ask_ram_id)(void *context, const char *type, char *ret_id, size_t size, struct ob_error *err);
	void *context;
	long (*fs_type)(const char *path); /* the magic number of the file system that a path lies on, 0: unknown; NULL: statfs() */
};

struct ob_qemu_plan {
	char **argv; /* NULL at its end; lives as long as the options it was made from */
	int argc;
	uint64_t ram_bytes;
	const char **refusals;
	size_t n_refusals;
	const char **notes; /* what could not be added, and what that costs */
	size_t n_notes;
};

/* Makes the plan; opts are changed. When there are refusals nothing else in the plan counts. */
void ob_qemu_plan_make(struct ob_qemu_opts *opts, const struct ob_qemu_plan_config *config, struct ob_qemu_plan *ret_plan);

/* Whether the line starts a machine, and not just answers questions (-version, -cpu help, -machine none). */
int ob_qemu_starts_machine(const struct ob_qemu_opts *opts);

/* The argument of Proxmox's -id, if it is fit for ob_name_valid(), or NULL. */
const char *ob_qemu_id(const struct ob_qemu_opts *opts);

/* The machine's name from -name, fit for ob_name_valid(), or NULL when it has none. */
const char *ob_qemu_name(struct ob_qemu_opts *opts);

/* The words of a command line on one line, each quoted for the shell where it must be. */
const char *ob_qemu_quote(struct ob_arena *arena, char *const *argv);

#endif
