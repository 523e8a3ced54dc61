#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of the guest: counts its boots on the root disk, then keeps writing until the power button is pressed.
b=/bin/busybox
$b mount -t devtmpfs none /dev
$b mount -t proc none /proc
$b mount -t sysfs none /sys
exec </dev/console >/dev/console 2>&1

while read -r module; do $b insmod "/modules/$module"; done </modules/order

waited=0
until [ -b /dev/vda2 ]; do
    waited=$((waited + 1))
    [ $waited -gt 200 ] && echo "no root disk" && $b poweroff -f
    $b usleep 50000
done
$b mount -t ext4 /dev/vda2 /disk || echo "root disk does not mount"

# ACPI: the power button is an input device; its first event means "off".  It keeps events from when it is opened,
# so that is done before anybody is told that this guest is up.
for event in /sys/class/input/event*; do
    if $b grep -q "Power Button" "$event/device/name"; then
        exec 3<"/dev/input/${event##*/}"
        ($b head -c 24 <&3 >/dev/null && : >/tmp/off) &
    fi
done

count=$(($($b cat /disk/boots) + 1))
echo $count >/disk/boots.new
$b mv /disk/boots.new /disk/boots
$b sync
echo "found $($b cat /disk/ticks) ticks"
echo "disk vda $($b cat /sys/block/vda/size) sectors, $($b ls /disk | $b tr '\n' ' ')"
echo "boot $count"

tick=$($b cat /disk/ticks)
until [ -e /tmp/off ]; do
    tick=$((tick + 1))
    $b dd if=/dev/urandom of=/disk/scratch bs=4096 count=$((1 + tick % 16)) conv=notrunc 2>/dev/null
    echo $tick >/disk/ticks.new
    $b mv /disk/ticks.new /disk/ticks
    $b sync
    echo "tick $tick"
    waited=0
    while [ $waited -lt 10 ] && [ ! -e /tmp/off ]; do
        waited=$((waited + 1))
        $b usleep 100000
    done
done
$b umount /disk && echo "unmounted"
$b sync
$b poweroff -f
