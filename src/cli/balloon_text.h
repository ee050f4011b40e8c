/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is to be said of a machine's balloon, from the member "balloon" of overbookd's rows. */
#ifndef OB_CLI_BALLOON_TEXT_H
#define OB_CLI_BALLOON_TEXT_H

#include <jansson.h>

/* Why what the guest frees does not come back by itself; NULL: it does, or nobody knows. */
const char *ob_balloon_why_kept(const json_t *row);

#endif
