# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames of src/proto/guest.h, for tests that play one side of them."""
import struct

HELLO, MEMORY, APP, WELCOME, TARGET = 1, 2, 3, 16, 17
FINAL, GONE = 1, 2
FRAME = 128
APP_FIELDS = ("app", "kind", "pain", "flags", "status", "answers", "used", "could", "target", "given", "pid", "zero")


def check_of(body):
    value = 2166136261
    for byte in body:
        value = (value ^ byte) * 16777619 % 2**32
    return value


def frame(kind, payload=b"", session=0, sequence=0, version=1, magic=b"OBGA"):
    body = magic + struct.pack("<BBHII", version, kind, 0, session, sequence) + payload.ljust(108, b"\0")
    return body + struct.pack("<I", check_of(body))


def parse(data):
    """A frame as a dict; it must be right."""
    magic, version, kind, zero, session, sequence = struct.unpack("<4sBBHII", data[:16])
    assert (magic, version, zero) == (b"OBGA", 1, 0) and struct.unpack("<I", data[124:])[0] == check_of(data[:124]), data
    found = dict(type=kind, session=session, sequence=sequence)
    if kind == APP:
        found.update(zip(APP_FIELDS, struct.unpack("<IIIIiIQQQQII", data[16:80])), name=data[80:112].rstrip(b"\0").decode())
    elif kind == MEMORY:
        names = "flags", "apps", "total", "free", "available", "caches", "swap", "swap_free", "some", "full"
        found.update(zip(names, struct.unpack("<II8Q", data[16:88])))
    elif kind == HELLO:
        found.update(program=data[16:48].rstrip(b"\0").decode())
    elif kind == TARGET:
        found.update(zip(("app", "deadline", "give"), struct.unpack("<IIQ", data[16:32])))
    return found


def app_payload(name, number=0, kind=1, pain=20, flags=0, status=0, answers=0, used=0, could=0, target=0, given=0):
    fields = struct.pack("<IIIIiIQQQQII", number, kind, pain, flags, status, answers, used, could, target, given, 0, 0)
    return fields + name.encode().ljust(32, b"\0")
