# SPDX-License-Identifier: GPL-2.0-or-later
"""The torture: random machines to which everything happens that happens to machines, for hours, with every byte checked.

    torture.py [OPTIONS] OVERBOOK OVERBOOKD AGENT IMAGE      or: make torture HOURS=2, MINUTES=10, SEED=7, REPLAY=FILE

Some machines run at a time, each with a thread of its own here (a Slot, torture_ops.py) that starts it, does to it what
torture_plan.py has drawn for it, ends it and starts another; one more thread does the same to overbookd (torture_host.py).
Each machine's list follows from the seed alone. How the lists interleave does not: it depends on the host. So the order in
which operations began is written to a schedule, and --replay goes through one in that order.

A wrong page, an internal error, something that ends by itself or that has not happened after five minutes is a failure. It
is told with the seed, the machine and its last operations; the logs, what the process's threads are doing and the schedule
stay in the results directory. The life of that machine ends there, and its slot begins the next.

The last line of the output can be quoted; summary.json in the results directory has the same and more.
"""
import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import machine as harness
import torture_ops
import torture_plan
from torture_host import TortureHost, daemon_logs

LAST_OPERATIONS = 12
ENOUGH = threading.Event()   # told by a signal to come to an end


class Schedule:
    """The operations in the order of their beginning, as lines of JSON; when replayed, that order is kept."""

    def __init__(self, path, header, replayed=None):
        self.began = time.monotonic()
        self.file = open(path, "w")
        self.lock = threading.Condition()
        self.number = 0
        self.order = collections.deque(line["slot"] for line in replayed) if replayed else None
        self.over = False
        self._write(header)

    def _write(self, line):
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def begin(self, slot, op):
        with self.lock:
            while self.order is not None and not self.over and self.order and self.order[0] != slot:
                self.lock.wait(1)
            if self.order:
                self.order.popleft()
            self.number += 1
            self._write({"number": self.number, "seconds": round(time.monotonic() - self.began, 1), "slot": slot, **op})
            self.lock.notify_all()
            return self.number

    def end(self, number, seconds, note):
        with self.lock:
            self._write({"ended": number, "took": round(seconds, 2), **({"note": note} if note else {})})

    def close(self):
        with self.lock:
            self.over = True
            self.lock.notify_all()


def read_schedule(path):
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    return lines[0], [line for line in lines if "op" in line]


def operation_of(line):
    return {key: value for key, value in line.items() if key not in ("number", "seconds", "slot")}


