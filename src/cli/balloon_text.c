/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/balloon_text.h"

#include <stddef.h>

const char *ob_balloon_why_kept(const json_t *row)
{
	const json_t *balloon = json_object_get(row, "balloon");

	if (json_is_false(json_object_get(balloon, "device")))
		return "the machine has no virtio-balloon";
	if (json_is_false(json_object_get(balloon, "takes_reports")))
		return "its virtio-balloon has free-page-reporting=off";
	if (json_is_false(json_object_get(balloon, "driver")))
		return "its guest has no driver for the balloon, or is still starting";
	if (json_is_false(json_object_get(balloon, "reports_free_pages")))
		return "its guest's kernel does not report free pages (Linux does since 5.7, with CONFIG_PAGE_REPORTING)";
	return NULL;
}
