# SPDX-License-Identifier: GPL-2.0-or-later
"""What people do to a running QEMU, done while a good part of guest memory is evicted.

Unless said otherwise the machine has 208 MiB and a limit of 96, and its witness holds 100 MiB, written once: so tests that
read guest memory from outside know what every page must hold.
"""
import os
import random
import signal
import socket
import sys

import elfdump
import gdbstub
import machine as harness
import pattern
import qmp
import tap
import vhost_user

MIB = harness.MIB
ANON_MIB = 100
STILL = dict(anon=ANON_MIB, rate=0)
MANAGED = dict(memory=208, limit=96)


def start_roomy(host, **options):
    """A daemon, and a machine that is ready."""
    host.start_daemon()
    machine = host.machine("guest", **{**MANAGED, "witness": STILL, **options})
    machine.wait_ready()
    return machine


def start(host, **options):
    """The same, with pages evicted."""
    machine = start_roomy(host, **options)
    machine.wait_stats(lambda s: s["zero_bytes"] + s["compressed_bytes"] + s["swapped_bytes"] > 16 * MIB, "pages are evicted")
    return machine


def sample_of_pages(count=300):
    """Pages of the witness that are not all zero, with their content."""
    draw = random.Random(2)
    pages = ((page, pattern.page_content("anon", page, 1)) for page in draw.sample(range(ANON_MIB * 256), count))
    return [(page, content) for page, content in pages if any(content)]


def stop_and_continue(host):
    """stop and cont with pages evicted"""
    machine = start(host, witness=dict(anon=ANON_MIB))
    machine.qmp.command("stop")
    assert machine.qmp.command("query-status")["status"] == "paused"
    machine.qmp.command("cont")
    machine.wait_progress(2000)
    machine.check()
    note_cost(machine)


def read_from_outside(host):
    """dump-guest-memory and the gdb stub show the witness's bytes, evicted or not"""
    stub = host.path("gdb.sock")
    machine = start(host, arguments=["-gdb", f"unix:{stub},server=on,wait=off"])
    before = machine.expect_evicted()
    dump_path = host.path("guest.dump")
    machine.qmp.command("stop")
    machine.qmp.command("dump-guest-memory", paging=False, protocol="file:" + dump_path)
    dump = elfdump.ElfDump(dump_path)
    where, pages = dump.index(), sample_of_pages()
    with gdbstub.GdbStub(stub) as gdb:
        for page, content in pages:
            assert content[:64] in where, f"page {page} of the witness is not in the dump"
            physical = where[content[:64]]
            assert dump.read(physical, pattern.PAGE) == content, f"the dump has other bytes for page {page} of the witness"
            assert gdb.read(physical, pattern.PAGE) == content, f"gdb reads other bytes for page {page} of the witness"
    dump.close()
    tap.comment(f"{before >> 20} MiB were evicted; {len(pages)} pages compared in the dump and over gdb")
    machine.qmp.command("cont")
    machine.check()
    note_cost(machine)


def note_cost(machine):
    machine.expect_limit_held()
    meter = machine.meter
    tap.comment(f"cost at most {meter.peak_bytes / MIB:.1f} MiB in {meter.samples} samples, {meter.exact} of them exact")


def snapshots(host):
    """savevm and loadvm in a qcow2 disk"""
    machine = start(host, disk=dict(mib=64, form="qcow2", options="cache=writeback"))
    assert machine.qmp.hmp("savevm one") == ""
    machine.ask("touch", "touched")
    machine.check()
    assert "one" in machine.qmp.hmp("info snapshots")
    assert machine.qmp.hmp("loadvm one") == ""
    # Memory is that of the snapshot again, the witness's own record of versions with it.
    machine.check()
    machine.ask("touch", "touched")
    machine.check()
    machine.expect_evicted()
    note_cost(machine)


def resets(host):
    """system_reset, and a reboot from inside, begin anew with empty memory"""
    machine = start(host)
    for reset in (lambda: machine.qmp.command("system_reset"), lambda: machine.console.say("reboot")):
        since = machine.console.mark()
        reset()
        machine.wait_word("start", since)
        machine.wait_ready(since)
        machine.check()
    machine.expect_evicted()
    note_cost(machine)


