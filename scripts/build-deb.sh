#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds the Debian packages, and says where the host's is; those for guests lie beside it:
#
#     build-deb.sh OUTDIR             for the Debian that this host runs, in OUTDIR
#     build-deb.sh OUTDIR SUITE...    for each of these releases (bookworm, trixie), in OUTDIR/SUITE; as root, unless it
#                                   is the host's own
#
# As root it installs the packages that building needs, otherwise it names them. Another release is built in a minimal
# system of that release (scripts/debian-root.sh). The version gets "+deb12" or "+deb13" behind it, so that the package is
# replaced when the host goes from one release to the next. The package's own tests are left out: `make check` runs more.
set -eu

fail() {
	echo "build-deb: $*" >&2
	exit 1
}

[ $# -ge 1 ] || fail "usage: build-deb.sh OUTDIR [SUITE...]"
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" || fail "cannot make the directory $1"
out=$(cd "$1" && pwd)
shift

# The sources as they are now, without what was built: what git knows or would add, or everything when there is no git.
copy_sources() { # DIR
	rm -rf "$1"
	mkdir -p "$1"
	if [ -e "$here/.git" ] && command -v git >/dev/null && git -C "$here" rev-parse >/dev/null 2>&1; then
		(cd "$here" && git ls-files -z --cached --others --exclude-standard | tar -cf - --null --ignore-failed-read -T -) | tar -xf - -C "$1"
	else
		tar -C "$here" -cf - --exclude=./build* --exclude=./.git . | tar -xf - -C "$1"
	fi
}

# dpkg-buildpackage among the sources, with this system's tools; the results lie beside them.
build_here() { # SOURCES
	. /etc/os-release
	sed -i "1s/(\(.*\))/(\1+deb${VERSION_ID:-0})/" "$1/debian/changelog"
	(cd "$1" && DEB_BUILD_OPTIONS="nocheck parallel=2 ${DEB_BUILD_OPTIONS:-}" dpkg-buildpackage -b -us -uc) >"$1/../build.log" 2>&1 ||
		{ tail -n 20 "$1/../build.log" >&2; fail "dpkg-buildpackage failed; all of it is in $1/../build.log"; }
}

need_tools() { # SOURCES
	if command -v dpkg-buildpackage >/dev/null && (cd "$1" && dpkg-checkbuilddeps) 2>/dev/null; then
		return 0
	fi
	[ "$(id -u)" = 0 ] || fail "packages are missing; run: sudo apt-get install --no-install-recommends dpkg-dev && sudo apt-get build-dep --no-install-recommends $here"
	echo "build-deb: installing what building needs" >&2
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get -q -q -y --no-install-recommends install dpkg-dev && (cd "$1" && apt-get -q -q -y --no-install-recommends build-dep .); } >/dev/null ||
		fail "apt-get could not install them: has apt-get update been run lately?"
}

collect() { # WORKDIR RESULTS
	mkdir -p "$2"
	rm -f "$2"/*overbook*.deb "$2"/overbook*.buildinfo "$2"/overbook*.changes
	mv "$1"/*overbook*.deb "$1"/overbook*.buildinfo "$1"/overbook*.changes "$2/"
	ls "$2"/overbook_*.deb
}

build_for() { # SUITE
	root=$out/root-$1
	rm -rf --one-file-system "$root"
	# What debian/control asks for, by packages that exist; bookworm's systemd brings what is in systemd-dev since.
	build_depends=$(sed -n '/^Build-Depends:/,/^[^ ]/s/^ \([a-z0-9+.-]*\).*/\1/p' "$here/debian/control" |
		sed 's/^debhelper-compat$/debhelper/; /^dh-sequence/d')
	[ "$1" != bookworm ] || build_depends=$(echo "$build_depends" | sed 's/^systemd-dev$/systemd/')
	"$here/scripts/debian-root.sh" make "$1" "$root" dpkg-dev fakeroot $build_depends
	copy_sources "$root/build/overbook"
	"$here/scripts/debian-root.sh" run "$root" /build/overbook/scripts/build-deb.sh /build/results >&2
	mv "$root"/build/results/build.log "$out/$1.log" 2>/dev/null || true
	collect "$root/build/results" "$out/$1"
	rm -rf --one-file-system "$root"
}

if [ $# = 0 ]; then
	copy_sources "$out/work/overbook"
	need_tools "$out/work/overbook"
	build_here "$out/work/overbook"
	collect "$out/work" "$out"
	mv "$out/work/build.log" "$out/build.log"
	rm -rf "$out/work"
fi
for suite in "$@"; do
	if [ "$suite" = "$(. /etc/os-release; echo "${VERSION_CODENAME:-}")" ]; then
		"$0" "$out/$suite"
	else
		build_for "$suite"
	fi
done
