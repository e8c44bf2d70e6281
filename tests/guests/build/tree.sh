#!/bin/sh
# Makes a guest's file tree: BASE with packages and files on top, natively in a chroot, and packs it as WORK/tree.tar.
# Run in mount and process namespaces of its own: mounts and left-over services vanish with it.
# usage: tree.sh BASE WORK PACKAGES FILES..   (FILES: directories that are laid over the tree)
set -eu
base=$1 work=$2 packages=$3; shift 3
tree=$work/merged
mkdir -p "$work/upper" "$work/overlay" "$tree"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/overlay" "$tree"
inside() { DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$tree" "$@"; }
mount -t proc proc "$tree/proc"
mount -t sysfs -o ro sysfs "$tree/sys"
mount --bind /dev "$tree/dev"
cp /etc/resolv.conf "$tree/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod +x "$tree/usr/sbin/policy-rc.d"

# shellcheck disable=SC2086 # a list of packages
[ -z "$packages" ] || { inside apt-get -qq update; inside apt-get -qq install --no-install-recommends $packages >/dev/null; }
for files in "$@"; do cp -r --no-preserve=ownership "$files/." "$tree/"; done
echo "127.0.0.1 localhost $(cat "$tree/etc/hostname")" >"$tree/etc/hosts"
echo 'root:gantry' | inside chpasswd
rm -f "$tree"/etc/ssh/ssh_host_*
inside ssh-keygen -A >/dev/null
inside systemd-machine-id-setup >/dev/null 2>&1
[ ! -e "$tree/etc/systemd/network/lan.network" ] || inside systemctl -q enable systemd-networkd
[ ! -e "$tree/etc/systemd/system/guest-proof.service" ] || inside systemctl -q enable guest-proof
inside systemctl -q disable apt-daily.timer apt-daily-upgrade.timer
inside update-initramfs -c -k all >/dev/null
inside sh -c 'lsinitramfs /boot/initrd.img-*' >"$work/initramfs.txt"
cp "$tree/etc/ssh/ssh_host_ed25519_key.pub" "$work/"
cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
cp "$tree"/boot/initrd.img-* "$work/initrd"
rm -rf "$tree/usr/sbin/policy-rc.d" "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb
echo 'nameserver 10.0.2.3' >"$tree/etc/resolv.conf"
umount "$tree/proc" "$tree/sys" "$tree/dev"
tar -C "$tree" --one-file-system --xattrs --xattrs-include='*' --numeric-owner -cf "$work/tree.tar" .
