# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that runs out of memory altogether, played by a memory cgroup around one machine that is smaller than what the
machine may cost. A second machine, and overbookd, are outside of it and must not notice."""
import signal
import sys

import machine as harness
import memory_group
import tap

MIB = harness.MIB
# Three times so much is less than what the witness has yet to fill when it starts.
ROOM = 8 * MIB


def start_both(host, group):
    """The machine in the group, whose witness goes on filling its memory, and its neighbour."""
    host.start_daemon()
    neighbour = host.machine("neighbour", memory=160, limit=64, witness=dict(anon=50))
    neighbour.wait_ready()
    machine = host.machine("squeezed", memory=288, limit=192, prefix=group.prefix(),
                           witness=dict(anon=150, random=100, zero=0, rate=20000))
    machine.wait_word("start")
    return machine, neighbour


def limit_closely(group):
    """A limit a little above what is used, which a moment later may be more. Returns it."""
    def tried():
        limit = group.used() + ROOM
        try:
            group.limit(limit)
            return limit
        except OSError:
            return None
    return harness.wait_until(tried, "the group has its limit")


def killed_as_a_whole(host):
    """When the kernel kills for want of memory, the machine ends as a whole, and nobody else notices"""
    with memory_group.memory_group(host, waits=False) as group:
        machine, neighbour = start_both(host, group)
        limit_closely(group)
        assert machine.wait_end() == -signal.SIGKILL, machine.said()
        harness.wait_until(lambda: set(host.rows()) == {"neighbour"}, "overbookd has noticed the end")
        neighbour.wait_progress(1000)
        neighbour.check()
        neighbour.expect_limit_held()


def outlived(host):
    """When the kernel makes it wait for memory, the machine goes on once there is some, with every byte right"""
    with memory_group.memory_group(host, waits=True) as group:
        machine, neighbour = start_both(host, group)
        for _ in range(3):
            limit = limit_closely(group)
            # For a moment it is still said to be short of what it had before.
            harness.wait_until(lambda: group.is_short() and group.used() > limit - MIB or is_ready(machine), "memory is short")
            assert not is_ready(machine), "the machine got ready without running short"
            # overbookd answers meanwhile, and the neighbour runs.
            assert set(host.rows()) == {"squeezed", "neighbour"}
            neighbour.wait_progress(500)
        group.limit(None)
        machine.wait_ready()
        machine.wait_progress(2000)
        machine.check()
        s = machine.fresh_stats()["stats"]
        assert s["internal_errors"] == 0, f"{s['internal_errors']} internal errors: {machine.said()}"
        neighbour.check()
        neighbour.expect_limit_held()


def is_ready(machine):
    return any(word.name == "ready" for word in machine.console.words)


sys.exit(tap.main([killed_as_a_whole, outlived]))
