#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What overbookd does about balloons: test_daemon_balloon.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays the agents,
balloon_harness.py their guests."""
import json
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from balloon_harness import AUTO, DEFAULT, DEVICE, DRIVER, FIXED, GIB, LOOKED, OFF, WELL, Machine
from daemon_harness import FIELDS, MIB, Agent, Client, main, refused, rewrite, test, with_daemon, with_settings

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None


def shown(daemon, name="web"):
    return daemon.machine(name)["balloon"]


def means(daemon, name="web"):
    return daemon.call("stats", name=name)["means"]


def until(daemon, condition, seconds=20):
    daemon.until(condition, seconds)


def cut(daemon, machine, maximum):
    """Returns the limit as it is ordered before overbookd does anything else: the maximum, unless the balloon comes first."""
    answer = daemon.call("limit", name=machine.name, maximum_bytes=maximum)
    assert answer["ok"], answer
    return answer["limit_bytes"]


def wait(daemon, command, **members):
    """For how many seconds overbookd has waited before it answered, for certain: it tells of that five times a second at most. On a busy host
    it was longer."""
    client = Client(daemon)
    client.send(command, **members)
    answer = client.answer(60)
    client.close()
    assert answer["ok"], answer
    return len(client.progress) / 5


@with_daemon()
def nothing_is_done_to_a_balloon_that_nobody_wants_driven(daemon):
    old = Machine(daemon, "old", says=False)
    machine = Machine(daemon, "web")
    until(daemon, lambda: machine.told)
    daemon.serve_for(2.5)
    assert machine.told == [(DEFAULT, 0, 0, 0, 10000)], machine.told
    assert not old.told
    balloon = shown(daemon)
    assert balloon["mode"] == "off" and balloon["state"] == "empty" and balloon["floor_bytes"] == GIB // 100 * 25, balloon
    assert balloon["device"] and balloon["driver"] and balloon["reports_free_pages"], balloon
    # What others have put there stays.
    machine.shown &= ~DRIVER
    machine.held = 100 * MIB
    daemon.serve_for(2.5)
    assert len(machine.told) == 1 and shown(daemon)["held_bytes"] == 100 * MIB and shown(daemon)["driver"] is False
    machine.shown = LOOKED | DEVICE
    until(daemon, lambda: shown(daemon)["driver"] is None)
    machine.shown = LOOKED
    until(daemon, lambda: shown(daemon)["device"] is False)
    machine.shown = 0
    until(daemon, lambda: shown(daemon)["device"] is None)


@with_daemon()
def a_size_is_reached_in_steps_and_off_gives_back(daemon):
    machine = Machine(daemon, "web")
    until(daemon, lambda: machine.told)
    answer = daemon.call("balloon", name="web", mode="fixed", size_bytes=512 * MIB)
    assert answer["ok"] and answer["balloon"]["mode"] == "fixed" and answer["balloon"]["size_bytes"] == 512 * MIB, answer
    until(daemon, lambda: machine.held == 512 * MIB, 40)
    targets = [order[3] for order in machine.told]
    # A sixteenth of it, and then up to a quarter, since it has so much free.
    assert targets[1] == 64 * MIB and all(0 <= b - a <= 256 * MIB for a, b in zip(targets, targets[1:])), targets
    assert machine.told[-1] == (FIXED, 1, 512 * MIB, 512 * MIB, 1000)
    until(daemon, lambda: shown(daemon)["state"] == "holding")
    assert shown(daemon)["arrived_bytes"] == 512 * MIB
    # No further than the guest bears.
    assert daemon.call("balloon", name="web", mode="fixed", size_bytes=256 * MIB)["ok"]
    until(daemon, lambda: shown(daemon)["held_bytes"] > 740 * MIB, 40)
    daemon.serve_for(3)
    assert machine.held <= GIB - machine.use - 32 * MIB
    machine.use = 300 * MIB
    until(daemon, lambda: shown(daemon)["state"] == "easing")
    until(daemon, lambda: machine.held < 700 * MIB)
    assert shown(daemon)["eased"] >= 1
    assert daemon.call("balloon", name="web", mode="off")["ok"]
    until(daemon, lambda: machine.held == 0 and machine.told[-1] == (OFF, 0, 0, 0, 10000))
    assert shown(daemon)["state"] == "empty" and shown(daemon)["mode"] == "off"


@with_daemon()
def a_size_that_is_revoked_while_it_is_under_way(daemon):
    machine = Machine(daemon, "web")
    until(daemon, lambda: machine.told)
    machine.is_busy = True
    assert daemon.call("balloon", name="web", mode="fixed", size_bytes=512 * MIB)["ok"]
    until(daemon, lambda: machine.told[-1] == (FIXED, 1, 512 * MIB, 64 * MIB, 1000))
    assert daemon.call("balloon", name="web", mode="off")["ok"]
    until(daemon, lambda: machine.told[-1] == (OFF, 0, 0, 0, 10000))
    # Only now QEMU does what it was asked first.
    machine.target, machine.is_busy = 64 * MIB, False
    until(daemon, lambda: machine.held > 0)
    until(daemon, lambda: machine.held == 0 and machine.told[-1] == (OFF, 0, 0, 0, 10000))


@with_daemon()
def a_cut_is_first_the_balloons(daemon):
    machine = Machine(daemon, "web", use=400 * MIB, caches=600 * MIB, mode=AUTO)
    until(daemon, lambda: machine.told and machine.cost == 1000 * MIB)
    assert machine.told[-1][:2] == (AUTO, 1) and machine.told[-1][3:] == (0, 5000)
    before = len(machine.limits)
    assert cut(daemon, machine, 800 * MIB) >= 1000 * MIB
    until(daemon, lambda: machine.limit == 800 * MIB, 30)
    limits = machine.limits[before:]
    # It comes down with what the machine costs; nothing was evicted.
    assert len(limits) >= 3 and limits[0] >= 1000 * MIB and all(a >= b for a, b in zip(limits, limits[1:])), limits
    assert machine.held >= GIB - 800 * MIB, machine.held
    until(daemon, lambda: shown(daemon)["state"] == "holding")
    held = machine.held
    daemon.serve_for(3)
    assert machine.held == held and shown(daemon)["state"] == "holding", (held, machine.held, shown(daemon))
    # There is room again.
    assert daemon.call("limit", name="web", maximum_bytes=0)["ok"]
    until(daemon, lambda: machine.held == 0 and machine.told[-1][3:] == (0, 5000), 30)


@with_daemon()
def a_cut_does_not_wait_for_ever(daemon):
    machine = Machine(daemon, "web", use=200 * MIB, caches=600 * MIB, mode=AUTO, speed=3 * MIB)
    until(daemon, lambda: machine.told and machine.cost == 800 * MIB)
    began = time.monotonic()
    waited = wait(daemon, "limit", name="web", maximum_bytes=400 * MIB, wait=True)
    assert time.monotonic() - began >= 10 and waited < 15, waited
    assert machine.limit == 400 * MIB and 0 < machine.held < GIB - 400 * MIB, machine.held
    # The next one is immediate, and no more is asked of a guest that has given so little.
    assert cut(daemon, machine, 300 * MIB) == 300 * MIB
    turn, target = means(daemon)["turn"], machine.target
    assert not turn["guest_first"] and turn["because"] == "it gave little of what a cut waited for" and turn["losses"] == 1, turn
    assert 0 < turn["wait_ms"] <= 10000, turn
    daemon.serve_for(2.5)
    assert machine.target == target and not means(daemon)["turn"]["guest_first"]
    # It is tried again, and then not for twice as long.
    until(daemon, lambda: means(daemon)["turn"]["guest_first"])
    assert means(daemon)["turn"]["because"] is None
    assert cut(daemon, machine, 200 * MIB) > 200 * MIB
    until(daemon, lambda: not means(daemon)["turn"]["guest_first"], 30)
    turn = means(daemon)["turn"]
    assert turn["losses"] == 2 and 15000 < turn["wait_ms"] <= 20000 and machine.limit == 200 * MIB, turn


class Missing(Machine):
    """Its guest misses what is in its balloon: not so much that it suffers at once. What is evicted is missed by nobody."""

    began = None

    def begin(self):
        self.began = time.monotonic()

    def report(self):
        if self.began:
            self.numbers["guest_major_faults"] = int(150 * (time.monotonic() - self.began))
        super().report()


@with_daemon()
def a_balloon_that_costs_more_than_eviction_is_not_asked_for_more(daemon):
    machine = Missing(daemon, "web", use=400 * MIB, caches=600 * MIB, mode=AUTO)
    until(daemon, lambda: machine.told and machine.cost == 1000 * MIB)
    assert cut(daemon, machine, 800 * MIB) >= 1000 * MIB
    until(daemon, lambda: machine.limit == 800 * MIB and shown(daemon)["state"] == "holding", 30)
    found = means(daemon)
    assert found["turn"]["guest_first"] and found["turn"]["losses"] == 0, found
    assert found["applications"]["lost_ns_a_second"] is None and found["applications"]["price_ns"] is None, found
    assert found["balloon"]["asked_bytes"] >= found["balloon"]["came_bytes"] > 180 * MIB and found["balloon"]["lost_ns_a_second"] == 0, found
    # A part of it is away otherwise, and stays there.
    machine.numbers.update(swapped_bytes=300 * MIB, swap_out_pages=300 * 256)
    machine.begin()
    until(daemon, lambda: not means(daemon)["turn"]["guest_first"], 60)
    found = means(daemon)
    assert found["turn"]["because"] == "it costs more than eviction" and found["turn"]["losses"] == 1, found
    assert found["balloon"]["price_ns"] > found["swap"]["price_ns"] == 0 and found["swap"]["asked_bytes"] >= 200 * MIB, found
    assert shown(daemon)["eased"] == 0, shown(daemon)
    target = machine.target
    assert cut(daemon, machine, 600 * MIB) == 600 * MIB
    daemon.serve_for(2.5)
    assert machine.target <= target, (machine.target, target)


@with_daemon()
def a_cut_does_not_wait_for_a_balloon_that_cannot(daemon):
    full = Machine(daemon, "full", use=1000 * MIB, mode=AUTO)
    bare = Machine(daemon, "bare", caches=600 * MIB, mode=AUTO, flags=WELL & ~DRIVER)
    none = Machine(daemon, "none", caches=600 * MIB, mode=AUTO, flags=LOOKED)
    off = Machine(daemon, "off", caches=600 * MIB, mode=OFF)
    old = Machine(daemon, "older", caches=600 * MIB, says=False)
    mute = Machine(daemon, "mute", caches=600 * MIB, mode=AUTO)
    mute.known = 0
    until(daemon, lambda: full.told and bare.told and none.told and off.told and mute.told and old.cost)
    until(daemon, lambda: shown(daemon, "bare")["state"] == "no driver")
    for machine in bare, none, off, old:
        assert cut(daemon, machine, 400 * MIB) == 400 * MIB, machine.name
    # These have their chance, of three seconds.
    for machine in full, mute:
        waited = wait(daemon, "limit", name=machine.name, maximum_bytes=400 * MIB, wait=True)
        assert waited < 6, (machine.name, waited)
    assert not any(machine.held for machine in (bare, none, off, old, full, mute))


@with_daemon("--budget", "1G", "--balloon", "auto")
def a_newcomer_waits_a_little_longer(daemon):
    daemon.budget = GIB
    machine = Machine(daemon, "web", ram=GIB, use=200 * MIB, caches=750 * MIB, limit=daemon_harness.NOT_STARTED, connect=False, speed=2 * MIB)
    answer, _ = daemon.admit("web", ram=GIB, agent=machine)
    until(daemon, lambda: machine.limit >= 950 * MIB and machine.cost == 950 * MIB and machine.told)
    assert machine.told[-1][:2] == (DEFAULT, 1)
    other = Agent(daemon, "db", 512 * MIB, limit=daemon_harness.NOT_STARTED, connect=False)
    began = time.monotonic()
    waited = wait(daemon, "admit", name="db", ram_bytes=other.ram, pid=other.pid)
    assert time.monotonic() - began >= 3 and waited < 6, waited
    other.limit = daemon.machine("db")["limit_bytes"]
    other.connect()
    until(daemon, lambda: other.limit >= 400 * MIB, 30)


def exchange(daemon, *machines):
    """Another overbookd from now on."""
    daemon.kill()
    until(daemon, lambda: all(machine.closed for machine in machines))
    daemon.start()
    for machine in machines:
        machine.disconnect()
        machine.told.clear()
        machine.connect()


@with_settings("BALLOON=auto\n")
def a_new_overbookd_takes_up_what_it_finds(daemon, config):
    fixed, auto = Machine(daemon, "fixed"), Machine(daemon, "auto", caches=800 * MIB)
    until(daemon, lambda: fixed.told and auto.told)
    assert daemon.call("balloon", name="fixed", mode="fixed", size_bytes=600 * MIB)["ok"]
    assert daemon.call("limit", name="auto", maximum_bytes=700 * MIB)["ok"]
    until(daemon, lambda: fixed.held == 424 * MIB and auto.held > 300 * MIB and auto.held == auto.target and auto.limit == 700 * MIB, 40)
    # In the middle of a step, too.
    assert daemon.call("balloon", name="fixed", mode="fixed", size_bytes=400 * MIB)["ok"]
    until(daemon, lambda: fixed.target > 424 * MIB)
    held = auto.held
    exchange(daemon, fixed, auto)
    until(daemon, lambda: fixed.held == 624 * MIB, 40)
    assert min(order[3] for order in fixed.told) > 424 * MIB, fixed.told
    assert auto.held == held and shown(daemon, "auto")["mode"] == "auto", (auto.held, held)
    # The next one is told to leave balloons alone: what Overbook has put there comes back.
    rewrite(config, "BALLOON=off\n")
    exchange(daemon, fixed, auto)
    until(daemon, lambda: auto.held == 0 and auto.told[-1] == (DEFAULT, 0, 0, 0, 10000), 40)
    assert fixed.held == 624 * MIB and shown(daemon, "fixed")["mode"] == "fixed"
    # An agent that comes back to the same overbookd is told what was wanted meanwhile.
    auto.disconnect()
    until(daemon, lambda: daemon.state("auto") == "lost")
    assert daemon.call("balloon", name="auto", mode="auto")["code"] == "failed"
    rewrite(config, "BALLOON=auto\nBALLOON_FLOOR=500M\n")
    daemon.reload()
    auto.connect()
    until(daemon, lambda: auto.told[-1][1] == 1)
    # The floor is above what the guest was left: it gets it back.
    until(daemon, lambda: fixed.held == 524 * MIB)
    assert shown(daemon, "fixed")["floor_bytes"] == 500 * MIB
    for line, why in (("BALLOON=on", 'BALLOON "on" is neither "auto" nor "off"'), ("BALLOON_FLOOR=0%", 'BALLOON_FLOOR "0%"'),
                      ("BALLOON_FLOOR=101%", 'BALLOON_FLOOR "101%"'), ("BALLOON_FLOOR=63M", "at least 64M")):
        rewrite(config, line + "\n")
        before = len(daemon.told)
        daemon.reload()
        assert "not reloaded: " in daemon.told[before:] and why in daemon.told[before:], (line, daemon.told[before:])


@with_daemon()
def guests_that_are_not_what_they_say(daemon):
    stuck, liar, mad = Machine(daemon, "stuck", speed=0), Machine(daemon, "liar"), Machine(daemon, "mad")
    until(daemon, lambda: stuck.told and liar.told and mad.told)
    for name in ("stuck", "liar", "mad"):
        assert daemon.call("balloon", name=name, mode="fixed", size_bytes=512 * MIB)["ok"]

    def lie():
        liar.take_order()
        liar.held = float(liar.target)
        fields = dict(ram_bytes=GIB, cost_bytes=GIB, balloon_flags=WELL, balloon_bytes=liar.target, balloon_target_bytes=liar.target, machine_bytes=GIB,
                      guest_updates=liar.updates, guest_known=127, guest_available_bytes=900 * MIB, guest_free_bytes=900 * MIB)
        liar.updates += 1
        values = [fields.get(name, 0) for name in FIELDS]
        liar.say_statistics(values)
    liar.report = lie

    def rave():
        mad.updates += 1
        values = [(2 ** 64 - 1) // (1 + (i * 7 + mad.updates * 13) % 97) for i in range(len(FIELDS))]
        mad.say_statistics(values)
    mad.report = rave
    until(daemon, lambda: shown(daemon, "stuck")["state"] == "stuck", 30)
    until(daemon, lambda: stuck.target == 0)
    assert shown(daemon, "stuck")["stuck"] == 1
    until(daemon, lambda: shown(daemon, "liar")["state"] == "stuck", 40)
    until(daemon, lambda: liar.target == 0)
    assert shown(daemon, "mad")["target_bytes"] % MIB == 0
    assert daemon.call("stats", name="mad")["ok"]


@with_daemon()
def requests_are_checked(daemon):
    machine, none, old = Machine(daemon, "web"), Machine(daemon, "none", flags=LOOKED), Machine(daemon, "old", says=False, flags=0)
    until(daemon, lambda: machine.told and none.told and daemon.state("old") == "running")
    daemon.serve_for(0.2)

    def is_refused(code, words, **members):
        answer = daemon.call("balloon", **members)
        assert not answer["ok"] and answer["code"] == code and words in answer["error"], answer
    is_refused("bad-request", '"name"')
    is_refused("no-machine", "there is no machine", name="nobody")
    is_refused("bad-request", '"mode" must be "auto", "off" or "fixed"', name="web", mode="on")
    is_refused("bad-request", '"mode"', name="web", mode=7)
    is_refused("bad-request", '"size_bytes"', name="web", mode="fixed")
    is_refused("bad-request", '"size_bytes"', name="web", mode="auto", size_bytes=1)
    is_refused("bad-request", '"size_bytes"', name="web", size_bytes=1 << 30)
    is_refused("bad-request", '"size_bytes"', name="web", mode="fixed", size_bytes=-1)
    is_refused("bad-request", 'does not know "size"', name="web", size=1)
    is_refused("refused", "is not between 256 MiB, below which no balloon is driven, and its 1 GiB", name="web", mode="fixed", size_bytes=100 * MIB)
    is_refused("refused", "2 GiB for the guest", name="web", mode="fixed", size_bytes=2 * GIB)
    is_refused("refused", "has no virtio-balloon", name="none", mode="auto")
    is_refused("failed", "does not drive balloons", name="old", mode="auto")
    assert daemon.call("balloon", name="none", mode="off")["ok"]
    answer = daemon.call("balloon", name="old")
    assert answer["ok"] and answer["balloon"]["device"] is None, answer
    machine.disconnect()
    until(daemon, lambda: daemon.state("web") == "lost")
    is_refused("failed", "is lost: its agent is not connected", name="web", mode="auto")


@test
def options_are_checked():
    assert '--balloon "on" is neither "auto" nor "off"' in refused("--balloon", "on")
    assert "--balloon-floor \"20\" is neither from 1% to 100%" in refused("--balloon-floor", "20")
    assert "--balloon-floor and --config exclude each other" in refused("--balloon-floor", "20%", "--config", "/etc/x")


@with_daemon()
def the_command_line_tool_shows_it_and_changes_it(daemon):
    machine = Machine(daemon, "web")
    until(daemon, lambda: machine.told)

    def balloon(*words, status=0):
        return overbook("balloon", *words, status=status)

    def overbook(*words, status=0):
        process = subprocess.Popen([OVERBOOK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
        daemon.until(lambda: process.poll() is not None)
        out, error = process.communicate()
        assert process.returncode == status, (words, out, error)
        return out + error
    assert balloon("web").startswith("web: off, empty\n  0 B in the balloon"), balloon("web")
    assert "web: fixed, 768 MiB for the guest" in balloon("web", "768M")
    until(daemon, lambda: machine.held == 256 * MIB, 40)
    assert json.loads(balloon("web", "--json"))["balloon"]["held_bytes"] == 256 * MIB
    until(daemon, lambda: means(daemon)["balloon"]["came_bytes"] >= 192 * MIB)
    stats = overbook("stats", "web")
    assert "means             asked       came       held       lost  for a GiB" in stats and "cuts do not wait" not in stats, stats
    assert "\n  swap                0 B        0 B        0 B      0.000      0.000\n" in stats, stats
    machine.shown &= ~DRIVER
    until(daemon, lambda: shown(daemon)["state"] == "no driver")
    assert "its guest has no driver for the balloon" in balloon("web", "auto")
    assert "a machine is needed" in balloon(status=2)
    assert '"lots" is not a size' in balloon("web", "lots", status=2)
    assert "is not between" in balloon("web", "10M", status=5)
    assert "there is no machine" in balloon("nobody", "off", status=4)


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
