# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the host, and applications, for a real overbook-guest whose port is a unix socket.

Nothing sleeps to be in step: until() serves the port until a condition holds, and fails after a while.
"""
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import cases
from guest_frames import APP, FRAME, GONE, HELLO, MEMORY, TARGET, WELCOME, app_payload, frame, parse

MIB = 1 << 20


def write_config(directory, *lines):
    """The configuration, for overbook-guest's words. The memory of whatever this runs on is left as it lies."""
    path = directory + "/config"
    with open(path, "w") as file:
        file.write("\n".join(["compact off", *lines]) + "\n")
    os.chmod(path, 0o644)
    return ["--config", path]


class Guest:
    """overbook-guest, and the host at the other end of its port."""

    def __init__(self, program, *args, directory=None, start=True):
        self.dir = directory or tempfile.mkdtemp(prefix="overbook-guest-")
        self.program, self.args = program, [*write_config(self.dir), *args]
        os.chmod(self.dir, 0o755)
        self.socket = self.dir + "/run/app.sock"
        self.log = open(self.dir + "/log", "ab+")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.dir + "/port.sock")
        self.listener.listen()
        self.port, self.buffer, self.process, self.others = None, b"", None, []
        self.session, self.hellos, self.memory, self.memories, self.apps, self.answering, self.interval, self.number = 0, 0, None, 0, {}, True, 200, 0
        if start:
            self.start()

    def start(self, **environment):
        self.process = subprocess.Popen([self.program, "--port", self.dir + "/port.sock", "--socket", self.socket, *self.args], stderr=self.log,
                                        env=dict(os.environ, OVERBOOK_LOG="debug", **environment))

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()
        return self.process.returncode

    def run(self, *command, **options):
        """A program beside it, ended with it."""
        process = subprocess.Popen(command, env=dict(os.environ, OVERBOOK_APP_SOCKET=self.socket), **options)
        self.others.append(process)
        return process

    def close(self):
        for process in [*self.others, *([self.process] if self.process else [])]:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.port:
            self.port.close()
        self.listener.close()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def logged(self):
        with open(self.dir + "/log", errors="replace") as log:
            return log.read()

    def hang_up(self):
        if self.port:
            self.port.close()
        self.port, self.buffer = None, b""

    def say(self, kind, payload=b"", session=None, **options):
        self.say_raw(frame(kind, payload, self.session if session is None else session, **options))

    def say_raw(self, data):
        self.port.sendall(data)

    def target(self, app, give, deadline=10000):
        """Tells an application, by its name or number. Returns the number that its answer must have."""
        self.number += 1
        number = app if isinstance(app, int) else next(n for n, found in self.apps.items() if found["name"] == app)
        self.say(TARGET, struct.pack("<IIQ", number, deadline, give), sequence=self.number)
        return self.number

    def app(self, name):
        return next((found for found in self.apps.values() if found["name"] == name), None)

    def take(self, found):
        if found["type"] == HELLO:
            self.hellos += 1
            if found["session"] != self.session:
                self.apps = {}
            self.session = found["session"]
            if self.answering:
                self.say(WELCOME, struct.pack("<I", self.interval))
            return
        assert found["session"] == self.session, found
        if found["type"] == MEMORY:
            self.memory, self.memories = found, self.memories + 1
        elif found["flags"] & GONE:
            self.apps.pop(found["app"], None)
        else:
            self.apps[found["app"]] = found

    def serve(self, seconds=0.02):
        ready, _, _ = select.select([self.listener] + ([self.port] if self.port else []), [], [], seconds)
        if self.listener in ready:
            self.hang_up()
            self.port, _ = self.listener.accept()
        elif self.port in ready:
            try:
                data = self.port.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                self.hang_up()
                return
            self.buffer += data
            while len(self.buffer) >= FRAME:
                found, self.buffer = parse(self.buffer[:FRAME]), self.buffer[FRAME:]
                self.take(found)

    def until(self, condition, seconds=20, what="it"):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited for %d s in vain for %s: %s" % (seconds, what, self.apps)
            assert self.process.poll() is None, "overbook-guest has ended with %s" % self.process.returncode
            self.serve()

    def later(self, memories=5):
        """So many MEMORYs later, which is a time that overbook-guest measures: for what is to stay as it is."""
        end = self.memories + memories
        self.until(lambda: self.memories >= end, what="MEMORY")