class Torture:
    def __init__(self, options, host, header, say=print, replayed=None):
        self.options, self.host, self.say = options, host, say
        self.seed = header["seed"]
        self.slots = [torture_ops.Slot(number, host) for number in range(1, header["machines"] + 1)]
        self.replayed = replayed
        self.schedule = Schedule(os.path.join(options.results, "schedule.jsonl"), header, replayed)
        self.kinds = collections.Counter()
        self.failures = []
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.active = len(self.slots)
        self.gave_up = False

    # --- what comes next ---

    def over(self, done):
        if self.gave_up or ENOUGH.is_set():
            return True
        if self.replayed is not None:
            return False
        if self.options.operations:
            return done >= self.options.operations
        return time.monotonic() - self.began > 60 * self.options.minutes

    def operations(self, slot):
        if self.replayed is not None:
            return (operation_of(line) for line in self.replayed if line["slot"] == slot)
        if slot:
            return torture_plan.operations(self.seed, slot)
        return torture_plan.daemon_operations(self.seed, len(self.slots))

    # --- threads ---

    def play_slot(self, slot):
        try:
            self.play_lives(slot, collections.deque(maxlen=LAST_OPERATIONS))
        finally:
            with self.lock:
                self.active -= 1
                last = not self.active
            if last:
                self.schedule.close()
                self.host.leave()

    def play_lives(self, slot, recent):
        failed = False
        for done in itertools.count():
            op = next(self.source[slot.number], None)
            if op is None or self.over(done):
                break
            if failed and op["op"] != "start":
                # The schedule's order goes on without it.
                if self.replayed is not None:
                    self.schedule.begin(slot.number, op | {"skipped": True})
                continue
            failed = not self.attempt(slot, op, recent)
        for op in ({"op": "check"}, {"op": "quit"}):
            if not slot.machine or not self.attempt(slot, op, recent):
                break

    def attempt(self, slot, op, recent):
        """Whether it went well."""
        number = self.schedule.begin(slot.number, op)
        recent.append(f"{number} {json.dumps(op)}")
        began = time.monotonic()
        name = slot.machine.name if slot.machine else f"m{slot.number}"
        try:
            arguments = {key: value for key, value in op.items() if key != "op"}
            note = torture_ops.OPERATIONS[op["op"]](slot, **arguments)
            slot.sample()
        except Exception as problem:
            self.fail(slot.machine.name if slot.machine else name, problem, recent, slot)
            return False
        took = time.monotonic() - began
        self.schedule.end(number, took, note)
        with self.lock:
            self.kinds[op["op"]] += 1
        self.host.count_operation()
        if self.options.verbose:
            self.say(f"{number:5} {name} {op['op']}: {took:.1f} s{f' ({note})' if note else ''}")
        return True

    def play_daemon(self):
        recent = collections.deque(maxlen=LAST_OPERATIONS)
        for op in self.source[0]:
            try:
                self.host.wait_operations(op.get("after", 0))
                if self.host.leaving or self.gave_up:
                    return
                self.host.expect_budget()
                number = self.schedule.begin(0, op)
                recent.append(f"{number} {json.dumps(op)}")
                began = time.monotonic()
                self.host.play_daemon(op)
                self.schedule.end(number, time.monotonic() - began, None)
                self.started.set()
                if self.options.verbose:
                    self.say(f"{number:5} {op['op']}: {op.get('version', '')} budget {op.get('budget', '')}")
            except Exception as problem:
                self.fail("overbookd", problem, recent, None)
                self.gave_up = True
                self.host.leave()
                self.started.set()
                return
        # overbookd would end with this thread.
        self.host.wait_operations(1 << 60)

    def run(self):
        self.source = {number: iter(self.operations(number)) for number in range(len(self.slots) + 1)}
        self.started = threading.Event()
        threads = [threading.Thread(target=self.play_daemon)]
        threads[0].start()
        self.started.wait()
        # A process that was started dies with the thread that started it: so all threads stay until all is over.
        threads += [threading.Thread(target=self.play_slot, args=(slot,)) for slot in self.slots]
        for thread in threads[1:]:
            thread.start()
        for thread in threads[1:] + threads[:1]:
            thread.join()
        return self.summary()

    # --- failures ---

    def fail(self, name, problem, recent, slot):
        with self.lock:
            number = len(self.failures) + 1
            self.failures.append(f"{name}: {problem}"[:500])
            if number >= self.options.failures:
                self.gave_up = True
        directory = os.path.join(self.options.results, f"failure-{number}")
        os.makedirs(directory, exist_ok=True)
        text = "\n".join([
            f"seed {self.seed}: {name}: {problem}", "", "its last operations:", *recent, "",
            "the machine: " + json.dumps(slot.spec if slot else None), "",
            f"again: make torture SEED={self.seed} MACHINES={len(self.slots)}, or "
            f"REPLAY={os.path.join(self.options.results, 'schedule.jsonl')}", "",
            "".join(traceback.format_exception(problem))])
        with open(os.path.join(directory, "failure.txt"), "w") as file:
            file.write(text)
        self.keep_evidence(directory, slot)
        self.say(text)
        self.say(f"the logs are in {directory}")
        if slot:
            self.bury(slot)

    def keep_evidence(self, directory, slot):
        """Logs, threads, figures: each as far as it can still be had."""
        prefix = f"m{slot.number}-{slot.lives}" if slot else "m"
        for log in [*daemon_logs(self.host), *(self.host.path(name) for name in os.listdir(self.host.directory)
                                                if name.startswith(prefix) and name.endswith(".log"))]:
            with contextlib.suppress(OSError):
                shutil.copy(log, directory)
        if not slot or not slot.machine:
            return
        with contextlib.suppress(OSError), open(os.path.join(directory, "threads.txt"), "w") as file:
            file.write(describe_threads(slot.machine.pid))
        with open(os.path.join(directory, "stats.txt"), "w") as file:
            for words in (("ps",), ("stats", slot.machine.name), ("stats", slot.machine.name, "--json")):
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    done = subprocess.run([self.host.paths.overbook, *words], capture_output=True, text=True, timeout=10,
                                          env=self.host.environment, check=False)
                    file.write(done.stdout + done.stderr)

    def bury(self, slot):
        """Ends the machine of a failed life."""
        with contextlib.suppress(Exception):
            slot.drop_process()
        with contextlib.suppress(OSError, TypeError):
            os.unlink(slot.disk)

    # --- the sum ---

    def summary(self):
        seconds = time.monotonic() - self.began
        totals = {key: sum(slot.totals[key] for slot in self.slots) for key in self.slots[0].totals}
        return {
            "seed": self.seed, "machines_at_a_time": len(self.slots), "machines": sum(slot.lives for slot in self.slots),
            "hours": round(seconds / 3600, 3), "operations": sum(self.kinds.values()), "kinds": dict(sorted(self.kinds.items())),
            "pages_checked": totals["checked"], "pages_wrong": totals["wrong"],
            "overbookd": self.host.restarts, "refused_admissions": sum(slot.refused_admissions for slot in self.slots),
            "internal_errors": totals["internal_errors"], "provoked_errors": totals["provoked_errors"],
            "engine": {key: totals[key] for key in torture_ops.COUNTERS},
            "without_old_version": self.host.without_old or None, "failures": self.failures,
        }


