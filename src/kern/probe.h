/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the running kernel can do, asked of the kernel itself: never guessed from a version or a header. */
#ifndef OB_KERN_PROBE_H
#define OB_KERN_PROBE_H

#include "base/error.h"

struct ob_kern_features {
	char release[65];   /* uname -r, for messages only */
	int uffd;           /* userfaultfd can be opened by this process, faults of the kernel included */
	int uffd_device;    /* ... and it was /dev/userfaultfd that allowed it */
	int uffd_move;      /* UFFDIO_MOVE: Linux 6.8. Without it the engine cannot start */
	int uffd_wp_async;  /* asynchronous write-protection: Linux 6.7. Without it the scanner looks at what has not changed, too */
	int pagemap_scan;   /* PAGEMAP_SCAN: Linux 6.7. Without it the engine cannot start */
	int io_uring;       /* rings may be made. Without them reads and writes do not overlap */
};

/*
 * Fills *ret_features as far as it gets. Returns 0 when the engine can run here, else -EPERM or -ENOSYS with what is
 * missing and what would mend it. OVERBOOK_PRETEND_WITHOUT=uffd,move,wp_async,pagemap_scan,io_uring,drop_ranges makes features absent, for tests.
 */
int ob_kern_probe(struct ob_kern_features *ret_features, struct ob_error *err) OB_MUST_CHECK;

/* Whether OVERBOOK_PRETEND_WITHOUT names the feature. */
int ob_kern_pretend_without(const char *feature);

/* vm.max_map_count, or its default of 65530 when it cannot be read. */
unsigned long ob_kern_max_map_count(void);

#endif
