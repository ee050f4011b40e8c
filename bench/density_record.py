# SPDX-License-Identifier: GPL-2.0-or-later
"""The recording that bench/density --guests replay plays: what eight real guests, two of each kind, have in memory and touch of it.

The guests are those of density_load.py, plain, and get its requests, twice:

    first without anything that watches, for SERVED_S: how long each request takes, from when it was asked, not due. That is what
    of a request has nothing to do with memory: processor, console, witness
    then for as long as a point lasts, with density_touches.c in their TCG: RAM as it was when the requests began; which pages were read and
    which written between each request and its answer; and which in each STEP_S besides

Watched guests are slower, so that bursts of requests last longer; which pages belong to which request is the same. A page is noted once an event: in
which order an event's pages came, and how often, is not known, nor what devices touched, nor the processor on its way through page tables.

Pages of equal bytes in several of the eight are common; so kernel, programs, the witness's same=50 and the image. All others are a machine's
own. That is looked up in RAM as it was: what is written later becomes the machine's own in a replay, as it does in the witness.

A recording is a directory: 0.replay to 7.replay (replay.h), and about.json with the times.
"""
import array
import collections
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import struct
import tempfile
import threading
import time

from density_load import KINDS, MEMORY_MIB, REQUEST_PAGES, Load, due_times, kind_of, parameters_of
from guests import Machine, Place, overlay_drive
from lib import Failure

RECORDED = 2 * len(KINDS)
STEP_S = 0.5
SERVED_S = 60
PAGE, MAGIC, FILE_BYTES = 4096, b"BREPLAY1", 256 << 20
ABSENT, COMMON, OWN = range(3)
READ, WRITTEN, RUN = 1, 2, 4
BOOT_S = 900  # of a guest that is watched


class Watched(Machine):
    """A guest whose RAM is a file, and whose touches are noted in another. events: requests and steps so far."""

    def __init__(self, place, directory, index, drive):
        self.ram = os.path.join(directory, f"{index}.ram")
        self.touches = os.path.join(directory, f"{index}.touches")
        self.pages = MEMORY_MIB * 256
        for path, size in ((self.ram, self.pages * PAGE), (self.touches, self.pages + 1)):
            with open(path, "wb") as f:
                f.truncate(size)
        with open(self.touches, "r+b") as f:
            self.noted = mmap.mmap(f.fileno(), self.pages + 1)
        plugin = os.path.join(place.bench.build, "bench", "libdensity_touches.so")
        super().__init__(place, f"m{index}", False, MEMORY_MIB, parameters_of(index), drive=drive, arguments=[
            "-machine", "pc,memory-backend=pc.ram", "-object",
            f"memory-backend-file,id=pc.ram,size={MEMORY_MIB}M,mem-path={self.ram},share=on",
            "-plugin", f"{plugin},touches={self.touches},ram={self.ram}"])
        self.index, self.requests, self.steps, self.trouble = index, [], [], None

    def take(self):
        """What was touched since the last time: page * 2, + 1 if it was written. What is touched meanwhile may be lost."""
        noted = self.noted[:self.pages]
        self.noted[:self.pages] = bytes(self.pages)
        return {match.start(): match.group()[0] & WRITTEN != 0 for match in re.finditer(rb"[^\0]", noted)}

    def record(self, seconds):
        """Requests when they are due, and steps between them."""
        self.noted[self.pages] = 1
        self.take()
        began = time.monotonic()
        step, ends = {}, began + STEP_S
        for due in due_times(self.index, seconds):
            while ends < began + due:
                time.sleep(max(0.0, ends - time.monotonic()))
                self.steps.append(merge(step, self.take()))
                step, ends = {}, ends + STEP_S
            time.sleep(max(0.0, began + due - time.monotonic()))
            merge(step, self.take())
            after = len(self.lines)
            self.tell(f"request {REQUEST_PAGES}")
            if self.wait_line("answered", after)[1].values["wrong"] != "0":
                raise Failure(f"{self.name}: pages of a request were wrong")
            self.requests.append(self.take())

    def record_or_fail(self, seconds):
        try:
            self.record(seconds)
        except (Failure, OSError) as reason:
            self.trouble = reason


def merge(into, touches):
    for page, is_written in touches.items():
        into[page] = into.get(page, False) or is_written
    return into


