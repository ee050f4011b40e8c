#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Looks for inputs that break a fuzz target, by libFuzzer with the address and undefined-behaviour sanitizers:
#
#     run.sh TARGET SECONDS [LIBFUZZER-OPTION...]
#
# What it finds on the way is kept in build-fuzz/found/TARGET and is where the next run goes on; an input that breaks
# something is written to build-fuzz/crash-TARGET-... Copy it, made small with -minimize_crash=1, into the corpus when
# the code has been repaired. MERGE=1 adds to the corpus what reaches code that it does not reach yet.
# BUILD names another build directory.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
targets=$(cd "$here/tests/fuzz" && ls fuzz_*.c | sed 's/^fuzz_//; s/\.c$//' | tr '\n' ' ')
target=${1:-}
seconds=${2:-60}
[ -f "$here/tests/fuzz/fuzz_$target.c" ] || {
	echo "fuzz: TARGET=\"$target\" is none; there are: $targets" >&2
	exit 2
}
shift $(($# < 2 ? $# : 2))
build=${BUILD:-$here/build-fuzz}

missing() {
	echo "fuzz: $1 is missing: on Debian it comes with clang and libclang-rt-VERSION-dev (14 on Debian 12, 19 on Debian 13):" >&2
	echo "      apt install --no-install-recommends clang libclang-rt-14-dev" >&2
	exit 1
}
command -v clang >/dev/null || missing clang
echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n); int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return 0; }' |
	clang -x c -fsanitize=fuzzer,address,undefined -o /dev/null - 2>/dev/null || missing "clang's libFuzzer"

if [ ! -f "$build/build.ninja" ]; then
	CC=clang meson setup "$build" "$here" --buildtype=debugoptimized -Db_lundef=false -Dwerror=false -Db_sanitize=address,undefined \
		-Dc_args="['-fsanitize=fuzzer-no-link', '-fno-sanitize-recover=undefined']" >/dev/null
fi
ninja -C "$build" "tests/fuzz/fuzz_$target" >"$build/ninja-$target.log" || { cat "$build/ninja-$target.log" >&2; exit 1; }

corpus=$here/tests/fuzz/corpus/$target
found=$build/found/$target
mkdir -p "$found"
if [ -n "${MERGE:-}" ]; then
	exec "$build/tests/fuzz/fuzz_$target" -merge=1 "$@" "$corpus" "$found"
fi
exec "$build/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=20 -print_final_stats=1 \
	-artifact_prefix="$build/crash-$target-" "$@" "$found" "$corpus"
