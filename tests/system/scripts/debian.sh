#!/bin/bash
# debian.sh ROOT SUITE SOURCES: a small Debian with systemd, from the package sources of this machine. Starts nothing.
set -euo pipefail
root=$1 suite=$2 sources=$3
mmdebstrap --quiet --mode=root --variant=minbase --format=directory \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --aptopt='Acquire::Languages "none"' \
  --include=systemd,systemd-sysv,libpam-systemd,udev,dbus,kmod,procps,util-linux-extra,curl,qemu-guest-agent,libeatmydata1,python3,python3-venv,passwd \
  "$suite" "$root" "$sources"

units=$root/etc/systemd/system
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-pstore.service getty@tty1.service serial-getty@ttyS0.service getty-static.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-firstboot.service \
  systemd-machine-id-commit.service systemd-repart.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
  dev-mqueue.mount sys-kernel-config.mount modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service \
  modprobe@fuse.service modprobe@dm_mod.service modprobe@loop.service systemd-ask-password-console.path \
  systemd-ask-password-wall.path systemd-network-generator.service; do
  ln -sfn /dev/null "$units/$unit" # what a test machine has no use for
done
ln -sfn /lib/systemd/system/multi-user.target "$units/default.target"

mkdir -p "$units/qemu-guest-agent.service.d" "$root/etc/systemd/system.conf.d" "$root/etc/systemd/journald.conf.d" "$root/var/log/journal"
printf '[Unit]\nDefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n' > "$units/qemu-guest-agent.service.d/early.conf"
printf '[Manager]\nDefaultDeviceTimeoutSec=60s\n' > "$root/etc/systemd/system.conf.d/test.conf"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n' > "$root/etc/systemd/journald.conf.d/test.conf"
echo '/dev/vda / ext4 defaults,noatime 0 1' > "$root/etc/fstab"
echo boxhost > "$root/etc/hostname"
echo '127.0.0.1 localhost boxhost' > "$root/etc/hosts"
echo 5d1b0e7c2a944f0e9a6c3f81b7d20e64 > "$root/etc/machine-id"
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 ordinary
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
