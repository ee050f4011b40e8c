# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for benches: a build tree, an overbookd of our own, and machines with the witness inside.

Everything lies in one private directory under /var/tmp, which is removed at the end, as is every process that was started.
A machine's console is a pair of pipes; a thread reads it and notes when each line came, so that what is measured does not
depend on when somebody looks. The protocol is that of tests/guest/image/witness.c. Nothing is waited for by sleeping a
while: each wait is for a line, a process or a message, with a deadline that is an error.
"""
import collections
import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "guest"))

from pattern import write_image  # noqa: E402
from lib import Failure, Unfit, read_text  # noqa: E402

# A line of the witness: when it came, and what CPU time the process and the agent's threads in it had used by then.
Line = collections.namedtuple("Line", "when word values cpu_ns agent_cpu_ns")

# At the usual 9600 baud QEMU's serial line holds an order back for 4 ms. Without no_timer_check the kernel panics when a loaded host
# makes its timer come late.
KERNEL_WORDS = "console=ttyS0,115200 quiet panic=-1 no_timer_check"
# As `overbook run` adds one, for plain QEMU: what a guest frees goes back to the host there too.
BALLOON = ("-device", "virtio-balloon-pci,free-page-reporting=on")
PATIENCE = 120.0  # seconds that a guest may take for one thing, on a slow and busy host


def prepare_build(bench, with_guest=True):
    """Sees to a built tree with a guest image, if one is wanted; makes what is missing."""
    needed = ["src/cli/overbook", "src/daemon/overbookd", "src/agent/liboverbook-agent.so"]
    if not all(os.path.exists(os.path.join(bench.build, path)) for path in needed):
        bench.say("building")
        if not os.path.exists(os.path.join(bench.build, "build.ninja")):
            run_or_fail(["meson", "setup", bench.build, bench.root])
        run_or_fail(["ninja", "-C", bench.build] + needed)
    guest = os.path.join(bench.build, "guest")
    if with_guest:
        run_or_fail([os.path.join(bench.root, "scripts", "guest-image.sh"), guest])
    return guest


def run_or_fail(argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{os.path.basename(argv[0])} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


class Place:
    """A directory of our own, and in it an overbookd without a budget. Without a guest, machines boot nothing."""

    def __init__(self, bench, with_guest=True, config=""):
        self.bench, self.with_guest = bench, with_guest
        self.machines = []
        self.daemon = None
        self.directory = tempfile.mkdtemp(prefix="overbook-bench.", dir="/var/tmp")
        self.config = os.path.join(self.directory, "overbookd.conf")
        self.configure(config)
        self.rundir = os.path.join(self.directory, "run")
        os.mkdir(self.rundir, 0o700)
        os.mkdir(os.path.join(self.directory, "swap"), 0o700)

    def __enter__(self):
        try:
            self.guest = prepare_build(self.bench, self.with_guest)
            self.overbook = os.path.join(self.bench.build, "src/cli/overbook")
            if shutil.which("qemu-system-x86_64") is None:
                raise Unfit("qemu-system-x86_64 is missing")
            self.start_daemon()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignored):
        for machine in list(self.machines):
            machine.end()
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self):
        return dict(os.environ, OVERBOOK_RUNDIR=self.rundir)

    def start_daemon(self):
        """Ready is what it says itself, in the way of sd_notify(3)."""
        path = os.path.join(self.directory, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(path)
            ready.settimeout(0.1)
            deadline = time.monotonic() + PATIENCE
            with open(os.path.join(self.directory, "overbookd.log"), "wb") as log:
                self.daemon = subprocess.Popen([os.path.join(self.bench.build, "src/daemon/overbookd"), "--socket-dir", self.rundir,
                                                "--config", self.config],
                                               env=dict(self.environment(), NOTIFY_SOCKET=path), stdout=log, stderr=log)
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096):
                        return
                if self.daemon.poll() is not None or time.monotonic() > deadline:
                    last = read_text(os.path.join(self.directory, "overbookd.log")).splitlines()[-1:] or ["it said nothing"]
                    raise Failure(f"overbookd does not become ready ({last[0][:200]})")

    def ask(self, *words):
        """What `overbook WORDS --json` says."""
        text = subprocess.run([self.overbook, *words, "--json"], env=self.environment(), capture_output=True, text=True,
                              check=False)
        if text.returncode:
            raise Failure(f"overbook {words[0]}: {text.stderr.strip()}")
        return json.loads(text.stdout)

    def all_stats(self, name):
        return self.ask("stats", name)

    def stats(self, name):
        return self.all_stats(name)["stats"]

    def configure(self, text):
        """Another file of settings for overbookd, which it reads at once if it runs."""
        with open(self.config + ".new", "w", encoding="ascii") as f:
            f.write(text)
        os.rename(self.config + ".new", self.config)
        if self.daemon:
            self.daemon.send_signal(signal.SIGHUP)


def make_image(directory, mib, **mix):
    """A disk image that the witness can check (witness=image=); mix: see pattern.write_image. Returns its path."""
    raw, path = os.path.join(directory, "base.raw"), os.path.join(directory, "base.qcow2")
    write_image(raw, mib, **mix)
    run_or_fail(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path])
    os.unlink(raw)
    return path


def overlay_drive(place, name, image, aio):
    """A disk of a machine's own over an image: the value for QEMU's -drive."""
    overlay = os.path.join(place.directory, f"{name}.qcow2")
    run_or_fail(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay])
    return f"file={overlay},format=qcow2,if=virtio,cache=none,aio={aio}"


def process_pss_bytes(pid):
    """What is charged to a process; None when its memory cannot be read."""
    for line in read_text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def process_cpu_ns(pid):
    """CPU time of a process, threads that have ended included: the clock of clock_getcpuclockid(3). 0 when it has gone."""
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0


class Machine:
    """One guest. ours: under `overbook run`, with a limit if one is given; else QEMU as it is, with the same line. group: a
    peers.Cgroup in which it starts. drive: the value of QEMU's -drive for a disk that there is already. arguments: more of
    QEMU's words; options: of `overbook run`; environment: more of it."""

    def __init__(self, place, name, ours, memory_mib, parameters, disk_mib=0, limit_mib=0, group=None, domain=None, drive=None,
                 arguments=(), options=(), environment=None):
        self.place, self.name, self.ours, self.limit_mib, self.domain, self.drive = place, name, ours, limit_mib, domain, drive
        self.memory_mib, self.arguments, self.options = memory_mib, list(arguments), list(options)
        self.disk = os.path.join(place.directory, name + ".disk") if disk_mib else None
        self.log = os.path.join(place.directory, name + ".log")
        self.lines = []
        self.ended = False
        self.changed = threading.Condition()
        if self.disk:
            with open(self.disk, "wb") as f:
                f.truncate(disk_mib << 20)
        argv = self.command(parameters)
        if group:
            # A shell that enters the group and becomes the command.
            argv = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', os.path.join(group.path, "cgroup.procs")] + argv
        with open(self.log, "wb") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(argv, env={**place.environment(), **(environment or {})}, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log)
        place.machines.append(self)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def words(self, parameters):
        """QEMU's command line, but for disks and more arguments."""
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=64", "-m", f"{self.memory_mib}M", "-smp", "1", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-chardev", "stdio,id=console,signal=off", "-serial",
                "chardev:console", "-kernel", os.path.join(self.place.guest, "vmlinuz"), "-initrd",
                os.path.join(self.place.guest, "initrd.gz"), "-append", f"{KERNEL_WORDS} witness={parameters}"]

    def command(self, parameters):
        argv = self.words(parameters) + self.arguments
        if self.disk:
            argv += ["-drive", f"file={self.disk},format=raw,if=virtio,cache=none,aio=threads"]
        if self.drive:
            argv += ["-drive", self.drive]
        if not self.ours:
            return argv
        swap = os.path.join(self.place.directory, "swap")
        limit = ["--limit", f"{self.limit_mib}M"] if self.limit_mib else []
        domain = ["--domain", self.domain] if self.domain else []
        return [self.place.overbook, "run", "--name", self.name, "--swap", swap, "--require", *limit, *domain, *self.options, "--", *argv]

    def read(self):
        for raw in self.process.stdout:
            now = time.monotonic()
            text = raw.decode("ascii", "replace")
            at = text.find("WITNESS ")
            with self.changed:
                if at >= 0:
                    words = text[at + 8:].split()
                    values = dict(word.split("=", 1) for word in words[1:] if "=" in word)
                    self.lines.append(Line(now, words[0] if words else "", values, self.cpu_ns(), self.agent_cpu_ns()))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def failure(self, text):
        last = read_text(self.log).splitlines()[-1:] or ["it said nothing"]
        message = f"{self.name}: {text} ({last[0][:200]})"
        return Failure(message) if self.ours else Unfit("the peer failed: " + message)

    def wait_line(self, word, after=0, patience_s=PATIENCE):
        """The first line with this word from number `after` on: its number, and the line."""
        deadline = time.monotonic() + patience_s
        with self.changed:
            while True:
                for i in range(after, len(self.lines)):
                    line = self.lines[i]
                    if line.word == word:
                        return i, line
                    self.expect_well(line)
                if self.ended:
                    raise self.failure("it ended")
                if not self.changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise self.failure(f"no \"{word}\" from the witness within {patience_s:.0f} seconds")

    def expect_well(self, line):
        if line.word in ("refused", "error", "wrong"):
            raise self.failure(f"the witness says {line.word} {line.values}")

    def count_lines(self, word):
        """How many lines with this word there are so far, none that says that something is wrong."""
        with self.changed:
            for line in self.lines:
                self.expect_well(line)
            if self.ended:
                raise self.failure("it ended")
            return sum(line.word == word for line in self.lines)

    def tell(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def line(self, word):
        return self.wait_line(word)[1]

    def order(self, text, answer):
        """Gives an order, waits until it has been carried out, and returns the number of the answer's line."""
        with self.changed:
            after = len(self.lines)
        self.tell(text)
        return self.wait_line(answer, after)[0]

    def statuses(self, count, after):
        """The first status line from number `after` on, and the one that comes so many later."""
        at, first = self.wait_line("status", after)
        last = first
        for _ in range(count):
            at, last = self.wait_line("status", at + 1)
        return first, last

    def work(self, seconds):
        """Full rate for so many of the guest's seconds, then idle again. Returns pages checked a second, and a second of CPU."""
        first, last = self.statuses(seconds, self.order("rate max", "rate"))
        self.order("rate 0", "rate")
        pages = int(last.values["pages_checked"]) - int(first.values["pages_checked"])
        return pages / (last.when - first.when), pages / (last.cpu_ns - first.cpu_ns) * 1e9

    def besides_s(self):
        """What a request to it takes besides what it does itself."""
        return 0.0

    def cpu_ns(self):
        return process_cpu_ns(self.process.pid)

    def agent_cpu_ns(self):
        """CPU time of the agent's threads, by the scheduler's own account."""
        total = 0
        for task in glob.glob(f"/proc/{self.process.pid}/task/*") if self.ours else []:
            if read_text(task + "/comm").startswith("overbook-"):
                total += int((read_text(task + "/schedstat").split() or ["0"])[0])
        return total

    def pss_bytes(self):
        pss = process_pss_bytes(self.process.pid)
        if pss is None:
            raise self.failure("its memory cannot be read")
        return pss

    def guest_pages_bytes(self, field="Rss"):
        """What is there of a plain machine's RAM: its largest mapping of no file. By "Pss" pages that KSM has merged count once in all machines."""
        size, largest, resident = 0, 0, 0
        for line in read_text(f"/proc/{self.process.pid}/smaps").splitlines():
            words = line.split()
            if "-" in words[0]:
                is_file = words[4] != "0"
            elif line.startswith("Size:"):
                size = 0 if is_file else int(words[1])
            elif line.startswith(field + ":") and size > largest:
                largest, resident = size, int(line.split()[1])
        if largest < self.memory_mib * 1024:
            raise Unfit("cannot find the guest's memory in QEMU's process")
        return resident * 1024

    def end(self):
        """Whatever state it is in, it is gone afterwards."""
        if self in self.place.machines:
            self.place.machines.remove(self)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        # What was written to it and never read is lost; the others are to end all the same.
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        if self.disk:
            os.unlink(self.disk)
