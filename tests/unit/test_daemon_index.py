#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How overbookd finds equal pages, by classes too (--share-index): test_daemon_index.py OVERBOOKD. Prints TAP. share_harness.py plays the agents."""
import os
import sys

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import main, rewrite, with_daemon, with_settings
from share_harness import PAGE, Sharer, content, pair, ready, row, share

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])


def searches(daemon):
    found = share(daemon)
    return found["comparisons"], found["futile_comparisons"], found["lost_pairs"]


@with_daemon()
def without_a_choice_the_index_has_no_classes(daemon):
    one, two = Sharer(daemon, "a", domain="d"), Sharer(daemon, "b", domain="d")
    ready(daemon, one, two)
    assert one.subpages == 0
    one.pages = two.pages = {1: content(1)}
    one.offer(changed=1)
    two.offer(changed=4)
    daemon.until(lambda: len(one.held) == len(two.held) == 1)
    answer = daemon.call("share")
    assert answer["index"] == "hash" and share(daemon)["index"] == "hash" and share(daemon)["subpages"] == 0, answer
    assert searches(daemon) == (1, 0, 0), searches(daemon)


@with_daemon("--share-index", "cmd-subpage")
def pages_of_one_class_meet_and_others_do_not(daemon):
    one, two = Sharer(daemon, "a", domain="d"), Sharer(daemon, "b", domain="d")
    ready(daemon, one, two)
    assert one.subpages == two.subpages == 4
    assert daemon.call("share")["index"] == "cmd-subpage" and share(daemon)["index"] == "cmd-subpage" and share(daemon)["subpages"] == 4
    one.pages = {page: content(page) for page in range(1, 5)}
    two.pages = dict(one.pages)
    one.offer(1, 2, 3, changed=4)
    daemon.until(lambda: row(daemon, "a")["offers"] == 3)
    two.offer(1, 2, changed=0)
    two.offer(3, changed=4)
    daemon.until(lambda: 3 in one.held and 3 in two.held)
    assert not {1, 2} & (set(one.held) | set(two.held))
    assert share(daemon)["lost_pairs"] == 2 and searches(daemon)[0] >= 1, share(daemon)
    # It moves, and is one entry still.
    before = row(daemon, "a")["index_entries"]
    one.offer(1, changed=0)
    daemon.until(lambda: 1 in one.held and one.held[1] == two.held.get(1))
    assert row(daemon, "a")["index_entries"] == before - 1, row(daemon, "a")
    # The other way round: what was there waits for those that come to it.
    two.offer(2, changed=4)
    daemon.until(lambda: 2 in one.held and one.held[2] == two.held.get(2))
    # A slot stays in the class in which it was made: other pages do not find it, and two that find each other make a second one.
    one.pages[7], one.pages[8], two.pages[7] = content(3), content(3), content(3)
    one.offer(7, changed=0)
    daemon.until(lambda: row(daemon, "a")["offers"] == 5)
    assert 7 not in one.held and share(daemon)["lost_pairs"] == 3
    one.offer(8, changed=4)
    daemon.until(lambda: one.held.get(8) == one.held[3])
    two.offer(7, changed=0)
    daemon.until(lambda: 7 in one.held and one.held[7] == two.held.get(7))
    assert one.held[7] != one.held[3] and share(daemon)["slots_used_bytes"] == 4 * PAGE
    # Free slots are found in no class.
    for agent, page in ((one, 3), (one, 8), (two, 3)):
        agent.set(page, content(50 + page + 10 * (agent is two)))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 3 * PAGE)
    one.pages[9] = content(3)
    one.offer(9, changed=4)
    daemon.until(lambda: row(daemon, "a")["offers"] == 7)
    assert 9 not in one.held
    one.offer(9, changed=0)
    daemon.until(lambda: one.held.get(9) == one.held[7])


@with_daemon("--share-index", "cmd-subpage,subpages=8")
def futile_comparisons_are_counted(daemon):
    one = Sharer(daemon, "a", domain="d")
    ready(daemon, one)
    assert one.subpages == 8 and share(daemon)["subpages"] == 8
    one.pages = {page: content(page) for page in range(2000)}
    one.offer(changed=0x81)
    daemon.until(lambda: row(daemon, "a")["offers"] == 2000)
    comparisons, futile, lost = searches(daemon)
    assert comparisons == futile < 2000 and lost == 0, (comparisons, futile, lost)
    # Again: each meets at least itself, which is no equal.
    one.offer(changed=0x81)
    daemon.until(lambda: row(daemon, "a")["offers"] == 4000)
    again, futile, lost = searches(daemon)
    assert again == futile >= comparisons + 2000 and lost == 0, (again, futile, lost)
    # In another class there is nothing to compare with, and nothing but themselves elsewhere.
    one.offer(changed=0x10)
    daemon.until(lambda: row(daemon, "a")["offers"] == 6000)
    assert searches(daemon)[0] - again < 2000 and searches(daemon)[2] == 0, searches(daemon)
    assert row(daemon, "a")["index_entries"] == 2000


@with_settings("SHARE_INDEX=hash\n")
def another_index_takes_over(daemon, config):
    one, two = pair(daemon, 5)
    one.pages[6] = content(90)
    one.offer(6)
    daemon.until(lambda: row(daemon, "a")["index_entries"] == 1)
    rewrite(config, "SHARE_INDEX=\"cmd-subpage,subpages=2\"\n")
    daemon.reload()
    daemon.until(lambda: one.subpages == two.subpages == 2)
    assert share(daemon)["index"] == "cmd-subpage" and row(daemon, "a")["index_entries"] == 0
    # What is shared is known to it, as pages that nobody writes.
    two.pages[7], two.pages[8] = content(2), content(2)
    two.offer(7, changed=1)
    two.offer(8, changed=0)
    daemon.until(lambda: two.held.get(8) == two.held[1])
    assert 7 not in two.held and share(daemon)["lost_pairs"] == 1
    # Pages are offered again; there is room for them.
    one.offer(6)
    daemon.until(lambda: row(daemon, "a")["index_entries"] == 1)
    rewrite(config, "\n")
    daemon.reload()
    daemon.until(lambda: one.subpages == two.subpages == 0)
    assert daemon.call("share")["index"] == share(daemon)["index"] == "hash"
    two.offer(7, changed=1)
    daemon.until(lambda: two.held.get(7) == two.held[1])
    one.set(1, content(30))
    two.set(7, content(31))
    two.set(8, content(32))
    two.set(1, content(33))
    daemon.until(lambda: share(daemon)["slots_used_bytes"] == 4 * PAGE)
    rewrite(config, "SHARE_INDEX=tree\n")
    daemon.reload()
    daemon.until_logged("SHARE_INDEX \"tree\"")


if __name__ == "__main__":
    sys.exit(main(None))
