#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with Debian's MariaDB, which is made, started and stopped here, and with servers that only look like one.
test_guest_mariadb.py OVERBOOK-GUEST. Prints TAP."""
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading

sys.dont_write_bytecode = True

import guest_harness
import mariadb_files
from guest_frames import FINAL
from guest_harness import MIB, FakeServer, Server, main, needing, test

GUEST = os.path.abspath(sys.argv[1])
EACCES, EPERM, EIO = 13, 1, 5
POOL = 192 * MIB
real = needing("needs root, whom MariaDB knows by unix_socket" if os.geteuid() else mariadb_files.missing())


class Connection:
    """As much of the protocol as the test needs."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(path)
        self.packet()
        self.send(struct.pack("<IIB23x", 0x1 | 0x200 | 0x8000 | 0x80000, 1 << 24, 33) + b"root\0\0mysql_native_password\0", 1)
        answer = self.packet()
        assert answer[0] == 0, answer

    def read(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def packet(self):
        head = self.read(4)
        return self.read(head[0] | head[1] << 8 | head[2] << 16)

    def send(self, payload, number=0):
        self.sock.sendall(struct.pack("<I", len(payload) | number << 24) + payload)

    def __call__(self, sql):
        """The first value of the first row, or None."""
        self.send(b"\3" + sql.encode())
        first = self.packet()
        if first[0] == 0xff:
            raise RuntimeError(first[9:].decode())
        if first[0] == 0:
            return None
        for _ in range(first[0] + 1):
            self.packet()
        found = None
        while True:
            row = self.packet()
            if row[0] == 0xfe and len(row) < 9:
                return found
            found = found or row[1:1 + row[0]].decode()


class MariaDB(Server):
    template = None  # a directory with the system's tables, made once

    @classmethod
    def make_template(cls):
        cls.template = tempfile.mkdtemp(prefix="overbook-mariadb-", dir=os.environ.get("OVERBOOK_TEST_DIR", "/var/tmp"))
        mariadb_files.make_tables(cls.template)

    def __init__(self, directory, *settings):
        if not self.template:
            self.make_template()
        self.dir, self.socket, self.settings = directory + "/mariadb", directory + "/mysqld.sock", settings
        shutil.copytree(self.template, self.dir)
        self.start()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        words = [mariadb_files.SERVER, "--no-defaults", "--user=root", "--datadir=" + self.dir, "--socket=" + self.socket, "--skip-networking",
                 "--pid-file=" + self.dir + "/pid", "--innodb-log-file-size=32M", "--innodb-buffer-pool-size=%d" % POOL,
                 "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", *self.settings]
        self.sql = self.launch(words, lambda: Connection(self.socket), 60, stderr=subprocess.DEVNULL)

    def limit(self):
        return int(self.sql("SELECT @@GLOBAL.innodb_buffer_pool_size"))

    def fill(self, mib):
        self.sql("CREATE DATABASE IF NOT EXISTS t")
        self.sql("USE t")
        self.sql("CREATE TABLE IF NOT EXISTS t.a (i INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(1000)) ENGINE=InnoDB")
        self.sql("INSERT INTO t.a (x) SELECT REPEAT('y', 950) FROM seq_1_to_%d" % (mib * 1000))
        self.sql("SELECT COUNT(*) FROM t.a WHERE x LIKE '%z%'")

    def count(self):
        return int(self.sql("SELECT COUNT(*) FROM t.a WHERE LENGTH(x)=950"))


class World(guest_harness.World):
    FILL, ENOUGH, SMALL = 130, 50, 90

    def __init__(self, *settings, words="floor=32M", server=MariaDB, **options):
        super().__init__(GUEST, "mariadb", server, *settings, words=words, directory=tempfile.mkdtemp(prefix="overbook-guest-", dir="/var/tmp"), **options)
        self.db = self.server


@real
def it_gives_and_gets_its_pool_back():
    with World() as world:
        db = world.db
        db.fill(130)
        rows = db.count()
        world.until(lambda: world.app["used"] > 120 * MIB)
        assert world.app["kind"] == 3 and world.app["pain"] == 60 and world.app["status"] == 0 and world.app["target"] == 0, world.app
        assert world.app["could"] == world.app["used"] - 32 * MIB, world.app
        before = db.resident()
        number = world.guest.target("mariadb", 80 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["given"] >= 74 * MIB)
        after, found = db.resident(), world.app
        assert before - after >= 70 * MIB, (before, after, found)
        assert 32 * MIB <= db.limit() <= 80 * MIB and db.limit() % MIB == 0, db.limit()
        assert db.count() == rows
        world.until(lambda: world.app["flags"] & FINAL)
        number = world.guest.target("mariadb", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["target"] == 30 * MIB)
        assert 90 * MIB < db.limit() < 130 * MIB, db.limit()
        number = world.guest.target("mariadb", 0)
        world.until(lambda: world.app["answers"] == number and world.app["target"] == world.app["given"] == 0)
        assert db.limit() == POOL and db.count() == rows
        assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]


@real
def below_its_floor_it_is_not_asked():
    with World(words="floor=100M") as world:
        world.db.fill(130)
        world.until(lambda: world.app["used"] > 120 * MIB)
        # As it is now, and not as it was in the middle of that.
        world.guest.later(15)
        world.guest.target("mariadb", 120 * MIB)
        world.until(lambda: world.app["flags"] & FINAL and world.app["given"] > 10 * MIB)
        assert world.db.limit() == 100 * MIB and world.app["given"] < 50 * MIB, world.app


@real
def one_that_does_not_let_us_in():
    with World() as world:
        world.db.sql("CREATE USER other@localhost IDENTIFIED BY 'a-secret-of-the-test'")
        for user in "other", "nobody-known":
            world.again("user=" + user)
            world.until(lambda: world.app and world.app["status"] == -EACCES)
            assert world.app["could"] == 0
        assert world.guest.logged().count("MariaDB") >= 2, world.guest.logged()


