# SPDX-License-Identifier: GPL-2.0-or-later
"""Agents that share, for test_daemon_share.py: they offer pages, give their bytes, adopt slots and drop them, all by the book unless a
test makes them lie. What they are sent is checked: no extent ever reaches two domains, and nothing of it can be written."""
import ctypes
import ctypes.util
import mmap
import os
import struct
from collections import Counter

from daemon_harness import (ADOPT, DRAIN, DROP_EXTENT, DROPPED, EXTENT, FETCH, FIELDS, HELD, HOLDS, KEPT, MAPS, MAY_MAP, OFFER, ORPHANS, SHARE,
                            STAGED, SUBPAGES, UNSHARE, WORN, Agent, hello, message)

PAGE, STAGING = 4096, 64
ESTALE, ENOENT = 116, 2


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


XXH = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
XXH.XXH3_128bits_withSecret.restype = Hash128
XXH.XXH3_128bits_withSecret.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


def page_hash(key, data):
    found = XXH.XXH3_128bits_withSecret(data, len(data), key, len(key))
    return found.low, found.high


def content(number):
    """A page of its own for each number."""
    return (struct.pack("<Q", number * 0x9E3779B97F4A7C15 % 2 ** 64) * (PAGE // 8))


def entries(kind, form, rows):
    rows = list(rows)
    return message(kind, struct.pack("<I", len(rows)) + b"".join(struct.pack(form, *row) for row in rows))


class Sharer(Agent):
    domains = {}  # extent -> the domain that it was sent to

    def __init__(self, daemon, name, domain="", maps=False, **options):
        self.domain, self.maps, self.may_map = domain, maps, False
        self.pages, self.held, self.lies = {}, {}, {}
        self.in_use = set()  # pages whose bytes cannot be had for the moment
        self.key, self.on, self.permille, self.staging = None, None, None, None
        self.subpages, self.next_subpages = None, 0
        self.extents, self.dropped_extents, self.unshare = {}, [], None
        self.answer_fetches = self.answer_adopts = True
        self.questions = []  # of FETCH, without an answer yet
        self.fetched, self.refused = 0, 0
        self.tells, self.told = True, False  # an agent that knows HOLDS; it has said them on this connection
        self.keeps = True  # an agent that knows KEPT and DRAIN
        self.named, self.all_named = set(), set()  # by KEPT, on this connection; ever
        self.foreign, self.drained = set(), set()  # extents of another overbookd's; those that DRAIN has named
        self.numbers = {}
        super().__init__(daemon, name, **options)

    def hello(self, **other):
        values = dict(limit=self.limit, maximum=self.maximum, reservation=self.reservation, shares=self.shares, flags=self.flags,
                      domain=self.domain)
        values.update(other)
        self.send(hello(self.name, values.pop("pid", self.pid), **values))
        self.told = False
        self.named = set()
        if self.maps:
            self.send(message(MAPS))

    def statistics(self):
        """All of them, in one message: overbookd may act between two."""
        fields = dict(zip(FIELDS, super().statistics()), shared_bytes=len(self.held) * PAGE)
        fields.update(self.numbers)
        return [fields.get(name, 0) for name in FIELDS]

    def obey_share(self, kind, sequence, payload):
        if kind == SHARE:
            flags, self.permille = struct.unpack("<II", payload[:8])
            self.on = bool(flags)
            self.subpages, self.next_subpages = self.next_subpages, 0
            if self.key != payload[8:]:
                self.foreign = set(self.extents) - self.named
            self.key = payload[8:]
            assert len(self.key) == 192
            if self.on:
                assert len(self.descriptors) == 1
                self.staging = mmap.mmap(self.descriptors[0], STAGING * PAGE)
            if self.tells and not self.told:
                self.tell_holds()
        elif kind == EXTENT:
            self.take_extent(*struct.unpack("<QII", payload))
        elif kind == FETCH:
            self.questions += struct.iter_unpack("<QQQII", payload[4:])
            if self.answer_fetches:
                self.answer_questions()
        elif kind == ADOPT:
            if self.answer_adopts:
                self.adopt(struct.iter_unpack("<QQII", payload[4:]))
        elif kind == SUBPAGES:
            self.next_subpages, = struct.unpack("<I", payload)
        elif kind == MAY_MAP:
            assert self.maps and not payload
            self.may_map = True
        elif kind == UNSHARE:
            self.unshare = sequence
        elif kind == KEPT:
            named = [extent for extent, in struct.iter_unpack("<Q", payload[4:])]
            assert len(named) == struct.unpack("<I", payload[:4])[0] and 0 not in named
            self.named |= set(named) if self.keeps else set()
            self.all_named |= set(named)
        elif kind == DRAIN:
            self.drained.add(struct.unpack("<Q", payload)[0])
        elif kind == DROP_EXTENT:
            extent, = struct.unpack("<Q", payload)
            assert extent in self.extents or extent in self.all_named
            assert extent in self.foreign or extent not in [slot[0] for slot in self.held.values()]
            if extent in self.foreign:
                return
            self.forget_extent(extent)
            self.dropped_extents.append(extent)

    def answer_questions(self):
        questions, self.questions = self.questions, []
        self.fetch(questions)

    def take_extent(self, extent, pages, zero):
        assert len(self.descriptors) == 1 and extent and pages == 4096
        known = Sharer.domains.setdefault(extent, (self.domain, "" if self.domain else self.name))
        assert known == (self.domain, "" if self.domain else self.name), "an extent of %s came to %s" % (known, self.name)
        self.foreign.discard(extent)
        self.forget_extent(extent)
        descriptor = os.dup(self.descriptors[0])
        self.extents[extent] = (descriptor, mmap.mmap(descriptor, pages * PAGE, prot=mmap.PROT_READ))

    def forget_extent(self, extent):
        if extent in self.extents:
            descriptor, memory = self.extents.pop(extent)
            memory.close()
            os.close(descriptor)

    def bytes_of(self, slot):
        return self.extents[slot[0]][1][slot[1] * PAGE:(slot[1] + 1) * PAGE]

    def fetch(self, wanted):
        answers = []
        for page, low, high, staging, _ in wanted:
            self.fetched += 1
            data = self.lies.get(page)
            if data is None and page in self.pages and page_hash(self.key, self.pages[page]) == (low, high):
                data = self.pages[page]
            if data is not None:
                self.staging[staging * PAGE:(staging + 1) * PAGE] = data
            status = -ENOENT if page in self.in_use else 0 if data is not None else -ESTALE
            answers.append((page, status, staging))
        self.send(entries(STAGED, "<QiI", answers))

    def adopt(self, wanted):
        answers, dropped = [], []
        for page, extent, index, _ in wanted:
            good = (extent in self.extents and extent not in self.foreign and page not in self.in_use and
                    self.pages.get(page) == self.bytes_of((extent, index)))
            self.refused += not good
            answers.append((page, extent, index, 0 if good else -ESTALE))
            if good and page in self.held:
                dropped.append(self.held[page])  # it has moved to another slot
            if good:
                self.held[page] = (extent, index)
        self.send(entries(HELD, "<QQIi", answers))
        self.tell_dropped(dropped)

    def tell_holds(self, end=True, size=512):
        counts = list(Counter(self.held.values()).items())
        for start in range(0, len(counts), size):
            self.send(entries(HOLDS, "<QII", [(extent, index, count) for (extent, index), count in counts[start:start + size]]))
        if end:
            self.send(entries(HOLDS, "<QII", []))
        self.told = True

    def tell_dropped(self, slots):
        slots = [slot for slot in slots if slot[0] in self.extents and slot[0] not in self.foreign]
        if slots:
            self.send(entries(DROPPED, "<QII", [(extent, index, 1) for extent, index in slots]))

    def set(self, page, data, was_mapped=False):
        """The guest writes: the page is the machine's own again."""
        if page in self.held:
            slot = self.held.pop(page)
            if self.sock and was_mapped:
                self.send(entries(WORN, "<QII", [(*slot, 1)]))
            if self.sock:
                self.tell_dropped([slot])
        self.pages[page] = data

    def offer(self, *pages, hash=None, changed=0, kind=0):
        """changed: sub-pages that have, a bit each; kind: 2: they lie in an extent that is to go."""
        pages = pages or list(self.pages)
        for start in range(0, len(pages), 512):
            self.send(entries(OFFER, "<QQQII", [(page, *(hash or page_hash(self.key, self.pages[page])), changed << 8 | kind, 0)
                                               for page in pages[start:start + 512]]))

    def orphans(self):
        """Extents of another overbookd, as an agent tells a new one of them."""
        counts = {}
        for extent, _ in self.held.values():
            counts[extent] = counts.get(extent, 0) + 1
        self.send(entries(ORPHANS, "<QII", [(extent, count, 0) for extent, count in counts.items()]))

    def die(self):
        super().die()
        for extent in list(self.extents):
            self.forget_extent(extent)
        self.held = {}
        if self.staging:
            self.staging.close()
            self.staging = None


def ready(daemon, *agents):
    daemon.until(lambda: all(agent.on for agent in agents))


def share(daemon, domain=None):
    """What `share` says of a domain: the first one, or the named one."""
    answer = daemon.call("share")
    for found in answer["domains"]:
        if domain is None or found["domain"] == domain:
            return found
    return None


def pair(daemon, pages=1, domain="d", names=("a", "b"), **options):
    """Two machines of a domain with the same pages, shared."""
    one, two = [Sharer(daemon, name, domain=domain, **options) for name in names]
    ready(daemon, one, two)
    for agent in (one, two):
        for page in range(pages):
            agent.pages[page] = content(page + 1)
    one.offer()
    daemon.until(lambda: row(daemon, names[0])["offers"] == pages)
    two.offer()
    daemon.until(lambda: len(one.held) == len(two.held) == pages)
    return one, two


def row(daemon, name):
    return daemon.call("share", name=name)["domains"][0]["machines"][0]


def a_page_anew(daemon, agents, page, number):
    """Equal bytes that the store does not have: the slot that they get."""
    for agent in agents:
        agent.set(page, content(number))
        agent.offer(page)
    daemon.until(lambda: all(page in agent.held for agent in agents))
    return agents[0].held[page]


def check(*agents):
    """Every slot that they hold has the bytes of their page."""
    for agent in agents:
        for page, slot in agent.held.items():
            assert agent.bytes_of(slot) == agent.pages[page], "page %d of %s is another one" % (page, agent.name)
