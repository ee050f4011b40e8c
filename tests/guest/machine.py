# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest tests' harness: a host of its own under a temporary directory, and machines on it.

A Host is a directory below OVERBOOK_TEST_DIR (default /var/tmp) that holds Overbook's run directory, the swap directory,
disks and logs; overbookd when the test wants one; and the machines that were started on it. Leaving it ends every
process that it started, and no other, and removes the directory. Should the test itself be killed, its processes go with
it (PR_SET_PDEATHSIG).

A Machine is one QEMU with the witness in it (tests/guest/image/witness.c has the protocol), started by `overbook run` or
plainly. Its console is a pair of FIFOs that the harness opened before, so that nothing is lost, a machine may be
daemonized, and its end is seen by its process alone. A reader thread keeps what the witness says; a wrong page, an I/O
error or a panic anywhere fails whatever waits, and the end of the test.

Nothing sleeps for luck: every wait is for a condition, with an upper bound (PATIENCE seconds) far above what is usual.

What a machine costs is not taken from the engine's counters but from /proc/PID/smaps, over the ranges that the engine
names; a Meter samples it from a thread of its own and remembers the worst.
"""
import collections
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import kernel
import qmp
import servers

MIB = 1 << 20
PATIENCE = 300 * float(os.environ.get("OVERBOOK_TEST_PATIENCE", "1"))
QEMU = os.environ.get("OVERBOOK_TEST_QEMU", "qemu-system-x86_64")
# Frames that Overbook allows itself above a limit: the demo and these tests hold it to this much.
LIMIT_SLACK = 1.02
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)

Paths = collections.namedtuple("Paths", "overbook overbookd agent image")
Word = collections.namedtuple("Word", "name values text")


def unusable_reason(paths):
    """Why no guest test can run here, or None."""
    for program in (QEMU, "qemu-img"):
        if not shutil.which(program):
            return f"{program} is not installed"
    for path in (paths.overbook, paths.overbookd, paths.agent):
        if not os.path.exists(path):
            return f"{path} has not been built"
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "guest-image.sh")
    # In a chroot the compiler and the packages are others than those that the image is from.
    if not os.environ.get("OVERBOOK_TEST_IMAGE_AS_IS"):
        made = subprocess.run([script, paths.image], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if made.returncode:
            return "no guest image: " + made.stderr.strip().splitlines()[-1]
    checks = json.loads(subprocess.run([paths.overbook, "doctor", "--json"], capture_output=True, text=True).stdout)["checks"]
    bad = [check["found"] for check in checks if check["id"] == "kernel" and check["status"] != "ok"]
    return bad[0] if bad else None


def qemu_version():
    """The first number of QEMU's version."""
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[3].split(".")[0])


def wait_until(condition, what, timeout=PATIENCE):
    """Polls until condition() is true, and returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s in vain: {what}")
        time.sleep(0.05)


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tail(path, lines=40):
    try:
        with open(path, errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except FileNotFoundError:
        return ""


class Keeper:
    """What systemd does for overbookd: listens on its sockets, and keeps descriptors for the next one."""

    HIGH = 500  # descriptors are kept above that, in nobody's way
    # What becomes overbookd: NAMES, the descriptors' numbers, and the command.
    STARTER = """
import os, sys
numbers = [int(word) for word in sys.argv[2].split(",")]
for target, number in enumerate(numbers, 3):
    os.dup2(number, target)
    os.close(number)
