# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of the torture: programs of two versions, and an overbookd that comes and goes while machines are at work.

Machines are played by threads of their own. What they ask of overbookd while it is away, stopped, or has not yet heard
from their agent again is asked once more when it is there, so that nobody else need know. `epoch` is raised by whatever
is done to overbookd; an order that failed in the same epoch in which it was begun has really failed.

The versions are "new", what is under test, and "old", an earlier commit; without the old one everything is new, and
`without_old` says why.
"""
import contextlib
import os
import signal
import subprocess
import threading
import time

import machine as harness

# What overbookd says about a machine whose agent has not come back to it yet.
NOT_YET = ("its agent is not connected", "there is no machine", "is being released")


class TortureHost(harness.Host):
    def __init__(self, paths, old_paths=None, without_old="", record=None):
        super().__init__(paths)
        self.versions = {"new": paths, "old": old_paths or paths}
        self.without_old = "" if old_paths else without_old or "not asked for"
        self.changed = threading.Condition()
        self.epoch = self.waiting = self.done_operations = 0
        self.up = self.leaving = False
        self.budget = 0
        self.restarts = {"killed": 0, "ended": 0, "exchanged": 0, "budget": 0, "frozen": 0}
        self.record = record

    # --- overbookd ---

    def _set_up(self, up):
        with self.changed:
            self.epoch += 1
            self.up = up
            self.changed.notify_all()

    def start_version(self, version, budget):
        paths = self.versions[version]
        self.daemons += 1
        options = ["--budget", f"{budget}M"] if budget else []
        with open(self.path(f"overbookd-{self.daemons}-{version}.log"), "wb") as log:
            self.daemon = subprocess.Popen([paths.overbookd, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env=self.environment, start_new_session=True, preexec_fn=harness.die_with_parent)
        self.budget = budget
        harness.wait_until(self._answers, "overbookd answers")
        self._set_up(True)

    def _answers(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"overbookd ended at its start with status {self.daemon.returncode}")
        return super().run("ps", "--json", check=False).returncode == 0

    def expect_daemon(self):
        if self.up and self.daemon.poll() is not None:
            raise AssertionError(f"overbookd has ended with status {self.daemon.returncode}")

    def expect_budget(self):
        """The limits of the machines that have one come inside the budget: before overbookd is disturbed again."""
        if not self.budget:
            return

        def inside():
            rows = [row for row in self.rows().values() if row["state"] in ("running", "stopped")]
            limits = [row["limit_bytes"] for row in rows]
            return self.leaving or all(limits) and sum(limits) <= self.budget * harness.MIB
        harness.wait_until(inside, f"the limits come inside the budget of {self.budget} MiB")

    def wait_operations(self, count, also=lambda: False):
        """Until the machines have been through so many more operations, or one waits for overbookd, or all is over."""
        with self.changed:
            goal = self.done_operations + count
            while self.done_operations < goal and not also() and not self.leaving:
                self.changed.wait(0.5)
                self.expect_daemon()

    def count_operation(self):
        with self.changed:
            self.done_operations += 1
            self.changed.notify_all()

    def leave(self):
        with self.changed:
            self.leaving = True
            self.changed.notify_all()

    def play_daemon(self, op):
        """One operation of torture_plan.daemon_operations(), once its "after" is over."""
        kind = op["op"].removeprefix("overbookd-")
        if kind == "first":
            return self.start_version(op["version"], op["budget"])
        if kind == "frozen":
            return self._freeze_daemon(op["absent"])
        self._set_up(False)
        if kind == "ended":
            self.daemon.send_signal(signal.SIGTERM)
            status = self.daemon.wait(harness.PATIENCE)
            assert status == 0, f"overbookd ended with status {status} after SIGTERM"
        else:
            self.kill_daemon()
        self.wait_operations(op["absent"], also=lambda: self.waiting)
        self.start_version(op["version"], op["budget"])
        self.restarts[kind] += 1

    def _freeze_daemon(self, absent):
        self._set_up(False)
        self.daemon.send_signal(signal.SIGSTOP)
        try:
            self.wait_operations(max(1, absent), also=lambda: self.waiting)
        finally:
            self.daemon.send_signal(signal.SIGCONT)
            self._set_up(True)
        self.restarts["frozen"] += 1

    # --- asking it ---

    @contextlib.contextmanager
    def wanted(self):
        """Who is inside waits for overbookd: one that was stopped for a while goes on."""
        with self.changed:
            self.waiting += 1
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.waiting -= 1

    def _wait_up(self, deadline):
        if self.up:
            return
        with self.wanted(), self.changed:
            while not self.up:
                self.changed.wait(0.5)
                if time.monotonic() > deadline:
                    raise TimeoutError("overbookd did not come back")

    def run(self, *words, check=True, environment=None, timeout=harness.PATIENCE, program=None,
            alive=lambda: True, not_yet=NOT_YET):
        """As Host.run(), until it is answered by an overbookd that knows the machine; not longer than alive() is true.
        not_yet: what it may say before."""
        deadline = time.monotonic() + timeout
        while True:
            self._wait_up(deadline)
            epoch = self.epoch
            done = self._run_once(program or self.paths.overbook, words, environment, deadline)
            if done and not done.returncode:
                return done
            moved = self.epoch != epoch or not self.up
            late = done and any(text in done.stderr for text in not_yet)
            if time.monotonic() > deadline or not alive() or not (moved or late):
                break
            time.sleep(0.1)
        if check:
            raise AssertionError(f"overbook {' '.join(map(str, words))}: "
                                 f"{f'status {done.returncode}: {done.stderr.strip()}' if done else 'no answer'}")
        return done or subprocess.CompletedProcess(words, -1, "", "no answer")

    def _run_once(self, program, words, environment, deadline):
        """One try; None when overbookd went away, or was stopped, before it answered."""
        process = subprocess.Popen([program, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env={**self.environment, **(environment or {})})
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=2)
                    return subprocess.CompletedProcess(words, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        return None
                    if not self.up:
                        # It is stopped, perhaps until somebody wants it.
                        with self.wanted():
                            self._wait_up(deadline)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def daemon_logs(host):
    return sorted(os.path.join(host.directory, name) for name in os.listdir(host.directory) if name.startswith("overbookd-"))
