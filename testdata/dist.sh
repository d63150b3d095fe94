#!/usr/bin/env bash
# dist.sh [vet]: one file that is all of stile: shim, guestinit and the compressed
# kernel are inside. It needs nothing on the host but QEMU where there is no KVM.
# `make dist` has built bin/ and the kernel. With vet, the compiler's checks of it
# and no file.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The parts are embedded from an overlay: nothing is written into the source.
parts=$PWD/distro/payload/files
cat >"$work/overlay.json" <<END
{"Replace": {
	"$parts/shim": "$PWD/bin/shim",
	"$parts/guestinit": "$PWD/bin/guestinit",
	"$parts/vmlinux.zst": "$work/vmlinux.zst"
}}
END
if [ "${1-}" = vet ]; then
	mkdir -p bin
	touch -a bin/shim bin/guestinit "$work/vmlinux.zst"
	go vet -tags dist -overlay "$work/overlay.json" ./distro/payload
	exit
fi
zstd -q -19 -T0 "$(go run ./kernel/build -path)" -o "$work/vmlinux.zst"
mkdir -p dist
# GO_BUILD and STILE_LDFLAGS are the Makefile's.
$GO_BUILD -tags dist -overlay "$work/overlay.json" -ldflags "$STILE_LDFLAGS" -o dist/stile .
size() { stat -c %s "$1" | awk '{printf "%.1f", $1 / 1e6}'; }
printf 'dist/stile: %s MB, of which kernel %s, guestinit %s, shim %s\n' "$(size dist/stile)" \
	"$(size "$work/vmlinux.zst")" "$(size bin/guestinit)" "$(size bin/shim)"
