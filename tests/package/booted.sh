#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The package under a running systemd, with a machine through everything that happens to overbookd; test_package.sh boots the
# system. Prints lines "ok - WHAT" and "not ok - WHAT". Usage: booted.sh PACKAGE
set -u
package=$1
dir=/root/booted
mkdir -p "$dir"

result() { # OK DESCRIPTION
	if [ "$1" = 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		{ cat "$dir/out"; systemctl status --no-pager -l overbookd.service overbookd.socket; } 2>&1 | sed 's/^/# /'
	fi
}

until_true() {
	for try in $(seq 900); do
		"$@" >"$dir/out" 2>&1 && return 0
		sleep 0.1
	done
	return 1
}

value() { # PROPERTY
	systemctl show -p "$1" --value overbookd.service
}

status_is() { # TEXT
	value StatusText | grep -q "^$1"
}

new_process() { # FORMER
	now=$(value MainPID)
	[ "$now" != 0 ] && [ "$now" != "$1" ]
}

# Without it nothing would be started again after an upgrade.
rm -f /usr/sbin/policy-rc.d
until_true systemctl is-active overbookd.service overbookd.socket
result $? 'systemd has started overbookd and its sockets'
grep -q '^Seccomp:.2' "/proc/$(value MainPID)/status" && grep -q '^CapBnd:.0*$' "/proc/$(value MainPID)/status"
result $? 'it is behind a filter of system calls, and has no capability'

echo BUDGET=1G >/etc/default/overbookd
systemctl reload overbookd && until_true status_is '0 machines, budget 1 GiB'
result $? 'a new budget is read'
echo BUDGET=much >/etc/default/overbookd
systemctl reload overbookd && until_true status_is '0 machines, budget 1 GiB; not reloaded: .*line 1.*much'
result $? 'a wrong one is refused and named'
echo BUDGET=1G >/etc/default/overbookd

if overbook doctor --json | grep -q '"kernel", *"status": "bad"' || [ ! -e /srv/guest/vmlinuz ]; then
	echo 'ok - a machine lives through it all # SKIP there is no guest image, or the kernel is too old'
	exit 0
fi
overbook run --name web --limit 96M --require -- qemu-system-x86_64 -accel tcg -m 256M -nodefaults -no-user-config -display none -no-reboot \
	-serial file:$dir/guest.log -kernel /srv/guest/vmlinuz -initrd /srv/guest/initrd.gz \
	-append 'console=ttyS0 quiet panic=-1 witness=anon=128' </dev/null >"$dir/qemu.log" 2>&1 &
guest=$!
running() {
	overbook ps | grep -q '^web .*running'
}
until_true grep -q 'WITNESS ready' "$dir/guest.log" && until_true running && until_true status_is '1 machine, budget 1 GiB'
result $? 'a machine is taken in'

before=$(value MainPID)
systemctl restart overbookd && until_true new_process "$before" && until_true running
result $? 'it comes back after a restart'
for number in KILL ABRT STOP; do
	before=$(value MainPID)
	systemctl kill -s "$number" overbookd.service
	until_true new_process "$before" && until_true running
	result $? "it comes back after SIG$number to overbookd$([ "$number" != STOP ] || echo ', which the watchdog sees')"
done
systemctl stop overbookd.socket overbookd.service 2>/dev/null
overbook ps >"$dir/out" 2>&1
[ $? = 3 ] && [ -e /run/overbook/machines/web ] && [ ! -e /run/overbook/overbookd.sock ] && kill -0 "$guest"
result $? 'it runs on without overbookd, and its directory stays'
systemctl start overbookd && until_true running
result $? 'it comes back to an overbookd that is started later'
before=$(value MainPID)
apt-get -q -y --reinstall install "$package" >"$dir/out" 2>&1 && until_true new_process "$before" && until_true running
result $? 'it comes back after an upgrade'
apt-get -q -y purge overbook >"$dir/out" 2>&1
systemctl is-active overbookd.service overbookd.socket >>"$dir/out" 2>&1
[ "$(tail -n 2 "$dir/out" | tr '\n' ' ')" = 'inactive inactive ' ] && [ ! -e /usr/bin/overbook ] && kill -0 "$guest"
result $? 'it runs on when the package is purged'
checked=$(grep -o 'pages_checked=[0-9]*' "$dir/guest.log" | tail -n 1)
until_true sh -c "[ \"\$(grep -o 'pages_checked=[0-9]*' $dir/guest.log | tail -n 1)\" != $checked ]" &&
	! grep -qE 'WITNESS (wrong|error)|pages_wrong=[1-9]' "$dir/guest.log"
result $? 'and no byte of it was wrong'
kill "$guest" && wait "$guest"
