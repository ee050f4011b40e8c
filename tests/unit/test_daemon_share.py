#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbookd's part of page sharing: test_daemon_share.py OVERBOOKD [OVERBOOK]. Prints TAP. share_harness.py plays the agents."""
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import (DROPPED, EINPROGRESS, HELD, HOLDS, MAPS, MIB, OFFER, ORPHANS, STAGED, WORN, Client, main, message, refused,
                            rewrite, run_with, test, with_daemon, with_settings)
from share_harness import ENOENT, PAGE, Sharer, a_page_anew, check, content, entries, page_hash, pair, ready, row, share

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None

EXTENT_BYTES = 4096 * PAGE
ORPHAN, USED, COLD_ORPHAN = 2, 3, 4  # kinds of offers


@with_daemon()
def equal_pages_become_one_slot(daemon):
    one, two = pair(daemon, 300)
    assert one.held == two.held and one.refused == two.refused == 0
    for page, slot in one.held.items():
        assert one.bytes_of(slot) == content(page + 1)
    # In the order in which they came: runs of pages are runs of slots.
    steps = [one.held[page + 1][1] - one.held[page][1] for page in range(299)]
    assert steps.count(1) > 250, steps
    daemon.until(lambda: share(daemon)["machines"][1]["adopted"] == 300)
    found = share(daemon)
    assert found["domain"] == "d" and found["store_bytes"] == found["slots_used_bytes"] == 300 * PAGE, found
    assert found["shared_bytes"] == 600 * PAGE and found["saved_bytes"] == 300 * PAGE and found["extents"] == 1, found
    # A third one finds the slots.
    three = Sharer(daemon, "c", domain="d")
    ready(daemon, three)
    three.pages = dict(one.pages)
    three.offer()
    daemon.until(lambda: len(three.held) == 300)
    assert three.held == one.held and share(daemon)["store_bytes"] == 300 * PAGE
    # Many at once, all alike, within one machine.
    four = Sharer(daemon, "alone")
    ready(daemon, four)
    four.pages = {page: content(7) for page in range(500)}
    four.offer()
    daemon.until(lambda: len(four.held) == 500)
    assert len(set(four.held.values())) == 1 and not set(four.extents) & set(one.extents)


@with_daemon()
def unequal_bytes_never_share(daemon):
    one, two = Sharer(daemon, "a", domain="d"), Sharer(daemon, "b", domain="d")
    ready(daemon, one, two)
    one.pages, two.pages = {1: content(1)}, {1: content(2)}
    # One of them says that its page has the other's hash.
    one.offer()
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 1)
    two.lies[1] = content(2)
    two.offer(1, hash=page_hash(two.key, content(1)))
    daemon.until(lambda: share(daemon)["machines"][1]["stale"] == 1)
    assert not one.held and not two.held and share(daemon)["store_bytes"] == 0
    # It gives the right bytes and has others: only its own comparison can tell.
    two.lies[1] = content(1)
    two.offer(1, hash=page_hash(two.key, content(1)))
    daemon.until(lambda: share(daemon)["machines"][1]["refused"] == 1)
    daemon.until(lambda: len(one.held) == 1)
    assert not two.held and two.refused == 1
    # The page changes between the offer and the question.
    two.lies.clear()
    two.pages[2] = content(1)
    two.offer(2)
    two.pages[2] = content(3)
    daemon.until(lambda: share(daemon)["machines"][1]["refused"] == 2)
    assert not two.held and two.refused == 2
    # A hash that nobody can have, twice: the bytes are what is looked at.
    one.pages[5], two.pages[5] = content(5), content(5)
    one.lies[5] = two.lies[5] = content(5)
    one.offer(5, hash=(1, 2))
    two.offer(5, hash=(1, 2))
    daemon.until(lambda: sum(row["stale"] for row in share(daemon)["machines"]) >= 2)
    assert 5 not in one.held and 5 not in two.held


@with_daemon()
def a_page_whose_equal_is_in_use_goes_first(daemon):
    one, two = Sharer(daemon, "a", domain="d"), Sharer(daemon, "b", domain="d")
    ready(daemon, one, two)
    one.pages, two.pages = {1: content(1), 2: content(2)}, {1: content(1), 2: content(2)}
    one.in_use, two.in_use = {1, 2}, {2}
    one.offer()
    daemon.until(lambda: row(daemon, "a")["offers"] == 2)
    two.offer()
    daemon.until(lambda: 1 in two.held and row(daemon, "a")["refused"] == 1)
    daemon.until(lambda: row(daemon, "b")["stale"] == 1)  # nobody's bytes can be had of the second one
    assert not one.held and 2 not in two.held
    assert share(daemon)["store_bytes"] == PAGE
    one.in_use.clear()
    two.in_use.clear()
    one.offer()
    daemon.until(lambda: one.held.get(1) == two.held[1])
    two.offer(2)
    daemon.until(lambda: 2 in one.held and one.held == two.held)


