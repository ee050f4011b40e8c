#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs test suites and counts single test cases:
#
#     check.sh BUILDDIR SUITE...
#
# The last line is "N passed, M failed", with ", K skipped" behind it when tests were skipped. The exit status is 0 only
# if nothing failed and something passed. OVERBOOK_TEST_LONG=1 lets the tests take their time. OVERBOOK_TEST_WRAPPER is put
# before the words of each test.
#
# Cases are counted from what meson writes: each TAP line is one, as is each test program that speaks by its exit status.
# A program that ends badly although all its cases passed counts as one more failure.
set -eu

[ $# -ge 2 ] || { echo "usage: check.sh BUILDDIR SUITE..." >&2; exit 2; }
build=$1
shift
suites=
for suite in "$@"; do
	suites="$suites --suite $suite"
done
multiplier=1
[ -z "${OVERBOOK_TEST_LONG:-}" ] || multiplier=20

# Meson names its log after the wrapper.
log=$build/meson-logs/testlog
[ -z "${OVERBOOK_TEST_WRAPPER:-}" ] || log=$log-$(basename "${OVERBOOK_TEST_WRAPPER%% *}")
rm -f "$log.junit.xml" "$log.json"
status=0
# Those that may run side by side mostly wait.
meson test -C "$build" --print-errorlogs --num-processes $((2 * $(nproc))) --timeout-multiplier "$multiplier" \
	${OVERBOOK_TEST_WRAPPER:+--wrapper "$OVERBOOK_TEST_WRAPPER"} $suites || status=$?
exec python3 - "$log" "$status" <<'PYTHON'
import json
import sys
import xml.etree.ElementTree as ET

log, status = sys.argv[1], int(sys.argv[2])
passed = skipped = 0
failed = []

try:
    suites = ET.parse(log + ".junit.xml").getroot()
    with open(log + ".json") as lines:
        programs = [json.loads(line) for line in lines if line.strip()]
except (OSError, ET.ParseError, ValueError) as error:
    print(f"The tests did not run: {error}")
    print("0 passed, 1 failed")
    sys.exit(1)

# A program of TAP cases is a suite "PROJECT.NAME OF THE PROGRAM"; all others share one, and are counted by their result.
cases_of = {suite.get("name").split(".", 1)[-1]: suite.findall("testcase")
            for suite in suites.iter("testsuite") if "." in suite.get("name")}

for program in programs:
    name, result = program["name"], program["result"]
    failed_before = len(failed)
    for case in cases_of.get(name, []):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{name}: {case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    if result in ("OK", "EXPECTEDFAIL"):
        passed += name not in cases_of
    elif result == "SKIP":
        skipped += name not in cases_of
    elif len(failed) == failed_before:
        failed.append(f"{name}: ended with {result}")

if status and not failed:
    failed.append(f"meson test: ended with status {status}")
if failed:
    print("\nFailed:")
    for name in failed:
        print("  " + name)
    print(f"The log is {log}.txt")
print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(1 if failed or not passed else 0)
PYTHON
