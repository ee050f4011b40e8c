#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the budget follows what machines use: test_daemon_working_set.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays the agents."""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, Agent, main, refused, rewrite, test, with_daemon, with_settings

daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None
GIB = 1024 * MIB
BUDGET = GIB


class Machine(Agent):
    """Costs all that it may, and uses so much, all of it once in 16 seconds: what of that is not in place comes back. samples: None: its engine takes none."""

    def __init__(self, daemon, name, uses=0, samples=1000, **options):
        self.uses, self.samples, self.back, self.told_at = uses, samples, 0, time.monotonic()
        super().__init__(daemon, name, ram=GIB, **options)

    def statistics(self):
        self.compressed = max(0, self.ram - self.cost)
        now = time.monotonic()
        self.back += max(0, self.uses - self.cost) * (now - self.told_at) / 16 / 4096
        self.told_at = now
        fields = dict(zip(FIELDS, super().statistics()), active_bytes=self.uses, active_samples=self.samples or 0, faults_compressed=int(self.back))
        return [fields.get(name, 0) for name in FIELDS]


def admit(daemon, name, **options):
    machine = Machine(daemon, name, limit=daemon_harness.NOT_STARTED, connect=False, **options)
    answer, _ = daemon.admit(name, ram=GIB, agent=machine, reservation_bytes=machine.reservation)
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
    daemon.until(lambda: seen(daemon, "idle") < 100 * MIB and seen(daemon, "busy") > 900 * MIB, 60)
    idle.uses = GIB
    daemon.until(lambda: half(idle) and half(busy), 60)


@with_daemon("--budget", "1G")
def what_comes_back_says_so_before_samples_do(daemon):
    daemon.budget = BUDGET
    idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
    daemon.until(lambda: idle.limit < 300 * MIB, 60)
    before = seen(daemon, "idle")
    idle.back += 50000  # pages: 195 MiB, decaying over 16 s
    daemon.until(lambda: seen(daemon, "idle") > before + 100 * MIB)
    daemon.until(lambda: idle.limit > 300 * MIB)


@with_daemon("--budget", "1G")
def what_is_not_known_counts_as_used(daemon):
    daemon.budget = BUDGET
    idle, silent = admit(daemon, "idle", uses=0), admit(daemon, "silent", uses=0, samples=None)
    daemon.until(lambda: idle.limit < 300 * MIB and silent.limit > 700 * MIB, 60)
    assert seen(daemon, "silent") is None
    row = daemon.machine("silent")
    assert row["working_set_low_bytes"] is None and row["working_set_high_bytes"] is None and row["working_set_samples"] == 0, row
    plan = daemon.call("plan", ram_bytes=64 * MIB)
    assert plan["unknown"] == 1 and plan["machines"][1]["uses_high_bytes"] is None, plan
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


@with_settings("BUDGET=1G\nIDLE_TAX=0\n")
def the_tax_is_a_setting(daemon, config):
    daemon.budget = BUDGET
    idle, busy = admit(daemon, "idle", uses=0), admit(daemon, "busy", uses=GIB)
    daemon.until(lambda: (seen(daemon, "idle") or BUDGET) < 100 * MIB and half(idle), 120)
    rewrite(config, "BUDGET=1G\nIDLE_TAX=99%\n")
    daemon.reload()
    daemon.until(lambda: idle.limit < 64 * MIB and busy.limit > 960 * MIB)
    rewrite(config, "BUDGET=1G\nIDLE_TAX=100%\n")
    daemon.reload()
    assert 'line 2: IDLE_TAX "100%" is not from 0% to 99%' in daemon.logged()


@test
def options_are_checked():
    for value in "100", "100%", "-1", "", "75 %", "x":
        assert '--idle-tax "%s" is not from 0%% to 99%%' % value in refused("--idle-tax", value)


@with_daemon("--budget", "1G")
def a_plan_is_made_from_what_is_used(daemon):
    daemon.budget = BUDGET
    first, second = admit(daemon, "first", uses=100 * MIB), admit(daemon, "second", uses=300 * MIB)
    daemon.until(lambda: seen(daemon, "first") and seen(daemon, "second"))
    sets = {name: seen(daemon, name) for name in ("first", "second")}
    plan = daemon.call("plan", like="first", count=2)
    assert plan["ok"] and plan["admitted"] and plan["budget_bytes"] == BUDGET and plan["lacking"] == 0, plan
    assert [(row["name"], row["uses_bytes"], row["lacks_bytes"]) for row in plan["machines"]] == [
        (name, sets[name], 0) for name in ("first", "second")], plan
    assert plan["newcomers"]["uses_bytes"] == sets["first"] and plan["newcomers"]["count"] == 2, plan
    assert plan["uses_bytes"] == 3 * sets["first"] + sets["second"], plan
    # So many that the larger one still has what it uses, though each of them also has some that it does not use.
    most = plan["most_at_ease"]
    assert 2 <= most <= (BUDGET - sets["second"]) // sets["first"] - 1, plan
    assert daemon.call("plan", like="first", count=most)["lacking"] == 0
    assert daemon.call("plan", like="first", count=most + 1)["lacking"] > 0
    assert plan["most_admitted"] == 62, plan
    # From how sure figures that comes: fewer if all use the most that samples allow, more if the least.
    assert plan["unknown"] == 0 and plan["most_at_ease_if_high"] < most < plan["most_at_ease_if_low"], plan
    assert all(row["uses_low_bytes"] < row["uses_bytes"] < row["uses_high_bytes"] for row in plan["machines"]), plan
    row = daemon.machine("first")
    assert row["working_set_low_bytes"] == plan["machines"][0]["uses_low_bytes"] and row["working_set_samples"] == 1000, row
    exact = daemon.call("plan", ram_bytes=GIB, uses_bytes=sets["first"])
    assert plan["most_at_ease_if_high"] <= exact["most_at_ease_if_high"] <= exact["most_at_ease"], exact
    large = daemon.call("plan", ram_bytes=GIB, reservation_bytes=600 * MIB, count=2)
    assert not large["admitted"] and large["most_admitted"] == 1 and large["guaranteed_bytes"] == 1232 * MIB, large
    assert large["newcomers"]["uses_bytes"] is None and large["lacking"] >= 2, large
    # Nothing has changed.
    assert first.limit + second.limit <= BUDGET and len(daemon.call("ps")["machines"]) == 2

    def not_planned(code, words, **members):
        answer = daemon.call("plan", **members)
        assert not answer["ok"] and answer["code"] == code and words in answer["error"], answer
    not_planned("bad-request", '"ram_bytes" must be an integer')
    not_planned("bad-request", '"count" must be an integer from 0 to 1022', like="first", count=1023)
    not_planned("bad-request", '"reservation_bytes" must be no more', ram_bytes=GIB, reservation_bytes=2 * GIB)
    not_planned("bad-request", '"uses_bytes"', ram_bytes=GIB, uses_bytes=-1)
    not_planned("no-machine", 'there is no machine "nobody"', like="nobody")


