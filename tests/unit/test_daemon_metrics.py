#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics of overbookd over HTTP: test_daemon_metrics.py OVERBOOKD DASHBOARD. Prints TAP. daemon_harness.py plays the agents; who asks
is honest, slow or hostile here. Where promtool is installed, it judges the text too."""
import errno
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import FIELDS, MIB, Agent, Daemon, activate, main, refused, rewrite, run_with, test

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
DASHBOARD = os.path.abspath(sys.argv[2])
DEADLINE = 10  # seconds that a connection may last
PLACES = 16


def free_port(family=socket.AF_INET, host="127.0.0.1"):
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(daemon, where, path="/metrics", method="GET", body=None, headers=()):
    """One request, while agents are served. where: a port, an address, or a path."""
    connection = Unix(where) if isinstance(where, str) and where[0] == "/" else \
        http.client.HTTPConnection(*(where if isinstance(where, tuple) else ("127.0.0.1", where)), timeout=20)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()
        daemon.serve()


def value(text, name, **labels):
    """The value of the sample that has these labels among its own; None when there is none."""
    for line in text.splitlines():
        found = re.fullmatch(re.escape(name) + r"(?:\{(.*)\})? (\S+)", line)
        if found and all('%s="%s"' % pair in (found.group(1) or "") for pair in labels.items()):
            return float(found.group(2))
    return None


def raw(port, data=b""):
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(data)
    return sock


def is_closed(sock):
    """Whether the other side has closed it; what it has sent is thrown away."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def with_metrics(function):
    def run():
        # Chosen now: what others have done meanwhile may have taken it.
        port = free_port()

        def with_port(daemon):
            function(daemon, port)
        run_with(with_port, "--metrics", "127.0.0.1:%d" % port, "--budget", "2G")
    run.__name__ = function.__name__
    run.skip = getattr(function, "skip", None)
    return test(run)


@with_metrics
def machines_and_host_are_shown(daemon, port):
    agent = Agent(daemon, "web")
    values = dict(ram_bytes=512 * MIB, cost_bytes=400 * MIB, faults_touch=7, stall_ns=1500000000, active_bytes=100 * MIB, active_samples=40)
    agent.statistics = lambda: [values.get(name, 0) for name in FIELDS]
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machine_faults_touch_total", machine="web") == 7)
    status, headers, text = ask(daemon, port)
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8" and headers["Connection"] == "close", headers
    assert value(text, "overbook_budget_bytes") == 2048 * MIB and value(text, "overbook_machines") == 1
    assert value(text, "overbook_machine_stall_seconds_total", machine="web", domain="") == 1.5
    assert value(text, "overbook_machine_state", machine="web", state="running") == 1
    assert all(value(text, "overbook_memory_state", state=state) is not None for state in ("high", "clear", "soft", "hard", "low"))
    assert value(text, "overbook_machine_fault_latency_seconds_count", kind="touch") == 0
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machine_working_set_bytes", machine="web") > 0)
    text = ask(daemon, port)[2]
    low, believed, high = (value(text, "overbook_machine_working_set_%sbytes" % which, machine="web") for which in ("low_", "", "high_"))
    assert 0 < low < believed < high, (low, believed, high)
    agent.die()
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machines") == 0)


@with_metrics
def means_of_taking_memory_are_shown(daemon, port):
    agent = Agent(daemon, "web")
    values = dict(ram_bytes=512 * MIB, cost_bytes=400 * MIB, swapped_bytes=10 * MIB)

    def statistics():
        # A page more to the store at each report, and one that comes back, which takes a millisecond.
        for name, more in ("swap_out_pages", 1), ("faults_swapped", 1), ("fault_swapped_fetch_ns", 10 ** 6):
            values[name] = values.get(name, 0) + more
        return [values.get(name, 0) for name in FIELDS]
    agent.statistics = statistics

    def means(text, name, kind="swap"):
        return value(text, "overbook_machine_means_" + name, machine="web", means=kind)
    daemon.until(lambda: (means(ask(daemon, port)[2], "gained_bytes_total") or 0) > 0)
    text = ask(daemon, port)[2]
    assert means(text, "gained_bytes_total") == means(text, "expected_bytes_total") <= values["swap_out_pages"] * 4096, text
    assert 0 < means(text, "lost_seconds_total") <= values["swap_out_pages"] / 1000, text
    assert means(text, "held_bytes") > 0 and means(text, "price_per_byte") > 0, text
    assert means(text, "lost_seconds_total", "applications") is None and means(text, "price_per_byte", "compression") is None, text
    assert value(text, "overbook_machine_guest_first", machine="web") == 1
    assert value(text, "overbook_machine_guest_turn_losses_total", machine="web") == 0


