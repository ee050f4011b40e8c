#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sharing when connections are lost: test_daemon_holds.py OVERBOOKD. Prints TAP. share_harness.py plays the agents."""
import os
import signal
import sys

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import DROPPED, HELD, HOLDS, MORE_ORPHANS, ORPHANS, main, with_daemon
from share_harness import ENOENT, PAGE, Sharer, a_page_anew, content, entries, pair, ready, row, share

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])

EXTENT_BYTES = 4096 * PAGE


def lose(daemon, agent):
    agent.disconnect()
    daemon.until(lambda: daemon.state(agent.name) == "lost")


def come_back(daemon, agent):
    agent.on = None
    agent.connect()
    ready(daemon, agent)
    daemon.until(lambda: agent.told and daemon.state(agent.name) == "running")


@with_daemon()
def what_a_lost_connection_ate_is_settled(daemon):
    one, two = pair(daemon, 1300)
    slots = dict(one.held)
    # DROPPED that overbookd never saw: half of them are nobody's then.
    lose(daemon, one)
    for page in range(600):
        one.set(page, content(5000 + page))
        if page % 2:
            two.set(page, content(7000 + page))
    daemon.until(lambda: row(daemon, "b")["dropped"] == 300)
    assert share(daemon)["shared_bytes"] == 2300 * PAGE
    come_back(daemon, one)
    daemon.until(lambda: share(daemon)["shared_bytes"] == 1700 * PAGE)
    assert share(daemon)["slots_used_bytes"] == 1000 * PAGE and row(daemon, "a")["held_pages"] == 700
    daemon.until_logged("holds 600 shared pages fewer")
    # ADOPTs that the agent never saw, or whose answer was lost: one was done, the other not.
    one.answer_adopts = False
    for page in (2, 4):
        one.set(page, content(page + 1))
    one.offer(2, 4)
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 702)
    lose(daemon, one)
    one.held[2] = slots[2]
    one.answer_adopts = True
    come_back(daemon, one)
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 701)
    # Nothing is counted twice: all that is held can be dropped, and then all is free.
    for agent in (one, two):
        for page in list(agent.held):
            agent.set(page, content(20000 + page))
    daemon.until(lambda: share(daemon)["extents"] == 0)
    assert not one.closed and not two.closed


@with_daemon()
def holds_are_settled_whichever_connection_is_read_first(daemon):
    one, two = pair(daemon, 30)
    for attempt in range(10):
        # What was said on the old connection lies there when the new one comes: it may be read, or not.
        daemon.process.send_signal(signal.SIGSTOP)
        for page in range(3):
            one.set(3 * attempt + page, content(900 + page))
        one.disconnect()
        one.on = None
        one.connect()
        daemon.process.send_signal(signal.SIGCONT)
        ready(daemon, one)
        daemon.until(lambda: row(daemon, "a")["held_pages"] == 27 - 3 * attempt)
    assert share(daemon)["shared_bytes"] == 30 * PAGE and not two.closed


@with_daemon()
def what_is_asked_while_holds_are_told_is_counted(daemon):
    one, two = pair(daemon, 20)
    lose(daemon, one)
    one.tells = False
    one.connect()
    one.on = None
    ready(daemon, one)
    # ADOPTs before the first piece, between two, and their answers before and after the last.
    one.set(30, content(1))
    one.set(31, content(2))
    one.answer_adopts = False
    one.offer(30, 31)
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 22)
    held, first = list(one.held.items()), one.held[0]
    one.send(entries(HOLDS, "<QII", [(*slot, 1) for _, slot in held[:7]]))
    one.send(entries(HELD, "<QQIi", [(31, *one.held[1], -ENOENT)]))
    one.send(entries(HOLDS, "<QII", [(*slot, 1) for _, slot in held[7:19]]))
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 21)
    one.send(entries(HOLDS, "<QII", []))
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 20)  # 19 and the ADOPT without an answer
    one.send(entries(HELD, "<QQIi", [(30, *first, 0)]))
    one.send(entries(DROPPED, "<QII", [(*first, 2)]))
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 18)
    assert not one.closed and row(daemon, "b")["held_pages"] == 20


