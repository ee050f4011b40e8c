#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What overbookd says about large pages: test_daemon_large.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays the agents."""
import json
import os
import random
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, Agent, ceiling, main, refused, rewrite, test, with_daemon, with_settings

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None

PROACTIVE, LATE, NEVER, OFF = range(4)
HIGH, CLEAR, LOW = range(3)
NONE = 513  # no number of pages is enough
NAMES = "policy", "state", "hot", "cold", "flags", "scan", "break_", "collapse"
GIB = 1024 * MIB


class Machine(Agent):
    """Costs what it uses, as far as it may, and counts what the test says."""

    def __init__(self, daemon, name, use=0, **options):
        self.use, self.numbers = use, {}
        super().__init__(daemon, name, **options)

    def report(self):
        self.cost = min(self.use, self.limit or ceiling(self.ram))
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit, cost_bytes=self.cost, **self.numbers)
        values = [fields.get(name, 0) % 2 ** 64 for name in FIELDS]
        self.say_statistics(values)

    def told(self):
        """What LARGE said last."""
        return dict(zip(NAMES, self.large[-1])) if self.large else None


def admit(daemon, name, ram, use=0):
    machine = Machine(daemon, name, ram=ram, limit=daemon_harness.NOT_STARTED, connect=False)
    answer, _ = daemon.admit(name, ram=ram, agent=machine)
    assert answer["ok"], answer
    machine.may_make_large = answer["may_make_large"]
    daemon.until(lambda: machine.limit >= use)
    machine.use = use
    return machine


def large(daemon):
    return daemon.call("ps")["large_pages"]


def until_told(daemon, machine, seconds=20, **expected):
    def agrees():
        told = machine.told()
        return told and all(told[key] == value for key, value in expected.items())
    try:
        daemon.until(agrees, seconds)
    except AssertionError:
        raise AssertionError("%s was told %s at last, and never %s" % (machine.name, machine.told(), expected))
    return machine.told()