@with_daemon()
def a_slot_is_free_after_all_have_let_go(daemon):
    one, two = pair(daemon, 3)
    slot = one.held[1]
    one.set(1, content(99))
    daemon.until(lambda: share(daemon)["machines"][0]["dropped"] == 1)
    assert share(daemon)["slots_used_bytes"] == 3 * PAGE and two.bytes_of(slot) == content(2)
    # Somebody new finds it while it is held by one alone.
    one.set(7, content(2))
    one.offer(7)
    daemon.until(lambda: 7 in one.held)
    assert one.held[7] == slot
    one.set(7, content(98))
    two.set(1, content(97))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 2 * PAGE)
    assert share(daemon)["store_bytes"] == 3 * PAGE  # it is memory still
    # Nothing finds it any more: the same bytes are a new slot.
    one.set(8, content(2))
    one.offer(8)
    two.set(8, content(2))
    two.offer(8)
    daemon.until(lambda: 8 in one.held and 8 in two.held)
    assert one.held[8] == two.held[8] != slot
    # The whole extent goes with its last hold, and another one comes.
    extent = slot[0]
    for agent in (one, two):
        for page in list(agent.held):
            agent.set(page, content(1000 + page))
    daemon.until(lambda: one.dropped_extents == two.dropped_extents == [extent])
    daemon.until(lambda: share(daemon)["extents"] == 0)
    assert share(daemon)["store_bytes"] == 0
    one.set(9, content(9))
    two.set(9, content(9))
    one.offer(9)
    two.offer(9)
    daemon.until(lambda: 9 in one.held and 9 in two.held)
    assert one.held[9][0] != extent


@with_daemon()
def slots_are_used_again(daemon):
    one, two = pair(daemon, 2100)
    for page in range(2000):
        one.set(page, content(100000 + page))
        two.set(page, content(200000 + page))
        if page % 400 == 399:
            daemon.serve()
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 100 * PAGE)
    for agent in (one, two):
        for page in range(10000, 13000):
            agent.pages[page] = content(page)
    one.offer(*range(10000, 13000))
    two.offer(*range(10000, 13000))
    daemon.until(lambda: len(one.held) > 2500 and one.held == two.held, 60)
    # 1996 slots behind the first 2100, and then those that were free before them: no second extent.
    assert share(daemon)["extents"] == 1
    for page, slot in one.held.items():
        assert one.bytes_of(slot) == one.pages[page]


@with_daemon()
def what_is_sent_cannot_be_written(daemon):
    one, _ = pair(daemon)
    extent, index = one.held[0]
    descriptor = one.extents[extent][0]
    again = os.open("/proc/self/fd/%d" % descriptor, os.O_RDWR | os.O_CLOEXEC)
    for fd in (descriptor, again):
        for attempt in (lambda: os.pwrite(fd, b"x", index * PAGE), lambda: os.ftruncate(fd, PAGE), lambda: os.ftruncate(fd, 2 * EXTENT_BYTES),
                        lambda: mmap.mmap(fd, PAGE), lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)):
            try:
                attempt()
            except (OSError, PermissionError):
                continue
            raise AssertionError("it can be changed")
    os.close(again)
    assert one.bytes_of(one.held[0]) == content(1)
    # Nor can an agent take the staging memory away.
    found = daemon.agents[0].staging
    try:
        found.resize(PAGE)
    except (OSError, SystemError, ValueError):
        pass
    else:
        raise AssertionError("the staging memory shrinks")


def staging_bytes(daemon):
    """What the staging memory of all machines takes."""
    there = "/proc/%d/fd/" % daemon.process.pid
    return sum(os.stat(there + fd).st_blocks * 512 for fd in os.listdir(there) if "overbook-staging" in os.readlink(there + fd))


@with_daemon()
def staging_memory_costs_nothing_at_rest(daemon):
    one, two = pair(daemon, 300)
    daemon.until(lambda: staging_bytes(daemon) == 0)
    # It is as good as before.
    for agent in (one, two):
        agent.pages.update({page: content(page + 1) for page in range(300, 400)})
        agent.offer(*range(300, 400))
    daemon.until(lambda: len(one.held) == len(two.held) == 400)
    for page, slot in one.held.items():
        assert one.bytes_of(slot) == content(page + 1)
    daemon.until(lambda: staging_bytes(daemon) == 0)


@with_daemon()
def a_dead_machine_holds_nothing(daemon):
    one, two = pair(daemon, 50)
    three = Sharer(daemon, "c", domain="d")
    ready(daemon, three)
    three.pages = {page: content(page + 1) for page in range(20)}
    three.offer()
    daemon.until(lambda: len(three.held) == 20)
    one.die()
    daemon.until(lambda: len(share(daemon)["machines"]) == 2)
    assert share(daemon)["slots_used_bytes"] == 50 * PAGE and share(daemon)["shared_bytes"] == 70 * PAGE
    two.die()
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 20 * PAGE)
    for page, slot in three.held.items():
        assert three.bytes_of(slot) == content(page + 1)
    three.die()
    daemon.until(lambda: daemon.call("share")["domains"] == [])
    assert daemon.call("share")["store_bytes"] == 0


@with_daemon()
def a_machine_that_dies_in_the_middle_holds_nobody_up(daemon):
    one, two, three = [Sharer(daemon, name, domain="d") for name in "abc"]
    ready(daemon, one, two, three)
    for agent in (one, two, three):
        agent.pages = {page: content(page) for page in range(40)}
    one.answer_fetches = False
    two.answer_adopts = False
    one.offer()
    two.offer()
    daemon.until(lambda: share(daemon)["machines"][1]["offers"] == 40)
    three.offer()
    daemon.until(lambda: share(daemon)["machines"][2]["offers"] == 40)
    for _ in range(5):
        daemon.serve()
    one.die()
    daemon.until(lambda: len(three.held) == 40)
    daemon.until(lambda: share(daemon)["shared_bytes"] == 80 * PAGE)  # ADOPTs without an answer count
    two.die()
    daemon.until(lambda: share(daemon)["shared_bytes"] == 40 * PAGE)