class World:
    """A server, or what looks like one, and an overbook-guest that knows of it, and with wait has heard of it."""

    # MiB that are filled, and for a target of 60: that it gives at least, and is smaller than then.
    FILL, ENOUGH, SMALL = 120, 55, 70

    def __init__(self, program, kind, server, *settings, words="", name=None, directory=None, wait=True, **options):
        self.kind, self.name, self.wait = kind, name or kind, wait
        self.guest = Guest(program, start=False, directory=directory)
        self.server = server(self.guest.dir, *settings, **options)
        self.configure(words)

    def configure(self, words):
        self.config("discover off", "%s socket=%s %s" % (self.kind, self.server.socket, words))

    def config(self, *lines):
        self.guest.args = write_config(self.guest.dir, *lines)

    def again(self, words):
        """Another overbook-guest, with other words about the server."""
        self.guest.end(signal.SIGTERM)
        self.configure(words)
        self.guest.apps = {}
        self.guest.start()

    def fill(self):
        self.server.fill(self.FILL)
        self.until(lambda: self.app["used"] > (self.FILL - 10) * MIB)

    def __enter__(self):
        try:
            self.guest.start()
            if self.wait:
                self.guest.until(lambda: self.app, what=self.name)
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def __exit__(self, kind, *_):
        if kind:
            print("# " + self.guest.logged().replace("\n", "\n# "))
        self.server.end()
        self.guest.close()

    @property
    def app(self):
        return self.guest.app(self.name)

    def until(self, condition, seconds=60, what="it"):
        self.guest.until(condition, seconds, what)


class Server:
    """What real servers have in common: self.process. A subclass has start(), fill(mib) and limit()."""

    def launch(self, words, greet, seconds=20, **options):
        """Starts it, and returns what greet() returns once it listens."""
        self.process = subprocess.Popen(words, **options)
        end = time.monotonic() + seconds
        while True:
            try:
                return greet()
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
                assert time.monotonic() < end and self.process.poll() is None, "%s does not start" % words[0]
                time.sleep(0.05)

    def resident(self):
        with open("/proc/%d/statm" % self.process.pid) as statm:
            return int(statm.read().split()[1]) * 4096

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait()


# --- what happens to all kinds of servers ---

def check_death(world):
    """The server dies while it is asked, and comes again."""
    limit = world.server.limit()
    world.fill()
    world.guest.target(world.name, 80 * MIB)
    world.until(lambda: world.app["target"] == 80 * MIB)
    world.server.end()
    world.until(lambda: not world.app, what="its end")
    # It comes again with its own settings, and nothing was asked of it.
    world.server.start()
    world.server.fill(60)
    world.until(lambda: world.app and world.app["used"] > 50 * MIB)
    assert world.app["target"] == world.app["given"] == 0 and world.server.limit() == limit, world.app
    world.guest.target(world.name, 20 * MIB)
    world.until(lambda: world.app["given"] > 15 * MIB)
    world.guest.target(world.name, 0)
    world.until(lambda: world.app["target"] == 0)
    assert world.server.limit() == limit


