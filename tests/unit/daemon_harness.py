#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Plays agents and clients for a real overbookd; test_daemon.py has the tests.

An agent must be a process of its own, since overbookd compares the pid in HELLO with that of its peer and watches the
process: Agent forks a child that connects, hands the connection to us and lives until it is killed. We speak for it.

Nothing here sleeps to be in step: until() serves the agents' sockets until a condition holds, and fails after a while.
At each step the worst that all machines together may cost is compared with the budget.
"""
import fcntl
import functools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import cases

MIB = 1 << 20
OVERBOOKD = None  # path of the program under test; set by the importer

HELLO, STATS, RANGES, STOPPED, REPLY, OFFER, STAGED, HELD, DROPPED, ORPHANS, WORN, MAPS, HOLDS, MORE_ORPHANS, BALLOON_SET = range(1, 16)
SET_LIMIT, RELEASE, POLL, SHARE, EXTENT, FETCH, ADOPT, UNSHARE, DROP_EXTENT, MAY_MAP, SUBPAGES, KEPT, DRAIN, LARGE = range(16, 30)
BALLOON, GUEST = 30, 31
EINPROGRESS = 115
HERE = os.path.dirname(os.path.abspath(__file__))
with open(HERE + "/../../src/proto/stats.h") as header:
    FIELDS = re.findall(r"^\tX\((\w+), (?:gauge|counter)", header.read(), re.M)  # of STATS, in their order
NOT_STARTED = -1


def message(kind, payload=b"", sequence=1, magic=b"OVBK", version=1, length=None, reserved=0):
    return magic + struct.pack("<HHIIQ", version, kind, len(payload) if length is None else length, sequence, reserved) + payload


def text(value):
    return struct.pack("<H", len(value)) + value.encode()


def hello(name, pid, limit=0, maximum=0, reservation=0, shares=1000, flags=0, domain=""):
    return message(HELLO, struct.pack("<IIQQQI", pid, shares, reservation, maximum, limit, flags) + text(name) + text(domain) +
                   text("test"))


def ceiling(ram):
    return ram + ram // 64 + 4 * MIB


class Agent:
    """A machine. Greedy: it costs as much as its limit allows at once, and gives back step bytes a report when it must."""

    def __init__(self, daemon, name, ram=512 * MIB, limit=0, maximum=0, reservation=0, shares=1000, step=64 * MIB, connect=True):
        self.daemon, self.name, self.ram, self.limit, self.maximum = daemon, name, ram, limit, maximum
        self.reservation, self.shares, self.step, self.flags = reservation, shares, step, 0
        self.cost, self.compressed, self.swapped, self.sequence = 0, 0, 0, 0
        self.limits, self.polls, self.released, self.deaf, self.refuse_limits, self.refuse_below = [], [], None, False, False, 0
        self.sock, self.pid, self.closed = None, None, False
        self.large = []  # LARGE, all that have come
        self.orders, self.descriptors = [], []  # what was said about sharing (kind, sequence, payload), and descriptors with it
        self.control, child = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.control.close()
            Agent.child(daemon, child)
        child.close()
        daemon.agents.append(self)
        if connect:
            self.connect()

    @staticmethod
    def child(daemon, control):
        """Connects whenever it is told to; ends with its parent's side of the control socket."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # The connections of other machines were inherited, and would keep them alive.
            os.closerange(3, control.fileno())
            os.closerange(control.fileno() + 1, 1024)
            while control.recv(1):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    sock.connect(daemon.dir + "/agents.sock")
                    socket.send_fds(control, [b"y"], [sock.fileno()])
                except OSError:
                    control.send(b"n")
                sock.close()
        finally:
            os._exit(0)

    def connect(self, say=True):
        self.control.send(b"c")
        data, fds, _, _ = socket.recv_fds(self.control, 1, 1)
        assert data == b"y" and fds, "%s could not connect" % self.name
        self.sock = socket.socket(fileno=fds[0])
        self.sock.setblocking(False)
        self.closed = False
        if say:
            self.hello()
            self.report()
        return self

    def hello(self, **other):
        values = dict(limit=self.limit, maximum=self.maximum, reservation=self.reservation, shares=self.shares, flags=self.flags)
        values.update(other)
        self.send(hello(self.name, values.pop("pid", self.pid), **values))

    def send(self, data):
        try:
            try:
                self.sock.send(data)
            except BlockingIOError:
                assert select.select([], [self.sock], [], 20)[1], "overbookd does not read what %s says" % self.name
                self.sock.send(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def report(self):
        allowed = min(self.limit or ceiling(self.ram), ceiling(self.ram))
        self.cost = allowed if self.cost <= allowed else max(allowed, self.cost - self.step)
        if self.flags:
            self.cost = MIB  # released: its engine counts nothing but its tables
        self.say_statistics(self.statistics())

    def statistics(self):
        """The first of them (src/proto/stats.h), as an older program would send."""
        return [self.ram, self.limit, self.cost, self.cost, 0, 0, self.compressed, 0, self.swapped, 0]

    def say_statistics(self, values):
        self.send(message(STATS, struct.pack("<I%dQII" % len(values), len(values), *values, 0, 0)))

    def reply(self, to, status=0, words=""):
        self.send(message(REPLY, struct.pack("<Ii", to, status) + text(words)))

    def worst(self):
        if self.limit == NOT_STARTED:
            return 0
        return max(min(self.limit or ceiling(self.ram), ceiling(self.ram)), self.cost)

    def pump(self):
        """Obeys what has come."""
        while not self.closed and not self.deaf:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.sock, 65536, 4)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.closed = True
                return
            self.descriptors = list(descriptors)
            magic, version, kind, length, sequence, reserved = struct.unpack("<4sHHIIQ", data[:24])
            assert (magic, version, reserved, length) == (b"OVBK", 1, 0, len(data) - 24)
            self.obey(kind, sequence, data[24:])
            for descriptor in self.descriptors:
                os.close(descriptor)

    def obey(self, kind, sequence, payload):
        if kind == SET_LIMIT:
            limit, self.maximum = struct.unpack("<QQ", payload)
            if self.refuse_limits or limit < self.refuse_below:
                self.reply(sequence, -22, "no\nsuch\x1b[31m limit")
                return
            self.limit, self.flags = limit, 0
            self.limits.append(limit)
            self.reply(sequence)
        elif kind == RELEASE:
            self.released = sequence
        elif kind == POLL:
            self.polls.append(struct.unpack("<I", payload)[0])
        elif SHARE <= kind <= DRAIN:
            self.obey_share(kind, sequence, payload)
        elif kind == LARGE:
            self.large.append(struct.unpack("<8I", payload))
        elif kind == GUEST:
            flags, length = struct.unpack("<II", payload[:8])
            assert flags == 0 and length == len(payload) - 8
            self.hear_host(payload[8:])
        else:
            raise AssertionError("overbookd sent type %d" % kind)

    def hear_host(self, data):
        """What is said to the guest's agent: most guests have none."""

    def obey_share(self, kind, sequence, payload):
        """share_harness.py has agents that share; this one takes no notice."""

    def disconnect(self):
        self.sock.close()
        self.sock = None

    def die(self):
        if self.pid is None:
            return
        if self.sock:
            self.disconnect()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.control.close()
        self.pid = None
        self.daemon.agents.remove(self)


