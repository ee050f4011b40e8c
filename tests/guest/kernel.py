# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says about a process's memory."""
import contextlib
import os
import re
import signal
import struct
import time

PAGE = 4096
PRESENT = 1 << 63
AREA = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ")


def present_bytes(pagemap, start, end):
    pagemap.seek(start // PAGE * 8)
    entries = pagemap.read((end - start) // PAGE * 8)
    return PAGE * sum(1 for (entry,) in struct.iter_unpack("<Q", entries) if entry & PRESENT)


def pss_by_kind(pid, ranges):
    """The proportional set size of address ranges [(kind, start, end)] of whole pages of a process, a sum for each kind.

    Of a mapping that lies in ranges only partly, or in several, each part's present pages count, at most the mapping's Pss."""
    sums = dict.fromkeys((kind for kind, _, _ in ranges), 0)
    with open(f"/proc/{pid}/smaps", "rb") as smaps, open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        start = end = 0
        for line in smaps:
            area = AREA.match(line)
            if area:
                start, end = int(area.group(1), 16), int(area.group(2), 16)
            elif line.startswith(b"Pss:"):
                left = int(line.split()[1]) * 1024
                parts = [(kind, max(start, a), min(end, b)) for kind, a, b in ranges if a < end and start < b]
                for kind, a, b in parts if left else ():
                    part = left if (a, b) == (start, end) else min(left, present_bytes(pagemap, a, b))
                    sums[kind] += part
                    left -= part
    return sums


def large_bytes(pid, ranges):
    """What lies in large pages, of the mappings that have a part in address ranges [(kind, start, end)]."""
    return sum(int(line.split()[1]) * 1024 for line in lines_of(pid, ranges, b"AnonHugePages:"))


def flags(pid, ranges):
    """The kernel's flags (two letters each) that all of these mappings have."""
    return set.intersection(*(set(line.decode().split()[1:]) for line in lines_of(pid, ranges, b"VmFlags:")))


def lines_of(pid, ranges, field):
    inside = False
    with open(f"/proc/{pid}/smaps", "rb") as smaps:
        for line in smaps:
            area = AREA.match(line)
            if area:
                inside = any(a < int(area.group(2), 16) and int(area.group(1), 16) < b for _, a, b in ranges)
            elif inside and line.startswith(field):
                yield line


def state_of(path):
    try:
        with open(path, "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return b"X"


@contextlib.contextmanager
def frozen(pid):
    """The process does not run inside. Threads that wait in the kernel (D) for a fault stay there; what runs has stopped."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            states = {state_of(f"/proc/{pid}/task/{task}/stat") for task in os.listdir(f"/proc/{pid}/task")}
            if states <= {b"T", b"D", b"X", b"Z"}:
                break
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
