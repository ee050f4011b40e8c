#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What overbookd does with agents in guests: test_daemon_guest.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays the machines'
agents, and here also guests with applications, which give and take memory as they are told, or do not."""
import os
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import BALLOON, BALLOON_SET, FIELDS, GUEST, MIB, STOPPED, Agent, Daemon, Stuck, ceiling, main, message, rewrite, test, text, with_daemon, with_settings
from guest_frames import APP, FINAL, FRAME, GONE, HELLO, MEMORY, TARGET, WELCOME, app_payload, frame, parse

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None

OFF, FIXED, AUTO = 1, 2, 3
WELL = 127  # of balloon_flags
GIB = 1024 * MIB
ANEW = 1


class App:
    """Uses `full` less what it has given, never less than `floor`; gives `speed` a second."""

    def __init__(self, name, full, floor=0, speed=GIB, pain=20, kind=1):
        self.name, self.full, self.floor, self.speed, self.pain, self.kind = name, full, floor, speed, pain, kind
        self.target, self.given, self.answers, self.status, self.final, self.told, self.deaf, self.lost = 0, 0.0, 0, 0, False, [], False, False

    def live(self, elapsed):
        goal = min(self.target, self.full - self.floor)
        self.given = goal if self.given > goal else min(goal, self.given + self.speed * elapsed)

    def frame(self, number, session, flags=0):
        flags |= FINAL if self.final or self.target > self.full - self.floor == int(self.given) else 0
        return frame(APP, app_payload(self.name, number, self.kind, self.pain, flags, self.status, self.answers, self.full - int(self.given),
                                      self.full - self.floor, self.target, int(self.given)), session)


class Machine(Agent):
    """Its guest has applications, uses `use` besides, and keeps `caches`. What its agent in the guest says is relayed once overbookd asks."""

    def __init__(self, daemon, name="web", ram=GIB, use=100 * MIB, caches=0, apps=(), session=1, mode=0, **options):
        self.use, self.caches, self.apps, self.session, self.mode = use, caches, list(apps), session, mode
        self.target, self.held, self.size, self.updates, self.relayed, self.heard, self.raw = 0, 0.0, 0, 0, False, [], b""
        self.at, self.said, self.mute, self.calls = time.monotonic(), 0.0, False, 0
        self.waits, self.waited = 0.06, 0.0  # for memory: so much of the time, and in all
        self.churn, self.faults = 0, 0.0  # pages that come back a second, and in all
        self.late, self.past = 0.0, []  # its balloon tells what was available so many seconds ago
        self.reports, self.touched = True, 0  # what becomes free the host has at once
        self.gathers = self.will_gather = self.toggles = False  # moves what applications have given together: now, when told; says so anew in each report
        self.has_come = self.unseen = False  # what is in the balloon has come with the machine, and its agent has not looked since
        super().__init__(daemon, name, ram=ram, **options)

    def hello(self, **other):
        self.relayed = False
        super().hello(**other)
        self.send(message(BALLOON_SET, struct.pack("<IIQQ", self.mode, 0, self.size, self.target)))

    def obey(self, kind, sequence, payload):
        if kind != BALLOON:
            super().obey(kind, sequence, payload)
            return
        self.mode, flags, self.size, target, look, zero = struct.unpack("<IIQQII", payload)
        if flags & 1:
            self.target = target

    def hear_host(self, data):
        first, self.relayed = not self.relayed, True
        if first:
            self.say(frame(HELLO, b"overbook-guest test", self.session), flags=ANEW)
            self.report_guest()
        for at in range(0, len(data), FRAME):
            found = parse(data[at:at + FRAME])
            kind, session = found["type"], found["session"]
            self.calls += kind == WELCOME and session == 0
            if kind == WELCOME and session == 0 and not first:
                self.say(frame(HELLO, b"overbook-guest test", self.session))
            if session:
                self.heard.append((kind, session))
            if kind == TARGET and session == self.session:
                assert found["deadline"] == 10000
                self.tell(self.apps[found["app"] - 1], found["give"], found["sequence"])

    def tell(self, app, give, number):
        app.told.append(give)
        self.gathers = self.gathers or self.will_gather
        if not app.deaf:
            app.target, app.answers = give, number

    def say(self, data, flags=0):
        if self.sock and not self.closed and not self.mute:
            self.send(message(GUEST, struct.pack("<II", flags, len(data)) + data))

    def used(self):
        return self.use + sum(app.full - int(app.given) for app in self.apps)

    def report_guest(self):
        available = max(0, self.ram - int(self.held) - self.used())
        for flags in [1, 3] if self.toggles else [3 if self.gathers else 1]:
            self.say(frame(MEMORY, struct.pack("<II8Q", flags, len(self.apps), self.ram, max(0, available - self.caches), available, self.caches,
                                               0, 0, int(self.waited * 1e6), 0), self.session))
        for number, app in enumerate(self.apps, 1):
            if not app.lost:
                self.say(app.frame(number, self.session))

    def report(self):
        now = time.monotonic()
        elapsed, self.at = now - self.at, now
        self.waited += self.waits * elapsed
        for app in self.apps:
            app.live(elapsed)
        way = GIB * elapsed
        self.held = min(self.target, self.held + way) if self.held < self.target else max(self.target, self.held - way)
        held = int(self.held)
        available = max(0, self.ram - held - self.used())
        caches = min(self.caches, available)
        self.past = [(at, value) for at, value in self.past if now - at < self.late] + [(now, available)]
        told = self.past[0][1]
        touched = self.used() + caches
        if not self.reports:
            touched = max(touched, min(self.touched, self.ram - held))
        self.touched = touched
        self.updates += 1
        self.faults += self.churn * elapsed
        self.cost = min(touched, self.limit or ceiling(self.ram))
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit, cost_bytes=self.cost, swapped_bytes=touched - self.cost, ballooned_bytes=held,
                      faults_swapped=int(self.faults),
                      absent_bytes=self.ram - held - touched, balloon_flags=WELL, balloon_bytes=0 if self.unseen else held, balloon_target_bytes=0 if self.has_come else self.target,
                      machine_bytes=self.ram, guest_updates=self.updates, guest_known=127, guest_total_bytes=self.ram - held,
                      guest_free_bytes=max(0, told - caches), guest_available_bytes=told, guest_caches_bytes=caches)
        values = [fields.get(name, 0) % 2 ** 64 for name in FIELDS]
        self.say_statistics(values)
        if self.relayed and now - self.said > 0.2:
            self.said = now
            self.report_guest()


def guest(daemon, name="web"):
    return daemon.call("balloon", name=name)["guest"]


def apps(daemon, name="web"):
    found = guest(daemon, name)
    return {app["name"]: app for app in found["applications"]} if found else {}


def state(daemon, app):
    return apps(daemon).get(app, {}).get("state")


def shrink(daemon, size, name="web"):
    answer = daemon.call("balloon", name=name, mode="fixed", size_bytes=size)
    assert answer["ok"], answer


@with_daemon()
def what_a_guest_says_is_shown(daemon):
    machine = Machine(daemon, apps=[App("cache", 300 * MIB, 100 * MIB), App("db", 200 * MIB, 50 * MIB, pain=60, kind=3)])
    bare = Machine(daemon, "bare")
    bare.mute = True
    daemon.until(lambda: len(apps(daemon)) == 2)
    found = guest(daemon)
    assert found["program"] == "overbook-guest test" and found["total_bytes"] == GIB and found["refused"] == 0, found
    assert apps(daemon)["db"] == dict(name="db", kind="mariadb", pain=60, state="resting", used_bytes=200 * MIB, could_bytes=150 * MIB,
                                      target_bytes=0, given_bytes=0, short=0, error=None), found
    assert daemon.call("stats", name="web")["guest"]["applications"] == found["applications"]
    assert guest(daemon, "bare") is None
    daemon.until(lambda: (guest(daemon)["pressure_some_permille"] or 0) > 50)
    daemon.until(lambda: machine.heard)
    assert machine.heard[0] == (WELCOME, 1), machine.heard
    daemon.serve_for(2)
    assert [kind for kind, _ in machine.heard] == [WELCOME], machine.heard


@with_daemon()
def applications_give_before_caches_do_and_get_it_back(daemon):
    cache, db = App("cache", 300 * MIB, 100 * MIB, speed=60 * MIB), App("db", 300 * MIB, 100 * MIB, pain=60, speed=60 * MIB)
    machine = Machine(daemon, use=100 * MIB, caches=200 * MIB, apps=[db, cache])
    daemon.until(lambda: len(apps(daemon)) == 2)
    # 324 MiB are available, 200 of them caches, and 64 are to stay.
    shrink(daemon, 640 * MIB)
    daemon.until(lambda: cache.told, 30)
    daemon.until(lambda: state(daemon, "cache") == "given" and machine.held > 380 * MIB, 60)
    assert not db.told or sum(db.told) == 0, (db.told, cache.told)
    assert 120 * MIB <= cache.given <= 200 * MIB, cache.given
    assert daemon.call("balloon", name="web", mode="off")["ok"]
    daemon.until(lambda: machine.held == 0 and cache.given == 0 and state(daemon, "cache") == "resting", 30)
    # Host memory first.
    assert cache.told[-1] == 0


@with_settings("BUDGET=4G\n")
def one_that_stalls_is_asked_for_no_more_and_gets_some_back(daemon, config):
    cache = App("cache", 300 * MIB, 100 * MIB)
    machine = Machine(daemon, use=100 * MIB, caches=600 * MIB, apps=[cache])
    stuck = Stuck(daemon, "stuck", ram=GIB)
    daemon.until(lambda: len(apps(daemon)) == 1 and stuck.cost == GIB)
    shrink(daemon, 640 * MIB)
    daemon.until(lambda: machine.held == 384 * MIB, 40)
    assert not guest(daemon)["stalls"]

    def balloon():
        return daemon.call("balloon", name="web")["balloon"]
    # While memory is low, what is in the balloon stays there; and more of it was wanted.
    rewrite(config, "BUDGET=512M\n")
    daemon.reload()
    daemon.until(lambda: daemon.call("ps")["memory"]["state"] == "low")
    machine.waits = 1.0
    daemon.until(lambda: guest(daemon)["stalls"] and balloon()["state"] == "easing")
    shrink(daemon, 340 * MIB)
    daemon.serve_for(5)
    assert machine.held == 384 * MIB and balloon()["eased"] == 0 and not cache.told, (machine.held, balloon(), cache.told)
    rewrite(config, "BUDGET=4G\n")
    daemon.reload()
    targets = [machine.target]

    def is_back():
        if machine.target != targets[-1]:
            targets.append(machine.target)
        return len(targets) == 4
    daemon.until(is_back, 40)
    assert targets == [384 * MIB, 320 * MIB, 256 * MIB, 192 * MIB], targets
    assert daemon.call("ps")["memory"]["state"] not in ("hard", "low") and not cache.told, cache.told
    # It tells no more.
    machine.mute = True
    daemon.until(lambda: not guest(daemon)["stalls"], 15)
    assert guest(daemon) and not cache.told, guest(daemon)


@with_daemon()
def partial_compliance_is_worked_with(daemon):
    stubborn = App("stubborn", 300 * MIB, 100 * MIB, speed=2 * MIB)
    refusing = App("refusing", 200 * MIB, 50 * MIB, pain=30, speed=0)
    refusing.final, refusing.status = True, -13
    willing = App("willing", 200 * MIB, 50 * MIB, pain=60)
    machine = Machine(daemon, apps=[stubborn, refusing, willing], use=100 * MIB)
    daemon.until(lambda: len(apps(daemon)) == 3)
    # 224 MiB are available, 160 of them to spare.
    shrink(daemon, 724 * MIB)
    began = time.monotonic()
    daemon.until(lambda: state(daemon, "stubborn") == "short", 40)
    assert time.monotonic() - began > 9
    daemon.until(lambda: machine.held >= 295 * MIB, 60)
    found = apps(daemon)
    assert 100 * MIB <= willing.given <= 150 * MIB and found["willing"]["state"] == "given", found
    assert found["stubborn"]["target_bytes"] == found["stubborn"]["given_bytes"] < 40 * MIB, found
    assert found["refusing"]["error"] == "Permission denied" and found["refusing"]["given_bytes"] == 0, found
    assert daemon.call("balloon", name="web", mode="off")["ok"]
    daemon.until(lambda: machine.held == 0 and all(app["target_bytes"] == 0 for app in apps(daemon).values()), 30)


@with_daemon()
def a_cut_waits_for_applications(daemon):
    cache = App("cache", 700 * MIB, 100 * MIB, speed=80 * MIB)
    machine = Machine(daemon, use=150 * MIB, apps=[cache], mode=AUTO)
    daemon.until(lambda: len(apps(daemon)) == 1 and machine.cost == 850 * MIB)
    before = len(machine.limits)
    assert daemon.call("limit", name="web", maximum_bytes=600 * MIB)["ok"]
    daemon.until(lambda: machine.limit == 600 * MIB, 30)
    limits = machine.limits[before:]
    assert len(limits) >= 3 and all(a >= b for a, b in zip(limits, limits[1:])), limits
    assert cache.given > 200 * MIB, (cache.given, limits)
    daemon.until(lambda: state(daemon, "cache") == "given")
    told = list(cache.told)
    daemon.serve_for(6)
    # Nothing swings.
    assert len(cache.told) - len(told) <= 1, cache.told
    assert daemon.call("limit", name="web", maximum_bytes=0)["ok"]
    daemon.until(lambda: machine.held == 0 and cache.given == 0, 30)


@with_daemon()
def a_balloon_waits_for_what_is_moved_together(daemon):
    for name in "web", "ever", "toggles":
        cache = App("cache", 700 * MIB, 100 * MIB)
        machine = Machine(daemon, name, use=150 * MIB, apps=[cache], mode=AUTO)
        machine.reports, machine.will_gather = False, True
        daemon.until(lambda: len(apps(daemon, name)) == 1 and machine.cost == 850 * MIB)
        assert daemon.call("limit", name=name, maximum_bytes=600 * MIB)["ok"]
        daemon.until(lambda: cache.told, 30)
        began = time.monotonic()
        daemon.serve_for(1.5)
        # It had what was free before.
        held = machine.target
        daemon.serve_for(1)
        assert cache.given > 200 * MIB and machine.target == held < 120 * MIB and machine.limit > 800 * MIB, (cache.given, held, machine.target)
        machine.will_gather, machine.toggles = False, name == "toggles"
        machine.gathers = name != "web"
        daemon.until(lambda: machine.held > 200 * MIB, 30)
        # Not for ever.
        assert name != "ever" or time.monotonic() - began > 5


@with_daemon()
def a_cut_waits_for_what_a_guest_tells_late(daemon):
    cache = App("cache", 700 * MIB, 100 * MIB)
    machine = Machine(daemon, use=260 * MIB, apps=[cache], mode=AUTO)
    machine.late, machine.reports = 2.5, False
    daemon.until(lambda: len(apps(daemon)) == 1 and machine.cost == 960 * MIB)
    assert daemon.call("limit", name="web", maximum_bytes=600 * MIB)["ok"]
    daemon.until(lambda: machine.limit == 600 * MIB, 30)
    assert cache.given > 200 * MIB and machine.held > 60 * MIB, (cache.given, machine.held)


@with_daemon()
def what_was_evicted_and_comes_back_is_asked_for(daemon):
    cache = App("cache", 700 * MIB, 100 * MIB, speed=0)
    machine = Machine(daemon, use=150 * MIB, apps=[cache], mode=AUTO)
    daemon.until(lambda: len(apps(daemon)) == 1 and machine.cost == 850 * MIB)
    assert daemon.call("limit", name="web", maximum_bytes=600 * MIB)["ok"]
    daemon.until(lambda: machine.limit == 600 * MIB and state(daemon, "cache") == "short", 40)
    # It could now, and what is evicted is cold.
    cache.speed = 80 * MIB
    daemon.until(lambda: state(daemon, "cache") == "resting", 40)
    told = len(cache.told)
    daemon.serve_for(5)
    assert cache.given == 0 and len(cache.told) == told, cache.told
    # It is not.
    machine.churn = 2000
    daemon.until(lambda: cache.given > 50 * MIB, 30)
    machine.churn = 0
    # What came back is of late for a while.
    daemon.serve_for(25)
    told = list(cache.told)
    daemon.serve_for(5)
    assert cache.told == told and cache.given > 50 * MIB and state(daemon, "cache") == "given", cache.told
    assert daemon.call("limit", name="web", maximum_bytes=0)["ok"]
    daemon.until(lambda: machine.held == 0 and cache.given == 0, 30)


@test
def a_new_overbookd_takes_up_what_it_finds():
    """It dies while an application is asked, when it has given, and while it takes back."""
    daemon = Daemon()
    try:
        cache = App("cache", 500 * MIB, 100 * MIB, speed=20 * MIB)
        machine = Machine(daemon, use=100 * MIB, apps=[cache])

        def renew():
            daemon.kill()
            daemon.until(lambda: machine.closed)
            daemon.start()
            machine.disconnect()
            machine.connect()
            daemon.until(lambda: daemon.machine("web") and len(apps(daemon)) == 1)

        daemon.until(lambda: len(apps(daemon)) == 1)
        shrink(daemon, 400 * MIB)
        daemon.until(lambda: cache.target > 100 * MIB, 30)
        renew()
        target = cache.target
        cache.speed = 100 * MIB
        daemon.until(lambda: state(daemon, "cache") == "given" and machine.held > 600 * MIB, 90)
        given = cache.given
        assert given >= target * 0.9, (given, target)
        renew()
        daemon.serve_for(4)
        assert state(daemon, "cache") == "given" and abs(cache.given - given) < 8 * MIB, (cache.given, given, cache.told)
        # It is told to take back, and overbookd dies before it has heard that it has.
        cache.deaf = True
        assert daemon.call("balloon", name="web", mode="off")["ok"]
        daemon.until(lambda: cache.told[-1] < given - 50 * MIB, 30)
        cache.deaf = False
        renew()
        daemon.until(lambda: cache.given == 0 and machine.held == 0, 30)
    except BaseException:
        sys.stderr.write(daemon.logged())
        daemon.abandon()
        raise
    daemon.stop()


@with_daemon()
def what_a_migrated_balloon_holds_is_seen_before_anybody_is_told_anything(daemon):
    cache = App("cache", 500 * MIB, 100 * MIB)
    cache.target = cache.given = 300 * MIB
    machine = Machine(daemon, use=100 * MIB, apps=[cache], mode=OFF)
    machine.held, machine.target, machine.has_come, machine.unseen = 400 * MIB, 400 * MIB, True, True
    daemon.until(lambda: state(daemon, "cache") == "given")
    # A balloon that nobody drives is looked at every ten seconds.
    daemon.serve_for(9)
    assert not cache.told, cache.told
    machine.unseen = False
    daemon.until(lambda: daemon.call("balloon", name="web")["balloon"]["held_bytes"] == 400 * MIB)
    daemon.serve_for(11)
    assert not cache.told and state(daemon, "cache") == "given" and cache.given == 300 * MIB, cache.told
    machine.target = 250 * MIB
    daemon.until(lambda: cache.told and cache.told[-1] <= 250 * MIB, 30)
    assert min(cache.told) >= 248 * MIB, cache.told
    machine.target = 0
    daemon.until(lambda: state(daemon, "cache") == "resting" and cache.given == 0, 30)


@with_daemon()
def what_is_lost_on_the_way_is_said_again(daemon):
    cache = App("cache", 500 * MIB, 100 * MIB)
    machine = Machine(daemon, use=100 * MIB, apps=[cache])
    cache.deaf = True
    daemon.until(lambda: len(apps(daemon)) == 1)
    shrink(daemon, 500 * MIB)
    daemon.until(lambda: len(cache.told) >= 2, 30)
    assert cache.told[0] == cache.told[1]
    cache.deaf = False
    daemon.until(lambda: cache.given > 0 and state(daemon, "cache") == "given", 30)


@with_daemon()
def another_session_begins_anew(daemon):
    cache = App("cache", 500 * MIB, 100 * MIB)
    machine = Machine(daemon, use=100 * MIB, apps=[cache])
    daemon.until(lambda: len(apps(daemon)) == 1)
    # What is said in another session without HELLO is not heard, and what is said after it is.
    machine.say(App("stranger", 100 * MIB).frame(9, session=77))
    machine.apps.append(App("next", 100 * MIB))
    daemon.until(lambda: "next" in apps(daemon))
    assert list(apps(daemon)) == ["cache", "next"]
    machine.heard.clear()
    machine.session = 2
    machine.apps = []
    machine.say(frame(HELLO, b"another", 2))
    daemon.until(lambda: guest(daemon)["program"] == "another" and not apps(daemon))
    daemon.until(lambda: (WELCOME, 2) in machine.heard)
    machine.apps = [App("one", 10 * MIB), App("two", 20 * MIB)]
    daemon.until(lambda: len(apps(daemon)) == 2)
    gone = machine.apps.pop()
    machine.say(gone.frame(2, 2, GONE))
    daemon.until(lambda: list(apps(daemon)) == ["one"])
    # One whose end was not heard, nor anything else of it.
    machine.apps.append(App("lost", 10 * MIB))
    daemon.until(lambda: len(apps(daemon)) == 2)
    machine.apps[1].lost, lost_at = True, time.monotonic()
    daemon.until(lambda: list(apps(daemon)) == ["one"], 40)
    assert time.monotonic() - lost_at > 15
    # A guest that says nothing any more has no applications; it is called once, and answers when it goes on.
    machine.mute, calls = True, machine.calls
    daemon.until(lambda: guest(daemon) is None, 40)
    daemon.until(lambda: machine.calls == calls + 1)
    daemon.serve_for(3)
    assert machine.calls == calls + 1, machine.calls
    machine.mute = False
    machine.say(frame(HELLO, b"again", 2))
    daemon.until(lambda: guest(daemon) and guest(daemon)["program"] == "again")


@with_daemon()
def a_guest_of_a_machine_that_is_stopped_falls_silent_too(daemon):
    machine = Machine(daemon, apps=[App("cache", 300 * MIB, 100 * MIB)])
    daemon.until(lambda: len(apps(daemon)) == 1)
    machine.send(message(STOPPED, text("page 7 of region 0 cannot be read")))
    daemon.until(lambda: daemon.state("web") == "stopped")
    machine.mute = True
    daemon.until(lambda: guest(daemon) is None, 40)


@with_daemon("--budget", "4G")
def hostile_guests(daemon):
    daemon.budget = 4 * GIB
    machine = Machine(daemon, apps=[], limit=daemon_harness.NOT_STARTED, connect=False)
    answer, _ = daemon.admit("web", ram=GIB, agent=machine)
    assert answer["ok"], answer
    daemon.until(lambda: machine.relayed)
    daemon.until(lambda: guest(daemon))
    random = __import__("random").Random(1)
    for _ in range(300):
        machine.say(random.randbytes(random.randrange(2048)))
    for number in range(1, 40):
        machine.say(App("app%d" % number, 2**55).frame(number, 1))
    machine.say(frame(APP, b"\xff" * 108, 1) + frame(MEMORY, b"\xff" * 72, 1) + frame(99, b"x", 1) + frame(HELLO, b"\x1b[31m", 1))
    machine.say(frame(WELCOME, struct.pack("<I", 100), 1) + frame(TARGET, struct.pack("<IIQ", 1, 1, 1), 1))
    daemon.until(lambda: guest(daemon)["refused"] >= 10)
    found = guest(daemon)
    assert len(found["applications"]) == 16 and found["program"] == "overbook-guest test", found
    # They say that they could give all, and that they have; the balloon gets what it gets, and the limit holds.
    machine.apps = [App("app%d" % number, 2**40, speed=2**50) for number in range(1, 17)]
    machine.used = lambda: 900 * MIB
    shrink(daemon, 400 * MIB)
    daemon.serve_for(8)
    assert machine.held <= 64 * MIB, machine.held
    assert all(app["target_bytes"] <= GIB for app in guest(daemon)["applications"])
    assert daemon.call("limit", name="web", maximum_bytes=300 * MIB)["ok"]
    daemon.until(lambda: machine.limit == 300 * MIB, 30)
    # More than is allowed in a message ends the connection.
    machine.send(message(GUEST, struct.pack("<II", 0, 2049) + bytes(2049)))
    daemon.until(lambda: daemon.state("web") == "lost")
    machine.limit = 300 * MIB


@with_daemon()
def the_command_line_tool_shows_applications(daemon):
    cache = App("cache", 300 * MIB, 100 * MIB)
    Machine(daemon, use=100 * MIB, apps=[cache])
    daemon.until(lambda: len(apps(daemon)) == 1)

    def run(*words):
        with subprocess.Popen([OVERBOOK, *words], stdout=subprocess.PIPE, text=True, env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir)) as tool:
            daemon.until(lambda: tool.poll() is not None)
            return tool.stdout.read()
    shown = run("balloon", "web")
    assert "its guest runs overbook-guest test" in shown and "cache (library): resting, uses 300 MiB, could give 200 MiB" in shown, shown
    shrink(daemon, 350 * MIB)
    daemon.until(lambda: state(daemon, "cache") == "given", 40)
    shown = run("balloon", "web")
    assert "cache (library): given, " in shown and "has given" in shown, shown


sys.exit(main(OVERBOOK))