def present_pages(path):
    """Numbers of a file's pages that were ever written."""
    with open(path, "rb") as f:
        at, end = 0, os.fstat(f.fileno()).st_size
        while at < end:
            try:
                first = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(f.fileno(), first, os.SEEK_HOLE)
            yield from range(first // PAGE, -(-at // PAGE))


def copy_present(path, to, head=b""):
    """A copy behind a head, in which what was never written is a hole too."""
    with open(path, "rb") as f, open(to, "wb") as copy:
        copy.write(head)
        copy.truncate(len(head) + os.path.getsize(path))
        for page in present_pages(path):
            f.seek(page * PAGE)
            copy.seek(len(head) + page * PAGE)
            copy.write(f.read(PAGE))


def classes_of(paths):
    """For each file: a byte for each page."""
    holders, hashes = collections.defaultdict(set), []
    for i, path in enumerate(paths):
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as ram:
            mine = {page: hashlib.blake2b(ram[page * PAGE:(page + 1) * PAGE], digest_size=16).digest() for page in present_pages(path)}
        hashes.append((mine, os.path.getsize(path) // PAGE))
        for digest in mine.values():
            holders[digest].add(i)
    zeros = hashlib.blake2b(bytes(PAGE), digest_size=16).digest()
    return [bytes(ABSENT if page not in mine else COMMON if len(holders[mine[page]]) > 1 or mine[page] == zeros else OWN
                  for page in range(pages)) for mine, pages in hashes]


def words_of(events):
    """The order of an event's touches is not known: they come in any."""
    words, draw = array.array("I"), random.Random(0)
    for event in events:
        touches = [page * 2 + is_written for page, is_written in event.items()]
        draw.shuffle(touches)
        words.append(len(touches))
        words.extend(touches)
    return words


def write_replay(path, ram_path, classes, requests, steps):
    first, rest = words_of(requests), words_of(steps)
    words = (first + rest).tobytes()

    def padded(part):
        return part + bytes(-len(part) % PAGE)
    head = padded(struct.pack("<8s4I", MAGIC, len(classes), len(words) // 4, len(first), 0)) + padded(classes) + padded(words)
    if len(head) + len(classes) * PAGE > FILE_BYTES:
        raise Failure(f"{len(head) >> 20} MiB of touches are too many for a recording")
    copy_present(ram_path, path, head)
    os.truncate(path, FILE_BYTES)


def drives(place, image):
    return [overlay_drive(place, f"m{i}", image, "threads") if kind_of(i).name == "reading" else None for i in range(RECORDED)]


def read_images(machines):
    for i, machine in enumerate(machines):
        if kind_of(i).name == "reading":
            machine.order("check", "checked")


def served(bench, image):
    """Seconds that each request took, from when it was asked, by kind."""
    took = {kind.name: [] for kind in KINDS}
    with Place(bench) as place:
        machines = [Machine(place, f"m{i}", False, MEMORY_MIB, parameters_of(i), drive=drive) for i, drive in enumerate(drives(place, image))]
        for machine in machines:
            machine.wait_line("ready")
        read_images(machines)
        load = Load(machines, SERVED_S)
        load.finish(0)
        for i, caller in enumerate(load.callers):
            free = 0.0
            for due, seconds in caller.answers:
                took[kind_of(i).name].append(round(due + seconds - max(due, free), 6))
                free = due + seconds
    return took


def record(bench, out, image, seconds):
    """The recording appears whole or not at all."""
    new = out + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    memory = tempfile.mkdtemp(prefix="overbook-density.", dir="/dev/shm")
    try:
        bench.say(f"recording {RECORDED} guests: how long requests take")
        took = served(bench, image)
        bench.say(f"recording {RECORDED} guests: what they touch")
        with Place(bench) as place:
            machines = [Watched(place, memory, i, drive) for i, drive in enumerate(drives(place, image))]
            for machine in machines:
                machine.wait_line("ready", patience_s=BOOT_S)
            read_images(machines)
            bench.say(f"they are ready; requests for {seconds} s")
            copies = []
            for machine in machines:
                copies.append(machine.ram + ".begin")
                copy_present(machine.ram, copies[-1])
            threads = [threading.Thread(target=machine.record_or_fail, args=(seconds,), daemon=True) for machine in machines]
            for thread in threads:
                thread.start()
            for machine, thread in zip(machines, threads):
                thread.join()
                if machine.trouble:
                    raise machine.trouble
            bench.say("comparing what they hold")
            for machine, copy, classes in zip(machines, copies, classes_of(copies)):
                write_replay(os.path.join(new, f"{machine.index}.replay"), copy, classes, machine.requests, machine.steps)
            about = {"memory_mib": MEMORY_MIB, "request_pages": REQUEST_PAGES, "seconds": seconds, "step_s": STEP_S, "host": bench.host,
                     "guests": [{"kind": kind_of(m.index).name, "requests": len(m.requests), "steps": len(m.steps),
                                 "request_touches": mean_length(m.requests), "step_touches": mean_length(m.steps),
                                 "ever_touched": len(set().union(*m.requests, *m.steps))} for m in machines],
                     "served_s": took}
        with open(os.path.join(new, "about.json"), "w", encoding="utf-8") as f:
            json.dump(about, f)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(new, out)
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def mean_length(events):
    return round(sum(map(len, events)) / max(len(events), 1), 1)
