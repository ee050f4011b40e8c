# SPDX-License-Identifier: GPL-2.0-or-later
"""Large pages of real guests: kept while memory is plenty, broken for what is shareable in them when it is short, and made whole
again when it is not.

How short memory is the test says by MIN_FREE alone: the machines and the budget are the same all the time, of which less than half
is free. Machines boot before pages are shared, so that they have large pages to begin with; what is large is taken from the
kernel's accounting (AnonHugePages of guest RAM and of the bench).
"""
import signal
import sys
import time

import kernel
import machine as harness
import tap

MIB = harness.MIB
ANON, SAME = 96 * MIB, 50
EQUAL = ANON * SAME // 100
# All of its memory is in use: each 2 MiB are touched some forty times a second.
BUSY = dict(anon=ANON // MIB, same=SAME, nearly=10, zero=0, rate=2000, hot=0, hotness=0, sequential=0, writes=2)
# So are its pages: all of them within three seconds, one after the other.
WALKING = dict(anon=ANON // MIB, same=0, zero=0, rate=10000, hotness=0, sequential=100, writes=2)
# The last is half of the budget, and more is used.
BUDGET, PLENTY, SCARCE, SHORT = "608M", "16M", "160M", "304M"
SMALL = "288M"  # a budget of which one machine alone uses more than half


def settings(host, **changed):
    """Writes overbookd's file, and has it read if it runs."""
    lines = {"BUDGET": BUDGET, "SHARE_CPU": 500, **changed}
    with open(host.path("overbookd.conf"), "w") as file:
        file.write("".join(f"{name}={value}\n" for name, value in lines.items()))
    if host.daemon:
        host.daemon.send_signal(signal.SIGHUP)


def start_daemon(host):
    host.start_daemon("--config", host.path("overbookd.conf"))


def start(host, *witnesses, **changed):
    """Machines of one domain, whose memory is in large pages. Nothing is shared yet."""
    settings(host, SHARE="off", MIN_FREE=PLENTY, **changed)
    start_daemon(host)
    for seed, witness in enumerate(witnesses, 1):
        host.machine(f"guest-{seed}", memory=208, witness={**witness, "seed": seed}, options=["--domain", "both"])
    for machine in host.machines:
        machine.wait_ready()
        if large(machine) < ANON * 3 // 4:
            tap.skip(f"the kernel has made large pages of {large(machine) / MIB:.0f} MiB only")
    return host.machines


def ranges_of(machine, *kinds):
    return [part for part in machine.ranges() if part[0] in kinds]


def large(machine):
    ranges = ranges_of(machine, "ram", "bench")
    with kernel.frozen(machine.pid):
        return kernel.large_bytes(machine.pid, ranges)


def may_make(machine):
    """Whether the kernel may make large pages of its memory's small ones."""
    return "nh" not in kernel.flags(machine.pid, ranges_of(machine, "ram"))


def wait_said(host, state):
    harness.wait_until(lambda: (host.json("ps")["large_pages"] or {}).get("state") == state, f"memory is {state}")


def wait_state(host, state):
    """Waits until memory is said to be in that state, and machines know, which may make large pages in high alone."""
    wait_said(host, state)
    for machine in host.machines:
        harness.wait_until(lambda: may_make(machine) == (state == "high"), f"{machine.name} knows that memory is {state}")


def wait_large(machine, condition, what):
    def look():
        machine.host.expect_clean()
        return condition(large(machine))
    harness.wait_until(look, f"{machine.name}: {what}")


def tell(when, machines):
    for machine in machines:
        s = machine.stats()["stats"]
        tap.comment(f"{when}: {machine.name} has {large(machine) / MIB:.0f} MiB large (it says {s['large_bytes'] / MIB:.0f}), shares "
                    f"{s['shared_bytes'] / MIB:.1f} MiB; broken {s['large_broken_chunks']}, which gave {s['large_given_pages']} pages, kept "
                    f"{s['large_kept_chunks']}, came back whole {s['large_whole_returns']}, made whole {s['large_collapsed_chunks']}")


def check_all(machines):
    for machine in machines:
        machine.check()
        s = machine.fresh_stats()["stats"]
        assert s["internal_errors"] == 0 and s["degraded"] == 0, s


def wait_looked_at(machine, chunks):
    """Waits until so many of its large pages were looked at, and came back since they are in use."""
    goal = machine.stats()["stats"]["large_whole_returns"] + chunks
    machine.wait_stats(lambda s: s["large_whole_returns"] >= goal, f"{chunks} large pages came back whole")


def plenty_and_short(host):
    """Large pages in use are kept while memory is plenty, though half of what is in them is equal, and broken when it is short"""
    machines = start(host, BUSY, BUSY)
    before = [large(machine) for machine in machines]
    tell("before", machines)
    settings(host, MIN_FREE=PLENTY)
    wait_state(host, "high")
    for machine in machines:
        wait_looked_at(machine, 24)
    tell("high", machines)
    for machine, was in zip(machines, before):
        # What the guest's kernel leaves alone is cold, and may be broken.
        assert large(machine) > was * 3 // 4, f"{machine.name}: of {was / MIB:.0f} MiB {large(machine) / MIB:.0f} are large"
        assert machine.stats()["stats"]["shared_bytes"] < EQUAL // 2
    check_all(machines)

    settings(host, MIN_FREE=SCARCE)
    wait_state(host, "clear")
    broken = [machine.stats()["stats"]["large_broken_chunks"] for machine in machines]
    for machine, was in zip(machines, broken):
        machine.wait_stats(lambda s: s["large_broken_chunks"] > was, "large pages are broken")
    tell("clear", machines)
    settings(host, MIN_FREE=SHORT)
    wait_state(host, "low")
    for machine in machines:
        machine.ask("rate 100", "rate")
    for machine, was in zip(machines, before):
        machine.wait_stats(lambda s: s["shared_bytes"] > EQUAL * 3 // 4, "most of what is equal is shared")
        wait_large(machine, lambda now: now < was // 2, "less than half is large")
    tell("low", machines)
    for machine in machines:
        s = machine.stats()["stats"]
        assert s["large_given_pages"] * 4096 > EQUAL // 2 and s["large_broken_chunks"] * 2 * MIB > ANON // 2, s
        # It is what was seen last of each.
        machine.wait_stats(lambda s: abs(s["large_bytes"] - large(machine)) <= 16 * MIB, "what it says of large pages is near the truth")
    check_all(machines)


def policies(host):
    """With LARGE_PAGES=never nothing is broken for sharing, with late not before memory is short, with off all; SIGHUP changes it"""
    machines = start(host, {**BUSY, "rate": 0}, {**BUSY, "rate": 0}, LARGE_PAGES="late")
    before = [large(machine) for machine in machines]
    for policy, min_free, state in ("late", PLENTY, "high"), ("never", SHORT, "low"):
        since = [machine.stats()["stats"]["scan_cpu_ns"] for machine in machines]
        settings(host, LARGE_PAGES=policy, MIN_FREE=min_free)
        wait_said(host, state)
        for machine, was, begun in zip(machines, before, since):
            # It knows that pages are large by having looked at them. What this took it works once more.
            machine.wait_stats(lambda s: s["large_bytes"] > was * 3 // 4, "it has looked at all chunks")
            goal = 2 * machine.stats()["stats"]["scan_cpu_ns"] - begun
            machine.wait_stats(lambda s: s["scan_cpu_ns"] >= goal, "it goes on looking")
        tell(f"{policy}, {state}", machines)
        for machine, was in zip(machines, before):
            s = machine.stats()["stats"]
            assert s["large_broken_chunks"] == 0 and s["shared_bytes"] < EQUAL // 4, s
            assert large(machine) > was * 7 // 8, f"{machine.name}: of {was / MIB:.0f} MiB {large(machine) / MIB:.0f} are large"
            assert may_make(machine)
    settings(host, LARGE_PAGES="late", MIN_FREE=SHORT)
    for machine in machines:
        machine.wait_stats(lambda s: s["large_broken_chunks"] > 0 and s["shared_bytes"] > EQUAL * 3 // 4, "most of what is equal is shared")
    tell("late, low", machines)
    check_all(machines)


def off_shares_all(host):
    """With LARGE_PAGES=off all that is equal is shared though memory is plenty and every large page is in use, and there are none"""
    machines = start(host, {**BUSY, "rate": 100}, {**BUSY, "rate": 100})
    settings(host, MIN_FREE=PLENTY, LARGE_PAGES="off")
    wait_said(host, "high")
    for machine in machines:
        machine.wait_stats(lambda s: s["shared_bytes"] > EQUAL * 3 // 4, "most of what is equal is shared")
        wait_large(machine, lambda now: now < 4 * MIB, "next to nothing is large")
        assert not may_make(machine)
    tell("off", machines)
    check_all(machines)


def expect_made_whole(machine):
    """Its broken chunks are made large pages, until three quarters of what is in use are large."""
    began = time.monotonic()
    machine.wait_stats(lambda s: s["large_collapsed_chunks"] >= 8, "broken ones are made whole")
    wait_large(machine, lambda now: now > ANON * 3 // 4, "three quarters of what is in use are large")
    tell(f"{time.monotonic() - began:.0f} s after that", [machine])
    machine.check()


def made_whole(host):
    """When memory is plenty again the state climbs from low by clear to high, and what was broken and is in use is made whole then"""
    machine, = start(host, WALKING, BUDGET=SMALL)
    before = large(machine)
    tell("before", [machine])
    settings(host, BUDGET=SMALL, LARGE_PAGES="off", MIN_FREE=SHORT)
    wait_said(host, "low")
    wait_large(machine, lambda now: now < before // 4, "off: little is large")
    assert not may_make(machine)
    tell("off", [machine])
    machine.check()
    settings(host, BUDGET=SMALL, MIN_FREE=PLENTY)
    began = time.monotonic()
    wait_said(host, "clear")
    low_s = time.monotonic() - began
    assert machine.stats()["stats"]["large_collapsed_chunks"] == 0 and not may_make(machine)
    wait_state(host, "high")
    high_s = time.monotonic() - began
    tap.comment(f"clear after {low_s:.0f} s, high after {high_s:.0f} s")
    assert low_s > 8 and high_s - low_s > 8, "up goes slowly"
    tell("high again", [machine])
    expect_made_whole(machine)
    wait_looked_at(machine, 8)
    check_all([machine])


def made_whole_unshared(host):
    """So is what eviction has broken where pages are not shared, and nothing is hashed or dropped for that"""
    machine, = start(host, WALKING)
    before = large(machine)
    settings(host, SHARE="off", MIN_FREE=SHORT)
    wait_said(host, "clear")
    host.run("limit", machine.name, "64M", "--wait")
    wait_large(machine, lambda now: now < before // 4, "evicted: little is large")
    host.run("limit", machine.name, "none")
    machine.check()
    assert machine.stats()["stats"]["large_collapsed_chunks"] == 0
    settings(host, SHARE="off", MIN_FREE=PLENTY)
    wait_state(host, "high")
    tell("high again", [machine])
    expect_made_whole(machine)
    s = machine.stats()["stats"]
    assert s["shared_bytes"] == s["share_offered_pages"] == 0, s
    check_all([machine])


def daemon_killed(host):
    """What was ordered holds without overbookd and for machines that are started then; its successor orders anew"""
    machines = start(host, BUSY, BUSY)
    settings(host, MIN_FREE=SHORT)
    wait_state(host, "low")
    third = host.machine("late-comer", memory=160, witness=dict(anon=48, rate=1000, seed=3), options=["--domain", "both"])
    # It was told when it was admitted, before QEMU put the guest's kernel into its memory.
    third.wait_stats(lambda s: s["ram_bytes"] > 0, "it is here")
    assert not may_make(third) and large(third) == 0, f"{large(third) / MIB:.0f} MiB are large"
    third.wait_ready()
    assert not may_make(third) and large(third) == 0, f"{large(third) / MIB:.0f} MiB are large"
    broken = [machine.stats()["stats"]["large_broken_chunks"] for machine in machines[:2]]
    for machine, was in zip(machines, broken):
        machine.wait_stats(lambda s: s["large_broken_chunks"] > was, "large pages are broken")
    tell("low", host.machines)
    ranges = {machine: ranges_of(machine, "ram") for machine in host.machines}
    host.kill_daemon()
    for machine in host.machines:
        machine.wait_progress(2000)
        assert "nh" in kernel.flags(machine.pid, ranges[machine])
    settings(host, MIN_FREE=PLENTY)
    start_daemon(host)
    wait_state(host, "high")
    for machine in host.machines:
        machine.wait_progress(2000)
    check_all(host.machines)
    tell("high", host.machines)


sys.exit(tap.main([plenty_and_short, policies, off_shares_all, made_whole, made_whole_unshared, daemon_killed]))
