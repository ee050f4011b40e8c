# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a dump that dump-guest-memory wrote: an ELF core whose PT_LOAD segments tell guest physical addresses."""
import mmap
import struct

PAGE = 4096
PT_LOAD = 1


class ElfDump:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.data[:5] != b"\x7fELF\x02":
            raise ValueError(f"{path} is not an ELF file of 64 bits")
        offset, = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        self.segments = []  # (physical address, offset in the file, bytes)
        for i in range(count):
            kind, _, at, _, physical, length = struct.unpack_from("<IIQQQQ", self.data, offset + i * size)
            if kind == PT_LOAD and length:
                self.segments.append((physical, at, length))

    def close(self):
        self.data.close()

    def index(self):
        """Where pages lie: their first 64 bytes to their physical address, of pages that do not begin with zeros."""
        found = {}
        for physical, at, length in self.segments:
            for offset in range(0, length - PAGE + 1, PAGE):
                head = self.data[at + offset:at + offset + 64]
                if any(head):
                    found[head] = physical + offset
        return found

    def read(self, physical, length):
        for start, at, size in self.segments:
            if start <= physical and physical + length <= start + size:
                return self.data[at + physical - start:at + physical - start + length]
        raise KeyError(hex(physical))
