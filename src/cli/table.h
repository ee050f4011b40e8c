/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables of what overbookd answers: a row an object, columns as wide as what stands in them. */
#ifndef OB_CLI_TABLE_H
#define OB_CLI_TABLE_H

#include <stddef.h>

#include <jansson.h>

#define OB_CELL_MAX    64
#define OB_COLUMNS_MAX 16

struct ob_column {
	const char *title, *key;
	void (*format)(char cell[OB_CELL_MAX], const json_t *row, const char *key);
};

void ob_cell_text(char cell[OB_CELL_MAX], const json_t *row, const char *key);
void ob_cell_number(char cell[OB_CELL_MAX], const json_t *row, const char *key);
void ob_cell_size(char cell[OB_CELL_MAX], const json_t *row, const char *key);
/* The same; "?" where it is null or missing: not known. */
void ob_cell_known_size(char cell[OB_CELL_MAX], const json_t *row, const char *key);

/* Prints titles and rows to stdout: the first column stands left, as what ob_cell_text() formats, the others right. */
void ob_table_print(const struct ob_column *columns, size_t n, const json_t *rows);

#endif
