# SPDX-License-Identifier: GPL-2.0-or-later
"""The sides of bench/density: so many machines on one side, brought into the budget, under load, and what came of it.

All sides begin alike: machines are started a few at a time without any limit, fill their memory, and read the image. Then the
budget is imposed, and holds before the load begins.

    unconstrained   QEMU as it is, and no budget. Like those of the kernel's sides it has the balloon that `overbook run` would
                    add, which reports free pages, so that what guests free is given back here as well
    overbook        one sharing domain, and all means: OVERBOOK, and --share-mapped; memory that a machine does not use is taxed higher than by default, as somebody
                    would set it who has more machines than memory
    no-...          the same with one of them switched off. no-mapping: without --share-mapped; no-compression: the pool is
                    always full, and pages are compressed in vain; no-large-pages: they are as the kernel makes them, and broken
                    by eviction alone
    static          a limit of its own for each machine, an equal part of the budget; compressing, swapping, large pages; nothing that
                    goes across machines, and no balloons
    kernel          a memory cgroup around all QEMUs, a swap file on the file system of our swap store, zswap, KSM as the host has it set
    kernel-hurried  the same with KSM as somebody would set it who is in a hurry (ksm.py: BEST)
    kernel-whole    kernel-hurried, with the budget and QEMU's own memory as one limit for both

What the budget holds is guests' memory and what keeping it costs. Ours counts it so. A cgroup is charged for all of QEMU, whose own memory
(85 MiB a machine under TCG) the kernel swaps like any other, and would fill what that leaves with guests' memory: twice the budget and more, with
many machines. So the group's limit follows what is there: each FOLLOW_S it becomes the budget and what is in memory of QEMUs besides their guests'
memory, less zswap's pool where nobody is charged for that (version 1). That is looked up by walking through all page tables, which would slow guests
down, so the limit stays what it is while the load is measured. kernel-whole is what becomes of it otherwise: its limit is the
budget and what so many QEMUs need when nothing is limited. That is memory which a host has to have for our side, since we do
not page QEMU's own: "whole_mib" says for each side what all of it takes. zswap's pool is kept to the same part of the budget that
it may have of a host's memory by default; the whole host's would hold everything.

Hosts run for days, points for minutes. So nothing is measured before the load has run for a while, in which each side finds out what is
used: ours divides the budget by samples, about one a second from each machine. And so that both have found what there is to be shared,
each is hurried before it is measured, in the way that is best for it: KSM goes round three times, as fast as it can, before the budget
is there, when nothing has been swapped yet; ours may use HURRY of a processor for each machine in the first half of the load that is
not measured, since it looks for more when memory is short.
"""
import collections
import contextlib
import threading
import time

from density_load import MEMORY_MIB, Load, kind_of, parameters_of, percentile
from density_replay import FIRMWARE_MIB, Replaying, Stepper
from guests import BALLOON, PATIENCE, Machine, Place, overlay_drive, process_cpu_ns, process_pss_bytes
from lib import Failure, Unfit, read_text
from peers import OVER, Cgroup, SwapFile, Unequal, meminfo_bytes

MIB, PAGE = 1 << 20, 4096
PLAIN, AGAIN, STATIC = "unconstrained", "unconstrained again", "static"
KERNEL, HURRIED, WHOLE = KERNELS = "kernel", "kernel-hurried", "kernel-whole"
AT_ONCE = 4        # machines that start side by side
POOL_PERCENT = 20  # of the budget for zswap's pool: the kernel's default, of the host's memory
COMPRESSOR = "lz4" # ours; the kernel's too if it has it, else the one that is set
HURRY = 500        # thousandths of a processor
FOLLOW_S = 2

