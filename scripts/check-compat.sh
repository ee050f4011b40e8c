#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The tests on Debian 13, in the tree that compat-chroot.sh makes:
#
#     check-compat.sh BUILDDIR
#
# Twice, since that is how it is used. First as on a fresh Debian 13: built there, by its compiler (warnings are errors) against
# its libraries, in BUILDDIR/debian-13, and all suites run there, with its QEMU and its guest kernel. Then the build of this
# host, BUILDDIR itself, is used there as it is, and the guest suite run with it: what a package built on an older release
# would do. The last line counts both: "N passed, M failed", with ", K skipped" where tests were skipped.
# OVERBOOK_COMPAT_SUITES names the suites of the first part, OVERBOOK_COMPAT_OLD those of the second.
set -eu

[ $# = 1 ] || { echo "usage: check-compat.sh BUILDDIR" >&2; exit 2; }
scripts=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd)
inside=$build/debian-13
chroot=$scripts/compat-chroot.sh
cd "$scripts/.."

passed=0
failed=0
skipped=0

# count WHAT PROGRAM...: runs a check.sh, shows what it says, and adds its last line up.
count() {
	echo "== $1"
	shift
	"$@" 2>&1 | tee "$build/check-compat.log"
	last=$(tail -n 1 "$build/check-compat.log")
	numbers=$(echo "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed\(, \([0-9]*\) skipped\)\{0,1\}$/\1 \2 \4/p')
	# Without a count it did not even run.
	set -- ${numbers:-0 1 0}
	passed=$((passed + $1))
	failed=$((failed + $2))
	skipped=$((skipped + ${3:-0}))
}

"$chroot" prepare || { echo "0 passed, 1 failed"; exit 1; }
echo "== $("$chroot" run sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(gcc --version | head -n 1), $(qemu-system-x86_64 --version | head -n 1)"')"

if { [ -e "$inside/build.ninja" ] || "$chroot" run meson setup "$inside"; } && "$chroot" run ninja -C "$inside"; then
	count "built in it" "$chroot" run scripts/check.sh "$inside" ${OVERBOOK_COMPAT_SUITES:-unit engine kvm guest fault}
else
	echo "It does not build there."
	failed=1
fi
export OVERBOOK_TEST_WRAPPER="$chroot run" OVERBOOK_TEST_IMAGE_AS_IS=1
count "built here, used in it" scripts/check.sh "$build" ${OVERBOOK_COMPAT_OLD:-guest}

rm -f "$build/check-compat.log"
echo "$passed passed, $failed failed$([ "$skipped" = 0 ] || echo ", $skipped skipped")"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
