# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's KSM as a peer, for bench/share-live and bench/share-break."""
import glob
import os
import time

from lib import Unfit, read_text

KSM = "/sys/kernel/mm/ksm"
BEST = {"smart_scan": "1", "advisor_mode": "scan-time", "advisor_max_cpu": "70", "advisor_target_scan_time": "10", "use_zero_pages": "1"}
SCANS = 3  # of all memory, before KSM can be said to find nothing more
RMAP_ITEM_BYTES, STABLE_NODE_BYTES = 64, 64  # the sizes in /sys/kernel/slab/ksm_*
FAST_PAGES = "50000"  # each 20 ms, or however long that takes


class Ksm:
    """KSM's settings, as they were found when the block ends, with nothing merged."""

    def __enter__(self):
        if os.geteuid() != 0 or not os.path.exists(KSM + "/run"):
            raise Unfit("KSM needs root and a kernel that has it")
        if read_text(KSM + "/run") == "1":
            raise Unfit("KSM is in use on this host")
        self.found = {name: self.chosen(name) for name in BEST if os.path.exists(f"{KSM}/{name}")}
        return self

    def __exit__(self, *ignored):
        self.write("run", "2")
        for name, value in self.found.items():
            self.write(name, value)
        self.write("run", "0")

    @staticmethod
    def chosen(name):
        text = read_text(f"{KSM}/{name}")
        return text[text.find("[") + 1:text.find("]")] if "[" in text else text

    @staticmethod
    def write(name, value):
        with open(f"{KSM}/{name}", "w", encoding="ascii") as f:
            f.write(value)

    def start(self, best):
        for name, value in self.found.items():
            self.write(name, BEST[name] if best else value)
        self.write("run", "1")

    def go_round(self, patience_s):
        """As fast as it can, until it can be said to find nothing more; then it pauses."""
        pages, scans, deadline = read_text(f"{KSM}/pages_to_scan"), self.scans() + SCANS, time.monotonic() + patience_s
        if "advisor_mode" in self.found:
            self.write("advisor_mode", "none")
        self.write("pages_to_scan", FAST_PAGES)
        try:
            self.write("run", "1")
            while self.scans() < scans:
                if time.monotonic() > deadline:
                    raise Unfit(f"KSM does not go round {SCANS} times within {patience_s:.0f} s")
                time.sleep(0.25)
        finally:
            self.write("run", "0")
            self.write("pages_to_scan", pages)

    def stop(self):
        self.write("run", "2")

    @staticmethod
    def scans():
        return int(read_text(f"{KSM}/full_scans", "0"))

    @staticmethod
    def tables_bytes():
        """What it keeps for each page that it has looked at, and for each that others are mapped to."""
        pages = sum(int(read_text(f"{KSM}/{name}", "0")) for name in ("pages_sharing", "pages_shared", "pages_unshared",
                                                                      "pages_volatile"))
        return pages * RMAP_ITEM_BYTES + int(read_text(f"{KSM}/pages_shared", "0")) * STABLE_NODE_BYTES

    @staticmethod
    def cpu_ns():
        for path in glob.glob("/proc/[0-9]*/comm"):
            if read_text(path) == "ksmd":
                return int((read_text(os.path.dirname(path) + "/schedstat").split() or ["0"])[0])
        raise Unfit("there is no ksmd")