@with_daemon()
def a_machine_that_goes_while_it_is_asked_hands_its_turn_on(daemon):
    for end in (Sharer.die, Sharer.disconnect):
        one, two, three = [Sharer(daemon, name, domain="d") for name in "abc"]
        ready(daemon, one, two, three)
        for agent in (one, two, three):
            agent.pages = {page: content(page) for page in range(40)}
        two.answer_fetches = False
        one.offer()
        daemon.until(lambda: row(daemon, "a")["offers"] == 40)
        two.offer()
        daemon.until(lambda: len(two.questions) == 40)
        three.offer()  # waits for the second one's
        daemon.until(lambda: row(daemon, "c")["offers"] == 40)
        assert not one.questions and not three.held
        end(two)
        daemon.until(lambda: len(one.held) == len(three.held) == 40)
        assert one.held == three.held
        for agent in (one, two, three):
            agent.die()
        daemon.until(lambda: daemon.call("ps")["machines"] == [])


@with_daemon()
def a_lost_connection_keeps_what_is_held(daemon):
    one, two = pair(daemon, 10)
    held = dict(one.held)
    one.disconnect()
    daemon.until(lambda: daemon.state("a") == "lost")
    for page in range(10):
        two.set(page, content(500 + page))
    daemon.until(lambda: share(daemon)["machines"][1]["dropped"] == 10)
    assert share(daemon)["slots_used_bytes"] == 10 * PAGE
    # Another machine may find them meanwhile.
    two.set(20, content(3))
    two.offer(20)
    daemon.until(lambda: two.held.get(20) == held[2])
    key = one.key
    one.connect()
    daemon.until(lambda: one.on)
    assert one.key == key
    daemon.until(lambda: daemon.state("a") == "running")
    for page in range(10):
        one.set(page, content(600 + page))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == PAGE)
    # An ADOPT whose answer is lost stays a hold of an agent that does not know HOLDS, and it can still be dropped.
    one.answer_adopts = one.tells = False
    one.set(30, content(3))
    one.offer(30)
    daemon.until(lambda: share(daemon)["shared_bytes"] == 2 * PAGE)
    one.disconnect()
    daemon.until(lambda: daemon.state("a") == "lost")
    one.connect()
    two.set(20, content(700))
    daemon.until(lambda: daemon.state("a") == "running" and share(daemon)["shared_bytes"] == PAGE)
    one.tell_dropped([held[2]])
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 0)


@with_daemon("--budget", "1G")
def a_new_overbookd_counts_what_the_last_one_left(daemon):
    one, two = pair(daemon, 10)
    daemon.kill()
    daemon.until(lambda: one.closed and two.closed)
    daemon.start()
    slots, keys = dict(one.held), one.key
    for agent in (one, two):
        agent.on = None
        agent.connect()
    ready(daemon, one, two)
    assert one.key == two.key != keys
    for agent in (one, two):
        agent.orphans()
    daemon.until(lambda: daemon.call("share")["orphan_bytes"] == EXTENT_BYTES)  # once, whole
    daemon.until(lambda: daemon.machine("a")["target_bytes"] <= 504 * MIB)
    assert one.bytes_of(slots[3]) == content(4)
    # The pages are offered again, and move to the new store.
    one.offer()
    two.offer()
    daemon.until(lambda: all(one.held[page][0] != slots[page][0] for page in slots) and one.held == two.held)
    one.send(entries(ORPHANS, "<QII", []))
    two.orphans()  # extents of this overbookd's own
    daemon.until(lambda: daemon.call("share")["orphan_bytes"] == 0)
    # A drop of an orphan is of no concern.
    one.send(entries(ORPHANS, "<QII", [(77, 5, 0)]))
    one.send(entries(DROPPED, "<QII", [(77, 0, 1)]))
    daemon.until(lambda: daemon.call("share")["orphan_bytes"] == EXTENT_BYTES)
    one.die()
    daemon.until(lambda: daemon.call("share")["orphan_bytes"] == 0)


@with_daemon()
def domains_are_apart(daemon):
    """A random run: what each agent is sent is checked by share_harness; here what it adopts, and the sums."""
    rng = random.Random(20)
    names = ["a", "b", ""]
    agents = [Sharer(daemon, "m%d" % i, domain=names[i % 3]) for i in range(12)]
    ready(daemon, *agents)
    for step in range(250):
        agent = rng.choice(agents)
        if rng.random() < 0.03:
            agent.die()
            agents.remove(agent)
            agents.append(Sharer(daemon, "n%d" % step, domain=rng.choice(names)))
            ready(daemon, agents[-1])
            continue
        if rng.random() < 0.03:
            agent.disconnect()
            daemon.until(lambda: daemon.state(agent.name) == "lost")
            if rng.random() < 0.5:
                agent.set(*rng.choice([(page, content(60)) for page in agent.held] or [(0, content(0))]))
            agent.connect()
            daemon.until(lambda: agent.told and daemon.state(agent.name) == "running")
            continue
        pages = [rng.randrange(200) for _ in range(rng.randrange(1, 30))]
        for page in pages:
            agent.set(page, content(rng.randrange(60)))
        if rng.random() < 0.9:
            agent.offer(*dict.fromkeys(pages))
        if step % 3 == 0:
            daemon.serve(0.002)
        for other in agents:
            for page, slot in other.held.items():
                assert other.bytes_of(slot) == other.pages[page], (other.name, page)

    def settled():
        before = {agent: len(agent.held) for agent in agents}
        for found in daemon.call("share")["domains"]:
            members = [agent for agent in agents if (agent.domain or agent.name) == (found["domain"] or found["machines"][0]["name"])]
            held = sum(len(agent.held) for agent in members) * PAGE
            if any(len(agent.held) != before[agent] for agent in members):
                return False
            assert found["shared_bytes"] >= held
            if found["shared_bytes"] != held:
                return False
            if found["slots_used_bytes"] != len(set(slot for agent in members for slot in agent.held.values())) * PAGE:
                return False
        return True
    daemon.until(settled, 60)
    assert sum(len(agent.held) for agent in agents) > 300
    kinds = set(Sharer.domains.values())
    assert ("a", "") in kinds and ("b", "") in kinds and len(kinds) > 3


