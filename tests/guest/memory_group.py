# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory cgroup of the test's own, below the root of the hierarchy, of the version that the host has: how a test makes
memory run out for one machine alone. In version 1 its tasks can be made to wait for memory instead of being killed."""
import contextlib
import os

import tap

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


class MemoryGroup:
    def __init__(self, waits):
        if os.path.exists(f"{V1}/memory.oom_control"):
            self.version, root = 1, V1
        elif "memory" in self._text(f"{V2}/cgroup.subtree_control"):
            self.version, root = 2, V2
        else:
            tap.skip("this host has no memory cgroups")
        if waits and self.version == 2:
            tap.skip("a memory cgroup of version 2 always kills")
        self.path = f"{root}/overbook-test-{os.getpid()}"
        try:
            os.mkdir(self.path)
            # Without the host's own swap, which would be a way out.
            if self.version == 1:
                self._put("memory.swappiness", 0)
                self._put("memory.oom_control", int(waits))
            elif os.path.exists(f"{self.path}/memory.swap.max"):
                self._put("memory.swap.max", 0)
        except OSError as error:
            self.remove()
            tap.skip(f"cannot make a memory cgroup: {error}")

    @staticmethod
    def _text(path):
        try:
            with open(path) as file:
                return file.read()
        except OSError:
            return ""

    def _put(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def limit(self, value):
        """None: no limit. A limit below what is used may be refused (OSError)."""
        if self.version == 1:
            self._put("memory.limit_in_bytes", -1 if value is None else value)
        else:
            self._put("memory.max", "max" if value is None else value)

    def used(self):
        return int(self._text(f"{self.path}/memory.usage_in_bytes" if self.version == 1 else f"{self.path}/memory.current"))

    def is_short(self):
        """Whether tasks wait for memory (version 1)."""
        return "under_oom 1" in self._text(f"{self.path}/memory.oom_control")

    def prefix(self):
        """Words that put a program in and become it."""
        return ["sh", "-c", f'echo $$ >{self.path}/cgroup.procs && exec "$@"', "sh"]

    def remove(self):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)


@contextlib.contextmanager
def memory_group(host, waits):
    """The host's machines are ended with it."""
    group = MemoryGroup(waits)
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.limit(None)
        for machine in host.machines:
            machine.kill()
        group.remove()
