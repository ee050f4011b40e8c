# SPDX-License-Identifier: GPL-2.0-or-later
"""How machines end, in and out of turn, and hosts that are not as they should be: what is left afterwards is nothing, and who
is not concerned does not notice.

The machine has 192 MiB and a limit of 64, and its witness holds 80 MiB that hardly compress, written once: so there are
pages in its swap store.
"""
import os
import resource
import signal
import subprocess
import sys
import threading

import machine as harness
import mounts
import tap

MIB = harness.MIB
MANAGED = dict(memory=192, limit=64)
STILL = dict(anon=80, rate=0, random=100, zero=0)
SLOW_READS = {"OVERBOOK_FAULT": "swap_read:1+:slow"}
STOPPED = 8


def start(host, name="guest", **options):
    """A machine with pages in its store."""
    machine = host.machine(name, **{**MANAGED, "witness": STILL, **options})
    machine.wait_ready()
    machine.wait_stats(lambda s: s["swapped_bytes"] > 8 * MIB, "pages are swapped")
    return machine


def expect_gone(host, name):
    harness.wait_until(lambda: name not in host.rows(), f"overbookd has noticed that {name} has ended")


def machine_directories(host):
    return set(os.listdir(os.path.join(host.rundir, "machines")))


def crashes(host):
    """SIGKILL, SIGSEGV and an abort with pages swapped: swap space is free, overbookd knows, the next run sweeps up"""
    host.start_daemon()
    with mounts.small_file_system(host.swap, "size=256m"):
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            machine = start(host, f"ends-{number.name}")
            assert mounts.used_bytes(host.swap) > 8 * MIB
            assert machine_directories(host) == {machine.name}, "the directory of a machine that is gone is still there"
            machine.signal(number)
            assert machine.wait_end() == -number, machine.said()
            expect_gone(host, machine.name)
            harness.wait_until(lambda: not mounts.used_bytes(host.swap), "its swap space is free")
            machine.kill()


