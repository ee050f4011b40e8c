#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How overbookd judges how short memory is, and what it does then: test_daemon_shortage.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays
the agents, balloon_harness.py their guests."""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from balloon_harness import AUTO, GIB, OFF, Machine
from daemon_harness import MIB, Agent, Client, Stuck, main, rewrite, with_daemon, with_settings

daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None


class Taker(Machine):
    """Its guest uses more and more, up to `most`, once it has been started; as fast as it is let."""

    def __init__(self, daemon, name, pace=0, most=0, **options):
        self.pace, self.most, self.since = pace, most, None
        super().__init__(daemon, name, mode=OFF, **options)

    def start(self):
        self.since = time.monotonic()

    def report(self):
        now = time.monotonic()
        if self.since:
            # At its limit it waits.
            wanted = self.use + int(self.pace * (now - self.since))
            self.use, self.since = max(self.use, min(wanted, self.most, self.limit)), now
        super().report()


def memory(daemon):
    return daemon.call("ps")["memory"]


def start_pair(daemon, giver_speed, **taker):
    """A machine with much that its guest could do without, and one that is going to want it."""
    giver, taker = Machine(daemon, "giver", use=100 * MIB, caches=750 * MIB, mode=AUTO, speed=giver_speed), Taker(daemon, "taker", use=50 * MIB, **taker)
    daemon.until(lambda: giver.told and giver.limit and taker.limit and giver.cost == 850 * MIB and giver.limit + taker.limit <= GIB)
    daemon.budget = GIB
    daemon.until(lambda: memory(daemon)["state"] == "clear")
    return giver, taker


@with_daemon("--budget", "1G")
def what_is_used_up_slowly_is_had_from_balloons(daemon):
    giver, taker = start_pair(daemon, GIB, ram=GIB, pace=8 * MIB, most=250 * MIB)
    taker.start()
    seen = set()

    def is_there():
        seen.add(memory(daemon)["state"])
        # Nothing is evicted: the limit follows the cost.
        assert giver.limit >= giver.cost == giver.use + min(giver.caches, giver.ram - int(giver.held) - giver.use)
        return taker.cost == 250 * MIB
    daemon.until(is_there, 60)
    assert seen <= {"clear", "soft"} and "soft" in seen, seen
    assert giver.held >= 200 * MIB, giver.held
    assert "-> hard" not in daemon.logged() and "-> low" not in daemon.logged()


@with_daemon("--budget", "1G")
def what_is_used_up_fast_is_not(daemon):
    giver, taker = start_pair(daemon, 3 * MIB, ram=GIB, pace=150 * MIB, most=400 * MIB)
    taker.start()
    began = time.monotonic()
    daemon.until(lambda: memory(daemon)["state"] == "hard")
    shown = memory(daemon)
    assert shown["because"] == "used up faster than guests give" and shown["changes"] >= 2, shown
    daemon.until(lambda: taker.cost == 400 * MIB)
    # A grace would have taken ten seconds.
    assert time.monotonic() - began < 8
    assert giver.limit <= 624 * MIB and giver.cost < giver.ram - giver.held
    # The balloon is driven all the same.
    daemon.until(lambda: giver.target > 0)
    log = daemon.logged()
    assert log.count("of the budget of 1 GiB free, used up faster than guests give; large pages: proactive") == 1
    # It is over, and after a while the next cut waits again.
    assert memory(daemon)["state"] == "hard"
    daemon.until(lambda: memory(daemon)["state"] in ("clear", "soft"), 30)
    assert time.monotonic() - began > 10 and memory(daemon)["because"] is None
    giver.speed = GIB
    cost = giver.cost
    answer = daemon.call("limit", name="giver", maximum_bytes=300 * MIB)
    assert answer["ok"] and answer["limit_bytes"] >= cost, (answer, cost)


@with_settings("BUDGET=1G\n")
def above_the_budget_nobody_is_waited_for_and_nobody_grows(daemon, config):
    driven = Machine(daemon, "driven", use=100 * MIB, caches=400 * MIB, mode=AUTO, speed=3 * MIB)
    stuck = Stuck(daemon, "stuck", ram=300 * MIB)
    daemon.until(lambda: driven.told and driven.cost == 500 * MIB and stuck.cost >= 200 * MIB and memory(daemon)["state"] != "low")
    cost = stuck.cost
    rewrite(config, "BUDGET=%dM\n" % ((cost >> 20) + 200))
    daemon.reload()
    # Half of it, and of what its least is more than that of the smaller one.
    half = 254 * MIB
    daemon.until(lambda: driven.limit <= half, 3)
    assert memory(daemon)["state"] == "low" and memory(daemon)["because"] == "the budget is exceeded", memory(daemon)
    rewrite(config, "BUDGET=256M\n")
    daemon.reload()
    daemon.until(lambda: memory(daemon)["state"] == "low" and memory(daemon)["over_bytes"] > 0)
    other = Client(daemon)
    newcomer = Agent(daemon, "newcomer", 128 * MIB, limit=daemon_harness.NOT_STARTED, connect=False)
    other.send("admit", name="newcomer", ram_bytes=newcomer.ram, pid=newcomer.pid)
    answer = other.answer()
    assert answer["code"] == "refused" and "memory is low, so that nobody is given more than is reserved for him" in answer["error"], answer
    # From one moment to the next there is room again. It is for those to whom it is guaranteed, for a while.
    rewrite(config, "BUDGET=2G\n")
    daemon.reload()
    assert memory(daemon)["state"] == "low" and memory(daemon)["over_bytes"] == 0
    poor, rich = (Agent(daemon, name, 512 * MIB, limit=daemon_harness.NOT_STARTED, connect=False) for name in ("poor", "rich"))
    client = Client(daemon)
    client.send("admit", name="poor", ram_bytes=poor.ram, pid=poor.pid)
    answer = daemon.call("admit", name="rich", ram_bytes=rich.ram, pid=rich.pid, reservation_bytes=256 * MIB)
    assert memory(daemon)["state"] == "low" and answer["ok"] and answer["limit_bytes"] == 256 * MIB, answer
    assert driven.limit <= half and client.poll() is None
    answer = client.answer()
    assert answer["ok"] and memory(daemon)["state"] == "hard" and answer["limit_bytes"] > 256 * MIB, answer
    daemon.until(lambda: driven.limit > half)


@with_daemon()
def without_a_budget_memory_is_plenty(daemon):
    Machine(daemon, "web", use=900 * MIB)
    daemon.serve_for(1.5)
    shown = memory(daemon)
    assert (shown["state"], shown["because"], shown["over_bytes"], shown["changes"]) == ("high", None, 0, 0), shown
    assert "memory: " not in daemon.logged()


@with_daemon("--budget", "512M", "--metrics", "none")
def the_command_line_tool_shows_it(daemon):
    stuck = Stuck(daemon, "stuck", ram=900 * MIB)
    stuck.cost = 700 * MIB

    def ps(*options):
        process = subprocess.Popen([OVERBOOK, "ps", *options], stdout=subprocess.PIPE, text=True, env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
        daemon.until(lambda: process.poll() is not None)
        assert process.returncode == 0
        return process.communicate()[0]
    daemon.until(lambda: memory(daemon)["state"] == "low")
    assert "\nmemory: low, the budget is exceeded, 0 B free; large pages: proactive\n" in ps(), ps()
    assert set(json.loads(ps("--json"))["memory"]) == {"state", "because", "free_bytes", "over_bytes", "waiting_bytes", "room_bytes", "outrun_bytes", "gentle_bytes",
                                                       "pressure_some_permille", "pressure_full_permille", "changes"}


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
