#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Sees to it that a Debian host can build, test and demonstrate Overbook: an x86-64 kernel of 6.8 or newer, and the Debian
# packages below. As root it installs what is missing, and says so; otherwise it prints the command that does, and fails.
# With the argument "libvirt" also what make check-libvirt needs.
# Does nothing when nothing is missing. docs/dependencies.md says what each package is for.
set -eu

packages="gcc libc6-dev make meson ninja-build pkg-config python3
libcmocka-dev libjansson-dev libmicrohttpd-dev libncurses-dev libsystemd-dev liblz4-dev liburing-dev libxxhash-dev libcap-ng-dev
qemu-system-x86 qemu-utils redis-tools mariadb-server-core cpio gzip xz-utils util-linux"
[ "${1:-}" != libvirt ] || packages="$packages libvirt-daemon-system libvirt-clients"

fail() {
	echo "overbook: $*" >&2
	exit 1
}

machine=$(uname -m)
[ "$machine" = x86_64 ] || fail "this is $machine; the demo and the tests need x86_64"
kernel=$(uname -r)
major=${kernel%%.*}
minor=${kernel#*.}
minor=${minor%%[!0-9]*}
if [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -lt 8 ]; }; then
	fail "Linux $kernel is too old: 6.8 or newer is needed (UFFDIO_MOVE). Debian 13 has it; on Debian 12 install linux-image-amd64 from bookworm-backports and reboot"
fi
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
	fail "this is not Debian: install the counterparts of these packages yourself:" $packages

missing=
for package in $packages; do
	# A package that another one provides (pkgconf for pkg-config) counts by what it brings.
	case "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" in
	installed) ;;
	*) [ "$package" = pkg-config ] && command -v pkg-config >/dev/null || missing="$missing $package" ;;
	esac
done

# The guest's kernel is downloaded through apt, which must know of it, unless it has been downloaded before.
cache=${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/overbook}
lists=
if ! ls "$cache"/linux-image-*-cloud-amd64.deb >/dev/null 2>&1 && [ -z "${OVERBOOK_GUEST_PACKAGE:-}" ]; then
	[ -n "$(apt-cache show linux-image-cloud-amd64 2>/dev/null)" ] || lists=missing
fi

[ -n "$missing$lists" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	[ -z "$missing" ] || fail "packages are missing; run: sudo apt-get update && sudo apt-get install --no-install-recommends$missing"
	fail "apt has no package lists; run: sudo apt-get update"
fi
export DEBIAN_FRONTEND=noninteractive
if [ -n "$lists" ]; then
	echo "overbook: fetching apt's package lists"
	apt-get -q -q update || fail "apt-get update failed: is there a network?"
fi
[ -n "$missing" ] || exit 0
echo "overbook: installing$missing"
apt-get -q -q -y --no-install-recommends install $missing >/dev/null || {
	apt-get -q -q update && apt-get -q -q -y --no-install-recommends install $missing >/dev/null
} || fail "apt-get could not install:$missing"
