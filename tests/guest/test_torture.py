# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of the torture (torture.py), and whether it would notice.

The short run's seed is fixed, and so are the operations: what it is meant to contain is checked. With OVERBOOK_TEST_LONG=1
there is a long one too, from a seed of the day: an hour, or what TORTURE_MINUTES says.
"""
import itertools
import json
import os
import random
import shutil
import sys

import tap
import torture
import torture_ops
import torture_plan

SEED, MACHINES, OPERATIONS = 3285, 2, 13
CONTAINED = {"limit", "release", "free", "balloon", "reset", "savevm", "loadvm", "migrate", "plug-memory", "plug-device",
             "unplug-device", "pause", "freeze", "kill"}


def options_for(host, *words):
    return torture.parse([*words, *host.paths])


def first_operations(seed, slot, count):
    return list(itertools.islice(torture_plan.operations(seed, slot), count))


def run(options, reason="the torture found something"):
    """Runs it; what it leaves behind stays only when it failed."""
    summary = torture.torture(options, tap.comment)
    assert not summary["failures"], f"{reason}: {summary['failures']}; evidence is in {options.results}"
    assert summary["pages_wrong"] == 0 and summary["internal_errors"] == 0 and summary["pages_checked"] > 0, summary
    shutil.rmtree(options.results)
    return summary


def plan(_):
    """A seed always draws the same machines and operations, and what is drawn can be carried out"""
    seen = set()
    for seed in range(200):
        ops = first_operations(seed, 1, 60)
        assert ops == first_operations(seed, 1, 60), f"seed {seed} draws something else the second time"
        assert ops[0]["op"] == "start"
        for op, following in zip(ops, ops[1:]):
            assert (op["op"] in torture_plan.ENDS) == (following["op"] == "start"), f"seed {seed}: {op} before {following}"
        seen |= {op["op"] for op in ops}
        for op in (op["machine"] for op in ops if op["op"] == "start"):
            room = op["memory"] - torture_plan.GUEST_BASE - torture_plan.GUEST_SPARE
            assert op["used"] <= room, f"seed {seed}: the witness wants {op['used']} MiB of {room}"
    assert seen == set(torture_ops.OPERATIONS), seen ^ set(torture_ops.OPERATIONS)
    assert first_operations(1, 1, 20) != first_operations(2, 1, 20) != first_operations(2, 2, 20)


def short(host):
    """Two machines and overbookd through a fixed schedule: limits, discards, snapshots, migration, plugging, kills, upgrades"""
    planned = {op["op"] for slot in range(1, MACHINES + 1) for op in first_operations(SEED, slot, OPERATIONS)}
    assert CONTAINED <= planned, f"seed {SEED} no longer has {CONTAINED - planned}: choose another"
    summary = run(options_for(host, "--seed", str(SEED), "--machines", str(MACHINES), "--operations", str(OPERATIONS)))
    assert CONTAINED <= set(summary["kinds"]), f"{CONTAINED - set(summary['kinds'])} were not carried out"
    assert summary["engine"]["lifted_pages"] > 0 and sum(summary["overbookd"].values()) > 0, summary
    if summary["without_old_version"]:
        tap.comment(f"one version alone: {summary['without_old_version']}")


def notices(host):
    """A byte that the engine gets wrong ends a torture, the evidence is kept, and a schedule can be replayed (mutation)"""
    machine = first_operations(SEED, 1, 1)[0]["machine"] | dict(
        index=1, memory=192, processors=1, limit=0, fault="flipped", agent="new", daemonize=False, disk="raw", swap=True,
        load=dict(anon=90, rate="max", writes=0, hot=100, threads=1, seed=1), used=100)
    schedule = host.path("schedule.jsonl")
    with open(schedule, "w") as file:
        for line in (dict(seed=1, machines=1), dict(slot=0, op="overbookd-first", version="new", budget=0),
                     # Only once the guest has booted is anything evicted, so that hardly a page of its kernel is hit.
                     dict(slot=1, op="start", machine=machine), dict(slot=1, op="limit", mib=64), dict(slot=1, op="check"),
                     dict(slot=1, op="quit")):
            file.write(json.dumps(line) + "\n")
    options = options_for(host, "--replay", schedule, "--no-old", "--results", host.path("results"))
    said = []
    summary = torture.torture(options, said.append)
    assert len(summary["failures"]) == 1, f"it went through with {summary['failures']}"
    tap.comment(summary["failures"][0])
    assert "the guest says" in summary["failures"][0], "it failed, but not of that"
    kept = os.listdir(os.path.join(options.results, "failure-1"))
    assert {"failure.txt", "threads.txt", "stats.txt", "m1-1-1.log", "m1-1-1-console.log"} <= set(kept), kept
    _, again = torture.read_schedule(os.path.join(options.results, "schedule.jsonl"))
    assert [line["op"] for line in again][:2] == ["overbookd-first", "start"], again
    assert any("REPLAY=" in text and "seed 1" in text for text in said), said


def long(host):
    """An hour of torture, or what TORTURE_MINUTES says"""
    minutes = os.environ.get("TORTURE_MINUTES", "60")
    seed = random.SystemRandom().randrange(1 << 31)
    run(options_for(host, "--seed", str(seed), "--minutes", minutes, "--machines", os.environ.get("TORTURE_MACHINES", "3")))


sys.exit(tap.main([plan, short, notices] + ([long] if tap.LONG else [])))
