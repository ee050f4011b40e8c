# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a machine's memory as gdb does: its remote protocol, as much of it as that takes."""
import socket


class GdbStub:
    """A connection to QEMU's stub, which stops the machine. Leaving it lets the machine go on."""
    PIECE = 1024

    def __init__(self, path, timeout=120):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.rest = b""
        self.ask("qSupported")
        if self.ask("Qqemu.PhyMemMode:1") != "OK":
            raise RuntimeError("the stub does not read physical memory")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ask("D")
        self.socket.close()

    def ask(self, text):
        self.socket.sendall(f"${text}#{sum(text.encode()) % 256:02x}".encode())
        while b"$" not in self.rest or len(self.rest) < self.rest.index(b"$") + 3 or self.rest[-3:-2] != b"#":
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the stub hung up")
            self.rest += data
        answer = self.rest[self.rest.index(b"$") + 1:-3].decode()
        self.rest = b""
        self.socket.sendall(b"+")
        return answer

    def read(self, address, length):
        data = b""
        while len(data) < length:
            data += bytes.fromhex(self.ask(f"m{address + len(data):x},{min(self.PIECE, length - len(data)):x}"))
        return data
