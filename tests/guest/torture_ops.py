# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to one machine of the torture: a function for each kind of operation of torture_plan.py.

A Slot carries a life from its start to its end. A life may be several QEMU processes one after the other (it migrates to a
file and back), each a Machine of machine.py with a console and a log of its own; the witness in it goes on. After an
operation the machine runs again, its witness has got further, and what can be known is as it must be: the boot that the
witness is in, the limit by the kernel's accounting, no internal error.
"""
import contextlib
import json
import os
import signal
import threading
import time

import kernel
import machine as harness
import qmp as qmp_module
import torture_plan as plan
from torture_host import NOT_YET

MIB = harness.MIB
# The last while another is released beyond what the budget guarantees (--force): until that one is limited again, or ends.
REFUSED_ADMISSION = ("became free within", "do not fit", "is not admitted", "does not fit")
COUNTERS = ("lifted_pages", "returned_pages", "zero_pages_found", "compressed_pages", "swap_out_pages", "swap_in_pages",
            "discarded_pages", "faults_stalled", "lift_busy_pages", "swap_read_errors", "swap_write_errors")
# A guest that could grow above 4 GiB sets 64 MiB aside for bounce buffers, and one that was stopped says that it was stuck.
APPEND = "swiotlb=noforce nowatchdog memhp_default_state=online"
OPERATIONS = {}


def operation(kind):
    def add(function):
        OPERATIONS[kind] = function
        return function
    return add


class Slot:
    def __init__(self, number, host):
        self.number, self.host = number, host
        self.machine = self.spec = self.version = self.disk = self.warden = None
        self.lives = self.processes = 0
        self.boot, self.boots, self.plugged = None, {}, []
        self.refused_admissions = 0
        self.totals = dict.fromkeys(("checked", "written", "wrong", "internal_errors", "provoked_errors", *COUNTERS), 0)
        self.counted = 0          # pages that the witness had checked when its process was counted last
        self.last_stats = {}

    # --- processes ---

    def line_of(self, arguments):
        spec = self.spec
        words = []
        if spec["machine"] == "q35":
            for i, port in enumerate(plan.SLOTS["q35"]):
                words += ["-device", f"pcie-root-port,id={port},chassis={i + 1},slot={i + 1},addr={0x10 + i:#x}"]
        if spec["reporting"] == "off":
            words += ["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=off"]
        for device in self.plugged:
            words += device["words"]
        words += ["-qmp", f"unix:{self.host.path(self.next_name())}.warden,server=on,wait=off"]
        return words + list(arguments)

    def next_name(self):
        return f"m{self.number}-{self.lives}-{self.processes}"

    def start_process(self, version, arguments=(), overbook=True):
        """A QEMU for the present life; asks again when it is not admitted."""
        self.version = version if overbook else "plain"
        deadline = time.monotonic() + harness.PATIENCE
        while True:
            self.processes += 1
            self.machine = machine = self.new_machine(version, arguments, overbook)
            problem = self.try_to_start(machine)
            if not problem:
                break
            if not any(text in problem for text in REFUSED_ADMISSION) or time.monotonic() > deadline:
                raise AssertionError(f"{machine.name} ended at its start: {problem[-400:]}")
            self.refused_admissions += 1
            self.host.machines.remove(machine)
            machine.kill()
        if self.faulty() and plan.FAULTS[self.spec["fault"]].get("stops"):
            self.warden = Warden(self)

    def faulty(self):
        return self.spec["fault"] and self.version == "new"

    def new_machine(self, version, arguments, overbook):
        spec = self.spec
        options = ["--shares", str(spec["shares"])]
        options += ["--limit", f"{spec['limit']}M"] if spec["limit"] else []
        options += ["--reservation", f"{spec['reservation']}M"] if spec["reservation"] else []
        environment = {"OVERBOOK_FAULT": plan.FAULTS[spec["fault"]]["rules"]} if self.faulty() else None
        machine = harness.Machine(
            self.host, self.next_name(), memory=spec["memory"], processors=spec["processors"], machine=spec["machine"],
            witness=spec["load"], swap=spec["swap"], options=options, environment=environment, daemonize=spec["daemonize"],
            disk=dict(path=self.disk, form=spec["disk"], options=spec["block"]), paths=self.host.versions[version],
            hot_plug_mib=spec["memory"] + 4 * plan.DIMM, append=APPEND,
            arguments=self.line_of(arguments))
        self.host.machines.append(machine)
        if not overbook:
            machine.line, machine.overbook = harness.plain_line(harness.dry_run(machine)), False
        return machine

    def try_to_start(self, machine):
        """Why it does not run, or None."""
        def begun():
            return not machine.alive() or machine.listens()
        try:
            with self.host.wanted() if machine.daemonize else contextlib.nullcontext():
                machine.start()
        except AssertionError as problem:
            return str(problem)
        try:
            harness.wait_until(begun, f"{machine.name} starts", timeout=5)
        except TimeoutError:
            # Overbookd may have been stopped, perhaps until somebody wants it, and all the others may wait for it too.
            with self.host.wanted():
                harness.wait_until(begun, f"{machine.name} starts")
        return None if machine.alive() else machine.said()

    def drop_process(self):
        """The process is gone, or is to go: counts what its witness did, and lets go of it."""
        machine = self.machine
        if self.warden:
            self.warden.close()
            self.warden = None
        if not machine:
            return
        machine.kill()
        self.count_pages()
        self.take_stats({})
        if machine in self.host.machines:
            self.host.machines.remove(machine)
        for name in (".con.in", ".con.out", ".qmp", ".warden", ".pid"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.host.path(machine.name + name))
        self.machine = None
        machine.expect_clean()

    def count_pages(self):
        """Adds up what the witness of this process says; its totals begin anew at a boot and go back with a snapshot."""
        words, last = self.machine.console.words, self.counted
        for word in words:
            if word.name == "start":
                last = 0
            if "pages_checked" in word.values:
                now = int(word.values["pages_checked"])
                self.totals["checked"] += max(0, now - last)
                last = now
        self.counted = last
        self.totals["wrong"] += sum(word.name == "wrong" for word in words)

    # --- what is known of it ---

    def alive(self):
        return self.machine.alive()

    def ask_overbook(self, *words, check=True, timeout=harness.PATIENCE):
        # An agent whose messages are lost now and then is not there now and then.
        lost = ("the connection to its agent has ended",) if self.spec["fault"] == "deaf-link" else ()
        return self.host.run(*words, check=check, timeout=timeout, alive=self.alive, not_yet=NOT_YET + lost)

    def stats(self):
        return json.loads(self.ask_overbook("stats", self.machine.name, "--json").stdout)

    def take_stats(self, stats):
        """Sums the counters of a process when it is replaced by another ({}), and remembers the newest meanwhile."""
        if stats:
            self.last_stats = stats
            return
        errors = self.last_stats.get("internal_errors", 0)
        provoked = self.spec["fault"] and plan.FAULTS[self.spec["fault"]].get("errors")
        self.totals["provoked_errors" if provoked else "internal_errors"] += errors
        for name in COUNTERS:
            self.totals[name] += self.last_stats.get(name, 0)
        self.last_stats = {}

    def sample(self):
        """After each operation: the engine's own verdict."""
        if not self.machine or self.version == "plain" or not self.alive():
            return
        answer = self.stats()
        self.take_stats(answer["stats"])
        errors = answer["stats"]["internal_errors"]
        if errors and not (self.spec["fault"] and plan.FAULTS[self.spec["fault"]].get("errors")):
            raise AssertionError(f"{self.machine.name}: {errors} internal errors: {harness.tail(self.machine.log, 5)}")

    def wait_running(self):
        machine = self.machine

        def runs():
            status = machine.qmp.command("query-status")["status"]
            # It had been stopped by an unreadable page when it was migrated.
            if status == "paused" and self.spec["fault"] == "unreadable":
                machine.qmp.command("cont")
            return status == "running"
        harness.wait_until(lambda: not machine.alive() or runs(), f"{machine.name} runs")

    def expect_boot(self, boot, since):
        """The witness goes on, and it is the one of that boot."""
        self.machine.wait_word("status", since, condition=lambda word: word.values.get("boot") == boot)

    def expect_cost(self):
        """The machine comes inside its limit, by the engine's word and by the kernel's; for those that can."""
        machine = self.machine
        if self.version == "plain" or self.spec["fault"] or not self.spec["swap"]:
            return

        def inside():
            before = self.stats()["stats"]
            if not before["limit_bytes"]:
                return True
            if before["cost_bytes"] > before["limit_bytes"]:
                return False
            cost, after = self.host_bytes(), self.stats()["stats"]
            return cost <= max(before["limit_bytes"], after["limit_bytes"]) * harness.LIMIT_SLACK
        harness.wait_until(lambda: not machine.alive() or inside(), f"{machine.name} comes inside its limit")

    def host_bytes(self):
        ranges = [(r["kind"], r["start"], r["end"]) for r in self.stats()["ranges"]]
        with kernel.frozen(self.machine.pid):
            return sum(kernel.pss_by_kind(self.machine.pid, ranges).values())

    def set_balloon(self, mib):
        machine = self.machine
        goal = (self.spec["memory"] + plan.DIMM * sum(device["kind"] == "memory" for device in self.plugged) - mib) * MIB
        machine.qmp.command("balloon", value=goal)
        harness.wait_until(lambda: not machine.alive() or machine.qmp.command("query-balloon")["actual"] == goal,
                           f"the balloon of {machine.name} holds {mib} MiB")


