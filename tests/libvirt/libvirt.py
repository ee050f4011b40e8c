# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd of the test's own, and domains on it whose emulator is overbook-qemu.

System(paths) is libvirt as root, with machines under libvirt's own user: Debian's libvirtd and virtlogd in a private mount
namespace, where /etc/libvirt, /run/libvirt, /var/lib/libvirt, /var/log/libvirt, /var/cache/libvirt and the directory of
Overbook's settings are directories of the test, and /dev/userfaultfd is a node of the test with the permissions that
docs/libvirt.md advises. The host's own libvirt, if there is one, is not touched, and none of its files is changed.
Session(paths) is libvirt of an ordinary user, with his own libvirtd; his directories lie in the test's.

Both are a machine.Host of the guest tests: a directory, overbookd (under the user that runs the machines), the CLI. What
the machines' user must reach (programs, agent, kernel, run directory) is copied to or made in that directory, since a clone
may lie where he may not look.

A Domain is a machine of the guest tests that libvirt starts: its console is a pair of FIFOs, its pid is libvirt's.
"""
import contextlib
import glob
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import uuid
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
import machine as harness

MIB = harness.MIB
USERFAULTFD = "/dev/userfaultfd"
PROGRAMS = ("libvirtd", "virtlogd", "virsh", "qemu-img", "unshare", "nsenter", "setpriv")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The private namespace; $1 is the directory, $2 that of Overbook's settings. In it libvirtd runs in the foreground.
NAMESPACE = r"""
set -e
cd "$1"
mount --make-rprivate /
for pair in etc:/etc/libvirt run-libvirt:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt \
	conf:"$2"; do
	from=$1/${pair%%:*} to=${pair#*:}
	mkdir -p "$from" "$to"
	case $to in /etc/libvirt|/var/lib/libvirt|/var/cache/libvirt) cp -a "$to/." "$from/" ;; esac
	mount --bind "$from" "$to"
done
rm -rf /var/cache/libvirt/qemu/capabilities /etc/libvirt/qemu/networks/autostart /etc/libvirt/qemu/*.xml
rm -rf /var/lib/libvirt/qemu/save /var/lib/libvirt/qemu/domain-*
mkdir -p /var/lib/libvirt/qemu/save
mount --bind "$1/userfaultfd" /dev/userfaultfd
cat "$1/qemu.conf" >>/etc/libvirt/qemu.conf
virtlogd -p "$1/virtlogd.pid" &
exec libvirtd -p "$1/libvirtd.pid"
"""


def missing(user):
    """Why no libvirt can run here, or None."""
    if os.geteuid():
        return "not root"
    if not os.path.exists(USERFAULTFD):
        return f"there is no {USERFAULTFD}"
    for program in PROGRAMS:
        if not shutil.which(program, path=SYSTEM_PATH):
            return f"{program} is not installed (as root, make check-libvirt installs it)"
    try:
        pwd.getpwnam(user)
    except KeyError:
        return f"there is no user {user}"
    return None


def partitions():
    """The cgroups, of either version, in which libvirt makes those of its machines."""
    return set(glob.glob("/sys/fs/cgroup/machine*") + glob.glob("/sys/fs/cgroup/*/machine*"))


