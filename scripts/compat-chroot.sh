#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A Debian 13 beside this host, in which the project is built and tested against that release's compiler, libc and QEMU:
#
#     compat-chroot.sh prepare                makes it, unless it is there already
#     compat-chroot.sh run PROGRAM [WORD...]  runs a program in it, in the present directory; the exit status is the program's
#
# The tree is ${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/overbook}/debian-SUITE, made by debootstrap from
# OVERBOOK_COMPAT_MIRROR (http://deb.debian.org/debian) and filled by the install-deps.sh of this very clone, so it is also
# a trial of that script on a bare system. It is made anew when install-deps.sh asks for other packages. About 900 MiB.
#
# A program that is run sees the clone, the present directory and OVERBOOK_TEST_DIR at their own places, and the host's
# /dev, /proc and /sys: it uses the host's kernel, and its own everything else. All mounts are in a mount namespace that
# ends with the program; each step becomes the next by exec, so a signal to this script's process reaches the program.
#
# Needs root (chroot, mount) and debootstrap.
set -eu

suite=${OVERBOOK_COMPAT_SUITE:-trixie}
mirror=${OVERBOOK_COMPAT_MIRROR:-http://deb.debian.org/debian}
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var}/.cache}/overbook}
root=$cache/debian-$suite

fail() {
	echo "compat-chroot: $*" >&2
	exit 1
}

# enter DIR PROGRAM...: the inner half, already in a mount namespace of its own.
enter() {
	directory=$1
	shift
	# The root is made a mount point, so that the program may change how mounts propagate, as on a real system.
	mount --bind "$root" "$root"
	for tree in dev proc sys; do
		mount --rbind "/$tree" "$root/$tree"
	done
	for tree in "$here" "$directory" "${OVERBOOK_TEST_DIR:-}"; do
		[ -n "$tree" ] && [ -d "$tree" ] || continue
		mkdir -p "$root$tree"
		mount --rbind "$tree" "$root$tree"
	done
	unset OVERBOOK_CACHE XDG_CACHE_HOME XDG_RUNTIME_DIR
	export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
	# A program that is elsewhere in there (python3 of a virtual environment) is looked up by its name.
	program=$1
	shift
	case $program in
	/*) [ -e "$root$program" ] || program=${program##*/} ;;
	esac
	exec chroot "$root" /usr/bin/env -C "$directory" "$program" "$@"
}

run() {
	[ -e "$root/inputs" ] || fail "there is no $root: run compat-chroot.sh prepare"
	exec unshare --mount --propagation private -- "$0" enter "$PWD" "$@"
}

prepare() {
	inputs=$({ sed -n '/^packages=/,/"$/p' "$here/scripts/install-deps.sh"; echo "$suite $mirror"; } | sha256sum | cut -d ' ' -f 1)
	mkdir -p "$cache" || fail "cannot make the directory $cache"
	exec 9>"$root.lock"
	flock 9
	[ "$(cat "$root/inputs" 2>/dev/null)" != "$inputs" ] || return 0
	command -v debootstrap >/dev/null || fail "debootstrap is missing; run apt-get install debootstrap"
	# Nothing is ever mounted below it in this namespace; --one-file-system in case somebody did.
	rm -rf --one-file-system "$root" "$root.new"
	echo "compat-chroot: making a Debian $suite in $root" >&2
	debootstrap --variant=minbase "$suite" "$root.new" "$mirror" >"$root.log" 2>&1 ||
		fail "debootstrap failed: $(tail -n 1 "$root.log"); the log is $root.log; is there a network?"
	# No service is to start in there.
	printf '#!/bin/sh\nexit 101\n' >"$root.new/usr/sbin/policy-rc.d"
	chmod 755 "$root.new/usr/sbin/policy-rc.d"
	echo 'deb '"$mirror $suite"' main' >"$root.new/etc/apt/sources.list"
	mv "$root.new" "$root"
	echo incomplete >"$root/inputs"
	"$0" run "$here/scripts/install-deps.sh" >>"$root.log" 2>&1 ||
		fail "install-deps.sh failed in it: $(tail -n 1 "$root.log"); the log is $root.log"
	"$0" run apt-get -q -q clean
	echo "$inputs" >"$root/inputs"
}

[ "$(uname -m)" = x86_64 ] || fail "this is $(uname -m); x86_64 is needed"
[ "$(id -u)" = 0 ] || fail "chroot and mount need root: run it with sudo"
command=${1:-}
[ $# -ge 1 ] && shift
case "$command" in
prepare) [ $# = 0 ] || fail "prepare takes no words"; prepare ;;
run) [ $# -ge 1 ] || fail "run needs a program"; run "$@" ;;
enter) enter "$@" ;;
*) echo "usage: compat-chroot.sh prepare | run PROGRAM [WORD...]" >&2; exit 2 ;;
esac
