# SPDX-License-Identifier: GPL-2.0-or-later
"""Test cases that are functions, told in TAP: each raises when something is wrong, or Skip; one with an attribute skip is not tried."""
import traceback


class Skip(Exception):
    """Cannot be tried on this host; the text says why."""


def passes(case, number):
    name = case.__name__.replace("_", " ")
    try:
        if getattr(case, "skip", None):
            raise Skip(case.skip)
        case()
    except Skip as reason:
        print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        return True
    except Exception:  # pylint: disable=broad-except
        for line in traceback.format_exc().splitlines():
            print(f"# {line}")
        print(f"not ok {number} - {name}", flush=True)
        return False
    print(f"ok {number} - {name}", flush=True)
    return True


def main(*cases):
    """Runs them all. Returns the program's status."""
    print(f"1..{len(cases)}", flush=True)
    results = [passes(case, number) for number, case in enumerate(cases, 1)]
    return 0 if all(results) else 1