class Libvirt(harness.Host):
    """What System and Session share."""

    def __init__(self, paths, user):
        super().__init__(paths)
        self.user = pwd.getpwnam(user)
        self.server = None
        os.chmod(self.directory, 0o711)
        self.private = self.paths
        os.makedirs(self.path("tree/cli"))
        os.makedirs(self.path("tree/agent"))
        shutil.copy(paths.overbook, self.path("tree/cli/overbook"))
        shutil.copy(paths.overbookd, self.path("tree/cli/overbookd"))
        shutil.copy(paths.agent, self.path("tree/agent/liboverbook-agent.so"))
        self.emulator = self.path("tree/cli/overbook-qemu")
        os.symlink("overbook", self.emulator)
        for name in ("vmlinuz", "initrd.gz"):
            shutil.copy(os.path.join(paths.image, name), self.path(name))
            os.chmod(self.path(name), 0o644)
        self.paths = paths._replace(overbookd=self.path("tree/cli/overbookd"))
        for name in (self.rundir, self.swap):
            os.chown(name, self.user.pw_uid, self.user.pw_gid)
        os.makedirs(self.path("conf/machines"))
        os.chmod(self.path("conf"), 0o755)
        os.chmod(self.path("conf/machines"), 0o755)
        self.set_up()

    def as_user(self, *words):
        return ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups", *words]

    def start_daemon(self, *options):
        """overbookd, under the machines' user."""
        program, self.paths = self.paths, self.paths._replace(overbookd=self.path("overbookd.sh"))
        if not os.path.exists(self.path("overbookd.sh")):
            with open(self.path("overbookd.sh"), "w") as script:
                script.write("#!/bin/sh\nexec " + " ".join(self.as_user(program.overbookd)) + ' "$@"\n')
            os.chmod(self.path("overbookd.sh"), 0o755)
        super().start_daemon(*options)
        self.paths = program

    def set_up(self, **settings):
        """What is set for all machines; None leaves a setting out."""
        self.configure("machines.conf", {"rundir": self.rundir, "swap": self.swap, **settings})

    def configure(self, name, settings):
        path = self.path("conf/" + name)
        with open(path, "w") as file:
            file.write("# written by the test\n\n")
            file.writelines(f"{key} = {value}\n" for key, value in settings.items() if value is not None)
        os.chmod(path, 0o644)

    def start_libvirtd(self, words=None):
        with open(self.path("libvirtd.log"), "ab") as log:
            self.server = subprocess.Popen(words or self.server_words(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env=self.server_environment(), preexec_fn=harness.die_with_parent)

        def answers():
            assert self.server.poll() is None, f"libvirtd ended at its start: {harness.tail(self.path('libvirtd.log'), 5)}"
            return self.virsh("uri", check=False).returncode == 0
        harness.wait_until(answers, "libvirtd answers")

    def stop_libvirtd(self):
        if self.server:
            self.server.terminate()
            self.server.wait(harness.PATIENCE)
        self.server = None

    def virsh(self, *words, check=True, timeout=harness.PATIENCE):
        done = subprocess.run(self.virsh_words() + [*map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=self.server_environment(), timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"virsh {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done

    def close(self):
        for domain in self.machines:
            domain.destroy()
        self.stop_libvirtd()
        super().close()

    def domain(self, name, **options):
        domain = Domain(self, name, **options)
        self.machines.append(domain)
        return domain

    def describe_logs(self):
        logs = [super().describe_logs()]
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.log_directory())):
                logs.append(f"--- {name}\n{harness.tail(os.path.join(self.log_directory(), name))}")
        return "\n".join(logs)


class System(Libvirt):
    """libvirt as root. acl: whether libvirt lets its machines have /dev/userfaultfd."""
    USER = "libvirt-qemu"

    def __init__(self, paths, config_directory, acl=True):
        super().__init__(paths, self.USER)
        self.config_directory = config_directory
        node = os.stat(USERFAULTFD)
        os.mknod(self.path("userfaultfd"), stat.S_IFCHR | 0o660, node.st_rdev)
        os.chown(self.path("userfaultfd"), 0, self.user.pw_gid)
        os.chmod(self.path("userfaultfd"), 0o660)
        self.cgroups = partitions()
        devices = ["null", "full", "zero", "random", "urandom", "ptmx", "kvm"] + (["userfaultfd"] if acl else [])
        with open(self.path("qemu.conf"), "w") as file:
            file.write("cgroup_device_acl = [ " + ", ".join(f'"/dev/{name}"' for name in devices) + " ]\n"
                       'save_image_format = "raw"\n')
        self.start_libvirtd()

    def server_words(self):
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh", self.directory,
                self.config_directory]

    def restart_libvirtd(self):
        """In the namespace that is there, which virtlogd keeps; machines go on meanwhile."""
        self.server.terminate()
        self.server.wait(harness.PATIENCE)
        with open(self.path("virtlogd.pid")) as file:
            keeper = file.read().strip()
        self.start_libvirtd(["nsenter", f"--target={keeper}", "--mount", "libvirtd", "-p", self.path("libvirtd.pid")])

    def server_environment(self):
        return {"PATH": SYSTEM_PATH, "LC_ALL": "C", "HOME": "/root"}

    def virsh_words(self):
        return ["virsh", "-c", f"qemu+unix:///system?socket={self.path('run-libvirt/libvirt-sock')}"]

    def log_directory(self):
        return self.path("log/qemu")

    def pid_file(self, name):
        return self.path(f"run-libvirt/qemu/{name}.pid")

    def stop_libvirtd(self):
        super().stop_libvirtd()
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            with open(self.path("virtlogd.pid")) as file:
                os.kill(int(file.read()), signal.SIGTERM)
        # libvirt leaves the cgroup that it had its machines' cgroups in.
        for path in partitions() - self.cgroups:
            with contextlib.suppress(OSError):
                os.rmdir(path)


