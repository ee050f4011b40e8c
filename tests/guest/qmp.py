# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP client: one connection, commands answered in order, events kept until somebody waits for them."""
import json
import socket
import time


class QmpError(Exception):
    """What QEMU answered instead of a result."""


class Qmp:
    def __init__(self, path, timeout):
        self.events = []
        self.rest = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.greeting = self._receive(time.monotonic() + timeout)
        self.command("qmp_capabilities", timeout=timeout)

    def close(self):
        self.socket.close()

    def _receive(self, deadline):
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("QEMU's monitor says nothing")
            self.socket.settimeout(left)
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("QEMU has closed its monitor")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, timeout=120, **arguments):
        """Returns the result; underscores in argument names stand for dashes."""
        request = {"execute": name, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(message["error"]["desc"])
            else:
                return message["return"]

    def hmp(self, line, timeout=300):
        """A command of the human monitor. It answers nothing where all is well, except for queries."""
        return self.command("human-monitor-command", timeout=timeout, command_line=line)

    def wait_event(self, name, timeout=120):
        """The oldest event of that name, taken out; waits for it if there is none yet."""
        deadline = time.monotonic() + timeout
        while True:
            for i, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(i)
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)
