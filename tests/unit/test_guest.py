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

from guest_frames import APP, FINAL, FRAME, HELLO, TARGET, WELCOME, app_payload, frame
from guest_harness import MIB, Client, main, with_guest

GUEST, CACHE = (os.path.abspath(path) for path in sys.argv[1:3])


def resident(pid):
    with open("/proc/%d/statm" % pid) as statm:
        return int(statm.read().split()[1]) * 4096


def touched(size):
    block = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        block[at] = 1
    return block


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
    # As often as it is asked to, whatever another one is; it says HELLO when it has heard both.
    guest.interval = 1000
    guest.say(WELCOME, struct.pack("<I", 1000))
    guest.say(WELCOME, struct.pack("<I", 1000), session=0)
    guest.until(lambda: guest.hellos == hellos + 2)
    guest.say(WELCOME, struct.pack("<I", 100), session=guest.session ^ 1)
    # The first one comes at once, the second was due before.
    guest.later(2)
    began = time.monotonic()
    guest.later(1)
    assert time.monotonic() - began > 0.5, "it says MEMORY more often than it is asked to"


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
    client.say("liar", could=512 * MIB, given=16 * MIB, answers=number)
    guest.until(lambda: guest.app("liar")["answers"] == number)
    found = guest.app("liar")
    assert found["given"] < 4 * MIB and found["could"] < 200 * MIB, found
    # As soon as it has it, it could, without another word.
    block = touched(256 * MIB)
    guest.until(lambda: guest.app("liar")["could"] >= 256 * MIB)
    block.close()
    client.close()
    guest.until(lambda: not guest.apps)


@with_guest(GUEST)
def what_the_host_has_is_not_there_to_be_taken_back(guest):
    guest.until(lambda: guest.memory)
    block = touched(64 * MIB)
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
    guest.later()
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
    began = time.monotonic()
    for give in range(300):
        guest.say(TARGET, struct.pack("<IIQ", number, 1000, give % 64 * MIB), sequence=give + 1)
        guest.serve(0)
    guest.number = 300
    guest.target(number, 24 * MIB)
    guest.until(lambda: guest.app("cache") and guest.app("cache")["given"] == guest.app("cache")["target"] == 24 * MIB, 40)
    # One after the other, more than it is told a second.
    guest.say(WELCOME, struct.pack("<I", 100))
    paced, heard = time.monotonic(), set()
    for give in range(40):
        guest.target(number, give * MIB)
        guest.later(1)
        heard.add(guest.app("cache")["answers"])
    assert len(heard) <= 4 * (time.monotonic() - paced) + 2, heard
    elapsed = time.monotonic() - began
    text = end_cache(cache)
    assert text.count("asked") <= 4 * elapsed + 1, (text.count("asked"), elapsed)


def room_of_a_socket():
    """How many frames it takes that nobody reads."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    room = 0
    with ours, theirs:
        try:
            while True:
                ours.send(bytes(FRAME))
                room += 1
        except BlockingIOError:
            return room


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
    guest.later()
    assert client.hear() and not guest.apps
    guest.until(lambda: not client.hear(), what="an end")
    # More than there is room for.
    clients = [Client(guest) for _ in range(24)]
    for number, client in enumerate(clients):
        client.say("app%d" % number, could=MIB)
        guest.serve(0)
    guest.until(lambda: len(guest.apps) == 16)
    guest.until(lambda: sum(client.hear() for client in clients) == 16)
    # A flood, while others are served: what is above so many packets a second waits, as far as there is room.
    flood, room = next(client for client in clients if client.hear()), room_of_a_socket()
    began, said, memories = time.monotonic(), 0, guest.memories

    def is_over():
        nonlocal said
        try:
            while True:
                flood.say("app0", could=said % 1000 * 4096)
                said += 1
        except BlockingIOError:
            return guest.memories >= memories + 15
    guest.until(is_over)
    elapsed = time.monotonic() - began
    assert room < said <= room + 32 * (elapsed + 2), (said, room, elapsed)
    for client in clients:
        client.close()
    guest.until(lambda: not guest.apps, 40)
    cache = start_cache(guest)
    end_cache(cache)


def others_have_a_few_each(guest):
    guest.until(lambda: guest.memory)

    def be(uid):
        """A process of that user's, which has six applications until it is told to end, and says how many are heard when it is asked."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            return pid, ours
        ours.close()
        os.setuid(uid)
        clients = [Client(guest) for _ in range(6)]
        for number, client in enumerate(clients):
            try:
                client.say("app%d" % number)
            except BrokenPipeError:
                pass
        while theirs.recv(1) == b"?":
            theirs.send(bytes([sum(client.hear() for client in clients)]))
        os._exit(0)

    def heard(sock):
        sock.send(b"?")
        return sock.recv(1)[0]
    users = []
    for uid, own, in_all in (65534, 4, 4), (65533, 4, 8), (65532, 0, 8):
        users.append(be(uid))
        guest.until(lambda: len(guest.apps) == in_all and heard(users[-1][1]) == own)
        guest.later()
        assert heard(users[-1][1]) == own and len(guest.apps) == in_all, guest.apps
    # There is room for root's.
    cache = start_cache(guest)
    end_cache(cache)
    for pid, sock in users:
        sock.send(b".")
        sock.close()
        assert os.waitpid(pid, 0)[1] == 0
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