def check_hang(world):
    """The server stands still when it is asked."""
    limit = world.server.limit()
    world.fill()
    world.server.process.send_signal(signal.SIGSTOP)
    world.guest.target(world.name, 60 * MIB)
    # Others are served meanwhile, and nothing is said to be given.
    world.guest.later(10)
    assert world.app["given"] == 0, world.app
    # When its time is over it is none any more; it is tried again.
    world.until(lambda: not world.app, 40, what="its end")
    world.server.process.send_signal(signal.SIGCONT)
    world.until(lambda: world.app and world.app["used"] > 0)
    world.guest.target(world.name, 60 * MIB)
    world.until(lambda: world.app["given"] > world.ENOUGH * MIB)
    world.guest.target(world.name, 0)
    world.until(lambda: world.app["target"] == 0 and world.server.limit() == limit)


def check_renewal(world):
    """overbook-guest dies while the server is small."""
    guest, limit = world.guest, world.server.limit()
    world.fill()
    guest.target(world.name, 60 * MIB)
    world.until(lambda: world.app["given"] > world.ENOUGH * MIB)
    for number in signal.SIGKILL, signal.SIGTERM:
        guest.end(number)
        assert world.server.limit() < world.SMALL * MIB
        session = guest.session
        guest.start()
        guest.until(lambda: guest.session != session and world.app and world.app["target"] == 60 * MIB, 30, "what was asked before")
        world.until(lambda: world.app["given"] > 50 * MIB)
    guest.target(world.name, 0)
    world.until(lambda: world.app["target"] == 0 and world.server.limit() == limit)


def check_secret(world, secret):
    """Neither the log nor what any user sees of overbook-guest and of its adaptor has it."""
    pids = [world.guest.process.pid]
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name) as stat:
                if int(stat.read().rsplit(")")[1].split()[1]) == world.guest.process.pid:
                    pids.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    assert len(pids) == 2, pids
    for pid in pids:
        for name in "cmdline", "comm", "environ":
            with open("/proc/%d/%s" % (pid, name), "rb") as file:
                assert secret.encode() not in file.read(), name
    assert secret not in world.guest.logged()


def check_nonsense(world):
    """The server has answered, or not, what can be nothing."""
    with world:
        world.guest.until(lambda: world.server.connections, what="a connection")
        world.guest.later()
        assert not world.app or world.app["could"] == 0, world.app
        assert "\x1b" not in world.guest.logged()


class FakeServer:
    """Listens where a server would; a subclass has serve(sock), which may fail when the other end has gone."""

    def __init__(self, path):
        self.socket, self.connections, self.asked = path, 0, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_one, args=(sock,), daemon=True).start()

    def serve_one(self, sock):
        self.connections += 1
        try:
            self.serve(sock)
        except (OSError, ValueError):
            pass
        sock.close()

    def end(self):
        # The thread that waits there would go on to wait at whatever gets the number next.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Client:
    """An application that the test plays, byte by byte."""

    def __init__(self, guest):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(guest.socket)
        self.sock.setblocking(False)
        self.targets = []

    def say(self, name="played", **fields):
        self.sock.send(frame(APP, app_payload(name, **fields)))

    def hear(self):
        """Whether the connection is there still."""
        while True:
            try:
                data = self.sock.recv(4096)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if not data:
                return False
            found = parse(data)
            assert found["type"] == TARGET and found["app"] == 0 and found["session"] == 0, found
            self.targets.append(found)

    def close(self):
        self.sock.close()


tests = []


def test(function):
    tests.append(function)
    return function


def needing(missing):
    """A test that is skipped for a reason, if there is one."""
    def wrap(function):
        function.skip = missing
        return test(function)
    return wrap


def with_guest(program, *args, **options):
    def wrap(function):
        def run():
            guest = Guest(program, *args, **options)
            try:
                function(guest)
                assert guest.process.poll() is None, "overbook-guest has ended"
                assert guest.end(signal.SIGTERM) == 0, guest.process.returncode
            except BaseException:
                print("# " + guest.logged().replace("\n", "\n# "))
                raise
            finally:
                guest.close()
        run.__name__ = function.__name__
        run.skip = getattr(function, "skip", None)
        return test(run)
    return wrap


def main():
    return cases.main(*tests)
