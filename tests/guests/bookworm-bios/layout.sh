#!/bin/sh
# Runs in the builder machine: MBR, ext4 root, small swap, GRUB for BIOS, all as Debian's own tools do it on /dev/sda.
set -eu
printf 'label: dos\nstart=1MiB, size=1900MiB, type=83, bootable\ntype=82\n' | sfdisk --quiet /dev/sda
partitions /dev/sda
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/sda1
mkswap -q /dev/sda2
unpack /dev/sda1
inside grub-install --target=i386-pc /dev/sda
inside update-grub
