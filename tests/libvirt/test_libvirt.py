# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains of a real libvirtd whose emulator is overbook-qemu: what their owners do with them, with memory evicted, and the
witness checks every byte afterwards. libvirt.py says how the libvirtd is kept apart from the host's."""
import functools
import os
import sys

import libvirt
import tap
from libvirt import MIB, harness

CONFIG = os.environ["OVERBOOK_TEST_CONFIG_DIR"]
MANAGED = dict(memory=192, limit=96)
LOAD = dict(anon=80, rate=3000)


def on(make):
    """The libvirt that a case runs on."""
    def mark(case):
        case.host = make
        return case
    return mark


def system(acl=True):
    return functools.partial(libvirt.System, config_directory=CONFIG, acl=acl)


def started(host, name="web", **options):
    domain = host.domain(name, **{**MANAGED, "witness": LOAD, **options})
    domain.create()
    domain.wait_ready()
    domain.wait_progress(2000)
    domain.pages = domain.check()
    return domain


def expect_goes_on(domain):
    """It runs, and its witness knows what it wrote before."""
    domain.adopt()
    assert domain.state() == "running", domain.state()
    assert domain.is_ours()
    domain.wait_progress(1000)
    assert domain.check() == domain.pages
    domain.expect_evicted()


@on(system())
def lifecycle(host):
    """A domain with nothing but our emulator in it: start, list, suspend, resume, reset, a new libvirtd, destroy, all under its limit"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    domain = started(host)
    assert domain.is_ours()
    assert os.readlink(f"/proc/{domain.pid}/exe").endswith("qemu-system-x86_64")
    assert os.stat(f"/proc/{domain.pid}").st_uid == host.user.pw_uid
    assert "web" in host.virsh("list").stdout
    row = host.rows()["web"]
    assert row["pid"] == domain.pid and row["limit_bytes"] == 96 * MIB, row
    domain.expect_evicted()
    domain.virsh("suspend")
    assert domain.state() == "paused"
    domain.virsh("resume")
    domain.wait_progress(1000)
    mark = domain.console.mark()
    domain.virsh("reset")
    domain.wait_ready(since=mark)
    host.restart_libvirtd()
    assert domain.state() == "running"
    domain.wait_progress(1000)
    domain.check()
    domain.expect_limit_held()
    assert "running QEMU without" not in domain.said(), domain.said()
    domain.virsh("destroy")
    domain.gone()
    assert "web" not in host.virsh("list", "--all").stdout
    assert "web" not in host.rows()


@on(system())
def save_and_restore(host):
    """save, restore, managedsave and start: RAM goes through the file, evicted or not"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    domain = started(host)
    domain.expect_evicted()
    path = host.path("lib/web.save")
    domain.virsh("save", path)
    domain.expect_limit_held()
    domain.gone()
    host.virsh("restore", path)
    expect_goes_on(domain)
    domain.define()
    domain.virsh("managedsave")
    domain.gone()
    domain.start()
    expect_goes_on(domain)
    domain.expect_limit_held()


@on(system())
def with_and_without(host):
    """What was saved with Overbook is restored without it, and the reverse: the guest's machine is the same"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    domain = started(host)
    path, plain = host.path("lib/web.save"), host.path("plain.xml")
    with open(plain, "w") as file:
        file.write(domain.xml.replace(host.emulator, "/usr/bin/qemu-system-x86_64"))
    domain.virsh("save", path)
    domain.gone()
    host.virsh("save-image-define", path, plain)
    host.virsh("restore", path)
    domain.adopt()
    assert not domain.is_ours()
    domain.wait_progress(1000)
    assert domain.check() == domain.pages
    domain.virsh("save", path)
    domain.gone()
    host.virsh("save-image-define", path, host.path("web.xml"))
    host.virsh("restore", path)
    expect_goes_on(domain)


@on(system())
def snapshots_and_dumps(host):
    """An internal snapshot is taken and reverted to; dump --memory-only reads what is evicted"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    disk = host.make_disk("lib/disk.qcow2", 512, "qcow2")
    domain = host.domain("web", **MANAGED, witness=LOAD, devices="<disk type='file' device='disk'>"
                         f"<driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>")
    domain.define()
    domain.start()
    domain.wait_ready()
    domain.pages = domain.check()
    domain.expect_evicted()
    domain.virsh("snapshot-create-as", "first")
    domain.wait_progress(1000)
    domain.virsh("snapshot-revert", "first")
    expect_goes_on(domain)
    dump = host.path("lib/web.core")
    domain.virsh("dump", dump, "--memory-only", "--live")
    assert os.stat(dump).st_size > domain.memory
    assert domain.check() == domain.pages
    domain.expect_limit_held()


@on(system())
def balloon(host):
    """setmem and dommemstat: what the guest gives back is given back, and comes again"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    domain = host.domain("web", **MANAGED, witness=dict(anon=32, rate=1000), balloon="model='virtio' freePageReporting='on'")
    domain.create()
    domain.wait_ready()
    domain.virsh("setmem", "128M", "--live")
    harness.wait_until(lambda: "actual 131072" in domain.virsh("dommemstat").stdout, "the balloon has grown")
    domain.check()
    assert domain.stats()["stats"]["ballooned_bytes"] >= 16 * MIB, domain.stats()["stats"]
    domain.virsh("setmem", "192M", "--live")
    harness.wait_until(lambda: "actual 196608" in domain.virsh("dommemstat").stdout, "the balloon has shrunk")
    domain.check()
    domain.expect_limit_held()


@on(system())
def two_domains(host):
    """Two domains at once, with settings of their own, in overbookd's budget"""
    host.set_up(require="yes")
    host.configure("machines/a.conf", {"limit": "50%", "shares": 2000})
    host.configure("machines/b.conf", {"limit": "1G", "reservation": "64M"})
    host.start_daemon("--budget", "192M")
    domains = [host.domain(name, memory=192, limit=192, witness=LOAD, machine=kind) for name, kind in (("a", "pc"), ("b", "q35"))]
    for domain in domains:
        domain.create()
    for domain in domains:
        domain.wait_ready()
    rows = host.rows()
    assert rows["a"]["shares"] == 2000 and rows["a"]["limit_bytes"] <= 96 * MIB, rows
    assert rows["b"]["reservation_bytes"] == 64 * MIB, rows
    assert rows["a"]["limit_bytes"] + rows["b"]["limit_bytes"] <= 192 * MIB, rows
    for domain in domains:
        domain.wait_progress(1000)
        domain.check()
        domain.expect_evicted()


