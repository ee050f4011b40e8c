# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of all kinds under a limit: no byte is wrong, and the limit holds by the kernel's accounting.

The factors are the number of virtual CPUs, the machine type, what the witness does, how QEMU does block I/O, and the limit.
`make check` runs a selection in which every two values of different factors meet at least once; with OVERBOOK_TEST_LONG=1
every combination is run.
"""
import itertools
import random
import sys

import tap

MEMORY_MIB = 256
FACTORS = {
    "processors": (1, 2),
    "machine": ("pc", "q35"),
    "load": {
        "memory": dict(anon=90, tmpfs=40, direct=16),
        "cache": dict(anon=40, cache=90, fork=12),
        "network": dict(tmpfs=60, cache=50, direct=16, net=1, anon=10),
    },
    "block": ("threads,none", "threads,writeback", "native,none", "io_uring,none", "io_uring,writeback"),
    "limit": (75, 50, 25),
}
AIO, CACHE = (lambda c: c["block"].split(",")[0]), (lambda c: c["block"].split(",")[1])
LONG_STEPS, STEPS = 60000, 15000


def everything():
    return [dict(zip(FACTORS, values)) for values in itertools.product(*FACTORS.values())]


def pairs_of(combination):
    """What the combination makes meet; aio and cache mode count apart, so that fewer suffice."""
    values = {**combination, "aio": AIO(combination), "cache": CACHE(combination)}
    del values["block"]
    return set(itertools.combinations(sorted(values.items(), key=str), 2))


def cover(combinations):
    """A set of combinations that has every pair that occurs: greedily the one with the most new pairs, the first of equals."""
    missing = set().union(*map(pairs_of, combinations))
    chosen = []
    while missing:
        chosen.append(max(combinations, key=lambda combination: len(pairs_of(combination) & missing)))
        missing -= pairs_of(chosen[-1])
    return chosen


def pairwise():
    """The smallest cover out of a few: greed depends on the order in which equals come."""
    order = random.Random(1)
    return min((cover(order.sample(everything(), len(everything()))) for _ in range(30)), key=len)


def case_of(combination):
    def case(host):
        host.start_daemon()
        load = FACTORS["load"][combination["load"]]
        machine = host.machine("guest", memory=MEMORY_MIB, limit=MEMORY_MIB * combination["limit"] // 100,
                               processors=combination["processors"], machine=combination["machine"], witness=load,
                               disk=dict(mib=128, options=f"aio={AIO(combination)},cache={CACHE(combination)}"))
        machine.wait_ready()
        machine.wait_progress(LONG_STEPS if tap.LONG else STEPS)
        pages = machine.check()
        evicted = machine.expect_evicted()
        machine.expect_limit_held()
        tap.comment(f"{pages} pages, {evicted >> 20} MiB evicted, cost at most {machine.meter.peak_bytes >> 20} MiB in "
                    f"{machine.meter.samples} samples")
        machine.console.say("stop")
        assert machine.wait_end() == 0
    case.title = (f"{combination['processors']} vCPU, {combination['machine']}, {combination['load']}, "
                  f"aio={AIO(combination)}, cache={CACHE(combination)}, limit {combination['limit']}%")
    return case


sys.exit(tap.main([case_of(combination) for combination in (everything() if tap.LONG else pairwise())]))