@with_metrics
def there_is_nothing_else(daemon, port):
    status, headers, text = ask(daemon, port, "/")
    assert status == 200 and "/metrics" in text
    for path in ("/metrics/", "/x", "/metrics%2f", "/../etc/passwd", "//metrics"):
        assert ask(daemon, port, path)[0] == 404, path
    assert ask(daemon, port, "/metrics?x=1")[0] == 200
    status, headers, text = ask(daemon, port, method="HEAD")
    assert status == 200 and not text
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "FLY"):
        status, headers, text = ask(daemon, port, method=method, body="x" * 100000 if method in ("POST", "PUT") else None)
        assert status == 405 and headers["Allow"] == "GET, HEAD", (method, status)


@test
def addresses_of_all_kinds_are_served():
    with tempfile.TemporaryDirectory() as directory:
        path = directory + "/metrics.sock"
        # A socket that nobody listens on is in nobody's way, one that somebody listens on is.
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        cases = [(path, "unix:" + path)]
        try:
            port = free_port(socket.AF_INET6, "::1")
            cases.append((("::1", port), "[::1]:%d" % port))
        except OSError as error:
            assert error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        for where, address in cases:
            daemon = Daemon("--metrics", address)
            try:
                assert value(ask(daemon, where)[2], "overbook_machines") == 0
                second = subprocess.run([OVERBOOKD, "--socket-dir", daemon.dir + "/second", "--metrics", address], capture_output=True, text=True,
                                        timeout=20)
                assert second.returncode == 1 and "cannot listen for metrics on \"%s\"" % address in second.stderr, second
                assert value(ask(daemon, where)[2], "overbook_machines") == 0
                if address.startswith("unix:"):
                    assert os.stat(path).st_mode & 0o077 == 0
            except BaseException:
                daemon.abandon()
                raise
            daemon.stop()
        assert not os.path.exists(path)


@test
def addresses_are_checked():
    for address in ("", "9273", ":9273", "localhost:9273", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:+1", "127.0.0.1:9273x",
                    "::1:9273", "[::1]", "[::1:9273", "[127.0.0.1]:9273", "unix:", "unix:metrics.sock", "unix:/" + "x" * 108, "1.2.3:9273", "on"):
        assert '--metrics "%s" is not an address such as 127.0.0.1:9273' % address in refused("--metrics", address), address


@test
def a_reload_moves_them():
    first, second, taken = free_port(), free_port(), socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        rewrite(config, "METRICS=127.0.0.1:%d\n" % first)
        daemon = Daemon("--config", config.name)

        def reload(text):
            rewrite(config, text)
            daemon.reload()

        def refuses(port):
            try:
                raw(port).close()
            except ConnectionRefusedError:
                return True
            return False
        try:
            assert ask(daemon, first)[0] == 200
            reload("METRICS=127.0.0.1:%d\n" % second)
            assert ask(daemon, second)[0] == 200 and refuses(first)
            # What cannot be had changes nothing, and is said.
            reload("METRICS=127.0.0.1:%d\n" % taken.getsockname()[1])
            assert "metrics stay where they were: cannot listen for metrics" in daemon.logged()
            assert "; metrics stay where they were: cannot listen" in daemon.told and "not reloaded" not in daemon.told, daemon.told
            assert ask(daemon, second)[0] == 200
            reload("METRICS=nowhere\n")
            assert 'METRICS "nowhere" is not an address' in daemon.logged() and ask(daemon, second)[0] == 200
            reload("BUDGET=1G\n")
            assert refuses(second)
            reload("METRICS='[::ffff]:1'\nMETRICS=none\n")
            reload("METRICS=127.0.0.1:%d\n" % first)
            assert ask(daemon, first)[0] == 200
        except BaseException:
            sys.stderr.write(daemon.logged())
            daemon.abandon()
            raise
        daemon.stop()
    taken.close()


