/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things about text. */
#ifndef OB_BASE_TEXT_H
#define OB_BASE_TEXT_H

#include <stddef.h>

/* Cuts white space off both ends, in place. Returns where the rest begins. */
char *ob_text_trim(char *text);

/* Copies what somebody else wrote, with everything but printable ASCII replaced: fit for a log, a terminal and JSON. */
void ob_text_clean(char *to, size_t size, const char *text);

#endif
