#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds the guest that the demo and the guest tests boot, from Debian's packages, as an ordinary user:
#
#     guest-image.sh OUTDIR     makes OUTDIR/vmlinuz and OUTDIR/initrd.gz
#
# The kernel is the newest linux-image-*-cloud-amd64 that apt knows; in the initrd are busybox, the virtio modules, the
# witness (tests/guest/image, compiled statically) and its init, overbook-guest, and an application that it can ask for memory. What is downloaded is kept in
# ${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/overbook}, so that a second build, also of another clone, needs no network.
# Nothing is done when OUTDIR already holds what these inputs give. Two builds at once wait for each other.
#
# OVERBOOK_GUEST_PACKAGE names another kernel package; CC another compiler.
set -eu

fail() {
	echo "guest-image: $*" >&2
	exit 1
}

[ $# = 1 ] || fail "usage: guest-image.sh OUTDIR"
here=$(cd "$(dirname "$0")/.." && pwd)
source=$here/tests/guest/image
mkdir -p "$1" || fail "cannot make the directory $1"
out=$(cd "$1" && pwd)
cache=${OVERBOOK_CACHE:-${XDG_CACHE_HOME:-${HOME:-$out}/.cache}/overbook}
mkdir -p "$cache" 2>/dev/null || { cache=$out/cache; mkdir -p "$cache" || fail "cannot make the directory $cache"; }
cc=${CC:-cc}

for program in apt-get apt-cache dpkg-deb cpio gzip tr sed sha256sum flock "$cc"; do
	command -v "$program" >/dev/null || fail "$program is missing; run scripts/install-deps.sh"
done

exec 9>"$cache/lock"
flock 9

# fetch PACKAGE: sees to it that cache/PACKAGE.deb is there; downloads it at most once.
fetch() {
	[ -e "$cache/$1.deb" ] && return 0
	rm -rf "$cache/new"
	mkdir "$cache/new" || return 1
	echo "guest-image: downloading the Debian package $1" >&2
	# As root, apt's unprivileged helper may not enter our directory; that is no matter.
	(cd "$cache/new" && apt-get -q -q -o APT::Sandbox::User=root download "$1" >&2) || return 1
	mv "$cache/new/"*.deb "$cache/$1.deb" && rmdir "$cache/new"
}
no_download="is there a network, and has apt-get update been run lately?"

# The kernel: what is asked for, else the newest that apt knows, else (no package lists, no network) the newest in the cache.
kernel_package=${OVERBOOK_GUEST_PACKAGE:-$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
	sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | tail -n 1)}
newest_cached() {
	for deb in "$cache"/linux-image-*-cloud-amd64.deb; do
		[ -e "$deb" ] && basename "$deb" .deb
	done | sort -V | tail -n 1
}
cached=$(newest_cached)
if [ -z "$kernel_package" ]; then
	kernel_package=$cached
	[ -n "$cached" ] || fail "apt knows no linux-image-cloud-amd64: run apt-get update (it needs the network once)"
elif ! fetch "$kernel_package"; then
	[ -n "$cached" ] || fail "cannot download the Debian package $kernel_package: $no_download"
	echo "guest-image: going on with $cached, which was downloaded before" >&2
	kernel_package=$cached
fi

# Busybox: the host's when it is static (it is a dependency), else the package's.
busybox=$(command -v busybox || true)
if [ -z "$busybox" ] || ! LC_ALL=C ldd "$busybox" 2>&1 | grep -q 'not a dynamic'; then
	busybox=
	fetch busybox-static || fail "cannot download the Debian package busybox-static: $no_download"
fi