class Warden:
    """Continues a machine that an unreadable page has stopped, once the page has been read: as its manager would."""

    def __init__(self, slot):
        self.slot, self.machine = slot, slot.machine
        self.continued = 0
        self.hold = threading.Lock()     # held by an operation that stops the machine itself
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self):
        self.ending.set()
        self.thread.join()

    def _run(self):
        path = self.slot.host.path(self.machine.name + ".warden")
        with contextlib.suppress(OSError, ValueError, TimeoutError, qmp_module.QmpError):
            monitor = harness.wait_until(lambda: self.machine.connect(path), "QEMU's monitor answers")
            while not self.ending.wait(0.2):
                said = self.machine.said()
                if said.count("the page has been read after all") <= self.continued:
                    continue
                with self.hold:
                    if monitor.command("query-status")["status"] == "paused":
                        monitor.command("cont")
                        self.continued += 1


@contextlib.contextmanager
def held(slot):
    """The machine is stopped inside by the operation itself: its warden lets it be."""
    with slot.warden.hold if slot.warden else contextlib.nullcontext():
        yield


# --- lives ---

@operation("start")
def start(slot, machine):
    slot.lives += 1
    slot.processes, slot.counted = 0, 0
    slot.spec, slot.plugged, slot.boots = machine, [], {}
    slot.disk = slot.host.make_disk(f"m{slot.number}-{slot.lives}.disk", plan.DISK, machine["disk"])
    slot.start_process(machine["agent"])
    slot.boot = slot.machine.wait_word("start").values["boot"]
    slot.machine.wait_ready()


