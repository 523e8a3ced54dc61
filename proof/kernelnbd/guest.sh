#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a guest whose root is the file tree of this host: read-only; what is written goes to memory.
# The words after -- on the kernel's command line are our arguments: the tree to work in, the modules, the rest.
b=/bin/busybox
tree=$1 modules=$2
shift 2
export PYTHONPATH="$tree"
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t tmpfs none /mnt
$b mkdir /mnt/upper /mnt/work /mnt/root
$b insmod "$modules/kernel/fs/overlayfs/overlay.ko"
$b mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
cd /mnt/root || $b poweroff -f
$b mount -t proc none proc
$b mount -t sysfs none sys
$b mount -t devtmpfs none dev
$b mkdir -p dev/shm usr/lib/modules
$b mount -t tmpfs none dev/shm
$b mount -t tmpfs none run
$b ln -s "$modules" usr/lib/modules/
$b ip link set lo up
$b chroot . /bin/busybox sh -c 'cd "$1" && shift && exec "$@"' inside "$tree" "$@"
$b poweroff -f
