#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with Debian's PostgreSQL, which is started and stopped here: it is shown, and asked for nothing.
test_guest_postgresql.py OVERBOOK-GUEST. Prints TAP; the real server's tests are skipped where there is no PostgreSQL."""
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import guest_harness
from guest_harness import MIB, FakeServer, Server, main, needing, test

GUEST = os.path.abspath(sys.argv[1])
POSTGRES = shutil.which("postgres") or next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))), None)
EOPNOTSUPP = 95
# It refuses to run as root.
USER = dict(user="nobody", group="nogroup", extra_groups=[]) if os.geteuid() == 0 else {}
real = needing(None if POSTGRES else "there is no PostgreSQL: install it")


class PostgreSQL(Server):
    def __init__(self, directory):
        self.dir = directory + "/postgresql"
        os.mkdir(self.dir)
        if USER:
            shutil.chown(self.dir, USER["user"])
        self.socket = self.dir + "/.s.PGSQL.5432"
        initdb = os.path.join(os.path.dirname(os.path.realpath(POSTGRES)), "initdb")
        subprocess.run([initdb, "-D", self.dir + "/data", "-U", "postgres", "-A", "reject", "--no-sync", "--locale=C"], check=True, cwd=self.dir,
                       stdout=subprocess.DEVNULL, **USER)
        self.start()

    def start(self):
        with open(self.dir + "/log", "ab") as log:
            self.process = subprocess.Popen([POSTGRES, "-D", self.dir + "/data", "-k", self.dir, "-c", "listen_addresses=", "-c", "shared_buffers=32MB",
                                             "-c", "fsync=off", "-c", "log_connections=on"], cwd=self.dir, stdout=log, stderr=log, **USER)
        end = time.monotonic() + 60
        while "ready to accept connections" not in self.logged():
            assert time.monotonic() < end and self.process.poll() is None, self.logged()
            time.sleep(0.05)

    def logged(self):
        with open(self.dir + "/log") as log:
            return log.read()

    def end(self, number=signal.SIGQUIT):
        super().end(number)
        os.unlink(self.dir + "/log")


class World(guest_harness.World):
    def __init__(self, server=PostgreSQL, **options):
        super().__init__(GUEST, "postgresql", server, **options)


@real
def it_is_shown_and_asked_for_nothing():
    with World() as world:
        world.until(lambda: world.app["status"])
        assert world.app["kind"] == 5 and world.app["status"] == -EOPNOTSUPP and world.app["could"] == world.app["used"] == 0, world.app
        world.guest.later(25)
        assert world.guest.logged().count("cannot change shared_buffers") == 1, world.guest.logged()
        number = world.guest.target("postgresql", 16 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EOPNOTSUPP)
        assert world.app["given"] == world.app["target"] == world.app["could"] == 0, world.app
        # It was neither troubled nor kept busy.
        log = world.server.logged()
        assert "FATAL" not in log and "startup packet" not in log and log.count("connection received") <= 1, log


@real
def one_that_is_started_anew():
    with World() as world:
        world.until(lambda: world.app["status"])
        number = world.app["app"]
        world.server.end()
        world.until(lambda: not world.app, what="its end")
        world.server.start()
        world.until(lambda: world.app and world.app["status"] == -EOPNOTSUPP and world.app["app"] != number)


class Silent(FakeServer):
    def __init__(self, directory):
        super().__init__(directory + "/.s.PGSQL.5432")

    def serve(self, sock):
        self.asked.append(sock.recv(4096))


@test
def nothing_is_said_to_it():
    with World(server=Silent) as world:
        world.until(lambda: world.app["status"] == -EOPNOTSUPP and world.server.asked)
        world.guest.later(10)
        assert world.server.asked == [b""], world.server.asked


sys.exit(main())
