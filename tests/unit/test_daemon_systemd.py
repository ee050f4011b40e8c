#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""overbookd's descriptors are kept by the real systemd, with the user's unit: test_daemon_systemd.py OVERBOOKD UNIT SOCKET. Prints
TAP. A user's systemd runs in a mount namespace of its own, where nothing of it is seen outside. share_harness.py plays the agents."""
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True  # the source tree stays clean

import daemon_harness
from daemon_harness import Daemon, test
from share_harness import check, pair, ready, row, share

SYSTEMD = "/lib/systemd/systemd"
RUN = "/run/user/0"
PR_SET_PDEATHSIG = 1
PAGES = 5000  # more than an extent has


class Service(Daemon):
    """An overbookd that systemd runs: as Daemon, but for its start and its end."""

    def __init__(self):
        self.agents, self.budget, self.peak, self.reserved, self.told, self.heard = [], None, 0, {}, "", 0
        self.dir = RUN + "/overbook"

    def hear_all(self):
        """That is systemd's."""

    def value(self, name):
        return systemctl("show", "-p", name, "--value", "overbookd.service")


def systemctl(*words):
    return subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True, check=True).stdout.strip()


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path, errors="replace") as file:
        return file.read()


def wait(condition, what):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain: " + what
        time.sleep(0.05)


@test
def systemd_keeps_what_is_shared():
    service = Service()
    systemctl("start", "overbookd.socket", "overbookd.service")
    one, two = pair(service, PAGES)
    before, fetched = dict(one.held), one.fetched + two.fetched
    wait(lambda: service.value("NFileDescriptorStore") == "2", "both extents are kept")
    for how in ("SIGKILL", "restart", "SIGABRT"):
        pid = service.value("MainPID")
        if how == "restart":
            systemctl("--no-block", "restart", "overbookd.service")
        else:
            os.kill(int(pid), getattr(signal, how))
        service.until(lambda: one.closed and two.closed)
        for agent in (one, two):
            agent.disconnect()
            agent.on = None
            agent.connect()
        ready(service, one, two)
        service.until(lambda: row(service, "a")["held_pages"] == row(service, "b")["held_pages"] == PAGES)
        assert service.value("MainPID") != pid and service.value("NFileDescriptorStore") == "2"
        found = share(service)
        assert found["store_bytes"] == found["restored_bytes"] == found["slots_used_bytes"] == PAGES * 4096, found
        assert one.held == two.held == before and one.fetched + two.fetched == fetched
        check(one, two)
    systemctl("stop", "overbookd.socket", "overbookd.service")
    assert service.value("NFileDescriptorStore") == "0" and service.value("ActiveState") == "inactive"
    for agent in (one, two):
        agent.die()


def run_below_systemd(unit, socket_unit):
    """In the namespace: starts systemd with the units, and runs the tests."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.makedirs("/run/systemd/system")  # what systemd looks at to see whether it may
    os.makedirs(RUN, 0o700)
    units = RUN + "/config/systemd/user"
    os.makedirs(units)
    os.environ.update(XDG_RUNTIME_DIR=RUN, XDG_CONFIG_HOME=RUN + "/config", OVERBOOK_RUNDIR=RUN + "/overbook")
    with open(unit) as file:
        lines = file.read().split("\n")
    with open(units + "/overbookd.service", "w") as copy:
        for line in lines:
            if line.startswith("ExecStart="):
                line = "ExecStart=%s --socket-dir %s/overbook\nStandardError=append:/run/log" % (OVERBOOKD, RUN)
            copy.write(line + "\n")
    shutil.copy(socket_unit, units + "/overbookd.socket")
    with open("/run/systemd.log", "w") as log:
        manager = subprocess.Popen([SYSTEMD, "--user", "--unit=basic.target"], stdout=log, stderr=log,
                                   env=dict(os.environ, SYSTEMD_LOG_TARGET="console"),
                                   preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    try:
        end = time.monotonic() + 10
        while not os.path.exists(RUN + "/systemd/private") and manager.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if not os.path.exists(RUN + "/systemd/private"):
            print("1..0 # SKIP no systemd of a user's can run here: " + read("/run/systemd.log")[-200:].replace("\n", " "))
            return 0
        failed = daemon_harness.main(None)
        if failed:
            sys.stderr.write(read("/run/log") + read("/run/systemd.log"))
        return failed
    finally:
        manager.terminate()
        manager.wait()


def main():
    if os.environ.get("OVERBOOK_TEST_INSIDE"):
        return run_below_systemd(*sys.argv[2:4])
    if os.getuid() != 0 or not os.path.exists(SYSTEMD) or subprocess.run(["unshare", "--mount", "true"]).returncode:
        print("1..0 # SKIP needs root, systemd, and a mount namespace")
        return 0
    return subprocess.run(["unshare", "--mount", "--propagation", "private", sys.executable, "-B", *sys.argv],
                          env=dict(os.environ, OVERBOOK_TEST_INSIDE="1")).returncode


OVERBOOKD = daemon_harness.OVERBOOKD = os.path.abspath(sys.argv[1])
if __name__ == "__main__":
    sys.exit(main())
