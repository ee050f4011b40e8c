# SPDX-License-Identifier: GPL-2.0-or-later
"""What the witness writes into a page: the same function as image/pattern.c, for tests that read guest memory from outside
of machines that have nothing in common with others, and what a disk image holds that they read (witness=image=)."""
import struct

PAGE = 4096
WORDS = PAGE // 8
MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
FACTOR = 0xD6E8FEB86659FD93
AREAS = {"anon": 0, "fork": 1, "tmpfs": 2, "cache": 3, "direct": 4, "grown": 5, "image": 6}
COMMON = 0x436F6D6D6F6E2121


def mix64(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def random_word(base, i):
    word = ((base + i * STEP) * FACTOR) & MASK
    return word ^ (word >> 29)


def page_content(area, page, version, seed=1, random_percent=60, zero_percent=5):
    """The 4096 bytes of a page of an area."""
    identity = (AREAS[area] + 1) << 40 | page
    base = mix64((mix64((seed * STEP + identity) & MASK) + (version + 1) * FACTOR) & MASK)
    draw = (base >> 20) % 100
    if not version or draw < zero_percent:
        return bytes(PAGE)
    patterned = draw >= zero_percent + random_percent
    words = (base if patterned and i % 16 >= 3 else random_word(base, i) for i in range(WORDS))
    return struct.pack(f"<{WORDS}Q", *words)


def write_image(path, mib, random_percent=60, zero_percent=5):
    """A disk image whose every byte the witness can check, if its random= and zero= are these."""
    with open(path, "wb") as file:
        for page in range(mib << 8):
            file.write(page_content("image", page, 1, COMMON, random_percent, zero_percent))
