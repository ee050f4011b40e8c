#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What of sharing outlives overbookd, where somebody keeps its descriptors as systemd does: test_daemon_keep.py OVERBOOKD. Prints
TAP. share_harness.py plays the agents, daemon_harness.py systemd."""
import fcntl
import mmap
import os
import random
import signal
import socket
import sys
from collections import Counter

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import DROPPED, HOLDS, ORPHANS, Daemon, listener, main, test, with_daemon
from share_harness import PAGE, Sharer, a_page_anew, check, content, entries, pair, ready, row, share

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])

EXTENT_BYTES = 4096 * PAGE
SOCKETS = ("agents.sock", "overbookd.sock")
SHRINK, GROW, WRITE, FUTURE_WRITE, SEAL = 2, 4, 8, 16, 1
AWAITED = 60  # overbookd waits for half of that
HOLDS_MOST = 0xFFFFFFFF // 1024 - 1  # OB_STORE_HOLDS_MOST of src/daemon/store.h


def keeping(*args, keeps=4096):
    return with_daemon(*args, sockets=SOCKETS, keeps=keeps)


def again(daemon, *agents, number=signal.SIGKILL):
    """overbookd ends, another one starts, and these agents come back."""
    daemon.kill(number)
    for agent in daemon.agents:
        agent.pump()
        if agent.sock:
            agent.disconnect()
        agent.on, agent.closed = None, False
    daemon.start()
    come_back(daemon, *agents)


def come_back(daemon, *agents):
    for agent in agents:
        agent.connect()
    ready(daemon, *agents)
    daemon.until(lambda: all(agent.told or not agent.tells for agent in agents))


def holds(daemon, *agents):
    """Waits until overbookd counts what they hold."""
    for agent in agents:
        daemon.until(lambda: row(daemon, agent.name)["held_pages"] == len(agent.held))


def drop_all(daemon, *agents):
    """Nobody holds anything any more. What was restored is awaited still: half_a_minute_later() sees to that."""
    for agent in agents:
        for page in list(agent.held):
            agent.set(page, content(10 ** 6 + page))
    daemon.until(lambda: all(found["slots_used_bytes"] == found["shared_bytes"] == 0 and found["store_bytes"] == found["restored_bytes"]
                             for found in daemon.call("share")["domains"]))


@keeping()
def what_is_shared_is_there_again(daemon):
    one, two = pair(daemon, 300)
    daemon.until(lambda: daemon.kept)
    before, fetched, kept = dict(one.held), one.fetched + two.fetched, list(daemon.kept)
    assert len(kept) == 1 and kept[0] == "extent-%016x" % one.held[0][0]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        again(daemon, one, two, number=number)
        holds(daemon, one, two)
        assert one.held == two.held == before and one.fetched + two.fetched == fetched and list(daemon.kept) == kept
        assert not one.foreign and not two.foreign
        found, answer = share(daemon), daemon.call("share")
        assert found["store_bytes"] == found["slots_used_bytes"] == found["restored_bytes"] == 300 * PAGE, found
        assert found["shared_bytes"] == 600 * PAGE and found["extents"] == 1 and answer["orphan_bytes"] == 0, answer
    # Who is new finds them, and gets memory that nobody can write.
    three = Sharer(daemon, "c", domain="d")
    ready(daemon, three)
    three.pages = {page: content(page + 1) for page in range(300)}
    three.offer()
    daemon.until(lambda: len(three.held) == 300)
    assert three.held == before and three.fetched == 0
    check(one, two, three)
    descriptor = three.extents[before[0][0]][0]
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & WRITE
    # What is equal and not there is filled elsewhere.
    slot = a_page_anew(daemon, (one, two), 1000, 1000)
    assert slot[0] != before[0][0]
    daemon.until(lambda: len(daemon.kept) == 2)
    drop_all(daemon, one, two, three)
    daemon.until(lambda: len(daemon.kept) == 1)  # the new one has gone
    assert not any(agent.closed for agent in (one, two, three))


@keeping()
def drops_are_counted_as_before(daemon):
    one, two = pair(daemon, 600)
    for agent in (one, two):
        agent.pages.update({page: content(1) for page in range(600, 650)})
        agent.offer(*range(600, 650))
    daemon.until(lambda: len(one.held) == len(two.held) == 650)
    # Some go while nobody is there, some before HOLDS, some after.
    daemon.kill()
    for page in range(100):
        one.set(page, content(5000 + page))
    for agent in (one, two):
        agent.disconnect()
        agent.on = None
    daemon.start()
    two.tells = False
    one.connect()
    two.connect()
    ready(daemon, one, two)
    holds(daemon, one)
    two.tell_holds(end=False, size=100)
    daemon.until(lambda: row(daemon, "b")["held_pages"] == 650)
    # It was asked for nothing yet, and what it has is not gone when the other one lets go.
    for page in list(one.held):
        one.set(page, content(6000 + page))
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 0)
    two.send(entries(HOLDS, "<QII", []))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 600 * PAGE and share(daemon)["shared_bytes"] == 650 * PAGE)
    # Its connection is lost: then it may claim no more than is counted, or less.
    two.tells = True
    two.disconnect()
    for page in range(50):
        two.set(page, content(8000 + page))
    two.on = None
    daemon.until(lambda: daemon.state("b") == "lost")
    come_back(daemon, two)
    holds(daemon, two)
    check(one, two)
    # What it does not hold it cannot drop twice.
    two.send(entries(DROPPED, "<QII", [(*two.held[100], 7)]))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 550 * PAGE)
    two.held.pop(100)
    holds(daemon, two)
    drop_all(daemon, one, two)
    assert not one.closed and not two.closed


@keeping()
def what_was_never_filled_cannot_be_held(daemon):
    one, two = pair(daemon, 10)
    extent = one.held[0][0]
    again(daemon, two)
    one.tells = False
    one.connect()
    ready(daemon, one)
    one.send(entries(HOLDS, "<QII", [(extent, 10, 1)]))
    daemon.until(lambda: one.closed)
    daemon.until_logged("HOLDS of a slot that is free")
    one.sock.close()
    one.on, one.closed = None, False
    one.connect()
    ready(daemon, one)
    # As many as are believed of one machine, and one more.
    one.send(entries(HOLDS, "<QII", [(extent, 0, HOLDS_MOST)]))
    daemon.until(lambda: row(daemon, "a")["held_pages"] == HOLDS_MOST)
    one.send(entries(HOLDS, "<QII", [(extent, 0, 1)]))
    daemon.until(lambda: one.closed)
    one.die()
    holds(daemon, two)
    drop_all(daemon, two)


@keeping()
def an_agent_that_does_not_know_kept_is_sent_its_extents(daemon):
    one, two = pair(daemon, 300)
    one.keeps = False
    before, fetched = dict(one.held), one.fetched
    again(daemon, one, two)
    holds(daemon, one, two)
    daemon.until(lambda: not one.foreign)
    # It said before that they are another overbookd's.
    one.orphans()
    one.offer(kind=2)
    daemon.until(lambda: row(daemon, "a")["offers"] == 300 and row(daemon, "a")["adopted"] == 300)
    assert one.held == before and one.fetched == fetched and daemon.call("share")["orphan_bytes"] == 0
    holds(daemon, one, two)
    check(one, two)
    drop_all(daemon, one, two)
    assert not one.closed and not two.closed


@keeping()
def nor_is_one_that_does_not_know_holds_turned_away(daemon):
    one, two = pair(daemon, 300)
    one.keeps = one.tells = False
    again(daemon, one, two)
    holds(daemon, two)
    one.orphans()
    assert row(daemon, "a")["held_pages"] == 0 and one.foreign
    one.offer(kind=2)
    daemon.until(lambda: row(daemon, "a")["adopted"] == 300 and not one.foreign)
    check(one, two)
    # It believes that it held them all the time.
    one.send(entries(DROPPED, "<QII", [(*slot, 2) for slot in one.held.values()]))
    one.held = {}
    daemon.until(lambda: row(daemon, "a")["held_pages"] == 0)
    assert not one.closed and share(daemon)["slots_used_bytes"] == 300 * PAGE
    one.die()
    drop_all(daemon, two)


@keeping("--share", "off")
def where_nothing_is_shared_any_more_nothing_is_lost(daemon):
    daemon.args = ()
    daemon.kill()
    daemon.start()
    one, two = pair(daemon, 100)
    daemon.args = ("--share", "off")
    daemon.kill()
    for agent in (one, two):
        agent.disconnect()
    daemon.start()
    one.connect()
    two.connect()
    holds(daemon, one, two)
    assert one.on is False and not one.foreign
    drop_all(daemon, one, two)


@keeping(keeps=1)
def what_systemd_does_not_keep_is_an_orphan(daemon):
    one, two = pair(daemon, 4096)
    for agent in (one, two):
        agent.pages.update({page: content(page + 1) for page in range(4096, 4200)})
        agent.offer(*range(4096, 4200))
    daemon.until(lambda: len(one.held) == len(two.held) == 4200 and share(daemon)["extents"] == 2)
    daemon.until(lambda: len(daemon.kept) == 1)
    again(daemon, one, two)
    gone = {page for page, slot in one.held.items() if slot[0] in one.foreign}
    assert len(one.foreign) == 1 and len(gone) == 104
    daemon.until(lambda: row(daemon, "a")["held_pages"] == row(daemon, "b")["held_pages"] == 4096)
    for agent in (one, two):
        agent.send(entries(ORPHANS, "<QII", [(extent, 104, 0) for extent in agent.foreign]))
        agent.offer(*gone, kind=2)
    daemon.until(lambda: all(slot[0] not in agent.foreign for agent in (one, two) for slot in agent.held.values()))
    for agent in (one, two):
        agent.send(entries(ORPHANS, "<QII", []))
    holds(daemon, one, two)
    assert share(daemon)["store_bytes"] == 4200 * PAGE
    check(one, two)
    drop_all(daemon, one, two)


@with_daemon(sockets=SOCKETS)
def without_a_keeper_it_is_as_it_was(daemon):
    one, two = pair(daemon, 10)
    daemon.until(lambda: "FDSTORE=1\nFDNAME=extent-%016x" % one.held[0][0] in daemon.told)
    again(daemon, one, two)
    assert len(one.foreign) == 1 and daemon.call("share")["store_bytes"] == 0
    one.orphans()
    daemon.until(lambda: daemon.call("share")["orphan_bytes"] == EXTENT_BYTES)


@keeping("--budget", "1G")
def the_store_is_paid_for_from_the_start(daemon):
    one, two = pair(daemon, 1500)
    for _ in range(2):
        again(daemon, one, two)
        holds(daemon, one, two)
        answer = daemon.call("share")
        assert answer["store_bytes"] == 1500 * PAGE and answer["orphan_bytes"] == 0, answer
    daemon.until(lambda: daemon.call("share")["allowed_bytes"] > 1500 * PAGE)
    slot = a_page_anew(daemon, (one, two), 2000, 2000)
    assert slot[0] != one.held[0][0]
    drop_all(daemon, one, two)


@keeping()
def each_domain_has_its_own_again(daemon):
    one, two = pair(daemon, 20)
    three, four = pair(daemon, 20, domain="e", names=("c", "e"))
    alone = Sharer(daemon, "alone")
    ready(daemon, alone)
    alone.pages = {page: content(7) for page in range(50)}
    alone.offer()
    daemon.until(lambda: len(alone.held) == 50)
    daemon.until(lambda: len(daemon.kept) == 3)
    # Sharer checks that no extent ever comes to another domain.
    again(daemon, one, two, three, four, alone)
    holds(daemon, one, two, three, four, alone)
    late = Sharer(daemon, "late", domain="e")
    # A machine of the same name is not the one whose extents were kept.
    alone.die()
    other = Sharer(daemon, "alone")
    ready(daemon, late, other)
    for agent in (late, other):
        agent.pages = {page: content(page % 20 + 1) for page in range(40)}
        agent.offer()
    daemon.until(lambda: len(late.held) == len(other.held) == 40)
    assert late.held[0] == three.held[0] and other.all_named == set()
    check(one, two, three, four, late, other)


@keeping()
def a_name_alone_gives_nothing(daemon):
    alone = Sharer(daemon, "alone")
    ready(daemon, alone)
    alone.pages = {page: content(7) for page in range(50)}
    alone.offer()
    daemon.until(lambda: len(alone.held) == 50)
    # It has ended when overbookd is back, and somebody else has its name.
    daemon.kill()
    extent = alone.held[0]
    alone.die()
    daemon.start()
    other = Sharer(daemon, "alone")
    other.tells = False
    ready(daemon, other)
    other.send(entries(HOLDS, "<QII", [(*extent, 1)]) + b"")
    other.send(entries(HOLDS, "<QII", []))
    daemon.until(lambda: daemon.state("alone") == "running")
    assert row(daemon, "alone")["held_pages"] == 0 and not other.extents and not other.all_named and not other.closed


def memory(name, size=EXTENT_BYTES, seals=SHRINK | GROW | FUTURE_WRITE):
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(descriptor)
    return high


@keeping()
def what_is_planted_is_named_and_let_go_of(daemon):
    one, two = pair(daemon, 10)
    daemon.until(lambda: daemon.kept)
    good = list(daemon.kept)
    first = 0x100000000000000

    def ours(number, label="domain:d"):
        return "overbook-store:%016x:%s" % (first + number, label)
    writable = memory(ours(1), seals=0)
    mapped = mmap.mmap(writable, EXTENT_BYTES)
    fcntl.fcntl(writable, fcntl.F_ADD_SEALS, SHRINK | GROW | FUTURE_WRITE)
    planted = [
        (writable, "somebody can write to it"),
        (memory(ours(2), size=PAGE), "no memory of 16777216 bytes"),
        (memory(ours(3), seals=0), "size is not sealed"),
        (memory(ours(4), seals=SHRINK | GROW | FUTURE_WRITE | SEAL), "cannot be sealed against writing"),
        (memory("something"), '"/memfd:something (deleted)" is no extent'),
        (memory(ours(99)), 'its memory is that of "0100000000000063:domain:d"'),
        (memory(ours(7, "")), '"" is no domain'),
        (memory(ours(8, "domain:")), '"domain:" is no domain'),
        (memory(ours(9, "domain:../etc")), '"domain:../etc" is no domain'),
        (memory(ours(10, "own:web")), '"own:web" is no domain'),
        (memory(ours(11, "own:0:web")), '"own:0:web" is no domain'),
        (memory(ours(12, "own:99999999999999999999:web")), "is no domain"),
        (memory(ours(13, "domain:" + "x" * 64)), "is no domain"),
        (os.dup(os.open("/dev/null", os.O_RDWR)), '"/dev/null" is no extent'),
        (listener("\0overbook-keep-%d" % os.getpid(), socket.SOCK_STREAM), "is no extent"),
    ]
    daemon.kill()
    for agent in (one, two):
        agent.disconnect()
        agent.on = None
    for number, (descriptor, _) in enumerate(planted, 1):
        daemon.kept["extent-%016x" % (first + number)] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 200)
    for name in ("extent-", "extent-0", "extent-" + "0" * 16, "extent-" + "f" * 17, "extent-" + "F" * 16, "extent-../../../etc/xx"):
        daemon.kept[name] = memory(ours(50))
    daemon.start()
    come_back(daemon, one, two)
    log = daemon.logged()
    for number, (descriptor, why) in enumerate(planted, 1):
        lines = [line for line in log.split("\n") if "\"extent-%016x\"" % (first + number) in line]
        assert len(lines) == 1 and "is not taken up" in lines[0] and why in lines[0], (why, lines)
        os.close(descriptor)
    assert log.count("that is no extent's name") == 6, log
    # Only what is good is left, and works.
    daemon.until(lambda: list(daemon.kept) == good)
    holds(daemon, one, two)
    assert share(daemon)["extents"] == 1 and [found["domain"] for found in daemon.call("share")["domains"]] == ["d"]
    check(one, two)
    mapped.close()


@keeping()
def a_double_is_no_second_extent(daemon):
    one, two = pair(daemon, 10)
    extent = one.held[0][0]
    daemon.kill()
    double = memory("overbook-store:%016x:domain:d" % extent)
    # The right one comes second: the store is the planted one's then, and no agent takes it for its own.
    right = daemon.kept.pop("extent-%016x" % extent)
    daemon.kept.update({"extent-%016x" % extent: double})
    daemon.passed.append(right)
    names = ["overbookd.socket", "overbookd.socket", "extent-%016x" % extent]
    process = daemon_harness.activate([OVERBOOKD, "--socket-dir", daemon.dir], daemon.passed + [double],
                                      names=names + ["extent-%016x" % extent], stderr=daemon.log,
                                      env=dict(os.environ, NOTIFY_SOCKET=""))
    for agent in (one, two):
        agent.disconnect()
        agent.on = None
    daemon.process = process
    daemon.until_logged("there are two of them")
    come_back(daemon, one, two)
    holds(daemon, one, two)
    check(one, two)
    daemon.passed.remove(right)
    os.close(right)


@keeping()
def half_a_minute_later(daemon):
    """Everything that overbookd does only when nobody is awaited any more, in one test."""
    one, two = pair(daemon, 100)
    three, four = pair(daemon, 100, domain="e", names=("c", "e"))
    five, six = pair(daemon, 100, domain="f", names=("f", "g"))
    old = one.held[0][0]
    daemon.kill()
    five.die()
    six.die()  # of their extent nothing is held
    four.die()
    for agent in (one, two, three):
        agent.disconnect()
        agent.on = None
    three.set(0, content(77))
    daemon.start()
    come_back(daemon, one, two, three)
    holds(daemon, one, two, three)
    assert len(daemon.kept) == 3 and [found["domain"] for found in daemon.call("share")["domains"]].count("f") == 1
    # Most of the first domain's pages are written.
    for agent in (one, two):
        for page in range(60):
            agent.set(page, content(900 + page))
    # A machine that ends does not take with it what others of its domain may come back for.
    three.disconnect()
    extent_of_three = three.held[1][0]
    three.on = None
    daemon.until(lambda: daemon.state("c") == "lost")
    come_back(daemon, three)
    daemon.until(lambda: len(daemon.kept) == 2, AWAITED)
    assert "f" not in [found["domain"] for found in daemon.call("share")["domains"]]
    assert share(daemon, "e")["extents"] == 1 and not three.drained and extent_of_three not in three.dropped_extents
    # Less than half of it is of use: it is left for another one.
    daemon.until(lambda: one.drained == two.drained == {old})
    fetched = one.fetched + two.fetched
    for agent in (one, two):
        agent.offer(*agent.held, kind=2)
    daemon.until(lambda: old not in daemon.call("share") and all(slot[0] != old for agent in (one, two) for slot in agent.held.values()))
    daemon.until(lambda: old in one.dropped_extents and old in two.dropped_extents)
    assert one.fetched + two.fetched == fetched + 40 and one.held == two.held
    holds(daemon, one, two, three)
    check(one, two, three)
    assert share(daemon, "d")["store_bytes"] == 40 * PAGE and share(daemon, "d")["restored_bytes"] == 0
    assert "extent-%016x" % old not in daemon.kept and len(daemon.kept) == 2
    # Who comes now finds that its extent has gone from here, and offers its pages as orphans.
    drop_all(daemon, one, two, three)
    assert not one.closed and not two.closed and not three.closed


@test
def killed_at_any_moment():
    """Agents that offer, touch and lose connections, and an overbookd that is killed again and again: no byte is ever another one, and in
    the end the counts agree and everything goes."""
    seed = int(os.environ.get("SEED", 0)) or random.randrange(1 << 32)
    print("# seed %d" % seed, flush=True)
    draw = random.Random(seed)
    daemon = Daemon(sockets=SOCKETS, keeps=4096)
    try:
        agents = [Sharer(daemon, name, domain="d") for name in "abc"]
        agents[2].keeps = False
        ready(daemon, *agents)
        for round_ in range(25):
            for agent in agents:
                for page in draw.sample(range(400), 60):
                    agent.set(page, content(1 + draw.randrange(300)))
                agent.offer(*draw.sample(sorted(agent.pages), min(len(agent.pages), 50)))
                moved = [page for page, slot in agent.held.items() if slot[0] in agent.foreign | agent.drained]
                if moved:
                    agent.offer(*moved, kind=2)
            for _ in range(draw.randrange(12)):
                daemon.serve(0)
                check(*agents)
            again(daemon, *agents, number=draw.choice((signal.SIGKILL, signal.SIGTERM)))
            for agent in agents:
                agent.questions = []
        # The last connection has told what is held.
        for agent in agents:
            agent.disconnect()
            agent.on = None
        daemon.until(lambda: all(daemon.state(agent.name) == "lost" for agent in agents))
        come_back(daemon, *agents)
        for agent in agents:
            daemon.until(lambda: row(daemon, agent.name)["held_pages"] == sum(slot[0] not in agent.foreign for slot in agent.held.values()))
        check(*agents)
        assert Counter(agent.closed for agent in agents) == {False: 3}
        print("# %d extents are kept, %d pages held, %d of orphans" % (
            len(daemon.kept), sum(len(agent.held) for agent in agents),
            sum(slot[0] in agent.foreign for agent in agents for slot in agent.held.values())), flush=True)
        for agent in agents:
            agent.die()
        daemon.until(lambda: not daemon.kept, AWAITED)
    except BaseException:
        sys.stderr.write(daemon.logged()[-4000:])
        daemon.abandon()
        raise
    daemon.stop()


if __name__ == "__main__":
    sys.exit(main(None))
