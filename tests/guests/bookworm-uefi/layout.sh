#!/bin/sh
# Runs in the builder machine: GPT, EFI system partition, ext4 root, shim and signed GRUB under \EFI\debian only. The boot
# entry is in the machine's variable store, which is made with the image; there is no \EFI\BOOT to fall back on.
set -eu
printf 'label: gpt\nstart=1MiB, size=64MiB, type=uefi\ntype=linux\n' | sfdisk --quiet /dev/sda
partitions /dev/sda
mkfs.vfat -F 32 /dev/sda1 >/dev/null
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/sda2
unpack /dev/sda2
# shellcheck disable=SC2154 # the builder sets it
mkdir -p "$target/boot/efi"
mount /dev/sda1 "$target/boot/efi"
inside grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian --uefi-secure-boot --no-nvram
inside update-grub
[ ! -e "$target/boot/efi/EFI/BOOT" ]
umount "$target/boot/efi"