@with_daemon()
def a_slot_that_was_mapped_is_never_filled_again(daemon):
    one, two = [Sharer(daemon, name, domain="d", maps=True) for name in "ab"]
    ready(daemon, one, two)
    daemon.until(lambda: one.may_map and two.may_map)
    for agent in (one, two):
        agent.pages = {page: content(page + 1) for page in range(4096)}
        agent.offer()
    daemon.until(lambda: len(one.held) == len(two.held) == 4096, 60)
    extent = one.held[0][0]
    # Many slots are free again. Half of them were mapped, by one of the two.
    slots = [one.held[page] for page in range(1200)]
    for page in range(1200):
        one.set(page, content(5000 + page), was_mapped=page % 2 == 0)
        two.set(page, content(7000 + page))
        if page % 20 == 0:
            daemon.serve()
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 2896 * PAGE)
    assert share(daemon)["worn_bytes"] == 600 * PAGE and share(daemon)["store_bytes"] == 4096 * PAGE
    for agent in (one, two):
        agent.pages.update((page, content(9000 + page)) for page in range(601))
        agent.offer(*range(601))
    daemon.until(lambda: all(page in agent.held for agent in (one, two) for page in range(601)), 60)
    refilled = [slot for slot in (one.held[page] for page in range(601)) if slot[0] == extent]
    assert sorted(refilled) == sorted(slots[1::2]) and share(daemon)["extents"] == 2
    assert [one.bytes_of(slot) for slot in slots[::2]] == [content(page + 1) for page in range(0, 1200, 2)]
    # They go with the extent.
    for agent in (one, two):
        for page in [page for page, slot in agent.held.items() if slot[0] == extent]:
            agent.set(page, content(20000 + page))
            if page % 20 == 0:
                daemon.serve()
    daemon.until(lambda: one.dropped_extents == two.dropped_extents == [extent], 60)
    daemon.until(lambda: share(daemon)["extents"] == 1)
    assert share(daemon)["worn_bytes"] == 0 and share(daemon)["store_bytes"] == PAGE


@with_daemon()
def what_a_machine_that_maps_held_is_worn_when_it_ends(daemon):
    one, two, three = [Sharer(daemon, name, domain="d", maps=name == "b") for name in "abc"]
    ready(daemon, one, two, three)
    daemon.until(lambda: two.may_map)
    assert not one.may_map and not three.may_map
    slots = [a_page_anew(daemon, (one, two, three), page, 100 + page) for page in range(3)]
    kept = a_page_anew(daemon, (one, three), 8, 108)
    two.die()
    daemon.until(lambda: daemon.state("b") is None)
    # The others hold them still; who comes finds them, for their bytes are what they were.
    assert share(daemon)["worn_bytes"] == 0 and share(daemon)["slots_used_bytes"] == 4 * PAGE
    one.set(9, content(100))
    one.offer(9)
    daemon.until(lambda: one.held.get(9) == slots[0])
    for agent in (one, three):
        for page in range(3):
            agent.set(page, content(200 + page))
    one.set(9, content(209))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == PAGE)
    assert share(daemon)["worn_bytes"] == 3 * PAGE
    assert a_page_anew(daemon, (one, three), 7, 107) not in slots and one.held[8] == kept


@with_daemon()
def lies_cut_the_connection(daemon):
    one, two = pair(daemon, 2)
    extent, index = one.held[0]

    def cut(data):
        name = "x%d" % len(daemon.logged())
        liar = Sharer(daemon, name, domain="d")
        ready(daemon, liar)
        liar.pages[0] = content(1)
        liar.offer()
        daemon.until(lambda: 0 in liar.held)
        daemon.until(lambda: share(daemon)["machines"][-1]["adopted"] == 1)
        liar.send(data)
        daemon.until(lambda: liar.closed)
        assert liar.held[0] == one.held[0] and one.bytes_of(one.held[0]) == content(1)
        liar.die()
        daemon.until(lambda: daemon.state(name) is None)

    cut(entries(DROPPED, "<QII", [(extent, index, 2)]))
    cut(entries(DROPPED, "<QII", [(extent, index, 2 ** 32 - 1)]))
    cut(entries(DROPPED, "<QII", [(extent, one.held[1][1], 1)]))
    cut(entries(DROPPED, "<QII", [(extent, 4095, 1)]))
    cut(entries(DROPPED, "<QII", [(extent + 1, index, 1)]))
    cut(entries(DROPPED, "<QII", [(extent, 4096, 1)]))
    cut(entries(WORN, "<QII", [(extent, index, 1)]))  # it has not said that it maps
    cut(entries(HOLDS, "<QII", [(extent, index, 2)]))
    cut(entries(HOLDS, "<QII", [(extent, index, 1), (extent, index, 2 ** 32 - 1)]))
    cut(entries(HOLDS, "<QII", [(extent, index, 1)]) + b"x")
    cut(entries(HOLDS, "<QII", [(extent, one.held[1][1], 1)]))
    cut(entries(HOLDS, "<QII", [(extent, 4095, 1)]))
    cut(entries(HOLDS, "<QII", [(extent, index, 0)]))
    cut(message(MAPS) + b"x")
    cut(message(MAPS, b"x"))
    cut(entries(HELD, "<QQIi", [(0, extent, index, 0)]))
    cut(entries(HELD, "<QQIi", [(0, extent, index, -ENOENT)]))
    cut(entries(STAGED, "<QiI", [(0, 0, 0)]))
    cut(entries(STAGED, "<QiI", [(0, 0, 64)]))
    cut(message(OFFER, struct.pack("<I", 513)))
    assert share(daemon)["shared_bytes"] == 4 * PAGE and not one.closed and not two.closed
    # What it was told to do and said it could not.
    one.set(5, content(1))
    one.answer_adopts = False
    one.offer(5)
    daemon.until(lambda: share(daemon)["shared_bytes"] == 5 * PAGE)
    one.send(entries(HELD, "<QQIi", [(5, extent, index, -ENOENT)]))
    daemon.until(lambda: share(daemon)["shared_bytes"] == 4 * PAGE)


