/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct ob_arena_block {
	struct ob_arena_block *next;
	max_align_t data[];
};

void ob_arena_free(struct ob_arena *arena)
{
	struct ob_arena_block *block = arena->blocks;

	while (block) {
		struct ob_arena_block *next = block->next;

		free(block);
		block = next;
	}
	arena->blocks = NULL;
}

void *ob_arena_alloc(struct ob_arena *arena, size_t size)
{
	struct ob_arena_block *block = size < SIZE_MAX / 2 ? calloc(1, sizeof(*block) + size) : NULL;

	if (!block) {
		fprintf(stderr, "overbook: out of memory\n");
		exit(OB_EXIT_FAILED);
	}
	block->next = arena->blocks;
	arena->blocks = block;
	return block->data;
}

char *ob_arena_strndup(struct ob_arena *arena, const char *text, size_t length)
{
	char *copy = ob_arena_alloc(arena, length + 1);

	memcpy(copy, text, length);
	return copy;
}

char *ob_arena_strdup(struct ob_arena *arena, const char *text)
{
	return ob_arena_strndup(arena, text, strlen(text));
}

char *ob_arena_vprintf(struct ob_arena *arena, const char *fmt, va_list ap)
{
	char *made = NULL, *text;

	if (vasprintf(&made, fmt, ap) < 0)
		made = NULL;
	text = ob_arena_strdup(arena, made ? made : "");
	free(made);
	return text;
}

char *ob_arena_printf(struct ob_arena *arena, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = ob_arena_vprintf(arena, fmt, ap);
	va_end(ap);
	return text;
}

void *ob_arena_grow(struct ob_arena *arena, void *array, size_t count, size_t size)
{
	void *bigger;

	if (count && (count & (count - 1)))
		return array;
	bigger = ob_arena_alloc(arena, (count ? 2 * count : 1) * size);
	if (count)
		memcpy(bigger, array, count * size);
	return bigger;
}
