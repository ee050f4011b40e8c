# SPDX-License-Identifier: GPL-2.0-or-later
"""The other side of a vhost-user network device, as far as QEMU needs it to start one: it answers what is asked, and keeps
what it was told. Descriptors of memory that it is given are counted."""
import array
import os
import socket
import struct
import threading

GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_MEM_TABLE, ADD_MEM_REG = 1, 15, 17, 5, 37
VERSION, REPLY, NEED_REPLY = 1, 4, 8
VIRTIO_F_VERSION_1, PROTOCOL_FEATURES = 1 << 32, 1 << 30
COMMON = 1 << 15 | 1 << 17 | 1 << 28 | 1 << 29  # merged buffers, a control queue, indirect descriptors, event indices


class BackEnd:
    def __init__(self, path):
        self.requests = []
        self.memory_descriptors = 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                peer, _ = self.listener.accept()
                with peer:
                    while self._answer(peer):
                        pass
            except OSError:
                return

    def _answer(self, peer):
        head, ancillary, _, _ = peer.recvmsg(12, socket.CMSG_SPACE(64))
        if len(head) < 12:
            return False
        request, flags, size = struct.unpack("<III", head)
        while size:
            size -= len(peer.recv(size))
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[:len(data) // 4 * 4])
        for descriptor in descriptors:
            os.close(descriptor)
        self.requests.append(request)
        if request in (SET_MEM_TABLE, ADD_MEM_REG):
            self.memory_descriptors += len(descriptors)
        answers = {GET_FEATURES: VIRTIO_F_VERSION_1 | PROTOCOL_FEATURES | COMMON, GET_PROTOCOL_FEATURES: 0, GET_QUEUE_NUM: 1}
        if request in answers or flags & NEED_REPLY:
            peer.sendall(struct.pack("<IIIQ", request, VERSION | REPLY, 8, answers.get(request, 0)))
        return True

    def close(self):
        self.listener.close()
