#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbookd under test: test_daemon.py OVERBOOKD [OVERBOOK]. Prints TAP. daemon_harness.py plays agents and clients."""
import json
import os
import random
import re
import signal
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import (EINPROGRESS, FIELDS, HELLO, MIB, NOT_STARTED, POLL, RANGES, RELEASE, REPLY, SET_LIMIT, STATS, STOPPED, Agent,
                            Client, ceiling, main, message, refused, rewrite, test, text, with_daemon, with_settings)

OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
OVERBOOK = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None

CAP_SYS_RESOURCE = 24

@with_daemon()
def answers_requests_and_refuses_nonsense(daemon):
    assert daemon.call("version")["program"] == "overbookd"
    answer = daemon.call("ps")
    assert answer.pop("large_pages")["state"] == answer.pop("memory")["state"] == "high"
    assert answer == {"version": 1, "ok": True, "budget_bytes": 0, "machines": []}
    bad = [b"nonsense", b"[1]", b"{}", b'{"version":2,"command":"ps"}', b'{"version":1}', b'{"version":1,"command":7}',
           b'{"version":1,"command":"fly"}', b'{"version":1,"command":"stats"}', b'{"version":1,"command":"stats","name":7}',
           b'{"version":1,"command":"stats","name":"../x"}', b'{"version":1,"command":"ps","nam":"x"}', b"\xff\xfe", b"",
           b'{"version":1,"command":"limit","name":"x","maximum_bytes":-1}', b'{"version":1,"command":"ps","command":"ps"}',
           b'{"version":1,"command":"limit","name":"x","maximum_bytes":1e9}', b"[" * 5000, b"\0",
           b'{"version":1,"command":"limit","name":"x","maximum_bytes":99999999999999999999}',
           b'{"version":1,"command":"release","name":"x","force":1}', b'{"version":1,"command":"limit","name":"x"}',
           b'{"version":1,"command":"admit","name":"x","ram_bytes":1,"pid":1,"shares":0}',
           b'{"version":1,"command":"admit","name":"x","ram_bytes":1048576,"pid":1,"reservation_bytes":1048577}']
    client = Client(daemon)
    for line in bad:
        client.sock.sendall(line + b"\n")
        answer = client.answer()
        assert answer["ok"] is False and answer["code"] == "bad-request" and answer["error"], (line, answer)
        assert "\n" not in answer["error"] and answer["error"].isprintable()
    for command, members in (("stats", {}), ("release", {}), ("limit", {"maximum_bytes": 0})):
        assert client.call(command, name="ghost", **members)["code"] == "no-machine"
    assert client.call("admit", name="x", ram_bytes=MIB, pid=2 ** 31 - 1)["code"] == "failed"
    client.close()


@with_daemon()
def only_one_runs_and_a_successor_takes_over(daemon):
    first = daemon.process.pid
    second = subprocess.run([OVERBOOKD, "--socket-dir", daemon.dir], capture_output=True, text=True, timeout=20)
    assert second.returncode == 1 and str(first) in second.stderr, second
    assert daemon.call("version")["pid"] == first
    daemon.kill()
    assert os.path.exists(daemon.dir + "/agents.sock")
    daemon.start()
    assert daemon.call("version")["pid"] == daemon.process.pid != first
    daemon.kill(signal.SIGTERM)
    assert not os.path.exists(daemon.dir + "/agents.sock") and not os.path.exists(daemon.dir + "/overbookd.sock")
    daemon.start()


@test
def options_and_directories_are_checked():
    assert "12x" in refused("--budget", "12x")
    assert "1M" in refused("--budget", "1M")
    assert "--nonsense" in refused("--nonsense")
    assert "extra" in refused("extra")
    refused("--budget")
    assert "exclude each other" in refused("--budget", "1G", "--config", "/etc/x")
    assert "/nonexistent/x" in refused("--config", "/nonexistent/x", code=1)
    for directory in ("here", ""):
        assert f'--socket-dir "{directory}" is not an absolute path' in refused("--socket-dir", directory)
        assert "absolute" in refused("--check", "--socket-dir", directory)
    assert "leaves room" in refused("--socket-dir", "/tmp/" + "x" * 200, code=1)
    assert "No such" in refused("--socket-dir", "/nonexistent/overbook", code=1)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        assert "0777" in refused("--socket-dir", directory, code=1)
        os.chmod(directory, 0o700)
        open(directory + "/file", "w").close()
        assert "not a directory" in refused("--socket-dir", directory + "/file", code=1)
        os.symlink(directory, directory + "/link")
        assert "not a directory" in refused("--socket-dir", directory + "/link", code=1)
    assert "usage" in subprocess.run([OVERBOOKD, "--help"], capture_output=True, text=True, check=True).stdout


@with_daemon("--budget", "1G", sockets=("overbookd.sock", "agents.sock"))
def passed_sockets_are_used_and_outlive_it(daemon):
    _, agent = daemon.admit("web", maximum_bytes=256 * MIB)
    assert "on sockets of systemd's" in daemon.logged()
    daemon.kill(signal.SIGTERM)
    assert daemon.process.returncode == 0
    daemon.until(lambda: agent.closed)
    # Nobody is there, and yet nobody is turned away: both wait in the sockets.
    agent.connect()
    client = Client(daemon)
    client.send("version")
    daemon.start()
    assert client.answer()["pid"] == daemon.process.pid
    daemon.until(lambda: daemon.state("web") == "running")
    daemon.kill()
    daemon.until(lambda: agent.closed)
    daemon.start()
    agent.connect()
    daemon.until(lambda: daemon.state("web") == "running" and agent.limit == 256 * MIB)
    assert daemon.peak <= 1024 * MIB


