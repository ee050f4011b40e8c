#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`overbook record`: test_record.py OVERBOOKD OVERBOOK. Prints TAP. daemon_harness.py plays the agents."""
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, STATS, Agent, main, message, with_daemon

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2])
GIB = 1024 * MIB


class Machine(Agent):
    """Reports what it is told to."""

    def __init__(self, daemon, name, fields, **options):
        self.fields = fields
        super().__init__(daemon, name, ram=GIB, **options)

    def report(self):
        values = [self.fields.get(name, 0) for name in FIELDS]
        self.send(message(STATS, struct.pack("<I%dQII" % len(values), len(values), *values, 0, 0)))


BUSY = dict(ram_bytes=GIB, cost_bytes=700 * MIB, resident_bytes=600 * MIB, absent_bytes=224 * MIB, zero_bytes=80 * MIB, active_bytes=320 * MIB,
            active_samples=100, compressed_bytes=100 * MIB, pool_bytes=40 * MIB, compressed_pages=300, incompressible_pages=100,
            faults_compressed=1000)


class Recording:
    def __init__(self, daemon, *options, **how):
        self.path = os.path.join(tempfile.mkdtemp(dir=daemon.dir), "trace")
        self.process = subprocess.Popen([OVERBOOK, "record", *options, self.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir), text=True, **how)

    def events(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="ascii") as f:
            return [json.loads(line) for line in f.read().splitlines()]

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0 and not err, (self.process.returncode, err)
        return out

    def plays(self):
        done = subprocess.run([OVERBOOK, "simulate", self.path, "--budget", "1G"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.splitlines()[2].startswith("overbook "), (done.stdout, done.stderr)


def lines_of(recording, name):
    return [event for event in recording.events() if event.get("machine") == name]


@with_daemon("--budget", "1G")
def what_a_machine_does_is_a_trace(daemon):
    machine = Machine(daemon, "web", dict(BUSY), reservation=64 * MIB, shares=2000)
    recording = Recording(daemon)
    daemon.until(lambda: lines_of(recording, "web"), 30)
    head, first = recording.events()[0], lines_of(recording, "web")[0]
    assert head == {"overbook_trace": 1, "hosts": 1, "budget_bytes": GIB}, head
    expected = dict(ram_bytes=GIB, content_bytes=800 * MIB, working_set_bytes=320 * MIB, shares=2000, reservation_bytes=64 * MIB,
                    touches=320 * MIB // 4096 // 16, spare_permille=100, compressible_permille=675, compressed_permille=400)
    assert {key: first.get(key) for key in expected} == expected, first
    # What does not change is not said again; what does is.
    machine.fields["active_bytes"] = 400 * MIB
    daemon.until(lambda: lines_of(recording, "web")[-1].get("working_set_bytes") == 400 * MIB, 30)
    assert "ram_bytes" not in lines_of(recording, "web")[-1]
    # 50,000 faults in one or two looks: as touches.
    machine.fields["faults_compressed"] += 50000
    daemon.until(lambda: any(line.get("touches", 0) >= 10000 for line in lines_of(recording, "web")[1:]), 30)
    out = recording.end()
    assert "s of 1 machines are in" in out, out
    assert recording.events()[-1].get("end") is True
    recording.plays()


@with_daemon("--budget", "1G")
def machines_come_and_go(daemon):
    staying = Machine(daemon, "stays", dict(BUSY))
    leaving = Machine(daemon, "leaves", dict(BUSY))
    recording = Recording(daemon)
    daemon.until(lambda: lines_of(recording, "stays") and lines_of(recording, "leaves"), 30)
    leaving.die()
    daemon.until(lambda: lines_of(recording, "leaves")[-1].get("gone"), 60)
    assert not any(line.get("gone") for line in lines_of(recording, "stays"))
    recording.end(signal.SIGTERM)
    recording.plays()
    staying.die()


@with_daemon("--budget", "1G")
def it_outlives_overbookd(daemon):
    machine = Machine(daemon, "web", dict(BUSY))
    recording = Recording(daemon)
    daemon.until(lambda: lines_of(recording, "web"), 30)
    daemon.kill()
    daemon.until(lambda: machine.closed)
    daemon.start()
    machine.connect()
    machine.fields["active_bytes"] = 500 * MIB
    daemon.until(lambda: lines_of(recording, "web")[-1].get("working_set_bytes") == 500 * MIB, 60)
    assert not any(line.get("gone") for line in lines_of(recording, "web"))
    recording.end()
    recording.plays()


@with_daemon("--budget", "1G")
def it_ends_by_itself(daemon):
    recording = Recording(daemon, "--seconds", "2", "--interval", "1")
    daemon.until(lambda: recording.process.poll() is not None, 30)
    assert recording.process.returncode == 0
    events = recording.events()
    assert len(events) == 2 and events[-1]["end"] and events[-1]["second"] in (2, 3), events


@with_daemon("--budget", "1G")
def a_killed_recording_is_a_trace(daemon):
    Machine(daemon, "web", dict(BUSY))
    recording = Recording(daemon)
    daemon.until(lambda: lines_of(recording, "web"), 30)
    recording.process.kill()
    recording.process.wait()
    assert "end" not in recording.events()[-1]
    recording.plays()


@with_daemon("--budget", "1G")
def a_line_that_does_not_fit_on_the_disk_is_cut_off(daemon):
    def little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    Machine(daemon, "web", dict(BUSY))
    recording = Recording(daemon, preexec_fn=little_room)
    daemon.until(lambda: recording.process.poll() is not None, 30)
    err = recording.process.stderr.read()
    assert recording.process.returncode == 1 and f'cannot write "{recording.path}": File too large' in err, err
    assert recording.events() == [{"overbook_trace": 1, "hosts": 1, "budget_bytes": GIB}], recording.events()
    recording.plays()


@with_daemon("--budget", "1G")
def what_cannot_be_is_refused(daemon):
    def refused(code, words, *args, **other):
        env = dict(os.environ, OVERBOOK_RUNDIR=other.get("rundir", daemon.dir))
        done = subprocess.run([OVERBOOK, "record", *args], capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == code and words in done.stderr and len(done.stderr.splitlines()) == 1, (done.returncode, done.stderr)

    with tempfile.TemporaryDirectory() as directory:
        there = os.path.join(directory, "there")
        with open(there, "w", encoding="ascii") as f:
            f.write("mine\n")
        refused(1, f'"{there}" exists: name a file that does not', there)
        with open(there, encoding="ascii") as f:
            assert f.read() == "mine\n"
        refused(1, "cannot create", os.path.join(directory, "none", "trace"))
        refused(2, "--interval 0: must be a number from 1 to 3600", "--interval", "0", "x")
        refused(2, "--seconds x: must be a number", "--seconds", "x", "x")
        refused(2, "the file to write is missing")
        refused(2, "is one word too many", "x", "y")
        refused(3, "does not answer", os.path.join(directory, "new"), rundir=directory)
        assert not os.path.exists(os.path.join(directory, "new"))



if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
