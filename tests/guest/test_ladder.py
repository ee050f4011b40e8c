# SPDX-License-Identifier: GPL-2.0-or-later
"""A budget that guests use up faster than gentle means give memory back (`hard`), and one that is exceeded (`low`): what overbookd says
and does then, and that it passes.

What the guests write does not compress, and is nobody else's: it can be swapped, and nothing else. The witness checks every byte all the
while. What the machines cost together is taken from the kernel's accounting.
"""
import contextlib
import re
import signal
import sys
import threading
import time

import kernel
import machine as harness
import tap

MIB = harness.MIB
RAW = dict(random=100, zero=0)
HARD, LOW = "used up faster than guests give", "the budget is exceeded"
# Of overbookd, src/daemon/ladder.h: for how long nothing is to be amiss before hard is left.
DWELL_S = 10


def settings(host, budget_mib):
    """Writes overbookd's file, and has it read if it runs."""
    with open(host.path("overbookd.conf"), "w") as file:
        file.write(f"BUDGET={budget_mib}M\nBALLOON=auto\nSHARE=off\n")
    if host.daemon:
        host.daemon.send_signal(signal.SIGHUP)


def start(host, budget_mib, *machines):
    settings(host, budget_mib)
    host.start_daemon("--config", host.path("overbookd.conf"))
    for seed, (name, options) in enumerate(machines, 1):
        host.machine(name, **{**options, "witness": {**RAW, "seed": seed, **options["witness"]}})
    for machine in host.machines:
        machine.wait_ready()
    return host.machines


class Watch:
    """Looks at the host, and at what its machines cost together, from a thread of its own, and remembers it: (seconds, memory, rows) each
    time, and the sums. A page that moves to the bench behind the reader's back is counted twice, so a new peak above the budget is taken
    once more while the machines do not run."""
    INTERVAL_S = 0.1

    def __init__(self, host, budget_mib):
        self.host, self.budget_bytes = host, budget_mib * MIB
        self.looks, self.sums, self.problem = [], [0], None
        self.ranges = {machine: machine.ranges() for machine in host.machines}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()

    def _cost(self):
        return sum(sum(kernel.pss_by_kind(machine.pid, ranges).values()) for machine, ranges in self.ranges.items())

    def _run(self):
        try:
            while not self.ending.wait(self.INTERVAL_S):
                shown = self.host.json("ps")
                self.looks.append((time.monotonic(), shown["memory"], {row["name"]: row for row in shown["machines"]}))
                cost = self._cost()
                if cost > max(self.budget_bytes, max(self.sums)):
                    with contextlib.ExitStack() as stack:
                        for machine in self.ranges:
                            stack.enter_context(kernel.frozen(machine.pid))
                        cost = self._cost()
                self.sums.append(cost)
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem

    def seen(self):
        assert not self.problem, self.problem
        return self.looks

    def wait(self, what, condition):
        """Until condition(memory, rows) held at a look from now on, which it returns."""
        since = len(self.looks)

        def look():
            for machine in self.host.machines:
                machine.expect_clean()
            return next((found for found in self.seen()[since:] if condition(*found[1:])), None)
        try:
            return harness.wait_until(look, what)
        except TimeoutError:
            raise TimeoutError(f"waited in vain: {what}: {self.looks[-1:]}") from None


def state(host):
    return host.json("ps")["memory"]["state"]


def changes(host):
    """What the state of memory has been, by overbookd's log."""
    with open(host.path(f"overbookd-{host.daemons}.log"), errors="replace") as log:
        found = re.findall(r"memory: (\w+) -> (\w+), ", log.read())
    return [found[0][0], *(after for _, after in found)]


def check_all(host):
    for machine in host.machines:
        machine.check()
        s = machine.fresh_stats()["stats"]
        assert s["internal_errors"] == 0, f"{machine.name}: {s['internal_errors']} internal errors: {machine.said()}"