def describe_threads(pid):
    parts = []
    for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        lines = [f"thread {task}"]
        for name in ("comm", "wchan", "syscall", "stack"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/{name}") as file:
                lines.append(f"{name}: {file.read().strip()}")
        parts.append("\n".join(lines))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A core would not do: gdb reads no page that is away.
        done = subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 24"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False)
        parts.append(done.stdout)
    return "\n\n".join(parts)


def summary_line(s):
    kinds = ", ".join(f"{count} {kind}" for kind, count in s["kinds"].items())
    restarts = s["overbookd"]
    return (f"torture: seed {s['seed']}, {s['machines']} machines ({s['machines_at_a_time']} at a time), {s['hours']:.2f} h: "
            f"{s['operations']} operations ({kinds}); overbookd killed {restarts['killed']}, ended {restarts['ended']}, "
            f"exchanged {restarts['exchanged']}, with another budget {restarts['budget']}, frozen {restarts['frozen']} times; "
            f"{s['engine']['lifted_pages']} pages lifted, {s['engine']['swap_in_pages']} read from disk; "
            f"{s['pages_checked']} pages checked, {s['pages_wrong']} wrong, {s['internal_errors']} internal errors, "
            f"{len(s['failures'])} failures")


def old_paths(paths):
    """The programs of the older version, or the reason why there are none."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "old-build.sh")
    made = subprocess.run([script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode:
        return None, (made.stderr.strip().splitlines() or ["scripts/old-build.sh failed"])[-1]
    build = made.stdout.strip()
    return harness.Paths(f"{build}/src/cli/overbook", f"{build}/src/daemon/overbookd", f"{build}/src/agent/liboverbook-agent.so",
                         paths.image), ""


def parse(arguments=None):
    parser = argparse.ArgumentParser(description="Random machines, and everything that happens to machines, for hours.")
    parser.add_argument("--seed", type=int, help="what all is drawn from (default: any)")
    parser.add_argument("--minutes", type=float, default=10, help="for how long (default: 10)")
    parser.add_argument("--operations", type=int, default=0, help="instead: how many operations on each machine's place")
    parser.add_argument("--machines", type=int, default=2, help="how many run at a time (default: 2)")
    parser.add_argument("--replay", metavar="FILE", help="a schedule of an earlier run")
    parser.add_argument("--results", metavar="DIR", help="where schedule, summary and evidence go (default: below the test directory)")
    parser.add_argument("--failures", type=int, default=3, help="give up after so many (default: 3)")
    parser.add_argument("--no-old", action="store_true", help="one version of Overbook alone")
    parser.add_argument("--verbose", action="store_true", help="tell each operation")
    parser.add_argument("paths", nargs=4, metavar="OVERBOOK OVERBOOKD AGENT IMAGE")
    return parser.parse_args(arguments)


def prepare(options):
    """Returns what the schedule begins with and, when one is replayed, its operations."""
    replayed = None
    header = {"seed": options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31),
              "machines": options.machines}
    if options.replay:
        header, replayed = read_schedule(options.replay)
    if not options.results:
        parent = os.environ.get("OVERBOOK_TEST_DIR", "/var/tmp")
        options.results = os.path.join(parent, f"overbook-torture-{header['seed']}-{os.getpid()}")
    os.makedirs(options.results, exist_ok=True)
    return header, replayed


def torture(options, say=print):
    """Runs it. Returns the summary."""
    paths = harness.Paths(*(os.path.abspath(path) for path in options.paths))
    header, replayed = prepare(options)
    old, why = (None, "not asked for") if options.no_old else old_paths(paths)
    say(f"torture: seed {header['seed']}, results in {options.results}" + (f", without an older version: {why}" if not old else ""))
    with TortureHost(paths, old, why) as host:
        summary = Torture(options, host, header, say, replayed).run()
    with open(os.path.join(options.results, "summary.json"), "w") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    say(summary_line(summary))
    return summary


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: ENOUGH.set())
    reason = harness.unusable_reason(harness.Paths(*map(os.path.abspath, options.paths)))
    if reason:
        print(f"torture: cannot run here: {reason}")
        return 77
    summary = torture(options, lambda text: print(text, flush=True))
    return 1 if summary["failures"] or summary["pages_wrong"] or summary["internal_errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
