#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbook-guest with OpenJDK's virtual machine, which is started and stopped here, and with processes that only look like one.
test_guest_jvm.py OVERBOOK-GUEST. Prints TAP; what needs it is skipped where there is no JDK."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import guest_harness
from guest_harness import FINAL, MIB, Server, main, test

GUEST = os.path.abspath(sys.argv[1])
JAVA, JAVAC = shutil.which("java"), shutil.which("javac")
EPERM, EIO, EOPNOTSUPP = 1, 5, 95
LIMIT = 512 * MIB
ZGC, SHENANDOAH = ["-XX:+UseZGC", "-XX:ZUncommitDelay=1"], ["-XX:+UseShenandoahGC"]
USER = dict(user="nobody", group="nogroup", extra_groups=[]) if os.geteuid() == 0 else {}

# Keeps 40 MiB, and looks whether they are as they were, while it makes garbage: 5 MiB at a time until it is told to rest.
SOURCE = """
public class Holder {
    static byte[][] kept = new byte[640][];
    static volatile Object last;
    static void look() {
        for (int i = 0; i < kept.length; i++)
            for (byte b : kept[i])
                if (b != (byte) (i + 1)) { System.out.println("WRONG"); System.exit(1); }
    }
    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < kept.length; i++) { kept[i] = new byte[65536]; java.util.Arrays.fill(kept[i], (byte) (i + 1)); }
        System.out.println("ready");
        for (long turn = 0;; turn++) {
            for (int i = 0; i < 80; i++) { byte[] more = new byte[65536]; java.util.Arrays.fill(more, (byte) 7); last = more; }
            if (turn % 8 == 0) look();
            Thread.sleep(20);
        }
    }
}
"""


def java(function):
    if not JAVA or not JAVAC:
        function.skip = "there is no JDK: install openjdk-17-jdk-headless or a newer one"
    return function


class JVM(Server):
    def __init__(self, directory, *settings):
        self.settings, self.output = settings, directory + "/java.log"
        self.word = "-Dservice=" + os.path.basename(directory)
        with open(directory + "/Holder.java", "w") as file:
            file.write(SOURCE)
        subprocess.run([JAVAC, "-d", directory, directory + "/Holder.java"], check=True)
        self.command = [JAVA, self.word, "-Xms16m", f"-Xmx{LIMIT // MIB}m", *settings, "-cp", directory, "Holder"]
        self.start()

    def start(self):
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(["java", *self.command[1:]], executable=self.command[0], stdout=log, stderr=log, cwd="/", **USER)
        end = time.monotonic() + 60
        while "ready" not in self.logged():
            assert time.monotonic() < end and self.process.poll() is None, self.logged()
            time.sleep(0.05)

    def logged(self):
        with open(self.output) as log:
            return log.read()

    def limit(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("/tmp/.java_pid%d" % self.process.pid)
            sock.sendall(b"1\0printflag\0SoftMaxHeapSize\0\0\0")
            answer = b""
            while data := sock.recv(4096):
                answer += data
        return int(answer.split(b"=")[1])

    def end(self, number=signal.SIGKILL):
        assert "WRONG" not in self.logged(), self.logged()
        super().end(number)
        path = "/tmp/.java_pid%d" % self.process.pid
        if os.path.exists(path):
            os.unlink(path)


class World(guest_harness.World):
    def __init__(self, *settings, server=JVM, words="floor=32M", **options):
        super().__init__(GUEST, "jvm", server, *settings, words=words, **options)

    def config(self, *lines):
        super().config("discover off", lines[1].replace("socket=%s" % self.server.socket, "process=" + self.server.word))

    def wait_large(self):
        self.until(lambda: self.app and self.app["used"] > 300 * MIB, what="a large heap")


JVM.socket = "none"


@test
@java
def it_gives_and_gets_its_limit_back():
    for settings in ZGC, SHENANDOAH:
        with World(*settings) as world:
            server = world.server
            world.wait_large()
            assert world.app["kind"] == 6 and world.app["pain"] == 40 and world.app["target"] == 0 and world.app["status"] == 0, world.app
            # What is committed and was never touched is not there to be given.
            assert 200 * MIB < world.app["could"] <= world.app["used"] - 32 * MIB and server.limit() == LIMIT, world.app
            before, used = server.resident(), world.app["used"]
            number = world.guest.target("jvm", 150 * MIB)
            world.until(lambda: world.app["answers"] == number and world.app["given"] >= 120 * MIB)
            after, found = server.resident(), world.app
            print("# %s: %d of %d MiB given, resident %d MiB before and %d after" % (settings[0], found["given"] / MIB, used / MIB, before / MIB, after / MIB))
            assert before - after >= 90 * MIB, (before, after, found)
            assert server.limit() <= used - 130 * MIB, (server.limit(), used)
            number = world.guest.target("jvm", 0)
            world.until(lambda: world.app["answers"] == number and world.app["given"] == world.app["target"] == 0)
            assert server.limit() == LIMIT
            assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]
            assert "WRONG" not in server.logged() and "Full thread dump" not in server.logged()


