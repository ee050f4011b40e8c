#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`overbook top` on a pseudo-terminal: test_top.py OVERBOOKD OVERBOOK. Prints TAP. daemon_harness.py plays the agents; Terminal
understands as much of what ncurses sends to an xterm as it takes to know what stands on the screen."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, STATS, Agent, main, message, with_daemon

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2])

ENTER, ESCAPE, UP, DOWN, PAGE_DOWN, HOME, END = "\r", "\x1b", "\x1bOA", "\x1bOB", "\x1b[6~", "\x1bOH", "\x1bOF"
SEQUENCE = re.compile(r"\x1b(?:\[([?>!]?)([0-9;]*)([@-~])|[()][0-9A-B]|[=>78])", re.S)
BROKEN = re.compile(r"\x1b(?:\[[?>!]?[0-9;]*|[()])?\Z")  # the beginning of one


class Machine(Agent):
    """Counts what it is told to, by the second."""

    def __init__(self, daemon, name, speed=0, ram=512 * MIB, buckets=(), **options):
        self.speed, self.buckets, self.began, self.is_silent = speed, list(buckets), time.monotonic(), False
        super().__init__(daemon, name, ram=ram, **options)

    def report(self):
        if not self.is_silent:
            super().report()

    def say_statistics(self, values):
        rows = [self.buckets] + [[0] * 72] * 5 if self.buckets else []
        self.send(message(STATS, struct.pack("<I%dQII" % len(values), len(values), *values, len(rows), 72 if rows else 0) +
                          b"".join(struct.pack("<72Q", *row) for row in rows)))

    def statistics(self):
        seconds = time.monotonic() - self.began
        fields = dict(ram_bytes=self.ram, limit_bytes=self.limit, cost_bytes=self.cost, resident_bytes=self.cost, swapped_bytes=self.ram // 4,
                      compressed_bytes=self.ram // 8, faults_touch=int(seconds * self.speed * 2), faults_swapped=int(seconds * self.speed),
                      swap_in_pages=int(seconds * self.speed))
        return [fields.get(name, 0) for name in FIELDS]