@with_daemon("--budget", "1G")
def states_and_orders_follow_what_is_free(daemon):
    daemon.budget = GIB
    first, second = admit(daemon, "first", 768 * MIB, 100 * MIB), admit(daemon, "second", 256 * MIB, 100 * MIB)
    until_told(daemon, first, policy=PROACTIVE, state=HIGH, hot=NONE, cold=16, flags=1, scan=24, break_=24, collapse=6)
    until_told(daemon, second, policy=PROACTIVE, state=HIGH, hot=NONE, cold=16, flags=1, scan=8, break_=8, collapse=2)
    # Two machines that come at once are a fast fall, for a moment.
    daemon.until(lambda: large(daemon)["boundary_bytes"] == 4 * (GIB * 6 // 100))
    shown = large(daemon)
    assert shown["policy"] == "proactive" and shown["state"] == "high" and shown["may_make"] is True, shown
    assert shown["min_free_bytes"] == GIB * 6 // 100 and shown["boundary_bytes"] == 4 * shown["min_free_bytes"], shown
    assert shown["hot_pages"] == NONE and shown["cold_pages"] == 16 and shown["shareable_pages"] is None, shown
    assert shown["changes"] == shown["resets"] == 0 and shown["free_bytes"] == 824 * MIB, shown

    daemon.until(lambda: first.limit >= 720 * MIB and second.limit >= 250 * MIB)
    first.use, second.use = 600 * MIB, 200 * MIB
    told = until_told(daemon, first, state=CLEAR, flags=0, collapse=0)
    assert 8 <= told["hot"] < 128 and told["cold"] == told["hot"] // 8 and told["scan"] >= 24, told
    daemon.until(lambda: large(daemon)["free_bytes"] == 224 * MIB)
    shown = large(daemon)
    assert shown["state"] == "clear" and shown["changes"] == 1 and shown["may_make"] is False, shown
    daemon.until(lambda: (first.told()["hot"], first.told()["cold"]) == (shown["hot_pages"], shown["cold_pages"]))

    first.use, second.use = 720 * MIB, 250 * MIB
    until_told(daemon, first, state=LOW, hot=8, cold=1, flags=0, scan=1536, break_=384, collapse=0)
    until_told(daemon, second, state=LOW, hot=8, cold=1, flags=0, scan=512, break_=128, collapse=0)
    assert large(daemon)["changes"] == 2 and large(daemon)["resets"] <= 1

    began = time.monotonic()
    first.use = 100 * MIB
    until_told(daemon, first, 30, state=CLEAR)
    assert time.monotonic() - began > 9
    lines = ("memory: high -> clear, 224 MiB of the budget of 1 GiB free; large pages: proactive", "memory: clear -> soft, 54 MiB of",
             "memory: soft -> clear, 674 MiB of")
    log = daemon.until_logged(*lines)
    for line in lines:
        assert log.count(line) == 1, line
    assert log.count("memory: ") == 3


@with_daemon("--budget", "1G")
def who_is_admitted_hears_whether_new_ones_may_come_about(daemon):
    daemon.budget = GIB
    first = admit(daemon, "first", 1536 * MIB, 850 * MIB)
    assert first.may_make_large is True
    until_told(daemon, first, state=CLEAR, flags=0)
    second = admit(daemon, "second", 256 * MIB)
    assert second.may_make_large is False
    until_told(daemon, second, flags=0)
    first.use = 100 * MIB
    until_told(daemon, first, 30, state=HIGH, flags=1)
    assert admit(daemon, "third", 256 * MIB).may_make_large is True


@with_daemon("--large-pages", "off")
def where_there_are_none_who_is_admitted_hears_it(daemon):
    answer, _ = daemon.admit("web")
    assert answer["may_make_large"] is False and daemon.call("ps")["large_pages"]["state"] == "high", answer


@with_daemon("--budget", "1G")
def orders_come_when_they_change_and_no_more_than_once_a_second(daemon):
    machine = admit(daemon, "web", 1536 * MIB, 100 * MIB)
    until_told(daemon, machine, state=HIGH)
    daemon.until(lambda: machine.limit >= 900 * MIB)
    before = len(machine.large)
    daemon.serve_for(3)
    assert len(machine.large) == before
    rng = random.Random(4711)
    use = machine.report
    machine.report = lambda: (setattr(machine, "use", rng.randrange(800, 900) * MIB), use())
    until_told(daemon, machine, state=CLEAR)
    began, before = time.monotonic(), len(machine.large)
    daemon.serve_for(4)
    assert 2 <= len(machine.large) - before <= time.monotonic() - began + 1
    # Twice the RAM: half of the rate.
    machine.use, machine.report = 100 * MIB, use
    rate = machine.told()["scan"]
    other = admit(daemon, "db", 1536 * MIB)
    daemon.until(lambda: other.told() and other.told()["scan"] == machine.told()["scan"] < rate)


@with_daemon("--budget", "1G", "--min-free", "128M")
def a_new_connection_is_told_again_and_a_new_overbookd_waits_for_all(daemon):
    first, second = admit(daemon, "first", 512 * MIB), admit(daemon, "second", 512 * MIB)
    daemon.until(lambda: first.limit >= 450 * MIB and second.limit >= 450 * MIB)
    first.use = second.use = 450 * MIB
    until_told(daemon, first, state=LOW)
    first.disconnect()
    daemon.until(lambda: daemon.state("first") == "lost")
    first.large.clear()
    first.connect()
    until_told(daemon, first, state=LOW, hot=8, scan=1024, break_=256)
    # It is lost, but costs what it did.
    assert large(daemon)["free_bytes"] == 124 * MIB

    for machine in (first, second):
        os.makedirs(daemon.dir + "/machines/" + machine.name)
        with open(daemon.dir + "/machines/%s/lock" % machine.name, "w") as lock:
            lock.write("%d\n" % machine.pid)
    daemon.kill()
    daemon.until(lambda: first.closed and second.closed)
    first.large.clear()
    daemon.start()
    first.connect()
    daemon.until(lambda: daemon.state("first") == "running")
    assert large(daemon) is None
    daemon.serve_for(1.5)
    assert large(daemon) is None and not first.large
    second.connect()
    until_told(daemon, first, state=LOW, scan=1024)
    assert first.large[0][1] == LOW
    daemon.until_logged("memory: high -> soft")


@with_settings("BUDGET=1G\n")
def settings_can_be_changed_by_sighup(daemon, config):
    machine = admit(daemon, "web", 1536 * MIB, 850 * MIB)
    until_told(daemon, machine, policy=PROACTIVE, state=CLEAR, flags=0)
    rewrite(config, "BUDGET=1G\nLARGE_PAGES=late\n")
    daemon.reload()
    until_told(daemon, machine, policy=LATE, state=CLEAR, hot=NONE, cold=NONE, flags=1, scan=0, break_=0, collapse=0)
    rewrite(config, "BUDGET=1G\nLARGE_PAGES=off\n")
    daemon.reload()
    until_told(daemon, machine, policy=OFF, hot=0, cold=0, flags=0, scan=2048, break_=512, collapse=0)
    rewrite(config, "BUDGET=1G\nLARGE_PAGES='never'\nMIN_FREE=256M\n")
    daemon.reload()
    until_told(daemon, machine, policy=NEVER, state=LOW, hot=NONE, cold=NONE, flags=1, scan=0)
    assert large(daemon)["min_free_bytes"] == 256 * MIB and large(daemon)["policy"] == "never"
    for line, why in (("LARGE_PAGES=sometimes", 'LARGE_PAGES "sometimes" is none of "proactive", "late", "never" and "off"'),
                      ("LARGE_PAGES=", 'LARGE_PAGES ""'), ("MIN_FREE=0", 'MIN_FREE "0" is not a size of at least 1M'),
                      ("MIN_FREE=lots", 'MIN_FREE "lots"'), ("MIN_FREE=-1M", 'MIN_FREE "-1M"'), ("MIN_FREE=9999999999G", "MIN_FREE"),
                      ("LARGE=off", "LARGE_PAGES, LOG, METRICS, MIN_FREE")):
        rewrite(config, line + "\n")
        before = len(daemon.told)
        daemon.reload()
        assert "not reloaded: " in daemon.told[before:] and why in daemon.told[before:], (line, daemon.told[before:])
    assert large(daemon)["min_free_bytes"] == 256 * MIB and large(daemon)["policy"] == "never"
    # More than half of the budget would leave no room for high.
    rewrite(config, "BUDGET=1G\nMIN_FREE=900M\n")
    daemon.reload()
    assert large(daemon)["min_free_bytes"] == 512 * MIB
    # Without a budget nothing is short.
    rewrite(config, "BUDGET=none\nMIN_FREE=900M\n")
    daemon.reload()
    until_told(daemon, machine, 5, policy=PROACTIVE, state=HIGH, flags=1)
    daemon.until_logged("memory: soft -> high, since there is no budget")
    rewrite(config, "BUDGET=1G\nMIN_FREE=200M\n")
    daemon.reload()
    until_told(daemon, machine, 5, policy=PROACTIVE, state=LOW)


@test
def options_are_checked():
    assert '--large-pages "Late" is none of "proactive", "late", "never" and "off"' in refused("--large-pages", "Late")
    assert '--min-free "x" is not a size of at least 1M, such as 512M' in refused("--min-free", "x")
    assert "1023K" in refused("--min-free", "1023K")
    assert "--min-free" in refused("--min-free")
    assert "--large-pages and --config exclude each other" in refused("--large-pages", "off", "--config", "/etc/x")
    assert "--min-free and --config exclude each other" in refused("--config", "/etc/x", "--min-free", "1G")


@with_daemon("--large-pages", "late")
def without_a_budget_memory_is_plenty(daemon):
    machine = Machine(daemon, "web", ram=512 * MIB, use=10 * MIB)
    until_told(daemon, machine, policy=LATE, state=HIGH, hot=NONE, cold=NONE, flags=1, scan=0, break_=0, collapse=8)
    shown = large(daemon)
    assert (shown["state"], shown["policy"], shown["free_bytes"], shown["min_free_bytes"], shown["boundary_bytes"]) == ("high", "late", 0, 0, 0)
    assert "memory: " not in daemon.logged()


@with_daemon("--budget", "1G")
def what_agents_have_looked_at_is_summed(daemon):
    machine, other = admit(daemon, "web", 256 * MIB), admit(daemon, "db", 256 * MIB)

    def looks(machine, sampled, shareable):
        report = type(machine).report

        def more():
            numbers = machine.numbers
            numbers["large_sampled_pages"] = numbers.get("large_sampled_pages", 0) + sampled
            numbers["large_shareable_pages"] = numbers.get("large_shareable_pages", 0) + shareable
            report(machine)
        machine.report = more

    def shareable():
        found = large(daemon)["shareable_pages"]
        assert found is None or 0 <= found <= 512, found
        return found
    # What was counted before overbookd met the machine is not of late.
    machine.numbers = {"large_sampled_pages": 10 ** 6, "large_shareable_pages": 10 ** 6}
    daemon.serve_for(2.5)
    assert shareable() is None
    looks(machine, 400, 100)
    daemon.until(lambda: shareable() == 128)
    looks(other, 400, 300)
    daemon.until(lambda: 230 < (shareable() or 0) < 280)
    # Nobody looks: the average stays.
    looks(machine, 0, 0)
    looks(other, 0, 0)
    daemon.serve_for(1.5)
    stays = shareable()
    daemon.serve_for(1.5)
    assert shareable() == stays

    # Lies: more shareable than looked at; numbers that go back; numbers that no counter reaches.
    looks(machine, 1000, 5000)
    daemon.until(lambda: shareable() >= 500)
    looks(machine, 0, 0)
    machine.numbers = {"large_sampled_pages": 5, "large_shareable_pages": 0}
    daemon.serve_for(1.5)
    assert shareable() >= 500
    looks(machine, 1000, 0)
    daemon.until(lambda: shareable() < 16)
    looks(machine, 2 ** 63 + 5, 2 ** 62 + 9)
    for _ in range(200):
        daemon.serve(0.01)
    shareable()
    # However much it claims: others are heard soon.
    looks(machine, 0, 0)
    looks(other, 500, 250)
    daemon.until(lambda: 240 <= shareable() <= 262, 10)
    assert large(daemon)["state"] == "high"


@with_daemon("--budget", "1G")
def an_agent_that_lies_about_its_size_starves_nobody(daemon):
    machine = admit(daemon, "web", 512 * MIB)
    liar = Machine(daemon, "liar", ram=2 ** 64 - 1)
    until_told(daemon, machine, scan=1, break_=1, collapse=1)
    until_told(daemon, liar, scan=32, break_=32, collapse=8)
    liar.die()
    until_told(daemon, machine, scan=32)


@with_settings("LARGE_PAGES=proactive\n")
def what_a_socket_does_not_take_is_said_when_it_does(daemon, config):
    machine = Machine(daemon, "web", ram=512 * MIB)
    until_told(daemon, machine, policy=PROACTIVE)
    machine.deaf = True
    for turn in range(1000):
        rewrite(config, "LARGE_PAGES=%s\n" % ("late", "never", "off")[turn % 3])
        daemon.reload()
    assert large(daemon)["policy"] == "late" and daemon.state("web") == "running"
    machine.deaf = False
    until_told(daemon, machine, policy=LATE)
    daemon.serve_for(0.2)
    assert machine.told()["policy"] == LATE and 2 < len(machine.large) < 1000, len(machine.large)


@with_daemon("--budget", "1G")
def released_machines_are_told_too(daemon):
    machine, other = admit(daemon, "web", 256 * MIB), admit(daemon, "db", 256 * MIB)
    client = daemon_harness.Client(daemon)
    client.send("release", name="web", force=True)
    daemon.until(lambda: machine.released)
    machine.reply(machine.released)
    assert client.answer()["ok"]
    client.close()
    # All its RAM is set aside, in steps of 16 MiB.
    daemon.until(lambda: large(daemon)["free_bytes"] == 768 * MIB - other.cost)
    machine.disconnect()
    daemon.until(lambda: daemon.state("web") == "lost")
    machine.flags = 1
    machine.large.clear()
    machine.connect()
    until_told(daemon, machine, state=HIGH)


@with_daemon("--budget", "1G")
def the_command_line_tool_shows_it(daemon):
    admit(daemon, "web", 512 * MIB, 124 * MIB)
    daemon.until(lambda: large(daemon)["free_bytes"] == 900 * MIB)

    def ps(*options):
        process = subprocess.Popen([OVERBOOK, "ps", *options], stdout=subprocess.PIPE, text=True, env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
        daemon.until(lambda: process.poll() is not None)
        assert process.returncode == 0
        return process.communicate()[0]
    assert "\nmemory: high, 900 MiB free; large pages: proactive\n" in ps()
    shown = json.loads(ps("--json"))["large_pages"]
    assert set(shown) == {"policy", "state", "min_free_bytes", "boundary_bytes", "free_bytes", "hot_pages", "cold_pages", "may_make", "changes",
                          "resets", "shareable_pages"}, shown


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