OVERBOOK = {"SHARE": "on", "BALLOON": "auto", "LARGE_PAGES": "proactive", "IDLE_TAX": "95%"}
Ours = collections.namedtuple("Ours", "settings options environment words", defaults=({}, (), {}, ""))
MAPPED = ("--share-mapped",)
OURS = {
    "overbook": Ours(OVERBOOK, MAPPED),
    STATIC: Ours({"SHARE": "off", "BALLOON": "off", "LARGE_PAGES": "proactive"}),
    "no-share": Ours({**OVERBOOK, "SHARE": "off"}, words="without sharing"),
    "no-mapping": Ours(OVERBOOK, words="with shared pages copied when they are read"),
    "no-compression": Ours(OVERBOOK, MAPPED, {"OVERBOOK_FAULT": "pool_alloc:1+:ENOMEM"}, "without compression"),
    "no-large-pages": Ours({**OVERBOOK, "LARGE_PAGES": "never"}, MAPPED, words="without a policy of large pages"),
    "no-balloon": Ours({**OVERBOOK, "BALLOON": "off"}, MAPPED, words="without balloons"),
    "no-idle-tax": Ours({**OVERBOOK, "IDLE_TAX": "0%"}, MAPPED, words="without the idle tax"),
}
SIDES = ("overbook", *KERNELS, STATIC)
ABLATION = tuple(side for side, ours in OURS.items() if ours.words)


class Guest(Machine):
    """One whose many lines cost no look at its threads."""

    def agent_cpu_ns(self):
        return 0

    def agents_cpu_ns(self):
        return super().agent_cpu_ns()


class ReplayingGuest(Replaying):
    def agents_cpu_ns(self):
        return self.agent_cpu_ns()


class Fleet:
    """Machines of a side, all of whose memory is there, and no limit yet."""

    def __init__(self, place, group, side, count, ground):
        self.place, self.group, self.side, self.count = place, group, side, count
        self.follower = self.stepper = None
        self.machines = []
        for first in range(0, count, AT_ONCE):
            batch = [self.start(i, ground) for i in range(first, min(first + AT_ONCE, count))]
            for machine in batch:
                machine.wait_line("ready")
            self.machines += batch
        if ground.recording:
            self.stepper = Stepper(self.machines)
        self.read([machine for i, machine in enumerate(self.machines) if kind_of(i).name == "reading"])

    def start(self, i, ground):
        name = f"m{i}"
        ours = OURS.get(self.side)
        more = {"options": ours.options, "environment": ours.environment, "domain": "bench"} if ours else {"arguments": BALLOON}
        if ground.recording:
            return ReplayingGuest(self.place, ground.recording, i, bool(ours), group=self.group, **more)
        drive = overlay_drive(self.place, name, ground.image, "threads") if kind_of(i).name == "reading" else None
        return Guest(self.place, name, bool(ours), MEMORY_MIB, parameters_of(i), group=self.group, drive=drive, **more)

    @staticmethod
    def read(machines):
        """Every byte of them."""
        marks = []
        for machine in machines:
            marks.append(len(machine.lines))
            machine.tell("check")
        for machine, mark in zip(machines, marks):
            line = machine.wait_line("checked", mark)[1]
            if line.values["wrong"] != "0":
                raise Failure(f"{machine.name}: {line.values['wrong']} pages were wrong")

    def wait_inside(self):
        """Until no machine is above its limit."""
        deadline = time.monotonic() + PATIENCE
        while True:
            rows = self.place.ask("ps")["machines"]
            if len(rows) == self.count and all(0 < row["limit_bytes"] >= row["cost_bytes"] for row in rows):
                return
            if time.monotonic() > deadline:
                raise Failure(f"machines are not inside the budget within {PATIENCE:.0f} s")
            time.sleep(0.25)

    def guests_bytes(self):
        """What is there of plain machines' RAM."""
        return sum(machine.guest_pages_bytes("Pss") for machine in self.machines)

    def whole_bytes(self):
        """All that is taken, by the kernel's account: QEMUs, zswap's pool, what overbookd has in memory, the store of shared pages with it."""
        pool = self.pool_bytes() if self.group.version == 1 else 0  # version 2 has charged it
        return self.group.usage_bytes() + pool + (process_pss_bytes(self.place.daemon.pid) or 0 if self.side in OURS else 0)

    def pool_bytes(self):
        return max(meminfo_bytes("Zswap") - self.group.others, 0)

    def charged_bytes(self, own_bytes):
        """What of that is guests' memory, and what keeps it."""
        return self.whole_bytes() - own_bytes if self.side in OURS else self.guests_bytes() + self.pool_bytes()


