# SPDX-License-Identifier: GPL-2.0-or-later
"""Small file systems of memory, in a mount namespace of the test's own, which it enters with the first of them."""
import contextlib
import ctypes
import os
import subprocess

import machine as harness
import tap

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE, MS_REMOUNT = 0x4000, 1 << 18, 32
own_namespace = False


def mount(path, options, flags=0):
    if harness.libc.mount(b"tmpfs", path.encode(), b"tmpfs", ctypes.c_ulong(flags), options.encode()):
        tap.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def small_file_system(path, options):
    """A tmpfs on a directory, as long as it lasts. Skips the case where that is not allowed."""
    global own_namespace
    if not own_namespace:
        if harness.libc.unshare(CLONE_NEWNS) or harness.libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None):
            tap.skip(f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}")
        own_namespace = True
    mount(path, options)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=False)


def resize(path, options):
    mount(path, options, MS_REMOUNT)


def used_bytes(path):
    """What files take on a file system, those without a name included."""
    fs = os.statvfs(path)
    return (fs.f_blocks - fs.f_bfree) * fs.f_frsize
