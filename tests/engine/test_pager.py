#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benches' pager under test: test_pager.py PAGER. Prints TAP.

Each pattern and each content is run by the engine, in half of the memory it needs, and every byte is compared at the end;
what it prints must add up; and it must see a wrong byte when there is one. Nothing here depends on how fast anything is.
"""
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True  # the source tree stays clean

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import cases

PAGER = os.path.abspath(sys.argv[1])
MIB = 1 << 20
SIZE, LIMIT, OPS = 64 * MIB, 32 * MIB, 3000 if os.environ.get("OVERBOOK_TEST_SHORT") else 8000
SWAP_DIR = os.environ.get("OVERBOOK_TEST_DIR") or os.environ.get("TMPDIR") or "/var/tmp"


def run(*options, status=0, environment=None):
    done = subprocess.run([PAGER, *options], capture_output=True, text=True, check=False, env=dict(os.environ, **environment or {}))
    assert done.returncode == status, f"{options}: status {done.returncode}, not {status}: {done.stderr}"
    return done.stderr if status else json.loads(done.stdout)


def by_engine(*options, **more):
    return run("--by", "engine", "--size", f"{SIZE >> 20}M", "--limit", f"{LIMIT >> 20}M", "--swap-dir", SWAP_DIR, "--verify",
               *options, **more)


def accesses(content, pattern, *options):
    return by_engine("--content", content, "--pattern", pattern, "--ops", str(OPS), "--warmup-ops", "500", *options)


def check_accesses(result, content, pattern):
    assert (result["content"], result["pattern"], result["verified"]) == (content, pattern, True), result
    assert result["ops"] == OPS and result["seconds"] > 0, result
    assert 0 < result["timed_faults"] <= result["faults"], result
    assert 0 < result["fault_p50_ns"] <= result["fault_p99_ns"] <= result["fault_p999_ns"], result
    assert result["after"]["ram_bytes"] == SIZE and result["after"]["limit_bytes"] == LIMIT, result["after"]
    assert result["after"]["lifted_pages"] > 0 and result["after"]["internal_errors"] == 0, result["after"]


def engine_keeps_every_byte_under_each_pattern():
    for pattern in ("random", "zipf", "sequential", "phase"):
        check_accesses(accesses("compressible", pattern), "compressible", pattern)


def engine_keeps_every_byte_of_each_content():
    for content in ("zero", "incompressible"):
        check_accesses(accesses(content, "random"), content, "random")


def threads_share_the_work():
    check_accesses(accesses("compressible", "zipf", "--threads", "2", "--write-percent", "50"), "compressible", "zipf")


def reclaim_reaches_the_limit():
    result = by_engine("--content", "incompressible", "--measure-reclaim")
    assert result["verified"] and result["after_bytes"] <= LIMIT < SIZE <= result["before_bytes"], result
    assert result["after"]["swapped_bytes"] > 0, result


def memory_without_a_limit_has_no_faults():
    result = run("--by", "nothing", "--size", "16M", "--ops", str(OPS), "--warmup-ops", "0", "--verify")
    assert result["faults"] == 0 and result["verified"] and "after" not in result, result


def a_wrong_byte_is_seen():
    flips = {"OVERBOOK_FAULT": "page_return:50+:flip"}
    text = by_engine("--content", "compressible", "--ops", str(OPS), status=2, environment=flips)
    assert "is wrong" in text, text


def nonsense_is_refused():
    for options in (["--by", "magic"], ["--size", "3M"], ["--threads", "0"], ["--write-percent", "101"], ["--ops", "-1"],
                    ["--seconds", "soon"], ["--by", "kernel"], ["--limit", "16M"], ["--swap-dir", "/tmp"], ["more"], ["--fly"],
                    ["--by", "engine", "--measure-reclaim"], ["--guest", "--verify"]):
        run(*options, status=64)


if __name__ == "__main__":
    sys.exit(cases.main(engine_keeps_every_byte_under_each_pattern, engine_keeps_every_byte_of_each_content, threads_share_the_work,
                        reclaim_reaches_the_limit, memory_without_a_limit_has_no_faults, a_wrong_byte_is_seen, nonsense_is_refused))
