#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The engine's tests under sanitizers: sanitize.sh [address|thread]... (default: both), from anywhere.
# Builds beside the source tree's own build, in $OVERBOOK_SANITIZE_DIR (default: build-sanitize), and runs the suites
# engine and the store's part of fault, shorter than usual. Prints what meson prints; fails if anything does.
set -eu

source=$(cd "$(dirname "$0")/../.." && pwd)
base=${OVERBOOK_SANITIZE_DIR:-$source/build-sanitize}
targets='tests/engine/test_engine_active tests/engine/test_engine_api tests/engine/test_engine_follow tests/engine/test_engine_limit tests/engine/test_engine_release
	tests/engine/test_engine_stress tests/engine/test_engine_scan tests/engine/test_engine_share tests/engine/test_engine_mapped
	tests/engine/test_engine_collapse tests/engine/test_engine_notes tests/engine/test_engine_orphans tests/engine/test_store'

run() {
	dir=$base/$1
	[ -f "$dir/build.ninja" ] || meson setup "$dir" "$source" -Db_sanitize="$2" -Db_lundef=false -Db_pie=true >/dev/null
	# shellcheck disable=SC2086 # targets are words
	ninja -C "$dir" $targets
	OVERBOOK_TEST_SHORT=1 \
	ASAN_OPTIONS=abort_on_error=1:detect_leaks=1 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	TSAN_OPTIONS=halt_on_error=0:exitcode=66:detect_deadlocks=1:second_deadlock_stack=1 \
		meson test -C "$dir" --no-rebuild --timeout-multiplier 4 --num-processes 1 --print-errorlogs \
		engine-active engine-api engine-follow engine-limit engine-release engine-stress engine-scan engine-share engine-mapped engine-collapse engine-notes engine-orphans fault-store
}

[ $# -gt 0 ] || set -- address thread
for which in "$@"; do
	case $which in
	address) run address address,undefined ;;
	thread) run thread thread ;;
	*)
		echo "sanitize.sh: \"$which\" is not address or thread" >&2
		exit 2
		;;
	esac
done
