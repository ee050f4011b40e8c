#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds an older Overbook from this repository's history, for tests in which two versions meet:
#
#     old-build.sh [COMMIT]     prints the build directory
#
# Without COMMIT: $OVERBOOK_OLD_COMMIT, else the newest release (a tag v*) before what is checked out, else the commit that
# tests/guest/old-commit names. The build is kept in ${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/overbook}/old. Where it
# cannot be had (no git, a shallow clone, a tarball), the reason is printed and the exit status is 77. What it could not live with is
# repaired in it by tests/guest/old-fix.patch, where that applies.
set -eu

cannot() {
	echo "old-build: $*" >&2
	exit 77
}

here=$(cd "$(dirname "$0")/.." && pwd)
# The clone may belong to another user than who tests, as with sudo.
in_git() { git -c "safe.directory=$here" -C "$here" "$@"; }
command -v git >/dev/null || cannot "git is not installed"
in_git rev-parse --git-dir >/dev/null 2>&1 || cannot "this is not a clone of the repository"

wanted=${1:-${OVERBOOK_OLD_COMMIT:-}}
[ -n "$wanted" ] || wanted=$(in_git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null) ||
	wanted=$(sed -n '/^[0-9a-f]/{p;q;}' "$here/tests/guest/old-commit")
commit=$(in_git rev-parse --verify --quiet "$wanted^{commit}") || {
	[ "$(in_git rev-parse --is-shallow-repository)" = false ] || cannot "the history is shallow and does not reach $wanted"
	cannot "there is no commit $wanted here"
}

cache=${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/overbook}/old
mkdir -p "$cache" || cannot "cannot make the directory $cache"
exec 9>"$cache/lock"
flock 9
fix=$here/tests/guest/old-fix.patch
kept=$cache/$commit-$(cksum <"$fix" | cut -d' ' -f1)
build=$kept/build
if [ ! -e "$kept/built" ]; then
	rm -rf "${kept:?}"
	mkdir -p "$kept/source"
	in_git archive "$commit" | tar -x -C "$kept/source" || cannot "cannot take $commit out of the repository"
	(cd "$kept/source" && GIT_CEILING_DIRECTORIES=$kept && export GIT_CEILING_DIRECTORIES && git apply "$fix" 2>/dev/null) || :
	# What a newer compiler warns of is no matter here.
	{
		meson setup -Dwerror=false "$build" "$kept/source" &&
			ninja -C "$build" src/cli/overbook src/daemon/overbookd src/agent/liboverbook-agent.so
	} >"$kept/log" 2>&1 || cannot "$wanted does not build here: see $kept/log"
	touch "$kept/built"
fi
echo "$build"
