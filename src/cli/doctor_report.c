/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stdio.h>

#include <jansson.h>

#include "cli/doctor.h"

static const char *const status_names[] = { [OB_DOCTOR_OK] = "ok", [OB_DOCTOR_WARN] = "warn", [OB_DOCTOR_BAD] = "bad" };

void ob_doctor_add(struct ob_doctor_report *report, const char *id, enum ob_doctor_status status, const char *fmt, ...)
{
	struct ob_doctor_finding *finding;
	va_list ap;

	if (report->count >= OB_DOCTOR_FINDINGS_MAX)
		return;
	finding = &report->finding[report->count++];
	*finding = (struct ob_doctor_finding){ .id = id, .status = status };
	va_start(ap, fmt);
	vsnprintf(finding->found, sizeof(finding->found), fmt, ap);
	va_end(ap);
}

void ob_doctor_advise(struct ob_doctor_report *report, const char *costs, const char *fmt, ...)
{
	struct ob_doctor_finding *finding = &report->finding[report->count - 1];
	va_list ap;

	snprintf(finding->costs, sizeof(finding->costs), "%s", costs);
	va_start(ap, fmt);
	vsnprintf(finding->mend, sizeof(finding->mend), fmt, ap);
	va_end(ap);
}

static unsigned count(const struct ob_doctor_report *report, enum ob_doctor_status status)
{
	unsigned n = 0;

	for (size_t i = 0; i < report->count; i++)
		n += report->finding[i].status == status;
	return n;
}

int ob_doctor_is_bad(const struct ob_doctor_report *report)
{
	return count(report, OB_DOCTOR_BAD) != 0;
}

void ob_doctor_print(const struct ob_doctor_report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		const struct ob_doctor_finding *finding = &report->finding[i];

		printf("%-4s  %-14s %s\n", status_names[finding->status], finding->id, finding->found);
		if (finding->costs[0])
			printf("%20s costs: %s\n", "", finding->costs);
		if (finding->mend[0])
			printf("%20s mend:  %s\n", "", finding->mend);
	}
	printf("\n%u ok, %u to look at, %u bad%s\n", count(report, OB_DOCTOR_OK), count(report, OB_DOCTOR_WARN),
	       count(report, OB_DOCTOR_BAD),
	       ob_doctor_is_bad(report) ? ": machines cannot be run here until these are mended" : "");
}

void ob_doctor_print_json(const struct ob_doctor_report *report)
{
	json_t *object = json_object(), *list = json_array();

	for (size_t i = 0; i < report->count; i++) {
		const struct ob_doctor_finding *finding = &report->finding[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", finding->id, "status",
						      status_names[finding->status],
						      "found", finding->found, "costs", finding->costs, "mend", finding->mend));
	}
	json_object_set_new(object, "ok", json_boolean(!ob_doctor_is_bad(report)));
	json_object_set_new(object, "checks", list);
	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
}
