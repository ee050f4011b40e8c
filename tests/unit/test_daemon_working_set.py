#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the budget follows what machines use: test_daemon_working_set.py OVERBOOKD. Prints TAP. daemon_harness.py plays the agents."""
import os
import signal
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, STATS, Agent, ceiling, main, message, rewrite, test, with_daemon

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
GIB = 1024 * MIB
BUDGET = GIB


class Machine(Agent):
    """Costs all that it may, of which it uses so much; samples: None: its engine takes none."""

    def __init__(self, daemon, name, uses=0, samples=1000, **options):
        self.uses, self.samples, self.back = uses, samples, 0
        super().__init__(daemon, name, ram=GIB, **options)

    def report(self):
        allowed = min(self.limit or ceiling(self.ram), ceiling(self.ram))
        self.cost = allowed if self.cost <= allowed else max(allowed, self.cost - self.step)
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit, cost_bytes=self.cost, resident_bytes=self.cost, active_bytes=self.uses,
                      active_samples=self.samples or 0, compressed_bytes=max(0, self.ram - self.cost), faults_compressed=self.back)
        values = [fields.get(name, 0) for name in FIELDS]
        self.send(message(STATS, struct.pack("<I%dQII" % len(values), len(values), *values, 0, 0)))


def admit(daemon, name, **options):
    machine = Machine(daemon, name, limit=daemon_harness.NOT_STARTED, connect=False, **options)
    answer, _ = daemon.admit(name, ram=GIB, agent=machine)
    assert answer["ok"], answer
    return machine


def seen(daemon, name):
    return daemon.machine(name)["working_set_bytes"]


def half(machine):
    return abs(machine.limit - BUDGET // 2) <= MIB


@with_daemon("--budget", "1G")
def an_idle_machine_gives_and_gets_back(daemon):
    daemon.budget = BUDGET
    idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
    # Of what is above the least, 16 MiB each: what is believed to be used, and a quarter of what it would have at the same price.
    daemon.until(lambda: idle.limit < 300 * MIB and busy.limit > 700 * MIB, 60)
    assert idle.limit + busy.limit <= BUDGET
    assert seen(daemon, "idle") < 100 * MIB and seen(daemon, "busy") > 900 * MIB
    idle.uses = GIB
    daemon.until(lambda: half(idle) and half(busy), 60)


@with_daemon("--budget", "1G")
def what_comes_back_says_so_before_samples_do(daemon):
    daemon.budget = BUDGET
    idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
    daemon.until(lambda: idle.limit < 300 * MIB, 60)
    before = seen(daemon, "idle")
    idle.back = 50000  # pages: 195 MiB, decaying over 16 s
    daemon.until(lambda: seen(daemon, "idle") > before + 100 * MIB)
    daemon.until(lambda: idle.limit > 300 * MIB)


@with_daemon("--budget", "1G")
def what_is_not_known_counts_as_used(daemon):
    daemon.budget = BUDGET
    idle, silent = admit(daemon, "idle", uses=0), admit(daemon, "silent", uses=0, samples=None)
    daemon.until(lambda: idle.limit < 300 * MIB and silent.limit > 700 * MIB, 60)
    assert seen(daemon, "silent") is None
    # An agent that comes back is known anew, from what it says then.
    idle.samples = None
    idle.disconnect()
    daemon.until(lambda: daemon.state("idle") == "lost")
    idle.connect()
    daemon.until(lambda: seen(daemon, "idle") is None and half(idle) and half(silent))


@with_daemon("--budget", "1G", "--idle-tax", "0%")
def without_a_tax_shares_alone_count(daemon):
    daemon.budget = BUDGET
    idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
    daemon.until(lambda: (seen(daemon, "idle") or BUDGET) < 100 * MIB and half(idle) and half(busy), 120)


@test
def the_tax_is_a_setting():
    with tempfile.NamedTemporaryFile("w") as config:
        rewrite(config, "BUDGET=1G\nIDLE_TAX=0\n")
        daemon = daemon_harness.Daemon("--config", config.name)
        try:
            daemon.budget = BUDGET
            idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
            daemon.until(lambda: (seen(daemon, "idle") or BUDGET) < 100 * MIB and half(idle), 120)
            rewrite(config, "BUDGET=1G\nIDLE_TAX=99%\n")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.until(lambda: idle.limit < 64 * MIB and busy.limit > 960 * MIB)
            rewrite(config, "BUDGET=1G\nIDLE_TAX=100%\n")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.until(lambda: 'line 2: IDLE_TAX "100%" is not from 0% to 99%' in daemon.logged())
            daemon.stop()
        except BaseException:
            daemon.abandon()
            raise


@test
def options_are_checked():
    for value in "100", "100%", "-1", "", "75 %", "x":
        run = subprocess.run([OVERBOOKD, "--idle-tax", value], capture_output=True, text=True, timeout=20)
        assert run.returncode == 2 and run.stderr.count("\n") == 1, (value, run)
        assert '--idle-tax "%s" is not from 0%% to 99%%' % value in run.stderr, run


sys.exit(main(None))