@test
@java
def what_lives_is_left_to_it():
    with World(*SHENANDOAH, words="floor=1M") as world:
        world.wait_large()
        number = world.guest.target("jvm", world.app["could"])
        world.until(lambda: world.app["answers"] == number and world.app["given"] >= 150 * MIB)
        assert 40 * MIB < world.server.limit() < 200 * MIB and world.app["given"] < world.app["target"], (world.server.limit(), world.app)


@test
@java
def collectors_that_let_go_of_nothing():
    for settings in (["-XX:+UseG1GC"], ["-XX:+UseSerialGC"], ["-XX:+UseParallelGC"], ["-XX:+UseZGC"], ["-XX:+UseZGC", "-XX:-ZUncommit"]):
        with World(*settings) as world:
            world.until(lambda: world.app["status"])
            assert world.app["status"] == -EOPNOTSUPP and world.app["could"] == 0, world.app


@test
@java
def those_that_let_nobody_attach():
    for settings in (["-XX:+DisableAttachMechanism"], ["-XX:+DisableAttachMechanism", "-Xrs"]):
        with World(*SHENANDOAH, *settings) as world:
            world.until(lambda: world.app["status"])
            assert world.app["status"] == -EPERM and world.app["could"] == 0, world.app
            world.guest.pass_time(5)
            # It lives, and was asked once at most: this prints its threads.
            assert world.server.process.poll() is None and world.app["status"] == -EPERM
            assert world.server.logged().count("Full thread dump") == ("-Xrs" not in settings), world.server.logged()


@test
@java
def one_that_does_not_catch_signals():
    with World(*SHENANDOAH, "-Xrs") as world:
        world.wait_large()
        assert world.app["status"] == 0 and world.server.process.poll() is None, world.app


@test
@java
def one_that_dies_in_the_middle():
    with World(*SHENANDOAH) as world:
        world.wait_large()
        world.guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["target"] == 100 * MIB)
        world.server.end()
        world.until(lambda: not world.app, what="its end")
        world.server.start()
        world.wait_large()
        assert world.app["target"] == world.app["given"] == 0 and world.server.limit() == LIMIT, world.app


@test
@java
def one_that_hangs_in_the_middle():
    with World(*SHENANDOAH) as world:
        world.wait_large()
        world.server.process.send_signal(signal.SIGSTOP)
        world.guest.target("jvm", 100 * MIB)
        memories = world.guest.memories
        world.guest.pass_time(3)
        assert world.guest.memories >= memories + 10 and world.app["given"] == 0, world.app
        world.until(lambda: not world.app, 40, what="its end")
        world.server.process.send_signal(signal.SIGCONT)
        world.wait_large()
        world.guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["given"] > 70 * MIB)
        world.guest.target("jvm", 0)
        world.until(lambda: world.app["target"] == 0 and world.server.limit() == LIMIT)


