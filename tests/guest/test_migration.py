# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own migration of machines whose memory is largely evicted: to files and over a socket, with and without Overbook
at either end. The stream holds all of guest memory, so any end may be the other's."""
import sys

import machine as harness
import tap

MANAGED = dict(memory=208, limit=96)
LOAD = dict(anon=80, rate=3000)


def expect_runs(machine, source):
    """The witness goes on in its new machine, which knows what it wrote in the old one."""
    machine.wait_running()
    machine.wait_progress(1000)
    assert machine.check() == source.pages


def started(host, name="source", **options):
    machine = host.machine(name, **MANAGED, witness=LOAD, **options)
    machine.wait_ready()
    machine.wait_progress(2000)
    machine.pages = machine.check()
    return machine


def through_a_file(host):
    """From a file that a machine with evicted pages was migrated to, plain QEMU and a second machine both go on"""
    host.start_daemon()
    path = host.path("state")
    source = started(host)
    source.expect_evicted()
    source.migrate(f"exec:cat >{path}")
    source.expect_limit_held()
    source.quit()
    incoming = ["-incoming", f"exec:cat {path}"]
    plain = host.machine("plain", overbook=False, **MANAGED, witness=LOAD, arguments=incoming)
    expect_runs(plain, source)
    plain.kill()
    second = host.machine("second", **MANAGED, witness=LOAD, arguments=incoming)
    expect_runs(second, source)
    second.expect_evicted()
    second.expect_limit_held()


def from_plain_qemu(host):
    """A machine takes over from plain QEMU, through a file"""
    host.start_daemon()
    path = host.path("state")
    source = started(host, overbook=False)
    source.migrate(f"exec:cat >{path}")
    source.kill()
    machine = host.machine("managed", **MANAGED, witness=LOAD, arguments=["-incoming", f"exec:cat {path}"])
    expect_runs(machine, source)
    machine.expect_evicted()
    machine.expect_limit_held()


def live(host):
    """Live, over a unix socket, between two machines with limits, while the guest writes"""
    host.start_daemon()
    address = f"unix:{host.path('migration.sock')}"
    source = started(host, machine="q35", processors=2)
    target = host.machine("target", **MANAGED, witness=LOAD, machine="q35", processors=2, arguments=["-incoming", address])
    assert target.qmp.command("query-status")["status"] == "inmigrate"
    source.migrate(address)
    expect_runs(target, source)
    source.expect_limit_held()
    target.expect_limit_held()
    target.expect_evicted()


def fails_and_goes_on(host):
    """A migration that fails leaves the source running, and it can be tried again"""
    host.start_daemon()
    source = started(host)
    source.qmp.command("migrate", uri="exec:head -c 1000000 >/dev/null; exit 1")
    harness.wait_until(lambda: source.qmp.command("query-migrate").get("status") == "failed", "the migration has failed")
    assert source.qmp.command("query-status")["status"] == "running"
    source.wait_progress(1000)
    source.migrate("exec:cat >/dev/null")
    source.qmp.command("cont")
    source.check()
    source.expect_limit_held()


def mapped(host):
    """Into a file with a place for each page, by several threads with direct I/O, and back (QEMU 10 and newer)"""
    if harness.qemu_version() < 10:
        tap.skip("this QEMU cannot")
    host.start_daemon()
    uri = f"file:{host.path('state')}"

    def set_up(machine):
        machine.qmp.command("migrate-set-capabilities", capabilities=[{"capability": name, "state": True}
                                                                      for name in ("mapped-ram", "multifd")])
        machine.qmp.command("migrate-set-parameters", multifd_channels=3, direct_io=True)
    source = started(host)
    set_up(source)
    source.migrate(uri)
    source.expect_evicted()
    source.quit()
    target = host.machine("target", **MANAGED, witness=LOAD, arguments=["-incoming", "defer"])
    set_up(target)
    target.qmp.command("migrate-incoming", uri=uri)
    expect_runs(target, source)
    target.expect_evicted()
    target.expect_limit_held()


sys.exit(tap.main([through_a_file, from_plain_qemu, live, fails_and_goes_on, mapped]))
