# SPDX-License-Identifier: GPL-2.0-or-later
"""What breaks under a real guest: its swap store, the kernel's answers, the kernel's features. Guest memory stays intact,
or the machine stops and says why; it never goes on with a wrong byte, and that the witness would see one is shown first.

Faults come from OVERBOOK_FAULT (src/base/fault.h). The test runs in a mount namespace of its own where it may, for a small
file system.
"""
import sys

import machine as harness
import mounts
import tap

MIB = harness.MIB
SWAP_FULL, SWAP_ERROR, STOPPED = 1, 2, 8
MANAGED = dict(memory=208, limit=64)
BUSY = dict(anon=100, rate=20000)


def start(host, fault=None, **options):
    host.start_daemon()
    environment = {"OVERBOOK_FAULT": fault} if fault else None
    return host.machine("guest", **{**MANAGED, "witness": BUSY, "environment": environment, **options})


def witness_sees_a_wrong_byte(host):
    """A byte that is flipped on its way back is seen by the witness (mutation)"""
    # Only once the witness plays over all of its memory is anything evicted, so that hardly a page of the kernel is hit.
    machine = start(host, "page_return:/200:flip", limit=None, witness=dict(anon=100, writes=0, hot=100))
    machine.wait_ready()
    host.run("limit", "guest", "64M")
    seen = harness.wait_until(lambda: [word.text for word in machine.console.words if word.name == "wrong"] or not machine.alive(),
                              "the witness sees a wrong byte")
    assert isinstance(seen, list), "the guest ended without a word: " + machine.said()
    tap.comment(seen[0])
    machine.console.trouble.clear()


def witness_sees_its_own(host):
    """A bit that the witness itself flips is found by its check (mutation)"""
    host.start_daemon()
    machine = host.machine("guest", memory=160, witness=dict(anon=40, rate=0))
    machine.wait_ready()
    machine.ask("corrupt", "corrupted-done")
    since = machine.console.mark()
    machine.console.say("check")
    harness.wait_until(lambda: any(word.name == "checked" for word in machine.console.words[since:]), "the check is over")
    checked = [word for word in machine.console.words if word.name == "checked"][-1]
    assert int(checked.values["wrong"]) == 1, checked.text
    machine.console.trouble.clear()


def request_sees_a_wrong_byte(host):
    """A request goes over as many pages as it says, and tells of a wrong bit among them (mutation)"""
    host.start_daemon()
    machine = host.machine("guest", memory=160, witness=dict(anon=8, threads=2, rate=0, writes=0, sequential=100))
    machine.wait_ready()
    first = machine.wait_word("status", machine.console.mark())
    answer = machine.ask("request 1000", "answered")
    assert answer.values["pages"] == "1000" and answer.values["wrong"] == "0", answer.text
    later = machine.wait_word("status", machine.console.mark())
    assert int(later.values["pages_checked"]) - int(first.values["pages_checked"]) == 1000, f"{first.text}; {later.text}"
    machine.ask("corrupt", "corrupted-done")
    since = machine.console.mark()
    machine.console.say(f"request {8 * 256}")
    harness.wait_until(lambda: any(word.name == "answered" for word in machine.console.words[since:]), "the request is answered")
    answer = [word for word in machine.console.words if word.name == "answered"][-1]
    assert answer.values["wrong"] == "1", answer.text
    machine.console.trouble.clear()


def unreadable(kind, fault):
    def case(host):
        # Reads fail for a while: more than there can be of neighbours only, who are not waited for. Tried again every second, they succeed at last.
        machine = start(host, f"swap_read:900-931:{fault}")
        monitor = machine.qmp
        machine.wait_said("machine stopped: ")
        stopped = [line for line in machine.said().splitlines() if "machine stopped: " in line]
        machine.wait_said("the page has been read after all")
        harness.wait_until(lambda: monitor.command("query-status")["status"] == "paused", "the machine is paused")
        monitor.wait_event("STOP")
        assert machine.fresh_stats()["stats"]["swap_read_errors"] > 0
        tap.comment(stopped[0])
        monitor.command("cont")
        machine.wait_progress(2000)
        machine.check()
    case.title = f"A swap read that fails by {kind} stops the machine with the cause, and once it succeeds cont goes on"
    return case


def unreadable_for_good(host):
    """A page that can never be read leaves the machine stopped, and overbookd tells why"""
    machine = start(host, "swap_read:300+:EIO")
    machine.wait_said("machine stopped: ")
    machine.wait_stats(lambda s: s["degraded"] & STOPPED, "the figures say so")
    row = host.rows()["guest"]
    assert row["state"] == "stopped" and row["cause"], row
    assert row["cause"] in host.run("stats", "guest").stdout, host.run("stats", "guest").stdout
    tap.comment(row["cause"])


