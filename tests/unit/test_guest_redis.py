#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with Debian's Redis, which is started and stopped here, and with servers that only look like one.
test_guest_redis.py OVERBOOK-GUEST. Prints TAP; skipped where there is no Redis."""
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import guest_harness
from guest_harness import FINAL, MIB, FakeServer, Server, main, test

GUEST = os.path.abspath(sys.argv[1])
# The package redis-tools has the server's program without the service.
REDIS = shutil.which("redis-server") or shutil.which("redis-check-rdb")
EACCES, EPERM, EIO, EOPNOTSUPP = 13, 1, 5, 95


class Redis(Server):
    def __init__(self, directory, *settings, password=None):
        self.dir, self.settings, self.password = directory, settings, password
        self.socket = directory + "/redis.sock"
        self.start()

    def start(self):
        words = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", self.dir,
                 "--logfile", self.dir + "/redis.log", *self.settings]
        self.process = subprocess.Popen(words, executable=REDIS, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                assert self("PING") == "PONG"
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < end and self.process.poll() is None, "Redis does not start"
                time.sleep(0.05)

    def __call__(self, *words):
        """A command. Errors come back as exceptions."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.socket)
            file = sock.makefile("rwb")

            def say(*parts):
                file.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in (str(p).encode() for p in parts)))
                file.flush()
                return hear()

            def hear():
                line = file.readline().decode().rstrip()
                if line[0] == "*":
                    return [hear() for _ in range(int(line[1:]))]
                if line == "$-1":
                    return None
                if line[0] == "$":
                    return file.read(int(line[1:]) + 2)[:-2].decode(errors="replace")
                if line[0] == "-":
                    raise RuntimeError(line)
                return line[1:]
            if self.password:
                say("AUTH", self.password)
            return say(*words)

    def maxmemory(self):
        return int(self("CONFIG", "GET", "maxmemory")[1])

    def fill(self, mib):
        self("EVAL", "for i = 1, %d do redis.call('set', 'key' .. i .. ':' .. redis.call('dbsize'), string.rep('x', 16000)) end" % (mib * 64), "0")


class World(guest_harness.World):
    def __init__(self, *settings, words="floor=16M", server=Redis, **options):
        super().__init__(GUEST, "redis", server, *settings, words=words, **options)
        self.redis = self.server


EVICTS = "--maxmemory-policy", "allkeys-lru"


@test
def it_gives_and_gets_its_limit_back():
    for limit in 0, 400 * MIB:
        with World(*EVICTS, "--maxmemory", str(limit)) as world:
            redis = world.redis
            redis.fill(160)
            world.until(lambda: world.app["used"] > 155 * MIB)
            assert world.app["kind"] == 2 and world.app["pain"] == 30 and world.app["target"] == 0 and world.app["status"] == 0, world.app
            assert world.app["could"] == world.app["used"] - 16 * MIB, world.app
            before, keys = redis.resident(), int(redis("DBSIZE"))
            number = world.guest.target("redis", 80 * MIB)
            world.until(lambda: world.app["answers"] == number and world.app["given"] >= 75 * MIB)
            found, after = world.app, redis.resident()
            assert before - after >= 70 * MIB, (before, after, found)
            assert 0 < redis.maxmemory() < 85 * MIB and int(redis("DBSIZE")) < keys * 0.6
            world.until(lambda: world.app["flags"] & FINAL)
            # Some of it back, then all.
            number = world.guest.target("redis", 30 * MIB)
            world.until(lambda: world.app["answers"] == number and world.app["target"] == 30 * MIB)
            assert 125 * MIB < redis.maxmemory() < 135 * MIB and world.app["given"] == 30 * MIB, world.app
            number = world.guest.target("redis", 0)
            world.until(lambda: world.app["answers"] == number and world.app["given"] == world.app["target"] == 0)
            assert redis.maxmemory() == limit
            assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]


@test
def below_its_floor_it_is_not_asked():
    with World(*EVICTS, words="floor=100M pain=5 name=cache", name="cache") as world:
        world.redis.fill(130)
        world.until(lambda: world.app["used"] > 120 * MIB)
        assert world.app["pain"] == 5 and world.app["could"] == world.app["used"] - 100 * MIB, world.app
        world.guest.target("cache", 120 * MIB)
        world.until(lambda: world.app["flags"] & FINAL and world.app["given"] > 20 * MIB)
        assert world.redis.maxmemory() >= 100 * MIB and world.app["given"] < 40 * MIB, world.app


@test
def one_that_may_not_evict_is_left_alone():
    for policy in "noeviction", "volatile-lru":
        with World("--maxmemory-policy", policy) as world:
            world.redis.fill(60)
            world.until(lambda: world.app["used"] > 55 * MIB)
            assert world.app["could"] == 0, world.app
            # Even if the host asks: it has offered nothing.
            number = world.guest.target("redis", 30 * MIB)
            world.until(lambda: world.app["answers"] == number)
            assert world.redis.maxmemory() == 0 and world.app["given"] == world.app["target"] == 0, world.app
            # One of which the policy is changed afterwards.
            world.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
            world.until(lambda: world.app["could"] > 30 * MIB)


