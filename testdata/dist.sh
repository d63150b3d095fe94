#!/usr/bin/env bash
# One file that is all of stile: shim, guestinit and the compressed kernel are
# inside. It needs nothing on the host but QEMU where there is no KVM.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p dist distro/payload/files
trap 'rm -rf distro/payload/files' EXIT
cp bin/shim bin/guestinit distro/payload/files/
kernel=$(go run ./kernel/build -path)
zstd -q -19 -f "$kernel" -o distro/payload/files/vmlinux.zst
version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
CGO_ENABLED=0 go build -trimpath -tags dist -ldflags "-s -w -X main.version=$version" -o dist/stile .
ls -l dist/stile | awk '{printf "dist/stile: %.1f MB\n", $5 / 1e6}'
