/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/probe.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "kern/pagemap.h"
#include "kern/ring.h"
#include "kern/uffd.h"

int ob_kern_pretend_without(const char *feature)
{
	const char *list = getenv("OVERBOOK_PRETEND_WITHOUT");
	size_t length = strlen(feature);

	for (; list && *list; list += strcspn(list, ","), list += *list == ',')
		if (!strncmp(list, feature, length) && (list[length] == ',' || !list[length]))
			return 1;
	return 0;
}

static int probe_uffd(struct ob_kern_features *features, struct ob_error *err)
{
	uint64_t bits = 0;
	int OB_FD fd = ob_uffd_open(&bits, &features->uffd_device);

	if (fd == -EPERM)
		return ob_error_set(err, EPERM, "userfaultfd is not permitted: run as root, or allow this user "
				    "/dev/userfaultfd (setfacl -m u:USER:rw /dev/userfaultfd)");
	if (fd == -ENOSYS)
		return ob_error_set(err, ENOSYS, "kernel %s has no UFFDIO_MOVE: Linux 6.8 or newer is needed", features->release);
	if (fd < 0)
		return ob_error_sys(err, -fd, "cannot open a userfaultfd");
	features->uffd = 1;
	features->uffd_move = 1;
	features->uffd_wp_async = (bits & OB_UFFD_FEATURE_WP_ASYNC) != 0;
	return 0;
}

int ob_kern_probe(struct ob_kern_features *ret_features, struct ob_error *err)
{
	struct utsname name;
	int OB_FD pagemap = -1;
	struct ob_ring *ring = NULL;
	int r;

	memset(ret_features, 0, sizeof(*ret_features));
	if (uname(&name) == 0)
		memcpy(ret_features->release, name.release, sizeof(ret_features->release) - 1);
	if (sysconf(_SC_PAGESIZE) != 4096)
		return ob_error_set(err, ENOSYS, "pages are %ld bytes here: only 4096 are supported", sysconf(_SC_PAGESIZE));
	r = probe_uffd(ret_features, err);
	if (r < 0)
		return r;
	pagemap = ob_pagemap_open();
	if (pagemap < 0)
		return ob_error_set(err, -pagemap, "kernel %s has no PAGEMAP_SCAN: Linux 6.8 or newer is needed",
				    ret_features->release);
	ret_features->pagemap_scan = 1;
	ret_features->io_uring = ob_ring_create(1, &ring) == 0;
	ob_ring_destroy(ring);
	return 0;
}

unsigned long ob_kern_max_map_count(void)
{
	char text[32];

	if (ob_read_text("/proc/sys/vm/max_map_count", text, sizeof(text)) <= 0)
		return 65530;
	return strtoul(text, NULL, 10);
}
