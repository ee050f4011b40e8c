#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Small Debian systems in directories, for building and trying packages:
#
#     debian-root.sh make SUITE DIR [PACKAGE...]   unpacks a minimal Debian of that suite, with packages, in DIR
#     debian-root.sh run DIR PROGRAM [WORD...]     runs a program in it; the exit status is the program's
#
# What `make` unpacks is kept in ${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/overbook}, one archive for each suite and list
# of packages, so only the first time takes a network and minutes. OVERBOOK_MIRROR: where from, when debootstrap's own choice is
# not wanted.
#
# A program that is run has /proc and /sys, and process ids of its own: whatever it leaves behind ends with it. It has the
# host's kernel and network, no service is started, and nothing of the host's /dev is there but what every program needs.
#
# Needs root (chroot, mount, device nodes) and debootstrap.
set -eu

fail() {
	echo "debian-root: $*" >&2
	exit 1
}

# In a mount and process namespace of its own.
enter() {
	root=$1
	shift
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	unset OVERBOOK_CACHE XDG_CACHE_HOME XDG_RUNTIME_DIR XDG_STATE_HOME LD_PRELOAD
	export HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
	cd "$root"
	exec chroot "$root" /usr/bin/env -C / "$@"
}

run() {
	root=$(realpath "$1")
	shift
	exec unshare --mount --propagation private --pid --fork --kill-child -- "$0" enter "$root" "$@"
}

make_archive() { # SUITE ARCHIVE PACKAGE...
	suite=$1 archive=$2
	shift 2
	command -v debootstrap >/dev/null || fail "debootstrap is missing; run apt-get install debootstrap"
	work=$archive.work
	rm -rf --one-file-system "$work"
	echo "debian-root: making a Debian $suite; the log is $archive.log" >&2
	debootstrap --variant=minbase "$suite" "$work" ${OVERBOOK_MIRROR:-} >"$archive.log" 2>&1 ||
		fail "debootstrap failed: $(tail -n 1 "$archive.log"); is there a network?"
	printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
	chmod 755 "$work/usr/sbin/policy-rc.d"
	# Some minimal systems leave manual pages out.
	rm -f "$work/etc/dpkg/dpkg.cfg.d/excludes"
	[ $# = 0 ] || "$0" run "$work" apt-get -q -y --no-install-recommends install "$@" >>"$archive.log" 2>&1 ||
		fail "cannot install $*: $(tail -n 1 "$archive.log")"
	"$0" run "$work" apt-get clean
	tar -C "$work" -cf "$archive.new" --numeric-owner --xattrs .
	mv "$archive.new" "$archive"
	rm -rf --one-file-system "$work"
}

make_root() { # SUITE DIR PACKAGE...
	suite=$1 root=$2
	shift 2
	cache=${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var}/.cache}/overbook}
	mkdir -p "$cache" "$root" || fail "cannot make the directories $cache and $root"
	archive=$cache/root-$suite-$(echo "$*" | sha256sum | cut -c 1-12).tar
	exec 9>"$archive.lock"
	flock 9
	[ -e "$archive" ] || make_archive "$suite" "$archive" "$@" 9>&-
	exec 9>&-
	tar -C "$root" -xf "$archive" --numeric-owner --xattrs
	cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
}

[ "$(id -u)" = 0 ] || fail "chroot and mount need root: run it with sudo"
command=${1:-}
[ $# -ge 1 ] && shift
case "$command" in
make) [ $# -ge 2 ] || fail "make needs a suite and a directory"; make_root "$@" ;;
run) [ $# -ge 2 ] || fail "run needs a directory and a program"; run "$@" ;;
enter) enter "$@" ;;
*) echo "usage: debian-root.sh make SUITE DIR [PACKAGE...] | run DIR PROGRAM [WORD...]" >&2; exit 2 ;;
esac
