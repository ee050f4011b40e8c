#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The packages for guests, tried in a system that they were installed in and that systemd has booted; test_package.sh puts this there and counts,
# with an application that is linked with the library. Prints lines "ok - WHAT" and "not ok - WHAT". Usage: guest.sh APPLICATION
set -u
application=$1
dir=/root/guest
mkdir -p "$dir"
unit=overbook-guest.service

result() { # OK DESCRIPTION
	if [ "$1" = 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		{ cat "$dir/out"; systemctl status --no-pager -l "$unit"; journalctl -b --no-pager -u "$unit"; } 2>&1 | tail -n 40 | sed 's/^/# /'
	fi
}

until_true() {
	for try in $(seq 300); do
		"$@" >"$dir/out" 2>&1 && return 0
		sleep 0.1
	done
	return 1
}

overbook-guest --version >"$dir/out" 2>&1 && ldd /usr/sbin/overbook-guest 2>&1 | grep -q 'not a dynamic'
result $? 'overbook-guest starts, and needs no libraries'
man -w 8 overbook-guest >"$dir/out" 2>&1 && man -w 3 liboverbook-app >>"$dir/out" 2>&1
result $? 'manual pages are found'
systemctl is-enabled "$unit" >"$dir/out" 2>&1 && ! systemctl is-active "$unit" >>"$dir/out" 2>&1
result $? 'its unit is enabled, and is not started where there is no virtual machine'

# As in a machine: under the unit's own walls.
mkdir -p "/run/systemd/system/$unit.d"
printf '[Unit]\nConditionVirtualization=\n[Service]\nEnvironment=OVERBOOK_LOG=debug\n' >"/run/systemd/system/$unit.d/here.conf"
systemctl daemon-reload && systemctl start "$unit" && until_true test -S /run/overbook-guest/app.sock
result $? 'it is ready'
"$application" 16 0 >"$dir/application" 2>&1 &
running=$!
until_true sh -c "journalctl -b -o cat -u $unit | grep 'application \"cache\" (pid $running) is here'"
result $? 'an application that is linked with the library is known to it'
before=$(systemctl show -p MainPID --value "$unit")
systemctl kill -s KILL "$unit"
until_true sh -c "[ \$(systemctl show -p MainPID --value $unit) != $before ] && [ \$(journalctl -b -o cat -u $unit | grep -c 'is here') = 2 ]"
result $? 'it is started again, and the application connects again'
kill "$running" && wait "$running"
result $? 'the application ends by itself'
touch /run/overbook-guest/redis.state
systemctl stop "$unit" && [ -e /run/overbook-guest/redis.state ]
result $? 'what servers had before is kept while it is stopped'
