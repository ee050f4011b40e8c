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
    """Waits until the balloon is seen to be so. A machine that overbookd does not know yet is not seen."""
    try:
        harness.wait_until(lambda: machine.name in machine.host.rows() and (found := seen(machine)) and all(found[key] == value for key, value in expected.items()), "")
    except TimeoutError:
        raise TimeoutError(f"the balloon of {machine.name} never was {expected}: {seen(machine)}") from None


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


def touched_and_free(host, *daemon, **options):
    """A guest that has used 140 MiB of its 320 and freed most of that, in a machine that gives nothing back but by its balloon."""
    machine = start(host, *daemon, **{**dict(memory=320, witness=dict(anon=150, rate=0), arguments=REPORTING_OFF), **options})
    machine.ask("free 95", "freed")
    return machine


def actual(machine):
    return machine.qmp.command("query-balloon")["actual"]


def a_size_is_reached(host):
    """A size is reached in steps, memory is back on the host, and off gives it to the guest again"""
    machine = touched_and_free(host)
    wait_seen(machine, driver=True, mode="off")
    before = machine.host_bytes()
    assert "guest: fixed, 180 MiB for the guest" in host.run("balloon", "guest", "180M").stdout
    began = time.monotonic()
    harness.wait_until(lambda: actual(machine) == 180 * MIB, "140 MiB are in the balloon")
    took = time.monotonic() - began
    harness.wait_until(lambda: machine.host_bytes() < before - 100 * MIB, "the host has got memory back")
    wait_seen(machine, state="holding", held_bytes=140 * MIB, arrived_bytes=140 * MIB, eased=0, stuck=0)
    stats = machine.stats()["stats"]
    assert stats["guest_known"] == 127 and stats["guest_updates"] > 2 and 60 * MIB < stats["guest_total_bytes"] < 180 * MIB, stats
    tap.comment(f"140 MiB in the balloon after {took:.1f} s; {(before - machine.host_bytes()) / MIB:.0f} MiB are back on the host")
    machine.check()
    host.run("balloon", "guest", "off")
    harness.wait_until(lambda: actual(machine) == 320 * MIB, "the balloon is empty")
    wait_seen(machine, mode="off", state="empty", held_bytes=0)
    machine.ask("touch", "touched")
    machine.check()


def caches_are_given(host):
    """A guest whose memory is full of caches gives them, and reads what it misses from its disk again"""
    machine = start(host, memory=320, witness=dict(cache=130, anon=16, rate=0), disk=dict(mib=160), arguments=REPORTING_OFF)
    machine.check()
    before = machine.host_bytes()
    host.run("balloon", "guest", "140M")
    harness.wait_until(lambda: seen(machine)["held_bytes"] > 130 * MIB, "130 MiB are in the balloon")
    harness.wait_until(lambda: machine.host_bytes() < before - 50 * MIB, "the host has got memory back")
    tap.comment(f"{seen(machine)}; {(before - machine.host_bytes()) / MIB:.0f} MiB are back on the host")
    machine.check()
    host.run("balloon", "guest", "off")
    harness.wait_until(lambda: actual(machine) == 320 * MIB, "the balloon is empty")
    machine.check()


def needs_what_it_has_given(machine):
    """Takes nearly all that the guest has, and then has it use that again. Returns what was in the balloon."""
    machine.ask("free 95", "freed")
    machine.host.run("balloon", "guest", "96M")
    harness.wait_until(lambda: seen(machine)["state"] == "holding" and seen(machine)["held_bytes"] > 100 * MIB, "the balloon has taken what it can")
    held, stats = seen(machine)["held_bytes"], machine.stats()["stats"]
    # No more than the guest can do with: what it calls available stays above half of the margin, here 16 MiB.
    assert stats["guest_available_bytes"] >= 16 * MIB and machine.memory - held >= 96 * MIB, stats
    machine.ask("touch", "touched")
    harness.wait_until(lambda: seen(machine)["eased"] >= 1 and seen(machine)["held_bytes"] < held - 20 * MIB, "the guest got memory back")
    machine.check()
    return held


def a_guest_that_needs_it(host):
    """A guest that needs what it has given gets it back before its kernel kills"""
    machine = start(host, witness=dict(anon=110, rate=0))
    held = needs_what_it_has_given(machine)
    tap.comment(f"{held / MIB:.0f} MiB were in the balloon, then {seen(machine)['held_bytes'] / MIB:.0f}: {seen(machine)}")


def a_guest_that_swaps(host):
    """One that swaps instead gets it back, too"""
    swap = host.make_disk("swap.raw", 192)
    machine = start(host, witness=dict(anon=110, rate=0), append="guest_swap=vda",
                    arguments=[*REPORTING_OFF, "-drive", f"file={swap},format=raw,if=virtio,cache=writeback"])
    held = needs_what_it_has_given(machine)
    harness.wait_until(lambda: machine.stats()["stats"]["guest_swap_out_bytes"] > 0, "the guest has told of its swap")
    stats = machine.stats()["stats"]
    tap.comment(f"{held / MIB:.0f} MiB were in the balloon, then {seen(machine)['held_bytes'] / MIB:.0f}; the guest has written "
                f"{stats['guest_swap_out_bytes'] / MIB:.1f} MiB to its swap and read {stats['guest_swap_in_bytes'] / MIB:.1f}")