@with_daemon()
def a_million_offers_cost_what_the_quota_allows(daemon):
    one = Sharer(daemon, "a", domain="d", ram=64 * MIB)
    ready(daemon, one)
    daemon.until(lambda: daemon.machine("a")["ram_bytes"] == 64 * MIB)
    start = resident(daemon)
    for batch in range(2000):
        data = b"".join(struct.pack("<QQQII", 512 * batch + i, (512 * batch + i) * 0x9E3779B97F4A7C15 % 2 ** 64, 3, 0, 0) for i in range(512))
        one.send(message(OFFER, struct.pack("<I", 512) + data))
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 512 * 2000, 60)
    assert share(daemon)["machines"][0]["index_entries"] == 2 * 64 * MIB // PAGE
    assert resident(daemon) - start < 16 * MIB
    # All of one hash, which is what makes the index slow.
    one.answer_fetches = False
    for batch in range(500):
        data = b"".join(struct.pack("<QQQII", 512 * batch + i, 7, 7, 0, 0) for i in range(512))
        one.send(message(OFFER, struct.pack("<I", 512) + data))
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 512 * 2500, 60)
    # Others are served meanwhile and afterwards.
    pair(daemon, 30, names=("b", "c"))


def resident(daemon):
    with open("/proc/%d/statm" % daemon.process.pid) as statm:
        return int(statm.read().split()[1]) * PAGE


@with_daemon()
def an_agent_that_does_not_read_holds_nobody_up(daemon):
    deaf = Sharer(daemon, "deaf", domain="d")
    ready(daemon, deaf)
    deaf.pages = {page: content(page + 1) for page in range(2000)}
    deaf.offer()
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 2000)
    deaf.deaf = True
    one, two = pair(daemon, 2000)
    assert len(one.held) == 2000
    deaf.deaf = False
    daemon.until(lambda: share(daemon)["machines"][0]["fetched"] == deaf.fetched)
    deaf.set(0, content(1))
    deaf.offer(0)
    daemon.until(lambda: 0 in deaf.held)