# Whether OUTDIR is up to date.
inputs=$({
	cat "$0" "$source"/*.c "$source"/*.h "$source/init" "$here"/src/base/*.[ch] "$here"/src/proto/*.[ch] "$here"/src/guest/*.[ch] \
		"$here"/src/app/*.[ch] "$here/contrib/examples/cache.c" "${busybox:-$cache/busybox-static.deb}"
	echo "$kernel_package $cc"
	"$cc" --version
} | sha256sum | cut -d ' ' -f 1)
if [ -e "$out/vmlinuz" ] && [ -e "$out/initrd.gz" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
	exit 0
fi

rm -rf "$out/root" "$out/tree" "$out/inputs"
kernel_tree=$out/tree
dpkg-deb -x "$cache/$kernel_package.deb" "$kernel_tree" || {
	rm -f "$cache/$kernel_package.deb"
	fail "the package $kernel_package in $cache was damaged and has been removed; try again"
}
if [ -z "$busybox" ]; then
	dpkg-deb -x "$cache/busybox-static.deb" "$kernel_tree"
	busybox=$kernel_tree/bin/busybox
	[ -e "$busybox" ] || busybox=$kernel_tree/usr/bin/busybox
fi
mkdir -p "$out/root/bin" "$out/root/modules" "$out/root/proc" "$out/root/sys" "$out/root/dev" "$out/root/tmp"

"$cc" -std=gnu11 -D_GNU_SOURCE -O2 -g0 -Wall -Wextra -Wno-unused-parameter -static -pthread -s \
	-o "$out/root/witness" "$source"/*.c || fail "the witness does not compile"
compile() { # NAME SOURCE...
	name=$1
	shift
	"$cc" -std=gnu11 -D_GNU_SOURCE -DOB_VERSION='"test"' -I"$here/src" -I"$here/src/app" -O2 -g0 -static -pthread -s -o "$out/root/$name" \
		"$@" "$here"/src/base/*.c "$here"/src/proto/*.c || fail "$name does not compile"
}
compile overbook-guest "$here"/src/guest/*.c
compile cache "$here/contrib/examples/cache.c" "$here/src/app/app.c"
cp "$busybox" "$out/root/bin/busybox"
cp "$source/init" "$out/root/init"
chmod 755 "$out/root/bin/busybox" "$out/root/init" "$out/root/witness"

# add_module NAME: copies the module and, before it, what it depends on (told by the module itself: no depmod needed).
modules_root=$(echo "$kernel_tree"/lib/modules/*)
[ -d "$modules_root" ] || modules_root=$(echo "$kernel_tree"/usr/lib/modules/*)
[ -d "$modules_root" ] || fail "$kernel_package has no modules"
: >"$out/root/modules/order"
add_module() {
	grep -qx "$1.ko" "$out/root/modules/order" && return 0
	# Module names spell - and _ alike, files do not.
	module_file=$(find "$modules_root" -name "$(echo "$1" | tr '_' '?').ko*" | head -n 1)
	[ -n "$module_file" ] || return 0 # built into the kernel, or not known to it
	module_copy=$out/root/modules/$1.ko
	case "$module_file" in
	*.xz) xz -dc "$module_file" >"$module_copy" || fail "xz-utils is missing; run scripts/install-deps.sh" ;;
	*.zst) zstd -qdc "$module_file" >"$module_copy" || fail "zstd is missing; run scripts/install-deps.sh" ;;
	*) cp "$module_file" "$module_copy" ;;
	esac
	for needed in $(tr '\0' '\n' <"$module_copy" | sed -n 's/^depends=//p' | tr ',' ' '); do
		add_module "$(echo "$needed" | tr '-' '_')"
	done
	echo "$1.ko" >>"$out/root/modules/order"
}
for module in virtio_pci virtio_mmio virtio_balloon virtio_blk virtio_net virtio_console virtio_scsi sd_mod; do
	add_module "$module"
done
grep -qx virtio_balloon.ko "$out/root/modules/order" || fail "$kernel_package has no virtio_balloon module"

(cd "$out/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1 -n) >"$out/initrd.gz.new" ||
	fail "cannot write $out/initrd.gz"
vmlinuz=$(echo "$kernel_tree"/boot/vmlinuz-*)
[ -e "$vmlinuz" ] || fail "$kernel_package has no boot/vmlinuz"
cp "$vmlinuz" "$out/vmlinuz.new"
chmod 644 "$out/vmlinuz.new"
mv "$out/vmlinuz.new" "$out/vmlinuz"
mv "$out/initrd.gz.new" "$out/initrd.gz"
rm -rf "$out/root" "$out/tree"
for deb in "$cache"/linux-image-*-cloud-amd64.deb; do
	[ "$deb" = "$cache/$kernel_package.deb" ] || rm -f "$deb"
done
echo "$inputs" >"$out/inputs"