@with_daemon(sockets=("agents.sock",))
def a_socket_that_was_not_passed_is_made(daemon):
    daemon.admit("web", maximum_bytes=256 * MIB)
    daemon.kill(signal.SIGTERM)
    assert os.path.exists(daemon.dir + "/agents.sock") and not os.path.exists(daemon.dir + "/overbookd.sock")
    daemon.start()


@test
def what_is_passed_is_checked():
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(directory + "/run")
        stream, seqpacket = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
        streams = [daemon_harness.listener(directory + "/%d" % n, stream) for n in range(2)]
        packets = [daemon_harness.listener(directory + "/%d" % n, seqpacket) for n in range(2, 4)]
        datagram = daemon_harness.listener(directory + "/4", socket.SOCK_DGRAM)
        abstract = daemon_harness.listener("\0overbook-test-%d" % os.getpid(), stream)
        pair = socket.socketpair()
        null = os.open("/dev/null", os.O_RDWR)

        def refuses(*descriptors):
            process = daemon_harness.activate([OVERBOOKD, "--socket-dir", directory + "/run"], descriptors, stderr=subprocess.PIPE,
                                              text=True)
            _, err = process.communicate(timeout=20)
            assert process.returncode == 1 and err.count("\n") == 1, (process.returncode, err)
            return err
        assert "two listening sockets of type stream" in refuses(*streams)
        assert "two listening sockets of type seqpacket" in refuses(*packets, streams[0])
        assert "descriptor 4 is no listening unix socket" in refuses(streams[0], datagram)
        assert "descriptor 3 is no listening unix socket" in refuses(pair[0].fileno())
        assert "descriptor 5 is no listening unix socket" in refuses(streams[0], packets[0], null)
        assert "absolute path" in refuses(abstract)
        # Meant for another process: not looked at.
        process = daemon_harness.activate([OVERBOOKD, "--socket-dir", directory + "/run", "--version"], [null], pid="1",
                                          stdout=subprocess.DEVNULL)
        assert process.wait(20) == 0
        for descriptor in (*streams, *packets, datagram, abstract, null):
            os.close(descriptor)


def check_settings(*args):
    """What overbookd --check says would hold, as a file of settings; it makes nothing."""
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run([OVERBOOKD, "--socket-dir", directory + "/run", "--check", *args], capture_output=True, text=True, timeout=20)
        assert not os.listdir(directory)
    assert run.returncode == 0, run
    return run.stdout, run.stderr


@test
def settings_can_be_checked():
    defaults, doubts = check_settings()
    assert not doubts and "BUDGET=none\n" in defaults and "IDLE_TAX=75%\n" in defaults and "MIN_FREE=auto\n" in defaults, defaults
    # The file of the package says the same: what is commented out there is the default.
    packaged = os.path.join(os.path.dirname(__file__), "../../contrib/host/overbookd.default")
    assert check_settings("--config", packaged) == (defaults, "")
    with open(packaged, encoding="utf-8") as file:
        examples = [line[1:] for line in file if re.match("#[A-Z_]+=", line)]
    assert examples and all(line in defaults for line in examples), examples
    given = ("--balloon", "auto", "--balloon-floor", "1536M", "--budget", "17179870208", "--idle-tax", "7", "--large-pages", "late", "--log", "warning",
             "--metrics", "[::1]:9273", "--min-free", "1025K", "--share", "off", "--share-cpu", "7", "--share-index", "cmd-subpage,subpages=8")
    text, _ = check_settings(*given)
    assert "BUDGET=16777217K\n" in text and "BALLOON_FLOOR=1536M\n" in text and "SHARE_INDEX=cmd-subpage,subpages=8\n" in text, text
    assert not set(text.splitlines()) & set(defaults.splitlines()), text
    with tempfile.NamedTemporaryFile("w") as config:
        rewrite(config, text)
        assert check_settings("--config", config.name)[0] == text
        rewrite(config, "BUDGET=1000T\n")
        assert "1000 TiB" in check_settings("--config", config.name)[1]
        # Whatever is to be logged later.
        rewrite(config, "BUDGET=1G\nMIN_FREE=700M\nLOG=error\n")
        assert "MIN_FREE of 700 MiB is more than half of the budget, and is taken for 512 MiB" in check_settings("--config", config.name)[1]
        rewrite(config, "BUDGET=16G # for all\nSHARE_CPU='7'\t#\nMETRICS=unix:/run/a#b # '\nSHARE=\"off\"#\n")
        assert 'line 4: SHARE ""off"#"' in refused("--check", "--config", config.name, code=1)
        rewrite(config, "BUDGET=16G # for all\nSHARE_CPU='7'\t#\nMETRICS=unix:/run/a#b # '\nSHARE=off #\n")
        text = check_settings("--config", config.name)[0]
        assert {"BUDGET=16G", "SHARE_CPU=7", "METRICS=unix:/run/a#b", "SHARE=off"} <= set(text.splitlines()), text
        rewrite(config, "BUDGET='16G # for all'\n")
        assert "line 1: BUDGET \"16G # for all\"" in refused("--check", "--config", config.name, code=1)
        rewrite(config, "SHARE=on\nSHARE_CPU=0\n")
        assert "line 2: SHARE_CPU" in refused("--check", "--config", config.name, code=1)
    assert "--log" in refused("--check", "--log", "loud")


