#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The Debian packages, built for a release and tried in a minimal system of that release: installed by apt with what they depend
# on, used, purged. Speaks TAP. Needs root, debootstrap and, the first time, a network. Usage: test_package.sh BUILDDIR SUITE
set -u
build=$(realpath "$1") suite=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
[ "$(id -u)" = 0 ] || { echo "1..0 # SKIP needs root"; exit 0; }
command -v debootstrap >/dev/null || { echo "1..0 # SKIP debootstrap is not installed"; exit 0; }

work=$(mktemp -d "${OVERBOOK_TEST_DIR:-/var/tmp}/overbook-package-XXXXXX") || exit 1
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
count=0

result() { # OK DESCRIPTION [LOG]
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $suite: $2"
	else
		echo "not ok $count - $suite: $2"
		[ -z "${3:-}" ] || tail -n 40 "$3" | sed 's/^/# /'
	fi
}

give_up() {
	echo "1..$count"
	exit 1
}

in_root() {
	"$here/scripts/debian-root.sh" run "$root" "$@"
}

# Counts what a script inside has found.
tell() { # FILE
	while IFS= read -r line; do
		case "$line" in
		'ok - '*) count=$((count + 1)); echo "ok $count - $suite: ${line#ok - }" ;;
		'not ok - '*) count=$((count + 1)); echo "not ok $count - $suite: ${line#not ok - }" ;;
		*) echo "# ${line#\# }" ;;
		esac
	done <"$1"
}

# Whoever is process 1 of its namespace among the children of systemd-nspawn, which has others while it starts.
init_below() { # PID
	for child in $(pgrep -P "$1"); do
		! grep -qs '^NSpid:.*[[:space:]]1$' "/proc/$child/status" || echo "$child"
	done
}

# Boots the system with its own systemd, runs a program there, and ends it. Old control groups want to be asked for since 256.
boot() { # PROGRAM WORD...
	SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 systemd-nspawn -q --register=no --keep-unit -D "$root" --boot --console=pipe \
		</dev/null >"$work/boot.log" 2>&1 &
	nspawn=$!
	init=
	for try in $(seq 600); do
		init=$(init_below "$nspawn")
		if [ -n "$init" ] && nsenter -t "$init" -m -u -i -n -p -C systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then
			break
		fi
		kill -0 "$nspawn" || break
		sleep 0.2
	done
	[ -z "$init" ] || nsenter -t "$init" -m -u -i -n -p -C env -i LC_ALL=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
	# As a machine that is told to halt at once, which nspawn takes for its end.
	kill -s KILL "${init:-$nspawn}"
	wait "$nspawn"
}

# Everything that lies in the system, without what apt, dpkg, systemctl and others keep about themselves: kind, rights, owner,
# name, contents.
snapshot() { # FILE
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache -o \
		-path ./var/log -o -path ./etc/ld.so.cache -o -path ./srv/guest -o -path ./srv/packages -o -path ./run/systemd/systemd-units-load -o \
		-name 'inside.sh' -o -name 'booted.sh' -o -name 'guest.sh' -o -name 'overbook_*.deb' -o -path './etc/g*-' -o \
		-path './etc/passwd-' -o -path './etc/shadow-' \) -prune -o -printf '%y %m %U:%G %p %l\n' | sort
	cd "$root" && find etc usr var/lib opt root home -xdev -type f ! -path 'var/lib/dpkg/*' ! -path 'var/lib/apt/*' ! -path etc/ld.so.cache \
		! -path 'etc/*-' -exec sha256sum {} + | sort -k 2) >"$1"
}

deb=$("$here/scripts/build-deb.sh" "$work/deb" "$suite" 2>"$work/log" | tail -n 1)
[ -e "$deb" ]
result $? 'the package is built' "$work/log"
[ -e "$deb" ] || give_up

# A host as people have one: what is not in here, apt brings with the package.
"$here/scripts/debian-root.sh" make "$suite" "$root" systemd udev man-db bash-completion zsh qemu-system-x86 2>"$work/log"
result $? 'a host is made' "$work/log"
mkdir -p "$root/srv/guest" && cp "$build/guest/vmlinuz" "$build/guest/initrd.gz" "$root/srv/guest/" 2>/dev/null
cp "$here/tests/package/inside.sh" "$here/tests/package/booted.sh" "$here/tests/package/guest.sh" "$deb" "$root/"
package=/$(basename "$deb")
mkdir "$root/srv/packages" && mv "$(dirname "$deb")"/overbook-guest_*.deb "$(dirname "$deb")"/liboverbook-app*.deb "$root/srv/packages/" &&
	rm -f "$root"/srv/packages/*dbgsym* && cp "$build/contrib/example-cache" "$root/srv/packages/"
in_root apt-get -q update >"$work/log" 2>&1
snapshot "$work/before"

in_root apt-get -q -y --no-install-recommends install "$package" >"$work/log" 2>&1
result $? 'apt installs it with what it depends on' "$work/log"

in_root sh /inside.sh "$package" >"$work/inside" 2>&1
grep -q '^ok' "$work/inside" || { result 1 'nothing could be tried in it' "$work/inside"; give_up; }
tell "$work/inside"

{ in_root apt-get -q -y purge overbook && in_root apt-get -q -y autoremove --purge; } >"$work/log" 2>&1
result $? 'apt purges it' "$work/log"
snapshot "$work/after"
diff "$work/before" "$work/after" >"$work/log"
result $? 'nothing of it is left' "$work/log"

# What is for guests.
in_root sh -c 'apt-get -q -y --no-install-recommends install /srv/packages/*.deb' >"$work/log" 2>&1
result $? 'apt installs the packages for guests' "$work/log"
if command -v systemd-nspawn >/dev/null; then
	boot sh /guest.sh /srv/packages/example-cache >"$work/inside" 2>&1
	grep -q '^ok' "$work/inside" || result 1 'the guest boots' "$work/boot.log"
	tell "$work/inside"
fi
{ in_root apt-get -q -y purge overbook-guest liboverbook-app0 liboverbook-app-dev && in_root apt-get -q -y autoremove --purge; } >"$work/log" 2>&1
result $? 'apt purges them' "$work/log"
[ ! -e "$root/usr/sbin/overbook-guest" ] && ! find "$root/etc/systemd" "$root/var/lib/systemd" "$root/usr/lib" -name '*overbook-guest*' -o -name '*overbook-app*' | grep . >"$work/log"
result $? 'nothing of them is left' "$work/log"

# The same system, booted: systemd with the unit's walls around overbookd.
if command -v systemd-nspawn >/dev/null; then
	in_root apt-get -q -y --no-install-recommends install "$package" >"$work/log" 2>&1
	boot sh /booted.sh "$package" >"$work/inside" 2>&1
	grep -q '^ok' "$work/inside" || result 1 'the system boots' "$work/boot.log"
	tell "$work/inside"
else
	count=$((count + 1))
	echo "ok $count - $suite: overbookd under systemd # SKIP systemd-nspawn is not installed (systemd-container)"
fi
echo "1..$count"