def failing_writes(kind, fault):
    def case(host):
        machine = start(host, f"swap_write:20-60:{fault}", witness=dict(anon=100, random=100, zero=0, rate=20000))
        machine.wait_stats(lambda s: s["swap_write_errors"] > 0 and s["degraded"] & SWAP_ERROR, "writes fail visibly")
        machine.wait_stats(lambda s: not s["degraded"], "writes succeed again")
        machine.wait_ready()
        machine.wait_progress(2000)
        machine.check()
        machine.wait_stats(lambda s: not s["over_limit_bytes"], "the limit is kept again")
        machine.expect_evicted()
        assert machine.host_bytes() <= machine.limit * harness.LIMIT_SLACK, machine.host_parts()
    case.title = f"Swap writes that fail by {kind}: eviction stops visibly, nothing is lost, and it resumes when they succeed"
    return case


def full_store(host):
    """A full swap directory: the limit is exceeded visibly and nothing is lost; with room again it is kept again"""
    with mounts.small_file_system(host.swap, "size=16m"):
        machine = start(host, witness=dict(anon=100, random=100, zero=0, rate=20000))
        machine.wait_ready()
        full = machine.wait_stats(lambda s: s["degraded"] & SWAP_FULL and s["over_limit_bytes"], "the store is full, visibly")
        tap.comment(f"{full['stats']['over_limit_bytes'] >> 20} MiB above the limit with the store full")
        machine.wait_progress(2000)
        machine.check()
        mounts.resize(host.swap, "size=256m")
        machine.wait_stats(lambda s: not s["degraded"] and not s["over_limit_bytes"], "the limit is kept again")
        machine.wait_progress(2000)
        machine.check()
        assert machine.host_bytes() <= machine.limit * harness.LIMIT_SLACK
        machine.kill()


def troubled_kernel(host):
    """Kernel calls that fail now and then, and memory that is short: no byte is wrong"""
    machine = start(host, "uffd_move:/97:EAGAIN,uffd_copy:/89:EAGAIN,uffd_zeropage:/83:EAGAIN,uffd_move:/101:EBUSY,"
                    "pagemap_scan:/7:ENOMEM,madvise:/11:EAGAIN,pool_alloc:/5:ENOMEM,swap_write:/13:short,swap_grow:/3:ENOSPC")
    machine.wait_ready()
    machine.wait_progress(10000)
    machine.check()
    s = machine.fresh_stats()["stats"]
    assert s["compressed_pages"] > 0 and s["swap_out_pages"] > 0, s


def short_of_swap(host):
    """Without a swap store the compressed pool is all there is, and nothing is lost"""
    host.start_daemon()
    machine = host.machine("guest", memory=208, witness=BUSY, swap=False)
    machine.wait_ready()
    host.run("limit", "guest", "96M")
    machine.wait_stats(lambda s: s["compressed_bytes"] > 0, "pages are compressed")
    machine.wait_progress(5000)
    machine.check()
    assert machine.fresh_stats()["stats"]["swapped_bytes"] == 0


def pretend_without(feature):
    def case(host):
        environment = {"OVERBOOK_PRETEND_WITHOUT": feature}
        required = host.run("run", "--require", "--", harness.QEMU, "-m", "64M", "-display", "none", environment=environment, check=False)
        assert required.returncode and len(required.stderr.splitlines()) == 1 and "--require" in required.stderr, required
        machine = host.machine("guest", memory=160, require=False, witness=dict(anon=30), environment=environment)
        machine.wait_ready()
        machine.wait_progress(1000)
        machine.check()
        reasons = [line for line in machine.said().splitlines() if "overbook" in line]
        assert len(reasons) == 1 and "without Overbook" in reasons[0], machine.said()
        tap.comment(reasons[0])
        with open(f"/proc/{machine.pid}/maps") as maps:
            assert "liboverbook-agent" not in maps.read()
    case.title = f"Without the kernel's {feature} QEMU runs alone, says so once, and --require refuses"
    return case


def engine_cannot_start(host):
    """When the engine cannot start inside QEMU, the machine runs without it and says so once; with --require it ends"""
    fault = {"OVERBOOK_FAULT": "userfaultfd:1+:EPERM"}
    machine = host.machine("guest", memory=160, require=False, witness=dict(anon=30), environment=fault)
    machine.wait_ready()
    machine.wait_progress(1000)
    machine.check()
    reasons = [line for line in machine.said().splitlines() if "overbook" in line]
    assert len(reasons) == 1, machine.said()
    tap.comment(reasons[0])
    refused = host.machine("refused", memory=160, witness=dict(anon=30), environment=fault)
    assert refused.wait_end() == 1, refused.said()


sys.exit(tap.main([
    witness_sees_a_wrong_byte, witness_sees_its_own, request_sees_a_wrong_byte, unreadable("EIO", "EIO"),
    unreadable("a flipped bit", "flip"), unreadable("being short", "short"), unreadable_for_good, failing_writes("EIO", "EIO"),
    failing_writes("being short", "short"), full_store, troubled_kernel, short_of_swap,
    pretend_without("uffd"), pretend_without("move"), pretend_without("pagemap_scan"), engine_cannot_start]))
