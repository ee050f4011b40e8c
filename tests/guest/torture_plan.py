# SPDX-License-Identifier: GPL-2.0-or-later
"""What the torture does, drawn from a seed: machines, and what happens to each of them, one after the other.

A slot is a place for one machine at a time. operations(seed, slot) is its endless list: a start, things that are done to
the machine, an end, and the next start. daemon_operations(seed) is the same for overbookd. Nothing here looks at the
clock or at a machine, so a seed gives the same lists on every host; what a machine can be asked for at a point follows
from a Life, the model of it that is kept here.

Kinds are not thrown like dice but dealt like cards: a deck holds each kind as often as its weight says, and is dealt to
its end before the next one is shuffled, so that even a short run meets all kinds. A card that cannot be played goes back
for later.

An operation is a dict of JSON: "op", its kind, and what the executor (torture_ops.py, torture_host.py) has to know.
"""
import random

# MiB: what a guest's kernel and init need, and what must stay free so that nothing in it is ever short of memory.
GUEST_BASE, GUEST_SPARE = 64, 28
IO_BUFFER = 8      # of each of the witness's threads
DIMM = 128         # the least that Linux takes on x86
DISK = 160
DEVICES = ("virtio-blk-pci", "virtio-net-pci", "virtio-scsi-pci", "virtio-serial-pci", "virtio-rng-pci")
SLOTS = {"pc": ["0x1a", "0x1b"], "q35": ["port0", "port1"]}

# Each kind as often as it lies in the deck of what happens to a machine while it runs.
WEIGHTS = {
    "progress": 4, "check": 3, "touch": 2, "free": 3, "grow": 1, "limit": 6, "release": 2, "balloon": 3,
    "pause": 2, "freeze": 2, "savevm": 3, "loadvm": 3, "migrate": 3, "migrate-through-plain": 1, "migrate-fails": 1,
    "dump": 1, "plug-memory": 1, "plug-device": 2, "unplug-device": 2, "reset": 1, "reboot": 1,
}
ENDS = {"kill": 3, "quit": 2, "terminate": 1, "power-off": 2}
# What breaks inside the agent while the machine must not notice (base/fault.h). "stops" marks those that stop the machine
# until a read succeeds, "errors" those that count as answers which the kernel should not give, "never" what is not drawn.
FAULTS = {
    "busy": dict(rules="uffd_move:/101:EBUSY"),
    "again": dict(rules="uffd_move:/97:EAGAIN,uffd_copy:/89:EAGAIN,uffd_zeropage:/83:EAGAIN,madvise:/11:EAGAIN"),
    "short-of-memory": dict(rules="pool_alloc:/5:ENOMEM,uffd_copy:/211:ENOMEM"),
    "full-store": dict(rules="swap_write:60-90:ENOSPC,swap_grow:/3:ENOSPC"),
    "failing-store": dict(rules="swap_write:/29:EIO,swap_write:/13:short"),
    "slow-store": dict(rules="swap_write:/17:slow,swap_read:/41:slow"),
    "slow-kernel": dict(rules="uffd_move:/997:slow,uffd_copy:/499:slow,uffd_zeropage:/499:slow"),
    "deaf-link": dict(rules="link_send:/40:EAGAIN,link_connect:/2:EPERM"),
    "blind-scan": dict(rules="pagemap_scan:/29:ENOMEM", errors=True),
    "unreadable": dict(rules="swap_read:400-403:EIO", stops=True),
    "flipped": dict(rules="page_return:/200:flip", never=True),
}
LOADS = (  # in percent of what the guest can spare; direct is on disk
    dict(anon=75), dict(anon=45, tmpfs=25, direct=16), dict(anon=20, cache=60, fork=5), dict(anon=25, tmpfs=25, cache=25, net=1),
    dict(anon=40, fork=10, tmpfs=10, direct=24), dict(cache=50, direct=32, anon=30),
)
BLOCK = ("cache=none,aio=threads", "cache=writeback,aio=threads", "cache=none,aio=native", "cache=none,aio=io_uring",
         "cache=writeback,aio=io_uring")


