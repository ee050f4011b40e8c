/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is given back all at once: what belongs to one command line. An allocation that fails ends the program with
 * one line and OB_EXIT_FAILED: the CLI has changed nothing by then that a later run does not clean.
 */
#ifndef OB_CLI_ARENA_H
#define OB_CLI_ARENA_H

#include <stdarg.h>
#include <stddef.h>

#include "base/compiler.h"

struct ob_arena {
	struct ob_arena_block *blocks;
};

void ob_arena_free(struct ob_arena *arena);

/* Zeroed memory of size bytes. */
void *ob_arena_alloc(struct ob_arena *arena, size_t size);
char *ob_arena_strndup(struct ob_arena *arena, const char *text, size_t length);
char *ob_arena_strdup(struct ob_arena *arena, const char *text);
char *ob_arena_printf(struct ob_arena *arena, const char *fmt, ...) OB_PRINTF(2, 3);
char *ob_arena_vprintf(struct ob_arena *arena, const char *fmt, va_list ap) OB_PRINTF(2, 0);

/* Room for one more element behind count elements of size bytes; the array may move. Grows at powers of two. */
void *ob_arena_grow(struct ob_arena *arena, void *array, size_t count, size_t size);

#endif
