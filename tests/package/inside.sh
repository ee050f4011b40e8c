#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The installed package, tried from inside the system that it was installed in; test_package.sh puts this there and counts.
# Prints lines "ok - WHAT" and "not ok - WHAT". Usage: inside.sh PACKAGE
set -u
package=$1
dir=/var/tmp/inside
mkdir -p "$dir"

result() { # OK DESCRIPTION
	if [ "$1" = 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		sed 's/^/# /' "$dir/out"
	fi
}

# Waits until a command succeeds; a minute and a half of tries is a failure.
until_true() {
	for try in $(seq 900); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.1
	done
	return 1
}

overbook version >"$dir/out" 2>&1 && grep -q 'agent protocol' "$dir/out" && overbookd --version >>"$dir/out" 2>&1
result $? 'the programs start'

: >"$dir/out"
pages=$(dpkg -L overbook | sed -n 's|.*/man/man[0-9]/\(.*\)\.\([0-9]\)\.gz$|\2:\1|p')
[ "$(echo "$pages" | wc -l)" -ge 16 ] || echo "only these pages: $pages" >>"$dir/out"
mandb -q
for page in $pages; do
	man -w "${page%%:*}" "${page#*:}" >/dev/null 2>>"$dir/out" && man "${page%%:*}" "${page#*:}" 2>>"$dir/out" | grep -qi "${page#*:}" &&
		whatis "${page#*:}" >/dev/null 2>>"$dir/out" || echo "no page $page" >>"$dir/out"
done
[ ! -s "$dir/out" ]
result $? 'manual pages are found, by whatis too, and can be read'

# Loaded by name, as when TAB is pressed.
for program in overbook overbookd; do
	bash --norc -c '. /usr/share/bash-completion/bash_completion
		{ declare -F _comp_load >/dev/null && _comp_load "$0"; } || { declare -F __load_completion >/dev/null && __load_completion "$0"; }
		complete -p "$0"' "$program" >"$dir/out" 2>&1 && grep -q "_$program" "$dir/out"
	result $? "bash loads the completion of $program"
	zsh -f -c 'autoload -Uz compinit && compinit -u -d '"$dir"'/zcompdump && print -r -- $_comps['"$program"']' >"$dir/out" 2>&1 &&
		grep -qx "_$program" "$dir/out"
	result $? "zsh finds the completion of $program"
done

getent group overbook >"$dir/out" && grep -q '^overbook:[^:]*:[0-9]*:$' "$dir/out"
result $? 'there is a group overbook, without members'
for unit in overbookd.socket overbookd.service; do
	systemctl is-enabled "$unit"
done >"$dir/out" 2>&1
[ "$(grep -cx enabled "$dir/out")" = 2 ] && [ ! -e /etc/systemd/user/sockets.target.wants/overbookd.socket ]
result $? "the system's units are enabled, a user's are not"
systemd-analyze verify overbookd.socket overbookd.service >"$dir/out" 2>&1
! grep -q overbook "$dir/out"
result $? 'systemd has nothing to say against the units'
if udevadm verify --help >/dev/null 2>&1; then
	udevadm verify /usr/lib/udev/rules.d/60-overbook.rules >"$dir/out" 2>&1
	result $? "udev understands the rules"
fi

# Socket activation with the installed daemon and its own configuration: the first request starts it.
rm -rf /run/overbook && mkdir -m 0755 /run/overbook
systemd-socket-activate --listen=/run/overbook/overbookd.sock /usr/sbin/overbookd --config /etc/default/overbookd >"$dir/overbookd.log" 2>&1 &
overbookd=$!
until_true test -S /run/overbook/overbookd.sock
overbook ps >"$dir/out" 2>&1
result $? 'overbookd is started by the first request'

overbook doctor --json >"$dir/out" 2>&1
grep -q '"found": "/usr/lib/x86_64-linux-gnu/overbook/liboverbook-agent.so"' "$dir/out"
result $? 'doctor finds the installed agent'
grep -q '"kernel", *"status": "bad"' "$dir/out" && kernel=old || kernel=fit
overbook demo >"$dir/out" 2>&1
[ $? = 1 ] && [ "$(wc -l <"$dir/out")" = 1 ] && grep -q 'guest' "$dir/out"
result $? 'the demo says what it lacks'

# A guest of 256 MiB that checks every byte, in 96 MiB: through an upgrade of the package and the end of overbookd.
if [ ! -e /srv/guest/vmlinuz ] || [ "$kernel" = old ]; then
	echo 'ok - a guest runs through an upgrade # SKIP there is no guest image, or the kernel is too old'
else
	overbook run --name web --limit 96M --require -- qemu-system-x86_64 -accel tcg -m 256M -nodefaults -no-user-config -display none \
		-no-reboot -serial stdio -kernel /srv/guest/vmlinuz -initrd /srv/guest/initrd.gz \
		-append 'console=ttyS0 quiet panic=-1 witness=anon=128,seconds=20' </dev/null >"$dir/guest.log" 2>&1 &
	guest=$!
	until_true grep -q 'WITNESS ready' "$dir/guest.log"
	overbook ps >"$dir/out" 2>&1
	grep -q '^web .*running' "$dir/out"
	result $? 'a machine runs with the installed agent'
	apt-get -q -y --reinstall install "$package" >"$dir/out" 2>&1 && kill -0 "$guest"
	result $? 'the package is replaced under a running machine'
	kill "$overbookd" && wait "$overbookd"
	systemd-socket-activate --listen=/run/overbook/overbookd.sock /usr/sbin/overbookd --config /etc/default/overbookd >>"$dir/overbookd.log" 2>&1 &
	overbookd=$!
	until_true sh -c 'overbook ps | grep -q "^web .*running"'
	result $? 'another overbookd finds the machine again'
	wait "$guest"
	status=$?
	cat "$dir/guest.log" >"$dir/out"
	[ "$status" = 0 ] && grep -q 'WITNESS done.* pages_wrong=0' "$dir/guest.log"
	result $? 'the guest ends by itself, and no byte was wrong'
fi
kill "$overbookd" && wait "$overbookd"
cp "$dir/overbookd.log" "$dir/out"
[ -S /run/overbook/overbookd.sock ] && [ ! -e /run/overbook/agents.sock ]
result $? 'overbookd ends in order and leaves the socket that was passed to it'
rm -f /run/overbook/overbookd.sock
rm -rf "$dir"