def end_life(slot, expected):
    machine = slot.machine
    status = machine.wait_end()
    if expected is not None and not machine.daemonize:
        assert status == expected, f"{machine.name} ended with status {status}: {harness.tail(machine.log, 5)}"
    slot.drop_process()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(slot.disk)


@operation("kill")
def kill(slot):
    slot.machine.signal(signal.SIGKILL)
    end_life(slot, -signal.SIGKILL)


@operation("quit")
def leave(slot):
    slot.machine.qmp.command("quit")
    end_life(slot, 0)


@operation("terminate")
def terminate(slot):
    slot.machine.signal(signal.SIGTERM)
    end_life(slot, 0)


@operation("power-off")
def power_off(slot):
    slot.machine.console.say("stop")
    end_life(slot, 0)


# --- the witness ---

@operation("progress")
def progress(slot, pages):
    slot.machine.wait_progress(pages)


@operation("check")
def check(slot):
    return f"{slot.machine.check()} pages"


@operation("touch")
def touch(slot):
    slot.machine.ask("touch", "touched")


@operation("free")
def free(slot, percent):
    slot.machine.ask(f"free {percent}", "freed")


@operation("grow")
def grow(slot, mib):
    slot.machine.ask(f"grow {mib}", "grown")


# --- limits ---

@operation("limit")
def limit(slot, mib):
    slot.ask_overbook("limit", slot.machine.name, f"{mib}M" if mib else "none")
    slot.expect_cost()
    slot.machine.wait_progress(200)


@operation("release")
def release(slot):
    epoch = slot.host.epoch
    done = slot.ask_overbook("release", slot.machine.name, "--force", check=False)
    if done.returncode:
        unreadable = slot.spec["fault"] in ("unreadable",)
        assert unreadable or not slot.alive(), f"{slot.machine.name} is not released: {done.stderr.strip()}"
        return done.stderr.strip()
    answer = slot.stats()
    if slot.host.epoch == epoch and answer["state"] == "released":
        away = {key: answer["stats"][key] for key in ("benched_bytes", "compressed_bytes", "swapped_bytes")}
        assert not any(away.values()), f"{slot.machine.name} is released, and there is still {away}"
    slot.machine.wait_progress(200)
    return None


