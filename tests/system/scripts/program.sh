#!/bin/bash
# program.sh ROOT WHEELS UNITS: boxlited in ROOT as a distributor would install it, from wheels alone. Starts nothing.
set -euo pipefail
root=$1 wheels=$2 units=$3
mkdir -p "$root/tmp/wheels"
cp "$wheels"/*.whl "$root/tmp/wheels/"
chroot "$root" /usr/bin/python3 -m venv /opt/boxlited
chroot "$root" /opt/boxlited/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /tmp/wheels boxlited
rm -rf "$root/tmp/wheels"
ln -sfn /opt/boxlited/bin/boxlited "$root/usr/bin/boxlited"
ln -sfn /opt/boxlited/bin/boxctl "$root/usr/bin/boxctl"

install -m 644 -t "$root/usr/lib/systemd/system" "$units"/*.service "$units"/*.socket
install -m 644 -t "$root/usr/lib/systemd/user" "$units"/user/*.service "$units/boxlited-boxes.service"
install -m 644 "$units/boxlited.sysusers.conf" "$root/usr/lib/sysusers.d/boxlited.conf"
install -m 644 "$units/boxlited.tmpfiles.conf" "$root/usr/lib/tmpfiles.d/boxlited.conf"
install -D -m 644 "$units/boxlited.toml.example" "$root/etc/boxlited/boxlited.toml"
for unit in boxlited.socket boxlited-ro.socket boxlited.service; do
  wants=sockets.target.wants
  [ "${unit##*.}" = service ] && wants=multi-user.target.wants
  mkdir -p "$root/etc/systemd/system/$wants"
  ln -sfn "/usr/lib/systemd/system/$unit" "$root/etc/systemd/system/$wants/$unit"
done
chroot "$root" systemd-sysusers
