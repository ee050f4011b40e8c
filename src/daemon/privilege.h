/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OB_DAEMON_PRIVILEGE_H
#define OB_DAEMON_PRIVILEGE_H

#include "base/error.h"

/* Gives up every privilege that overbookd does not need once its sockets stand; see privilege.c. 0 or -errno with what failed. */
int ob_privilege_drop(struct ob_error *err) OB_MUST_CHECK;

#endif