@test
def passwords():
    secret = "a-secret-of-the-test"

    def password_file(guest, text, mode=0o600):
        path = guest.dir + "/password"
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path
    world = World(*EVICTS, "--requirepass", secret, password=secret)
    guest = world.guest
    try:
        for text, status in (None, -EACCES), ("wrong-" + secret + "\n", -EACCES), (secret + "\n", 0):
            words = "redis socket=%s" % world.redis.socket
            if text:
                words += " password-file=" + password_file(guest, text)
            world.config("discover off", words)
            guest.start()
            guest.apps = {}
            guest.until(lambda: world.app and (world.app["status"] == status != 0 or world.app["used"] > 0), 20)
            assert world.app["status"] == status, world.app
            guest.end(signal.SIGTERM)
        assert secret not in guest.logged() and "refuses" in guest.logged(), guest.logged()
        for number in os.listdir("/proc"):
            if number.isdigit():
                try:
                    with open("/proc/%s/cmdline" % number, "rb") as file:
                        assert b"overbook-guest" not in (text := file.read()) or secret.encode() not in text
                except (FileNotFoundError, ProcessLookupError):
                    pass
        # A file that others may read is refused, at the start.
        world.config("discover off", "redis password-file=" + password_file(guest, secret, 0o644))
        done = subprocess.run([GUEST, *guest.args, "--socket", guest.socket], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2 and "can be read by others" in done.stderr and secret not in done.stderr, done
    finally:
        world.__exit__(None)


@test
def one_that_refuses():
    with World(*EVICTS, "--rename-command", "CONFIG", "") as world:
        world.until(lambda: world.app["status"] == -EPERM)
        assert world.app["could"] == 0, world.app
    with World(*EVICTS) as world:
        world.redis.fill(60)
        world.until(lambda: world.app["used"] > 55 * MIB)
        # From now on it may not change anything.
        world.redis("ACL", "SETUSER", "default", "-config|set")
        number = world.guest.target("redis", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EPERM and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and world.redis.maxmemory() == 0, world.app
        world.redis("ACL", "SETUSER", "default", "+@all")
        number = world.guest.target("redis", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["given"] > 25 * MIB)
        # Nor have its limit back, which it is given when it may.
        world.redis("ACL", "SETUSER", "default", "-config|set")
        number = world.guest.target("redis", 0)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EPERM)
        assert 0 < world.redis.maxmemory() < 60 * MIB and world.app["given"] == 0, world.app
        world.redis("ACL", "SETUSER", "default", "+@all")
        world.until(lambda: world.app["status"] == 0)
        assert world.redis.maxmemory() == 0 and world.app["target"] == 0, world.app


@test
def one_that_dies_in_the_middle():
    with World(*EVICTS) as world:
        world.redis.fill(120)
        world.until(lambda: world.app["used"] > 115 * MIB)
        world.guest.target("redis", 80 * MIB)
        world.until(lambda: world.app["target"] == 80 * MIB)
        world.redis.end()
        world.until(lambda: not world.app, what="its end")
        # It comes again with its own settings, and nothing was asked of it.
        world.redis.start()
        world.redis.fill(50)
        world.until(lambda: world.app and world.app["used"] > 45 * MIB)
        assert world.app["target"] == world.app["given"] == 0 and world.redis.maxmemory() == 0, world.app
        world.guest.target("redis", 20 * MIB)
        world.until(lambda: world.app["given"] > 15 * MIB)
        world.guest.target("redis", 0)
        world.until(lambda: world.app["target"] == 0)
        assert world.redis.maxmemory() == 0


@test
def one_that_hangs_in_the_middle():
    with World(*EVICTS) as world:
        world.redis.fill(120)
        world.until(lambda: world.app["used"] > 115 * MIB)
        world.redis.process.send_signal(signal.SIGSTOP)
        world.guest.target("redis", 60 * MIB)
        # Others are served meanwhile, and nothing is said to be given.
        memories = world.guest.memories
        world.guest.pass_time(3)
        assert world.guest.memories >= memories + 10 and world.app["given"] == 0, world.app
        # When its time is over it is none any more; it is tried again.
        world.until(lambda: not world.app, 40, what="its end")
        world.redis.process.send_signal(signal.SIGCONT)
        world.until(lambda: world.app and world.app["used"] > 0, 60)
        world.guest.target("redis", 60 * MIB)
        world.until(lambda: world.app["given"] > 55 * MIB)
        world.guest.target("redis", 0)
        world.until(lambda: world.app["target"] == 0 and world.redis.maxmemory() == 0)


@test
def an_overbook_guest_that_dies_while_it_is_small():
    with World(*EVICTS, "--maxmemory", str(300 * MIB)) as world:
        guest = world.guest
        world.redis.fill(120)
        world.until(lambda: world.app["used"] > 115 * MIB)
        guest.target("redis", 60 * MIB)
        world.until(lambda: world.app["given"] > 55 * MIB)
        for number in signal.SIGKILL, signal.SIGTERM:
            guest.end(number)
            assert world.redis.maxmemory() < 70 * MIB
            session = guest.session
            guest.start()
            guest.until(lambda: guest.session != session and world.app and world.app["target"] == 60 * MIB, what="what was asked before")
            world.until(lambda: world.app["given"] > 50 * MIB)
        guest.target("redis", 0)
        world.until(lambda: world.app["target"] == 0 and world.redis.maxmemory() == 300 * MIB)


class Fake(FakeServer):
    """Answers by a function of the words: bytes, or None to be silent."""

    def __init__(self, directory, answer=None):
        self.answer = answer
        super().__init__(directory + "/redis.sock")

    def serve(self, sock):
        file = sock.makefile("rb")
        while line := file.readline():
            words = []
            for _ in range(int(line[1:])):
                words.append(file.read(int(file.readline()[1:]) + 2)[:-2].decode())
            self.asked.append(words)
            answer = self.answer(words)
            if answer is not None:
                sock.sendall(answer)


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def plausible(words, limit=0, used=100 * MIB):
    if words[0] == "INFO":
        return bulk("# X\r\nused_memory:%d\r\nrole:master\r\n" % used)
    if words[:2] == ["CONFIG", "GET"]:
        return b"*2\r\n" + bulk(words[2]) + bulk(str(limit) if words[2] == "maxmemory" else "allkeys-lru")
    return b"+OK\r\n"


@test
def one_that_ignores_what_it_is_told():
    with World(server=Fake, answer=plausible) as world:
        world.until(lambda: world.app["used"] == 100 * MIB)
        # What the process has that listens, the test's own, is less than it says.
        number = world.guest.target("redis", 10 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EIO and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and ["CONFIG", "SET", "maxmemory", str(90 * MIB)] in world.redis.asked, world.app
        assert "ignores what it is told" in world.guest.logged()


@test
def servers_that_answer_anything():
    draw = random.Random(4)
    answers = [
        b"", b"x", b"\r\n", b"$-5\r\n", b"$99999999\r\n", b"*999999\r\n", b"*-1\r\n", b":12\r\n", b"+" + b"x" * 5000, b"$5\r\nabc", b"*2\r\n*2\r\n",
        b"$3\r\nabcde", bulk("used_memory:99999999999999999999\r\nrole:master\r\n"), bulk("used_memory:-5\r\nrole:master\r\n"), b"$60000\r\n" + b"y" * 60002,
        b"-ERR no\x1b[31m\r\n", b"*0\r\n", bytes(draw.randrange(256) for _ in range(3000)),
    ]
    for answer in answers:
        fake = lambda words: answer or None
        world = World(server=Fake, answer=fake)
        world.guest.start()
        try:
            world.guest.until(lambda: world.redis.asked and world.guest.memories > 2)
            world.guest.pass_time(0.3)
            assert world.guest.process.poll() is None
            assert not world.app or world.app["could"] == 0, (answer, world.app)
            assert "\x1b" not in world.guest.logged()
        finally:
            world.__exit__(None)


@test
def configurations_are_checked():
    world = World(server=Fake, answer=plausible)
    try:
        for line, wrong in (
                ("nonesuch", '"nonesuch" is not known: there are redis, mariadb, memcached, postgresql, jvm and discover'), ("discover maybe", '"on" or "off"'),
                ("redis floor", "not KEY=VALUE"), ("redis floor=x", 'floor="x" is not a size'), ("redis pain=101", "from 0 to 100"),
                ("redis name=a/b", "name="), ("redis socket=x", "absolute path"), ("redis user=a;b", "user="), ("redis colour=red", '"colour" is not known'),
                ("redis password-file=/nonesuch", "/nonesuch"), ("redis process=x", "known by socket="),
                ("jvm", "known by process="), ("jvm process=x socket=/x", "known by process="), ("jvm process=" + "x" * 128, "at most 127"), ("\n".join(["redis"] * 9), "more than 8")):
            world.config(line)
            done = subprocess.run([GUEST, *world.guest.args, "--socket", world.guest.socket], capture_output=True, text=True, timeout=20)
            assert done.returncode == 2 and wrong in done.stderr and done.stderr.count("\n") == 1, (line, done)
        os.chmod(world.guest.args[1], 0o666)
        done = subprocess.run([GUEST, *world.guest.args], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2 and "can be written by others" in done.stderr, done
        done = subprocess.run([GUEST, "--config", "/nonesuch"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2 and "/nonesuch" in done.stderr, done
    finally:
        world.__exit__(None)


if not REDIS:
    for function in guest_harness.tests:
        function.skip = "there is no Redis: install redis-tools"
sys.exit(main())