# --- what the guest gives back ---

@operation("balloon")
def balloon(slot, mib):
    slot.set_balloon(mib)
    slot.machine.wait_progress(200)


# --- standing still ---

@operation("pause")
def pause(slot):
    with held(slot):
        slot.machine.qmp.command("stop")
        slot.expect_cost()
        slot.machine.qmp.command("cont")
    slot.machine.wait_progress(200)


@operation("freeze")
def freeze(slot):
    """SIGSTOP; overbookd must go on answering, and not for ever believe what it heard last."""
    epoch = slot.host.epoch

    def aged():
        done = slot.host.run("stats", slot.machine.name, "--json", check=False, alive=lambda: slot.host.epoch == epoch)
        # An overbookd that is new has heard nothing yet.
        return slot.host.epoch != epoch or not done.returncode and json.loads(done.stdout)["age_ms"] > 1200
    with kernel.frozen(slot.machine.pid):
        harness.wait_until(aged, f"the figures of {slot.machine.name} grow old")
    harness.wait_until(lambda: slot.stats()["age_ms"] < 1200, f"the figures of {slot.machine.name} are fresh")
    slot.machine.wait_progress(200)


@operation("dump")
def dump(slot):
    with held(slot):
        slot.machine.qmp.command("dump-guest-memory", timeout=harness.PATIENCE, paging=False, protocol="file:/dev/null")
    slot.machine.wait_progress(200)


# --- snapshots and migration ---

@operation("savevm")
def savevm(slot, tag):
    with held(slot):
        problem = slot.machine.qmp.hmp(f"savevm {tag}", timeout=harness.PATIENCE)
    assert problem == "", f"savevm: {problem}"
    slot.boots[tag] = slot.boot
    slot.machine.wait_progress(200)


@operation("loadvm")
def loadvm(slot, tag):
    # Whatever the witness still had to say belongs to the time before.
    with held(slot):
        slot.machine.qmp.command("stop")
        slot.machine.console.cut()
        since = slot.machine.console.mark()
        problem = slot.machine.qmp.hmp(f"loadvm {tag}", timeout=harness.PATIENCE)
        assert problem == "", f"loadvm: {problem}"
        slot.machine.qmp.command("cont")
    slot.boot = slot.boots[tag]
    slot.expect_boot(slot.boot, since)
    slot.machine.check()
    slot.expect_cost()


def migrate_away(slot, path):
    """To a file; the process ends.

    The machine is stopped first. TCG marks a page dirty and writes to it then: a write that waits for its page between the
    two is lost when the page is sent meanwhile, and waits are what an evicted page makes (QEMU's accel/tcg/cputlb.c,
    store_helper; KVM marks when it lets the write through). A guest at full rate then came back with a torn run queue.
    """
    source = slot.machine
    with held(slot):
        source.qmp.command("stop")
        source.qmp.command("migrate-set-parameters", max_bandwidth=1 << 30, downtime_limit=2000)
        source.qmp.command("migrate", uri=f"exec:cat >{path}")

        def done():
            now = source.qmp.command("query-migrate")
            assert now.get("status") not in ("failed", "cancelled"), f"{source.name}: the migration failed: {now}"
            return now.get("status") == "completed"
        harness.wait_until(done, f"{source.name} has migrated")
        source.qmp.command("quit")
        status = source.wait_end()
    assert status in (0, None), f"{source.name} ended with status {status} after a migration: {harness.tail(source.log, 5)}"
    slot.drop_process()


def come_back(slot, path, version, overbook=True):
    slot.start_process(version, ["-incoming", f"exec:cat {path}"], overbook)
    monitor = slot.machine.qmp
    harness.wait_until(lambda: not slot.alive() or monitor.command("query-status")["status"] == "paused",
                       f"{slot.machine.name} has come")
    monitor.command("cont")
    slot.expect_boot(slot.boot, 0)
    slot.machine.check()
    os.unlink(path)


def there_and_back(slot, version, overbook=True):
    path = slot.host.path(f"m{slot.number}.state")
    migrate_away(slot, path)
    come_back(slot, path, version, overbook)


