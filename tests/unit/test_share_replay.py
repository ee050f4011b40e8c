#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""share_record and share_replay of bench/share-index, on small files in place of guests' memory: what is recorded, and that what the
strategies find in it is what there is."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

RECORD, REPLAY = sys.argv[1:3]
PAGE, PAGES, MACHINES, PASSES = 4096, 300, 3, 8


class Memory:
    """Pages of a machine: numbers of contents, 0 is zeros."""

    def __init__(self, path, rng):
        self.path, self.rng = path, rng
        self.pages = [rng.randrange(80) for _ in range(PAGES)]

    def change(self, share):
        for i in range(PAGES):
            if self.rng.random() < share:
                self.pages[i] = self.rng.randrange(80)

    def write(self):
        mode = "r+b" if os.path.exists(self.path) else "wb"
        with open(self.path, mode) as f:
            f.write(b"".join(content(n) for n in self.pages))


def content(n):
    """Some compress, some do not, and they differ only in their second half."""
    if not n:
        return bytes(PAGE)
    tail = random.Random(n).randbytes(PAGE // 2) if n % 3 else struct.pack("<H", n) * (PAGE // 4)
    return b"\x55" * (PAGE // 2) + tail


def exact(memories, before):
    """Pages that could be saved: of all, and of those that have not changed."""
    seen, rested, result = set(), set(), [0, 0]
    for m, memory in enumerate(memories):
        for i, n in enumerate(memory.pages):
            if not n:
                continue
            result[0] += n in seen
            seen.add(n)
            if before and before[m][i] == n:
                result[1] += n in rested
                rested.add(n)
    return result


def record(directory, memories, counts):
    process = subprocess.Popen([RECORD, directory] + [m.path + (":" + counts if counts else "") for m in memories],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()

    expected, before = [], None
    for number in range(PASSES):
        for i, memory in enumerate(memories):
            if number:
                memory.change(0.2 if number < PASSES - 3 else 0)
            memory.write()
            assert tell(f"pass {i}").startswith("ok")
        expected.append(exact(memories, before))
        before = [list(m.pages) for m in memories]
        assert tell("end").startswith("ok")
    answer = tell("pass 7")
    process.stdin.close()
    assert not answer.startswith("ok") and process.wait() == 1, "an order that makes no sense is refused"
    process.stdout.close()
    return expected


def replay(directory, rounds, *words):
    done = subprocess.run([REPLAY, directory, str(rounds), *words], capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def the_exact_strategies_find_everything(directory, expected):
    words = ["ksm", "checksum", "hash", "hash,tracked=1", "hash,eager=1", "cmd-subpage,threshold=1", "cmd-address,ranges=3"]
    status, lines, error = replay(directory, 2, *words)
    assert status == 0, error
    assert lines[0]["machines"] == MACHINES and lines[0]["pages"] == PAGES * MACHINES and lines[0]["passes"] == PASSES
    assert lines[0]["exact"] == [e[0] for e in expected] and lines[0]["exact_rested"] == [e[1] for e in expected]
    assert [line["strategy"] for line in lines[1:]] == words + words[::-1], "the order turns round"
    for line in lines[1:]:
        assert all(saved <= there for saved, there in zip(line["saved"], lines[0]["exact"]))
        if line["strategy"] in words[:5]:
            assert line["saved"][-1] == lines[0]["exact"][-1], line
    assert lines[5]["saved"] == lines[0]["exact"], "eager"
    assert lines[3]["hashed_pages"] > lines[4]["hashed_pages"], "what was not written is not hashed again"
    for name in ("saved", "comparisons", "compared_bytes", "merged"):
        assert all(lines[1 + i][name] == lines[len(lines) - 1 - i][name] for i in range(len(words))), "a replay is the same each time"


def writes_make_classes(directory, counted):
    """Sampled, most pages that changed are of another class than the others. The counts that the test gives are all 0."""
    status, lines, error = replay(directory, 1, "cmd-subpage,threshold=1", "cmd-subpage,threshold=60000", "ksm")
    assert status == 0, error
    assert lines[1]["classes"] == 16
    assert (lines[1]["comparisons"] == lines[3]["comparisons"]) == counted
    assert lines[2]["saved"] == lines[3]["saved"] and lines[2]["comparisons"] == lines[3]["comparisons"], "nobody writes so often: one class"


def what_is_no_recording_is_refused(directory):
    with open(os.path.join(directory, "contents"), "r+b") as f:
        f.truncate(1000)
    assert replay(directory, 1, "ksm")[0] == 1
    with open(os.path.join(directory, "passes"), "r+b") as f:
        f.write(b"X")
    assert replay(directory, 1, "ksm")[0] == 1
    assert replay(directory, 1, "bogus")[0] == 1
    assert replay(directory, 0, "ksm")[0] == 2


def main():
    print("1..2")
    for number, counted in enumerate((False, True), 1):
        with tempfile.TemporaryDirectory(prefix="overbook-test.", dir=os.environ.get("OVERBOOK_TEST_DIR", "/var/tmp")) as place:
            rng = random.Random(number)
            memories = [Memory(os.path.join(place, f"ram{i}"), rng) for i in range(MACHINES)]
            for memory in memories:
                memory.write()
            counts = os.path.join(place, "counts")
            with open(counts, "wb") as f:
                f.truncate(PAGES * 8 * 4)
            expected = record(place, memories, counts if counted else None)
            the_exact_strategies_find_everything(place, expected)
            assert replay(place, 1, "ksm,bogus=1")[0] == 1
            writes_make_classes(place, counted)
            what_is_no_recording_is_refused(place)
        print(f"ok {number} - {'counted' if counted else 'sampled'} writes", flush=True)


if __name__ == "__main__":
    main()
