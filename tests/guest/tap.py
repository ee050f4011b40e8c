# SPDX-License-Identifier: GPL-2.0-or-later
"""Test cases of a guest test program, told in TAP.

A program is a list of cases, functions that take a Host (machine.py) and raise when something is wrong; the first line
of a case's doc string is its name. Each case gets a fresh Host, which is taken down after it whatever happens; when it
failed, the tails of all logs of that Host are printed before. `skip()` in a case skips it with a reason.

    main(cases)     the program: [--only WORD] OVERBOOK OVERBOOKD AGENT IMAGE

--only runs the cases whose names contain WORD. OVERBOOK_TEST_LONG=1 asks for everything that a program has.
"""
import argparse
import os
import signal
import sys
import time
import traceback

import machine

LONG = os.environ.get("OVERBOOK_TEST_LONG", "") not in ("", "0")


class Skip(Exception):
    """The case cannot be run here; the text says why."""


def skip(reason):
    raise Skip(reason)


def name_of(case):
    return getattr(case, "title", None) or case.__doc__.strip().splitlines()[0].rstrip(".")


def comment(text):
    for line in text.splitlines():
        print("# " + "".join(c if c.isprintable() else "?" for c in line), flush=True)


def run_case(case, number, paths):
    """Runs one case, on the Host that it asks for by its attribute "host". Returns whether it is not a failure."""
    name = name_of(case).replace("#", "no.")
    began = time.monotonic()
    try:
        with getattr(case, "host", machine.Host)(paths) as host:
            try:
                case(host)
            except Skip:
                raise
            except Exception:
                comment(host.describe_logs())
                raise
            host.expect_clean()
    except Skip as reason:
        print(f"ok {number} {name} # SKIP {reason}", flush=True)
        return True
    except Exception:
        comment(traceback.format_exc())
        print(f"not ok {number} {name}", flush=True)
        return False
    print(f"ok {number} {name}", flush=True)
    comment(f"{time.monotonic() - began:.1f} s")
    return True


def leave(number, _):
    """A test that takes too long is ended by a signal: leaves by the way that cleans up."""
    print(f"Bail out! ended by signal {number}", flush=True)
    sys.exit(1)


def main(cases):
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("paths", nargs=4, metavar="OVERBOOK OVERBOOKD AGENT IMAGE")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, leave)
    paths = machine.Paths(*(os.path.abspath(path) for path in arguments.paths))
    reason = machine.unusable_reason(paths)
    if reason:
        print(f"1..0 # SKIP {reason}")
        return 0
    cases = [case for case in cases if arguments.only in name_of(case)]
    print(f"1..{len(cases)}", flush=True)
    results = [run_case(case, number, paths) for number, case in enumerate(cases, 1)]
    return 0 if all(results) else 1