@operation("migrate")
def migrate(slot, to):
    before = slot.version
    there_and_back(slot, to)
    slot.expect_cost()
    return f"{before} to {to}"


@operation("migrate-through-plain")
def migrate_through_plain(slot, to):
    there_and_back(slot, "new", overbook=False)
    slot.machine.wait_progress(1000)
    there_and_back(slot, to)


@operation("migrate-fails")
def migrate_fails(slot, after):
    machine = slot.machine
    machine.qmp.command("migrate-set-parameters", max_bandwidth=1 << 30, downtime_limit=2000)
    machine.qmp.command("migrate", uri=f"exec:head -c {after} >/dev/null; exit 1")
    harness.wait_until(lambda: machine.qmp.command("query-migrate").get("status") == "failed", "the migration has failed")
    slot.wait_running()
    machine.wait_progress(200)


# --- plugging ---

@operation("plug-memory")
def plug_memory(slot):
    machine, n = slot.machine, len(slot.plugged)
    memory, device = f"more{n}", f"dimm{n}"
    machine.qmp.command("object-add", qom_type="memory-backend-ram", id=memory, size=plan.DIMM * MIB)
    machine.qmp.command("device_add", driver="pc-dimm", id=device, memdev=memory)
    found = [entry["data"] for entry in machine.qmp.command("query-memory-devices") if entry["data"]["id"] == device][0]
    slot.plugged.append(dict(kind="memory", words=[
        "-object", f"memory-backend-ram,id={memory},size={plan.DIMM}M",
        "-device", f"pc-dimm,id={device},memdev={memory},addr={found['addr']:#x},slot={found['slot']}"]))
    machine.wait_progress(200)


@operation("plug-device")
def plug_device(slot, driver, place):
    machine, port = slot.machine, place.startswith("port")
    name, where = "plugged-" + place, dict(bus=place) if port else dict(bus="pci.0", addr=place)
    more, words = {}, []
    if driver == "virtio-blk-pci":
        path = slot.host.path(f"m{slot.number}-{place}.raw")
        with open(path, "wb") as file:
            file.truncate(16 * MIB)
        machine.qmp.command("blockdev-add", driver="file", node_name="file-" + place, filename=path, read_only=True)
        words, more = ["-blockdev", f"driver=file,node-name=file-{place},filename={path},read-only=on"], dict(drive="file-" + place)
    if driver == "virtio-net-pci":
        machine.qmp.command("netdev_add", type="user", id="net-" + place)
        words, more = ["-netdev", f"user,id=net-{place}"], dict(netdev="net-" + place)
    machine.qmp.command("device_add", driver=driver, id=name, **where, **more)
    settings = ",".join(f"{key}={value}" for key, value in {"id": name, **where, **more}.items())
    slot.plugged.append(dict(kind="device", place=place, words=[*words, "-device", f"{driver},{settings}"]))
    machine.wait_progress(200)


@operation("unplug-device")
def unplug_device(slot, place):
    machine = slot.machine
    device = next(device for device in slot.plugged if device.get("place") == place)
    harness.wait_until(lambda: not machine.alive() or is_unplugged(machine, "plugged-" + place), f"{machine.name} gives {place} back")
    slot.plugged.remove(device)
    for command, node in (("netdev_del", "net-" + place), ("blockdev-del", "file-" + place)):
        with contextlib.suppress(qmp_module.QmpError):
            machine.qmp.command(command, **({"id": node} if command == "netdev_del" else {"node_name": node}))
    machine.wait_progress(200)


def is_unplugged(machine, device):
    """Asks for it; an answer "in the process of unplug" is as good as none."""
    with contextlib.suppress(qmp_module.QmpError):
        machine.qmp.command("device_del", id=device)
    names = [entry["name"] for entry in machine.qmp.command("qom-list", path="/machine/peripheral")]
    return device not in names


# --- booting ---

def boot_again(slot, how):
    slot.set_balloon(0)
    since = slot.machine.console.mark()
    how()
    boot = slot.machine.wait_word("start", since).values["boot"]
    assert boot != slot.boot, f"{slot.machine.name}: the witness says it is of the same boot ({boot}) after a reset"
    slot.boot = boot
    slot.machine.wait_ready(since)
    slot.machine.check()


@operation("reset")
def reset(slot):
    boot_again(slot, lambda: slot.machine.qmp.command("system_reset"))


@operation("reboot")
def reboot(slot):
    boot_again(slot, lambda: slot.machine.console.say("reboot"))