class Life:
    """What is known of a machine from what was done to it."""

    def __init__(self, spec):
        self.spec = spec
        self.plain_used = spec["used"]
        self.used, self.grown, self.ballooned = spec["used"], False, 0
        self.dimms, self.devices, self.saved = 0, {}, {}

    def free(self):
        """MiB that the guest can do without."""
        return self.spec["memory"] + DIMM * self.dimms - GUEST_BASE - GUEST_SPARE - self.used - self.ballooned

    def booted(self):
        """The witness begins anew; the balloon has been emptied before."""
        self.used, self.grown, self.ballooned = self.plain_used, False, 0

    def changed(self):
        """Other devices: a snapshot of before cannot be loaded any more."""
        self.saved.clear()


def deal(draw, weights, deck, playable):
    """The next card of the deck that can be played; a new deck when there is none."""
    for _ in range(2):
        for i, kind in enumerate(deck):
            if playable(kind):
                return deck.pop(i)
        fresh = [kind for kind, weight in weights.items() for _ in range(weight)]
        draw.shuffle(fresh)
        deck += fresh
    raise AssertionError("no operation can be played")


def draw_load(draw, memory, processors):
    spare = memory - GUEST_BASE - GUEST_SPARE - IO_BUFFER * processors
    load = {key: part if key in ("net", "direct") else max(4, spare * part // 100) for key, part in draw.choice(LOADS).items()}
    used = IO_BUFFER * processors + load.get("anon", 0) + 2 * load.get("fork", 0) + load.get("tmpfs", 0) + load.get("cache", 0)
    load |= dict(random=draw.choice((20, 60, 90)), zero=draw.choice((0, 5, 20)), rate=draw.choice((2000, 10000, "max")),
                 hot=draw.choice((5, 20, 50)), scatter=draw.randrange(2), drift=draw.choice((0, 7)),
                 sequential=draw.choice((0, 10, 50)), threads=processors)
    load["random"] = min(load["random"], 100 - load["zero"])
    return load, used


def draw_machine(draw, index):
    memory, processors = draw.choice((160, 192, 256, 320)), draw.choice((1, 1, 2))
    load, used = draw_load(draw, memory, processors)
    load["seed"] = draw.randrange(1, 1 << 30)
    machine = draw.choice(("pc", "q35"))
    swap = draw.random() < 0.9
    limit = draw.choice((0, 35, 50, 65, 80))
    spec = dict(index=index, memory=memory, processors=processors, machine=machine, load=load, used=used,
                disk=draw.choice(("raw", "qcow2", "qcow2", "qcow2")), block=draw.choice(BLOCK), swap=swap,
                # What does not compress has nowhere to go without a store.
                limit=max(48, memory * limit // 100) if limit and swap else 0,
                shares=draw.choice((300, 1000, 3000)), reservation=draw.choice((0, 0, 24)),
                reporting=draw.choice(("ours", "ours", "off")), daemonize=draw.random() < 0.2,
                agent=draw.choice(("new", "new", "old")), fault=None)
    faults = sorted(fault for fault in FAULTS if not FAULTS[fault].get("never"))
    fault = draw.choice([None] * len(faults) + faults)
    # An older agent may know fewer fault points; it is tried without. A daemon's words are lost, by which one that was stopped is known.
    if fault and spec["agent"] == "new" and swap and not (spec["daemonize"] and FAULTS[fault].get("stops")):
        spec["fault"] = fault
    return spec


def playable(life, kind):
    spec = life.spec
    return {
        "limit": spec["swap"], "savevm": spec["disk"] == "qcow2" and len(life.saved) < 3, "loadvm": bool(life.saved),
        "balloon": life.ballooned or life.free() >= 16, "grow": not life.grown and life.free() >= 16,
        "plug-memory": life.dimms < 1, "plug-device": len(life.devices) < 2, "unplug-device": bool(life.devices),
    }.get(kind, True)


def draw_balloon(draw, life):
    """MiB in the balloon from now on."""
    room = life.free() + life.ballooned
    return 0 if life.ballooned and draw.random() < 0.5 else draw.randrange(8, max(9, room + 1))


def draw_details(draw, life, kind):
    if kind == "progress":
        return dict(pages=draw.choice((500, 2000, 6000)))
    if kind == "free":
        return dict(percent=draw.choice((10, 40, 90)))
    if kind == "limit":
        memory = life.spec["memory"]
        return dict(mib=draw.choice((0, *(max(48, memory * part // 100) for part in (30, 40, 55, 70, 90)))))
    if kind == "balloon":
        return dict(mib=draw_balloon(draw, life))
    if kind == "grow":
        return dict(mib=draw.randrange(8, life.free() - 7))
    if kind == "savevm":
        return dict(tag=f"s{draw.randrange(1 << 20):x}")
    if kind == "loadvm":
        return dict(tag=draw.choice(sorted(life.saved)))
    if kind in ("migrate", "migrate-through-plain"):
        return dict(to=draw.choice(("new", "old")))
    if kind == "migrate-fails":
        return dict(after=draw.choice((0, 100_000, 20_000_000)))
    if kind == "plug-device":
        free = [place for place in SLOTS[life.spec["machine"]] if place not in life.devices]
        return dict(driver=draw.choice(DEVICES), place=draw.choice(free))
    if kind == "unplug-device":
        return dict(place=draw.choice(sorted(life.devices)))
    return {}


def play(life, op):
    """What is known after an operation."""
    kind = op["op"]
    if kind == "balloon":
        life.ballooned = op["mib"]
    elif kind == "grow":
        life.used, life.grown = life.used + op["mib"], True
    elif kind == "savevm":
        life.saved[op["tag"]] = (life.used, life.grown, life.ballooned)
    elif kind == "loadvm":
        life.used, life.grown, life.ballooned = life.saved[op["tag"]]
    elif kind == "plug-memory":
        life.dimms += 1
        life.changed()
    elif kind == "plug-device":
        life.devices[op["place"]] = op["driver"]
        life.changed()
    elif kind == "unplug-device":
        del life.devices[op["place"]]
        life.changed()
    elif kind in ("reset", "reboot"):
        life.booted()


def operations(seed, slot):
    draw = random.Random(f"{seed}/{slot}")
    deck, ends = [], []
    index = 0
    while True:
        index += 1
        life = Life(draw_machine(draw, index))
        yield dict(op="start", machine=life.spec)
        for _ in range(draw.randrange(6, 18)):
            kind = deal(draw, WEIGHTS, deck, lambda kind: playable(life, kind))
            op = dict(op=kind, **draw_details(draw, life, kind))
            play(life, op)
            yield op
        yield dict(op=deal(draw, ENDS, ends, lambda kind: True))


# overbookd: killed and started again, ended in order, in the other version, with another budget, or stopped for a while.
# "absent" is for how many operations of machines it stays away (unless one of them cannot go on without it).
DAEMON_WEIGHTS = {"killed": 3, "ended": 1, "exchanged": 3, "budget": 2, "frozen": 2}


def draw_budget(draw, slots):
    return draw.choice((0, slots * draw.choice((144, 192, 256))))


def daemon_operations(seed, slots):
    draw = random.Random(f"{seed}/overbookd")
    deck = []
    version, budget = "new", draw_budget(draw, slots)
    yield dict(op="overbookd-first", version=version, budget=budget)
    while True:
        kind = deal(draw, DAEMON_WEIGHTS, deck, lambda kind: True)
        op = dict(op="overbookd-" + kind, after=draw.randrange(1, 5), absent=draw.choice((0, 0, 1, 3)))
        if kind == "exchanged":
            version = "old" if version == "new" else "new"
        if kind == "budget":
            budget = draw_budget(draw, slots)
        yield op | (dict(version=version, budget=budget) if kind != "frozen" else {})
