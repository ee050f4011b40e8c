#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What overbookd logs of machines, and what of it the journal gets as fields: test_daemon_events.py OVERBOOKD MANUAL. Prints TAP.
daemon_harness.py plays the agents; the journal is played here, in a mount namespace, which takes root."""
import os
import re
import signal
import socket
import subprocess
import sys

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from cases import Skip
from daemon_harness import FIELDS, HERE, MIB, STOPPED, Agent, Daemon, main, message, rewrite, test, text, with_daemon, with_settings

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
MANUAL = os.path.abspath(sys.argv[2])
SWAP_FULL, SWAP_ERROR, POOL_FULL = 1, 2, 4

with open(HERE + "/../../src/daemon/events.h") as header:
    IDS = dict(re.findall(r'^\tX\((\w+), \w+, "([0-9a-f]{32})"\)', header.read(), re.M))


class Machine(Agent):
    degraded = over = 0

    def statistics(self):
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit or 100 * MIB, cost_bytes=self.cost, degraded=self.degraded, over_limit_bytes=self.over)
        return [fields.get(name, 0) for name in FIELDS]


def events(machine, daemon):
    """Everything that is an event of a machine that has come, one after the other."""
    until_said = daemon.until_logged
    until_said('machine "web" (pid %d) is here' % machine.pid)
    machine.degraded = SWAP_FULL | POOL_FULL
    until_said('machine "web": its compressed pool is full')
    until_said('machine "web": its swap store is full')
    machine.degraded = SWAP_ERROR
    until_said('machine "web": its swap store fails')
    machine.degraded = 0
    until_said('machine "web": its swap store works again')
    until_said('its swap store has room again')
    machine.send(message(STOPPED, text("page 7 of region 0\n cannot be read")))
    until_said('machine "web" is stopped: page 7 of region 0? cannot be read')
    machine.send(message(STOPPED, text("")))
    until_said('machine "web" goes on: its page could be read')
    machine.over = 5 * MIB
    until_said('machine "web" has been above its limit of 100 MiB for 10 s, now by 5 MiB')
    machine.over = 0
    until_said('machine "web" is within its limit again')


@with_daemon()
def what_happens_is_said_once(daemon):
    machine = Machine(daemon, "web")
    events(machine, daemon)
    assert daemon.logged().count("its swap store is full") == daemon.logged().count("has been above its limit") == 1
    # However often it changes.
    before = daemon.logged().count("its swap store")
    for i in range(100):
        machine.degraded = i % 2
        daemon.serve()
    assert daemon.logged().count("its swap store") - before < 10


@with_daemon("--budget", "512M")
def who_is_not_admitted_is_named(daemon):
    agent = Machine(daemon, "big", limit=daemon_harness.NOT_STARTED, connect=False)
    answer = daemon.call("admit", name="big", pid=agent.pid, ram_bytes=1024 * MIB, reservation_bytes=1024 * MIB)
    assert answer["code"] == "refused" and 'not admitted: machine "big" does not fit' in daemon.logged(), daemon.logged()
    Machine(daemon, "web")
    daemon.until(lambda: daemon.state("web") == "running")
    answer = daemon.call("admit", name="web", pid=agent.pid, ram_bytes=64 * MIB)
    assert answer["code"] == "refused" and daemon.logged().count("not admitted: ") == 2


@with_settings("BUDGET=1G\n")
def guarantees_that_do_not_fit_any_more_are_told_of(daemon, config):
    agent = Machine(daemon, "web", limit=daemon_harness.NOT_STARTED, connect=False)
    assert "code" not in daemon.call("admit", name="web", pid=agent.pid, ram_bytes=1024 * MIB, reservation_bytes=600 * MIB)
    daemon.serve()
    assert "is guaranteed to" not in daemon.logged()
    rewrite(config, "BUDGET=512M\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until_logged("600 MiB is guaranteed to machines (reservations, and their leasts), the budget is 512 MiB")
    rewrite(config, "BUDGET=1G\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until_logged("the budget has room again for the 600 MiB that is guaranteed")
    assert daemon.logged().count("is guaranteed to machines (") == 1, "it is told once"


@test
def every_kind_is_in_the_manual():
    with open(MANUAL) as manual:
        shown = manual.read()
    assert len(IDS) == len(set(IDS.values())) > 10
    for kind, number in IDS.items():
        assert number in shown, kind


class JournalDaemon(Daemon):
    """overbookd in a namespace of mounts where the journal is a socket of ours, and takes what is written to stderr."""

    def start(self, **environment):
        self.journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.journal.bind(self.dir + "/socket")
        self.journal.settimeout(20)
        status = os.fstat(self.log.fileno())
        script = self.dir + "/overbookd"
        with open(script, "w") as file:
            file.write("#!/bin/sh\nmount -t tmpfs none /run/systemd && mkdir /run/systemd/journal && mount --bind '%s' /run/systemd/journal || exit 1\n"
                       "exec '%s' \"$@\"\n" % (self.dir, OVERBOOKD))
        os.chmod(script, 0o755)
        unshare = self.dir + "/unshare"
        with open(unshare, "w") as file:
            file.write("#!/bin/sh\nexec unshare --mount '%s' \"$@\"\n" % script)
        os.chmod(unshare, 0o755)
        daemon_harness.OVERBOOKD = unshare
        try:
            super().start(JOURNAL_STREAM="%d:%d" % (status.st_dev, status.st_ino), **environment)
        finally:
            daemon_harness.OVERBOOKD = OVERBOOKD

    def received(self):
        """Datagrams of the journal's protocol, as dictionaries."""
        found = []
        self.journal.setblocking(False)
        try:
            while True:
                found.append(dict(line.split("=", 1) for line in self.journal.recv(65536).decode().splitlines() if "=" in line))
        except BlockingIOError:
            return found


@test
def the_journal_gets_fields():
    if os.geteuid() or not os.path.isdir("/run/systemd") or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Skip("there is no journal to be played without root, /run/systemd and namespaces of mounts")
    daemon = JournalDaemon()
    try:
        said = []
        daemon.logged = lambda: (said.extend(daemon.received()), "\n".join(fields["MESSAGE"] for fields in said))[1]
        machine = Machine(daemon, "web")
        events(machine, daemon)
        pid = machine.pid
        machine.die()
        daemon.until_logged("is gone")
        kinds = [kind for fields in said for kind in IDS if IDS[kind] == fields["MESSAGE_ID"]]
        assert set(kinds) == {"MACHINE_HERE", "STORAGE_DEGRADED", "STORAGE_RECOVERED", "MACHINE_STOPPED", "MACHINE_GOES_ON", "OVER_LIMIT", "WITHIN_LIMIT",
                              "MACHINE_GONE"} and len(kinds) == len(said), kinds
        levels = {"MACHINE_STOPPED": "3", "OVER_LIMIT": "4", "STORAGE_DEGRADED": "4"}
        for fields, kind in zip(said, kinds):
            assert fields["MACHINE"] == "web" and fields["MACHINE_PID"] == str(pid) and fields["MESSAGE"].startswith("overbookd: machine \"web\""), fields
            assert fields["PRIORITY"] == levels.get(kind, "6") and "CODE_FILE" not in fields, fields
        # In the stream they are not told again.
        with open(daemon.dir + "/log") as log:
            shown = log.read()
        assert "is ready in" in shown and "is here" not in shown and "swap store" not in shown
    except BaseException:
        with open(daemon.dir + "/log") as log:
            sys.stderr.write(log.read())
        daemon.abandon()
        raise
    daemon.stop()
    daemon.journal.close()


sys.exit(main(None))
