# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays machines with balloons, and guests that give and take memory as they are told, for a real overbookd (daemon_harness.py)."""
import struct
import time

from daemon_harness import BALLOON, BALLOON_SET, FIELDS, MIB, Agent, ceiling, message

DEFAULT, OFF, FIXED, AUTO = range(4)
LOOKED, DEVICE, STATUS, DRIVER, REPORTS, STATISTICS, OFFERED = (1 << i for i in range(7))
WELL = LOOKED | DEVICE | STATUS | DRIVER | REPORTS | STATISTICS | OFFERED
GIB = 1024 * MIB


class Machine(Agent):
    """Its guest uses `use`, keeps `caches` if it may, and gives `speed` a second to the balloon. The engine evicts what is above the limit."""

    def __init__(self, daemon, name, ram=GIB, use=200 * MIB, caches=0, speed=GIB, mode=DEFAULT, size=0, says=True, flags=WELL, **options):
        self.use, self.caches, self.speed, self.mode, self.size, self.says, self.shown = use, caches, speed, mode, size, says, flags
        self.is_busy = False  # QEMU does not answer its monitor
        self.told, self.target, self.held, self.updates, self.known, self.numbers = [], 0, 0.0, 0, 127, {}
        self.at = time.monotonic()
        super().__init__(daemon, name, ram=ram, **options)

    def hello(self, **other):
        super().hello(**other)
        if self.says:
            self.send(message(BALLOON_SET, struct.pack("<IIQQ", self.mode, 0, self.size, self.target)))

    def obey(self, kind, sequence, payload):
        if kind != BALLOON:
            super().obey(kind, sequence, payload)
            return
        self.mode, flags, self.size, target, look, zero = struct.unpack("<IIQQII", payload)
        assert zero == 0 and self.says
        self.told.append((self.mode, flags, self.size, target, look))

    def take_order(self):
        """As the agent does at each look."""
        if self.told and self.told[-1][1] & 1 and not self.is_busy:
            self.target = self.told[-1][3]

    def report(self):
        elapsed, self.at = time.monotonic() - self.at, time.monotonic()
        self.take_order()
        if self.shown & DRIVER:
            way = self.speed * elapsed
            self.held = min(self.target, self.held + way) if self.held < self.target else max(self.target, self.held - way)
        held = int(self.held)
        self.updates += 1
        touched = min(self.use + self.caches, self.ram - held)
        self.cost = min(touched, self.limit or ceiling(self.ram))
        available = max(0, self.ram - held - self.use)
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit, cost_bytes=self.cost, swapped_bytes=touched - self.cost,
                      ballooned_bytes=held, absent_bytes=self.ram - held - touched, balloon_flags=self.shown, balloon_bytes=held,
                      balloon_target_bytes=self.target, machine_bytes=self.ram, guest_updates=self.updates, guest_known=self.known,
                      guest_total_bytes=self.ram - held, guest_free_bytes=max(0, available - self.caches),
                      guest_available_bytes=available, guest_caches_bytes=min(self.caches, available))
        fields.update(self.numbers)
        values = [fields.get(name, 0) % 2 ** 64 for name in FIELDS]
        self.say_statistics(values)
