/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How `overbook run` tells the agent what to do: environment variables of the QEMU process, read once by the agent's
 * constructor and removed from the environment then, so that QEMU's children see none of them.
 * Sizes are decimal numbers of bytes. An absent variable means the default that is named here.
 */
#ifndef OB_PROTO_ENV_H
#define OB_PROTO_ENV_H

#define OB_ENV_NAME        "OVERBOOK_NAME"        /* the machine's name; required, the agent sleeps without it */
#define OB_ENV_DIR         "OVERBOOK_DIR"         /* the machine's directory: RAM placeholders lie in it; required */
#define OB_ENV_LIMIT       "OVERBOOK_LIMIT"       /* bytes the machine may cost at first; 0 or absent: no limit */
#define OB_ENV_MAXIMUM     "OVERBOOK_MAXIMUM"     /* bytes that the user gave as --limit; 0 or absent: none given */
#define OB_ENV_RESERVATION "OVERBOOK_RESERVATION" /* guaranteed bytes; absent: 0 */
#define OB_ENV_SHARES      "OVERBOOK_SHARES"      /* weight, 1 to 1000000; absent: 1000 */
#define OB_ENV_DOMAIN      "OVERBOOK_DOMAIN"      /* sharing domain; absent: the machine shares with itself alone */
#define OB_ENV_SWAP        "OVERBOOK_SWAP"        /* directory of the swap store; absent: no swap store */
#define OB_ENV_SOCKET      "OVERBOOK_SOCKET"      /* overbookd's socket for agents; absent: stay alone */
#define OB_ENV_REQUIRE     "OVERBOOK_REQUIRE"     /* "1": end QEMU at start when the engine cannot start */
#define OB_ENV_SHARE_MAPPED "OVERBOOK_SHARE_MAPPED" /* "1": shared pages that are read again and again may be mapped */
#define OB_ENV_KEEP_AFFINITY "OVERBOOK_KEEP_AFFINITY" /* "1": QEMU's threads are never kept on a processor */
#define OB_ENV_BALLOON     "OVERBOOK_BALLOON"     /* "auto" or "off": how the balloon is driven; absent: as overbookd's settings say */
#define OB_ENV_LARGE       "OVERBOOK_LARGE"       /* "off": no new large pages of guest RAM before overbookd allows them; absent: as the kernel likes */
#define OB_ENV_FAULT       "OVERBOOK_FAULT"       /* fault points (base/fault.h), for tests */

#define OB_NAME_MAX   63 /* bytes of a machine's or domain's name: letters, digits and ._- not starting with . or - */
#define OB_SHARES_DEFAULT 1000
#define OB_SHARES_MAX     1000000u

#define OB_LIMIT_MIN (8ull << 20) /* bytes; the least limit that can be kept at all */

/* Files in a machine's directory. */
#define OB_FILE_LOCK "lock"     /* flock()ed exclusively for as long as the machine lives; holds its pid as text */
#define OB_FILE_QMP  "qmp.sock" /* a QMP monitor of Overbook's own */
#define OB_FILE_GUEST "guest.sock" /* the virtio-serial port for the guest agent */

#endif
