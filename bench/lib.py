# SPDX-License-Identifier: GPL-2.0-or-later
"""What all benches share: options, facts about the host, rows, and how they are printed and written.

A bench measures OURS and a PEER in pairs, close together in time, and a pair gives one ratio: above 1 where ours is
better. A row is the median of both sides and of the ratios, with the smallest and the largest ratio beside it. A row whose
name starts with "A/A" is the peer against itself: what it shows is noise, and a ratio inside its spread says nothing.

A row that could not be measured has "skipped" with the reason, and no ratio: a peer that died is never a win. When ours is
what failed, the row also has "failed": true and the bench ends with status 1.
"""
import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time


class Failure(Exception):
    """Something that is ours did not work."""


class Unfit(Exception):
    """The host or the peer cannot do it: a reason to skip."""


def read_text(path, otherwise=""):
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return otherwise


def first_line_of(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def cpu_model():
    for line in read_text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_bytes():
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def chosen(path):
    """The word in brackets in "always [madvise] never"."""
    text = read_text(path)
    return text[text.find("[") + 1:text.find("]")] if "[" in text else text or "none"


def host_facts(command, root):
    """What somebody needs to know who compares two results."""
    commit = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(),
        "kernel": platform.release(),
        "qemu": first_line_of("qemu-system-x86_64", "--version"),
        "memory_bytes": memory_bytes(),
        "large_pages": chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "swap": bool(read_text("/proc/swaps").splitlines()[1:]),
        "ksm": read_text("/sys/kernel/mm/ksm/run", "none"),
        "load_average_at_start": os.getloadavg()[0],
    }


def rounded(value):
    return float(f"{value:.4g}")


class Row:
    """Pairs of measurements of one thing. more_is_better: throughput; otherwise time or cost."""

    def __init__(self, name, unit, more_is_better, peer_name):
        self.name, self.unit, self.more_is_better, self.peer_name = name, unit, more_is_better, peer_name
        self.pairs = []
        self.details = {"ours_detail": [], "peer_detail": []}
        self.reason = None
        self.failed = False

    def add(self, ours, peer, ours_detail=None, peer_detail=None):
        """A pair, and figures by name that explain each side."""
        self.pairs.append((ours, peer))
        for name, detail in (("ours_detail", ours_detail), ("peer_detail", peer_detail)):
            if detail:
                self.details[name].append(detail)

    def skip(self, reason, failed=False):
        self.reason, self.failed = reason, failed

    def result(self):
        row = {"name": self.name, "unit": self.unit, "peer_name": self.peer_name}
        ratios = [(ours / peer if self.more_is_better else peer / ours) for ours, peer in self.pairs if ours > 0 and peer > 0]
        if self.reason or not ratios:
            row["skipped"] = self.reason or "nothing could be measured"
            if self.failed:
                row["failed"] = True
            return row
        row["ours"] = rounded(statistics.median(ours for ours, _ in self.pairs))
        row["peer"] = rounded(statistics.median(peer for _, peer in self.pairs))
        row["ratio"] = rounded(statistics.median(ratios))
        row["ratio_min"] = rounded(min(ratios))
        row["ratio_max"] = rounded(max(ratios))
        row["repeats"] = len(ratios)
        for name, details in self.details.items():
            if details:
                row[name] = {key: rounded(statistics.median(detail[key] for detail in details)) for key in details[0]}
        return row


class Bench:
    def __init__(self, name, about, setups=(), arguments=None):
        """setups: parts that can be run alone, with --setup. arguments: a function that adds the bench's own options to a parser."""
        parser = argparse.ArgumentParser(prog=f"bench/{name}", description=about)
        parser.add_argument("--quick", action="store_true", help="the same rows with fewer repeats, in under three minutes")
        parser.add_argument("--rounds", type=int, metavar="N", help="so many repeats of each row, instead of the bench's own number")
        parser.add_argument("--json", metavar="FILE", help="write the result there")
        parser.add_argument("--build", metavar="DIR", help="the build tree (default: build in the source tree; made if missing)")
        if setups:
            parser.add_argument("--setup", choices=setups, help="only this set-up (default: all)")
        if arguments:
            arguments(parser)
        self.name = name
        self.options = parser.parse_args()
        self.setups = [self.options.setup] if setups and self.options.setup else list(setups)
        self.root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.build = os.path.abspath(self.options.build or os.path.join(self.root, "build"))
        words = [f"bench/{name}"] + ["--quick"] * self.options.quick
        if setups and self.options.setup:
            words += ["--setup", self.options.setup]
        if self.options.rounds:
            words += ["--rounds", str(self.options.rounds)]
        self.host = host_facts(" ".join(words), self.root)
        self.rows = []
        self.began = time.monotonic()
        # Being ended from outside leaves nothing behind either.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _: sys.exit(128 + got))

    def note_options(self, *names):
        """Options of the bench's own, with lists of values, that belong to the command in the result."""
        for name in names:
            if getattr(self.options, name):
                self.host["command"] += f" --{name} " + " ".join(map(str, getattr(self.options, name)))

    def row(self, name, unit, more_is_better, peer_name):
        self.rows.append(Row(name, unit, more_is_better, peer_name))
        return self.rows[-1]

    def say(self, text):
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def is_late(self, seconds):
        return self.options.quick and time.monotonic() - self.began > seconds

    def finish(self):
        """Prints the table, writes the file, and returns the exit status."""
        rows = [row.result() for row in self.rows]
        self.host["noise"] = {row["name"][4:]: [row["ratio_min"], row["ratio_max"]] for row in rows
                              if row["name"].startswith("A/A") and "ratio" in row}
        self.host["seconds"] = round(time.monotonic() - self.began)
        print_table(rows)
        if self.options.json:
            with open(self.options.json, "w", encoding="utf-8") as f:
                json.dump({"bench": self.name, "host": self.host, "rows": rows}, f, indent=2)
                f.write("\n")
        return 1 if any(row.get("failed") for row in rows) or not rows else 0


def print_table(rows):
    width = max([24] + [len(row["name"]) for row in rows])
    print(f"{'row':<{width}} {'ours':>10} {'peer':>10} {'unit':<16} {'ratio':>7} {'min':>7} {'max':>7} {'n':>3}  peer")
    for row in rows:
        if "skipped" in row:
            print(f"{row['name']:<{width}} skipped: {row['skipped']}")
            continue
        print(f"{row['name']:<{width}} {row['ours']:>10g} {row['peer']:>10g} {row['unit']:<16} {row['ratio']:>7.3f} "
              f"{row['ratio_min']:>7.3f} {row['ratio_max']:>7.3f} {row['repeats']:>3}  {row['peer_name']}")
