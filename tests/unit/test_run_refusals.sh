#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What `overbook run` refuses, and what it does where it cannot help: exit codes, and one line on stderr that says why.
# Usage: test_run_refusals.sh OVERBOOK. Speaks TAP. QEMU's part is played by small programs of ours.
set -u
overbook=$1
dir=$(mktemp -d /tmp/overbook-test-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
export OVERBOOK_RUNDIR="$dir/run" XDG_STATE_HOME="$dir/state" HOME="$dir"
unset OVERBOOK_PRETEND_WITHOUT
mkdir "$dir/swap" "$dir/bin"
count=0

result() { # OK DESCRIPTION
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# stderr: /' "$dir/err"
		sed 's/^/# stdout: /' "$dir/out"
	fi
}

expect() { # CODE LINES TEXT ARGUMENTS...: exit code, lines on stderr, what they say
	code=$1 lines=$2 text=$3
	shift 3
	"$overbook" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	ok=0
	[ "$got" = "$code" ] || { ok=1; echo "# exit code $got, not $code"; }
	[ "$(wc -l <"$dir/err")" = "$lines" ] || { ok=1; echo "# not $lines lines on stderr"; }
	grep -qF -- "$text" "$dir/err" "$dir/out" || { ok=1; echo "# nowhere: $text"; }
	result $ok "overbook $*"
}

# A program that the system loads as it would QEMU: a copy of one that prints its arguments.
qemu="$dir/bin/qemu-system-x86_64"
cp "$(command -v echo)" "$qemu" 2>/dev/null || cp /bin/echo "$qemu"
cp "$qemu" "$dir/bin/qemu-system-setuid" && chmod u+s "$dir/bin/qemu-system-setuid"
cp "$qemu" "$dir/bin/something-else"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$qemu" >"$dir/bin/qemu-system-script" && chmod +x "$dir/bin/qemu-system-script"
printf '#!/bin/sh\nexec qemu-system-x86_64 -enable-kvm "$@"\n' >"$dir/bin/kvm" && chmod +x "$dir/bin/kvm"
printf 'no program' >"$dir/bin/qemu-system-text" && chmod +x "$dir/bin/qemu-system-text"
# ELF header of a 64-bit program without program headers: as a static one, it asks for no loader.
{
	printf '\177ELF\002\001\001\000\000\000\000\000\000\000\000\000'
	printf '\002\000\076\000\001\000\000\000\000\000\000\000\000\000\000\000'
	printf '\100\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'
	printf '\000\000\000\000\100\000\070\000\000\000\000\000\000\000\000\000'
} >"$dir/bin/qemu-system-static" && chmod +x "$dir/bin/qemu-system-static"
PATH="$dir/bin:$PATH"

# The command line of overbook itself.
expect 2 1 'a command is missing'
expect 2 1 'there is no command "fly"' fly
expect 0 0 'Usage: overbook COMMAND' --help
expect 0 0 'Usage: overbook run' run --help
expect 0 0 'Usage: overbook doctor' doctor --help
expect 0 0 'agent protocol' version
for command in stats balloon release share 'limit --wait'; do
	expect 2 1 '"my vm" is not a machine'\''s name: up to 63 letters' $command 'my vm' $([ "${command%% *}" != limit ] || echo 1G)
done
expect 2 1 'option "-1G" is not known: there are' limit web -1G
expect 2 1 'option "--wai=t" is not known: there are' limit web 1G --wai=t
expect 2 1 'option "-xy" is not known or lacks its value' record --interval 7 -xy
expect 3 1 'overbookd does not answer' stats web
for words in version 'version --json' --help 'run --dry-run -- qemu-system-x86_64 -m 1G'; do
	"$overbook" $words >/dev/full 2>"$dir/err"
	[ $? = 1 ] && [ "$(wc -l <"$dir/err")" = 1 ] && grep -q 'cannot write to standard output: No space left on device$' "$dir/err"
	result $? "overbook $words, on a disk that is full"
done
expect 0 0 '"agent_protocol"' version --json
expect 2 1 'too many' version now
expect 2 1 '"--fast" is not known' run --fast -- "$qemu"
expect 2 1 '"--limit" needs an argument' run --limit
expect 2 1 'there is no QEMU to run' run --limit 64M
expect 2 1 '"lots" is not a size' run --limit lots -- "$qemu" -m 1G
expect 2 1 'at least 8 MiB' run --limit 7M -- "$qemu" -m 1G
expect 2 1 'at least 8 MiB' run --limit 512 -- "$qemu" -m 1G
expect 2 1 'more than the machine' run --limit 2G --dry-run -- "$qemu" -m 1G
expect 2 1 'more than the machine' run --reservation 2G --dry-run -- "$qemu" -m 1G
expect 2 1 'is more than --limit' run --reservation 512M --limit 256M -- "$qemu" -m 1G
expect 2 1 'from 1 to 1000000' run --shares 0 -- "$qemu" -m 1G
expect 2 1 'neither "auto" nor "off"' run --balloon 1G -- "$qemu" -m 1G
expect 2 1 'from 1 to 1000000' run --shares -5 -- "$qemu" -m 1G
expect 2 1 'is not a name' run --name ../x -- "$qemu" -m 1G
expect 2 1 'is not a name' run --domain 'a b' -- "$qemu" -m 1G
expect 2 1 'exclude each other' run --swap "$dir/swap" --no-swap -- "$qemu" -m 1G
for place in /proc "$dir/nowhere" "$dir/bin/something-else"; do
	expect 1 1 "swap directory \"$place\"" run --swap "$place" -- "$qemu" -m 1G
	expect 1 0 "swap directory \\\"$place\\\"" doctor --json --swap "$place" --qemu "$qemu"
done
expect 2 1 'goes with --dry-run' run --json -- "$qemu" -m 1G

# The program.
expect 5 1 'no program "qemu-system-nonesuch" in PATH' run -- qemu-system-nonesuch
expect 5 1 'is not a program' run -- "$dir/swap"
expect 5 1 'is not QEMU' run -- something-else
expect 5 1 'is a script' run -- qemu-system-script -m 1G
expect 5 1 'linked statically' run -- qemu-system-static -m 1G
expect 5 1 'not a 64-bit program' run -- qemu-system-text -m 1G
expect 5 1 'set-user-ID' run -- qemu-system-setuid -m 1G

# QEMU's command line.
expect 5 1 'needs an argument' run -- "$qemu" -m
expect 5 2 'pins all guest RAM' run -- "$qemu" -m 1G -device vfio-pci,host=01:00.0 -mem-prealloc
expect 5 0 '"refusals": [' run --dry-run --json -- "$qemu" -mem-prealloc
expect 0 0 'memory-backend=pc.ram' run --dry-run -- "$qemu" -m 1G
expect 0 0 '"ram_bytes": 1073741824' run --dry-run --json --name a -- "$qemu" -m 1G
expect 0 0 ' -enable-kvm -m 1G -object ' run --dry-run -- kvm -m 1G
[ ! -e "$OVERBOOK_RUNDIR" ] && [ ! -e "$XDG_STATE_HOME" ]
result $? 'a dry run touches nothing'

# What only prints something is passed through, without a word of ours.
expect 0 0 '-device help' run -- "$qemu" -device help
[ "$(cat "$dir/out")" = '-device help' ]
result $? 'help is passed through untouched'

# A host that cannot do it.
export OVERBOOK_PRETEND_WITHOUT=move
expect 0 1 'running QEMU without Overbook' run -- "$qemu" -m 1G -S
[ "$(cat "$dir/out")" = '-m 1G -S' ]
result $? 'without the engine QEMU gets its own command line'
expect 5 1 'UFFDIO_MOVE' run --require -- "$qemu" -m 1G
expect 1 0 'UFFDIO_MOVE' doctor --qemu "$qemu"
unset OVERBOOK_PRETEND_WITHOUT

echo "1..$count"