def a_guest_without_driver(host):
    """A guest without the driver: it is said, and nothing is waited for"""
    machine = start(host, limit=200, witness=dict(anon=100, rate=0), append="module_blacklist=virtio_balloon", options=["--balloon", "auto"])
    wait_seen(machine, driver=False, mode="auto", state="no driver")
    assert "its guest has no driver for the balloon" in host.run("balloon", "guest").stdout
    host.run("limit", "guest", "100M", "--wait")
    machine.check()
    assert "its guest has no driver for the balloon" in host.run("balloon", "guest", "128M").stdout
    machine.check()


def a_cut_is_the_balloons(host):
    """auto: a cut of the limit is met by the guest's free memory, nothing is evicted, and room is given back"""
    machine = touched_and_free(host, options=["--balloon", "auto"])
    wait_seen(machine, driver=True, mode="auto", state="empty")
    cost = machine.host_bytes()
    assert cost > 170 * MIB, cost
    began = time.monotonic()
    host.run("limit", "guest", "130M", "--wait")
    took = time.monotonic() - began
    stats = machine.stats()["stats"]
    evicted = stats["compressed_bytes"] + stats["swapped_bytes"]
    tap.comment(f"from {cost / MIB:.0f} to {stats['cost_bytes'] / MIB:.0f} MiB in {took:.1f} s, {evicted / MIB:.1f} MiB of it evicted, "
                f"{seen(machine)['held_bytes'] / MIB:.0f} MiB in the balloon")
    assert stats["limit_bytes"] == 130 * MIB and seen(machine)["held_bytes"] > 40 * MIB and evicted < 20 * MIB, stats
    machine.check()
    # overbookd dies: the balloon stays; a new one drives on.
    held = actual(machine)
    host.kill_daemon()
    assert actual(machine) == held
    machine.check()
    host.start_daemon()
    wait_seen(machine, driver=True, mode="auto")
    assert actual(machine) <= held + 8 * MIB
    host.run("limit", "guest", "none")
    harness.wait_until(lambda: actual(machine) == 320 * MIB, "the balloon is empty")
    machine.ask("touch", "touched")
    machine.check()


def a_new_overbookd_that_drives_none(host):
    """What a former overbookd's balloon holds comes back when the new one drives none; what others have put there stays"""
    machine = touched_and_free(host, "--balloon", "auto")
    wait_seen(machine, driver=True, mode="auto")
    host.run("limit", "guest", "150M", "--wait")
    harness.wait_until(lambda: seen(machine)["held_bytes"] > 20 * MIB, "the balloon holds something")
    host.kill_daemon()
    host.start_daemon("--balloon", "off")
    harness.wait_until(lambda: actual(machine) == 320 * MIB, "the balloon is empty")
    wait_seen(machine, mode="off", state="empty")
    machine.qmp.command("balloon", value=256 * MIB)
    harness.wait_until(lambda: actual(machine) == 256 * MIB, "somebody else's 64 MiB are in the balloon")
    host.kill_daemon()
    host.start_daemon()
    wait_seen(machine, mode="off", held_bytes=64 * MIB)
    assert actual(machine) == 256 * MIB
    machine.check()


def reboot(machine):
    """It has all its memory from the beginning, whatever was in its balloon."""
    since = machine.console.mark()
    machine.console.say("reboot")
    begins = machine.wait_word("start", since)
    machine.wait_ready(since)
    machine.check()
    return int(begins.values["memory_bytes"])


def a_reboot_begins_with_all_memory(host):
    """A guest that starts anew starts with all its memory, also without overbookd, and gives what is wanted again"""
    machine = touched_and_free(host)
    whole = int(machine.wait_word("start", 0).values["memory_bytes"])
    host.run("balloon", "guest", "200M")
    for has_daemon in (True, False):
        wait_seen(machine, held_bytes=120 * MIB)
        assert actual(machine) == 200 * MIB, actual(machine)
        machine.check()
        if not has_daemon:
            host.kill_daemon()
        assert reboot(machine) == whole
        if not has_daemon:
            host.start_daemon()
        machine.ask("free 95", "freed")
    wait_seen(machine, held_bytes=120 * MIB)
    assert actual(machine) == 200 * MIB, actual(machine)
    machine.check()


sys.exit(tap.main([free_memory_returns, what_keeps_free_memory, a_size_is_reached, caches_are_given, a_guest_that_needs_it, a_guest_that_swaps,
                   a_guest_without_driver, a_cut_is_the_balloons, a_new_overbookd_that_drives_none, a_reboot_begins_with_all_memory]))
