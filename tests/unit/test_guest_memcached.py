#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with Debian's memcached, which is started and stopped here, and with servers that only look like one.
test_guest_memcached.py OVERBOOK-GUEST. Prints TAP."""
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import guest_harness
from guest_frames import FINAL
from guest_harness import MIB, FakeServer, Server, main, needing, test

GUEST = os.path.abspath(sys.argv[1])
MEMCACHED = shutil.which("memcached")
EACCES, EIO = 13, 5
real = needing(None if MEMCACHED else "there is no memcached: install it")
LIMIT = 256 * MIB
PIECE = 15000


def value(number):
    return b"%08d" % number * (PIECE // 8)


class Memcached(Server):
    def __init__(self, directory, *settings, login=None):
        self.socket, self.settings, self.login = directory + "/memcached.sock", settings, login
        self.start()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        user = ["-u", "root"] if os.geteuid() == 0 else []
        words = [MEMCACHED, "-s", self.socket, "-m", str(LIMIT // MIB), *user, *self.settings]
        assert self.launch(words, lambda: self("version"), stderr=subprocess.DEVNULL).startswith("VERSION")

    def talk(self, use):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.socket)
            file = sock.makefile("rwb")
            if self.login:
                file.write(b"set a 0 0 %d\r\n%s\r\n" % (len(self.login), self.login.encode()))
                file.flush()
                assert file.readline() == b"STORED\r\n"
            return use(file)

    def __call__(self, request):
        """The answer's last line."""
        def use(file):
            file.write(request.encode() + b"\r\n")
            file.flush()
            while (line := file.readline().decode().rstrip()).startswith("STAT"):
                pass
            return line
        return self.talk(use)

    def limit(self):
        def use(file):
            file.write(b"stats settings\r\n")
            file.flush()
            found = 0
            while (line := file.readline().decode().split()) != ["END"]:
                found = int(line[2]) if line[1] == "maxbytes" else found
            return found
        return self.talk(use)

    def fill(self, mib):
        def use(file):
            for number in range(mib * MIB // (PIECE + 1500)):
                file.write(b"set key%d 0 0 %d noreply\r\n%s\r\n" % (number, PIECE // 8 * 8, value(number)))
            file.write(b"version\r\n")
            file.flush()
            assert file.readline().startswith(b"VERSION")
        self.talk(use)

    def count(self):
        """How many of the values are there; all must be as they were stored."""
        def use(file):
            found = 0
            for number in range(LIMIT // PIECE):
                file.write(b"get key%d\r\n" % number)
                file.flush()
                if file.readline() != b"END\r\n":
                    assert file.read(PIECE // 8 * 8 + 2) == value(number) + b"\r\n", number
                    assert file.readline() == b"END\r\n"
                    found += 1
            return found
        return self.talk(use)


class World(guest_harness.World):
    def __init__(self, *settings, words="floor=16M", server=Memcached, **options):
        super().__init__(GUEST, "memcached", server, *settings, words=words, **options)


@real
def it_gives_and_gets_its_limit_back():
    with World() as world:
        server = world.server
        server.fill(160)
        items = server.count()
        world.until(lambda: world.app["used"] > 150 * MIB)
        assert world.app["kind"] == 4 and world.app["pain"] == 20 and world.app["target"] == 0 and world.app["status"] == 0, world.app
        assert world.app["could"] == world.app["used"] - 16 * MIB, world.app
        before, used = server.resident(), world.app["used"]
        number = world.guest.target("memcached", 80 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["given"] >= 76 * MIB)
        after, found = server.resident(), world.app
        assert before - after >= 70 * MIB, (before, after, found)
        assert server.limit() == (used - 80 * MIB + MIB - 1) // MIB * MIB, (server.limit(), used)
        left = server.count()
        assert items * 0.35 < left < items * 0.65, (items, left)
        world.until(lambda: world.app["flags"] & FINAL)
        number = world.guest.target("memcached", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["target"] == 30 * MIB)
        assert server.limit() == (used - 30 * MIB + MIB - 1) // MIB * MIB, (server.limit(), used)
        number = world.guest.target("memcached", 0)
        world.until(lambda: world.app["answers"] == number and world.app["given"] == world.app["target"] == 0)
        assert server.limit() == LIMIT and server.count() == left
        assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]


@real
def below_its_floor_it_is_not_asked():
    with World(words="floor=100M pain=5 name=cache", name="cache") as world:
        world.server.fill(130)
        world.until(lambda: world.app["used"] > 120 * MIB)
        assert world.app["pain"] == 5 and world.app["could"] == world.app["used"] - 100 * MIB, world.app
        # As it is now, and not as it was in the middle of that.
        world.guest.later(15)
        world.guest.target("cache", 120 * MIB)
        world.until(lambda: world.app["flags"] & FINAL and world.app["given"] > 15 * MIB)
        assert world.server.limit() == 100 * MIB and world.app["given"] < 40 * MIB, world.app


@real
def one_that_cannot_shrink_is_left_alone():
    for settings in (["-M"], ["-o", "no_modern"], ["-m", "7"]):
        with World(*settings) as world:
            world.server.fill(5)
            world.until(lambda: world.app["used"] > 0)
            assert world.app["could"] == 0, world.app
            limit = world.server.limit()
            number = world.guest.target("memcached", 2 * MIB)
            world.until(lambda: world.app["answers"] == number)
            assert world.server.limit() == limit and world.app["given"] == 0, world.app


@real
def passwords():
    directory = tempfile.mkdtemp(prefix="overbook-guest-")
    for name, text in ("login", "me:a-secret-of-the-test\n"), ("right", "a-secret-of-the-test\n"), ("wrong", "another-secret\n"):
        with open(directory + "/" + name, "w") as file:
            file.write(text)
        os.chmod(directory + "/" + name, 0o600)
    # A server that asks for none is not told one.
    with World() as world:
        world.again("user=me password-file=%s/right" % directory)
        world.server.fill(5)
        world.until(lambda: world.app and world.app["used"] > 0)
        assert world.server("get overbook") == "END"
    with World("-Y", directory + "/login", directory=directory, login="me a-secret-of-the-test") as world:
        world.server.fill(5)
        for words, status in ("", -EACCES), ("user=me password-file=%s/wrong" % directory, -EACCES), ("user=me password-file=%s/right" % directory, 0):
            world.again(words)
            world.until(lambda: world.app and (world.app["status"] == status != 0 or world.app["used"] > 0))
            assert world.app["status"] == status, world.app
            guest_harness.check_secret(world, "secret")
        assert "refuses" in world.guest.logged(), world.guest.logged()


@real
def one_that_dies_in_the_middle():
    with World() as world:
        guest_harness.check_death(world)


@real
def one_that_hangs_in_the_middle():
    with World() as world:
        guest_harness.check_hang(world)


@real
def an_overbook_guest_that_dies_while_it_is_small():
    with World() as world:
        guest_harness.check_renewal(world)


class Fake(FakeServer):
    """Answers by a function of the line: bytes, or None to be silent."""

    def __init__(self, directory, answer=None):
        self.answer = answer
        super().__init__(directory + "/memcached.sock")

    def serve(self, sock):
        file = sock.makefile("rb")
        while line := file.readline():
            self.asked.append(line.decode().rstrip())
            answer = self.answer(self.asked[-1])
            if answer is not None:
                sock.sendall(answer)


def plausible(line, reassign=b"BUSY a page is on its way\r\n"):
    if line == "version":
        return b"VERSION 1.6.18\r\n"
    if line == "stats settings":
        return b"STAT maxbytes %d\r\nSTAT item_size_max 1048576\r\nSTAT evictions on\r\nSTAT slab_reassign yes\r\nEND\r\n" % LIMIT
    if line == "stats slabs":
        return b"STAT 1:total_pages 3\r\nSTAT 7:total_pages 90\r\nSTAT total_malloced %d\r\nEND\r\n" % (100 * MIB)
    return reassign if line.startswith("slabs") else b"OK\r\n"


@test
def one_that_ignores_what_it_is_told():
    with World(server=Fake, answer=plausible) as world:
        world.until(lambda: world.app["used"] == 100 * MIB)
        number = world.guest.target("memcached", 10 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EIO and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and "cache_memlimit 90" in world.server.asked, world.app
        assert "ignores what it is told" in world.guest.logged()


@test
def one_whose_pages_do_not_move():
    limit = [LIMIT]

    def answer(line):
        if line.startswith("cache_memlimit"):
            limit[0] = int(line.split()[1]) * MIB
        return plausible(line, moves).replace(b"%d" % LIMIT, b"%d" % limit[0])
    for moves in b"BUSY it is\r\n", b"UNSAFE it is\r\n", b"OK\r\n":
        limit[0] = LIMIT
        with World(server=Fake, answer=answer) as world:
            world.until(lambda: world.app["used"] == 100 * MIB)
            number = world.guest.target("memcached", 10 * MIB)
            world.until(lambda: world.app["answers"] == number and "slabs reassign 7 0" in world.server.asked)
            world.guest.later(10)
            assert world.app["given"] == 0 and world.app["status"] == 0, world.app
            # It is heard meanwhile.
            number = world.guest.target("memcached", 0)
            world.until(lambda: world.app["answers"] == number and world.app["target"] == 0, 5)
            assert limit[0] == LIMIT


@test
def servers_that_answer_anything():
    draw = random.Random(5)
    answers = [
        b"", b"x", b"\n", b"\r\n", b"END\r\n", b"STAT\r\n", b"STAT \r\n" * 9000, b"STAT maxbytes 1\nEND\r\n", b"x" * 70000, b"ERROR\r\n", b"CLIENT_ERROR no\x1b[31m\r\n",
        b"STAT maxbytes -1\r\nEND\r\n", b"STAT maxbytes 99999999999999999999\r\nSTAT item_size_max 1\r\nEND\r\n", b"STAT maxbytes \0\r\nEND\r\n",
        b"CLIENT_ERROR unauthenticated\r\n", bytes(draw.randrange(256) for _ in range(3000)),
    ]
    for answer in answers:
        for first in b"VERSION x\r\n", None:
            guest_harness.check_nonsense(
                World(server=Fake, answer=lambda line: (first if line == "version" and first else answer) or None, wait=False))


sys.exit(main())