def guests_are_outrun(host):
    """Memory that guests fill faster than another one's balloon gives it: hard, who has it is cut at once, the budget holds, and it passes"""
    filler = dict(memory=224, witness=dict(anon=130, fill=15, rate=500))
    giver, *takers = start(host, 800, ("giver", dict(memory=256, witness=dict(anon=20, cache=110, rate=0), disk=dict(mib=110))),
                           ("taker-1", filler), ("taker-2", filler))
    # In the first seconds nothing is asked of a guest.
    for machine in host.machines:
        harness.wait_until(lambda: (s := machine.stats())["balloon"]["state"] == "empty" and s["stats"]["guest_known"], "it may be asked")
    before = {name: row["cost_bytes"] // MIB for name, row in host.rows().items()}
    budget = sum(before.values()) + 40
    settings(host, budget)
    harness.wait_until(lambda: sum(row["limit_bytes"] for row in host.rows().values()) <= budget * MIB, "the limits are inside the budget")
    assert state(host) in ("high", "clear", "soft"), host.json("ps")["memory"]
    with Watch(host, budget) as watch:
        marks = [machine.console.mark() for machine in takers]
        for machine in takers:
            machine.console.say("fill 100")
        began, memory, _ = watch.wait("memory is hard", lambda memory, _: memory["state"] == "hard")
        assert memory["because"] == HARD and memory["over_bytes"] == 0, memory
        cut, *_ = watch.wait("who has what others need is cut", lambda _, rows: rows["giver"]["limit_bytes"] < (before["giver"] - 8) * MIB)
        for machine, mark in zip(takers, marks):
            machine.wait_word("filled", mark)
        filled = time.monotonic()
        balloon = giver.wait_stats(lambda s: s["swapped_bytes"] + s["compressed_bytes"] > 8 * MIB, "more is evicted than what nobody uses")["balloon"]
        assert balloon["target_bytes"] > 0, balloon
        over, memory, _ = watch.wait("memory is not hard any more", lambda memory, _: memory["state"] not in ("hard", "low"))
        assert memory["because"] is None and over - began > DWELL_S / 2, (over - began, memory)
        # Nobody was waited for; but a look may come before what the new state changes.
        hard = [rows for (_, last, _), (_, shown, rows) in zip(watch.seen(), watch.seen()[1:]) if last["state"] == shown["state"] == "hard"]
        waited = [{name: (row["limit_bytes"] // MIB, row["target_bytes"] // MIB) for name, row in rows.items()} for rows in hard
                  if any(row["limit_bytes"] > row["target_bytes"] for row in rows.values())]
        assert hard and not waited, f"limits above what is due in {len(waited)} of {len(hard)} looks: {waited[:5]}"
        peak = max(watch.sums)
        assert peak <= budget * MIB * harness.LIMIT_SLACK, f"the machines cost {peak / MIB:.1f} MiB with a budget of {budget}"
    settings(host, 800)
    harness.wait_until(lambda: state(host) in ("high", "clear"), "memory is plenty again")
    told = changes(host)
    tap.comment(f"hard for {over - began:.1f} s, cut after {cut - began:.1f} s, filled after {filled - began:.1f} s; {peak / MIB:.0f} MiB of "
                f"{budget} at most in {len(watch.sums)} looks; {' '.join(told)}")
    assert told.count("hard") <= 2 and "low" not in told and len(told) <= 10, told
    check_all(host)


def newcomer(host, name):
    return host.machine(name, memory=160, witness=dict(anon=20, rate=500))


def the_budget_is_exceeded(host):
    """A budget cut below what lies there, on slow storage and on none: low, nobody grows, a newcomer waits and is told why, and it passes"""
    slow = dict(OVERBOOK_FAULT="swap_write:1+:slow")
    start(host, 600, ("slow", dict(memory=256, witness=dict(anon=140, fill=80, rate=500), environment=slow)),
          ("stuck", dict(memory=224, witness=dict(anon=120, rate=500), swap=False)))
    costs = [machine.fresh_stats()["stats"]["cost_bytes"] for machine in host.machines]
    # One of them cannot come down to half of it.
    before, budget = sum(costs), costs[1] // MIB + 40
    with Watch(host, budget) as watch:
        settings(host, budget)
        began, memory, rows = watch.wait("memory is low", lambda memory, _: memory["state"] == "low")
        assert memory["because"] == LOW and memory["over_bytes"] > 4 * MIB, memory
        refused = newcomer(host, "refused")
        harness.wait_until(lambda: host.rows().get("refused", {}).get("state") == "waiting", "a newcomer waits")
        # One of them would use more.
        host.machines[0].console.say("fill 100")
        assert refused.wait_end() != 0
        said = refused.said()
        assert "memory is low, so that nobody is given more than is reserved for him" in said, said
        refused.kill()
        host.machines.remove(refused)
        late = newcomer(host, "late")
        harness.wait_until(lambda: host.rows().get("late", {}).get("state") == "waiting", "another newcomer waits")
        assert state(host) == "low"
        looks = [look for look in watch.seen() if look[0] >= began]
        for (_, shown, had), (at, then, has) in zip(looks, looks[1:]):
            assert then["state"] == "low", (at - began, shown, then)
            assert all(has[name]["limit_bytes"] <= had[name]["limit_bytes"] for name in rows), (at - began, had, has)
        peak, last = max(watch.sums), watch.sums[-1]
        assert peak <= before * harness.LIMIT_SLACK and last < before - 20 * MIB, (peak, before, last)
        # There is room again.
        settings(host, 800)
        raised = time.monotonic()
        watch.wait("memory is hard", lambda memory, _: memory["state"] == "hard")
        over, memory, _ = watch.wait("memory is plenty", lambda memory, _: memory["state"] in ("high", "clear"))
        assert memory["because"] is None and over - raised > DWELL_S / 2, (over - raised, memory)
    late.wait_ready()
    told = changes(host)
    tap.comment(f"low for {raised - began:.1f} s, over {over - raised:.1f} s after there was room; {before / MIB:.0f} MiB came down to "
                f"{last / MIB:.0f}, the budget was {budget}; {' '.join(told)}")
    assert told.count("low") == 1 and told.count("hard") <= 2 and len(told) <= 10, told
    check_all(host)


sys.exit(tap.main([guests_are_outrun, the_budget_is_exceeded]))