@with_daemon("--budget", "256M")
def the_store_is_paid_for_by_the_budget(daemon):
    one, two = [Sharer(daemon, name, domain="d", ram=512 * MIB, limit=64 * MIB) for name in "ab"]
    ready(daemon, one, two)
    daemon.until(lambda: one.limit + two.limit == 256 * MIB and one.cost + two.cost <= 256 * MIB)
    daemon.budget = 256 * MIB
    for agent in (one, two):
        agent.pages = {page: content(page + 1) for page in range(3000)}

    def slots():
        return len(set(one.held.values()) | set(two.held.values())) * PAGE
    watch = daemon.watch

    def with_store():
        watch()
        worst = one.worst() + two.worst() + slots()
        assert worst <= 256 * MIB, "machines and stores may take %d KiB" % (worst // 1024)
    daemon.watch = with_store
    one.offer()
    two.offer()
    daemon.until(lambda: len(one.held) == len(two.held) == 3000, 60)
    assert share(daemon)["store_bytes"] == 3000 * PAGE
    daemon.until(lambda: one.limit + two.limit == 240 * MIB)
    daemon.until(lambda: daemon.call("share")["allowed_bytes"] == 16 * MIB)
    for agent in (one, two):
        for page in list(agent.held):
            agent.set(page, content(50000 + page))
    daemon.until(lambda: one.limit + two.limit == 256 * MIB, 40)


class Needy(Sharer):
    """While it is short, 8 MiB come back between two reports, and go again."""
    is_short, back = False, 0

    def statistics(self):
        self.back += self.is_short * 2048
        self.numbers = {"active_bytes": self.is_short * 512 * MIB, "active_samples": 1000, "swapped_bytes": 512 * MIB,
                        "faults_swapped": self.back, "swap_in_pages": self.back}
        return super().statistics()


def needy_pair(daemon, pages, shared):
    """Two of them with so many equal pages, of which the first are shared."""
    agents = [Needy(daemon, name, domain="d", ram=1024 * MIB, limit=64 * MIB) for name in "ab"]
    ready(daemon, *agents)
    for agent in agents:
        agent.pages = {page: content(page + 1) for page in range(pages)}
        agent.offer(*range(shared))
    daemon.until(lambda: all(len(agent.held) == shared for agent in agents), 60)
    return agents


def uses_more(machine):
    return (machine["working_set_bytes"] or 0) > machine["target_bytes"]


@with_daemon("--budget", "256M")
def while_memory_lacks_what_nobody_uses_gets_no_slot(daemon):
    one, two = agents = needy_pair(daemon, 40, 10)
    one.is_short = two.is_short = True
    # What has a slot is adopted as ever; what has none waits, until somebody uses it.
    daemon.until(lambda: all(uses_more(daemon.machine(name)) for name in "ab"))
    one.offer(*range(10, 20))
    two.offer(*range(10, 20))
    for agent in agents:
        agent.pages[40] = content(1)
        agent.offer(40)
    daemon.until(lambda: 40 in one.held and 40 in two.held)
    assert len(one.held) == len(two.held) == 11
    two.offer(15, kind=USED)
    daemon.until(lambda: len(one.held) == len(two.held) == 12)
    assert one.held[15] == two.held[15]
    # The others are remembered: when nobody lacks anything one more offer is enough.
    one.is_short = two.is_short = False
    daemon.until(lambda: not any(uses_more(daemon.machine(name)) for name in "ab"), 60)
    two.offer(*range(10, 20))
    daemon.until(lambda: len(one.held) == len(two.held) == 21)
    check(one, two)


@with_daemon("--budget", "256M")
def what_nobody_uses_is_shed(daemon):
    one, two = agents = needy_pair(daemon, 4200, 4200)
    one.is_short = two.is_short = True
    daemon.until(lambda: one.drained and one.drained == two.drained, 60)
    [old] = one.drained
    there = [page for page in range(4200) if one.held[page][0] == old]
    assert len(there) == 4096 and share(daemon)["store_bytes"] == 4200 * PAGE
    # What is mapped gets another slot, in an extent that stays; what is cold does not, and is let go of.
    for agent in agents:
        agent.offer(*there[:50], kind=ORPHAN)
        agent.offer(*there[50:], kind=COLD_ORPHAN)
    daemon.until(lambda: all(agent.held[page][0] != old for agent in agents for page in there[:50]))
    for _ in range(20):
        daemon.serve()
    assert all(agent.held[page][0] == old for agent in agents for page in there[50:])
    for agent in agents:
        slots = [agent.held.pop(page) for page in there[50:]]
        for start in range(0, len(slots), 512):
            agent.tell_dropped(slots[start:start + 512])
    daemon.until(lambda: old in one.dropped_extents and old in two.dropped_extents)
    assert share(daemon)["store_bytes"] == (4200 - 4096 + 50) * PAGE
    check(one, two)


@with_daemon("--budget", "64M")
def without_room_the_store_does_not_grow(daemon):
    one, two = [Sharer(daemon, name, domain="d", ram=512 * MIB, limit=32 * MIB, reservation=32 * MIB, step=0) for name in "ab"]
    ready(daemon, one, two)
    sent = []
    for agent in (one, two):
        agent.send = lambda data, send=agent.send: (sent.append(1), send(data))
        agent.cost = 32 * MIB
        agent.pages = {page: content(page + 1) for page in range(1500)}
        agent.offer()

    def futile():
        return sum(row["no_room"] for row in share(daemon)["machines"])
    daemon.until(lambda: futile() > 0)
    for _ in range(30):
        daemon.serve()
    assert not one.held and share(daemon)["store_bytes"] == 0
    # Few are tried in vain at each message, of which it has had so many, and at each of its own seconds.
    tried, messages = futile(), len(sent)
    assert tried <= 2 * 8 * (messages + 60), (tried, messages)


@with_daemon("--budget", "64M")
def without_room_slots_that_are_free_again_are_filled(daemon):
    one, two = [Sharer(daemon, name, domain="d", ram=512 * MIB, limit=32 * MIB) for name in "ab"]
    ready(daemon, one, two)
    for agent in (one, two):
        agent.pages = {page: content(page + 1) for page in range(1024)}
    one.offer()
    # As many as there is room for: the machines have given up 4 MiB, and come no further down.
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 1024 and one.limit + two.limit == 64 * MIB)
    two.offer()
    daemon.until(lambda: one.cost + two.cost == 60 * MIB)
    one.step = two.step = 0
    daemon.until(lambda: len(one.held) == len(two.held) == 1024)
    daemon.until(lambda: one.limit + two.limit == 56 * MIB)
    assert share(daemon)["store_bytes"] == daemon.call("share")["allowed_bytes"] == 4 * MIB
    used = set(one.held.values())
    for number, page in enumerate(list(one.held)[:50]):
        slot = a_page_anew(daemon, (one, two), page, 5000 + number)
        assert slot == two.held[page] and slot in used
    assert share(daemon)["store_bytes"] == 4 * MIB and len(one.held) == 1024
    # What has a slot does not stand behind what waits for one.
    for agent in (one, two):
        for page in range(2000, 5000):
            agent.pages[page] = content(10000 + page)
        agent.offer(*range(2000, 5000))
    daemon.until(lambda: sum(row["offers"] for row in share(daemon)["machines"]) == 2 * (1024 + 50 + 3000))
    assert len(one.held) == len(two.held) == 1024
    two.set(6000, one.pages[1000])
    two.offer(6000)
    sent = []
    for agent in (one, two):
        agent.send = lambda data, send=agent.send: (sent.append(1), send(data))
    daemon.until(lambda: 6000 in two.held)
    assert two.held[6000] == one.held[1000] and len(sent) < 50, len(sent)
    assert share(daemon)["store_bytes"] == 4 * MIB and len(two.held) == 1025
    check(one, two)


