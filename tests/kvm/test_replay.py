#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that replays for bench/density, under KVM: test_replay.py FIRMWARE BENCH (its directory). Prints TAP.

Its RAM is a file here, so that one can look into it.
"""
import mmap
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import zlib

sys.dont_write_bytecode = True  # the source tree stays clean
sys.path[:0] = [sys.argv[2], os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]

import cases  # noqa: E402
import density_record as record  # noqa: E402

FIRMWARE = os.path.abspath(sys.argv[1])
PAGE, PAGES, OURS_MIB, PATIENCE = 4096, 4096, 4, 60.0
directory = tempfile.mkdtemp(prefix="overbook-test.", dir=os.environ.get("OVERBOOK_TEST_DIR", "/var/tmp"))


def content(page):
    """Random, compressible, and zeros, by turns."""
    draw = random.Random(page)
    return (draw.randbytes(PAGE), (draw.randbytes(8) * 375).ljust(PAGE, b"\0"), bytes(PAGE))[page % 3]


def class_of(page):
    return (record.ABSENT, record.COMMON, record.OWN, record.OWN)[page // 3 % 4]


def make_recording(name, requests, steps):
    ram, path = os.path.join(directory, "ram"), os.path.join(directory, name)
    with open(ram, "wb") as f:
        f.truncate(PAGES * PAGE)
        for page in range(PAGES):
            if class_of(page) != record.ABSENT:
                f.seek(page * PAGE)
                f.write(content(page))
    record.write_replay(path, ram, bytes(class_of(page) for page in range(PAGES)), requests, steps)
    return path


class Guest:
    def __init__(self, recording, number=7):
        self.path = os.path.join(directory, f"m{number}.ram")
        size = OURS_MIB + PAGES * PAGE // (1 << 20)
        with open(self.path, "wb") as f:
            f.truncate(size << 20)
        self.process = subprocess.Popen([
            "qemu-system-x86_64", "-accel", "kvm", "-machine", "pc,memory-backend=ram", "-m", f"{size}M", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-bios", FIRMWARE, "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-object", f"memory-backend-file,id=ram,size={size}M,mem-path={self.path},share=on",
            "-object", f"memory-backend-file,id=recording,size=256M,mem-path={recording},share=on,readonly=on",
            "-device", "ivshmem-plain,memdev=recording"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with open(self.path, "r+b") as f:
            self.ram = mmap.mmap(f.fileno(), 0)
        self.tell(f"{number}f")

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def tell(self, orders):
        self.process.stdin.write(orders.encode())
        self.process.stdin.flush()

    def answer(self):
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "it does not answer"
        byte = os.read(self.process.stdout.fileno(), 1)
        assert byte, "it has ended"
        return byte.decode()

    def ask(self, order):
        self.tell(order)
        return self.answer()

    def page(self, number):
        at = (OURS_MIB << 20) + number * PAGE
        return self.ram[at:at + PAGE]

    def pages(self):
        return [self.page(number) for number in range(PAGES)]


def fills_as_recorded():
    """What others have is as recorded, what is a machine's own differs from every other machine's and compresses as before"""
    path = make_recording("fill", [], [])
    filled = []
    for number in (7, 8):
        with Guest(path, number) as guest:
            assert guest.answer() == "R" and guest.ask("c") == "C"
            filled.append(guest.pages())
    for page, (one, other) in enumerate(zip(*filled)):
        kind, recorded = class_of(page), content(page)
        if kind == record.OWN and any(recorded):
            assert one != other and recorded not in (one, other), page
            assert abs(len(zlib.compress(one)) - len(zlib.compress(recorded))) < 8, page
        else:
            assert one == other == (bytes(PAGE) if kind == record.ABSENT else recorded), page


def touches_what_is_recorded():
    """Requests and steps write what was written, each time anew, and nothing else; both go round"""
    path = make_recording("touch", [{5: True, 6: False}, {300: True}], [{9: True}, {900: False}])
    with Guest(path) as guest:
        assert guest.answer() == "R"
        before = guest.pages()
        for _ in range(2):
            assert guest.ask("r") == guest.ask("r") == "A"
            now = guest.pages()
            assert [page for page in range(PAGES) if now[page] != before[page]] == [5, 300]
            before = now
        guest.tell("tt")
        assert guest.ask("c") == "C"
        now = guest.pages()
        changed = [i for i in range(PAGE) if now[9][i] != before[9][i]]
        assert 0 < len(changed) <= 8 and changed[-1] - changed[0] < 8, changed
        assert [page for page in range(PAGES) if now[page] != before[page]] == [9]


def sees_what_is_wrong():
    """A wrong bit anywhere in a page that is touched is seen, and so is one in a look at all"""
    path = make_recording("wrong", [{6: False}], [{7: False}])
    with Guest(path) as guest:
        assert guest.answer() == "R" and guest.ask("r") == "A"
        for page, order in ((6, "r"), (7, "t"), (1001, "c")):
            at = (OURS_MIB << 20) + page * PAGE + random.Random(page).randrange(PAGE)
            guest.ram[at] ^= 0x10
            assert guest.ask(order) == "W", page
            guest.ram[at] ^= 0x10
        assert guest.ask("r") == "A" and guest.ask("c") == "C"


def refuses_what_is_no_recording():
    """What is none is not played, and a page that is not there is not touched"""
    path = make_recording("bad", [{PAGES + 5: True}], [])
    with Guest(path) as guest:
        assert guest.answer() == "R" and guest.ask("r") == "X" and guest.ask("c") == "C"
    with open(path, "r+b") as f:
        f.write(b"NOTHING!")
    with Guest(path) as guest:
        assert guest.answer() == "X"


if __name__ == "__main__":
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not shutil.which("qemu-system-x86_64"):
        print("1..0 # SKIP no /dev/kvm, or no QEMU")
        sys.exit(0)
    try:
        sys.exit(cases.main(fills_as_recorded, touches_what_is_recorded, sees_what_is_wrong, refuses_what_is_no_recording))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