class Stuck(Agent):
    """Does not come down."""

    def report(self):
        self.cost = max(self.cost, min(self.limit or self.ram, self.ram))
        self.say_statistics(self.statistics())


class Client:
    def __init__(self, daemon):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(daemon.dir + "/overbookd.sock")
        self.daemon, self.buffer, self.progress = daemon, b"", []

    def send(self, command, **members):
        self.sock.sendall(json.dumps(dict(members, version=1, command=command)).encode() + b"\n")

    def poll(self):
        """The answer, or None while there is none."""
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                answer = json.loads(line)
                assert answer["version"] == 1
                if "progress" not in answer:
                    return answer
                self.progress.append(answer["progress"])
            if not select.select([self.sock], [], [], 0)[0]:
                return None
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data

    def answer(self, seconds=20):
        result = []

        def answered():
            found = self.poll()
            if found is not None:
                result.append(found)
            return bool(result)
        self.daemon.until(answered, seconds, extra=[self.sock])
        return result[0]

    def call(self, command, **members):
        self.send(command, **members)
        return self.answer()

    def close(self):
        self.sock.close()


def listener(path, kind):
    """A listening socket as systemd makes it, at a descriptor that is in nobody's way."""
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    if kind != socket.SOCK_DGRAM:
        sock.listen()
    high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
    sock.close()
    return high


