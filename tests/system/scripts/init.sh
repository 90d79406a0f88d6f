#!/bin/busybox sh
# The first program of the virtual machine: finds the root disk and hands over to systemd.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  $b insmod /modules/$module.ko
done
tries=0
until [ -b /dev/vda ]; do
  tries=$((tries + 1))
  [ $tries -gt 200 ] && echo "initrd: no root disk" && $b poweroff -f
  $b usleep 50000
done
$b mount -t ext4 -o rw,noatime /dev/vda /new || $b poweroff -f
$b umount /proc
$b umount /sys
$b mount --move /dev /new/dev
exec $b switch_root /new /sbin/init
