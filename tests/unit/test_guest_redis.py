#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with Debian's Redis, which is started and stopped here, and with servers that only look like one.
test_guest_redis.py OVERBOOK-GUEST. Prints TAP."""
import os
import random
import shutil
import socket
import subprocess
import sys

sys.dont_write_bytecode = True

import guest_harness
from guest_frames import FINAL
from guest_harness import MIB, FakeServer, Server, main, needing, test

GUEST = os.path.abspath(sys.argv[1])
# The package redis-tools has the server's program without the service.
REDIS = shutil.which("redis-server") or shutil.which("redis-check-rdb")
EACCES, EPERM, EIO = 13, 1, 5
real = needing(None if REDIS else "there is no Redis: install redis-tools")


class Redis(Server):
    def __init__(self, directory, *settings, password=None):
        self.dir, self.settings, self.password = directory, settings, password
        self.socket = directory + "/redis.sock"
        self.start()

    def start(self):
        words = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", self.dir,
                 "--logfile", self.dir + "/redis.log", *self.settings]
        assert self.launch(words, lambda: self("PING"), executable=REDIS, stdout=subprocess.DEVNULL) == "PONG"

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

    def limit(self):
        return int(self("CONFIG", "GET", "maxmemory")[1])

    def fill(self, mib):
        self("EVAL", "for i = 1, %d do redis.call('set', 'key' .. i .. ':' .. redis.call('dbsize'), string.rep('x', 16000)) end" % (mib * 64), "0")


class World(guest_harness.World):
    def __init__(self, *settings, words="floor=16M", server=Redis, **options):
        super().__init__(GUEST, "redis", server, *settings, words=words, **options)
        self.redis = self.server


EVICTS = "--maxmemory-policy", "allkeys-lru"


@real
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
            assert 0 < redis.limit() < 85 * MIB and int(redis("DBSIZE")) < keys * 0.6
            world.until(lambda: world.app["flags"] & FINAL)
            # Some of it back, then all.
            number = world.guest.target("redis", 30 * MIB)
            world.until(lambda: world.app["answers"] == number and world.app["target"] == 30 * MIB)
            assert 125 * MIB < redis.limit() < 135 * MIB and world.app["given"] == 30 * MIB, world.app
            number = world.guest.target("redis", 0)
            world.until(lambda: world.app["answers"] == number and world.app["given"] == world.app["target"] == 0)
            assert redis.limit() == limit
            assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]


@real
def below_its_floor_it_is_not_asked():
    with World(*EVICTS, words="floor=100M pain=5 name=cache", name="cache") as world:
        world.redis.fill(130)
        world.until(lambda: world.app["used"] > 120 * MIB)
        assert world.app["pain"] == 5 and world.app["could"] == world.app["used"] - 100 * MIB, world.app
        world.guest.target("cache", 120 * MIB)
        world.until(lambda: world.app["flags"] & FINAL and world.app["given"] > 20 * MIB)
        assert world.redis.limit() >= 100 * MIB and world.app["given"] < 40 * MIB, world.app


@real
def one_that_may_not_evict_is_left_alone():
    for policy in "noeviction", "volatile-lru":
        with World("--maxmemory-policy", policy) as world:
            world.redis.fill(60)
            world.until(lambda: world.app["used"] > 55 * MIB)
            assert world.app["could"] == 0, world.app
            # Even if the host asks: it has offered nothing.
            number = world.guest.target("redis", 30 * MIB)
            world.until(lambda: world.app["answers"] == number)
            assert world.redis.limit() == 0 and world.app["given"] == world.app["target"] == 0, world.app
            # One of which the policy is changed afterwards.
            world.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
            world.until(lambda: world.app["could"] > 30 * MIB)


@real
def passwords():
    secret = "a-secret-of-the-test"

    def password_file(world, text, mode=0o600):
        path = world.guest.dir + "/password"
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return " password-file=" + path
    with World(*EVICTS, "--requirepass", secret, password=secret) as world:
        for text, status in (None, -EACCES), ("wrong-" + secret + "\n", -EACCES), (secret + "\n", 0):
            world.again(password_file(world, text) if text else "")
            world.until(lambda: world.app and (world.app["status"] == status != 0 or world.app["used"] > 0))
            assert world.app["status"] == status, world.app
            guest_harness.check_secret(world, secret)
        assert "refuses" in world.guest.logged(), world.guest.logged()
        # A file that others may read is refused, at the start.
        world.configure(password_file(world, secret, 0o644))
        done = subprocess.run([GUEST, *world.guest.args, "--socket", world.guest.socket], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2 and "can be read by others" in done.stderr and secret not in done.stderr, done


@real
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
        assert world.app["given"] == 0 and world.redis.limit() == 0, world.app
        world.redis("ACL", "SETUSER", "default", "+@all")
        number = world.guest.target("redis", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["given"] > 25 * MIB)
        # Nor have its limit back, which it is given when it may.
        world.redis("ACL", "SETUSER", "default", "-config|set")
        number = world.guest.target("redis", 0)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EPERM)
        assert 0 < world.redis.limit() < 60 * MIB and world.app["given"] == 0, world.app
        world.redis("ACL", "SETUSER", "default", "+@all")
        world.until(lambda: world.app["status"] == 0)
        assert world.redis.limit() == 0 and world.app["target"] == 0, world.app


@real
def one_that_dies_in_the_middle():
    with World(*EVICTS) as world:
        guest_harness.check_death(world)


@real
def one_that_hangs_in_the_middle():
    with World(*EVICTS) as world:
        guest_harness.check_hang(world)


@real
def an_overbook_guest_that_dies_while_it_is_small():
    with World(*EVICTS, "--maxmemory", str(300 * MIB)) as world:
        guest_harness.check_renewal(world)


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
def one_that_is_named_twice_is_asked_once():
    """By the same path, and by another one; the first line counts."""
    world = World(server=Fake, answer=plausible)
    other = world.guest.dir + "/other.sock"
    os.symlink(world.redis.socket, other)
    lines = ["redis socket=%s pain=%d name=%s" % (path, pain, name) for path, pain, name in (
        (world.redis.socket, 7, "redis"), (world.redis.socket, 8, "second"), (other, 9, "third"))]
    world.config("discover off", *lines)
    with world:
        # Servers are looked for every second.
        world.guest.later(15)
        assert len(world.guest.apps) == world.redis.connections == 1 and world.app["pain"] == 7, world.guest.apps


@test
def servers_that_answer_anything():
    draw = random.Random(4)
    answers = [
        b"", b"x", b"\r\n", b"$-5\r\n", b"$99999999\r\n", b"*999999\r\n", b"*-1\r\n", b":12\r\n", b"+" + b"x" * 5000, b"$5\r\nabc", b"*2\r\n*2\r\n",
        b"$3\r\nabcde", bulk("used_memory:99999999999999999999\r\nrole:master\r\n"), bulk("used_memory:-5\r\nrole:master\r\n"), b"$60000\r\n" + b"y" * 60002,
        b"-ERR no\x1b[31m\r\n", b"*0\r\n", bytes(draw.randrange(256) for _ in range(3000)),
    ]
    for answer in answers:
        guest_harness.check_nonsense(World(server=Fake, answer=lambda words: answer or None, wait=False))


@test
def configurations_are_checked():
    with World(server=Fake, answer=plausible) as world:
        def run(*words):
            return subprocess.run([GUEST, *words], capture_output=True, text=True, timeout=20)
        for line, wrong in (
                ("nonesuch", '"nonesuch" is not known: there are redis, mariadb, memcached, postgresql, jvm, discover and compact'),
                ("discover maybe", '"discover" is "on" or "off"'), ("compact", '"compact" is "on" or "off"'), ("compact on off", '"compact" is "on" or "off"'),
                ("redis floor", "not KEY=VALUE"), ("redis floor=x", 'floor="x" is not a size'), ("redis pain=101", "from 0 to 100"),
                ("redis pain=", "from 0 to 100"), ("redis pain=1x", "from 0 to 100"),
                ("redis name=a/b", "name="), ("redis socket=x", "absolute path"), ("redis user=a;b", "user="), ("redis colour=red", '"colour" is not known'),
                ("redis password-file=/nonesuch", "/nonesuch"), ("redis process=x", "known by socket="),
                ("jvm", "known by process="), ("jvm process=x socket=/x", "known by process="), ("jvm process=" + "x" * 128, "at most 127"), ("jvm process=x user=me", "not a user's number"),
                ("jvm process=x user=4294967295", "not a user's number"), ("\n".join(["redis"] * 9), "more than 8")):
            world.config(line)
            done = run(*world.guest.args, "--socket", world.guest.socket)
            assert done.returncode == 2 and wrong in done.stderr and done.stderr.count("\n") == 1, (line, done)
        os.chmod(world.guest.args[1], 0o666)
        done = run(*world.guest.args)
        assert done.returncode == 2 and "can be written by others" in done.stderr, done
        done = run("--config", "/nonesuch")
        assert done.returncode == 2 and "/nonesuch" in done.stderr, done


sys.exit(main())
