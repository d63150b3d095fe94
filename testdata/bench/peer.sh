#!/usr/bin/env bash
# peer.sh FOLDER PACKAGES: what one sets up by hand to run commands in a light VM,
# as make bench's other side. Into FOLDER go
#
#	vmlinux   Debian's cloud kernel, unpacked, so that the guest need not
#	initrd    the modules of it that the machine needs, and a busybox to load them
#	disk.img  an ext4 with the distro's packages (with commas) and sshd
#	key       the private key that opens it
#
# It is made to be fast: no systemd, no udev, no DHCP, host keys made in advance.
#
# shellcheck disable=SC1091
set -euo pipefail
cd "$(dirname "$0")/../.."
. testdata/root.sh
out=$1 packages=$2
work=$(mktemp -d /var/tmp/stile-peer.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir -p "$out"

# The kernel: downloaded as a package, and taken apart.
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
mkdir "$work/deb" "$work/kernel"
(cd "$work/deb" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null)
dpkg-deb -x "$work"/deb/*.deb "$work/kernel"
# The bzImage has an lz4 stream in it: legacy frames, which end in the length of
# what they hold, so that lz4 complains at the end.
python3 - "$work"/kernel/boot/vmlinuz-* "$work/vmlinux.lz4" <<'END'
import sys
data = open(sys.argv[1], "rb").read()
at = data.index(b"\x02\x21\x4c\x18")  # LZ4_ARCHIVEMAGIC (lib/decompress_unlz4.c)
open(sys.argv[2], "wb").write(data[at:])
END
lz4 -qdc "$work/vmlinux.lz4" >"$out/vmlinux" 2>/dev/null || true
[ "$(head -c 4 "$out/vmlinux")" = $'\x7fELF' ] || {
	echo "peer.sh: no kernel in $package" >&2
	exit 1
}

# The initrd: modules in the order of their dependencies.
modules=$(echo "$work"/kernel/lib/modules/*)
depmod -b "$work/kernel" "${modules##*/}"
initrd=$work/initrd
mkdir -p "$initrd"/{bin,modules,dev,proc,sys,root}
cp /bin/busybox "$initrd/bin/"
for name in virtio_mmio virtio_blk virtio_net virtiofs virtio-rng; do
	modprobe -d "$work/kernel" -S "${modules##*/}" --show-depends "$name" | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$1]++' | while read -r file; do
	cp "$file" "$initrd/modules/"
	echo "insmod /modules/${file##*/}"
done >"$work/insmods"
cat >"$initrd/init" <<END
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
$(cat "$work/insmods")
mount -t ext4 /dev/vda /root
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /sbin/init
END
chmod +x "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$out/initrd"

# The root file system: the distro's packages, and sshd.
rm -f "$out/key" "$out/key.pub"
ssh-keygen -q -t ed25519 -N '' -C stile-bench -f "$out/key"
cat >"$work/init" <<'END'
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs run /run
mkdir /dev/pts /run/sshd
mount -t devpts devpts /dev/pts
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
share=$(sed -n 's/.*share=\([^ ]*\).*/\1/p' /proc/cmdline)
[ -z "$share" ] || { mkdir -p "$share"; mount -t virtiofs share "$share"; }
exec /usr/sbin/sshd -D -e
END
cat >"$work/sshd" <<'END'
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
UseDNS no
END
mmdebstrap --quiet --variant=minbase --include="$packages,openssh-server" \
	"$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/root" - <<<"$(root_sources)"
install -m 755 "$work/init" "$work/root/sbin/init"
install -m 644 "$work/sshd" "$work/root/etc/ssh/sshd_config.d/bench.conf"
install -m 644 "$out/key.pub" "$work/root/etc/ssh/authorized_keys"
ssh-keygen -q -A -f "$work/root"
mke2fs -q -F -t ext4 -d "$work/root" "$out/disk.img" 8G
