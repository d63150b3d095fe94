#!/usr/bin/env bash
# dist/stile in a bare Debian that has no compiler and no Go, only QEMU: it must
# be all of stile. `make dist` has made it.
set -euo pipefail
cd "$(dirname "$0")/.."
. testdata/root.sh
why=$(root_possible)
if [ -n "$why" ]; then
	echo "skipped: dist/stile in a bare system: $why"
	exit
fi

# The bare system is kept, for it takes a minute, until the mirror has another.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/stile/test-roots
packages=qemu-system-x86,bash
state=$(find /var/lib/apt/lists -maxdepth 1 -name '*Release' -exec cat {} + | cat - testdata/root.sh <(echo "$packages") | sha256sum | cut -c1-12)
work=$(mktemp -d /var/tmp/stile-bare.XXXXXX)
trap 'root_remove "$work"' EXIT
root=$work/root
mkdir "$root"
if [ ! -f "$cache/$state.tar" ]; then
	root_make "$root" "$packages"
	(umask 077 && mkdir -p "$cache")
	rm -f "$cache"/*.tar
	tar -C "$root" --one-file-system -cf "$cache/.new" .
	mv "$cache/.new" "$cache/$state.tar"
else
	tar -C "$root" -xpf "$cache/$state.tar"
fi

# A guest to import: one static program is enough of a distro.
box=$work/box
mkdir -p "$box"/{bin,etc,proc,sys,dev,tmp,run}
cp /bin/busybox "$box/bin/"
for name in sh cat uname; do ln -s busybox "$box/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$box/etc/passwd"
printf 'root:x:0:\n' >"$box/etc/group"
tar -C "$box" --owner=0 --group=0 --numeric-owner -cf "$root/root/box.tar" .
install -m 755 dist/stile "$root/usr/local/bin/stile"

cat >"$root/root/test.sh" <<'END'
set -euo pipefail
die() { echo "$*" >&2; exit 1; }
for tool in go gcc cc make git; do
	! command -v "$tool" || die "this is no bare system: it has $tool"
done
stile version
stile import box box.tar
[ "$(echo through the guest | stile run -d box cat)" = "through the guest" ] || die "stile run: other bytes"
stile link -d box uname
PATH=$HOME/.local/share/stile/bin:$PATH
guest=$(uname -r)
[ "$guest" != "$(/usr/bin/uname -r)" ] || die "uname -r ran on the host: $guest"
stile doctor || die "doctor sees a problem where there is none"
stile stop --all
for exe in /proc/[0-9]*/exe; do
	case $(readlink "$exe") in *qemu* | */stile) die "left running: $(readlink "$exe")" ;; esac
done
echo "dist/stile ran a guest with Linux $guest"
END
root_run "$root" bash -c 'cd && exec bash test.sh'
