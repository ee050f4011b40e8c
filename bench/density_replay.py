# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of bench/density that replay what real ones have touched (density_record.py), under KVM.

Real guests are at half of two processors with 40 machines, since TCG computes for them. One that replays touches the same pages in the same
order, and computes nothing: what a request took besides is waited for, here, as long as one of a real guest took in its turn. So a request takes
what memory made it wait, and what it takes a real one at rest; the guest is asked for the next one after both. Many real ones also wait for
processors: those that replay are faster without a budget, and the same wait for memory counts for more.

Machine m plays recording m modulo their number (so it is of the same kind as the real machine m), with contents of its own where the
recorded one had such; replay_guest.c says how. What they have not: a balloon and free pages to report; a disk, so that what a page has
in common with an image is found by its bytes alone; touches of devices, and of page tables. What they have besides: the firmware's 4 MiB, of which
they use the sums of pages, 4 bytes each, as often as the pages. Each page that is touched is read to its end.
"""
import itertools
import json
import os
import threading
import time

from density_load import MEMORY_MIB, REQUEST_PAGES, kind_of
from density_record import RECORDED, STEP_S
from guests import Line, Machine
from lib import Unfit

FIRMWARE_MIB = 4
ORDERS = {"check": b"c", f"request {REQUEST_PAGES}": b"r"}
WRONG = {"wrong": "1"}
ANSWERS = {b"R": (("ready", {}),), b"A": (("answered", {"wrong": "0"}),), b"C": (("checked", {"wrong": "0"}),),
           b"W": (("answered", WRONG), ("checked", WRONG))}


class Recording:
    """A directory that density_record.py has made."""

    def __init__(self, directory):
        self.directory = directory
        try:
            with open(os.path.join(directory, "about.json"), encoding="utf-8") as f:
                self.about = json.load(f)
        except OSError as reason:
            raise Unfit(f"no recording: {reason}; --record makes one") from None
        if (self.about["memory_mib"], self.about["request_pages"], self.about["step_s"]) != (MEMORY_MIB, REQUEST_PAGES, STEP_S):
            raise Unfit(f"the recording in {directory} is of other guests: --record makes a new one")
        for i in range(RECORDED):
            # Into the page cache, which is then no machine's.
            with open(self.path(i), "rb") as f:
                while f.read(1 << 20):
                    pass

    def path(self, i):
        return os.path.join(self.directory, f"{i}.replay")

    def served_s(self, index):
        """What requests of a machine take besides memory, in turn."""
        took = self.about["served_s"][kind_of(index).name]
        first = index * 7919 % len(took)
        return itertools.cycle(took[first:] + took[:first])

    def facts(self):
        return {name: self.about[name] for name in ("seconds", "guests")} | {name: self.about["host"][name] for name in ("commit", "date")}


class Replaying(Machine):
    """Takes the orders of a real guest, and answers as it does."""

    def __init__(self, place, recording, index, ours, **more):
        self.path, self.served = recording.path(index % RECORDED), recording.served_s(index)
        super().__init__(place, f"m{index}", ours, MEMORY_MIB + FIRMWARE_MIB, None, **more)
        self.give(f"{index}f".encode())

    def words(self, parameters):
        return ["qemu-system-x86_64", "-accel", "kvm", "-m", f"{self.memory_mib}M", "-smp", "1", "-nodefaults", "-no-user-config", "-display",
                "none", "-no-reboot", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                "-bios", os.path.join(self.place.bench.build, "bench", "replay_guest.bin"),
                "-object", f"memory-backend-file,id=recording,size=256M,mem-path={self.path},share=on,readonly=on",
                "-device", "ivshmem-plain,memdev=recording"]

    def read(self):
        while True:
            byte = os.read(self.process.stdout.fileno(), 1)
            now = time.monotonic()
            with self.changed:
                if byte not in ANSWERS:  # the end, or that the recording cannot be played
                    self.ended = True
                else:
                    self.lines += [Line(now, word, values, 0, 0) for word, values in ANSWERS[byte]]
                self.changed.notify_all()
            if not byte:
                return

    def give(self, orders):
        self.process.stdin.write(orders)
        self.process.stdin.flush()

    def tell(self, text):
        self.give(ORDERS[text])

    def besides_s(self):
        return next(self.served)


class Stepper(threading.Thread):
    """Has machines touch what real ones do between requests, each STEP_S."""

    def __init__(self, machines):
        super().__init__(daemon=True)
        self.machines, self.ended = machines, threading.Event()
        self.start()

    def run(self):
        at = time.monotonic()
        for machine in itertools.cycle(self.machines):
            at = max(at + STEP_S / len(self.machines), time.monotonic() - STEP_S)
            if self.ended.wait(max(0.0, at - time.monotonic())):
                return
            try:
                machine.give(b"t")
            except (OSError, ValueError):
                pass  # it has gone: who asks it will say so

    def stop(self):
        self.ended.set()
        self.join()
