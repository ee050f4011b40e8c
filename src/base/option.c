/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/option.h"

#include <getopt.h>

const char *ob_option_refused(char **argv)
{
	const char *word = argv[optind];

	return optopt && word && word[0] == '-' && word[1] == optopt ? word : argv[optind - 1];
}
