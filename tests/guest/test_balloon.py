# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests give back: free pages that they report by themselves, and the balloon that overbookd drives.

The witness checks every byte. What the host really has back is taken from the kernel's accounting (machine.py), not from
what anybody says.
"""
import sys
import time

import machine as harness
import tap

MIB = harness.MIB
REPORTING_OFF = ["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=off"]
# A guest that wipes its free pages reports them only to a device that can be told so.
NOT_REPORTING = ["-device", "virtio-balloon-pci,id=balloon,page-poison=off"]


def start(host, *daemon, **options):
    host.start_daemon(*daemon)
    machine = host.machine("guest", **{**dict(memory=256, witness=dict(anon=40, rate=0)), **options})
    machine.wait_ready()
    return machine


def seen(machine):
    return machine.stats()["balloon"]


def wait_seen(machine, **expected):
    """Waits until the balloon is seen to be so."""
    return harness.wait_until(lambda: all(seen(machine)[key] == value for key, value in expected.items()),
                              f"the balloon of {machine.name} is seen as {expected}: {seen(machine)}")


def free_memory_returns(host):
    """What a guest frees in blocks of 2 MiB and more is off the host's books within seconds"""
    machine = start(host, memory=320, limit=280, witness=dict(anon=150, rate=0))
    wait_seen(machine, device=True, driver=True, reports_free_pages=True, takes_reports=True)
    before, stats = machine.host_bytes(), machine.stats()["stats"]
    machine.ask("free 95", "freed")
    began = time.monotonic()
    # The guest looks every two seconds, and reports a sixteenth of its free blocks or 32 of them each time.
    machine.wait_stats(lambda s: s["ballooned_bytes"] > stats["ballooned_bytes"] + 100 * MIB, "ballooned_bytes has grown by 100 MiB")
    took = time.monotonic() - began
    after = machine.stats()["stats"]
    assert after["cost_bytes"] < stats["cost_bytes"] - 90 * MIB, (stats["cost_bytes"], after["cost_bytes"])
    assert after["discarded_pages"] >= stats["discarded_pages"] + 100 * 256
    harness.wait_until(lambda: machine.host_bytes() < before - 90 * MIB, "90 MiB have come back to the host")
    tap.comment(f"100 of the 142 MiB that the guest freed were off the books after {took:.1f} s")
    assert "stays on the host's books" not in host.run("stats", "guest").stdout
    machine.check()
    machine.ask("touch", "touched")
    machine.check()


def what_keeps_free_memory(host):
    """stats and doctor say which guest's free memory does not come back, and why"""
    host.start_daemon()
    small = dict(memory=192, witness=dict(anon=8, rate=0))
    machines = {
        "good": host.machine("good", **small),
        "off": host.machine("off", arguments=REPORTING_OFF, **small),
        "wipes": host.machine("wipes", arguments=NOT_REPORTING, append="init_on_free=1", **small),
        "bare": host.machine("bare", append="module_blacklist=virtio_balloon", **small),
    }
    for machine in machines.values():
        machine.wait_ready()
    wait_seen(machines["good"], driver=True, reports_free_pages=True)
    wait_seen(machines["off"], driver=True, reports_free_pages=False, takes_reports=False)
    wait_seen(machines["wipes"], driver=True, reports_free_pages=False, takes_reports=True)
    wait_seen(machines["bare"], device=True, driver=False, reports_free_pages=False)
    reasons = {"good": None, "off": "has free-page-reporting=off", "wipes": "its guest's kernel does not report free pages",
               "bare": "its guest has no driver for the balloon"}
    for name, reason in reasons.items():
        line = [line for line in host.run("stats", name).stdout.splitlines() if "stays on the host's books" in line]
        assert len(line) == (reason is not None) and (not reason or reason in line[0]), (name, line)
    found = {check["id"]: check for check in host.json("doctor", "--swap", host.swap)["checks"]}["free-pages"]
    assert found["status"] == "warn" and "of 4 machines 3 keep" in found["found"] and '"off"' in found["found"], found
    for name, machine in machines.items():
        machine.check()
        if name != "good":
            machine.kill()
    harness.wait_until(lambda: list(host.rows()) == ["good"], "the others are gone")
    found = {check["id"]: check for check in host.json("doctor", "--swap", host.swap)["checks"]}["free-pages"]
    assert found["status"] == "ok", found
    for name in ("off", "wipes", "bare"):
        host.machines.remove(machines[name])


sys.exit(tap.main([free_memory_returns, what_keeps_free_memory]))
