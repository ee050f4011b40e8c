/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What share_record writes and share_replay reads: two files in a directory, in the byte order of the machine.
 *
 *   passes     struct share_header, then for each pass, for each machine: u32 length, and so many bytes of LZ4, which are
 *              `pages` of struct share_page
 *   contents   for each content, from number 1 on: u16 length, and so many bytes of LZ4, or with length 0 the 4096 bytes
 *              themselves. Number 0 is the page of zeros, which is not there.
 *
 * Pages of equal bytes have the same content, told by XXH3 of 128 bits: hashes and checksums are not kept, the replay computes
 * them from the bytes, as the real thing would.
 */
#ifndef OB_BENCH_SHARE_RECORDING_H
#define OB_BENCH_SHARE_RECORDING_H

#include <stdint.h>

#define SHARE_MAGIC      "OBSHARE1"
#define SHARE_PAGE_BYTES 4096u
#define SHARE_EIGHTHS    8u

struct share_header {
	char magic[8];
	uint32_t machines;
	uint32_t pages; /* of each machine */
};

struct share_page {
	uint32_t content;
	uint16_t writes[SHARE_EIGHTHS]; /* to each eighth of the page since the last pass; 65535: so many or more */
};

_Static_assert(sizeof(struct share_page) == 20, "there is no padding");

#endif
