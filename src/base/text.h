/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things about text. */
#ifndef OB_BASE_TEXT_H
#define OB_BASE_TEXT_H

/* Cuts white space off both ends, in place. Returns where the rest begins. */
char *ob_text_trim(char *text);

#endif