def activate(command, descriptors, pid="$$", names=None, **options):
    """Runs a command with descriptors passed as systemd does: from 3 on, with LISTEN_FDS, LISTEN_PID and, unless it is an old one,
    LISTEN_FDNAMES."""
    def place():
        for number, descriptor in enumerate(descriptors, 3):
            os.dup2(descriptor, number)
    # What Popen opens for itself must not be where they go.
    spare = [os.open("/dev/null", os.O_RDONLY)]
    while spare[-1] < 3 + len(descriptors):
        spare.append(os.dup(spare[0]))
    shell = "export LISTEN_FDS=%d LISTEN_PID=%s; exec \"$@\"" % (len(descriptors), pid)
    if names is not None:
        shell = "export LISTEN_FDNAMES='%s'; " % ":".join(names) + shell
    try:
        return subprocess.Popen(["sh", "-c", shell, "sh", *command], preexec_fn=place, pass_fds=range(3, 3 + len(descriptors)), **options)
    finally:
        for descriptor in spare:
            os.close(descriptor)


class Daemon:
    def __init__(self, *args, directory=None, sockets=(), keeps=None):
        """sockets: names of those that are passed to it, in this order. keeps: how many descriptors are kept for the next one as
        systemd does; None: it is an old systemd, or another one's."""
        self.keeps, self.kept = keeps, {}
        self.args, self.agents, self.budget, self.told, self.heard = args, [], None, "", 0
        self.dir = directory or tempfile.mkdtemp(prefix="overbookd-")
        self.peak, self.reserved, self.process = 0, {}, None
        self.log = open(self.dir + "/log", "ab+")
        self.passed = [listener(self.dir + "/" + name, socket.SOCK_SEQPACKET if name == "agents.sock" else socket.SOCK_STREAM)
                       for name in sockets]
        self.start()

    def start(self, **environment):
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.dir + "/notify"
        if os.path.exists(path):
            os.unlink(path)
        self.notify.bind(path)
        self.notify.settimeout(20)
        command = [OVERBOOKD, "--socket-dir", self.dir, *self.args]
        options = dict(stderr=self.log, env=dict(os.environ, NOTIFY_SOCKET=path, OVERBOOK_LOG="debug", **environment))
        names = ["overbookd.socket"] * len(self.passed) + list(self.kept) if self.keeps is not None else None
        descriptors = self.passed + list(self.kept.values())
        self.process = activate(command, descriptors, names=names, **options) if descriptors else subprocess.Popen(command, **options)
        try:
            self.until_told("READY=1")
        except BaseException:
            self.process.kill()
            raise

    def until_told(self, what):
        """Waits until overbookd has told systemd so, after what was waited for last. All that it has told is in self.told."""
        while what not in self.told[self.heard:]:
            self.hear()
        self.heard = len(self.told)

    def hear(self):
        """Takes in what systemd is told."""
        data, descriptors, _, _ = socket.recv_fds(self.notify, 4096, 4)
        lines = data.decode().split("\n")
        self.told += data.decode() + "\n"
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), None)
        if "FDSTORE=1" in lines and self.keeps is not None and len(self.kept) < self.keeps:
            assert name not in self.kept and len(descriptors) == 1
            self.kept[name] = fcntl.fcntl(descriptors[0], fcntl.F_DUPFD_CLOEXEC, 200)
        if "FDSTOREREMOVE=1" in lines and name in self.kept:
            os.close(self.kept.pop(name))
        for descriptor in descriptors:
            os.close(descriptor)

    def hear_all(self):
        # overbookd waits when systemd does not read what it is told.
        while self.notify.fileno() >= 0 and select.select([self.notify], [], [], 0)[0]:
            self.hear()

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()
        self.hear_all()
        self.notify.close()

    def stop(self):
        for agent in list(self.agents):
            agent.die()
        alive = self.process.poll() is None
        if alive:
            self.kill(signal.SIGTERM)
        code = self.process.returncode
        self.close()
        assert alive and code == 0, "overbookd ended with %d" % code

    def abandon(self):
        """Ends everything after a failure."""
        for agent in list(self.agents):
            agent.die()
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self):
        for descriptor in self.passed + list(self.kept.values()):
            os.close(descriptor)
        self.log.close()
        shutil.rmtree(self.dir)

    def logged(self):
        with open(self.dir + "/log", errors="replace") as log:
            return log.read()

    def until_logged(self, *lines):
        """Waits for lines in the log: whoever is told of something may know it before. Returns the log."""
        self.until(lambda: all(line in self.logged() for line in lines))
        return self.logged()

    def serve(self, seconds=0.02, extra=()):
        """Lets agents read, answer and report once; watches the budget at each step."""
        live = [agent for agent in self.agents if agent.sock and not agent.closed]
        select.select([agent.sock for agent in live if not agent.deaf] + list(extra), [], [], seconds)
        self.hear_all()
        for agent in random.sample(live, len(live)):
            agent.pump()
            self.watch()
            if not agent.closed:
                agent.report()
            self.watch()

    def watch(self):
        """The worst that all machines together may cost now."""
        worst = sum(agent.worst() for agent in self.agents) + sum(self.reserved.values())
        self.peak = max(self.peak, worst)
        if self.budget:
            assert worst <= self.budget, "machines may cost %d MiB of a budget of %d MiB" % (worst // MIB, self.budget // MIB)

    def until(self, condition, seconds=20, extra=()):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited for %d s in vain" % seconds
            self.serve(extra=extra)

    def serve_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.serve()

    def reload(self):
        """Waits until it has read its settings anew, or has said why not."""
        self.process.send_signal(signal.SIGHUP)
        self.until_told("READY=1")

    def call(self, command, **members):
        client = Client(self)
        try:
            return client.call(command, **members)
        finally:
            client.close()

    def machine(self, name):
        for row in self.call("ps")["machines"]:
            if row["name"] == name:
                return row
        return None

    def state(self, name):
        row = self.machine(name)
        return row["state"] if row else None

    def admit(self, name, ram=512 * MIB, agent=None, **members):
        """A machine as `overbook run` starts one. Returns the answer and the agent, connected if it was admitted."""
        agent = agent or Agent(self, name, ram, limit=NOT_STARTED, connect=False)
        agent.limit = NOT_STARTED
        answer = self.call("admit", name=name, ram_bytes=ram, pid=agent.pid, **members)
        if answer["ok"]:
            agent.limit, agent.maximum = answer["limit_bytes"], members.get("maximum_bytes", 0)
            assert answer["socket"] == self.dir + "/agents.sock"
            agent.connect()
            self.until(lambda: self.state(name) == "running")
        return answer, agent


tests = []


def rewrite(file, text):
    """Puts other settings into an open file that overbookd reads."""
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def refused(*args, code=2, env=None):
    """What overbookd says, in one line, about options with which it does not start."""
    run = subprocess.run([OVERBOOKD, *args], capture_output=True, text=True, timeout=20, env=dict(os.environ, **(env or {})))
    assert run.returncode == code and run.stderr.count("\n") == 1, (args, run)
    return run.stderr


def test(function):
    tests.append(function)
    return function


def run_with(function, *args, **options):
    daemon = Daemon(*args, **options)
    try:
        function(daemon)
    except BaseException:
        sys.stderr.write(daemon.logged())
        daemon.abandon()
        raise
    daemon.stop()


def with_daemon(*args, **options):
    def wrap(function):
        def run():
            run_with(function, *args, **options)
        run.__name__ = function.__name__
        run.skip = getattr(function, "skip", None)
        return test(run)
    return wrap


def with_settings(text, *args):
    """The test gets the open file, too, that overbookd reads them from; rewrite() puts others into it."""
    def wrap(function):
        @functools.wraps(function)
        def run():
            with tempfile.NamedTemporaryFile("w") as config:
                rewrite(config, text)
                run_with(lambda daemon: function(daemon, config), "--config", config.name, *args)
        return test(run)
    return wrap


def main(overbook):
    """Runs all tests; overbook: the command line tool, or None."""
    for function in tests:
        if overbook is None and "command_line_tool" in function.__name__:
            function.skip = "overbook is not built"
    return cases.main(*tests)
