# SPDX-License-Identifier: GPL-2.0-or-later
"""The pager (pager.c) and the ground it runs on: a directory for swap, the kernel's swap file and zswap beside it, and a fresh
memory cgroup for each run. bench/paging and bench/reclaim use it."""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile

from guests import run_or_fail
from lib import Failure, Unfit
from peers import Cgroup, SwapFile, Unequal, Zswap, page_tables_bytes, swap_facts

contents = ("zero", "compressible", "incompressible")
patterns = ("random", "zipf", "sequential", "phase")

OURS, SWAP = "ours", "swap"

PATIENCE = 180  # seconds that a run may take


class Ground:
    """What runs share. Where the kernel's swap cannot be had, its sides say why, and ours runs all the same."""

    def __init__(self, bench, size_bytes, limit_bytes):
        self.bench, self.size, self.limit = bench, size_bytes, limit_bytes
        self.unfit = None
        self.compressors = []
        self.zswap = None
        self.times = []

    def __enter__(self):
        if not os.path.exists(os.path.join(self.bench.build, "build.ninja")):
            self.bench.say("building")
            run_or_fail(["meson", "setup", self.bench.build, self.bench.root])
        run_or_fail(["ninja", "-C", self.bench.build, "bench/pager"])
        self.pager = os.path.join(self.bench.build, "bench", "pager")
        with contextlib.ExitStack() as stack:
            self.directory = tempfile.mkdtemp(prefix="overbook-bench.", dir="/var/tmp")
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            try:
                stack.enter_context(SwapFile(self.directory, 2 * self.size))
                self.zswap = stack.enter_context(Zswap())
                self.compressors = self.zswap.offered()
            except Unfit as reason:
                self.unfit = reason
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *ignored):
        self.stack.close()

    @property
    def pool_is_charged(self):
        """Whether the group pays for what zswap keeps."""
        return not os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")

    def peers(self):
        """Sides of the kernel's."""
        return [SWAP] + ["zswap-" + name for name in self.compressors]

    @staticmethod
    def compressor(side):
        return side.split("-", 1)[1] if side.startswith("zswap-") else None

    def check_guest(self):
        """Whether a KVM guest runs here at all, under nobody's limit."""
        done = subprocess.run([self.pager, "--guest", "--size", "16M", "--ops", "1000", "--warmup-ops", "1000"], capture_output=True,
                              text=True, check=False, timeout=PATIENCE)
        if done.returncode:
            raise Unfit((done.stderr.strip().splitlines() or ["it said nothing"])[-1])

    def facts(self):
        return {"size_bytes": self.size, "limit_bytes": self.limit, **swap_facts(self.directory), "zswap_compressors": self.compressors}


def run(ground, argv, group, name):
    """Its JSON. A peer that ends badly is unfit; ours fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise (Failure if name == OURS else Unfit)(f"{name}: no end within {PATIENCE} seconds") from None
    if done.returncode == 0:
        return json.loads(done.stdout)
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if name == OURS:
        raise Failure(f"status {done.returncode}: {last}")
    if done.returncode == -9 and group.kills():
        raise Unfit(f"{name}: the kernel killed the process for want of memory, after \"{last}\"")
    raise Unfit(f"{name}: status {done.returncode}: {last}")


def run_ours(ground, options):
    argv = [ground.pager, "--by", "engine", "--size", str(ground.size), "--limit", str(ground.limit), "--swap-dir", ground.directory]
    with contextlib.ExitStack() as stack:
        group = None
        # Only to see what the kernel would charge; it has no limit.
        with contextlib.suppress(Unfit):
            group = stack.enter_context(Cgroup())
            argv += ["--cgroup", group.path]
        result = run(ground, argv + options, group, OURS)
        return result, group.peak_bytes() if group else 0


def run_peer(ground, side, options, limited):
    if ground.unfit:
        raise ground.unfit
    compressor = ground.compressor(side)
    limit = ground.limit + page_tables_bytes(ground.size)
    with Cgroup() as group:
        ground.zswap.switch(compressor)
        try:
            if limited:
                group.limit(limit)
            if limited and compressor:
                group.follow_pool(limit)
            argv = [ground.pager, "--by", "kernel", "--cgroup", group.path, "--size", str(ground.size), "--limit", str(limit)]
            result = run(ground, argv + options, group, side)
            group.follow_no_more()
            group.check_followed(limit, result)
            return result, group.peak_bytes()
        finally:
            ground.zswap.switch(None)


def run_pager(ground, side, options, limited=True):
    """One run of "ours" or of one of the peers: its result, and the most that a cgroup was charged for it.
    limited: from the start; else the program sets the limit when memory is full (--measure-reclaim)."""
    if side == OURS:
        return run_ours(ground, options)
    return run_peer(ground, side, options, limited)


class Case:
    """One thing that all sides do, with its rows: each figure against each peer, and of the first peer against itself.

    figures: (name, unit, more is better) of each; measure(side) returns figures and details by name, or raises."""

    def __init__(self, bench, ground, name, content, figures, measure):
        self.name, self.measure = name, measure
        # The first one is run twice. Where pages compress that is zswap; else zswap has nothing to do, or nothing to win.
        self.peers = sorted(ground.peers(), key=lambda peer: (peer == SWAP) == (content == "compressible"))
        self.reasons, self.rows, self.hopeless = {}, {}, set()
        for peer in self.peers + ["A/A"]:
            named = self.peers[0] if peer == "A/A" else peer
            for figure, unit, more in figures:
                row = f"{'A/A ' if peer == 'A/A' else ''}{name}/{named} {figure}"
                self.rows[peer, figure] = bench.row(row, unit, more, "kernel: " + named)

    def run(self, side):
        """None if a peer could not."""
        if side in self.hopeless:
            return None
        try:
            return self.measure(side)
        except Unfit as reason:
            self.reasons[side] = str(reason)
            if isinstance(reason, Unequal):
                self.hopeless.add(side)
            return None

    def round(self, number):
        """All sides once, close together in time; every other round the other way about."""
        order = self.peers + [OURS, "again"]
        if number % 2:
            order.reverse()
        got = {side: self.run(self.peers[0] if side == "again" else side) for side in order}
        for (peer, figure), row in self.rows.items():
            ours, other = (got["again"], got[self.peers[0]]) if peer == "A/A" else (got[OURS], got[peer])
            if ours and other:
                row.add(ours[0][figure], other[0][figure], ours[1], other[1])

    def close(self):
        """A peer that never came through leaves its reason."""
        for (peer, _), row in self.rows.items():
            reason = self.reasons.get(self.peers[0] if peer == "A/A" else peer)
            if not row.pairs and reason:
                row.skip(reason)

    def fail(self, reason):
        for row in self.rows.values():
            row.skip(str(reason), failed=True)


def run_cases(bench, cases, rounds, late_s=100):
    """Round by round, so that what a slow minute of the host spoils is one pair of many rows. A case that failed is over."""
    failed = set()
    for number in range(rounds):
        if number and bench.is_late(late_s):
            break
        for case in cases:
            if case in failed:
                continue
            bench.say(f"round {number + 1} of {rounds}: {case.name}")
            try:
                case.round(number)
            except (Failure, OSError, ValueError) as reason:
                failed.add(case)
                case.fail(reason)
    for case in cases:
        if case not in failed:
            case.close()