@test
def a_passed_socket_is_for_metrics():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        directory = tempfile.mkdtemp(prefix="overbookd-")
        with open(directory + "/log", "wb") as log:
            process = activate([OVERBOOKD, "--socket-dir", directory], [listener.fileno()], stderr=log)
        daemon = Daemon()
        try:
            end = time.monotonic() + 20
            while not os.path.exists(directory + "/overbookd.sock"):
                assert time.monotonic() < end and process.poll() is None
                daemon.serve()
            assert ask(daemon, port)[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            daemon.stop()
            shutil.rmtree(directory)


@with_metrics
def slow_and_hostile_askers_cost_others_nothing(daemon, port):
    agents = [Agent(daemon, "m%02d" % i, ram=64 * MIB) for i in range(20)]
    assert len(agents) == 20
    began = time.monotonic()
    silent = [raw(port) for _ in range(100)]
    half = [raw(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n") for _ in range(100)]
    huge = raw(port)
    huge.setblocking(False)
    try:
        for _ in range(1000):
            huge.send(b"GET /" + b"x" * 100000)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass
    header = raw(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000 + b"\r\n\r\n")
    nonsense = [raw(port, data) for data in (b"\0" * 1000, b"\r\n" * 5000, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\xff\xfe" * 3000)]
    deaf = [raw(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50) for _ in range(8)]
    # Who asks properly is answered at once, again and again, and so are clients.
    for _ in range(20):
        start = time.monotonic()
        status, _, text = ask(daemon, port)
        assert status == 200 and value(text, "overbook_machines") == 20
        assert daemon.call("ps")["ok"]
        assert time.monotonic() - start < 2, time.monotonic() - start
    # No more places than there are; the others were closed as newer ones came.
    open_ones = [sock for sock in silent + half if not is_closed(sock)]
    assert len(open_ones) <= PLACES, len(open_ones)
    assert len(os.listdir("/proc/%d/fd" % daemon.process.pid)) < 100
    daemon.until(lambda: is_closed(header) and is_closed(huge))
    # Even a drop a second keeps nobody's place for longer than the deadline.
    slow, last = raw(port), [time.monotonic()]
    start = time.monotonic()

    def slow_is_closed():
        if time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            try:
                slow.send(b"G")
            except OSError:
                return True
        return is_closed(slow)
    daemon.until(slow_is_closed, 3 * DEADLINE)
    assert DEADLINE - 1 < time.monotonic() - start < 2 * DEADLINE
    daemon.until(lambda: all(is_closed(sock) for sock in silent + half + nonsense + deaf), 3 * DEADLINE)
    assert ask(daemon, port)[0] == 200
    assert time.monotonic() - began < 60
    for sock in silent + half + nonsense + deaf + [huge, header, slow]:
        sock.close()


@with_metrics
def a_large_answer_does_not_hold_anybody_up(daemon, port):
    for i in range(100):
        Agent(daemon, "m%03d" % i, ram=64 * MIB)
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machines") == 100)
    reader = raw(port, b"GET /metrics HTTP/1.0\r\n\r\n")
    got, parts, asked = b"", 0, 0
    while True:
        part = reader.recv(10000)
        if not part:
            break
        got += part
        parts += 1
        # It answers while most of the text has not been read, nor can have been written.
        if parts % 4 == 0:
            assert daemon.call("version")["ok"]
            asked += 1
    assert asked > 3, (asked, parts, len(got))
    assert got.startswith(b"HTTP/1.") and got.count(b"overbook_machine_fault_latency_seconds_count{") == 600, len(got)


@with_metrics
def the_dashboard_names_nothing_that_is_not_there(daemon, port):
    # Some are there only where there is something to tell.
    agent = Agent(daemon, "web")
    agent.statistics = lambda: [dict(cost_bytes=MIB, swapped_bytes=MIB).get(name, 0) for name in FIELDS]
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machine_means_price_per_byte", machine="web") is not None)
    text = ask(daemon, port)[2]
    shown = {re.match(r"[a-z_0-9]+", line).group(0) for line in text.splitlines() if not line.startswith("#")}
    with open(DASHBOARD) as file:
        dashboard = json.load(file)
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expressions += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    named = set(re.findall(r"\boverbook_[a-z_0-9]+", " ".join(expressions)))
    assert len(named) > 20 and not named - shown, named - shown
    assert all(panel.get("targets") for panel in dashboard["panels"] if panel["type"] != "row")


@with_metrics
def promtool_finds_nothing_wrong(daemon, port):
    agent = Agent(daemon, "web")
    agent.statistics = lambda: [dict(cost_bytes=MIB, swapped_bytes=MIB).get(name, 0) for name in FIELDS]
    daemon.until(lambda: value(ask(daemon, port)[2], "overbook_machine_means_price_per_byte", machine="web") is not None)
    result = subprocess.run(["promtool", "check", "metrics"], input=ask(daemon, port)[2], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and not result.stderr, result.stderr


if not shutil.which("promtool"):
    daemon_harness.tests[-1].skip = "promtool is not installed (Debian package prometheus)"
sys.exit(main(None))