@on(system())
def plugged_in(host):
    """A disk and memory are plugged in: no device of ours lies where libvirt believes it is free"""
    host.set_up(limit="96M", require="yes")
    host.start_daemon()
    # With room to grow, the guest's kernel keeps 64 MiB for itself (swiotlb).
    domain = started(host, memory=320, xml="<maxMemory slots='2' unit='MiB'>1024</maxMemory>",
                     cpu="<vcpu>1</vcpu><cpu><numa><cell id='0' cpus='0' memory='320' unit='MiB'/></numa></cpu>")
    disk = host.make_disk("lib/plugged.raw", 16)
    domain.virsh("attach-disk", disk, "vdb", "--live")
    with open(host.path("dimm.xml"), "w") as file:
        file.write("<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>")
    domain.virsh("attach-device", host.path("dimm.xml"), "--live")
    assert domain.check() == domain.pages
    domain.virsh("detach-disk", "vdb", "--live")
    domain.wait_progress(1000)
    domain.expect_evicted()


@on(system())
def refusals(host):
    """What cannot be run is refused in words that virsh shows; with otherwise = plain it runs without"""
    host.set_up(limit="96M")
    shared = "<memoryBacking><source type='file'/></memoryBacking>"
    refused = host.domain("file", memory=128, xml=shared)
    said = refused.refused()
    assert "overbook: qemu:" in said and "memory-backend-ram" in said, said
    immediate = host.domain("now", memory=128, xml="<memoryBacking><allocation mode='immediate'/></memoryBacking>")
    assert "allocated beforehand" in immediate.refused()
    host.configure("machines/file.conf", {"otherwise": "plain"})
    refused.create()
    assert not refused.is_ours()
    assert refused.said().count("running QEMU without Overbook") == 1, refused.said()
    host.configure("machines/wrong.conf", {"limit": "lots"})
    said = host.domain("wrong", memory=128).refused()
    assert 'wrong.conf", line 3: limit: "lots" is not a size' in said, said


@on(system())
def settings_of_the_domain(host):
    """A domain brings its own settings, as variables of its qemu:commandline; another has none and is left alone"""
    host.set_up()
    host.start_daemon()
    domain = host.domain("own", **MANAGED, witness=LOAD,
                         variables={"OVERBOOK_LIMIT": "96M", "OVERBOOK_SHARES": 500, "OVERBOOK_DOMAIN": "tenant"})
    domain.create()
    domain.wait_ready()
    row = host.rows()["own"]
    assert (row["limit_bytes"], row["shares"], row["domain"]) == (96 * MIB, 500, "tenant"), row
    with open(f"/proc/{domain.pid}/environ") as file:
        assert "OVERBOOK_CONFIG" not in file.read()
    domain.check()
    alone = host.domain("alone", memory=128, variables={"OVERBOOK_ENABLED": "no"})
    alone.create()
    assert not alone.is_ours() and "alone" not in host.rows()


@on(system(acl=False))
def without_permission(host):
    """Without userfaultfd in cgroup_device_acl the machine runs as if we were not there, and says why once; or not at all"""
    host.set_up(limit="96M")
    domain = host.domain("web", **MANAGED, witness=LOAD)
    domain.create()
    domain.wait_ready()
    assert not domain.is_ours()
    said = domain.said()
    assert said.count("overbook: ") == 1 and "userfaultfd" in said and "running QEMU without Overbook" in said, said
    domain.check()
    domain.virsh("destroy")
    domain.gone()
    host.set_up(limit="96M", require="yes")
    said = host.domain("must", **MANAGED).refused()
    assert "userfaultfd" in said and "require is set" in said, said


@on(libvirt.Session)
def of_a_user(host):
    """qemu:///session of an ordinary user: start, list, save, restore, destroy"""
    config = host.path("home/.config/overbook")
    os.makedirs(config)
    with open(os.path.join(config, "machines.conf"), "w") as file:
        file.write(f"limit = 96M\nrequire = yes\nrundir = {host.rundir}\nswap = {host.swap}\n")
    host.start_daemon()
    domain = started(host)
    domain.expect_evicted()
    assert os.stat(f"/proc/{domain.pid}").st_uid == host.user.pw_uid
    assert "web" in host.virsh("list").stdout
    path = host.path("home/web.save")
    domain.virsh("save", path)
    domain.expect_limit_held()
    domain.gone()
    host.virsh("restore", path)
    expect_goes_on(domain)
    domain.virsh("destroy")
    domain.gone()


for user in (libvirt.System.USER, libvirt.Session.USER):
    reason = libvirt.missing(user)
    if reason:
        print(f"1..0 # SKIP {reason}")
        sys.exit(0)
sys.exit(tap.main([lifecycle, save_and_restore, with_and_without, snapshots_and_dumps, balloon, two_domains, plugged_in,
                   refusals, settings_of_the_domain, without_permission, of_a_user]))
