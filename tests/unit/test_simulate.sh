#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# `overbook simulate`: its table and its file, and what it refuses. Usage: test_simulate.sh OVERBOOK TRACE, one of real guests. Speaks TAP.
set -u
overbook=$1 recorded=$2
dir=$(mktemp -d /tmp/overbook-test-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
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

simulate() {
	"$overbook" simulate "$@" >"$dir/out" 2>"$dir/err" </dev/null
}

refuses() { # CODE TEXT ARGUMENTS...
	code=$1 text=$2
	shift 2
	simulate "$@"
	got=$?
	[ "$got" = "$code" ] && [ "$(wc -l <"$dir/err")" = 1 ] && grep -qF -- "$text" "$dir/err" && [ ! -s "$dir/out" ]
	result $? "refused: $*"
}

simulate --synthetic mixed --machines 8 --seconds 120 --json "$dir/result" && [ "$(wc -l <"$dir/out")" = 7 ]
result $? 'a row for each rule'
for rule in overbook static proxmox mom esxi; do
	grep -q "^$rule " "$dir/out" && grep -q "\"rule\": \"$rule\"" "$dir/result" || echo "$rule" >>"$dir/missing"
done
[ ! -e "$dir/missing" ] && grep -q '"synthetic": "mixed"' "$dir/result" && [ ! -s "$dir/err" ]
result $? 'the table and the file have all rules, and stderr is silent'
cp "$dir/result" "$dir/first"
simulate --synthetic mixed --machines 8 --seconds 120 --json "$dir/result" && cmp -s "$dir/first" "$dir/result"
result $? 'the same again is the same'
simulate --synthetic mixed --machines 8 --seconds 120 --seed 2 --json "$dir/result" && ! cmp -s "$dir/first" "$dir/result"
result $? 'another seed is another trace'
simulate --synthetic mixed --machines 8 --seconds 120 --idle-tax 0 --json "$dir/result" && ! cmp -s "$dir/first" "$dir/result" &&
	for rule in static proxmox mom esxi; do
		[ "$(sed -n "/\"rule\": \"$rule\"/,/}/p" "$dir/first")" = "$(sed -n "/\"rule\": \"$rule\"/,/}/p" "$dir/result")" ] || echo "$rule" >>"$dir/changed"
	done && [ ! -e "$dir/changed" ] &&
	[ "$(sed -n '/"rule": "overbook"/,/}/p' "$dir/first")" != "$(sed -n '/"rule": "overbook"/,/}/p' "$dir/result")" ]
result $? 'another tax is another division, for the rule that has one'
simulate --synthetic churn --machines 12 --hosts 3 --budget 4G --seconds 60 --rule esxi --rule overbook &&
	[ "$(wc -l <"$dir/out")" = 4 ] && head -1 "$dir/out" | grep -q 'machines on 3 hosts of 4 GiB, for 60 s'
result $? 'rules, hosts and budget are as they were asked for'

simulate "$recorded" && [ "$(wc -l <"$dir/out")" = 7 ] && head -1 "$dir/out" | grep -q '^10 machines on 1 hosts of 768 MiB, for 327 s$' && [ ! -s "$dir/err" ]
result $? 'what was recorded of real guests is played'

cat >"$dir/trace" <<'TRACE'
{"overbook_trace": 1, "budget_bytes": 1073741824, "hosts": 1}
{"second": 0, "machine": "a", "ram_bytes": 1073741824, "content_bytes": 1073741824, "working_set_bytes": 1073741824, "touches": 10000}
{"second": 2, "machine": "b", "ram_bytes": 1073741824, "content_bytes": 1073741824, "working_set_bytes": 1073741824, "touches": 10000}
{"second": 90, "end": true}
TRACE
simulate "$dir/trace" --rule overbook && head -1 "$dir/out" | grep -q '^2 machines on 1 hosts of 1 GiB, for 90 s$'
result $? 'a trace says itself how many, how much and how long'
"$overbook" simulate - --seconds 30 <"$dir/trace" >"$dir/out" 2>"$dir/err" && head -1 "$dir/out" | grep -q 'for 30 s$'
result $? 'a trace from standard input, and a part of it'

# What is reserved for the second is not to be had beside the first; the others wait until that has given what they need.
machine='"ram_bytes": 8589934592, "content_bytes": 8589934592, "working_set_bytes": 8589934592, "touches": 10000'
cat >"$dir/full" <<TRACE
{"overbook_trace": 1, "budget_bytes": 8589934592, "hosts": 1}
{"second": 0, "machine": "a", "reservation_bytes": 1073741824, $machine}
{"second": 30, "machine": "b", "reservation_bytes": 8053063680, $machine}
{"second": 60, "machine": "c", $machine}
{"second": 60, "machine": "d", $machine}
{"second": 60, "machine": "e", $machine}
{"second": 120, "end": true}
TRACE
column() { # RULE TITLE: its cells end where the title does
	awk -v rule="$1" -v title="$2" 'NR == 2 { end = index($0, title) + length(title) - 1 }
		$1 == rule { $0 = substr($0, 1, end); print $NF }' "$dir/out"
}
simulate "$dir/full" --rule overbook --rule static --json "$dir/result" &&
	[ "$(column overbook REFUSED)" = 1 ] && [ "$(column static REFUSED)" = 0 ] &&
	[ "$(column overbook 'WAITED s')" = "$(sed -n 's/.*"waited_seconds": \([0-9]*\).*/\1/p' "$dir/result" | head -1)" ] &&
	[ "$(column overbook 'WAITED s')" -gt 0 ] && [ "$(column static 'WAITED s')" = 0 ]
result $? 'who was refused and how long others waited is in the table'

refuses 2 'what is to be simulated is not said'
refuses 2 'what is to be simulated is said twice' --synthetic mixed "$dir/trace"
refuses 2 '--synthetic noon: must be steady, diurnal' --synthetic noon
refuses 2 '--rule fair: must be overbook, static' --synthetic mixed --rule fair
refuses 2 '--machines 0: must be a number from 1 to 100000' --synthetic mixed --machines 0
refuses 2 '--hosts -1: must be a number' --synthetic mixed --hosts -1
refuses 2 '--idle-tax 100: must be a number from 0 to 99' --synthetic mixed --idle-tax 100
refuses 2 '--budget 1k: must be a size from 8 MiB to 64 TiB' --synthetic mixed --budget 1k
refuses 2 '--machines: a trace says itself' "$dir/trace" --machines 3
refuses 2 'is one word too many' "$dir/trace" "$dir/trace"
refuses 2 'option "--fast" is not known' --fast
refuses 1 "cannot open trace \"$dir/none\"" "$dir/none"
printf '{"overbook_trace": 1}\n' >"$dir/short"
refuses 1 'does not say what the budget was: say it by --budget' "$dir/short"
printf '{"second": 95, "machine": "c"}\n' >>"$dir/trace"
sed -i 3,4d "$dir/trace"
refuses 1 'line 3: "ram_bytes" is 0' "$dir/trace"
simulate --synthetic mixed --machines 2 --seconds 5 --json "$dir/none/result"
[ $? = 1 ] && grep -qF "cannot write \"$dir/none/result\": No such file" "$dir/err" && grep -q '^overbook ' "$dir/out"
result $? 'a file that cannot be written is said, after the table'
echo "1..$count"