def with_a_cut(function):
    """The test is given a function too, by which the budget of 480 MiB becomes one of 320; machines that cost all of it come down by themselves no more."""
    def run():
        def cut(daemon):
            daemon.until(lambda: sum(agent.cost for agent in daemon.agents) == 480 * MIB)
            for agent in daemon.agents:
                agent.step = 0
            rewrite(settings, "BUDGET=320M\n")
            daemon.reload()
            daemon.until(lambda: sum(agent.limit for agent in daemon.agents) == 320 * MIB)
        with tempfile.NamedTemporaryFile("w") as settings:
            rewrite(settings, "BUDGET=480M\n")
            run_with(lambda daemon: function(daemon, lambda: cut(daemon)), "--config", settings.name)
    run.__name__ = function.__name__
    return test(run)


def adopts_and_costs_less(agent):
    adopt = agent.adopt

    def count(wanted):
        before = len(agent.held)
        adopt(wanted)
        agent.cost -= (len(agent.held) - before) * PAGE
    agent.adopt = count


@with_a_cut
def above_the_budget_is_shared_before_it_is_evicted(daemon, cut):
    agents = [Sharer(daemon, name, domain="d", ram=256 * MIB) for name in "abcd"]
    for agent in agents:
        adopts_and_costs_less(agent)
    ready(daemon, *agents)
    cut()
    watch = daemon.watch

    def with_store():
        watch()
        slots = len({slot for agent in agents for slot in agent.held.values()}) * PAGE
        worst = sum(agent.cost for agent in agents) + slots
        assert worst <= 482 * MIB, "machines and stores cost %d KiB" % (worst // 1024)
    daemon.watch = with_store
    for agent in agents:
        agent.pages = {page: content(page + 1) for page in range(3000)}
        agent.offer()
    daemon.until(lambda: all(len(agent.held) == 3000 for agent in agents))
    found = share(daemon)
    assert found["store_bytes"] == 3000 * PAGE and found["shared_bytes"] == 4 * 3000 * PAGE, found
    assert sum(agent.cost for agent in agents) == 480 * MIB - 4 * 3000 * PAGE
    check(*agents)


@with_a_cut
def who_adopts_nothing_takes_no_room_above_the_budget(daemon, cut):
    """Two offer, give their bytes, and refuse what is made of them, again and again; two are as they should be."""
    liars, honest = [[Sharer(daemon, name, domain="d", ram=256 * MIB) for name in names] for names in ("ab", "cd")]
    for agent in honest:
        adopts_and_costs_less(agent)
    ready(daemon, *liars, *honest)
    cut()
    for agent in honest:
        agent.pages = {page: content(page + 1) for page in range(1000)}
    for agent in liars:
        agent.lies = {page: content(10000 + page) for page in range(1000)}
        agent.pages = {page: content(20000 + page) for page in range(1000)}

    def lie():
        for agent in liars:
            agent.send(entries(OFFER, "<QQQII", [(page, *page_hash(agent.key, data), 0, 0) for page, data in list(agent.lies.items())[:500]]))
    lie()
    daemon.until(lambda: all(agent.refused >= 500 for agent in liars))
    for agent in liars:
        agent.step = MIB // 4
    most = 0
    for agent in honest:
        agent.offer()
    rounds = [0]

    def shared():
        nonlocal most
        if rounds[0] % 5 == 0:
            lie()
        rounds[0] += 1
        most = max(most, share(daemon)["store_bytes"])
        return all(len(agent.held) == 1000 for agent in honest)
    daemon.until(shared, 60)
    # What is honest, and what can be under way with two others: 64 pages that are fetched, 512 that are to be adopted, of each.
    assert most <= (1000 + 2 * (64 + 512)) * PAGE, most
    check(*honest)
    assert not liars[0].held and not liars[1].held


@with_daemon("--share", "off")
def off_is_off(daemon):
    one = Sharer(daemon, "a", domain="d")
    daemon.until(lambda: daemon.state("a") == "running")
    for _ in range(5):
        daemon.serve()
    assert one.on is None and daemon.call("share")["sharing"] is False
    one.send(entries(OFFER, "<QQQII", [(1, 2, 3, 0, 0)]))
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 1)
    assert share(daemon)["machines"][0]["index_entries"] == 0


@with_daemon("--share-cpu", "70")
def one_machine_can_be_told_to_stop(daemon):
    one, two = pair(daemon, 20)
    assert one.permille == 70
    client = Client(daemon)
    client.send("share-switch", name="a", on=False)
    daemon.until(lambda: one.unshare)
    assert one.on is False and two.on
    assert daemon.call("share-switch", name="a", on=True)["code"] == "failed"
    assert daemon.call("limit", name="a", maximum_bytes=0)["code"] == "failed"
    one.reply(one.unshare, -EINPROGRESS, "40960 81920")
    for page in range(20):
        one.set(page, content(page + 1))
    daemon.until(lambda: share(daemon)["machines"][0]["dropped"] == 20)
    one.reply(one.unshare)
    answer = client.answer()
    assert answer["ok"] and answer["off_by_user"] and answer["held_pages"] == 0, answer
    assert client.progress == [{"done": 40960, "total": 81920, "what": "bytes brought back"}]
    one.offer()
    daemon.until(lambda: share(daemon)["machines"][0]["offers"] == 40)
    assert not one.held
    assert daemon.call("share-switch", name="a", on=True)["ok"]
    daemon.until(lambda: one.on)
    one.offer()
    daemon.until(lambda: len(one.held) == 20)
    assert one.held == two.held
    # A machine whose limit has no room for them.
    assert daemon.call("limit", name="a", maximum_bytes=64 * MIB)["ok"]
    daemon.until(lambda: daemon.machine("a")["cost_bytes"] == 64 * MIB and row(daemon, "a")["shared_bytes"] == 20 * PAGE)
    refused = daemon.call("share-switch", name="a", on=False)
    assert refused["code"] == "refused" and "80 KiB" in refused["error"] and "64 MiB" in refused["error"], refused
    assert daemon.call("share-switch", name="a")["code"] == "bad-request"
    assert daemon.call("share-switch", name="ghost", on=True)["code"] == "no-machine"
    assert daemon.call("share", name="ghost")["code"] == "no-machine"
    assert [row["name"] for row in daemon.call("share", name="a")["domains"][0]["machines"]] == ["a"]


