/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What Overbook adds to every machine: a QMP monitor of its own, a balloon with free-page reporting, and a port for the
 * guest agent.
 *
 * Any monitor option makes QEMU leave its default monitor out (on a graphical console, or on stdio with -nographic), which
 * would take Ctrl-A c and Ctrl-A x from the user; so where he would have had it, it is written out. A balloon or port that
 * is there already is used: the balloon is given free-page-reporting=on unless the user has said otherwise. Ours also
 * has deflate-on-oom=on: a guest that suddenly needs what it has given takes it back before it kills.
 */
#include <string.h>

#include "cli/qemu_plan.h"
#include "proto/env.h"
#include "proto/guest.h"

#define BALLOON "virtio-balloon"

static const char *const bus_suffix[] = {
	[OB_QEMU_BUS_NONE] = NULL,
	[OB_QEMU_BUS_PCI] = "-pci",
	[OB_QEMU_BUS_CCW] = "-ccw",
	[OB_QEMU_BUS_MMIO] = "-device",
};

static int has_option(const struct ob_qemu_planner *planner, enum ob_qemu_kind kind)
{
	for (size_t i = 0; i < planner->opts->n_options; i++)
		if (planner->opts->option[i].kind == kind)
			return 1;
	return 0;
}

/* The first -device whose driver starts with prefix, and whose name property is name where that is not NULL. */
static struct ob_qemu_option *find_device(const struct ob_qemu_planner *planner, const char *prefix, const char *name)
{
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		struct ob_qemu_option *option = &planner->opts->option[i];
		const char *driver = option->kind == OB_QEMU_DEVICE ? ob_qemu_option_get(option, "driver") : NULL;
		const char *own = ob_qemu_option_get(option, "name");

		if (driver && !strncmp(driver, prefix, strlen(prefix)) && (!name || (own && !strcmp(own, name))))
			return option;
	}
	return NULL;
}

/* "-serial mon:..." is a monitor too. */
static int has_mux_monitor(const struct ob_qemu_planner *planner)
{
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		const struct ob_qemu_option *option = &planner->opts->option[i];

		if ((!strcmp(option->name, "serial") || !strcmp(option->name, "parallel")) && option->arg &&
		    !strncmp(option->arg, "mon:", 4))
			return 1;
	}
	return 0;
}

static void keep_default_monitor(struct ob_qemu_planner *planner)
{
	if (has_option(planner, OB_QEMU_MONITOR) || has_option(planner, OB_QEMU_NODEFAULTS) || has_mux_monitor(planner))
		return;
	if (!has_option(planner, OB_QEMU_NOGRAPHIC))
		ob_qemu_append(planner, "-monitor", "vc:80Cx24C");
	else if (has_option(planner, OB_QEMU_SERIAL) || find_device(planner, "isa-serial", NULL))
		ob_qemu_append(planner, "-monitor", "stdio");
	else
		ob_qemu_append(planner, "-serial", "mon:stdio");
}

static void add_socket(struct ob_qemu_planner *planner, const char *id, const char *file)
{
	ob_qemu_append(planner, "-chardev", "socket,id=" OB_QEMU_ID_PREFIX "%s,path=%s/%s,server=on,wait=off", id,
		       ob_qemu_escape(&planner->opts->arena, planner->config->dir), file);
}

static void add_balloon(struct ob_qemu_planner *planner)
{
	struct ob_qemu_option *balloon = find_device(planner, BALLOON, NULL);

	if (!balloon)
		ob_qemu_append(planner, "-device", BALLOON "%s,id=" OB_QEMU_ID_PREFIX "balloon,free-page-reporting=on,"
			       "deflate-on-oom=on", bus_suffix[planner->machine.bus]);
	else if (ob_qemu_option_has(balloon, "free-page-reporting"))
		return;
	else if (balloon->file)
		ob_qemu_append(planner, "-global", BALLOON "-device.free-page-reporting=on");
	else
		ob_qemu_option_set(planner->opts, balloon, "free-page-reporting", "on", json_true());
}

static void add_guest_port(struct ob_qemu_planner *planner)
{
	if (find_device(planner, "virtserialport", OB_GUEST_PORT))
		return;
	add_socket(planner, "guest", OB_FILE_GUEST);
	ob_qemu_append(planner, "-device", "virtio-serial%s,id=" OB_QEMU_ID_PREFIX "serial,max_ports=2",
		       bus_suffix[planner->machine.bus]);
	ob_qemu_append(planner, "-device",
		       "virtserialport,bus=" OB_QEMU_ID_PREFIX "serial.0,chardev=" OB_QEMU_ID_PREFIX "guest,id="
					   OB_QEMU_ID_PREFIX "port,name=" OB_GUEST_PORT);
}

void ob_qemu_add_devices(struct ob_qemu_planner *planner)
{
	keep_default_monitor(planner);
	add_socket(planner, "qmp", OB_FILE_QMP);
	ob_qemu_append(planner, "-mon", "chardev=" OB_QEMU_ID_PREFIX "qmp,mode=control");
	if (planner->config->keep_devices)
		return;
	if (planner->machine.bus == OB_QEMU_BUS_NONE) {
		ob_qemu_note(planner, "machine type \"%s\" has no bus that is known for virtio devices: no balloon, so "
			     "memory that the guest "
				      "frees is not given back, and no port for the guest agent", planner->type ? planner->type : "(default)");
		return;
	}
	add_balloon(planner);
	add_guest_port(planner);
}
