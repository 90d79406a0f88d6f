#!/bin/bash
# disk.sh ROOT DISK: a file system with the content of ROOT; no loop mount is needed.
set -euo pipefail
rm -f "$2"
truncate -s 3G "$2"
mke2fs -q -t ext4 -m 0 -O ^metadata_csum_seed,^orphan_file -E lazy_itable_init=1,root_owner=0:0 -d "$1" "$2"