class Terminal:
    def __init__(self, daemon, *args, width=80, height=24, directory=None, **environment):
        self.daemon, self.width, self.height = daemon, width, height
        self.cells, self.reversed = [[" "] * width for _ in range(height)], [[False] * width for _ in range(height)]
        self.x = self.y = self.top = 0
        self.bottom = height
        self.reverse, self.colours, self.rest, self.raw, self.status = False, False, "", "", None
        values = dict(os.environ, TERM="xterm", OVERBOOK_RUNDIR=directory or daemon.dir, **environment)
        if "NO_COLOR" not in environment:
            values.pop("NO_COLOR", None)
        for name in ("LINES", "COLUMNS"):
            values.pop(name, None)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.closerange(3, 1024)  # machines' connections are not inherited on purpose
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            os.execve(OVERBOOK, [OVERBOOK, "top", "--interval", "0.2", *args], values)
        os.set_blocking(self.fd, False)

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def resize(self, width, height):
        def fit(rows, blank):
            return [(row + [blank] * width)[:width] for row in (rows + [[]] * height)[:height]]
        self.cells, self.reversed, self.width, self.height = fit(self.cells, " "), fit(self.reversed, False), width, height
        self.top, self.bottom, self.x, self.y = 0, height, min(self.x, width - 1), min(self.y, height - 1)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self):
        """Takes in what has been written. Whether there is more to come."""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            text = data.decode("ascii")  # nothing else is ever sent
            self.raw += text
            self.show(self.rest + text)

    def show(self, text):
        at = 0
        while at < len(text):
            found = SEQUENCE.match(text, at)
            if found:
                if found.group(3) and not found.group(1):
                    self.obey(found.group(3), [int(number or 0) for number in found.group(2).split(";")])
                at = found.end()
            elif BROKEN.match(text, at):
                break
            else:
                self.letter(text[at])
                at += 1
        self.rest = text[at:]

    def scroll(self, begin, lines):
        """Lines from begin to the end of the region go up, or down."""
        for rows, blank in ((self.cells, " "), (self.reversed, False)):
            new = [[blank] * self.width for _ in range(min(abs(lines), self.bottom - begin))]
            kept = rows[begin:self.bottom]
            rows[begin:self.bottom] = kept[len(new):] + new if lines > 0 else new + kept[:len(kept) - len(new)]

    def put(self, letter):
        self.cells[self.y][self.x], self.reversed[self.y][self.x] = letter, self.reverse

    def letter(self, letter):
        if letter == "\r":
            self.x = 0
        elif letter == "\n":
            if self.y == self.bottom - 1:
                self.scroll(self.top, 1)
            else:
                self.y = min(self.y + 1, self.height - 1)
        elif letter == "\b":
            self.x = max(self.x - 1, 0)
        elif letter == "\t":
            self.x = min((self.x // 8 + 1) * 8, self.width - 1)
        elif letter != "\x0f":
            assert " " <= letter <= "~", "the terminal was sent %r" % letter
            self.x = min(self.x, self.width - 1)
            self.put(letter)
            self.last = letter
            self.x += 1

    def obey(self, final, numbers):
        many = max(numbers[0], 1)
        if final == "H":
            self.y, self.x = min(many, self.height) - 1, min(max((numbers + [1])[1], 1), self.width) - 1
        elif final == "A":
            self.y = max(self.y - many, 0)
        elif final == "B":
            self.y = min(self.y + many, self.height - 1)
        elif final == "C":
            self.x = min(self.x + many, self.width - 1)
        elif final == "D":
            self.x = max(self.x - many, 0)
        elif final == "G":
            self.x = min(many, self.width) - 1
        elif final == "d":
            self.y = min(many, self.height) - 1
        elif final == "K":
            begin, end = [(self.x, self.width), (0, self.x + 1), (0, self.width)][numbers[0]]
            for x in range(begin, end):
                self.cells[self.y][x], self.reversed[self.y][x] = " ", False
        elif final == "J":
            begin = 0 if numbers[0] == 2 else self.y
            for y in range(begin, self.height):
                for x in range(self.x if y == self.y and numbers[0] == 0 else 0, self.width):
                    self.cells[y][x], self.reversed[y][x] = " ", False
        elif final == "X":
            for x in range(self.x, min(self.x + many, self.width)):
                self.cells[self.y][x], self.reversed[self.y][x] = " ", False
        elif final == "b":
            for _ in range(many):
                self.letter(self.last)
        elif final == "P":
            self.cells[self.y] = (self.cells[self.y][:self.x] + self.cells[self.y][self.x + many:] + [" "] * many)[:self.width]
            self.reversed[self.y] = (self.reversed[self.y][:self.x] + self.reversed[self.y][self.x + many:] + [False] * many)[:self.width]
        elif final == "@":
            self.cells[self.y] = (self.cells[self.y][:self.x] + [" "] * many + self.cells[self.y][self.x:])[:self.width]
            self.reversed[self.y] = (self.reversed[self.y][:self.x] + [False] * many + self.reversed[self.y][self.x:])[:self.width]
        elif final in "ML":
            self.scroll(self.y, many if final == "M" else -many)
        elif final in "ST":
            self.scroll(self.top, many if final == "S" else -many)
        elif final == "r":
            self.top, self.bottom = many - 1, min((numbers + [0])[1] or self.height, self.height)
            self.x = self.y = 0
        elif final == "m":
            for number in numbers:
                self.reverse = number == 7 or (self.reverse and number not in (0, 27))
                self.colours |= 30 <= number <= 37 or 40 <= number <= 47
        else:
            assert final in "lht", "the terminal was sent CSI %s %s" % (numbers, final)

    def lines(self):
        return ["".join(row).rstrip() for row in self.cells]

    def names(self):
        """The machines of the list, from top to bottom."""
        lines = self.lines()
        title = next((y for y, line in enumerate(lines) if line.startswith("NAME ")), len(lines))
        return [line.split()[0] for line in lines[title + 1:-2] if line]

    def selected(self):
        lines, names = self.lines(), self.names()
        return [line.split()[0] for line, row in zip(lines, self.reversed) if row[0] and line and line.split()[0] in names]

    def until(self, condition, seconds=20):
        def holds():
            self.read()
            return condition()
        try:
            self.daemon.until(holds, seconds, extra=[self.fd])
        except AssertionError:
            sys.stderr.write("\n".join(self.lines()) + "\n")
            raise

    def until_shown(self, *words):
        self.until(lambda: all(any(word in line for line in self.lines()) for word in words))

    def until_ended(self):
        """Waits for its end, and returns its status."""
        def ended():
            pid, self.status = os.waitpid(self.pid, os.WNOHANG)
            return pid != 0
        self.until(ended)
        self.read()  # what it wrote last
        os.close(self.fd)
        return os.waitstatus_to_exitcode(self.status)

    def quit(self):
        self.press("q")
        assert self.until_ended() == 0
        assert "\x1b[?1049l" in self.raw  # the terminal is as it was


@with_daemon("--budget", "2G")
def the_list_is_shown_sorted_and_followed(daemon):
    slow, fast = Machine(daemon, "slow", speed=100, ram=1024 * MIB), Machine(daemon, "fast", speed=1000)
    screen = Terminal(daemon)
    screen.until_shown("2 machines", "overbookd ", "Budget 2.0G [", "Memory ", "large pages", "# in place", "q end", "by cost")
    screen.until(lambda: screen.names() == ["slow", "fast"])
    screen.press("f")
    screen.until(lambda: screen.names() == ["fast", "slow"] and "by faults" in screen.lines()[-1])
    # Its rates: twice as many touches as swapped pages, a page of 4 KiB for each of the latter.
    screen.until(lambda: any(re.match(r"Faults 3[23]\d\d/s: touch 2[12]\d\d bench 0 .* swapped 11?\d\d\d? shared 0", line) for line in screen.lines()))
    screen.until(lambda: re.search(r"^fast .* (2[89]\d\d|3[01]\d\d)  (3\.[789]|4\.[012])M ", "\n".join(screen.lines()), re.M))
    screen.press("r")
    screen.until(lambda: screen.names() == ["slow", "fast"] and "turned" in screen.lines()[-1])
    screen.press("n")
    screen.until(lambda: screen.names() == ["fast", "slow"] and "by name" in screen.lines()[-1])
    screen.press("<")
    screen.until(lambda: "by copy" in screen.lines()[-1])
    screen.press(">>")
    screen.until(lambda: "by state" in screen.lines()[-1])
    screen.press("n")
    Machine(daemon, "late")
    screen.until(lambda: screen.names() == ["fast", "late", "slow"])
    fast.die()
    screen.until(lambda: screen.names() == ["late", "slow"])
    slow.disconnect()
    screen.until_shown("1 not running")
    assert screen.colours
    screen.quit()


@with_daemon()
def it_follows_the_size_of_the_terminal(daemon):
    machines = [Machine(daemon, "m%02d" % i, ram=64 * MIB) for i in range(30)]
    assert len(machines) == 30
    screen = Terminal(daemon, "--sort", "name")
    screen.until(lambda: screen.names() == ["m%02d" % i for i in range(15)])
    assert "WSET" not in screen.lines()[6].split()
    screen.resize(140, 50)
    screen.until(lambda: screen.names() == ["m%02d" % i for i in range(30)] and "q end" in screen.lines()[49])
    assert "WSET" in screen.lines()[6].split()
    screen.resize(40, 10)
    screen.until(lambda: "q end" in screen.lines()[9] and screen.names() == ["m00", "m01", "m02", "m03"])
    # Scrolling.
    screen.press(DOWN * 5)
    screen.until(lambda: screen.names() == ["m02", "m03", "m04", "m05"] and screen.selected() == ["m05"])
    screen.press(UP * 3)
    screen.until(lambda: screen.names() == ["m02", "m03", "m04", "m05"] and screen.selected() == ["m02"])
    screen.press(END)
    screen.until(lambda: screen.names() == ["m26", "m27", "m28", "m29"] and screen.selected() == ["m29"])
    screen.press(HOME + PAGE_DOWN)
    screen.until(lambda: screen.selected() == ["m04"])
    screen.resize(1, 1)
    screen.until(lambda: screen.lines() == ["3"])
    screen.resize(80, 24)
    screen.until(lambda: "m04" in screen.names() and "q end" in screen.lines()[23])
    # The selection stays with its machine, and goes to the next one when that ends.
    next(agent for agent in machines if agent.name == "m04").die()
    screen.until(lambda: "m04" not in screen.names() and screen.selected() == ["m05"])
    screen.quit()


@with_daemon()
def a_machine_has_a_page(daemon):
    buckets = [0] * 72
    buckets[20], buckets[40] = 90, 10  # 1.3 us and 1.3 ms
    web, mail = Machine(daemon, "web", buckets=buckets), Machine(daemon, "mail")
    # What it has told before the page is opened is not of the page.
    daemon.until(lambda: daemon.state("web") and daemon.call("stats", name="web")["fault_latency"]["touch"]["count"] == 100)
    screen = Terminal(daemon, "--sort", "name", height=30)
    screen.until(lambda: screen.names() == ["mail", "web"])
    screen.press(DOWN)
    screen.until(lambda: screen.selected() == ["web"])
    screen.press(ENTER)
    screen.until_shown("web  running, pid %d" % web.pid, "RAM 512M [", "Latency of faults since the machine started", "KIND", "and cost (o)", "Esc back")
    screen.until(lambda: re.search(r"^touch +100 .* 1\.3us  1\.3ms  @         \.$", "\n".join(screen.lines()), re.M))
    screen.press("t")
    screen.until_shown("since this page was opened")
    screen.until(lambda: re.search(r"^touch +0 .* - +-$", "\n".join(screen.lines()), re.M))
    web.buckets[30] += 5
    screen.until(lambda: re.search(r"^touch +5 .*  41us   41us       @$", "\n".join(screen.lines()), re.M))
    screen.press(ESCAPE)
    screen.until(lambda: screen.names() == ["mail", "web"] and screen.selected() == ["web"])
    screen.press(ENTER)
    screen.until_shown("web  running")
    web.die()
    screen.until_shown("web has gone")
    screen.press(ESCAPE)
    screen.until(lambda: screen.names() == ["mail"] and screen.selected() == ["mail"])
    mail.die()
    screen.until(lambda: screen.names() == [] and "0 machines" in screen.lines()[0])
    screen.press(ENTER)
    screen.quit()


@with_daemon()
def it_outlives_overbookd(daemon):
    web = Machine(daemon, "web", speed=1000)
    screen = Terminal(daemon)
    screen.until(lambda: screen.names() == ["web"])
    first = daemon.process.pid
    daemon.kill()
    screen.until_shown("As it was ", "overbookd does not answer")
    assert screen.names() == ["web"]
    daemon.start()
    screen.until(lambda: screen.names() == [])
    screen.until_shown("Another overbookd answers now, pid %d" % daemon.process.pid)
    assert daemon.process.pid != first
    web.connect()
    screen.until(lambda: screen.names() == ["web"])
    screen.until_shown("running")
    # One that is stopped is silent; keys are obeyed all the same.
    web.is_silent = True
    daemon.process.send_signal(signal.SIGSTOP)
    screen.until_shown("overbookd has not answered for ")
    screen.press("n")
    screen.until(lambda: "by name" in screen.lines()[-1])
    daemon.process.send_signal(signal.SIGCONT)
    screen.until(lambda: not any("has not answered" in line for line in screen.lines()))
    screen.quit()


@with_daemon()
def it_waits_for_an_overbookd_that_is_not_there_yet(daemon):
    with tempfile.TemporaryDirectory() as nowhere:
        screen = Terminal(daemon, directory=nowhere)
        screen.until_shown("overbookd does not answer on \"%s" % nowhere[:20], "0 machines")
        screen.quit()
        # Without a screen that is an error.
        result = subprocess.run([OVERBOOK, "top", "--once"], env=dict(os.environ, OVERBOOK_RUNDIR=nowhere), capture_output=True, text=True, timeout=20)
        assert result.returncode == 3 and result.stderr.startswith("overbook: top: overbookd does not answer"), result


@with_daemon()
def colours_only_where_they_are_wanted(daemon):
    Machine(daemon, "web")
    for environment, colours in (({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)):
        screen = Terminal(daemon, **environment)
        screen.until(lambda: screen.names() == ["web"])
        assert screen.colours == colours, environment
        screen.quit()


@with_daemon()
def a_terminal_that_cannot_be_drawn_on_gets_a_table(daemon):
    Machine(daemon, "web")
    daemon.until(lambda: daemon.state("web") == "running")
    for term in ("dumb", "no-such-terminal", ""):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(OVERBOOK, [OVERBOOK, "top", "--interval", "0.2"], dict(os.environ, TERM=term, OVERBOOK_RUNDIR=daemon.dir))
        text = b""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            daemon.serve(extra=[fd])
            if select.select([fd], [], [], 0)[0]:
                try:
                    text += os.read(fd, 65536)
                except OSError:
                    break
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(fd)
        assert b"\x1b" not in text and re.search(rb"^web .*\]\r$", text, re.M), text


@with_daemon()
def signals_and_a_lost_terminal_end_it(daemon):
    Machine(daemon, "web")
    for number in (signal.SIGTERM, signal.SIGINT):
        screen = Terminal(daemon)
        screen.until(lambda: screen.names() == ["web"])
        os.kill(screen.pid, number)
        screen.until_ended()
        assert "\x1b[?1049l" in screen.raw
    screen = Terminal(daemon)
    screen.until(lambda: screen.names() == ["web"])
    os.close(screen.fd)
    daemon.until(lambda: os.waitpid(screen.pid, os.WNOHANG)[0])


def run(daemon, *args):
    process = subprocess.Popen([OVERBOOK, "top", *args], env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    daemon.until(lambda: process.poll() is not None)
    return process.returncode, process.stdout.read(), process.stderr.read()


@with_daemon("--budget", "1G")
def without_a_terminal_it_is_a_table_or_an_object(daemon):
    for name, speed in (("web", 100), ("mail", 1000)):
        Machine(daemon, name, speed=speed)
    daemon.until(lambda: len(daemon.call("ps")["machines"]) == 2)
    code, text, errors = run(daemon, "--interval", "0.5", "--sort", "faults")
    assert code == 0 and not errors, errors
    lines = text.splitlines()
    assert lines[0].startswith("2 machines") and "STALL" in text and "q end" not in text
    assert [line.split()[0] for line in lines if re.match("web|mail", line)] == ["mail", "web"], text
    assert all(line == line.rstrip() and line.isascii() and (not line or line.isprintable()) for line in lines)
    code, text, errors = run(daemon, "--json", "--interval", "0.5")
    answer = json.loads(text)
    rates = {machine["name"]: machine["rates"] for machine in answer["machines"]}
    assert code == 0 and not errors and answer["budget_bytes"] == 1024 * MIB
    assert 1500 < rates["mail"]["faults"]["touch"] < 2500 and 2250 < rates["mail"]["faults"]["all"] < 3750, rates
    assert rates["mail"]["swap_out_bytes"] == 0 and 200 * 4096 > rates["web"]["swap_in_bytes"] > 50 * 4096, rates
    assert answer["rates"]["faults"]["all"] > rates["mail"]["faults"]["all"]


@with_daemon()
def what_is_wrong_with_the_command_line_is_said(daemon):
    for args, word in ((["--interval", "0"], '"0"'), (["--interval", "1s"], '"1s"'), (["--interval", "nan"], '"nan"'),
                       (["--interval", "1e9"], '"1e9"'), (["--sort", "size"], '"size"'), (["--colour"], '"--colour"'), (["web"], '"web"'),
                       (["--interval"], '"--interval"')):
        code, text, errors = run(daemon, *args)
        assert code == 2 and not text and word in errors and errors.count("\n") == 1, (args, errors)


sys.exit(main(OVERBOOK))