class Follower(threading.Thread):
    """Keeps the group's limit such that guests' memory and zswap's pool are inside the budget."""

    def __init__(self, fleet, budget_bytes):
        super().__init__(daemon=True)
        self.fleet, self.budget, self.ended = fleet, budget_bytes, threading.Event()
        self.start()

    def run(self):
        group = self.fleet.group
        while not self.ended.wait(FOLLOW_S):
            # A machine that has gone: who asks it will say so.
            with contextlib.suppress(Unfit):
                own = max(self.fleet.whole_bytes() - self.fleet.charged_bytes(0), 0)
                # EBUSY: not all of it could be reclaimed yet; the next turn goes on.
                with contextlib.suppress(OSError):
                    group.limit(own + self.budget - (self.fleet.pool_bytes() if group.version == 1 else 0))

    def stop(self):
        self.ended.set()
        self.join()


def impose(fleet, stack, ground, budget_bytes, own_bytes):
    """The side's budget, from now on; what has to be undone when the machines have gone is on the stack."""
    place, side = fleet.place, fleet.side
    if side == STATIC:
        for machine in fleet.machines:
            place.ask("limit", machine.name, f"{budget_bytes // fleet.count >> 20}M")
        fleet.wait_inside()
    elif side in OURS:
        place.configure(settings_text(side) + f"BUDGET={budget_bytes >> 20}M\nSHARE_CPU={HURRY}\n")
        fleet.wait_inside()
    elif side in KERNELS:
        limit = budget_bytes + own_bytes
        ground.ksm.go_round(PATIENCE)
        ground.ksm.start(best=side != KERNEL)
        ground.zswap.limit_pool(budget_bytes * POOL_PERCENT // 100)
        ground.switch_zswap_on()
        fleet.group.lower(limit, PATIENCE)
        if side == WHOLE:
            fleet.group.follow_pool(limit)
            stack.callback(fleet.group.follow_no_more)
        else:
            fleet.follower = Follower(fleet, budget_bytes)
            stack.callback(fleet.follower.stop)


def hurry_no_more(fleet, budget_bytes):
    if fleet.side in OURS and fleet.side != STATIC:
        fleet.place.configure(settings_text(fleet.side) + f"BUDGET={budget_bytes >> 20}M\n")


def settings_text(side):
    return "".join(f"{name}={value}\n" for name, value in OURS[side].settings.items()) if side in OURS else ""


class Usage:
    """Processors and swap, counted from now on."""

    NAMES = ("swap_in_pages", "swap_out_pages", "faults_compressed", "compressed_pages")  # of ours
    VMSTAT = ("pswpin", "pswpout", "zswpin", "zswpout")                                   # the same of the kernel's

    def __init__(self, fleet, ground):
        self.fleet, self.ground = fleet, ground
        self.began, self.first = time.monotonic(), self.read()

    def read(self):
        fleet = self.fleet
        ours, kernel = fleet.side in OURS, fleet.side in KERNELS
        busy = [int(word) for word in read_text("/proc/stat").splitlines()[0].split()[1:9]]
        now = {"host": (sum(busy) - busy[3] - busy[4]) * 1e9 / 100, "bench": time.process_time_ns(),
               "qemu": sum(machine.cpu_ns() for machine in fleet.machines),
               "agents": sum(machine.agents_cpu_ns() for machine in fleet.machines),
               "overbookd": process_cpu_ns(fleet.place.daemon.pid), "ksmd": self.ground.ksm.cpu_ns() if kernel else 0}
        if ours:
            stats = [fleet.place.stats(machine.name) for machine in fleet.machines]
            counts = [sum(one[name] for one in stats) for name in self.NAMES]
        else:
            counters = dict(line.split() for line in read_text("/proc/vmstat").splitlines())
            counts = [int(counters.get(name, 0)) for name in self.VMSTAT]
        return now, counts

    def finish(self):
        """Processors used on average, by whom, and MiB a second."""
        seconds = time.monotonic() - self.began
        (cpu, counts), (cpu_before, counts_before) = self.read(), self.first
        names = ("read", "written", "decompressed", "compressed")
        return {"cores": {name: round((cpu[name] - cpu_before[name]) / 1e9 / seconds, 3) for name in cpu},
                "swap_mib_s": {name: round((now - then) * PAGE / MIB / seconds, 3) for name, now, then in zip(names, counts, counts_before)}}


def figures(took, unanswered):
    """Of the seconds that requests took."""
    every = sorted(seconds for times in took.values() for seconds in times)

    def of(times):
        return {"requests": len(times), **{f"p{percent}_ms": round(percentile(times, percent) * 1000, 2) for percent in (50, 90, 99)},
                "most_ms": round(times[-1] * 1000, 2)}
    return {**of(every), "unanswered": unanswered, "kinds": {kind: of(times) for kind, times in took.items() if times}}


class Ground:
    """What runs share: the image, or what guests replay, and what is to be put back of the kernel's settings."""

    def __init__(self, directory, image, recording, zswap, ksm, unfit):
        self.directory, self.image, self.recording, self.zswap, self.ksm, self.unfit = directory, image, recording, zswap, ksm, unfit

    def switch_zswap_on(self):
        try:
            self.zswap.switch(COMPRESSOR)
        except Unequal:
            self.zswap.switch(self.zswap.found["compressor"])


def measure(bench, ground, side, count, own_bytes, plan):
    """One point: figures by name. plan: budget_bytes, warm_s, measured_s."""
    warm_s, measured_s = plan.warm_s, plan.measured_s
    kernel = side in KERNELS
    if kernel and ground.unfit:
        raise ground.unfit
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(Cgroup())
        if kernel:
            stack.enter_context(SwapFile(ground.directory, 2 * count * (MEMORY_MIB + FIRMWARE_MIB) * MIB))
            stack.callback(ground.zswap.switch, None)
            stack.callback(ground.ksm.stop)
        place = stack.enter_context(Place(bench, config=settings_text(side)))
        fleet = Fleet(place, group, side.removesuffix(" again"), count, ground)
        if fleet.stepper:
            stack.callback(fleet.stepper.stop)
        try:
            impose(fleet, stack, ground, plan.budget_bytes, own_bytes)
            load = Load(fleet.machines, warm_s + measured_s)
            load.wait(warm_s / 2)
            hurry_no_more(fleet, plan.budget_bytes)
            load.wait(warm_s)
            if fleet.follower:
                fleet.follower.stop()
            usage = Usage(fleet, ground)
            load.wait(warm_s + measured_s)
            used = usage.finish()
            result = {**figures(*load.finish(warm_s)), **used}
        except (Unfit, OSError) as reason:
            if group.kills():
                raise Unfit(f"the kernel killed {group.kills()} machines for want of memory") from None
            raise reason
        whole, charged = fleet.whole_bytes(), fleet.charged_bytes(own_bytes)
        if kernel and side != WHOLE and charged > OVER * plan.budget_bytes:
            raise Unequal(f"guests' memory and zswap's pool were at {charged / plan.budget_bytes:.1f} times the budget: no run at the same limit")
        result.update(whole_mib=round(whole / MIB, 1), charged_mib=round(charged / MIB, 1))
        if side in OURS:
            result["cost_mib"] = round(sum(row["cost_bytes"] for row in place.ask("ps")["machines"]) / MIB, 1)
            result["store_mib"] = round(place.ask("share")["store_bytes"] / MIB, 1)
            result["shared_mib"] = round(sum(place.stats(machine.name)["shared_bytes"] for machine in fleet.machines) / MIB, 1)
            fleet.read(fleet.machines)
        return result
