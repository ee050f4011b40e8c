# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of bench/share-index: real Debian systems under TCG that do different things, and the recording of their memory.

All boot one image (bookworm with systemd, made once by scripts/debian-root.sh and kept in overbook's cache), as machines
cloned from a template do; the kernel's command line says what a machine's role is. Their RAM is a file on tmpfs, without
Overbook, which share_record.c reads while the machine is stopped.

What a monitor of memory would see, how often each part of a page is written, comes by one of two ways:
    stores    share_stores.c, a plugin of QEMU's, counts each store of the guest's processor (not what devices write)
    samples   share_record.c looks which parts have changed, so many times between two passes

A recording is a directory: "passes" and "contents" as share_record.h says, and "about.json".
"""
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from lib import Failure, Unfit

PACKAGES = ("systemd-sysv udev initramfs-tools linux-image-cloud-amd64 nginx-light redis-server redis-tools sqlite3 gcc libc6-dev "
            "make apache2-utils python3-minimal").split()
IMAGE_MIB = 1536
PATIENCE = 1800.0  # seconds that a guest may take to boot under TCG with each store counted, and four more beside it
BOOT_ARGS = "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.show_status=0 role="

# What runs in the guest as a service, once it is up. Each role goes on until the machine is ended.
ROLES = {
    "idle": "sleep infinity",
    "web": """
        systemctl start nginx
        python3 -c '
import random
for i in range(300):
    r = random.Random(i)
    words = ["%x" % r.getrandbits(24) for _ in range(400)]
    with open(f"/var/www/html/{i}.html", "w") as f:
        f.write("<html><body>" + "\\n".join(" ".join(r.choices(words, k=12)) for _ in range(r.randrange(20, 900))) + "</body></html>")
'
        ready
        while :; do
            for i in $(seq 0 299); do ab -q -n 40 -c 4 http://127.0.0.1/$i.html >/dev/null 2>&1; done
        done""",
    "redis": """
        systemctl start redis-server
        until redis-cli ping >/dev/null 2>&1; do sleep 0.2; done
        ready
        while :; do redis-benchmark -q -r 60000 -n 20000 -d 400 -t set,get,lpush,hset >/dev/null 2>&1; done""",
    "sqlite": """
        cd /var/lib
        sqlite3 bench.db 'create table t (id integer primary key, k integer, v text); create index i on t (k);'
        ready
        while :; do
            sqlite3 bench.db "begin; with recursive n(x) as (select 1 union all select x + 1 from n limit 2000)
                insert into t (k, v) select abs(random()) % 100000, hex(randomblob(60)) from n; commit;
                update t set v = hex(randomblob(60)) where k % 97 = abs(random()) % 97;
                select count(*), sum(k) from t where k between 1000 and 60000;" >/dev/null
        done""",
    "compile": """
        ready
        while :; do
            for f in /srv/source/*/*.c; do gcc -O2 -g -D_GNU_SOURCE -I/srv/source -c -o /tmp/$(basename "$f").o "$f" || :; done
        done""",
}

SERVICE = """[Unit]
After=multi-user.target
[Service]
Type=exec
ExecStart=/usr/local/sbin/role
[Install]
WantedBy=multi-user.target
"""


def role_program():
    cases = "\n".join(f"{role})\n{body}\n;;" for role, body in ROLES.items())
    return f"""#!/bin/sh
ready() {{ echo "ROLE ready" >/dev/ttyS0; }}
role=$(sed 's/.*role=//; s/ .*//' /proc/cmdline)
hostname "$role"
case "$role" in
idle) ready ;;
esac
case "$role" in
{cases}
esac
"""


def run_or_fail(argv, seconds):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unfit(f"{argv[0]}: {e}") from None
    if done.returncode:
        raise Unfit(f"{os.path.basename(argv[0])} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)


def make_image(bench, directory):
    """Unpacks a Debian, gives it the roles, and makes a disk of it. Returns disk, kernel, initrd."""
    if os.geteuid() != 0:
        raise Unfit("making Debian guests needs root")
    for program in ("qemu-system-x86_64", "debootstrap", "mkfs.ext4"):
        if shutil.which(program) is None:
            raise Unfit(f"{program} is missing")
    root = os.path.join(directory, "root")
    bench.say("making a Debian system for the guests")
    run_or_fail([os.path.join(bench.root, "scripts", "debian-root.sh"), "make", "bookworm", root] + PACKAGES, 1800)
    write(os.path.join(root, "usr/local/sbin/role"), role_program(), 0o755)
    write(os.path.join(root, "etc/systemd/system/role.service"), SERVICE)
    write(os.path.join(root, "etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")
    write(os.path.join(root, "etc/machine-id"), "5d41402abc4b2a76b9719d911017c592\n")
    shutil.copytree(os.path.join(bench.root, "src"), os.path.join(root, "srv/source"))
    for verb, unit in (("disable", "nginx"), ("disable", "redis-server"), ("enable", "role"), ("mask", "apt-daily.timer"),
                       ("mask", "apt-daily-upgrade.timer")):
        run_or_fail(["chroot", root, "systemctl", verb, unit], 60)
    kernel, initrd, disk = (os.path.join(directory, name) for name in ("vmlinuz", "initrd", "disk"))
    shutil.copy(os.path.realpath(os.path.join(root, "boot", os.readlink(os.path.join(root, "vmlinuz")).split("/")[-1])), kernel)
    shutil.copy(os.path.realpath(os.path.join(root, "boot", os.readlink(os.path.join(root, "initrd.img")).split("/")[-1])), initrd)
    run_or_fail(["mkfs.ext4", "-q", "-F", "-d", root, disk, f"{IMAGE_MIB}M"], 300)
    shutil.rmtree(root)
    return disk, kernel, initrd


class Guest:
    def __init__(self, directory, role, memory_mib, files, plugin):
        disk, kernel, initrd = files
        self.role = role
        self.ram = os.path.join(directory, role + ".ram")
        self.counts = os.path.join(directory, role + ".counts") if plugin else None
        self.qmp_path = os.path.join(directory, role + ".qmp")
        for path, size in ((self.ram, memory_mib << 20),) + (((self.counts, (memory_mib << 20) // 512 * 4),) if plugin else ()):
            with open(path, "wb") as f:
                f.truncate(size)
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=128", "-machine", "pc,memory-backend=pc.ram", "-m", f"{memory_mib}M",
                "-object", f"memory-backend-file,id=pc.ram,size={memory_mib}M,mem-path={self.ram},share=on", "-smp", "1", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                "-kernel", kernel, "-initrd", initrd, "-append", BOOT_ARGS + role, "-device", "virtio-rng-pci",
                "-drive", f"file={disk},format=raw,if=virtio,snapshot=on,cache=unsafe"]
        if plugin:
            argv += ["-plugin", f"{plugin},counts={self.counts},bytes={memory_mib << 20}"]
        self.ready = threading.Event()
        self.tail = []
        with open(os.path.join(directory, role + ".log"), "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.qmp = None

    def read(self):
        for raw in self.process.stdout:
            self.tail = self.tail[-20:] + [raw.decode("ascii", "replace").strip()]
            if b"ROLE ready" in raw:
                self.ready.set()

    def wait_ready(self, deadline):
        while not self.ready.wait(1):
            if self.process.poll() is not None:
                raise Unfit(f"the guest {self.role} ended with status {self.process.returncode}: {self.tail[-3:]}")
            if time.monotonic() > deadline:
                raise Unfit(f"the guest {self.role} did not come up: {self.tail[-3:]}")
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.connect(self.qmp_path)
        self.qmp = s.makefile("rw")
        self.qmp.readline()
        self.order("qmp_capabilities")

    def order(self, command):
        self.qmp.write(json.dumps({"execute": command}) + "\n")
        self.qmp.flush()
        for line in self.qmp:
            answer = json.loads(line)
            if "error" in answer:
                raise Failure(f"{command}: {answer['error']}")
            if "return" in answer:
                return
        raise Unfit(f"the guest {self.role} ended")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


class Recorder:
    """share_record, told by lines what to do; it answers each with one."""

    def __init__(self, bench, out, guests):
        argv = [os.path.join(bench.build, "bench", "share_record"), out] + [g.ram + (":" + g.counts if g.counts else "") for g in guests]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.startswith("ok"):
            raise Failure(f"share_record: {answer.strip() or 'it ended'}")
        return answer.split()[1:]

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def record_passes(bench, recorder, guests, passes, interval, samples):
    for number in range(passes):
        began = time.monotonic()
        for sample in range(samples):
            rest = began + (sample + 1) * interval / samples - time.monotonic()
            if rest > 0:
                time.sleep(rest)  # the distance of passes is what is wanted, not something to happen
            for i, guest in enumerate(guests):
                if sample + 1 < samples:
                    if not guest.counts:
                        recorder.tell(f"sample {i}")
                    continue
                guest.order("stop")
                recorder.tell(f"pass {i}")
                guest.order("cont")
        bench.say(f"pass {number + 1} of {passes}: {recorder.tell('end')[0]} contents so far")


def record(bench, out, monitor, memory_mib, passes, interval, samples):
    """Boots the guests, lets them work, and records. The recording appears whole or not at all."""
    new = out + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    guests, recorder = [], None
    directory = tempfile.mkdtemp(prefix="overbook-share.", dir="/var/tmp")
    memory = tempfile.mkdtemp(prefix="overbook-share.", dir="/dev/shm")
    try:
        files = make_image(bench, directory)
        plugin = os.path.join(bench.build, "bench", "libshare_stores.so") if monitor == "stores" else None
        bench.say(f"booting {len(ROLES)} guests of {memory_mib} MiB under TCG")
        began = time.monotonic()
        for role in ROLES:
            guests.append(Guest(memory, role, memory_mib, files, plugin))
        for guest in guests:
            guest.wait_ready(began + PATIENCE)
            bench.say(f"{guest.role} is ready")
        boot = time.monotonic() - began
        time.sleep(interval)  # they have all begun to work
        recorder = Recorder(bench, new, guests)
        record_passes(bench, recorder, guests, passes, interval, samples)
        with open(os.path.join(new, "about.json"), "w", encoding="utf-8") as f:
            json.dump({"guests": list(ROLES), "memory_mib": memory_mib, "passes": passes, "interval_s": interval, "monitor": monitor,
                       "samples_a_pass": samples, "boot_s": round(boot), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, f)
        recorder.end()
        recorder = None
        os.rename(new, out)
    finally:
        if recorder:
            recorder.end()
        for guest in guests:
            guest.end()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
