/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The checks of `overbook doctor` and the report they fill. A check looks and never changes anything. */
#ifndef OB_CLI_DOCTOR_H
#define OB_CLI_DOCTOR_H

#include <stddef.h>

#include "base/compiler.h"

enum ob_doctor_status { OB_DOCTOR_OK, OB_DOCTOR_WARN, OB_DOCTOR_BAD };

#define OB_DOCTOR_FINDINGS_MAX 32

struct ob_doctor_finding {
	const char *id; /* static */
	enum ob_doctor_status status;
	char found[512]; /* what is so */
	char costs[256]; /* what that costs; "" when ok */
	char mend[256];  /* a command, or what to do; "" when ok */
};

struct ob_doctor_report {
	struct ob_doctor_finding finding[OB_DOCTOR_FINDINGS_MAX];
	size_t count;
};

/* Adds a finding; costs and mend follow with ob_doctor_advise() where it is not ok. */
void ob_doctor_add(struct ob_doctor_report *report, const char *id, enum ob_doctor_status status, const char *fmt,
		   ...) OB_PRINTF(4, 5);
void ob_doctor_advise(struct ob_doctor_report *report, const char *costs, const char *fmt, ...) OB_PRINTF(3, 4);

/* Whether any finding is bad. */
int ob_doctor_is_bad(const struct ob_doctor_report *report);
void ob_doctor_print(const struct ob_doctor_report *report);
void ob_doctor_print_json(const struct ob_doctor_report *report);

/* The host: kernel, memory, what works against us. */
void ob_doctor_check_host(struct ob_doctor_report *report);
/* The installation: agent, QEMU (a program's name or path), swap directory (NULL: the default), overbookd. */
void ob_doctor_check_setup(struct ob_doctor_report *report, const char *qemu, const char *swap);

#endif