@real
def one_that_refuses():
    with World() as world:
        world.db.fill(90)
        world.until(lambda: world.app["used"] > 80 * MIB)
        world.db.sql("RENAME USER root@localhost TO boss@localhost")
        world.guest.end()
        world.guest.start()
        world.guest.apps = {}
        world.until(lambda: world.app and world.app["status"] == -EACCES)
        # One who may look, and not change.
        world.db.sql("CREATE USER root@localhost IDENTIFIED VIA unix_socket")
        world.guest.apps = {}
        world.until(lambda: world.app and world.app["used"] > 80 * MIB)
        number = world.guest.target("mariadb", 30 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EPERM and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and world.db.limit() == POOL, world.app


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


@real
def one_that_is_used_all_the_time():
    with World() as world:
        world.db.fill(130)
        rows = world.db.count()
        world.until(lambda: world.app["used"] > 120 * MIB)
        ending, wrong = threading.Event(), []

        def use():
            sql = Connection(world.db.socket)
            while not ending.is_set():
                if int(sql("SELECT COUNT(*) FROM t.a WHERE LENGTH(x)=950")) != rows:
                    wrong.append(1)
        users = [threading.Thread(target=use) for _ in range(2)]
        for user in users:
            user.start()
        try:
            # What its users make it need meanwhile is not given: less than is asked for may be all that is seen.
            for give in 60, 90, 20, 70, 0:
                number = world.guest.target("mariadb", give * MIB)
                world.until(lambda: world.app["answers"] == number and world.app["target"] == give * MIB and world.app["given"] >= give * MIB * 0.7)
        finally:
            ending.set()
            for user in users:
                user.join()
        assert not wrong and world.db.limit() == POOL and world.db.count() == rows


class Fake(FakeServer):
    """answer(sql) gives the payloads that follow."""

    def __init__(self, directory, answer=None, greeting=None):
        self.answer = answer
        self.greeting = b"\x0a5.5.5-10.11.19-MariaDB\0" + bytes(60) if greeting is None else greeting
        super().__init__(directory + "/mysqld.sock")

    def serve(self, sock):
        def send(payload, number):
            sock.sendall(struct.pack("<I", len(payload) | number << 24) + payload)

        def hear():
            head = sock.recv(4, socket.MSG_WAITALL)
            return sock.recv(head[0] | head[1] << 8 | head[2] << 16, socket.MSG_WAITALL) if len(head) == 4 else b""
        send(self.greeting, 0)
        if not hear():
            return
        send(b"\0\0\0\2\0\0\0", 2)
        while request := hear():
            self.asked.append(request[1:].decode())
            for number, payload in enumerate(self.answer(request[1:].decode()), 1):
                if isinstance(payload, bytes):
                    send(payload, number)
                else:
                    sock.sendall(payload[0])


def rows(*values):
    column = b"\3def" + bytes(20)
    return [bytes([len(values)]), *[column] * len(values), b"\xfe\0\0\2\0", b"".join(bytes([len(value)]) + value for value in values), b"\xfe\0\0\2\0"]


def plausible(sql, pool=b"%d" % POOL, data=b"%d" % (100 * MIB)):
    if sql.startswith("SET"):
        return [b"\0\0\0\2\0\1\0"]
    return rows(b"134217727") if "CHUNK" in sql else rows(pool, data)


@test
def one_that_ignores_what_it_is_told():
    with World(server=Fake, answer=plausible, words="floor=1M") as world:
        world.until(lambda: world.app["used"] == 100 * MIB)
        number = world.guest.target("mariadb", 10 * MIB)
        world.until(lambda: world.app["answers"] == number)
        # Chunks of 128 MiB: there is no size between.
        assert world.db.asked.count("SET GLOBAL innodb_buffer_pool_size=%d" % (128 * MIB)) >= 1, world.db.asked[-5:]
    with World(server=Fake, answer=lambda sql: rows(b"1") if "CHUNK" in sql else plausible(sql), words="floor=1M") as world:
        world.until(lambda: world.app["used"] == 100 * MIB)
        number = world.guest.target("mariadb", 10 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EIO and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and "ignores what it is told" in world.guest.logged(), world.app


@test
def servers_that_answer_anything():
    answers = [
        [b""], [b"\xff"], [b"\xff\x15\x04#28000no\x1b[31m"], [b"\xfbetc/passwd"], [b"\1"], [b"\2", b"x", b"y"], [b"\2", b"x", b"y", b"\xfe\0\0\2\0", b"\xfe\0\0\2\0"],
        [b"\2", b"x", b"y", b"\xfe\0\0\2\0", b"\xff"], [b"\2", b"x", b"y", b"\xfe\0\0\2\0", b"\x05ab"], rows(b"x", b"y"), rows(b"-1", b"5"),
        rows(b"99999999999999999999999", b"1"), [b"\2", b"x", b"y", b"\xfe\0\0\2\0", *[b"\1a\1b"] * 100], [(b"\xff\xff\xff\0" + bytes(3000),)],
        [(b"\x05\0\0\1ab",)], [b"\0\0\0\2\0\0\0"],
    ]
    for greeting in b"", b"\x09old", b"\xff\x10\4Too many", b"\x0a" + bytes(70000):
        guest_harness.check_nonsense(World(server=Fake, answer=plausible, greeting=greeting, wait=False))
    for answer in answers:
        guest_harness.check_nonsense(World(server=Fake, answer=lambda sql: answer, wait=False))


status = main()
if MariaDB.template:
    shutil.rmtree(MariaDB.template)
sys.exit(status)
