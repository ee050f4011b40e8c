# SPDX-License-Identifier: GPL-2.0-or-later
"""overbookd and the CLI against real machines: without it, with it, and when it dies."""
import signal
import sys

import kernel
import machine as harness
import tap

MIB = harness.MIB
BUSY = dict(anon=100)


def without_the_daemon(host):
    """A machine without overbookd keeps its limit, and an overbookd that comes later finds it"""
    machine = host.machine("alone", memory=208, limit=96, witness=BUSY)
    machine.wait_ready()
    machine.wait_progress(5000)
    failed = host.run("ps", check=False)
    assert failed.returncode != 0 and len(failed.stderr.splitlines()) == 1, f"overbook ps without overbookd: {failed}"
    host.start_daemon()
    harness.wait_until(lambda: host.rows().get("alone", {}).get("state") == "running", "overbookd knows the machine")
    assert machine.stats()["stats"]["limit_bytes"] == 96 * MIB
    machine.expect_evicted()
    assert machine.host_bytes() <= 96 * MIB * harness.LIMIT_SLACK
    machine.check()


def commands(host):
    """ps, stats, limit down and up in flight, release, and a limit again"""
    host.start_daemon()
    machine = host.machine("guest", memory=208, witness=BUSY)
    machine.wait_ready()
    row = host.rows()["guest"]
    assert row["state"] == "running" and row["pid"] == machine.pid and row["limit_bytes"] == 0 and row["ram_bytes"] == 208 * MIB, row
    assert "guest" in host.run("ps").stdout and "faults" in host.run("stats", "guest").stdout
    for mib in (120, 64, 160, 80):
        host.run("limit", "guest", f"{mib}M", "--wait")
        assert machine.host_bytes() <= mib * MIB * harness.LIMIT_SLACK, f"it costs {machine.host_bytes()} with a limit of {mib} MiB"
        machine.wait_progress(1000)
    machine.expect_evicted()
    host.run("release", "guest")
    stats = machine.stats()
    away = {key: stats["stats"][key] for key in ("benched_bytes", "compressed_bytes", "swapped_bytes")}
    assert not any(away.values()), f"after release there is still {away}"
    assert stats["state"] == "released", stats["state"]
    machine.check()
    assert machine.host_bytes() > 110 * MIB
    host.run("limit", "guest", "64M", "--wait")
    assert host.rows()["guest"]["state"] == "running"
    machine.expect_evicted()
    machine.check()
    refused = host.run("limit", "guest", "1M", check=False)
    assert refused.returncode == 2 and "1M" in refused.stderr, refused
    missing = host.run("stats", "nobody", check=False)
    assert missing.returncode != 0 and "nobody" in missing.stderr, missing


def daemon_killed(host):
    """kill -9 of overbookd in full flight: no machine notices, and the next overbookd finds both"""
    host.start_daemon("--budget", "224M")
    machines = [host.machine(name, memory=208, witness=dict(anon=100, seed=seed)) for seed, name in enumerate(("one", "two"), 1)]
    for machine in machines:
        machine.wait_ready()
    for _ in range(2):
        before = {name: row["limit_bytes"] for name, row in host.rows().items()}
        host.kill_daemon()
        for machine in machines:
            machine.wait_progress(1000)
        host.start_daemon("--budget", "224M")
        harness.wait_until(lambda: {name for name, row in host.rows().items() if row["state"] == "running"} == {"one", "two"},
                           "the new overbookd knows both machines")
        tap.comment(f"limits before {before}, after {({name: row['limit_bytes'] for name, row in host.rows().items()})}")

    def within():
        rows = host.rows().values()
        return sum(row["limit_bytes"] for row in rows) <= 224 * MIB and all(row["limit_bytes"] for row in rows)
    harness.wait_until(within, "the limits are inside the budget")
    harness.wait_until(lambda: sum(machine.host_bytes() for machine in machines) <= 224 * MIB * harness.LIMIT_SLACK,
                       "the machines' cost is inside the budget")
    for machine in machines:
        machine.expect_evicted()
        machine.check()


def the_idle_give_to_the_busy(host):
    """Of two machines with equal shares the one that is busy has most of the budget"""
    host.start_daemon("--budget", "256M", "--share", "off")
    idle, busy = (host.machine(name, memory=288, witness=dict(anon=150, seed=seed, rate=rate, threads=1))
                  for seed, (name, rate) in enumerate((("idle", 0), ("busy", "max")), 1))
    for machine in (idle, busy):
        machine.wait_ready()

    def limit(machine):
        return host.rows()[machine.name]["limit_bytes"] // MIB
    harness.wait_until(lambda: limit(busy) > limit(idle) + 48, "the busy one has more", timeout=240)
    sets = {name: row["working_set_bytes"] // MIB for name, row in host.rows().items()}
    tap.comment(f"limits {limit(idle)} and {limit(busy)} MiB, working sets {sets}")
    assert sets["idle"] < sets["busy"], sets
    for machine in (idle, busy):
        machine.check()
        machine.expect_evicted()


def stopped_by_signal(host):
    """SIGSTOP and SIGCONT of QEMU: overbookd goes on answering, and the guest goes on"""
    host.start_daemon()
    machine = host.machine("guest", memory=208, limit=96, witness=BUSY)
    machine.wait_ready()
    for _ in range(3):
        machine.wait_progress(1000)
        with kernel.frozen(machine.pid):
            assert host.rows()["guest"]["pid"] == machine.pid
            harness.wait_until(lambda: machine.stats()["age_ms"] > 1500, "its figures grow old")
    machine.wait_stats(lambda s: s["limit_bytes"] == 96 * MIB, "figures come again")
    harness.wait_until(lambda: machine.stats()["age_ms"] < 1500, "its figures are fresh")
    machine.check()
    machine.expect_evicted()


def names(host):
    """A name is taken while its machine lives, also after a kill -9, and free afterwards"""
    host.start_daemon()
    machine = host.machine("guest", memory=160, limit=64, witness=dict(anon=40, rate=0))
    machine.wait_ready()
    taken = host.run("run", "--name", "guest", "--", harness.QEMU, "-m", "64M", check=False)
    assert taken.returncode != 0 and "guest" in taken.stderr and str(machine.pid) in taken.stderr, taken
    machine.signal(signal.SIGKILL)
    machine.wait_end()
    harness.wait_until(lambda: not host.rows(), "overbookd has noticed the end")
    machine.kill()
    again = host.machine("guest-2", options=["--name", "guest"], memory=160, limit=64, witness=dict(anon=40, rate=0))
    again.wait_ready()


sys.exit(tap.main([without_the_daemon, commands, daemon_killed, the_idle_give_to_the_busy, stopped_by_signal, names]))
