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
from guest_frames import FINAL
from guest_harness import MIB, Server, main, needing, test

GUEST = os.path.abspath(sys.argv[1])
JAVA, JAVAC = shutil.which("java"), shutil.which("javac")
EPERM, EIO, EOPNOTSUPP = 1, 5, 95
LIMIT = 512 * MIB
ZGC, SHENANDOAH = ["-XX:+UseZGC", "-XX:ZUncommitDelay=1"], ["-XX:+UseShenandoahGC"]
ROOT = os.geteuid() == 0
USER = dict(user="nobody", group="nogroup", extra_groups=[]) if ROOT else {}
real = needing(None if JAVA and JAVAC else "there is no JDK: install openjdk-17-jdk-headless or a newer one")
as_root = needing(None if ROOT else "only root can be several users")

# Keeps 40 MiB, and looks whether they are as they were. Told a number, it holds so many MiB besides, of which it writes every byte, until it is told
# another one: so its heap is as large as that then, whatever its collector does. Told "busy", it makes garbage from then on.
SOURCE = """
public class Holder {
    static byte[][] kept = new byte[640][], held = {};
    static volatile boolean busy;
    static volatile Object last;
    static byte[] piece(int value) { byte[] found = new byte[65536]; java.util.Arrays.fill(found, (byte) value); return found; }
    static void look() throws Exception {
        for (int turn = 0;; turn++) {
            for (int i = 0; turn % 8 == 0 && i < kept.length; i++)
                for (byte b : kept[i])
                    if (b != (byte) (i + 1)) { System.out.println("WRONG"); System.exit(1); }
            for (int i = 0; busy && i < 80; i++) last = piece(7);
            Thread.sleep(20);
        }
    }
    public static void main(String[] arguments) throws Exception {
        java.io.BufferedReader in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        for (int i = 0; i < kept.length; i++) kept[i] = piece(i + 1);
        new Thread(() -> { try { look(); } catch (Exception e) { System.exit(1); } }).start();
        System.out.println("ready");
        for (String line; (line = in.readLine()) != null; System.out.println("done")) {
            busy |= line.equals("busy");
            if (busy) continue;
            held = new byte[0][];
            byte[][] next = new byte[Integer.parseInt(line) * 16][];
            for (int i = 0; i < next.length; i++) next[i] = piece(i);
            held = next;
        }
    }
}
"""