def quit_while_reading(host):
    """quit while a release is under way, and a SIGKILL in the middle of one, end QEMU, and the command line says so"""
    host.start_daemon()
    for name, end, status in (("quits", lambda m: m.qmp.command("quit"), 0),
                              ("killed", lambda m: m.signal(signal.SIGKILL), -signal.SIGKILL)):
        machine = start(host, name, environment=SLOW_READS)
        before = machine.stats()["stats"]["swapped_bytes"]
        release = subprocess.Popen([host.paths.overbook, "release", name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, env=host.environment, preexec_fn=harness.die_with_parent)
        # The agent tells no figures meanwhile, so it is seen in the reads that the process makes.
        harness.wait_until(lambda: machine.stats()["state"] == "releasing" or machine.stats()["stats"]["swapped_bytes"] < before,
                           "it is being released")
        assert release.poll() is None, "the release was over before it was disturbed"
        end(machine)
        assert machine.wait_end() == status, machine.said()
        said = release.communicate(timeout=harness.PATIENCE)[1]
        assert release.returncode and len(said.splitlines()) == 1 and name in said, f"{release.returncode}: {said}"
        tap.comment(said.strip())
        expect_gone(host, name)


def quit_while_unreadable(host):
    """A machine that was stopped because a page cannot be read: SIGKILL ends it at once, and overbookd knows"""
    host.start_daemon()
    machine = host.machine("guest", **MANAGED, witness=dict(anon=80, random=100, zero=0, rate=20000),
                           environment={"OVERBOOK_FAULT": "swap_read:300+:EIO"})
    machine.wait_said("machine stopped: ")
    machine.wait_stats(lambda s: s["degraded"] & STOPPED, "the figures say so")
    machine.signal(signal.SIGKILL)
    assert machine.wait_end() == -signal.SIGKILL
    expect_gone(host, "guest")


def end_in_savevm(host):
    """SIGKILL in the middle of savevm: the disk is sound, and the snapshot before it loads"""
    host.start_daemon()
    disk = host.make_disk("disk.qcow2", 64, "qcow2")
    options = dict(disk=dict(path=disk, form="qcow2", options="cache=writeback"))
    machine = start(host, **options)
    assert machine.qmp.hmp("savevm good") == ""
    size = os.stat(disk).st_size
    saving = threading.Thread(target=save_until_it_ends, args=(machine,))
    saving.start()
    harness.wait_until(lambda: os.stat(disk).st_size > size + 4 * MIB, "the second snapshot is being written")
    machine.signal(signal.SIGKILL)
    assert machine.wait_end() == -signal.SIGKILL
    saving.join()
    # Clusters that nobody owns are no damage: status 3. The lock of the dead process is gone.
    checked = subprocess.run(["qemu-img", "check", "-q", disk], capture_output=True, text=True)
    assert checked.returncode in (0, 3), checked
    machine.kill()
    again = host.machine("again", **MANAGED, witness=STILL, **options, arguments=["-loadvm", "good"])
    again.check()


def save_until_it_ends(machine):
    try:
        machine.qmp.hmp("savevm cut-short")
    except (ConnectionError, OSError):
        return
    machine.console.trouble.append("savevm was over before its end")


def failing_start(host):
    """A start that fails, with -daemonize and without: QEMU's own status and reason, and the name is free again"""
    host.start_daemon()
    for words in ([], ["-daemonize"]):
        for more, reason in ((["-drive", "file=/nonexistent/disk,format=raw"], "/nonexistent/disk"),
                             (["-device", "nonesuch"], "nonesuch")):
            failed = host.run("run", "--name", "guest", "--limit", "64M", "--swap", host.swap, "--require", "--", harness.QEMU,
                              "-m", "128M", "-display", "none", *words, *more, check=False)
            assert failed.returncode == 1 and reason in failed.stderr, failed
    refused = host.run("run", "--name", "guest", "--limit", "64M", "--no-swap", "--require", "--", harness.QEMU, "-m", "128M",
                       "-display", "none", "-daemonize", environment={"OVERBOOK_FAULT": "userfaultfd:1+:EPERM"}, check=False)
    assert refused.returncode == 1 and "overbook[guest]" in refused.stderr, refused
    assert not host.rows()
    machine = host.machine("guest", daemonize=True, memory=160, witness=dict(anon=20, rate=0))
    machine.wait_ready()
    machine.check()


def tight_limits(host):
    """Under small rlimits (locked memory, descriptors) a machine works; one on the size of files is refused with the reason"""
    host.start_daemon()
    small = ["prlimit", f"--fsize={64 * MIB}:{64 * MIB}", "--"]
    refused = host.machine("refused", **MANAGED, witness=STILL, prefix=small)
    assert refused.wait_end() == 5 and "ulimit -f" in refused.said() and len(refused.said().splitlines()) == 1, refused.said()
    prefix = ["prlimit", "--memlock=0:0", "--nofile=48:48", f"--fsize={256 * MIB}:{256 * MIB}", "--core=0:0", "--"]
    machine = start(host, prefix=prefix)
    machine.check()
    machine.expect_evicted()
    machine.qmp.command("quit")
    assert machine.wait_end() == 0, machine.said()


def no_address_space(host):
    """Under a limit of address space (RLIMIT_AS) a machine works; where there is none for the engine, QEMU runs alone and says so once; with --require it ends"""
    host.start_daemon()
    machine = host.machine("roomy", memory=192, limit=48, witness=dict(anon=60), prefix=["prlimit", f"--as={4 << 30}:{4 << 30}", "--"])
    machine.wait_ready()
    machine.expect_evicted()
    machine.check()
    machine.kill()
    # A limit that QEMU fits under and the engine does not would depend on QEMU's version: the kernel's answer is played.
    none = dict(environment={"OVERBOOK_FAULT": "mmap:1:ENOMEM"})
    machine = host.machine("without", memory=160, witness=dict(anon=30, rate=0), require=False, **none)
    machine.wait_ready()
    machine.check()
    said = [line for line in machine.said().splitlines() if "overbook" in line]
    assert len(said) == 1 and "Cannot allocate memory" in said[0], machine.said()
    tap.comment(said[0])
    refused = host.machine("refused", memory=160, witness=dict(anon=30), **none)
    assert refused.wait_end() == 1, refused.said()


def full_run_directory(host):
    """A full run directory: `overbook run` says so in one line and leaves nothing; with room it works"""
    for options, keep in (("nr_inodes=16,mode=700", 0), ("size=64k,mode=700", 1)):
        with mounts.small_file_system(host.rundir, options):
            host.start_daemon()
            fill_up(host.rundir)
            before = set(os.listdir(host.rundir))
            failed = host.run("run", "--name", "guest", "--no-swap", "--", harness.QEMU, "-m", "128M", "-display", "none", check=False)
            assert failed.returncode == 1, failed
            tap.comment(failed.stderr.strip())
            assert len(failed.stderr.splitlines()) == 1 and "No space left on device" in failed.stderr, failed
            os.unlink(os.path.join(host.rundir, "filling"))
            for name in before:
                if name.startswith("inode-"):
                    os.unlink(os.path.join(host.rundir, name))
            machine = host.machine(f"guest-{keep}", memory=160, witness=dict(anon=20, rate=0))
            machine.wait_ready()
            machine.check()
            machine.kill()
            host.kill_daemon()


def fill_up(directory):
    """Until neither a byte nor a name is left."""
    with open(os.path.join(directory, "filling"), "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        for number in range(10000):
            os.close(os.open(os.path.join(directory, f"inode-{number}"), os.O_CREAT | os.O_WRONLY))
    except OSError:
        pass


def swap_directory(host):
    """A swap directory that is missing is refused in one line; one that is removed later does not matter"""
    host.start_daemon()
    missing = host.run("run", "--swap", host.path("missing"), "--", harness.QEMU, "-m", "128M", "-display", "none", check=False)
    assert missing.returncode == 1 and len(missing.stderr.splitlines()) == 1 and host.path("missing") in missing.stderr, missing
    machine = host.machine("guest", memory=192, witness=STILL)
    machine.wait_ready()
    os.rmdir(host.swap)
    host.run("limit", "guest", "64M", "--wait")
    machine.wait_stats(lambda s: s["swapped_bytes"] > 8 * MIB, "pages are swapped")
    machine.check()
    machine.expect_evicted()


def other_budget(host):
    """overbookd comes back with a smaller budget, then with a larger one: the machines are brought inside each"""
    host.start_daemon("--budget", "224M")
    machines = [host.machine(name, memory=192, witness=dict(anon=80, seed=seed)) for seed, name in enumerate(("one", "two"), 1)]
    for machine in machines:
        machine.wait_ready()
    for mib in (144, 512):
        host.kill_daemon()
        host.start_daemon("--budget", f"{mib}M")

        def within():
            rows = host.rows()
            limits = [row["limit_bytes"] for row in rows.values()]
            # Of a large budget nobody gets more than he could use.
            return len(rows) == 2 and all(limits) and sum(limits) <= mib * MIB and sum(limits) > min(mib, 300) * MIB * 3 // 4
        harness.wait_until(within, f"the limits are inside {mib} MiB")
        harness.wait_until(lambda: sum(machine.host_bytes() for machine in machines) <= mib * MIB * harness.LIMIT_SLACK,
                           "and so is what they cost")
        for machine in machines:
            machine.wait_progress(1000)
    for machine in machines:
        machine.check()


resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.exit(tap.main([crashes, quit_while_reading, quit_while_unreadable, end_in_savevm, failing_start, tight_limits,
                   no_address_space, full_run_directory, swap_directory, other_budget]))