def overbook(daemon, *words, background=False):
    process = subprocess.Popen([OVERBOOK, "share", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
    if background:
        return process
    daemon.until(lambda: process.poll() is not None)
    out, err = process.communicate()
    return process.returncode, out, err


@with_daemon()
def the_command_line_tool_shows_and_switches(daemon):
    one, two = pair(daemon, 256)
    alone = Sharer(daemon, "alone")
    ready(daemon, alone)
    daemon.until(lambda: row(daemon, "b")["adopted"] == 256)
    code, out, err = overbook(daemon)
    assert code == 0 and not err, err
    lines = out.splitlines()
    assert any(line.startswith("domain d: 2 MiB shared, 1 MiB in the store; 1 MiB saved, ") and line.endswith(": it pays") for line in lines), out
    assert any(line.startswith("a domain of its own: 0 B shared") and line.endswith("nothing is shared") for line in lines), out
    assert [line.split()[:4] for line in lines if line.startswith("a  ")] == [["a", "1", "MiB", "0"]], out
    code, out, err = overbook(daemon, "alone", "--json")
    assert code == 0 and [found["own"] for found in json.loads(out)["domains"]] == [True], out
    assert overbook(daemon, "ghost")[0] == 4
    for wrong in (["--off"], ["--on"], ["--on", "--off", "a"], ["a", "b"], ["--what"]):
        code, out, err = overbook(daemon, *wrong)
        assert code == 2 and err.count("\n") == 1, (wrong, err)
    process = overbook(daemon, "--off", "a", background=True)
    daemon.until(lambda: one.unshare)
    for page in range(256):
        one.set(page, content(page + 1))
    one.reply(one.unshare)
    daemon.until(lambda: process.poll() is not None)
    assert process.communicate()[0] == "a shares no pages any more\n"
    assert "a (off)" in overbook(daemon)[1]
    code, out, err = overbook(daemon, "--on", "a")
    assert code == 0 and out == "a shares its pages\n", (out, err)
    two.numbers = dict(shared_bytes=1 << 62)
    assert daemon.call("limit", name="b", maximum_bytes=128 * MIB)["ok"]
    daemon.until(lambda: daemon.machine("b")["cost_bytes"] == 128 * MIB and row(daemon, "b")["shared_bytes"] == 1 << 62)
    code, out, err = overbook(daemon, "--off", "b")
    assert code == 5 and "128 MiB" in err, err
    # An agent that cannot.
    two.numbers = {}
    two.cost = 100 * MIB
    two.limit = 100 * MIB
    daemon.until(lambda: daemon.machine("b")["cost_bytes"] <= 100 * MIB)
    process = overbook(daemon, "--off", "b", background=True)
    daemon.until(lambda: two.unshare)
    two.reply(two.unshare, -12, "no memory")
    daemon.until(lambda: process.poll() is not None)
    assert process.returncode == 1 and "no memory" in process.communicate()[1]


@with_settings("SHARE=off\n")
def the_switch_is_read_again(daemon, config):
    one = Sharer(daemon, "a", domain="d")
    daemon.until(lambda: daemon.state("a") == "running")
    rewrite(config, "SHARE=on\nSHARE_CPU=7\n")
    daemon.reload()
    ready(daemon, one)
    assert one.permille == 7
    rewrite(config, "SHARE_CPU=9\n")
    daemon.reload()
    daemon.until(lambda: one.permille == 9)
    assert one.on
    one.pages = {1: content(1), 2: content(1)}
    one.offer()
    daemon.until(lambda: len(one.held) == 2)
    # What is shared stays so, and nothing is added.
    rewrite(config, "SHARE=off\n")
    daemon.reload()
    daemon.until(lambda: one.on is False)
    one.set(3, content(1))
    one.offer(3)
    one.set(1, content(5))
    daemon.until(lambda: share(daemon)["shared_bytes"] == PAGE)
    assert len(one.held) == 1
    # An agent that comes back learns by the key whose slots it holds, on or off.
    one.disconnect()
    daemon.until(lambda: daemon.state("a") == "lost")
    key, one.key = one.key, None
    one.connect()
    daemon.until(lambda: one.key == key)
    assert one.on is False
    rewrite(config, "SHARE=perhaps\n")
    daemon.reload()
    daemon.until_logged("perhaps")


@test
def options_are_checked():
    assert "maybe" in refused("--share", "maybe")
    for wrong in ("0", "1001", "x", "-1", "2x", "", "99999999999999999999"):
        assert "1000" in refused("--share-cpu", wrong)
    for wrong in ("tree", "", "cmd-subpage,subpages=3", "cmd-subpage,subpages=16", "cmd-subpage,", "hash,subpages=4"):
        assert "cmd-subpage" in refused("--share-index", wrong) and "hash" in refused("--share-index", wrong)
    assert "exclude each other" in refused("--share", "on", "--config", "/etc/x")
    assert "exclude each other" in refused("--share-index", "hash", "--config", "/etc/x")


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