def snapshot_and_sandbox(host):
    """-snapshot with -sandbox on and everything denied; quit leaves the disk as it was"""
    disk = host.make_disk("base.raw", 96)
    machine = start(host, witness=dict(anon=70, cache=40, direct=16), disk=dict(path=disk, options="cache=none,aio=threads"),
                    arguments=["-snapshot", "-sandbox",
                               "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
    machine.wait_progress(4000)
    machine.check()
    machine.expect_evicted()
    note_cost(machine)
    machine.qmp.command("quit")
    assert machine.wait_end() == 0, machine.said()
    assert os.stat(disk).st_blocks * 512 < MIB, "-snapshot wrote to the disk"


def daemonized(host):
    """-daemonize, and its end by SIGTERM"""
    machine = start(host, daemonize=True)
    machine.check()
    machine.expect_evicted()
    note_cost(machine)
    machine.signal(signal.SIGTERM)
    machine.wait_end()
    harness.wait_until(lambda: "guest" not in host.rows(), "overbookd has noticed the end")


def ends(host):
    """A power-off from inside ends with status 0, and SIGTERM and SIGINT end it too"""
    for number in (None, signal.SIGTERM, signal.SIGINT):
        if not host.daemon:
            host.start_daemon()
        machine = host.machine(f"ends-{number or 0}", memory=192, limit=64, witness=dict(anon=60))
        machine.wait_ready()
        machine.wait_progress(500)
        if number:
            machine.signal(number)
        else:
            machine.console.say("stop")
        assert machine.wait_end() == 0, machine.said()


def hot_plug(host):
    """Memory plugged in by QMP works beside managed memory, and after a reset"""
    machine = start(host, memory=256, limit=128, hot_plug_mib=1024, witness=dict(anon=80, rate=0), append="memhp_default_state=online")
    before = int(machine.wait_word("start").values["memory_bytes"])
    machine.qmp.command("object-add", qom_type="memory-backend-ram", id="more", size=128 * MIB)
    machine.qmp.command("device_add", driver="pc-dimm", id="dimm0", memdev="more")
    assert machine.qmp.command("query-memory-size-summary")["plugged-memory"] == 128 * MIB
    machine.check()
    since = machine.console.mark()
    machine.qmp.command("system_reset")
    after = int(machine.wait_word("start", since).values["memory_bytes"])
    assert after - before > 100 * MIB, f"the guest had {before >> 20} MiB and has {after >> 20} with 128 more"
    machine.wait_ready(since)
    machine.check()


def balloon(host):
    """The balloon: inflating gives host memory back, deflating gives the guest its memory again"""
    # Without free-page reporting, which would have given the same pages back before.
    machine = start_roomy(host, memory=256, limit=224, witness=dict(anon=140, rate=0),
                          arguments=["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=off"])
    machine.ask("free 90", "freed")
    before = machine.host_bytes()
    machine.qmp.command("balloon", value=156 * MIB)
    harness.wait_until(lambda: machine.qmp.command("query-balloon")["actual"] == 156 * MIB, "100 MiB are in the balloon")
    harness.wait_until(lambda: machine.host_bytes() < before - 60 * MIB, "the host has got memory back")
    machine.wait_stats(lambda s: s["ballooned_bytes"] > 60 * MIB, "the figures show the balloon")
    machine.check()
    machine.qmp.command("balloon", value=256 * MIB)
    harness.wait_until(lambda: machine.qmp.command("query-balloon")["actual"] == 256 * MIB, "the balloon is empty")
    machine.ask("touch", "touched")
    machine.check()


def free_page_reporting(host):
    """What the guest frees comes back to the host by itself"""
    machine = start_roomy(host, memory=256, limit=192, witness=dict(anon=140, rate=0))
    before = machine.host_bytes()
    freed = machine.ask("free 90", "freed")
    assert int(freed.values["pages"]) * 4096 > 120 * MIB
    # The guest reports blocks of 2 and 4 MiB alone, a while after they became free, and a part had been evicted before: of
    # the 126 MiB that it frees 48 to 56 were seen to come back. How its buddy lists are broken up is not under test here.
    harness.wait_until(lambda: machine.host_bytes() < before - 24 * MIB, "24 MiB have come back to the host")
    machine.ask("touch", "touched")
    machine.check()


def filling(host):
    """The witness holds more or less of its memory when it is told to, and works on what it holds alone"""
    machine = start_roomy(host, witness=dict(anon=ANON_MIB, fill=20, rate=2000))
    pages = ANON_MIB * 256
    assert machine.check() == pages
    for percent in (60, 100, 30, 100, 0, 80):
        held = int(machine.ask(f"fill {percent}", "filled").values["touched_bytes"])
        assert held == pages * percent // 100 * 4096, f"{held} bytes are held at {percent}%"
        if percent:
            machine.wait_progress(1000)
        assert machine.check() == pages
        assert int(machine.ask("check", "checked").values["touched_bytes"]) == held


def expect_refused(machine, action, reason):
    try:
        action()
    except qmp.QmpError as refusal:
        tap.comment(f"QEMU: {refusal}")
    else:
        raise AssertionError(f"{machine.name}: it was not refused")
    machine.wait_said(reason)


def turn_on(machine, *names, state=True):
    machine.qmp.command("migrate-set-capabilities", capabilities=[{"capability": name, "state": state} for name in names])


def capabilities(host):
    """Background snapshot and postcopy are refused with the reason"""
    machine = start(host)
    reason = "postcopy migration and background snapshot cannot be used"
    expect_refused(machine, lambda: turn_on(machine, "background-snapshot"), reason)
    machine.check()
    waiting = host.machine("waiting", **MANAGED, witness=STILL, arguments=["-incoming", "defer"])
    expect_refused(waiting, lambda: turn_on(waiting, "postcopy-ram"), reason)


def without_ram(host):
    """A migration or snapshot that would leave memory behind fails with the reason; one with it works afterwards"""
    machine = start(host, disk=dict(mib=64, form="qcow2", options="cache=writeback"), witness=dict(anon=ANON_MIB))
    path = host.path("stream.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(4)

    def fails(number, uri):
        machine.qmp.command("migrate", uri=uri)
        harness.wait_until(lambda: machine.qmp.command("query-migrate").get("status") in ("completed", "failed"), "it has ended")
        assert machine.qmp.command("query-migrate")["status"] == "failed", f"{uri}: memory was left behind"
        assert machine.qmp.command("query-status")["status"] == "running"
    turn_on(machine, "x-ignore-shared")
    for number, uri in enumerate((f"exec:cat >{host.path('state')}", f"unix:{path}")):
        fails(number, uri)
        machine.wait_said("the migration capability x-ignore-shared would leave this machine's memory behind: refused")
    said = machine.qmp.hmp("savevm one")
    assert said, "savevm left the memory out"
    tap.comment("savevm: " + said.strip())
    turn_on(machine, "x-ignore-shared", state=False)
    assert machine.qmp.hmp("savevm two") == ""
    # By the human monitor, which users type into.
    assert machine.qmp.hmp(f"migrate -d \"exec:cat >{host.path('state')}\"") == ""
    harness.wait_until(lambda: machine.qmp.command("query-migrate").get("status") == "completed", "it has migrated")
    assert os.stat(host.path("state")).st_size > ANON_MIB * MIB // 2
    machine.qmp.command("cont")
    machine.wait_progress(1000)
    machine.check()
    listener.close()


def checkpoint_restart(host):
    """The mode cpr-transfer, which leaves memory to descriptors, is refused with the reason (QEMU 10 and newer)"""
    if harness.qemu_version() < 10:
        tap.skip("this QEMU has no such mode")
    machine = start_roomy(host, machine="pc,aux-ram-share=on")
    listeners, channels = [], []
    for name in ("main", "cpr"):
        path = host.path(name + ".sock")
        listeners.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listeners[-1].bind(path)
        listeners[-1].listen(1)
        channels.append({"channel-type": name, "addr": {"transport": "socket", "type": "unix", "path": path}})
    machine.qmp.command("migrate-set-parameters", mode="cpr-transfer")
    machine.qmp.command("migrate", channels=channels)
    machine.wait_said("the migration modes cpr-transfer and cpr-exec would leave this machine's memory behind: refused")
    # The other side, which got no state, goes; so QEMU 10 sees the failure.
    for listener in listeners:
        listener.close()
    harness.wait_until(lambda: machine.qmp.command("query-migrate").get("status") == "failed", "the migration has failed")
    harness.wait_until(lambda: machine.qmp.command("query-status")["status"] == "running", "the guest goes on")
    machine.check()


def vhost_user_later(host):
    """A vhost-user device that is plugged in later gets no memory, with the reason, and the guest goes on"""
    machine = start(host)
    path = host.path("vhost.sock")
    other_side = vhost_user.BackEnd(path)
    machine.qmp.command("chardev-add", id="vhost", backend={"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": path}}, "server": False}})
    machine.qmp.command("netdev_add", type="vhost-user", id="net", chardev="vhost")
    try:
        # Without MSI-X, since QEMU 7.2 by itself takes its interrupts for KVM's and crashes under TCG.
        machine.qmp.command("device_add", driver="virtio-net-pci", id="nic", netdev="net", vectors=0)
    except qmp.QmpError as refusal:
        tap.comment(f"QEMU: {refusal}")
    # The guest's driver starts the device; for certain when it finds it at a boot.
    since = machine.console.mark()
    machine.qmp.command("system_reset")
    machine.wait_said("QEMU wants to hand its RAM to another process")
    machine.wait_ready(since)
    assert vhost_user.GET_FEATURES in other_side.requests and not other_side.memory_descriptors, other_side.requests
    machine.check()
    machine.expect_evicted()
    other_side.close()


sys.exit(tap.main([stop_and_continue, read_from_outside, snapshots, resets, snapshot_and_sandbox, daemonized, ends, hot_plug,
                   balloon, free_page_reporting, filling, capabilities, without_ram,
                   checkpoint_restart, vhost_user_later]))
