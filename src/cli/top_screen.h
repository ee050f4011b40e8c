/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The screen of `overbook top`. */
#ifndef OB_CLI_TOP_SCREEN_H
#define OB_CLI_TOP_SCREEN_H

#include "cli/top_page.h"

/*
 * Shows the view until its user ends it, or the terminal goes. Returns 0; -ENOTSUP when this terminal cannot be drawn on: nothing has
 * been shown then; or -errno. The terminal is left as it was.
 */
int ob_top_screen_run(struct ob_top_view *view, struct ob_error *err) OB_MUST_CHECK;

#endif
