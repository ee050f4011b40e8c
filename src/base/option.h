/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What getopt_long() does not say. */
#ifndef OB_BASE_OPTION_H
#define OB_BASE_OPTION_H

/*
 * The word that getopt_long() has just refused, or what lacks its value. In a word of several letters behind one dash
 * ("-1G"), it has not gone on to the next word yet.
 */
const char *ob_option_refused(char **argv);

#endif
