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
    "type-unknown": message(6, b"whatever"),
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