@with_daemon()
def holds_that_have_no_end_end_with_their_connection(daemon):
    one, two = pair(daemon, 20)
    for _ in range(3):
        one.tells = False
        lose(daemon, one)
        one.connect()
        one.on = None
        ready(daemon, one)
        one.tell_holds(end=False, size=3)
    # Nobody waits for it.
    three = Sharer(daemon, "c", domain="d")
    ready(daemon, three)
    two.set(50, content(50))
    three.pages = {1: content(1), 50: content(50)}
    two.offer(50)
    three.offer()
    daemon.until(lambda: len(three.held) == 2)
    assert row(daemon, "a")["held_pages"] == 20
    one.tells = True
    lose(daemon, one)
    come_back(daemon, one)
    one.set(60, content(2))
    one.offer(60)
    daemon.until(lambda: 60 in one.held and row(daemon, "a")["held_pages"] == 21)


@with_daemon()
def what_was_lost_of_a_machine_that_maps_is_worn(daemon):
    one, two = [Sharer(daemon, name, domain="d", maps=name == "b") for name in "ab"]
    ready(daemon, one, two)
    slot = a_page_anew(daemon, (one, two), 1, 100)
    other = a_page_anew(daemon, (one, two), 2, 200)
    # WORN and DROPPED are lost with the connection; and a DROPPED of a machine that maps nothing.
    lose(daemon, two)
    two.set(1, content(3), was_mapped=True)
    one.set(1, content(4))
    lose(daemon, one)
    one.set(2, content(5))
    come_back(daemon, two)
    come_back(daemon, one)
    daemon.until(lambda: share(daemon)["worn_bytes"] == PAGE)
    two.set(2, content(6), was_mapped=False)
    daemon.until(lambda: share(daemon)["extents"] == 0)
    assert slot != other


@with_daemon("--budget", "400G")
def a_long_list_of_orphans_comes_in_pieces(daemon):
    one, two = Sharer(daemon, "a", domain="d"), Sharer(daemon, "b", domain="d")
    ready(daemon, one, two)

    def orphans(agent, kind, first, count, held=7):
        agent.send(entries(kind, "<QII", [(extent, held, 0) for extent in range(first, first + count)]))

    def bytes_become(extents):
        daemon.until(lambda: daemon.call("share")["orphan_bytes"] == extents * EXTENT_BYTES)
    orphans(one, ORPHANS, 1, 10)
    bytes_become(10)
    # Nothing of a list counts before its end, and the last one counts until then.
    for part in range(3):
        orphans(one, MORE_ORPHANS, 1000 + 512 * part, 512)
    daemon.until(lambda: row(daemon, "a")["offers"] == 0)
    daemon.serve()
    bytes_become(10)
    orphans(one, ORPHANS, 1000 + 3 * 512, 100)
    bytes_become(1636)
    assert row(daemon, "a")["orphan_extents"] == 1636
    # Each counts once, whoever tells it.
    orphans(two, MORE_ORPHANS, 500, 512)
    orphans(two, ORPHANS, 0xFFFFFFFFFFFFFF00, 50)
    bytes_become(1636 + 500 + 50)
    # A list whose end was lost is none.
    orphans(two, MORE_ORPHANS, 5000, 512)
    lose(daemon, two)
    come_back(daemon, two)
    bytes_become(1636 + 500 + 50)
    orphans(two, ORPHANS, 1, 1)
    bytes_become(1636 + 1)
    orphans(one, ORPHANS, 1, 0)
    bytes_become(1)
    for part in range(8):
        orphans(one, MORE_ORPHANS, 1 + 512 * part, 512)
    orphans(one, ORPHANS, 1, 0)
    bytes_become(4096)
    for part in range(8):
        orphans(one, MORE_ORPHANS, 1 + 512 * part, 512)
    orphans(one, ORPHANS, 9000, 1)
    daemon.until(lambda: one.closed)
    daemon.until_logged("more than 4096 ORPHANS")
    one.die()
    bytes_become(1)


if __name__ == "__main__":
    sys.exit(main(None))
