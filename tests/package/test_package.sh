#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The Debian package, built for a release and tried in a minimal system of that release: installed by apt with what it depends
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

# Everything that lies in the system, without what apt, dpkg and others keep about themselves: kind, rights, owner, name, contents.
snapshot() { # FILE
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache -o \
		-path ./var/log -o -path ./etc/ld.so.cache -o -path ./guest -o -name 'inside.sh' -o -name 'overbook_*.deb' -o -path './etc/g*-' -o \
		-path './etc/passwd-' -o -path './etc/shadow-' \) -prune -o -printf '%y %m %U:%G %p %l\n' | sort
	cd "$root" && find etc usr var/lib opt srv root home -xdev -type f ! -path 'var/lib/dpkg/*' ! -path 'var/lib/apt/*' ! -path etc/ld.so.cache \
		! -path 'etc/*-' -exec sha256sum {} + | sort -k 2) >"$1"
}

deb=$("$here/scripts/build-deb.sh" "$work/deb" "$suite" 2>"$work/log" | tail -n 1)
[ -e "$deb" ]
result $? 'the package is built' "$work/log"
[ -e "$deb" ] || give_up

# A host as people have one: what is not in here, apt brings with the package.
"$here/scripts/debian-root.sh" make "$suite" "$root" systemd udev man-db bash-completion zsh qemu-system-x86 2>"$work/log"
result $? 'a host is made' "$work/log"
mkdir -p "$root/guest" && cp "$build/guest/vmlinuz" "$build/guest/initrd.gz" "$root/guest/" 2>/dev/null
cp "$here/tests/package/inside.sh" "$deb" "$root/"
package=/$(basename "$deb")
in_root apt-get -q update >"$work/log" 2>&1
snapshot "$work/before"

in_root apt-get -q -y --no-install-recommends install "$package" >"$work/log" 2>&1
result $? 'apt installs it with what it depends on' "$work/log"

in_root sh /inside.sh "$package" >"$work/inside" 2>&1
grep -q '^ok' "$work/inside" || { result 1 'nothing could be tried in it' "$work/inside"; give_up; }
while IFS= read -r line; do
	case "$line" in
	'ok - '*) count=$((count + 1)); echo "ok $count - $suite: ${line#ok - }" ;;
	'not ok - '*) count=$((count + 1)); echo "not ok $count - $suite: ${line#not ok - }" ;;
	*) echo "# ${line#\# }" ;;
	esac
done <"$work/inside"

{ in_root apt-get -q -y purge overbook && in_root apt-get -q -y autoremove --purge; } >"$work/log" 2>&1
result $? 'apt purges it' "$work/log"
snapshot "$work/after"
diff "$work/before" "$work/after" >"$work/log"
result $? 'nothing of it is left' "$work/log"
echo "1..$count"
