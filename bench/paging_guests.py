# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of bench/paging: machines inside a limit, by `overbook run --limit` and by a memory cgroup around plain QEMU.

tcg   A Debian guest under TCG with the witness (tests/guest/image/witness.c): pages checked, and three times in ten rewritten, a
      second. Our limit is on what guest memory costs; a cgroup is charged for all of QEMU. So the group's limit is ours and what
      QEMU needs besides its guest's memory, which is measured first, by a plain machine in a group without a limit: all that
      the group is charged, less the guest's pages. Our limit holds from the start. The group's is lowered to its value when
      the guest's memory is full, step by step: a guest that fills its memory inside a group is killed in most runs.
kvm   A bare-metal guest under KVM (pager --guest): pages checked, one in three rewritten.

A peer that dies, which the kernel's out-of-memory killer sees to often where a guest's memory is limited, is skipped.
"""
import contextlib

from guests import PATIENCE, Machine, Place
from lib import Failure, Unfit
from pager import OURS, Case, run_cases, run_pager
from peers import Cgroup, Unequal, meminfo_bytes

MIB = 1 << 20
MEMORY_MIB, ANON_MIB, LIMIT_MIB = 512, 320, 192
PARAMETERS = f"anon={ANON_MIB},rate=0,hotness=50"
FIGURES = (("pages", "pages/s", True), ("pages-cpu", "pages/CPU s", True))
KVM_FIGURES = (("ops", "pages/s", True),)


class Tcg:
    def __init__(self, ground, seconds):
        self.ground, self.seconds = ground, seconds
        self.place, self.number = None, 0
        self.own_bytes = None

    def machine(self, side, group):
        self.number += 1
        return Machine(self.place, f"{side}-{self.number}", side == OURS, MEMORY_MIB, PARAMETERS,
                       limit_mib=LIMIT_MIB if side == OURS else 0, group=group)

    def own(self):
        """What plain QEMU costs beside its guest's memory; measured once."""
        if self.own_bytes is None:
            with Cgroup() as group:
                machine = self.machine("calibration", group)
                try:
                    machine.wait_line("ready")
                    self.own_bytes = max(group.usage_bytes() - machine.guest_pages_bytes(), 0)
                finally:
                    machine.end()
        return self.own_bytes

    def limit(self):
        return LIMIT_MIB * MIB + self.own()

    def work(self, machine, group, limited=None):
        """limited: called when the guest's memory is full and before it is put to work."""
        try:
            machine.wait_line("ready")
            if limited:
                limited()
            wall, cpu = machine.work(self.seconds)
            if limited:
                group.check_followed(self.limit(), {"group_bytes": group.usage_bytes(), "pool_bytes": meminfo_bytes("Zswap")})
            peak = group.peak_bytes() if group else 0
            return {"pages": wall, "pages-cpu": cpu}, {"peak_mib": peak / MIB, "own_mib": (self.own_bytes or 0) / MIB}
        except Unequal:
            raise
        except Unfit as reason:
            if group and group.kills():
                raise Unfit("the kernel killed QEMU for want of memory") from None
            raise reason
        finally:
            machine.end()

    def ours(self):
        with contextlib.ExitStack() as stack:
            group = None
            with contextlib.suppress(Unfit):
                group = stack.enter_context(Cgroup())
            return self.work(self.machine(OURS, group), group)

    def peer(self, side):
        if self.ground.unfit:
            raise self.ground.unfit
        limit = self.limit()
        compressor = self.ground.compressor(side)
        with Cgroup() as group:
            self.ground.zswap.switch(compressor)
            try:
                def limited():
                    group.lower(limit, PATIENCE)
                    if compressor:
                        group.follow_pool(limit)

                return self.work(self.machine(side, group), group, limited)
            finally:
                group.follow_no_more()
                self.ground.zswap.switch(None)

    def measure(self, side):
        return self.ours() if side == OURS else self.peer(side)


def skip_all(case, reason):
    for row in case.rows.values():
        row.skip(str(reason), failed=not isinstance(reason, Unfit))


def run_tcg(bench, ground, rounds, seconds):
    tcg = Tcg(ground, seconds)
    case = Case(bench, ground, "tcg-guest", "mixed", FIGURES, tcg.measure)
    try:
        with Place(bench) as tcg.place:
            run_cases(bench, [case], rounds)
    except (Failure, Unfit, OSError) as reason:
        skip_all(case, reason)


def measure_kvm(ground, side):
    result, peak = run_pager(ground, side, ["--guest"] + ground.times)
    ops, seconds = result["ops"], result["seconds"]
    return {"ops": result["ops_per_second"]}, {"faults_an_access": result["faults"] / ops, "peak_mib": peak / MIB,
                                                "user_cpu": result["user_seconds"] / seconds,
                                                "system_cpu": result["system_seconds"] / seconds}


def run_kvm(bench, ground, rounds):
    case = Case(bench, ground, "kvm-guest", "mixed", KVM_FIGURES, lambda side: measure_kvm(ground, side))
    try:
        ground.check_guest()
    except Unfit as reason:
        skip_all(case, reason)
        return
    run_cases(bench, [case], rounds)