@test
@java
def an_overbook_guest_that_dies_while_it_is_small():
    with World(*SHENANDOAH) as world:
        guest = world.guest
        world.wait_large()
        guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["given"] > 70 * MIB)
        guest.end()
        assert world.server.limit() < LIMIT
        session = guest.session
        guest.start()
        guest.until(lambda: guest.session != session and world.app and world.app["target"] == 100 * MIB, 30, "what was asked before")
        guest.target("jvm", 0)
        world.until(lambda: world.app["target"] == 0 and world.server.limit() == LIMIT)


class Other(Server):
    """No JVM, though it is called as one; SIGQUIT would end it."""
    socket = "none"

    def __init__(self, directory):
        self.word = "1000"
        self.process = subprocess.Popen(["java", self.word], executable=shutil.which("sleep"))


@test
def one_that_is_no_jvm_is_not_sent_anything():
    with World(server=Other) as world:
        world.until(lambda: world.app["status"])
        world.guest.pass_time(3)
        assert world.app["status"] == -EPERM and world.app["could"] == 0 and world.server.process.poll() is None, world.app
        assert "is no JVM" in world.guest.logged()


FAKE = r"""
import os, socket, sys
path = "/tmp/.java_pid%d" % os.getpid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
rules = eval(sys.argv[1])
print("ready", flush=True)
while True:
    sock, _ = listener.accept()
    asked = sock.recv(4096).split(b"\0")
    assert len(asked) == 6 and asked[0] == b"1" and asked[3:] == [b"", b"", b""], asked
    found = next((answer for word, answer in rules if word in asked[2]), b"0\n")
    try:
        sock.sendall(found)
    except OSError:
        pass
    sock.close()
"""
PLAUSIBLE = [(b"UseShenandoahGC", b"0\n-XX:+UseShenandoahGC\n"), (b"VM.set_flag", b"0\nCommand executed successfully\n"),
             (b"SoftMax", b"0\n-XX:SoftMaxHeapSize=%d\n" % LIMIT), (b"MinHeap", b"0\n-XX:MinHeapSize=%d\n" % (16 * MIB)),
             (b"heap_info", b"0\nShenandoah Heap\n 512M max, 512M soft max, 400M committed, 50M used\n"),
             (b"GC.run", b"0\nCommand executed successfully\n")]


class Fake(Server):
    socket = "none"

    def __init__(self, directory, rules):
        self.word = "fake-" + os.path.basename(directory)
        self.process = subprocess.Popen(["java", "-c", FAKE, repr(rules), self.word], executable=os.path.realpath(sys.executable), stdout=subprocess.PIPE,
                                        env=dict(os.environ, PYTHONHOME=sys.base_prefix))
        assert self.process.stdout.readline() == b"ready\n"

    def end(self):
        super().end()
        self.process.stdout.close()
        os.unlink("/tmp/.java_pid%d" % self.process.pid)


@test
def one_that_ignores_what_it_is_told():
    with World(server=Fake, rules=PLAUSIBLE) as world:
        world.until(lambda: world.app["used"] == 400 * MIB)
        number = world.guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EIO and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and "ignores what it is told" in world.guest.logged(), world.app


@test
def jvms_that_answer_anything():
    answers = [b"", b"x", b"\n", b"0", b"0\n", b"0\n\0", b"1\nno\x1b[31m\n", b"0\n-XX:SoftMaxHeapSize=-1\n", b"0\n" + b"9" * 50, b"0\n" + b"x" * 70000, b"99999999999999999999999\n",
               b"0\nShenandoah Heap\n committed used\n", b"0\nShenandoah\n 9999999999999G committed, 1M used\n", b"0\nused capacity used M, capacity "]
    for answer in answers:
        # Of all, or of the heap alone.
        for rules in [(b"", answer)], [(word, answer if word == b"heap_info" else said) for word, said in PLAUSIBLE]:
            world = World(server=Fake, rules=rules)
            world.guest.start()
            try:
                world.guest.until(lambda: world.guest.memories > 2)
                world.guest.pass_time(0.3)
                assert not world.app or world.app["could"] == 0, (answer, world.app)
                assert "\x1b" not in world.guest.logged()
            finally:
                world.__exit__(None)


sys.exit(main())
