#!/bin/bash
# kernel.sh WORK ROOT PACKAGE SCRIPTS: WORK/vmlinux and WORK/initrd.img, and the few modules that the machine needs in ROOT.
set -euo pipefail
work=$1 root=$2 package=$3 scripts=$4
parts=$(mktemp -d -p "$work" parts-XXXX)
trap 'rm -rf "$parts"' EXIT
(cd "$parts" && apt-get download -qq "$package" busybox-static >/dev/null)
dpkg-deb -x "$parts"/linux-image-*.deb "$parts/kernel"
dpkg-deb -x "$parts"/busybox-static_*.deb "$parts/busybox"
version=$(ls "$parts/kernel/lib/modules")

# the program inside the compressed image: QEMU loads it as it is, and the guest need not unpack it
python3 - "$parts/kernel/boot/vmlinuz-$version" "$work/vmlinux" <<'PYTHON'
import struct, subprocess, sys

image = open(sys.argv[1], "rb").read()
start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
packed = image[start : start + struct.unpack_from("<I", image, 0x24C)[0] - 4]
assert packed[:4] == b"\x02\x21\x4c\x18", "the kernel is not packed with LZ4"
with open(sys.argv[2], "wb") as file:
    subprocess.run(["lz4", "-dc"], input=packed, stdout=file, check=True)
PYTHON

all=$parts/all
mkdir -p "$all/lib" "$root/lib/modules/$version"
cp -r "$parts/kernel/lib/modules" "$all/lib/"
depmod -b "$all" "$version"
cp "$parts/kernel/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$version/"
for module in virtio_pci virtio_blk virtio_console virtio-rng fuse overlay; do
  modprobe -d "$all" -S "$version" --show-depends "$module" 2>/dev/null | awk '/^insmod/ {print $2}'
done | sort -u | while read -r file; do
  relative=${file#*lib/modules/"$version"/}
  install -D -m 644 "$all/lib/modules/$version/$relative" "$root/lib/modules/$version/$relative"
done
depmod -b "$root" "$version"

tree=$parts/initrd
mkdir -p "$tree"/{bin,modules,dev,proc,sys,new}
cp "$parts/busybox/bin/busybox" "$tree/bin/"
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  cp "$parts/kernel/lib/modules/$version"/kernel/drivers/*/"$module.ko" "$tree/modules/"
done
install -m 755 "$scripts/init.sh" "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet) > "$work/initrd.img"
