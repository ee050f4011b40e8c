# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace of real guests that bench/simulate plays: `overbook record` beside Debian guests whose load changes.

Guests are under TCG, with the witness (tests/guest/image/witness.c), in one sharing domain, under an overbookd with BUDGET_MIB for all of
them, which is a third of their RAM. They are of five kinds:

    web      works on a part of its memory all the time
    files    the same, and it reads an image that both guests of this kind have
    batch    idle, but for a burst now and then
    idle     touches a page now and then
    grows    holds a fifth of its memory, then all of it, then a third

What happens when is STORY. The recording begins before the guests do, and lasts LOAD_S from when all of them are ready. At the end
every byte of every guest is checked.
"""
import collections
import contextlib
import os
import signal
import subprocess
import tempfile
import time

from guests import Machine, Place, make_image, overlay_drive
from lib import Failure

BUDGET_MIB, MEMORY_MIB, IMAGE_MIB = 768, 256, 48
AT_ONCE = 3    # guests that start side by side
LOAD_S = 270
MIX = {"random_percent": 35, "zero_percent": 5}
COMMON = "same=40,random=35,zero=5,threads=1,writes=10,sequential=0"

Guest = collections.namedtuple("Guest", "name parameters")
GUESTS = (Guest("web1", "anon=140,hot=30,hotness=99,rate=400"), Guest("web2", "anon=140,hot=15,hotness=99,rate=400"),
          Guest("files1", f"anon=80,image={IMAGE_MIB},hot=25,hotness=98,rate=300"), Guest("files2", f"anon=80,image={IMAGE_MIB},hot=25,hotness=98,rate=300"),
          Guest("batch1", "anon=140,hot=60,hotness=98,rate=0"), Guest("batch2", "anon=140,hot=60,hotness=98,rate=0"),
          Guest("idle1", "anon=140,hot=5,hotness=99,rate=20"), Guest("idle2", "anon=140,hot=5,hotness=99,rate=20"),
          Guest("grows", "anon=140,fill=20,hot=50,hotness=95,rate=200"))

# Seconds from when all are ready; who; an order of the witness's, or that it is ended or started (again).
STORY = ((20, "batch1", "rate 1500"), (60, "batch1", "rate 0"), (70, "batch2", "rate 1500"), (80, "grows", "fill 100"), (110, "batch2", "rate 0"),
         # A stampede: within 4 seconds all are busy.
         (130, "web1", "rate 1500"), (131, "web2", "rate 1500"), (131, "idle1", "rate 1500"), (132, "batch1", "rate 1500"), (132, "files1", "rate 1500"),
         (133, "batch2", "rate 1500"), (133, "idle2", "rate 1500"), (134, "files2", "rate 1500"),
         (165, "web1", "rate 400"), (165, "web2", "rate 400"), (166, "idle1", "rate 20"), (166, "idle2", "rate 20"), (167, "batch1", "rate 0"),
         (167, "batch2", "rate 0"), (168, "files1", "rate 300"), (168, "files2", "rate 300"),
         (185, "idle2", "end"), (200, "grows", "fill 33"), (215, "idle2", "start"), (225, "batch1", "rate 1500"))


class Recorder:
    """`overbook record`, until it is told to end."""

    def __init__(self, place, path):
        self.process = subprocess.Popen([place.overbook, "record", path], env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def finish(self):
        self.process.send_signal(signal.SIGINT)
        said, trouble = self.process.communicate(timeout=90)
        if self.process.returncode:
            raise Failure(f"overbook record: {trouble.strip()}")
        return said.strip()


def start(place, guest, image):
    drive = overlay_drive(place, guest.name, image, "threads") if "image=" in guest.parameters else None
    return Machine(place, guest.name, True, MEMORY_MIB, f"seed={GUESTS.index(guest) + 1},{guest.parameters},{COMMON}", domain="bench", drive=drive)


def start_all(place, image):
    machines = {}
    for first in range(0, len(GUESTS), AT_ONCE):
        batch = GUESTS[first:first + AT_ONCE]
        machines.update({guest.name: start(place, guest, image) for guest in batch})
        for guest in batch:
            machines[guest.name].wait_line("ready")
    return machines


def tell_story(place, machines, image, say):
    begin = time.monotonic()
    for second, name, order in STORY:
        time.sleep(max(0.0, begin + second - time.monotonic()))
        say(f"{name}: {order}")
        if order == "end":
            machines.pop(name).end()
        elif order == "start":
            machines[name] = start(place, next(guest for guest in GUESTS if guest.name == name), image)
        else:
            machines[name].tell(order)
    time.sleep(max(0.0, begin + LOAD_S - time.monotonic()))


def check(machines):
    for machine in machines.values():
        machine.wait_line("ready")
        line = machine.lines[machine.order("check", "checked")]
        if line.values["wrong"] != "0":
            raise Failure(f"{machine.name}: {line.values['wrong']} pages were wrong")


def record(bench, path):
    """bench: build, root, say(). path: a new file."""
    if os.path.exists(path):
        raise Failure(f"{path} exists: name a file that does not")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="overbook-bench.", dir="/var/tmp"))
        image = make_image(directory, IMAGE_MIB, **MIX)
        place = stack.enter_context(Place(bench, config=f"BUDGET={BUDGET_MIB}M\nSHARE=on\n"))
        recorder = stack.enter_context(Recorder(place, os.path.abspath(path)))
        machines = start_all(place, image)
        bench.say(f"{len(machines)} guests are ready")
        tell_story(place, machines, image, bench.say)
        bench.say(recorder.finish())
        check(machines)
