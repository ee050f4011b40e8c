#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/largepages follows pointers with, under test: test_large_chase.py LARGE_CHASE. Prints TAP.

It compares every byte in each state itself. Here: memory is in that state, as the kernel says, and a wrong byte is seen. Nothing depends on
how fast anything is.
"""
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True  # the source tree stays clean

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import cases

CHASE = os.path.abspath(sys.argv[1])
SIZE_MIB = 32
NO_GUEST = 77


def run(*options, status=0, environment=None):
    done = subprocess.run([CHASE, *options], capture_output=True, text=True, check=False, env=dict(os.environ, **environment or {}))
    if done.returncode == NO_GUEST:
        raise cases.Skip(done.stderr.strip())
    assert done.returncode == status, f"{options}: status {done.returncode}, not {status}: {done.stderr}"
    return done.stderr if status else json.loads(done.stdout)


def follow(where, memory_mib):
    result = run("--in", where, "--size", f"{SIZE_MIB}M", "--laps", "1")
    assert result["pages"] == memory_mib * 256, result
    if result["large_large_mib"] == 0:
        raise cases.Skip("the kernel gives no large pages")
    assert result["large_large_mib"] == result["again_large_mib"] == result["whole_large_mib"] == memory_mib, result
    assert result["broken_large_mib"] == 0, result
    assert all(result[f"{state}_ns"] > 0 for state in ("large", "again", "broken", "whole")), result


def a_process_follows_its_ring_in_each_state():
    follow("process", SIZE_MIB)


def a_guest_follows_its_ring_in_each_state():
    follow("kvm", SIZE_MIB - 4)  # the machine's own pages and counters


def a_wrong_byte_is_seen():
    flips = {"OVERBOOK_FAULT": "page_return:3:flip"}
    text = run("--in", "process", "--size", f"{SIZE_MIB}M", "--laps", "1", status=2, environment=flips)
    assert "has not its bytes" in text or "the ring does not end" in text, text


def nonsense_is_refused():
    for options in (["--in", "magic", "--size", "32M"], ["--in", "process"], ["--in", "process", "--size", "32M", "more"],
                    ["--in", "process", "--size", "3M"], ["--in", "process", "--size", "32M", "--laps", "0"], ["--fly"]):
        run(*options, status=2)


if __name__ == "__main__":
    sys.exit(cases.main(a_process_follows_its_ring_in_each_state, a_guest_follows_its_ring_in_each_state, a_wrong_byte_is_seen,
                        nonsense_is_refused))
