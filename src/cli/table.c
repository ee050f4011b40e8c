/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "cli/client.h"

void ob_cell_text(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%s", ob_client_text(row, key));
}

void ob_cell_number(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	snprintf(cell, OB_CELL_MAX, "%" PRIu64, ob_client_number(row, key));
}

void ob_cell_size(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	ob_size_format(cell, OB_CELL_MAX, ob_client_number(row, key));
}

void ob_cell_known_size(char cell[OB_CELL_MAX], const json_t *row, const char *key)
{
	if (!json_is_integer(json_object_get(row, key)))
		snprintf(cell, OB_CELL_MAX, "?");
	else
		ob_cell_size(cell, row, key);
}

static int width_of(const struct ob_column *column, const json_t *rows)
{
	int width = (int)strlen(column->title);
	char cell[OB_CELL_MAX];
	const json_t *row;
	size_t i;

	json_array_foreach(rows, i, row) {
		column->format(cell, row, column->key);
		width = OB_MAX(width, (int)strlen(cell));
	}
	return width;
}

void ob_table_print(const struct ob_column *columns, size_t n, const json_t *rows)
{
	size_t count = json_array_size(rows);
	int width[OB_COLUMNS_MAX];

	n = OB_MIN(n, OB_COLUMNS_MAX);
	for (size_t i = 0; i < n; i++) {
		int left = i == 0 || columns[i].format == ob_cell_text;

		width[i] = width_of(&columns[i], rows) * (left ? -1 : 1);
	}
	/* Line 0 has the titles. */
	for (size_t line = 0; line <= count; line++)
		for (size_t i = 0; i < n; i++) {
			char cell[OB_CELL_MAX];

			if (line)
				columns[i].format(cell, json_array_get(rows, line - 1), columns[i].key);
			else
				snprintf(cell, sizeof(cell), "%s", columns[i].title);
			printf("%*s%s", width[i], cell, i + 1 < n ? "  " : "\n");
		}
}
