#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The rules for libvirt's AppArmor profiles: the parser takes them, alone and in the profile that libvirt makes of its
# template. Nothing is loaded into the kernel. Usage: test_apparmor.sh RULES. Exit status 77: skipped.
set -eu
rules=$(readlink -f "$1")
PATH=$PATH:/usr/sbin:/sbin
command -v apparmor_parser >/dev/null || { echo "apparmor_parser is not installed"; exit 77; }
[ -e /etc/apparmor.d/tunables/global ] || { echo "there is no /etc/apparmor.d"; exit 77; }
dir=$(mktemp -d /tmp/overbook-test-XXXXXX)
trap 'rm -rf "$dir"' EXIT

check() { # FILE
	apparmor_parser --skip-kernel-load --skip-cache --base /etc/apparmor.d "$1"
}

printf '#include <tunables/global>\nprofile overbook-test {\n#include "%s"\n}\n' "$rules" >"$dir/alone"
check "$dir/alone"
template=/etc/apparmor.d/libvirt/TEMPLATE.qemu
[ -e "$template" ] || { echo "libvirt's template is not installed: checked alone"; exit 0; }
# As libvirt does it: a name for the profile; and our rules where site additions go.
sed "s/LIBVIRT_TEMPLATE/libvirt-overbook-test/; s|^}|#include \"$rules\"\n}|" "$template" >"$dir/machine"
check "$dir/machine"