@with_daemon()
def without_a_budget_there_is_no_plan(daemon):
    answer = daemon.call("plan", ram_bytes=GIB)
    assert not answer["ok"] and answer["code"] == "refused" and "without a budget" in answer["error"], answer


@with_daemon("--budget", "1G")
def who_does_not_fit_is_admitted_by_force(daemon):
    daemon.budget = BUDGET
    first = admit(daemon, "first", uses=GIB, reservation=700 * MIB)
    machine = Machine(daemon, "second", limit=daemon_harness.NOT_STARTED, connect=False)
    answer, _ = daemon.admit("second", ram=GIB, agent=machine, reservation_bytes=700 * MIB)
    assert not answer["ok"] and "does not fit: 700 MiB for it" in answer["error"], answer
    answer, _ = daemon.admit("second", ram=GIB, agent=machine, reservation_bytes=700 * MIB, force=True)
    assert answer["ok"], answer
    assert 'admitted by force: machine "second" does not fit' in daemon.logged()
    daemon.until(lambda: half(first) and half(machine))
    answer = daemon.call("admit", name="third", ram_bytes=GIB, pid=machine.pid, force=7)
    assert not answer["ok"] and '"force" must be true or false' in answer["error"], answer


@with_daemon("--budget", "1G")
def the_command_line_tool_plans(daemon):
    def plan(*words, status=0):
        process = subprocess.Popen([OVERBOOK, "plan", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
        daemon.until(lambda: process.poll() is not None)
        out, error = process.communicate()
        assert process.returncode == status and error.count("\n") == (status > 0), (words, out, error)
        return out + error
    daemon.budget = BUDGET
    admit(daemon, "web", uses=100 * MIB)
    daemon.until(lambda: seen(daemon, "web"))
    young = admit(daemon, "young", uses=100 * MIB, samples=5)
    shown = plan("--like", "web", "--count", "0")
    assert "too young to be believed: of 1 it is not known yet" in shown, shown
    young.die()
    daemon.until(lambda: len(daemon.call("ps")["machines"]) == 1)
    shown = plan("--like", "web", "--count", "3")
    assert "not sure: before anybody lacks something, for " in shown and "too young" not in shown, shown
    assert "3 new: each uses" in shown and "nobody would lack what it uses" in shown and "\nadmitted: 64 MiB" in shown, shown
    shown = plan("--memory", "2G", "--reservation", "900M", "--shares", "500", "--limit", "1.5G", "--count", "2")
    assert "2 new: each uses all of its RAM" in shown and "not admitted: 1.8 GiB would be guaranteed, of a budget of 1 GiB" in shown, shown
    assert json.loads(plan("--memory", "64M", "--json"))["newcomers"]["count"] == 1
    assert "how large the new machines are is not said" in plan(status=2)
    for words, wrong in ((("--memory", "x"), "--memory x: must be a size from 1 B to 64 PiB"), (("--memory", "0"), "--memory 0: must be"),
                         (("--memory", "1G", "--limit", "1M"), "--limit 1M: must be a size from 8 MiB"),
                         (("--memory", "1G", "--shares", "0"), "--shares 0: must be a number from 1 to 1000000"),
                         (("--memory", "1G", "--reservation", "2G"), "--reservation (2 GiB) is more than --memory (1 GiB)"),
                         (("--like", "web", "--reservation", "64M", "--limit", "32M"), "--reservation (64 MiB) is more than --limit (32 MiB)"),
                         (("--like", "my vm"), '"my vm" is not a machine\'s name')):
        assert wrong in plan(*words, status=2), words
    assert "--count many: must be a number from 0 to 1000000" in plan("--memory", "1G", "--count", "many", status=2)
    assert "there is no machine" in plan("--like", "nobody", status=4)
    assert plan("--help").startswith("Usage: overbook plan")


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
