#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The units, as systemd reads them, and overbookd on a socket of systemd's own making. Speaks TAP; what needs a tool that is
# not there is skipped. Usage: test_systemd.sh BUILDDIR/contrib OVERBOOKD OVERBOOK OVERBOOK-GUEST
set -u
units=$1
overbookd=$(realpath "$2")
overbook=$(realpath "$3")
guest=$(realpath "$4")
dir=$(mktemp -d /tmp/overbook-test-XXXXXX) || exit 1
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
count=0

result() { # OK DESCRIPTION
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' "$dir/out"
	fi
}

skip() { # DESCRIPTION WHY
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}

# The units name the installed program; here it is the one that was built. A manual page is not installed yet.
for kind in . user; do
	mkdir -p "$dir/$kind"
	for unit in overbookd.service overbookd.socket; do
		sed -e "s,^ExecStart=[^ ]*,ExecStart=$overbookd," -e '/^Documentation=/d' "$units/$kind/$unit" >"$dir/$kind/$unit"
	done
done

sed -e "s,^ExecStart=[^ ]*,ExecStart=$guest," -e '/^Documentation=/d' "$units/overbook-guest.service" >"$dir/overbook-guest.service"

if command -v systemd-analyze >/dev/null; then
	systemd-analyze verify "$dir/overbook-guest.service" >"$dir/out" 2>&1 && [ ! -s "$dir/out" ] &&
		systemd-analyze security --offline=yes --threshold=16 "$dir/overbook-guest.service" >"$dir/out" 2>&1
	result $? "systemd understands the guest's unit, which is closed as far as it can be"
	systemd-analyze verify "$dir/overbookd.service" "$dir/overbookd.socket" >"$dir/out" 2>&1 && [ ! -s "$dir/out" ]
	result $? 'systemd understands the units'
	XDG_RUNTIME_DIR=$dir HOME=$dir systemd-analyze --user verify "$dir/user/overbookd.service" "$dir/user/overbookd.socket" >"$dir/out" 2>&1
	if grep -qi 'failed to \(initialize\|create\|connect\|start\)' "$dir/out"; then
		skip "systemd understands the user's units" 'there is no place for a user manager here'
	else
		[ ! -s "$dir/out" ]
		result $? "systemd understands the user's units"
	fi
	# The figure is tenths; everything that is left open has its reason in the unit.
	systemd-analyze security --offline=yes --threshold=12 "$dir/overbookd.service" >"$dir/out" 2>&1
	result $? 'the service is closed as far as it can be'
else
	skip "systemd understands the guest's unit, which is closed as far as it can be" 'there is no systemd-analyze'
	skip 'systemd understands the units' 'there is no systemd-analyze'
	skip "systemd understands the user's units" 'there is no systemd-analyze'
	skip 'the service is closed as far as it can be' 'there is no systemd-analyze'
fi

# What overbookd counts on, whoever's it is.
ok=0
libvirt=$(dirname "$0")/../../contrib/libvirt/overbookd-libvirt.service
: >"$dir/out"
for unit in "$units/overbookd.service" "$units/user/overbookd.service" "$libvirt"; do
	for setting in Type=notify RuntimeDirectoryPreserve=yes FileDescriptorStoreMax=4096 LimitNOFILE=8192 Restart=on-failure; do
		grep -qx "$setting" "$unit" || { ok=1; echo "$unit: no $setting" >>"$dir/out"; }
	done
done
result $ok 'shared pages and directories of machines outlive overbookd under every unit'

# Whatever is set in the unit has a reason beside it: each block of settings begins with a comment.
awk '/^$/ { explained = 0 } /^#/ { explained = 1 } /^\[/ { section = $0 }
	section == "[Service]" && /^[A-Z]/ && !explained { print FILENAME ": without a reason: " $0; bad = 1 } END { exit bad }' \
	"$units/overbookd.service" >"$dir/out"
result $? 'every setting of the service is explained'

# systemd passes sockets of one type only by this tool; the other one overbookd makes itself. The first connection starts it.
if command -v systemd-socket-activate >/dev/null; then
	mkdir "$dir/run"
	systemd-socket-activate --listen="$dir/run/overbookd.sock" "$overbookd" --socket-dir "$dir/run" >"$dir/out" 2>&1 &
	pid=$!
	until [ -S "$dir/run/overbookd.sock" ] || ! kill -0 "$pid"; do sleep 0.1; done
	[ ! -e "$dir/run/agents.sock" ] && OVERBOOK_RUNDIR=$dir/run "$overbook" ps >>"$dir/out" 2>&1 && [ -S "$dir/run/agents.sock" ] &&
		kill "$pid" && wait "$pid" && [ -S "$dir/run/overbookd.sock" ] && [ ! -e "$dir/run/agents.sock" ]
	result $? 'systemd-socket-activate starts it at the first request'
	pid=
else
	skip 'systemd-socket-activate starts it at the first request' 'there is no systemd-socket-activate'
fi
echo "1..$count"
