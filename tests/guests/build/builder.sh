#!/bin/sh
# Process 1 of the builder machine. /dev/vdb is the guest's tree as a tar, /dev/vdc the layout script; /dev/sda becomes the
# guest's disk. What the layout scripts may use: $target, partitions, unpack, inside.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C target=/mnt
end() { sync; echo o >/proc/sysrq-trigger; sleep 60; }
trap 'echo "BUILDER-FAILED"; end' EXIT
# /dev, /proc, /sys and /run were mounted by the initramfs.
modprobe -a ahci sd_mod ext4 vfat nls_ascii nls_cp437
# Says how long the machine has been up at each stage.
stage() { echo "builder: $(cut -d' ' -f1 /proc/uptime) s: $*"; }
stage started
for _ in $(seq 100); do [ -b /dev/sda ] && break; sleep 0.1; done

# Waits until the kernel shows the partitions of a disk that was just partitioned.
partitions() {
    for _ in $(seq 100); do [ -b "${1}1" ] && [ -b "${1}2" ] && return; sleep 0.1; done
    echo "no partitions on $1"; exit 1
}
# Unpacks the tree onto a partition that becomes the guest's root, mounted at $target.
unpack() {
    stage "disk partitioned and formatted"
    mount "$1" "$target"
    tar -C "$target" --xattrs --xattrs-include='*' --numeric-owner -xf /dev/vdb
    for place in dev proc sys; do mount --bind "/$place" "$target/$place"; done
    stage "tree unpacked"
}
# Runs one of the guest's own programs on its own tree.
inside() { chroot "$target" "$@"; }

# shellcheck source=/dev/null
. /dev/vdc
stage "boot loader installed"
umount -R "$target"
stage "disk written"
trap - EXIT
echo "BUILDER-DONE"
end
