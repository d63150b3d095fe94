#!/usr/bin/env bash
# The README's two commands in a bare Debian with no compiler and no Go, from
# nothing. Needs root, for the chroot.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
	echo "stile: test-fresh: needs root, for a chroot" >&2
	exit 125
}
root=$(mktemp -d /var/tmp/stile-fresh.XXXXXX)
cleanup() {
	for m in dev/kvm dev proc sys; do umount "$root/$m" 2>/dev/null || true; done
	rm -rf --one-file-system "$root"
}
trap cleanup EXIT
# The mirror of this machine's own apt, inside and out.
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | awk '$2 !~ /security|updates|backports/ && /debian/ {print $1; exit}')
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mmdebstrap --variant=minbase --include=ca-certificates,make,git "$suite" "$root" "$mirror"
for m in proc sys dev; do mount --rbind "/$m" "$root/$m" && mount --make-rslave "$root/$m"; done
cp /etc/resolv.conf "$root/etc/resolv.conf"
for f in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d; do
	[ ! -e "$f" ] || cp -a "$f" "$root/etc/apt/"
done
env | grep -E '^(GOPROXY|GOSUMDB|GOFLAGS|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)=' >"$root/env" || true
git clone -q . "$root/root/stile"
chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb bash -euc '
	set -a; . /env; set +a
	apt-get -q update
	cd /root/stile
	make demo
	make test'
