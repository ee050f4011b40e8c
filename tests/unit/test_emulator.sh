#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# overbook-qemu as libvirt and Proxmox call it: what goes to QEMU untouched, which QEMU it is, what is refused, and what
# happens where the host cannot do it. Usage: test_emulator.sh OVERBOOK LINE. Speaks TAP. A program that prints its
# arguments plays QEMU; LINE holds what libvirt asks an emulator with.
set -u
dir=$(mktemp -d /tmp/overbook-test-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
overbook=$(readlink -f "$1")
probe=$2
mkdir "$dir/bin" "$dir/conf" "$dir/conf/machines" "$dir/home" "$dir/real"
export OVERBOOK_RUNDIR="$dir/run" HOME="$dir/home" XDG_STATE_HOME="$dir/state" OVERBOOK_CONFIG="$dir/conf"
unset OVERBOOK_PRETEND_WITHOUT OVERBOOK_LIMIT OVERBOOK_EMULATOR
for name in overbook-qemu overbook-qemu-system-aarch64 kvm qemu-system-x86_64; do
	ln -s "$overbook" "$dir/bin/$name"
done
cp /usr/bin/env "$dir/real/qemu-system-aarch64" || exit 1
for target in x86_64 x86_64-pve; do
	cp /bin/echo "$dir/real/qemu-system-$target" || exit 1
done
PATH="$dir/real:$PATH"
wrapper="$dir/bin/overbook-qemu"
count=0

result() { # OK DESCRIPTION
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed '5q; s/^/# stderr: /' "$dir/err"
		sed '5q; s/^/# stdout: /' "$dir/out"
	fi
}

expect() { # CODE LINES TEXT PROGRAM ARGUMENTS...: exit code, lines on stderr, what they or the output say
	code=$1 lines=$2 text=$3
	shift 3
	"$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	ok=0
	[ "$got" = "$code" ] || { ok=1; echo "# exit code $got, not $code"; }
	[ "$(wc -l <"$dir/err")" = "$lines" ] || { ok=1; echo "# not $lines lines on stderr"; }
	grep -qF -- "$text" "$dir/err" "$dir/out" || { ok=1; echo "# nowhere: $text"; }
	description=$(basename "$1")
	shift
	result $ok "$description $*"
}

settings() { # NAME LINE...: writes a file
	file=$1
	shift
	printf '%s\n' "$@" >"$dir/conf/$file"
	chmod 644 "$dir/conf/$file"
}

# Questions go to QEMU as they are.
expect 0 0 '-version' "$wrapper" -version
expect 0 0 '-cpu help' "$wrapper" -cpu help
expect 0 0 '-M none -qmp stdio' "$wrapper" -M none -qmp stdio
sed 1d "$probe" | tr '\n' '\0' | xargs -0 "$wrapper" >"$dir/out" 2>"$dir/err"
sed 1d "$probe" | tr '\n' ' ' | sed 's/ $//' >"$dir/want"
echo >>"$dir/want"
cmp -s "$dir/out" "$dir/want" && [ ! -s "$dir/err" ]
result $? "libvirt's probe is passed on to the letter"
[ ! -e "$OVERBOOK_RUNDIR" ]
result $? 'a question touches nothing'

# Which QEMU.
expect 0 0 'env (GNU coreutils)' "$dir/bin/overbook-qemu-system-aarch64" --version
expect 5 1 'where QEMU is must be set' "$dir/bin/kvm" -version
settings machines.conf "emulator = $dir/bin/kvm"
expect 5 1 'is Overbook itself' "$dir/bin/kvm" -version
settings machines.conf "emulator = $dir/real/qemu-system-x86_64-pve"
expect 0 0 '-version' "$dir/bin/kvm" -version
settings machines.conf "emulator = $dir/real/nothing"
expect 5 1 'is not a program' "$wrapper" -version
rm "$dir/conf/machines.conf"

# Where the host cannot do it, or must not.
export OVERBOOK_PRETEND_WITHOUT=move
expect 0 1 'running QEMU without Overbook' "$wrapper" -name guest=web -m 1G -S
[ "$(cat "$dir/out")" = '-name guest=web -m 1G -S' ]
result $? 'without the engine QEMU gets the line as it came'
settings machines/web.conf 'require = yes'
expect 5 1 'require is set' "$wrapper" -name guest=web -m 1G -S
expect 0 1 'running QEMU without Overbook' "$wrapper" -name guest=db -m 1G -S
settings machines/web.conf 'enabled = no'
expect 0 0 '-name guest=web -m 1G -S' "$wrapper" -name guest=web -m 1G -S
unset OVERBOOK_PRETEND_WITHOUT

# What cannot be run.
expect 5 1 'allocated beforehand' "$wrapper" -name guest=db -m 1G -mem-prealloc
expect 5 1 'is not valid JSON' "$wrapper" -name guest=db -object '{"qom-type"'
settings machines/db.conf 'otherwise = plain'
expect 0 2 'running QEMU without Overbook (otherwise = plain)' "$wrapper" -name guest=db -m 1G -mem-prealloc
[ "$(cat "$dir/out")" = '-name guest=db -m 1G -mem-prealloc' ]
result $? 'otherwise = plain: QEMU gets the line as it came'
settings machines/db.conf 'otherwise = plain' 'require = yes'
expect 5 1 'allocated beforehand' "$wrapper" -name guest=db -m 1G -mem-prealloc
settings machines/db.conf 'limit = lots'
expect 2 1 'db.conf", line 1: limit: "lots" is not a size' "$wrapper" -name guest=db -m 1G
expect 2 1 'OVERBOOK_LIMIT in the environment: limit: 9 is too little' env OVERBOOK_LIMIT=9 "$wrapper" -m 1G
settings machines/100.conf 'limit = none'
expect 2 1 '100.conf", line 1' "$wrapper" -id 100 -name web -m 1G

# The environment goes before the files, and what speaks to us alone does not come to QEMU.
expect 0 0 'env (GNU coreutils)' env OVERBOOK_EMULATOR="$dir/real/qemu-system-aarch64" "$wrapper" --version
OVERBOOK_ENABLED=no OVERBOOK_OTHERWISE=plain OVERBOOK_LIMIT=64M "$dir/bin/overbook-qemu-system-aarch64" >"$dir/out" 2>"$dir/err"
grep -q '^HOME=' "$dir/out" && ! grep -q '^OVERBOOK_' "$dir/out"
result $? 'QEMU sees no variable of ours'

echo "1..$count"