os.environ.update(LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=sys.argv[1])
os.execv(sys.argv[3], sys.argv[3:])
"""

    def __init__(self, directory):
        self.sockets, self.kept = [], {}
        for name, kind in (("agents.sock", socket.SOCK_SEQPACKET), ("overbookd.sock", socket.SOCK_STREAM)):
            listener = socket.socket(socket.AF_UNIX, kind)
            listener.bind(os.path.join(directory, name))
            listener.listen(128)
            self.sockets.append(self.high(listener.fileno()))
            listener.close()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = os.path.join(directory, "notify")
        self.notify.bind(self.path)
        self.lock = threading.Lock()
        threading.Thread(target=self.hear, daemon=True).start()

    def high(self, descriptor):
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self.HIGH)

    def hear(self):
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.notify, 4096, 4)
            lines = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
            with self.lock:
                if lines.get("FDSTORE") == "1":
                    self.kept[lines["FDNAME"]] = self.high(descriptors[0])
                elif lines.get("FDSTOREREMOVE") == "1" and lines["FDNAME"] in self.kept:
                    os.close(self.kept.pop(lines["FDNAME"]))
            for descriptor in descriptors:
                os.close(descriptor)

    def activate(self, command, environment):
        with self.lock:
            names = ["overbookd.socket"] * 2 + list(self.kept)
            descriptors = self.sockets + list(self.kept.values())
        words = [sys.executable, "-c", self.STARTER, ":".join(names), ",".join(map(str, descriptors)), *command]
        return words, descriptors, {**environment, "NOTIFY_SOCKET": self.path}

    def close(self):
        with self.lock:
            for descriptor in self.sockets + list(self.kept.values()):
                os.close(descriptor)
            self.sockets, self.kept = [], {}


class Host:
    def __init__(self, paths):
        self.paths = paths
        self.machines = []
        self.daemon = None
        self.daemons = 0
        self.directory = tempfile.mkdtemp(prefix="overbook-test.", dir=os.environ.get("OVERBOOK_TEST_DIR", "/var/tmp"))
        self.rundir = self.path("run")
        self.swap = self.path("swap")
        os.mkdir(self.rundir, 0o700)
        os.mkdir(self.swap, 0o700)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("OVERBOOK_")}
        self.environment["OVERBOOK_RUNDIR"] = self.rundir
        self.keeper = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def path(self, name):
        return os.path.join(self.directory, name)

    def close(self):
        for machine in self.machines:
            machine.kill()
        self.kill_daemon()
        if self.keeper:
            self.keeper.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- overbookd and the CLI ---

    def start_daemon(self, *options):
        self.daemons += 1
        with open(self.path(f"overbookd-{self.daemons}.log"), "wb") as log:
            command, passed, environment = [self.paths.overbookd, *options], (), self.environment
            if self.keeper:
                command, passed, environment = self.keeper.activate(command, environment)
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=passed,
                                           start_new_session=True, preexec_fn=die_with_parent)

        def answers():
            if self.daemon.poll() is not None:
                raise AssertionError(f"overbookd ended at its start with status {self.daemon.returncode}")
            return self.run("ps", "--json", check=False).returncode == 0
        wait_until(answers, "overbookd answers")

    def kill_daemon(self, signal_number=signal.SIGKILL):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(signal_number)
            self.daemon.wait(PATIENCE)
        self.daemon = None

    def keep(self):
        """overbookd is started as by systemd from now on."""
        self.keeper = Keeper(self.rundir)

    def run(self, *words, check=True, environment=None, timeout=PATIENCE):
        """Runs `overbook WORDS`; with check, a status other than 0 is an error that shows what it said."""
        done = subprocess.run([self.paths.overbook, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env={**self.environment, **(environment or {})}, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"overbook {' '.join(map(str, words))}: status {done.returncode}: {done.stderr.strip()}")
        return done

    def json(self, *words):
        return json.loads(self.run(*words, "--json").stdout)

    def rows(self):
        return {row["name"]: row for row in self.json("ps")["machines"]}

    # --- files ---

    def make_disk(self, name, mib, form="raw"):
        path = self.path(name)
        subprocess.run(["qemu-img", "create", "-q", "-f", form, path, f"{mib}M"], check=True)
        return path

    def machine(self, name, overbook=True, **options):
        """Starts a machine; Machine has the options. Without Overbook it has the very devices that it would have with it."""
        machine = Machine(self, name, **options)
        self.machines.append(machine)
        if not overbook:
            machine.line = plain_line(dry_run(machine))
            machine.overbook = False
        machine.start()
        return machine

    def expect_clean(self):
        if self.daemon and self.daemon.poll() is not None:
            raise AssertionError(f"overbookd has ended with status {self.daemon.returncode}")
        for machine in self.machines:
            machine.expect_clean()

    def describe_logs(self):
        parts = []
        for name in sorted(os.listdir(self.directory)):
            if name.endswith(".log"):
                parts.append(f"--- {name}\n{tail(self.path(name))}")
        return "\n".join(parts)


class Console:
    """The machine's serial line: what the witness says, in order, and where to say something to it."""
    BAD = ("Kernel panic", "BUG: ", "Oops: ", "Out of memory: Killed")

    def __init__(self, path, log):
        self.path = path
        self.words = []
        self.trouble = []
        self.changed = threading.Condition()
        for end in (".in", ".out"):
            os.mkfifo(path + end, 0o600)
        # Both ends are ours too, so that neither open nor read waits for QEMU or ends with it.
        self.input = os.open(path + ".in", os.O_RDWR | os.O_CLOEXEC)
        self.output = os.open(path + ".out", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self.log = open(log, "w", errors="replace")
        self.forget = False
        self.stop_read, self.stop_write = os.pipe2(os.O_CLOEXEC)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def close(self):
        if self.stop_write < 0:
            return
        os.close(self.stop_write)
        self.thread.join()
        for fd in (self.stop_read, self.input, self.output):
            os.close(fd)
        self.log.close()
        self.stop_write = -1

    def _read(self):
        rest = b""
        while True:
            ready = select.select([self.output, self.stop_read], [], [])[0]
            if self.output in ready:
                if self.forget:
                    rest, self.forget = b"", False
                *lines, rest = (rest + os.read(self.output, 65536)).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace").strip("\r"))
            elif self.stop_read in ready:
                return

    def _take(self, line):
        self.log.write(line + "\n")
        self.log.flush()
        with self.changed:
            if any(bad in line for bad in self.BAD):
                self.trouble.append(line)
            # A reset may cut a line off: the next one stands on it then.
            for text in line.split("WITNESS ")[1:]:
                name, *pairs = text.split(" ")
                word = Word(name, dict(pair.split("=", 1) for pair in pairs if "=" in pair), text)
                self.words.append(word)
                if name in ("wrong", "error", "refused", "unknown") or (name == "exit" and word.values.get("status") != "0"):
                    self.trouble.append(text)
            self.changed.notify_all()

    def cut(self):
        """The machine stands still, and will speak on from somewhere else: half a line is not to be joined to another half."""
        wait_until(lambda: not select.select([self.output], [], [], 0)[0], "the console has been read")
        self.forget = True

    def say(self, line):
        os.write(self.input, line.encode() + b"\n")

    def mark(self):
        """A position to wait from: what is said from now on."""
        with self.changed:
            return len(self.words)

    def wait_word(self, name, since=0, timeout=PATIENCE, alive=lambda: True, condition=lambda word: True):
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                for word in self.words[since:]:
                    if word.name == name and condition(word):
                        return word
                if self.trouble:
                    raise AssertionError("the guest says: " + self.trouble[0])
                if time.monotonic() > deadline:
                    raise TimeoutError(f"waited {timeout:.0f} s in vain for the witness to say \"{name}\"")
                since = max(since, len(self.words))
                self.changed.wait(0.2)
                if not alive() and not any(word.name == name and condition(word) for word in self.words[since:]):
                    raise AssertionError(f"the machine ended while the witness was to say \"{name}\"")


class Machine:
    """One QEMU. Options, all with defaults that make a small machine whose witness idles until it is asked:

        memory, limit, processors   MiB, MiB or None, number of vCPUs
        witness                     its parameters, a dict
        disk                        dict(mib=, form=, path=, options=): the witness's disk, a virtio one
        machine                     QEMU's machine type and its properties
        arguments                   more of QEMU's words
        options                     more words of `overbook run`
        prefix                      words before `overbook run`: a program that becomes it
        environment                 more of the environment
        append                      more of the kernel's command line
        initrd                      a file with more for the guest's root, a cpio archive
        daemonize                   start it with -daemonize
        hot_plug_mib                up to how much memory it can grow
        require, swap               whether `overbook run` is given --require, and a swap directory
        paths                       Overbook's programs, where they are not the host's
    """

    def __init__(self, host, name, memory=256, limit=None, processors=1, witness=None, disk=None, machine="pc", arguments=(),
                 options=(), prefix=(), environment=None, append="", daemonize=False, hot_plug_mib=0,
                 require=True, swap=True, paths=None, initrd=None):
        self.host, self.name = host, name
        self.paths = paths or host.paths
        self.memory, self.limit = memory * MIB, limit * MIB if limit else 0
        self.overbook, self.daemonize, self.prefix = True, daemonize, list(prefix)
        self.environment = {**host.environment, **(environment or {})}
        self.options = [*(["--require"] if require else []), *(["--swap", host.swap] if swap else ["--no-swap"]), *options]
        self.process = self.meter = self.pidfd = self._qmp = None
        self.pid = self.status = None
        self.qmp_path = host.path(name + ".qmp")
        self.log = host.path(name + ".log")
        self.console = Console(host.path(name + ".con"), host.path(name + "-console.log"))
        parameters = ",".join(f"{key}={value}" for key, value in (witness or {}).items())
        room = f",slots=2,maxmem={hot_plug_mib}M" if hot_plug_mib else ""
        self.line = [
            QEMU, "-M", machine, "-accel", "tcg,thread=multi,tb-size=64", "-m", f"{memory}M{room}", "-smp", str(processors),
            "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", os.path.join(host.paths.image, "vmlinuz"), "-initrd", self._initrd(initrd),
            # Without no_timer_check the kernel panics when a loaded host makes its timer come late.
            "-append", f"console=ttyS0 quiet panic=-1 no_timer_check {append} witness={parameters}",
            *self._own_devices(), *self._disk(disk), *arguments]

    def _initrd(self, more):
        path = os.path.join(self.host.paths.image, "initrd.gz")
        if not more:
            return path
        whole = self.host.path(self.name + ".initrd")
        servers.join(whole, path, more)
        return whole

    def _own_devices(self):
        words = ["-chardev", f"pipe,id=con,path={self.console.path}", "-serial", "chardev:con",
                 "-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        return words + (["-daemonize", "-pidfile", self.host.path(self.name + ".pid")] if self.daemonize else [])

    def _disk(self, disk):
        if not disk:
            return []
        form = disk.get("form", "raw")
        path = disk.get("path") or self.host.make_disk(f"{self.name}.{form}", disk["mib"], form)
        return ["-drive", f"file={path},format={form},if=virtio,{disk.get('options', 'cache=none,aio=threads')}"]

    # --- its life ---

    def command_line(self):
        if not self.overbook:
            return self.line
        limit = ["--limit", str(self.limit)] if self.limit else []
        return [*self.prefix, self.paths.overbook, "run", "--name", self.name, *limit, *self.options, "--", *self.line]

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command_line(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment, start_new_session=True, preexec_fn=die_with_parent)
        self.pid = self.process.pid
        if self.daemonize:
            if self.process.wait(PATIENCE):
                raise AssertionError(f"QEMU did not become a daemon: status {self.process.returncode}: {tail(self.log, 3)}")
            with open(self.host.path(self.name + ".pid")) as file:
                self.pid = int(file.read())
        self.pidfd = os.pidfd_open(self.pid)
        if self.limit and self.host.daemon:
            self.meter = Meter(self)

    def alive(self):
        return self.pidfd is not None and not select.select([self.pidfd], [], [], 0)[0]

    def wait_end(self, timeout=PATIENCE):
        """Waits until QEMU is gone; returns its exit status (negative: the signal), None for a daemon."""
        if not select.select([self.pidfd], [], [], timeout)[0]:
            raise TimeoutError(f"{self.name} has not ended within {timeout:.0f} s")
        self.stop_meter()
        return None if self.daemonize else self.process.wait(PATIENCE)

    def kill(self):
        """Ends it by force, and lets go of all that belongs to it."""
        self.stop_meter()
        if self.pidfd is not None:
            if self.alive():
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                select.select([self.pidfd], [], [], PATIENCE)
            os.close(self.pidfd)
            self.pidfd = None
        if self.process:
            self.process.wait(PATIENCE)
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        self.console.close()

    def signal(self, number):
        signal.pidfd_send_signal(self.pidfd, number)

    @property
    def qmp(self):
        if not self._qmp:
            wait_until(lambda: not self.alive() or self.listens(), "QEMU's monitor is there")
            self._qmp = wait_until(lambda: self.connect(self.qmp_path), "QEMU's monitor answers")
        return self._qmp

    def connect(self, path):
        """A monitor; None while QEMU has made its socket and does not listen yet."""
        try:
            return qmp.Qmp(path, PATIENCE)
        except (ConnectionError, FileNotFoundError):
            assert self.alive(), f"{self.name} has ended: {tail(self.log, 3)}"
            return None

    def listens(self):
        try:
            return stat.S_ISSOCK(os.stat(self.qmp_path).st_mode)
        except FileNotFoundError:
            return False

    def said(self):
        """All that QEMU and the agent have written."""
        with open(self.log, errors="replace") as file:
            return file.read()

    def wait_said(self, text, timeout=PATIENCE):
        return wait_until(lambda: text in self.said() and self.said(), f"{self.name} writes \"{text}\"", timeout)

    def migrate(self, uri, timeout=PATIENCE):
        """Migrates to uri and waits until that is done; this one stays behind, stopped."""
        self.qmp.command("migrate-set-parameters", max_bandwidth=1 << 30, downtime_limit=2000)
        self.qmp.command("migrate", uri=uri)

        def status():
            now = self.qmp.command("query-migrate")
            assert now.get("status") not in ("failed", "cancelled"), f"{self.name}: the migration failed: {now}"
            return now.get("status") == "completed"
        wait_until(status, f"{self.name} has migrated", timeout)

    def quit(self):
        self.qmp.command("quit")
        assert self.wait_end() == 0, self.said()

    def wait_running(self):
        wait_until(lambda: self.qmp.command("query-status")["status"] == "running", f"{self.name} runs")

    # --- the witness ---

    def wait_word(self, name, since=0, timeout=PATIENCE, **more):
        try:
            return self.console.wait_word(name, since, timeout, self.alive, **more)
        except AssertionError as problem:
            raise AssertionError(f"{self.name}: {problem}: {tail(self.log, 3)}") from None

    def wait_ready(self, since=0):
        return self.wait_word("ready", since)

    def ask(self, line, answer, timeout=PATIENCE):
        since = self.console.mark()
        self.console.say(line)
        return self.wait_word(answer, since, timeout)

    def check(self, timeout=PATIENCE):
        """Has the witness read every page. Returns how many; a wrong one is an error."""
        word = self.ask("check", "checked", timeout)
        pages, wrong = int(word.values["pages"]), int(word.values["wrong"])
        assert pages > 0 and wrong == 0, f"{self.name}: {wrong} of {pages} pages are wrong"
        return pages

    def wait_progress(self, pages, timeout=PATIENCE):
        """Waits until the witness has checked so many pages more than when it was asked last."""
        since = self.console.mark()
        first = self.wait_word("status", since, timeout)
        goal = int(first.values["pages_checked"]) + pages
        return self.wait_word("status", since, timeout, condition=lambda w: int(w.values["pages_checked"]) >= goal)

    def expect_clean(self):
        if self.console.trouble:
            raise AssertionError(f"{self.name}: the guest says: {self.console.trouble[0]}")

    # --- Overbook's view, and the kernel's ---

    def stats(self):
        return self.host.json("stats", self.name)

    def fresh_stats(self):
        """By a report of the machine's agent, of which there is one a second, that is not older than this call."""
        asked = time.monotonic()

        def look():
            stats = self.stats()
            return stats if stats["age_ms"] / 1000 < time.monotonic() - asked else None
        return wait_until(look, f"{self.name} reports")

    def wait_stats(self, condition, what, timeout=PATIENCE):
        """Polls `overbook stats` until condition(stats) holds for its "stats" object."""
        def look():
            self.expect_clean()
            if self.name not in self.host.rows():
                assert self.alive(), f"{self.name} has ended: {tail(self.log, 3)}"
                return None
            stats = self.stats()
            return stats if condition(stats["stats"]) else None
        return wait_until(look, f"{self.name}: {what}", timeout)

    def ranges(self):
        return [(r["kind"], r["start"], r["end"]) for r in self.stats()["ranges"]]

    def host_bytes(self):
        """What its memory costs at present, by the kernel's accounting."""
        return sum(self.host_parts().values())

    def host_parts(self):
        """The same by what it is: ram, bench, pool, tables. The machine does not run while it is read."""
        ranges = self.ranges()
        with kernel.frozen(self.pid):
            return kernel.pss_by_kind(self.pid, ranges)

    def stop_meter(self):
        if self.meter:
            self.meter.stop()

    def expect_limit_held(self):
        # How many samples a second has depends on how busy the host is.
        wait_until(lambda: self.meter.samples >= 20 or not self.meter.thread.is_alive() or not self.alive(),
                   f"what {self.name} costs has been sampled")
        peak, samples = self.meter.peak_bytes, self.meter.samples
        assert samples >= 20, f"only {samples} samples of what {self.name} costs"
        assert peak <= self.limit * LIMIT_SLACK, (f"{self.name} cost {peak / MIB:.1f} MiB with a limit of {self.limit / MIB:.0f}: "
                                                  f"{self.meter.peak_parts}")

    def expect_evicted(self):
        """Pages were really away, and really came back."""
        s = self.fresh_stats()["stats"]
        evicted = s["zero_bytes"] + s["compressed_bytes"] + s["swapped_bytes"]
        faults = s["faults_bench"] + s["faults_zero"] + s["faults_compressed"] + s["faults_swapped"]
        assert evicted > 0 and faults > 0, f"{self.name}: {evicted} bytes are evicted and {faults} faults were served: nothing is shown"
        assert s["internal_errors"] == 0, f"{self.name}: {s['internal_errors']} internal errors: {tail(self.log, 5)}"
        assert s["degraded"] == 0, f"{self.name}: degraded ({s['degraded']})"
        return evicted


class Meter:
    """Samples what a machine costs from the time overbookd knows where its memory lies.

    Reading smaps takes a while, and a page that moves to the bench behind the reader's back is counted twice. So a
    reading above the limit is taken once more while the machine is stopped (SIGSTOP), which is exact, and that one counts.
    """
    INTERVAL_S = 0.1

    def __init__(self, machine):
        self.machine = machine
        self.peak_bytes = self.samples = self.exact = 0
        self.peak_parts = {}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self):
        self.ending.set()
        self.thread.join()

    def restart_peak(self):
        self.peak_bytes = self.samples = 0

    def _ranges(self):
        with contextlib.suppress(AssertionError, ValueError, KeyError, subprocess.TimeoutExpired):
            return self.machine.ranges()
        return None

    def _run(self):
        ranges = None
        while not ranges:
            if self.ending.wait(self.INTERVAL_S):
                return
            ranges = self._ranges()
        while not self.ending.wait(self.INTERVAL_S):
            try:
                parts = self._read(ranges)
            except (FileNotFoundError, ProcessLookupError):
                return
            self.samples += 1
            if sum(parts.values()) > self.peak_bytes:
                self.peak_bytes, self.peak_parts = sum(parts.values()), parts

    def _read(self, ranges):
        parts = kernel.pss_by_kind(self.machine.pid, ranges)
        if sum(parts.values()) <= self.machine.limit:
            return parts
        with kernel.frozen(self.machine.pid):
            self.exact += 1
            return kernel.pss_by_kind(self.machine.pid, ranges)


def dry_run(machine):
    """The command line that `overbook run` would execute for a machine."""
    words = [machine.paths.overbook, "run", "--dry-run", "--json", *machine.command_line()[len(machine.prefix) + 2:]]
    done = subprocess.run(words, capture_output=True, text=True, env=machine.environment, check=True)
    return json.loads(done.stdout)["argv"]


def plain_line(argv):
    """The same machine as a line of QEMU without Overbook: its devices stay, its RAM backend and sockets go, and what lies
    behind a DIMM is QEMU's own memory again."""
    ram = next(word for word in argv if word.startswith("memory-backend=")).removeprefix("memory-backend=")
    line = []
    for option, value in zip(argv, argv[1:] + [""]):
        file = value.startswith("memory-backend-file,") and dict(pair.split("=", 1) for pair in value.split(",")[1:])
        if option == "-object" and file and file["id"] == ram or option == "-machine" and "memory-backend=" in value:
            line.append(None)
        elif option == "-mon" and "overbook-qmp" in value or option == "-chardev" and "id=overbook-" in value:
            line.append(None)
        elif line and line[-1] is None:
            line[-1:] = []
        elif option == "-object" and file:
            line += [option, f"memory-backend-ram,id={file['id']},size={file['size']}"]
        elif not option.startswith("memory-backend-file,"):
            line.append(option.replace("chardev=overbook-guest,", ""))
    return line
