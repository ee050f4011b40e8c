#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with a host that the test plays, and with applications: the example of liboverbook-app, and such as the test plays.
test_guest.py OVERBOOK-GUEST EXAMPLE-CACHE. Prints TAP."""
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True

from guest_frames import APP, FINAL, HELLO, TARGET, WELCOME, app_payload, frame
from guest_harness import MIB, Client, main, with_guest

GUEST, CACHE = (os.path.abspath(path) for path in sys.argv[1:3])


def resident(pid):
    with open("/proc/%d/statm" % pid) as statm:
        return int(statm.read().split()[1]) * 4096


def start_cache(guest, mib=96, floor=32, *words):
    cache = guest.run(CACHE, str(mib), str(floor), *map(str, words), stdout=subprocess.PIPE, text=True)
    guest.until(lambda: guest.app("cache") and guest.app("cache")["used"] == mib * MIB, what="the cache")
    return cache


def end_cache(cache):
    cache.terminate()
    text = cache.communicate(timeout=20)[0]
    assert cache.returncode == 0 and "all of it was as it should be" in text, text
    return text


@with_guest(GUEST)
def hello_is_said_until_it_is_answered(guest):
    guest.answering = False
    guest.until(lambda: guest.hellos >= 2)
    assert guest.memory is None
    guest.answering = True
    guest.until(lambda: guest.memories >= 3)
    with open("/proc/meminfo") as file:
        meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    assert guest.memory["total"] == meminfo["MemTotal"] and guest.memory["swap"] == meminfo["SwapTotal"], guest.memory
    assert abs(guest.memory["available"] - meminfo["MemAvailable"]) < 512 * MIB, (guest.memory, meminfo)
    assert guest.memory["flags"] == os.path.exists("/proc/pressure/memory"), guest.memory
    # To nobody in particular: it says who it is again.
    hellos = guest.hellos
    guest.say(WELCOME, struct.pack("<I", 200), session=0)
    guest.until(lambda: guest.hellos == hellos + 1)
    # As often as it is asked to, and no more.
    guest.interval = 5000
    guest.say(WELCOME, struct.pack("<I", 5000))
    guest.pass_time(0.5)
    memories = guest.memories
    guest.pass_time(2)
    assert guest.memories <= memories + 1


@with_guest(GUEST)
def an_application_gives_what_it_is_asked_for_and_gets_it_back(guest):
    cache = start_cache(guest)
    found = guest.app("cache")
    assert found["could"] == 64 * MIB and found["pain"] == 10 and found["kind"] == 1 and found["target"] == found["given"] == 0, found
    before = resident(cache.pid)
    number = guest.target("cache", 40 * MIB)
    guest.until(lambda: guest.app("cache")["given"] == 40 * MIB)
    found = guest.app("cache")
    assert found["answers"] == number and found["target"] == 40 * MIB and resident(cache.pid) <= before - 38 * MIB, found
    # More than it has offered is not asked of it.
    guest.target("cache", 1 << 40)
    guest.until(lambda: guest.app("cache")["given"] == 64 * MIB)
    guest.target("cache", 10 * MIB)
    guest.until(lambda: guest.app("cache")["given"] == guest.app("cache")["target"] == 10 * MIB)
    number = guest.target("cache", 0)
    guest.until(lambda: guest.app("cache")["answers"] == number and guest.app("cache")["given"] == 0 and guest.app("cache")["used"] == 96 * MIB)
    text = end_cache(cache)
    assert "asked to give 40 MiB within 10000 ms" in text, text
    guest.until(lambda: not guest.apps)


@with_guest(GUEST)
def partial_compliance_is_told_as_it_is(guest):
    cache = start_cache(guest, 96, 32, 0, 50)
    number = guest.target("cache", 40 * MIB)
    guest.until(lambda: guest.app("cache")["flags"] & FINAL and guest.app("cache")["answers"] == number)
    assert guest.app("cache")["given"] == 20 * MIB, guest.app("cache")
    end_cache(cache)
    guest.until(lambda: not guest.apps)
    slow = start_cache(guest, 96, 32, 20)
    guest.target("cache", 40 * MIB)
    guest.until(lambda: 0 < guest.app("cache")["given"] < 40 * MIB)
    guest.until(lambda: guest.app("cache")["given"] == 40 * MIB)
    end_cache(slow)


@with_guest(GUEST)
def what_was_not_given_does_not_count(guest):
    guest.until(lambda: guest.memory)
    client = Client(guest)
    client.say("liar", could=64 * MIB, used=1 << 40)
    guest.until(lambda: guest.app("liar"))
    # What it has not got it cannot give.
    assert guest.app("liar")["could"] <= resident(os.getpid()) + 8 * MIB, guest.app("liar")
    number = guest.target("liar", 16 * MIB)
    guest.until(lambda: client.hear() and client.targets)
    client.say("liar", could=64 * MIB, given=16 * MIB, answers=number)
    guest.until(lambda: guest.app("liar")["answers"] == number)
    assert guest.app("liar")["given"] < 4 * MIB, guest.app("liar")
    client.close()
    guest.until(lambda: not guest.apps)


@with_guest(GUEST)
def what_the_host_has_is_not_there_to_be_taken_back(guest):
    guest.until(lambda: guest.memory)
    block = mmap.mmap(-1, 64 * MIB)
    for at in range(0, len(block), 4096):
        block[at] = 1
    client = Client(guest)
    client.say("played", could=64 * MIB, used=64 * MIB)
    guest.until(lambda: guest.app("played"))
    number = guest.target("played", 32 * MIB)
    guest.until(lambda: client.hear() and client.targets)
    block.madvise(mmap.MADV_DONTNEED, 0, 32 * MIB)
    client.say("played", could=64 * MIB, used=32 * MIB, given=32 * MIB, answers=number)
    guest.until(lambda: guest.app("played")["given"] == 32 * MIB)
    # It offers less now than the host has of it: told is what the host says.
    client.say("played", could=8 * MIB, used=32 * MIB, given=32 * MIB, answers=number)
    guest.until(lambda: guest.app("played")["could"] == 8 * MIB)
    guest.target("played", 24 * MIB)
    guest.until(lambda: client.hear() and len(client.targets) == 2)
    assert client.targets[1]["give"] == 24 * MIB, client.targets
    guest.target("played", 48 * MIB)
    guest.until(lambda: client.hear() and len(client.targets) == 3)
    assert client.targets[2]["give"] == 32 * MIB, client.targets
    client.close()
    guest.until(lambda: not guest.apps)


@with_guest(GUEST)
def an_overbook_guest_that_dies_is_not_noticed_by_applications(guest):
    cache = start_cache(guest)
    for number in signal.SIGKILL, signal.SIGTERM:
        guest.target("cache", 40 * MIB)
        guest.until(lambda: guest.app("cache")["given"] == 40 * MIB)
        guest.end(number)
        session = guest.session
        guest.start()
        guest.until(lambda: guest.session != session and guest.app("cache"), what="another session")
        found = guest.app("cache")
        assert found["target"] == found["given"] == 40 * MIB and found["answers"] > 0, found
    # In the middle of a gift.
    guest.target("cache", 0)
    guest.until(lambda: guest.app("cache")["given"] == 0)
    end_cache(cache)
    guest.until(lambda: not guest.apps)
    slow = start_cache(guest, 96, 32, 20)
    guest.target("cache", 40 * MIB)
    guest.until(lambda: 0 < guest.app("cache")["given"] < 30 * MIB)
    guest.end()
    session = guest.session
    guest.start()
    guest.until(lambda: guest.session != session and guest.app("cache") and guest.app("cache")["given"] == 40 * MIB)
    guest.target("cache", 0)
    guest.until(lambda: guest.app("cache")["given"] == 0 and guest.app("cache")["used"] == 96 * MIB)
    end_cache(slow)


@with_guest(GUEST)
def a_host_that_goes_and_comes(guest):
    cache = start_cache(guest)
    guest.target("cache", 40 * MIB)
    guest.until(lambda: guest.app("cache")["given"] == 40 * MIB)
    for _ in range(3):
        guest.hang_up()
        guest.apps, hellos = {}, guest.hellos
        guest.until(lambda: guest.hellos > hellos and guest.app("cache"))
        assert guest.app("cache")["given"] == guest.app("cache")["target"] == 40 * MIB
    # What was meant for another one is not obeyed.
    number = next(iter(guest.apps))
    guest.say(TARGET, struct.pack("<IIQ", number, 1, 0), session=guest.session ^ 1, sequence=99)
    guest.say(TARGET, struct.pack("<IIQ", number, 1, 0), session=0, sequence=98)
    guest.pass_time(1)
    assert guest.app("cache")["target"] == 40 * MIB
    end_cache(cache)


@with_guest(GUEST)
def a_hostile_host(guest):
    cache = start_cache(guest)
    draw = random.Random(2)
    number = next(iter(guest.apps))
    for _ in range(200):
        guest.say_raw(draw.randbytes(draw.randrange(300)))
        guest.serve(0)
    guest.say_raw(bytes(128))
    guest.say(HELLO, b"host")
    guest.say(APP, app_payload("host"))
    guest.say(TARGET, b"\xff" * 16)
    guest.say(99, b"\xff" * 108)
    guest.say(TARGET, struct.pack("<IIQ", 77, 1, 1))
    # A flood of targets: obeyed by the last of them, in its own time.
    for give in range(300):
        guest.say(TARGET, struct.pack("<IIQ", number, 1000, give % 64 * MIB), sequence=give + 1)
        guest.serve(0)
    guest.number = 300
    guest.pass_time(1)
    guest.target(number, 24 * MIB)
    guest.until(lambda: guest.app("cache") and guest.app("cache")["given"] == guest.app("cache")["target"] == 24 * MIB, 40)
    text = end_cache(cache)
    assert text.count("asked") < 80, text.count("asked")


@with_guest(GUEST)
def hostile_applications(guest):
    guest.until(lambda: guest.memory)
    draw = random.Random(3)
    for data in b"x", bytes(128), frame(TARGET, bytes(16)), frame(HELLO, b"x"), frame(APP, app_payload("../x")), draw.randbytes(128), draw.randbytes(4096):
        client = Client(guest)
        client.sock.send(data)
        guest.until(lambda: not client.hear(), what="an end")
        client.close()
    # Of a newer version: passed over, until its time to say who it is is over.
    client = Client(guest)
    client.sock.send(frame(APP, version=2))
    guest.pass_time(1)
    assert client.hear() and not guest.apps
    guest.until(lambda: not client.hear(), what="an end")
    # More than there is room for.
    clients = [Client(guest) for _ in range(24)]
    for number, client in enumerate(clients):
        client.say("app%d" % number, could=MIB)
        guest.serve(0)
    guest.until(lambda: len(guest.apps) == 16)
    guest.until(lambda: sum(client.hear() for client in clients) == 16)
    # A flood, while others are served.
    flood = next(client for client in clients if client.hear())
    end, said = time.monotonic() + 3, 0
    with open("/proc/%d/stat" % guest.process.pid) as stat:
        before = sum(map(int, stat.read().split()[13:15]))
    while time.monotonic() < end:
        try:
            flood.say("app0", could=said % 1000 * 4096)
            said += 1
        except BlockingIOError:
            guest.serve()
        guest.serve(0)
    with open("/proc/%d/stat" % guest.process.pid) as stat:
        used = (sum(map(int, stat.read().split()[13:15])) - before) / os.sysconf("SC_CLK_TCK")
    assert used < 1.5, used
    for client in clients:
        client.close()
    guest.until(lambda: not guest.apps, 40)
    cache = start_cache(guest)
    end_cache(cache)


def others_have_a_few_each(guest):
    guest.until(lambda: guest.memory)
    answer, child = socket.socketpair()

    def be(uid):
        """A process of that user's, which has six applications until it is told to end, and says how many are heard."""
        pid = os.fork()
        if pid:
            return pid
        os.setuid(uid)
        clients = [Client(guest) for _ in range(6)]
        for number, client in enumerate(clients):
            try:
                client.say("app%d" % number)
            except BrokenPipeError:
                pass
        time.sleep(1)
        child.send(bytes([sum(client.hear() for client in clients)]))
        child.recv(1)
        os._exit(0)
    pids = []
    for uid, heard, in_all in (65534, 4, 4), (65533, 4, 8), (65532, 0, 8):
        pids.append(be(uid))
        guest.until(lambda: len(guest.apps) == in_all)
        guest.pass_time(1.5)
        assert answer.recv(1) == bytes([heard]) and len(guest.apps) == in_all, guest.apps
    # There is room for root's.
    cache = start_cache(guest)
    end_cache(cache)
    answer.send(b"xxx")
    for pid in pids:
        os.waitpid(pid, 0)
    guest.until(lambda: not guest.apps)


if os.geteuid():
    others_have_a_few_each.skip = "needs root, to be another user"
with_guest(GUEST)(others_have_a_few_each)


@with_guest(GUEST)
def there_is_one(guest):
    guest.until(lambda: guest.memory)
    other = subprocess.run([GUEST, "--socket", guest.socket], capture_output=True, text=True, timeout=20)
    assert other.returncode == 1 and "another overbook-guest runs in" in other.stderr, other
    for words, wrong in (["--nonesuch"], "is not known"), (["--socket", "x"], "is not an absolute path"), (["word"], "is not an option"), (["--port"], "lacks its value"):
        other = subprocess.run([GUEST, *words], capture_output=True, text=True, timeout=20)
        assert other.returncode in (1, 2) and wrong in other.stderr and other.stderr.count("\n") == 1, other


sys.exit(main())
