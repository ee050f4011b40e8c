/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mapped shares; mapped.c has the theory. Nothing outside src/engine includes this. */
#ifndef OB_ENGINE_MAPPED_H
#define OB_ENGINE_MAPPED_H

#include <pthread.h>
#include <stdint.h>

struct ob_mapped {
	int guard;            /* the userfaultfd that tells of writes to mapped pages; -1: pages are never mapped */
	int event;            /* a mapping is about to be moved, or the thread shall end */
	int is_started, stop; /* stop: atomic */
	pthread_t thread;
	unsigned moving;      /* atomic: moves of guest RAM's mappings under way */
	pthread_mutex_t lock; /* all moves, and this: */
	uint64_t runs;        /* atomic for reading */
	uint64_t runs_max;
};

#endif
