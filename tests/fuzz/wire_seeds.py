#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the corpus of fuzz_wire anew: wire_seeds.py DIRECTORY. The messages are those of src/proto/wire.h, in both
directions, whole and broken in one place each. Run it when the protocol changes."""
import os
import struct
import sys

STATS, KINDS, BUCKETS = 50, 6, 64


def message(kind, payload, magic=0x4B42564F, version=1, reserved=0, length=None):
    length = len(payload) if length is None else length
    return struct.pack("<IHHIIQ", magic, version, kind, length, 7, reserved) + payload


def text(value):
    return struct.pack("<H", len(value)) + value


def hello(name=b"web-1", domain=b"tenant.a", pid=4711, shares=1000, flags=1):
    return struct.pack("<IIQQQI", pid, shares, 64 << 20, 512 << 20, 256 << 20, flags) + text(name) + text(domain) + text(b"agent 0.1.0")


def stats(fields, kinds, buckets):
    return (struct.pack("<I", fields) + b"".join(struct.pack("<Q", 1000 + i) for i in range(fields)) +
            struct.pack("<II", kinds, buckets) + b"".join(struct.pack("<Q", i) for i in range(kinds * buckets)))


def ranges(n, start=0x7F0000000000, length=4096, zero=0):
    return struct.pack("<I", n) + b"".join(struct.pack("<IIQQ", 1 + i % 4, zero, start, start + length) for i in range(n))


def entries(form, *rows):
    return struct.pack("<I", len(rows)) + b"".join(struct.pack(form, *row) for row in rows)


EXTENT, PAGE = 0x1122334455667788, 1 << 36 | 7

SEEDS = {
    "hello": message(1, hello()),
    "hello-alone": message(1, hello(domain=b"", flags=0)),
    "hello-no-name": message(1, hello(name=b"")),
    "hello-bad-name": message(1, hello(name=b"../x")),
    "hello-long-name": message(1, hello(name=b"n" * 64)),
    "hello-nul-in-name": message(1, hello(name=b"a\0b")),
    "hello-pid-0": message(1, hello(pid=0)),
    "hello-pid-negative": message(1, hello(pid=0xFFFFFFFF)),
    "hello-shares-0": message(1, hello(shares=0)),
    "hello-unknown-flag": message(1, hello(flags=2)),
    "stats": message(2, stats(STATS, KINDS, 8)),
    "stats-older": message(2, stats(3, 1, 2)),
    "stats-newer": message(2, stats(STATS + 50, 2, 100)),
    "stats-none": message(2, stats(0, 0, 0)),
    "stats-many-kinds": message(2, struct.pack("<III", 0, 0xFFFFFFFF, 0)),
    "stats-product-wraps": message(2, struct.pack("<III", 0, 0x10000, 0x10000)),
    "stats-count-lies": message(2, struct.pack("<I", 0xFFFFFFFF) + b"\0" * 64),
    "ranges": message(3, ranges(4)),
    "ranges-all": message(3, ranges(64)),
    "ranges-too-many": message(3, ranges(65)),
    "ranges-empty-one": message(3, ranges(1, length=0)),
    "ranges-reserved": message(3, ranges(1, zero=1)),
    "stopped": message(4, text(b"page 7 could not be read: Input/output error")),
    "stopped-over": message(4, text(b"")),
    "stopped-longest": message(4, text(b"x" * 512)),
    "stopped-too-long": message(4, text(b"x" * 513)),
    "stopped-text-lies": message(4, struct.pack("<H", 500) + b"short"),
    "reply": message(5, struct.pack("<Ii", 3, 0) + text(b"")),
    "reply-failed": message(5, struct.pack("<Ii", 3, -22) + text(b"a limit of 1 bytes is below the least")),
    "reply-progress": message(5, struct.pack("<Ii", 3, -115) + text(b"4096 8192")),
    "reply-positive": message(5, struct.pack("<Ii", 3, 1) + text(b"")),
    "set-limit": message(16, struct.pack("<QQ", 512 << 20, 1 << 30)),
    "set-limit-short": message(16, struct.pack("<Q", 512 << 20)),
    "release": message(17, b""),
    "release-longer": message(17, b"x"),
    "poll": message(18, struct.pack("<I", 50)),
    "poll-too-often": message(18, struct.pack("<I", 19)),
    "offer": message(6, entries("<QQQII", (PAGE, 1, 2, 0, 0), (PAGE + 1, 3, 4, 1, 0))),
    "offer-changed": message(6, entries("<QQQII", (PAGE, 1, 2, 0x500, 0), (PAGE + 1, 3, 4, 0xf02, 0))),
    "offer-none": message(6, entries("<QQQII")),
    "offer-many": message(6, entries("<QQQII", *[(PAGE + i, i, 0, 0, 0) for i in range(20)])),
    "offer-too-many": message(6, struct.pack("<I", 513)),
    "offer-reserved": message(6, entries("<QQQII", (PAGE, 1, 2, 0, 1))),
    "staged": message(7, entries("<QiI", (PAGE, 0, 0), (PAGE + 1, -116, 63))),
    "staged-outside": message(7, entries("<QiI", (PAGE, 0, 64))),
    "staged-positive": message(7, entries("<QiI", (PAGE, 1, 0))),
    "held": message(8, entries("<QQIi", (PAGE, EXTENT, 0, 0), (PAGE + 1, EXTENT, 4095, -116))),
    "held-extent-0": message(8, entries("<QQIi", (PAGE, 0, 0, 0))),
    "held-outside": message(8, entries("<QQIi", (PAGE, EXTENT, 4096, 0))),
    "dropped": message(9, entries("<QII", (EXTENT, 0, 1), (EXTENT, 1, 2))),
    "dropped-0-times": message(9, entries("<QII", (EXTENT, 0, 0))),
    "worn": message(11, entries("<QII", (EXTENT, 0, 1), (EXTENT, 1, 2))),
    "maps": message(12, b""),
    "maps-longer": message(12, b"x"),
    "holds": message(13, entries("<QII", (EXTENT, 0, 1), (EXTENT, 4095, 2))),
    "holds-end": message(13, entries("<QII")),
    "holds-0-times": message(13, entries("<QII", (EXTENT, 0, 0))),
    "orphans": message(10, entries("<QII", (EXTENT, 4096, 0))),
    "more-orphans": message(14, entries("<QII", (EXTENT, 4096, 0), (EXTENT + 1, 1, 0))),
    "orphans-none": message(10, entries("<QII")),
    "share": message(19, struct.pack("<II", 1, 20) + bytes(range(192))),
    "subpages": message(26, struct.pack("<I", 4)),
    "kept": message(27, entries("<Q", (EXTENT,), (EXTENT + 1,))),
    "kept-0": message(27, entries("<Q", (0,))),
    "drain": message(28, struct.pack("<Q", EXTENT)),
    "subpages-three": message(26, struct.pack("<I", 3)),
    "share-off": message(19, struct.pack("<II", 0, 0) + bytes(192)),
    "share-short-key": message(19, struct.pack("<II", 1, 20) + bytes(191)),
    "share-much": message(19, struct.pack("<II", 1, 1001) + bytes(192)),
    "extent": message(20, struct.pack("<QII", EXTENT, 4096, 0)),
    "extent-too-large": message(20, struct.pack("<QII", EXTENT, 4097, 0)),
    "fetch": message(21, entries("<QQQII", (PAGE, 1, 2, 0, 0), (PAGE + 1, 3, 4, 63, 0))),
    "fetch-outside": message(21, entries("<QQQII", (PAGE, 1, 2, 64, 0))),
    "adopt": message(22, entries("<QQII", (PAGE, EXTENT, 0, 0), (PAGE + 1, EXTENT, 1, 0))),
    "adopt-reserved": message(22, entries("<QQII", (PAGE, EXTENT, 0, 1))),
    "unshare": message(23, b""),
    "unshare-longer": message(23, b"x"),
    "drop-extent": message(24, struct.pack("<Q", EXTENT)),
    "drop-extent-0": message(24, struct.pack("<Q", 0)),
    "may-map": message(25, b""),
    "large": message(29, struct.pack("<8I", 0, 1, 128, 16, 1, 32, 32, 8)),
    "large-policy": message(29, struct.pack("<8I", 4, 1, 128, 16, 1, 32, 32, 8)),
    "large-pages": message(29, struct.pack("<8I", 0, 1, 514, 16, 1, 32, 32, 8)),
    "large-flags": message(29, struct.pack("<8I", 0, 1, 128, 16, 2, 32, 32, 8)),
    "large-rate": message(29, struct.pack("<8I", 0, 1, 128, 16, 1, 32, 32, 1 << 17)),
    "balloon-set": message(15, struct.pack("<IIQQ", 3, 0, 0, 64 << 20)),
    "balloon-set-fixed": message(15, struct.pack("<IIQQ", 2, 0, 512 << 20, 0)),
    "balloon-set-mode": message(15, struct.pack("<IIQQ", 4, 0, 0, 0)),
    "balloon-set-no-size": message(15, struct.pack("<IIQQ", 2, 0, 0, 0)),
    "balloon": message(30, struct.pack("<IIQQII", 3, 1, 0, 64 << 20, 1000, 0)),
    "balloon-fixed": message(30, struct.pack("<IIQQII", 2, 1, 512 << 20, 64 << 20, 1000, 0)),
    "balloon-a-size": message(30, struct.pack("<IIQQII", 3, 1, 4096, 64 << 20, 1000, 0)),
    "balloon-flags": message(30, struct.pack("<IIQQII", 3, 2, 0, 0, 1000, 0)),
    "balloon-too-often": message(30, struct.pack("<IIQQII", 3, 1, 0, 0, 99, 0)),
    "balloon-reserved": message(30, struct.pack("<IIQQII", 3, 1, 0, 0, 1000, 1)),
    "guest": message(31, struct.pack("<II", 0, 5) + b"bytes"),
    "guest-anew": message(31, struct.pack("<II", 1, 0)),
    "guest-flags": message(31, struct.pack("<II", 2, 0)),
    "guest-much": message(31, struct.pack("<II", 0, 2049) + bytes(2049)),
    "guest-lies": message(31, struct.pack("<II", 0, 6) + b"bytes"),
    "type-unknown": message(99, b"whatever"),
    "magic-wrong": message(17, b"", magic=0x4B42564E),
    "version-wrong": message(17, b"", version=2),
    "reserved-set": message(17, b"", reserved=1 << 63),
    "length-lies": message(17, b"", length=1),
    "empty": b"",
}

if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(sys.argv[1], name), "wb") as seed:
            seed.write(data)