@with_settings("# memory for machines\n\n BUDGET = '512M' \nLOG=debug\n")
def the_configuration_can_be_read_again(daemon, config):
    _, agent = daemon.admit("web", ram=2048 * MIB)
    assert "STATUS=0 machines, budget 512 MiB" in daemon.told, daemon.told
    daemon.until_told("STATUS=1 machine, budget 512 MiB")
    daemon.until(lambda: agent.limit == 512 * MIB)

    rewrite(config, 'BUDGET="1G"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until_told("READY=1\nSTATUS=1 machine, budget 1 GiB")
    assert "RELOADING=1\nMONOTONIC_USEC=" in daemon.told
    daemon.until(lambda: agent.limit == 1024 * MIB)
    assert daemon.call("ps")["budget_bytes"] == 1024 * MIB

    for text, why in (("BUDGET=12x", "12x"), ("BUDGET=512M\nBUGDET=1G\n", 'line 2: there is no setting "BUGDET"'), ("512M", "NAME=VALUE"),
                      ("LOG=loud", "loud"), ("BUDGET=1M", "8M"), ("#" + "x" * 20000, "longer"), ("BUDGET=512M\0", "text file")):
        rewrite(config, text)
        before = len(daemon.told)
        daemon.reload()
        assert "budget 1 GiB; not reloaded: " in daemon.told[before:] and why in daemon.told[before:], daemon.told[before:]
    assert daemon.call("ps")["budget_bytes"] == 1024 * MIB and agent.limit == 1024 * MIB

    rewrite(config, "BUDGET=none\n")
    daemon.reload()
    daemon.until(lambda: agent.limit == 0)
    daemon.kill(signal.SIGTERM)
    rewrite(config, "nonsense\n")
    refused = subprocess.run([OVERBOOKD, "--socket-dir", daemon.dir, "--config", config.name], capture_output=True, text=True, timeout=20)
    assert refused.returncode == 1 and "line 1" in refused.stderr and refused.stderr.count("\n") == 1, refused
    rewrite(config, "")
    daemon.start()


@with_daemon()
def signals_end_it_in_order(daemon):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        daemon.process.send_signal(number)
        daemon.until_told("STOPPING=1")
        daemon.kill(0)
        assert daemon.process.returncode == 0
        assert not os.path.exists(daemon.dir + "/agents.sock") and not os.path.exists(daemon.dir + "/overbookd.sock")
        daemon.start()


@with_daemon()
def feeds_the_watchdog(daemon):
    daemon.kill(signal.SIGTERM)
    daemon.start(WATCHDOG_USEC="200000")
    for _ in range(3):
        daemon.until_told("WATCHDOG=1")


@with_daemon()
def keeps_no_privilege(daemon):
    with open("/proc/%d/status" % daemon.process.pid) as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    for sets in ("CapInh", "CapPrm", "CapEff", "CapAmb") + (("CapBnd",) if os.geteuid() == 0 else ()):
        assert int(lines[sets], 16) == 0, (sets, lines[sets])
    assert lines["NoNewPrivs"] == "1"
    with open("/proc/self/status") as status:
        mine = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if mine >> CAP_SYS_RESOURCE & 1:
        with open("/proc/%d/oom_score_adj" % daemon.process.pid) as score:
            assert int(score.read()) <= -900
    for name in ("overbookd.sock", "agents.sock", "overbookd.pid"):
        assert os.stat(daemon.dir + "/" + name).st_mode & 0o077 == 0


@with_daemon()
def other_users_are_turned_away(daemon):
    if os.geteuid() != 0:
        return
    os.chmod(daemon.dir, 0o755)
    for name, kind in (("overbookd.sock", socket.SOCK_STREAM), ("agents.sock", socket.SOCK_SEQPACKET)):
        os.chmod(daemon.dir + "/" + name, 0o777)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.connect(daemon.dir + "/" + name)
            try:
                theirs.send(b"closed" if sock.recv(10) == b"" else b"open")
            except ConnectionResetError:
                theirs.send(b"closed")
            os._exit(0)
        ours.settimeout(20)
        assert ours.recv(10) == b"closed"
        os.waitpid(pid, 0)
    daemon.until_logged("uid 65534")


@with_daemon()
def a_machine_appears_reports_and_goes(daemon):
    agent = Agent(daemon, "web", ram=256 * MIB, limit=100 * MIB, maximum=100 * MIB, shares=7)
    daemon.until(lambda: daemon.state("web") == "running")
    agent.send(message(RANGES, struct.pack("<IIIQQ", 1, 1, 0, 4096, 8192)))
    daemon.until(lambda: daemon.machine("web")["cost_bytes"] == 100 * MIB)
    daemon.until(lambda: daemon.call("stats", name="web")["ranges"])
    stats = daemon.call("stats", name="web")
    assert stats["ok"] and stats["pid"] == agent.pid and stats["shares"] == 7 and stats["maximum_bytes"] == 100 * MIB
    assert stats["stats"]["ram_bytes"] == 256 * MIB and stats["stats"]["cost_bytes"] == 100 * MIB
    assert stats["stats"]["pool_writeback_pages"] == 0 and stats["fault_latency"]["swapped"]["count"] == 0
    assert stats["ranges"] == [{"kind": "ram", "start": 4096, "end": 8192}]
    daemon.until(lambda: 1000 in agent.polls)
    agent.die()
    daemon.until(lambda: daemon.state("web") is None)


@with_daemon("--budget", "1G")
def it_ends_cleanly_among_machines_and_clients(daemon):
    daemon.admit("first")
    _, second = daemon.admit("second")
    starting = Agent(daemon, "starting", limit=NOT_STARTED, connect=False)
    assert daemon.call("admit", name="starting", ram_bytes=MIB, pid=starting.pid)["ok"]
    clients = [Client(daemon) for _ in range(3)]
    clients[0].send("release", name="second")
    clients[1].send("limit", name="first", maximum_bytes=20 * MIB, wait=True)
    clients[2].sock.sendall(b"{")
    daemon.until(lambda: second.released)
    Agent(daemon, "mute", connect=False).connect(say=False)
    daemon.kill(signal.SIGTERM)
    assert daemon.process.returncode == 0
    daemon.start()


@with_daemon()
def what_is_counted_comes_with_the_list_for_who_asks(daemon):
    agent = Agent(daemon, "web")
    daemon.until(lambda: daemon.machine("web"))
    assert "counts" not in daemon.machine("web")
    values = dict(ram_bytes=512 * MIB, faults_touch=1, faults_bench=2, faults_zero=3, faults_compressed=4, faults_swapped=5, faults_shared=6,
                  stall_ns=7, swap_in_pages=8, swap_out_pages=2 ** 64 - 1, shared_bytes=4096)
    agent.statistics = lambda: [values.get(name, 0) for name in FIELDS]
    daemon.until(lambda: daemon.machine("web")["shared_bytes"] == 4096)
    answer = daemon.call("ps", counts=True)
    counts = answer["machines"][0]["counts"]
    assert 0 <= counts.pop("age_ms") < 5000
    assert counts == {"faults": {"touch": 1, "bench": 2, "zero": 3, "compressed": 4, "swapped": 5, "shared": 6}, "stall_ns": 7,
                      "swap_in_pages": 8, "swap_out_pages": 2 ** 63 - 1}, counts
    assert answer["pid"] == daemon.process.pid and answer["now_ms"] > 0 and answer["program_version"]
    assert answer["stores"] == {"store_bytes": 0, "shared_bytes": 0, "saved_bytes": 0}
    assert daemon.call("ps", counts=1)["code"] == "bad-request"


@with_daemon()
def histograms_become_quantiles(daemon):
    agent = Agent(daemon, "h")
    buckets = [0] * 72
    buckets[20], buckets[30] = 90, 10
    agent.send(message(STATS, struct.pack("<IQII", 1, 1, 1, 72) + struct.pack("<72Q", *buckets)))
    agent.deaf = True
    client = Client(daemon)
    found = {}
    while not found.get("count"):
        client.send("stats", name="h")
        line = b""
        while not line.endswith(b"\n"):
            line += client.sock.recv(65536)
        found = json.loads(line)["fault_latency"]["touch"]
    assert found["count"] == 100 and found["p50_us"] == found["p90_us"] == 1.28 and 32 < found["p99_us"] < 49, found


@with_daemon()
def names_are_unique_and_pids_are_checked(daemon):
    agent = Agent(daemon, "web")
    daemon.until(lambda: daemon.state("web") == "running")
    twin = Agent(daemon, "web")
    liar = Agent(daemon, "liar", connect=False)
    liar.connect(say=False)
    liar.hello(pid=os.getpid())
    daemon.until(lambda: twin.closed and liar.closed)
    assert not agent.closed and daemon.machine("web")["pid"] == agent.pid and daemon.machine("liar") is None
    assert daemon.call("admit", name="web", ram_bytes=MIB, pid=twin.pid)["code"] == "refused"
    agent.die()
    daemon.until(lambda: daemon.state("web") is None)
    twin.connect()
    daemon.until(lambda: daemon.state("web") == "running")


@with_daemon()
def what_breaks_the_rules_is_cut_off(daemon):
    good = Agent(daemon, "good")
    daemon.until(lambda: daemon.state("good") == "running")
    before = [b"x", b"\0" * 24, message(POLL), message(STATS, b"\0" * 12), message(HELLO), message(77), b"A" * 65537,
              message(HELLO, version=9), message(HELLO, magic=b"EVIL"), message(HELLO, reserved=1)]
    after = [b"x" * 30, message(SET_LIMIT, b"\0" * 16), message(RELEASE), message(STATS, b"\xff" * 12), message(REPLY, b"\0" * 9),
             message(RANGES, b"\xff" * 4), message(STOPPED, b"\x01\x01x"), message(STATS, length=2 ** 32 - 1), "hello"]
    for data in before:
        agent = Agent(daemon, "bad", connect=False).connect(say=False)
        agent.send(data)
        daemon.until(lambda: agent.closed)
        agent.die()
    for data in after:
        agent = Agent(daemon, "bad")
        daemon.until(lambda: daemon.state("bad") == "running")
        if data == "hello":
            agent.hello()
        else:
            agent.send(data)
        daemon.until(lambda: agent.closed)
        assert daemon.state("bad") == "lost"
        agent.die()
        daemon.until(lambda: daemon.state("bad") is None)
    newer = Agent(daemon, "newer")
    newer.send(message(77, b"what newer agents say"))
    daemon.until(lambda: daemon.state("newer") == "running")
    assert not newer.closed and not good.closed and daemon.state("good") == "running"


@with_daemon()
def a_silent_connection_is_cut_off(daemon):
    agent = Agent(daemon, "mute", connect=False).connect(say=False)
    agent.report = lambda: None
    daemon.until(lambda: agent.closed, 10)


@with_daemon("--budget", "768M")
def a_lost_machine_keeps_its_memory_and_may_return(daemon):
    daemon.budget = 768 * MIB
    _, agent = daemon.admit("web")
    _, other = daemon.admit("other")
    daemon.until(lambda: agent.limit == other.limit == 384 * MIB)
    agent.disconnect()
    daemon.until(lambda: daemon.state("web") == "lost")
    assert daemon.call("limit", name="web", maximum_bytes=0)["code"] == "failed"
    for _ in range(20):
        daemon.serve()
    assert other.limit == 384 * MIB
    agent.connect()
    daemon.until(lambda: daemon.state("web") == "running")
    agent.disconnect()
    agent.die()
    daemon.until(lambda: other.limit > 500 * MIB)


@with_daemon()
def an_unreadable_page_is_shown(daemon):
    agent = Agent(daemon, "web")
    agent.send(message(STOPPED, text("page 7 of \x1b[31mswap\n is bad")))
    daemon.until(lambda: daemon.state("web") == "stopped")
    assert daemon.machine("web")["cause"] == "page 7 of ?[31mswap? is bad"
    agent.send(message(STOPPED, text("")))
    daemon.until(lambda: daemon.state("web") == "running")
    assert "cause" not in daemon.machine("web")


@with_daemon()
def without_a_budget_the_maximum_is_the_limit(daemon):
    answer, agent = daemon.admit("web", maximum_bytes=200 * MIB)
    assert answer["limit_bytes"] == 200 * MIB
    assert daemon.call("limit", name="web", maximum_bytes=100 * MIB)["limit_bytes"] == 100 * MIB
    daemon.until(lambda: agent.limit == 100 * MIB == agent.maximum)
    assert daemon.call("limit", name="web", maximum_bytes=0)["ok"]
    daemon.until(lambda: agent.limit == 0 == agent.maximum)
    answer, _ = daemon.admit("free")
    assert answer["limit_bytes"] == 0
    # An agent that comes with another limit than its maximum (a budget of before) gets its maximum.
    third = Agent(daemon, "third", limit=64 * MIB, maximum=128 * MIB)
    daemon.until(lambda: third.limit == 128 * MIB)


@with_daemon("--budget", "768M")
def admission_shrinks_the_others_first(daemon):
    daemon.budget = 768 * MIB
    answer, first = daemon.admit("first")
    assert answer["limit_bytes"] == ceiling(512 * MIB)
    first.step = 8 * MIB
    daemon.until(lambda: first.cost == answer["limit_bytes"] and 1000 in first.polls)
    answer, second = daemon.admit("second")
    assert 64 * MIB <= answer["limit_bytes"] <= 384 * MIB
    daemon.until(lambda: 50 in first.polls)
    daemon.until(lambda: first.limit == second.limit == 384 * MIB)
    for number in range(3, 6):
        answer, _ = daemon.admit("m%d" % number, shares=number * 500)
        assert answer["ok"], answer
    daemon.until(lambda: all(daemon.machine(a.name)["limit_bytes"] == daemon.machine(a.name)["target_bytes"] for a in daemon.agents))
    assert sum(agent.limit for agent in daemon.agents) > 767 * MIB
    daemon.until(lambda: first.polls[-1] == 1000, 30)


@with_daemon("--budget", "512M")
def what_cannot_be_guaranteed_is_not_admitted(daemon):
    daemon.budget = 512 * MIB
    _, first = daemon.admit("first", reservation_bytes=300 * MIB)
    answer, second = daemon.admit("second", reservation_bytes=256 * MIB)
    assert answer["code"] == "refused", answer
    for words in ("second", "256 MiB", "300 MiB", "556 MiB", "512 MiB"):
        assert words in answer["error"], answer
    second.die()
    assert daemon.machine("second") is None
    answer, third = daemon.admit("third", reservation_bytes=200 * MIB)
    assert answer["ok"]
    daemon.until(lambda: first.limit >= 300 * MIB and third.limit >= 200 * MIB)
    answer = daemon.call("limit", name="first", maximum_bytes=100 * MIB)
    assert answer["code"] == "refused" and "300 MiB" in answer["error"]


@with_daemon("--budget", "512M")
def admission_waits_a_while_and_tells(daemon):
    daemon.budget = 512 * MIB
    _, first = daemon.admit("first")
    first.step = 0
    daemon.until(lambda: first.cost == 512 * MIB)
    second = Agent(daemon, "second", limit=NOT_STARTED, connect=False)
    client = Client(daemon)
    client.send("admit", name="second", ram_bytes=512 * MIB, pid=second.pid)
    daemon.until(lambda: client.poll() is None and client.progress)
    assert daemon.state("second") == "waiting" and client.progress[-1]["total"] == 64 * MIB, client.progress
    client.close()
    daemon.until(lambda: daemon.state("second") is None)
    began = time.monotonic()
    answer = daemon.call("admit", name="second", ram_bytes=512 * MIB, pid=second.pid)
    assert answer["code"] == "refused" and "64 MiB" in answer["error"] and 9 < time.monotonic() - began < 14, answer
    first.step = 32 * MIB
    answer, _ = daemon.admit("second", agent=second)
    assert answer["ok"], answer


@with_daemon("--budget", "512M")
def an_admitted_machine_that_never_comes_is_forgotten(daemon):
    first = Agent(daemon, "first", limit=NOT_STARTED, connect=False)
    assert daemon.call("admit", name="first", ram_bytes=512 * MIB, pid=first.pid)["ok"]
    assert daemon.state("first") == "starting"
    again = daemon.call("admit", name="first", ram_bytes=256 * MIB, pid=first.pid)
    assert again["ok"] and again["limit_bytes"] == ceiling(256 * MIB), again
    first.die()
    daemon.until(lambda: daemon.state("first") is None)


@with_daemon("--budget", "1G")
def the_budget_holds_whatever_happens(daemon):
    daemon.budget = 1024 * MIB
    rng = random.Random(4711)
    random.seed(4711)
    for turn in range(60):
        what = rng.choice(["admit", "admit", "die", "limit", "limit", "blink", "serve"])
        connected = [agent for agent in daemon.agents if agent.sock and not agent.closed]
        if what == "admit" and len(daemon.agents) < 9:
            ram = rng.choice([64, 256, 512, 2048]) * MIB
            answer, agent = daemon.admit("m%d" % turn, ram=ram, shares=rng.choice([100, 1000, 5000]),
                                         reservation_bytes=rng.choice([0, 0, 32 * MIB]))
            agent.step = rng.choice([16, 64, 512]) * MIB
            if not answer["ok"]:
                agent.die()
        elif what == "die" and connected:
            rng.choice(connected).die()
        elif what == "limit" and connected:
            daemon.call("limit", name=rng.choice(connected).name, maximum_bytes=rng.choice([0, 32, 100, 300]) * MIB)
        elif what == "blink" and connected:
            agent = rng.choice(connected)
            agent.disconnect()
            daemon.until(lambda: daemon.state(agent.name) == "lost")
            agent.connect()
        for _ in range(rng.randrange(12)):
            daemon.serve()
    for agent in daemon.agents:
        daemon.call("limit", name=agent.name, maximum_bytes=0)
    daemon.until(lambda: all(row["limit_bytes"] == row["target_bytes"] for row in daemon.call("ps")["machines"]))
    assert daemon.peak > 1000 * MIB


@with_daemon("--budget", "1G")
def machines_come_back_to_a_new_overbookd(daemon):
    daemon.budget = 1024 * MIB
    agents = [daemon.admit("m%d" % i)[1] for i in range(4)]
    assert daemon.call("limit", name="m3", maximum_bytes=100 * MIB)["ok"]
    daemon.until(lambda: agents[0].limit > 300 * MIB and agents[3].limit == 100 * MIB)
    for agent in agents:
        os.makedirs(daemon.dir + "/machines/" + agent.name)
        with open(daemon.dir + "/machines/%s/lock" % agent.name, "w") as lock:
            lock.write("%d\n" % agent.pid)
    os.makedirs(daemon.dir + "/machines/dead")
    with open(daemon.dir + "/machines/dead/lock", "w") as lock:
        lock.write("%d\n" % (2 ** 31 - 1))
    daemon.kill()
    daemon.until(lambda: all(agent.closed for agent in agents))
    before = [len(agent.limits) for agent in agents]
    daemon.start()
    # One comes first; it must not be given what the others still cost.
    agents[0].connect()
    daemon.until(lambda: daemon.state("m0") == "running")
    for _ in range(20):
        daemon.serve()
    assert len(agents[0].limits) == before[0] or agents[0].limits[-1] <= agents[0].limits[before[0] - 1]
    for agent in agents[1:]:
        agent.connect()
    daemon.until(lambda: [daemon.state(agent.name) for agent in agents] == ["running"] * 4)
    assert daemon.machine("m3")["maximum_bytes"] == 100 * MIB
    answer, _ = daemon.admit("late")
    assert answer["ok"], answer


@with_daemon("--budget", "1G")
def a_limit_can_be_waited_for(daemon):
    _, agent = daemon.admit("web")
    agent.step = 4 * MIB
    daemon.until(lambda: agent.cost > 500 * MIB)
    client = Client(daemon)
    answer = client.call("limit", name="web", maximum_bytes=256 * MIB, wait=True)
    assert answer["ok"] and answer["cost_bytes"] <= 256 * MIB == answer["limit_bytes"], answer
    assert client.progress and client.progress[-1]["done"] <= client.progress[-1]["total"] > 200 * MIB, client.progress
    agent.step = 0
    client.send("limit", name="web", maximum_bytes=128 * MIB, wait=True)
    daemon.until(lambda: agent.limit == 128 * MIB)
    agent.die()
    answer = client.answer()
    assert answer["code"] == "failed" and "web" in answer["error"], answer


@with_daemon("--budget", "1G")
def a_released_machine_is_counted_but_not_ordered(daemon):
    _, agent = daemon.admit("web")
    _, other = daemon.admit("other", ram=2048 * MIB, shares=4000)
    daemon.until(lambda: other.limit > 800 * MIB)
    client = Client(daemon)
    client.send("release", name="web")
    daemon.until(lambda: agent.released)
    assert daemon.state("web") == "releasing"
    assert daemon.call("release", name="web")["code"] == "failed"
    agent.reply(agent.released, -EINPROGRESS, "1000 131072")
    daemon.until(lambda: client.poll() is None and client.progress and client.progress[-1]["total"])
    assert client.progress[-1]["done"] == 1000 and client.progress[-1]["total"] == 131072
    agent.limit, agent.flags, orders = 0, 1, len(agent.limits)
    agent.reply(agent.released)
    answer = client.answer()
    assert answer["ok"] and answer["limit_bytes"] == 0 and answer["state"] == "released", answer
    # Its engine sees nothing of it any more; its RAM is set aside all the same.
    daemon.until(lambda: daemon.machine("web")["cost_bytes"] == MIB)
    daemon.until(lambda: other.limit == 1024 * MIB - 512 * MIB)
    assert len(agent.limits) == orders
    # So it is still after a change of overbookd.
    daemon.kill()
    daemon.until(lambda: agent.closed and other.closed)
    daemon.start()
    agent.connect()
    other.connect()
    daemon.until(lambda: daemon.state("web") == "released" and daemon.state("other") == "running")
    for _ in range(20):
        daemon.serve()
    assert len(agent.limits) == orders
    assert daemon.call("limit", name="web", maximum_bytes=200 * MIB)["ok"]
    daemon.until(lambda: agent.limit == 200 * MIB)
    assert daemon.state("web") == "running"


@with_daemon()
def a_release_that_does_not_fit_is_refused(daemon):
    _, agent = daemon.admit("web", maximum_bytes=100 * MIB)
    agent.swapped = 1 << 50
    daemon.until(lambda: daemon.call("stats", name="web")["stats"]["swapped_bytes"] == 1 << 50)
    answer = daemon.call("release", name="web")
    assert answer["code"] == "refused" and "1 PiB" in answer["error"] and "5%" in answer["error"], answer
    client = Client(daemon)
    client.send("release", name="web", force=True)
    daemon.until(lambda: agent.released)
    agent.reply(agent.released, -12, "out of \x07memory")
    answer = client.answer()
    assert answer["code"] == "failed" and "out of ?memory" in answer["error"], answer
    daemon.until(lambda: agent.limits and agent.limits[-1] == 100 * MIB)


@with_daemon("--budget", "512M")
def an_order_that_fails_is_tried_again(daemon):
    agent = Agent(daemon, "web")
    agent.refuse_limits = True
    daemon.until_logged("no?such?[31m limit")
    assert daemon.state("web") == "running"
    # Nothing moves meanwhile, so that nobody is asked often.
    daemon.until(lambda: agent.polls and agent.polls[-1] == 1000)
    agent.refuse_limits = False
    daemon.until(lambda: agent.limit == 512 * MIB)


@with_daemon("--budget", "24M")
def an_earlier_agent_has_the_least_that_it_takes(daemon):
    earlier, machine = Agent(daemon, "earlier", 128 * MIB), Agent(daemon, "web", 128 * MIB)
    earlier.refuse_below = 16 * MIB
    daemon.until(lambda: (earlier.limit, machine.limit) == (16 * MIB, 8 * MIB))


@with_daemon()
def slow_and_hostile_clients_hold_nobody_up(daemon):
    _, agent = daemon.admit("web", maximum_bytes=256 * MIB)
    daemon.until(lambda: daemon.state("web") == "running")
    half = Client(daemon)
    half.sock.sendall(b'{"version":1,')
    # One that asks a lot and reads nothing: overbookd stops reading from it.
    greedy = Client(daemon)
    greedy.sock.setblocking(False)
    request, sent = b'{"version":1,"command":"stats","name":"web"}\n' * 500, 0
    end = time.monotonic() + 20
    while select.select([], [greedy.sock], [], 0.3)[1]:
        assert time.monotonic() < end and sent < 64 << 20
        try:
            sent += greedy.sock.send(request)
        except BlockingIOError:
            pass
    long = Client(daemon)
    try:
        long.sock.sendall(b"x" * 70000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    answer = long.answer()
    assert answer["code"] == "bad-request" and "65536" in answer["error"]
    many = []
    for _ in range(300):
        many.append(Client(daemon))
    began = time.monotonic()
    assert daemon.call("ps")["ok"]
    assert time.monotonic() - began < 5
    with open("/proc/%d/status" % daemon.process.pid) as status:
        resident = [int(line.split()[1]) for line in status if line.startswith("VmRSS")][0]
    assert resident < 64 * 1024, "overbookd takes %d KiB" % resident
    # A request in pieces is a request, if its connection was not the one that had to make room.
    pieces = Client(daemon)
    for byte in b'{"version":1,"command":"version"}\n':
        pieces.sock.sendall(bytes([byte]))
    assert pieces.answer()["ok"]
    for client in many:
        client.close()
    pipelined = Client(daemon)
    pipelined.sock.sendall(b'{"version":1,"command":"version"}\n' * 50)
    pipelined.sock.shutdown(socket.SHUT_WR)
    assert all(pipelined.answer()["ok"] for _ in range(50))


@with_daemon("--budget", "512M")
def an_agent_that_does_not_read_holds_nobody_up(daemon):
    _, deaf = daemon.admit("deaf")
    daemon.until(lambda: deaf.limits or deaf.polls)
    deaf.deaf = True
    client = Client(daemon)
    for turn in range(3000):
        assert client.call("limit", name="deaf", maximum_bytes=(32 + turn % 64) * MIB)["ok"]
    deaf.deaf = False
    daemon.until(lambda: deaf.limits and deaf.limits[-1] == (32 + 2999 % 64) * MIB)
    flood = Agent(daemon, "flood")
    for _ in range(2000):
        try:
            flood.sock.send(message(STOPPED, text("")))
        except BlockingIOError:
            pass
    assert daemon.call("ps")["ok"]


def overbook(daemon, *args):
    """The command-line tool; the agents are served while it runs."""
    process = subprocess.Popen([OVERBOOK, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
    daemon.until(lambda: process.poll() is not None)
    out, err = process.communicate()
    return process.returncode, out, err


@with_daemon("--budget", "1G")
def the_command_line_tool_shows_and_sets(daemon):
    if not OVERBOOK:
        return
    _, agent = daemon.admit("web", reservation_bytes=64 * MIB)
    daemon.until(lambda: daemon.machine("web")["cost_bytes"] > 0)
    code, out, err = overbook(daemon, "ps")
    lines = out.splitlines()
    assert code == 0 and not err and lines[0].split()[:7] == ["NAME", "PID", "STATE", "RAM", "LIMIT", "USES", "COST"], (out, err)
    assert lines[1].split()[:3] == ["web", str(agent.pid), "running"] and "budget of 1 GiB" in lines[2]
    code, out, _ = overbook(daemon, "ps", "--json")
    assert code == 0 and json.loads(out)["machines"][0]["name"] == "web" and "ok" not in json.loads(out)
    code, out, _ = overbook(daemon, "stats", "web")
    assert code == 0 and "Where its memory is" in out and "Fault latency" in out and "swapped" in out
    code, out, _ = overbook(daemon, "stats", "--json", "web")
    assert code == 0 and json.loads(out)["stats"]["ram_bytes"] == 512 * MIB
    code, out, _ = overbook(daemon, "limit", "web", "200M", "--wait")
    assert code == 0 and "maximum 200 MiB" in out and agent.limit == 200 * MIB and agent.cost <= 200 * MIB
    code, out, _ = overbook(daemon, "limit", "web", "none", "--json")
    assert code == 0 and json.loads(out)["maximum_bytes"] == 0
    for args, expected in ((("limit", "web", "32M"), 5), (("limit", "ghost", "none"), 4), (("stats", "ghost"), 4),
                           (("release", "ghost"), 4), (("limit", "web", "7M"), 2), (("limit", "web", "much"), 2), (("limit", "web"), 2),
                           (("stats",), 2), (("ps", "x"), 2), (("ps", "--x"), 2), (("release",), 2), (("release", "a", "b"), 2),
                           (("stats", "../x"), 2)):
        code, out, err = overbook(daemon, *args)
        assert code == expected and not out and err.startswith("overbook: ") and err.count("\n") == 1, (args, code, out, err)
    process = subprocess.Popen([OVERBOOK, "release", "web"], stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, OVERBOOK_RUNDIR=daemon.dir))
    daemon.until(lambda: agent.released)
    agent.reply(agent.released)
    daemon.until(lambda: process.poll() is not None)
    assert process.returncode == 0 and "released" in process.communicate()[0]
    daemon.kill(signal.SIGTERM)
    code, out, err = overbook(daemon, "ps")
    assert code == 3 and "overbookd does not answer" in err, (code, err)
    daemon.start()


@with_daemon()
def the_command_line_tool_shows_where_the_time_of_faults_goes(daemon):
    if not OVERBOOK:
        return
    _, agent = daemon.admit("web")
    values = dict.fromkeys(FIELDS, 0) | {"fault_touch_wait_ns": 1000000, "fault_bench_wait_ns": 5000000, "fault_bench_install_ns": 400000}
    buckets = [0] * 72
    buckets[20] = 100
    said = message(STATS, struct.pack("<I%dQII144Q" % len(FIELDS), len(FIELDS), *values.values(), 2, 72, *buckets, *buckets))
    agent.report = lambda: agent.send(said)  # nothing else
    daemon.until(lambda: daemon.call("stats", name="web")["fault_latency"]["all"]["count"] == 200)
    code, out, _ = overbook(daemon, "stats", "web", "--faults")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if "|" in line}
    assert code == 0 and rows["touch"][:6] == ["touch", "100", "|", "10.0", "0.0", "0.0"], out
    assert rows["bench"][3:6] == ["50.0", "0.0", "4.0"] and rows["zero"][3:6] == ["0.0"] * 3, out
    # All kinds together: each fault counts once.
    assert rows["all"][:6] == ["all", "200", "|", "30.0", "0.0", "2.0"], out


if __name__ == "__main__":
    sys.exit(main(OVERBOOK))