class JVM(Server):
    def __init__(self, directory, *settings):
        self.output, self.said = directory + "/java.log", 0
        self.word, self.other = "-Dservice=" + os.path.basename(directory), "-Dbesides=" + os.path.basename(directory)
        with open(directory + "/Holder.java", "w") as file:
            file.write(SOURCE)
        subprocess.run([JAVAC, "-d", directory, directory + "/Holder.java"], check=True)
        self.command = ["java", self.word, self.other, "-Xms16m", f"-Xmx{LIMIT // MIB}m", *settings, "-cp", directory, "Holder"]
        self.start()

    def start(self):
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(self.command, executable=JAVA, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/", **USER)
        self.said = 0
        self.wait_for("ready", 1)

    def wait_for(self, word, times):
        end = time.monotonic() + 60
        while self.logged().count(word) < times:
            assert time.monotonic() < end and self.process.poll() is None, self.logged()
            time.sleep(0.05)

    def tell(self, word):
        self.process.stdin.write(b"%s\n" % str(word).encode())
        self.process.stdin.flush()
        self.said += 1
        self.wait_for("done", self.said)

    def fill(self, mib):
        self.tell(mib)

    def resident(self):
        """Each page once: ZGC maps its heap three times."""
        with open("/proc/%d/smaps_rollup" % self.process.pid) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024

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
        self.process.stdin.close()
        path = "/tmp/.java_pid%d" % self.process.pid
        if os.path.exists(path):
            os.unlink(path)


class World(guest_harness.World):
    def __init__(self, *settings, server=JVM, words="floor=32M", **options):
        super().__init__(GUEST, "jvm", server, *settings, words=words, **options)

    def configure(self, words):
        self.config("discover off", "jvm process=%s %s" % (self.server.word, words))

    def fill(self, mib=300):
        """Its heap is so large, of which 40 MiB live."""
        self.until(lambda: self.app and self.app["used"] and self.app["status"] == 0, what="a heap")
        self.server.fill(mib)
        self.until(lambda: self.app["used"] > mib * MIB, what="a large heap")
        self.server.fill(0)


def give(world, mib, least):
    number = world.guest.target("jvm", mib * MIB)
    world.until(lambda: world.app["answers"] == number and world.app["given"] >= least * MIB)


def take_back(world):
    number = world.guest.target("jvm", 0)
    world.until(lambda: world.app["answers"] == number and world.app["given"] == world.app["target"] == 0 and world.server.limit() == LIMIT)


@real
def it_gives_and_gets_its_limit_back():
    for settings in ZGC, SHENANDOAH:
        with World(*settings) as world:
            server = world.server
            world.fill()
            assert world.app["kind"] == 6 and world.app["pain"] == 40 and world.app["target"] == 0, world.app
            # What is committed and was never touched is not there to be given.
            assert 200 * MIB < world.app["could"] <= world.app["used"] - 32 * MIB and server.limit() == LIMIT, world.app
            before, used = server.resident(), world.app["used"]
            give(world, 150, 120)
            after, found = server.resident(), world.app
            print("# %s: %d of %d MiB given, resident %d MiB before and %d after" % (settings[0], found["given"] / MIB, used / MIB, before / MIB, after / MIB))
            assert before - after >= 90 * MIB, (before, after, found)
            assert server.limit() <= used - 130 * MIB, (server.limit(), used)
            server.tell("busy")
            world.guest.later(15)
            take_back(world)
            assert not [name for name in os.listdir(world.guest.dir + "/run") if name.endswith(".state")]
            assert "WRONG" not in server.logged() and "Full thread dump" not in server.logged()
            assert not os.path.exists("/tmp/.attach_pid%d" % server.process.pid)


@real
def what_lives_is_left_to_it():
    for settings in ZGC, SHENANDOAH:
        with World(*settings, words="floor=1M") as world:
            world.fill()
            give(world, world.app["could"] // MIB, 150)
            assert 40 * MIB < world.server.limit() < 200 * MIB and world.app["given"] < world.app["target"], (world.server.limit(), world.app)


@real
def collectors_that_let_go_of_nothing():
    for settings in (["-XX:+UseG1GC"], ["-XX:+UseSerialGC"], ["-XX:+UseParallelGC"], ["-XX:+UseZGC"], ["-XX:+UseZGC", "-XX:-ZUncommit"]):
        with World(*settings) as world:
            world.until(lambda: world.app["status"])
            assert world.app["status"] == -EOPNOTSUPP and world.app["could"] == 0, world.app


@real
def those_that_let_nobody_attach():
    for settings in (["-XX:+DisableAttachMechanism"], ["-XX:+DisableAttachMechanism", "-Xrs"]):
        with World(*SHENANDOAH, *settings) as world:
            world.until(lambda: world.app["status"])
            assert world.app["status"] == -EPERM and world.app["could"] == 0, world.app
            world.guest.later(25)
            # It lives, and was asked once at most: this prints its threads.
            assert world.server.process.poll() is None and world.app["status"] == -EPERM
            assert world.server.logged().count("Full thread dump") == ("-Xrs" not in settings), world.server.logged()


@real
def one_that_does_not_catch_signals():
    with World(*SHENANDOAH, "-Xrs") as world:
        world.fill()
        assert world.app["status"] == 0 and world.server.process.poll() is None, world.app


@real
def one_that_dies_in_the_middle():
    with World(*SHENANDOAH) as world:
        world.fill()
        world.guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["target"] == 100 * MIB)
        world.server.end()
        world.until(lambda: not world.app, what="its end")
        world.server.start()
        world.fill()
        assert world.app["target"] == world.app["given"] == 0 and world.server.limit() == LIMIT, world.app


@real
def one_that_hangs_in_the_middle():
    with World(*SHENANDOAH) as world:
        world.fill()
        world.server.process.send_signal(signal.SIGSTOP)
        world.guest.target("jvm", 100 * MIB)
        world.guest.later(10)
        assert world.app["given"] == 0, world.app
        world.until(lambda: not world.app, 40, what="its end")
        world.server.process.send_signal(signal.SIGCONT)
        world.fill()
        give(world, 100, 70)
        take_back(world)


@real
def an_overbook_guest_that_dies_while_it_is_small():
    with World(*SHENANDOAH) as world:
        guest = world.guest
        world.fill()
        give(world, 100, 70)
        for number in signal.SIGKILL, signal.SIGTERM:
            guest.end(number)
            assert world.server.limit() < LIMIT
            session = guest.session
            guest.start()
            guest.until(lambda: guest.session != session and world.app and world.app["target"] == 100 * MIB, 30, "what was asked before")
        take_back(world)


@real
def one_that_two_lines_name_has_one_adaptor():
    with World(*SHENANDOAH) as world:
        world.guest.end(signal.SIGTERM)
        world.config("discover off", "jvm process=%s name=jvm" % world.server.other, "jvm process=%s name=other" % world.server.word)
        world.guest.apps = {}
        world.guest.start()
        world.guest.until(lambda: world.guest.apps, what="one of them")
        world.guest.later(25)
        assert len(world.guest.apps) == 1, world.guest.apps


class Other(Server):
    """No JVM, though it is called as one; SIGQUIT would end it."""
    socket = "none"

    def __init__(self, directory):
        self.word = "1000.%09d" % os.getpid()
        self.process = subprocess.Popen(["java", self.word], executable=shutil.which("sleep"))


@test
def one_that_is_no_jvm_is_not_sent_anything():
    with World(server=Other) as world:
        world.until(lambda: world.app["status"])
        world.guest.later(15)
        assert world.app["status"] == -EPERM and world.app["could"] == 0 and world.server.process.poll() is None, world.app
        assert "is no JVM" in world.guest.logged()


# It becomes a user when it has what it needs of Python, which may lie where that user reads nothing; what stands in /proc for it is root's then,
# until it says that it may be looked into.
FAKE = r"""
import ctypes, os, socket, sys, time
mode, rules, root = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
library = ctypes.CDLL(None)
if root:
    os.chroot(root)
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
library.prctl(4, mode != "hidden")
if mode == "silent":
    print("ready", flush=True)
    time.sleep(1000)
path = "/tmp/.java_pid%d" % os.getpid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o600)
if mode == "child":
    if os.fork():
        os.wait()
    library.prctl(1, 9)
listener.listen()
print("ready", flush=True)
kept = b"x" * (64 << 20) if mode == "keeps" else b""
while True:
    sock, _ = listener.accept()
    asked = sock.recv(4096).split(b"\0")
    if asked == [b""]:
        continue
    assert len(asked) == 6 and asked[0] == b"1" and asked[3:] == [b"", b"", b""], asked
    print(asked[1].decode(), asked[2].decode(), flush=True)
    found = next((answer for word, answer in rules if word in asked[2]), b"0\n")
    if mode == "keeps" and asked[2].startswith(b"VM.set_flag SoftMaxHeapSize "):
        rules.insert(0, (b"SoftMax", b"0\n-XX:SoftMaxHeapSize=%s\n" % asked[2].split()[-1]))
    try:
        while mode == "slow":
            sock.sendall(b"0")
            time.sleep(0.5)
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
    def __init__(self, directory, rules=(), mode="", root=""):
        self.word, self.output = "fake-" + os.path.basename(directory), directory + "/asked"
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(["java", "-c", FAKE, mode, repr(list(rules)), root, self.word], executable=os.path.realpath(sys.executable),
                                            stdout=log, env=dict(os.environ, PYTHONHOME=sys.base_prefix), cwd="/")
        end = time.monotonic() + 20
        while not self.asked():
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)

    def asked(self):
        with open(self.output) as file:
            return file.read().split("\n")[:-1]

    def end(self):
        super().end()
        path = "/tmp/.java_pid%d" % self.process.pid
        if os.path.lexists(path):
            os.unlink(path)


@test
def one_that_ignores_what_it_is_told():
    with World(server=Fake, rules=PLAUSIBLE) as world:
        world.until(lambda: world.app["used"] == 400 * MIB)
        number = world.guest.target("jvm", 100 * MIB)
        world.until(lambda: world.app["answers"] == number and world.app["status"] == -EIO and world.app["flags"] & FINAL)
        assert world.app["given"] == 0 and "ignores what it is told" in world.guest.logged(), world.app


@test
def it_collects_when_it_is_asked_for_more():
    rules = [(word, said.replace(b"50M used", b"380M used")) for word, said in PLAUSIBLE]
    with World(server=Fake, rules=rules, mode="keeps") as world:
        world.until(lambda: world.app["used"] == 400 * MIB and world.app["could"] > 50 * MIB)
        asked = world.server.asked

        def tell(mib):
            number = world.guest.target("jvm", mib * MIB)
            world.until(lambda: world.app["answers"] == number and world.app["target"] == mib * MIB and world.app["status"] == 0)
            return asked().count("jcmd GC.run"), [line.split()[-1] for line in asked() if "VM.set_flag" in line]
        # 380 MiB live: it is told no less than a quarter more.
        told = [str(475 * MIB)]
        assert tell(40) == (1, told)
        # Less of what it has not given anyway, and as much as before.
        for mib in (38, 36, 36, 20):
            assert tell(mib) == (1, told), mib
        assert tell(24) == (2, told * 2)
        assert tell(50) == (3, told * 3)
        assert tell(0) == (3, told * 3 + [str(LIMIT)])
        assert tell(30) == (4, told * 3 + [str(LIMIT)] + told)


@test
def jvms_that_answer_anything():
    answers = [b"", b"x", b"\n", b"0", b"0\n", b"0\n\0", b"1\nno\x1b[31m\n", b"0\n-XX:SoftMaxHeapSize=-1\n", b"0\n" + b"9" * 50, b"0\n" + b"x" * 70000, b"99999999999999999999999\n",
               b"0\nShenandoah Heap\n committed used\n", b"0\nShenandoah\n 9999999999999G committed, 1M used\n", b"0\nused capacity used M, capacity "]
    for answer in answers:
        # Of all, or of the heap alone.
        for rules in [(b"", answer)], [(word, answer if word == b"heap_info" else said) for word, said in PLAUSIBLE]:
            with World(server=Fake, rules=rules, wait=False) as world:
                world.guest.until(lambda: len(world.server.asked()) > 1, what="a question")
                world.guest.later()
                assert not world.app or world.app["could"] == 0, (answer, world.app)
                assert "\x1b" not in world.guest.logged()


@test
def one_that_answers_a_byte_at_a_time():
    with World(server=Fake, mode="slow", wait=False) as world:
        world.guest.until(lambda: "its answer takes more than" in world.guest.logged() or "has not answered" in world.guest.logged(), 40, "the end of its patience")
        assert not world.app or world.app["could"] == 0, world.app


def check_refused(why, **options):
    """It is not asked anything."""
    with World(server=Fake, rules=PLAUSIBLE, **options) as world:
        world.until(lambda: world.app["status"] == -EPERM, what="a refusal")
        world.guest.later(15)
        assert world.app["status"] == -EPERM and world.app["could"] == 0 and world.server.asked() == ["ready"], (world.app, world.server.asked())
        assert why in world.guest.logged(), why


@test
def another_process_listens():
    check_refused("another process listens on the JVM's socket", mode="child")


@as_root
def a_socket_of_another_user():
    class Anothers(Fake):
        def __init__(self, directory, **options):
            super().__init__(directory, **options)
            path = "/tmp/.java_pid%d" % self.process.pid
            os.chown(path, 0, 0)
            os.chmod(path, 0o666)
    with World(server=Anothers, rules=PLAUSIBLE) as world:
        world.until(lambda: world.app["status"] == -EPERM)
        assert "is no socket of the JVM's" in world.guest.logged() and world.server.asked() == ["ready"], world.server.asked()


@test
def a_link_in_place_of_the_socket():
    class Link(Fake):
        def __init__(self, directory, **options):
            super().__init__(directory, **options)
            path = "/tmp/.java_pid%d" % self.process.pid
            os.rename(path, directory + "/elsewhere")
            os.symlink(directory + "/elsewhere", path)
    with World(server=Link, rules=PLAUSIBLE) as world:
        world.until(lambda: world.app["status"] == -EPERM)
        assert "is no socket of the JVM's" in world.guest.logged() and world.server.asked() == ["ready"], world.server.asked()


@as_root
def one_whose_files_in_proc_are_roots():
    # It is not dumpable: what stands in /proc for it is root's, and it still is a user's.
    check_refused("cannot open the JVM's /tmp as its user 65534", mode="hidden")


@as_root
def a_tmp_that_leads_elsewhere():
    class Away(Fake):
        """With a root of its own, where /tmp is a link, which would be followed in ours to a socket of its user's."""
        def __init__(self, directory):
            self.target = directory + "/target"
            os.mkdir(directory + "/root")
            os.mkdir(self.target)
            os.chmod(self.target, 0o777)
            os.symlink(self.target, directory + "/root/tmp")
            super().__init__(directory, mode="silent", root=directory + "/root")
            path = self.target + "/.java_pid%d" % self.process.pid
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)
            os.chown(path, 65534, 65534)
    with World(server=Away) as world:
        world.until(lambda: world.app["status"] == -EPERM)
        world.guest.later()
        assert "cannot open the JVM's /tmp" in world.guest.logged() and len(os.listdir(world.server.target)) == 1, os.listdir(world.server.target)


@as_root
def one_of_another_user_than_is_named():
    with World(server=Fake, rules=PLAUSIBLE, words="user=1", wait=False) as world:
        world.guest.until(lambda: world.guest.memories, what="MEMORY")
        world.guest.later(25)
        assert not world.app and world.server.asked() == ["ready"], world.app
        world.again("user=65534")
        world.until(lambda: world.app and world.app["used"] == 400 * MIB)


sys.exit(main())