class Session(Libvirt):
    """libvirt of an ordinary user, who may use userfaultfd."""
    USER = "nobody"

    def __init__(self, paths):
        super().__init__(paths, self.USER)
        for name in ("home", "runtime"):
            os.mkdir(self.path(name), 0o700)
            os.chown(self.path(name), self.user.pw_uid, self.user.pw_gid)
        node = os.stat(USERFAULTFD)
        os.mknod(self.path("userfaultfd"), stat.S_IFCHR | 0o600, node.st_rdev)
        os.chown(self.path("userfaultfd"), self.user.pw_uid, self.user.pw_gid)
        self.start_libvirtd()

    def server_words(self):
        script = 'mount --bind "$1/userfaultfd" /dev/userfaultfd && shift && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", self.directory,
                *self.as_user("libvirtd")]

    def server_environment(self):
        return {"PATH": SYSTEM_PATH, "LC_ALL": "C", "HOME": self.path("home"), "XDG_RUNTIME_DIR": self.path("runtime"),
                "XDG_CONFIG_HOME": self.path("home/.config"), "XDG_CACHE_HOME": self.path("home/.cache")}

    def virsh_words(self):
        return self.as_user("virsh", "-c", f"qemu+unix:///session?socket={self.path('runtime/libvirt/libvirt-sock')}")

    def log_directory(self):
        return self.path("home/.cache/libvirt/qemu/log")

    def pid_file(self, name):
        return self.path(f"runtime/libvirt/qemu/run/{name}.pid")


class Domain(harness.Machine):
    """A machine that libvirt starts. Options beyond those of Machine that count here:

        xml         elements beside the usual ones ("" or "<memoryBacking>...")
        devices     elements in <devices>
        cpu         elements that replace <vcpu>
        variables   a dict: <qemu:env>
        balloon     the attributes of <memballoon>
    """

    def __init__(self, host, name, xml="", devices="", cpu="", variables=None, balloon="model='virtio'", emulator=None,
                 **options):
        super().__init__(host, name, **options)
        for end in (".in", ".out"):
            os.chown(self.console.path + end, host.user.pw_uid, host.user.pw_gid)
        self.log = os.path.join(host.log_directory(), name + ".log")
        append = self.line[self.line.index("-append") + 1]
        kind = options.get("machine", "pc")
        env = "".join(f"<qemu:env name='{key}' value='{value}'/>" for key, value in (variables or {}).items())
        self.xml = f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid.uuid4()}</uuid>
  <memory unit='MiB'>{self.memory // MIB}</memory>
  {cpu or "<vcpu>" + str(options.get("processors", 1)) + "</vcpu>"}
  <os><type arch='x86_64' machine='{kind}'>hvm</type><kernel>{host.path("vmlinuz")}</kernel>
    <initrd>{host.path("initrd.gz")}</initrd><cmdline>{escape(append)}</cmdline></os>
  <features><acpi/><apic/></features>
  <on_reboot>restart</on_reboot>
  {xml}
  <devices>
    <emulator>{emulator or host.emulator}</emulator>
    <serial type='pipe'><source path='{self.console.path}'/><target port='0'/></serial>
    <memballoon {balloon}/>
    {devices}
  </devices>
  <qemu:commandline>{env}</qemu:commandline>
</domain>
"""
        with open(host.path(name + ".xml"), "w") as file:
            file.write(self.xml)
        os.chmod(host.path(name + ".xml"), 0o644)

    def define(self):
        self.host.virsh("define", self.host.path(self.name + ".xml"))

    def create(self):
        """Starts it, as a domain that libvirt forgets when it ends."""
        self.host.virsh("create", self.host.path(self.name + ".xml"))
        self.adopt()

    def start(self):
        self.host.virsh("start", self.name)
        self.adopt()

    def refused(self):
        """Tries to start it, in vain. Returns what virsh says."""
        done = self.host.virsh("create", self.host.path(self.name + ".xml"), check=False)
        assert done.returncode, f"{self.name} was started"
        return done.stderr

    def adopt(self):
        """libvirt has started it (anew): takes its pid."""
        self.let_go()
        with open(self.host.pid_file(self.name)) as file:
            self.pid = int(file.read())
        self.pidfd = os.pidfd_open(self.pid)
        if self.limit and self.host.daemon:
            self.meter = harness.Meter(self)

    def let_go(self):
        self.stop_meter()
        self.meter = None
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def gone(self):
        """libvirt has ended it, or is about to."""
        harness.wait_until(lambda: not self.alive(), f"{self.name} has ended")
        self.let_go()

    def destroy(self):
        if self.host.server and self.host.server.poll() is None:
            self.host.virsh("destroy", self.name, check=False)
            self.host.virsh("undefine", "--managed-save", "--snapshots-metadata", self.name, check=False)

    def state(self):
        return self.host.virsh("domstate", self.name).stdout.strip()

    def virsh(self, command, *words, **options):
        return self.host.virsh(command, self.name, *words, **options)

    def monitor(self, text):
        return self.host.virsh("qemu-monitor-command", self.name, "--hmp", text).stdout

    def is_ours(self):
        """Whether the agent is in QEMU."""
        with open(f"/proc/{self.pid}/maps") as file:
            return "liboverbook-agent.so" in file.read()
