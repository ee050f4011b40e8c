#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/density makes of its points, and when it asks guests: test_density.py BENCH (its directory). Prints TAP."""
import os
import sys
import tempfile
import time
import types
import xml.dom.minidom

sys.dont_write_bytecode = True
sys.path[:0] = [sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]

import cases  # noqa: E402
import density_load  # noqa: E402
import density_record  # noqa: E402
import density_report  # noqa: E402

NONE = {"read": 0, "written": 0, "decompressed": 0, "compressed": 0}
CORES = {"host": 0.5, "bench": 0, "qemu": 0.4, "agents": 0, "overbookd": 0, "ksmd": 0}


def point(side, machines, p99_ms, number=0):
    return {"side": side, "machines": machines, "round": number, "requests": 1000, "unanswered": 0, "p50_ms": 1, "p90_ms": 1, "p99_ms": p99_ms,
            "most_ms": 2 * p99_ms, "charged_mib": 1, "whole_mib": 2, "cores": CORES, "swap_mib_s": NONE}


def times_are_drawn_the_same():
    """A guest is asked at the same times each time, as often as its kind says"""
    for i, kind in enumerate(density_load.KINDS):
        times = density_load.due_times(i, 2000)
        assert times == density_load.due_times(i, 2000) and times == sorted(times) and times[0] >= 0 and times[-1] < 2000
        rate = kind.burst[1] / kind.burst[0] if kind.burst else kind.rate
        assert abs(len(times) / 2000 / rate - 1) < 0.1, (kind, len(times))
        assert times != density_load.due_times(i + 4, 2000)
    assert density_load.requests_a_second(8) == 2 * density_load.requests_a_second(4)


class Answering:
    """A guest that answers at once, and whose requests take a while besides."""
    name, lines = "m0", []

    def tell(self, text):
        pass

    def wait_line(self, word, after, patience_s):
        return 0, types.SimpleNamespace(when=time.monotonic(), values={"wrong": "0"})

    def besides_s(self):
        return 0.05


def what_a_request_takes_besides_counts():
    """What a request takes besides its guest's part counts as its time, and the next one waits for it"""
    begin = time.monotonic()
    caller = density_load.Caller(Answering(), [0.0, 0.01, 0.3], begin, begin + 60)
    caller.join()
    took = [seconds for _, seconds in caller.answers]
    assert caller.unanswered == 0 and caller.trouble is None and took[0] >= 0.05 and took[1] >= 0.09 and took[2] >= 0.05, took


def events_are_kept():
    """A recording has the touches that were given, requests first, in any order within each"""
    requests, steps = [{5: True, 6: False}, {}], [{9: False}]
    words = [list(density_record.words_of(events)) for events in (requests, steps)]
    assert words[0][0] == 2 and sorted(words[0][1:3]) == [11, 12] and words[0][3:] == [0] and words[1] == [1, 18], words


def contents_are_compared():
    """Common is what several have, and zeros; what was never written is absent"""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in "ab"]
        for path, own in zip(paths, b"xy"):
            with open(path, "wb") as file:
                file.truncate(8 * 4096)
                for page, byte in ((0, own), (2, ord("c")), (4 + own % 2, ord("d")), (7, 0)):
                    file.seek(page * 4096)
                    file.write(bytes([byte]) * 4096)
        classes = density_record.classes_of(paths)
    absent, common, own = density_record.ABSENT, density_record.COMMON, density_record.OWN
    assert list(classes[0]) == [own, absent, common, absent, common, absent, absent, common], list(classes[0])
    assert list(classes[1]) == [own, absent, common, absent, absent, common, absent, common], list(classes[1])


def percentiles():
    """A percentile is a time that was measured, by the nearest rank"""
    times = list(range(1, 1001))
    assert [density_load.percentile(times, percent) for percent in (50, 99, 100)] == [500, 990, 1000]
    assert density_load.percentile([7], 99) == 7


def slowdown_is_of_the_same_round():
    """A row is the median of ratios to the unconstrained of the same round; without that there is no ratio"""
    points = [point("unconstrained", 4, 10), point("unconstrained", 4, 20, 1), point("overbook", 4, 15), point("overbook", 4, 26, 1),
              point("overbook", 8, 26)]
    rows = {row["name"]: row for row in density_report.make_rows(points)}
    assert rows["overbook 4"]["slowdown"] == 1.4 and rows["overbook 4"]["slowdown_min"] == 1.3, rows
    assert rows["overbook 4"]["requests"] == 2000 and "slowdown" not in rows["overbook 8"] and "slowdown" not in rows["unconstrained 4"]


def so_many_fit():
    """So many fit as the most up to which all do; one that failed does not"""
    points = [point("unconstrained", machines, 10) for machines in (4, 8, 12, 16)]
    points += [point("overbook", machines, 10 * slow) for machines, slow in ((4, 1.5), (8, 1.8), (12, 1.4), (16, 3))]
    points += [point("static", 4, 30), point("kernel", 4, 10), {"side": "kernel", "machines": 8, "round": 0, "skipped": "killed", "failed": False},
               point("kernel", 12, 10)]
    points += [point("no-share", 8, 36)]
    rows = density_report.make_rows(points)
    fit = {entry["side"]: (entry["machines_at_1.5"], entry["machines_at_2"]) for entry in density_report.densities(rows)}
    assert fit == {"overbook": (4, 12), "kernel": (4, 4), "static": (0, 0), "no-share": (0, 0)}, fit
    assert [(entry["side"], entry["p99_ratio"]) for entry in density_report.worths(rows)] == [("no-share", 2.0)]


def the_picture():
    """The picture is SVG, with a line for each side but not for means that were off"""
    points = [point(side, machines, 10 + machines) for side in ("unconstrained", "overbook", "static", "no-share") for machines in (4, 8)]
    with tempfile.NamedTemporaryFile(suffix=".svg") as file:
        density_report.draw(density_report.make_rows(points), 768, file.name)
        assert len(xml.dom.minidom.parse(file.name).getElementsByTagName("polyline")) == 2


if __name__ == "__main__":
    sys.exit(cases.main(times_are_drawn_the_same, what_a_request_takes_besides_counts, events_are_kept, contents_are_compared, percentiles, slowdown_is_of_the_same_round, so_many_fit, the_picture))
