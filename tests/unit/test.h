/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What cmocka wants to have seen before its own header. */
#ifndef OB_TEST_H
#define OB_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
