# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own paging, as a peer: a memory cgroup, a swap file, and zswap.

Everything that is changed on the host is put back when the block ends, however it ends (lib.Bench turns SIGTERM and SIGHUP
into an exit; only SIGKILL leaves the swap file behind, and `swapoff` on it is then all there is to do).

The same limit, for the kernel and for us. Ours is the cost of the engine: resident and lifted pages, the compressed pool and
the tables. A cgroup is charged for pages, for their page tables (8 bytes a page, which the engine does not count: they are
added to the group's limit), and with version 2 for zswap's pool. Version 1 does not charge the pool to anybody, so that a
group could keep what does not fit into its limit in memory all the same. There a thread here lowers the group's limit by
what the pool holds, again and again while it runs, so that pages and pool together stay inside the limit (lowering it reclaims in
that thread, beside the program, for as long as the pool grows). Where that cannot
be had (some kernels put pages that do not compress into the pool as they are, so that nothing is gained by evicting them),
the run says so and is no peer. What the kernel needs for its swap map, and the program's own tables, are counted for neither.
"""
import contextlib
import os
import shutil
import subprocess
import threading
import time

from lib import Failure, Unfit, memory_bytes, read_text

ZSWAP = "/sys/module/zswap/parameters"
OVER = 1.1              # pages and pool above the limit by more than this are no run at the same limit
STEP_BYTES = 8 << 20    # of a limit that is lowered under a guest
CONTROL_SECONDS = 0.05  # how often the limit follows zswap's pool, with version 1


class Unequal(Unfit):
    """It ran, but not under the same limit, and it would not the next time."""


def write_text(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def meminfo_bytes(name):
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


class SwapFile:
    """A swap file of our own in a directory, preferred over any other swap while the block lasts."""

    def __init__(self, directory, size_bytes):
        self.path = os.path.join(directory, "kernel.swap")
        self.size = size_bytes
        self.on = False

    def __enter__(self):
        for tool in ("mkswap", "swapon", "swapoff"):
            if not shutil.which(tool):
                raise Unfit(f"{tool} is missing")
        if os.geteuid() != 0:
            raise Unfit("the kernel's swap needs root")
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size)
            finally:
                os.close(fd)
            for argv in (["mkswap", self.path], ["swapon", "-p", "32767", self.path]):
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise Unfit(f"{argv[0]}: {done.stderr.strip()[-200:]}")
            self.on = True
        except OSError as reason:
            self.__exit__()
            raise Unfit(f"no swap file: {reason}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignored):
        if self.on:
            done = subprocess.run(["swapoff", self.path], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failure(f"{self.path} stays in use as swap: {done.stderr.strip()}")
            self.on = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Zswap:
    """zswap's settings, as they were found when the block ends."""

    def __init__(self):
        self.found = {name: read_text(f"{ZSWAP}/{name}") for name in ("enabled", "compressor", "max_pool_percent")}

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        for name, value in self.found.items():
            if value and read_text(f"{ZSWAP}/{name}") != value:
                write_text(f"{ZSWAP}/{name}", value)

    def offered(self):
        """Compressors to compare with: the one that is set, and what else the kernel has of those that people choose."""
        if not self.found["enabled"] or os.geteuid() != 0:
            return []
        names = [self.found["compressor"]]
        for name in ("lz4", "zstd"):
            with contextlib.suppress(OSError):
                write_text(f"{ZSWAP}/compressor", name)
                if name not in names:
                    names.append(name)
        write_text(f"{ZSWAP}/compressor", names[0])
        return names

    def limit_pool(self, bytes_):
        """To so much or a little more: what the kernel takes is whole percents of the host's memory."""
        if self.found["max_pool_percent"]:
            write_text(f"{ZSWAP}/max_pool_percent", str(-(-bytes_ * 100 // memory_bytes())))

    def switch(self, compressor):
        """Off with None."""
        if not self.found["enabled"]:
            return
        if compressor:
            # Before zswap has been on for the first time the kernel takes any name.
            try:
                write_text(f"{ZSWAP}/compressor", compressor)
            except OSError as reason:
                raise Unequal(f"zswap has no {compressor} here: {reason.strerror}") from None
        write_text(f"{ZSWAP}/enabled", "Y" if compressor else "N")


class Cgroup:
    """A fresh memory cgroup, version 1 or 2, whichever has the controller."""

    number = 0

    def __init__(self):
        Cgroup.number += 1
        name = f"overbook-bench.{os.getpid()}.{Cgroup.number}"
        if os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            self.version, root = 1, "/sys/fs/cgroup/memory"
        elif "memory" in read_text("/sys/fs/cgroup/cgroup.controllers").split():
            self.version, root = 2, "/sys/fs/cgroup"
        else:
            raise Unfit("no memory cgroup controller")
        self.path = os.path.join(root, name)
        self.stop, self.others = None, 0  # others: what zswap's pool held before

    def __enter__(self):
        try:
            if self.version == 2:
                write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
            os.mkdir(self.path)
            self.others = meminfo_bytes("Zswap")
        except OSError as reason:
            raise Unfit(f"no memory cgroup: {reason}") from None
        return self

    def __exit__(self, *ignored):
        self.follow_no_more()
        # Whoever was in it has been waited for.
        os.rmdir(self.path)

    def file(self, v1, v2):
        return os.path.join(self.path, v1 if self.version == 1 else v2)

    def limit(self, bytes_):
        write_text(self.file("memory.limit_in_bytes", "memory.max"), str(bytes_))

    def lower(self, bytes_, patience):
        """Brings the limit down in small steps, each as often as the kernel says that it cannot do it yet. With version 1 who wants memory
        waits meanwhile: what is killed for the haste with which a limit comes down says nothing about the limit."""
        if self.version == 1:
            write_text(self.file("memory.oom_control", None), "1")
        try:
            self.lower_by_steps(bytes_, patience)
        finally:
            if self.version == 1:
                write_text(self.file("memory.oom_control", None), "0")

    def lower_by_steps(self, bytes_, patience):
        deadline = time.monotonic() + patience
        step = max(self.usage_bytes(), bytes_)
        while True:
            try:
                self.limit(step)
                if step == bytes_:
                    return
                step = max(step - STEP_BYTES, bytes_)
            except OSError as reason:
                if time.monotonic() > deadline:
                    raise Unfit(f"the kernel does not lower a group's limit to {bytes_ >> 20} MiB: {reason}") from None
                time.sleep(0.01)

    def usage_bytes(self):
        return int(read_text(self.file("memory.usage_in_bytes", "memory.current"), "0"))

    def peak_bytes(self):
        return int(read_text(self.file("memory.max_usage_in_bytes", "memory.peak"), "0") or 0)

    def kills(self):
        for line in read_text(self.file("memory.oom_control", "memory.events")).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def follow_pool(self, limit_bytes):
        """With version 1: keeps pages and zswap's pool together inside the limit, from now on."""
        if self.version != 1:
            return
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.follow, args=(limit_bytes,), daemon=True)
        self.thread.start()

    def follow(self, limit_bytes):
        last = limit_bytes
        while not self.stop.wait(CONTROL_SECONDS):
            pool = max(meminfo_bytes("Zswap") - self.others, 0)
            now = max(limit_bytes - pool, limit_bytes // 8)
            if abs(now - last) >= 1 << 20:
                # EBUSY: not all of it could be reclaimed yet; the next turn goes on.
                with contextlib.suppress(OSError):
                    self.limit(now)
                    last = now

    def follow_no_more(self):
        if self.stop:
            self.stop.set()
            self.thread.join()
            self.stop = None

    def check_followed(self, limit_bytes, result):
        """Whether pages and pool together were inside the limit at the end of the measurement."""
        bytes_ = result.get("group_bytes", 0) + max(result.get("pool_bytes", 0) - self.others, 0)
        if self.version == 1 and bytes_ > OVER * limit_bytes:
            raise Unequal(f"pages and zswap's pool together were at {bytes_ / limit_bytes:.1f} times the limit, which cgroup "
                          "version 1 does not see: no run at the same limit")


def swap_facts(directory):
    """Of the host, for who compares results: how it swaps, and to what kind of disk."""
    device = os.stat(directory).st_dev
    queue = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue"
    if not os.path.isdir(queue):
        queue = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/../queue"
    return {"page_cluster": read_text("/proc/sys/vm/page-cluster"), "swappiness": read_text("/proc/sys/vm/swappiness"),
            "disk_rotational": read_text(queue + "/rotational")}


def page_tables_bytes(size_bytes):
    return size_bytes // 512
