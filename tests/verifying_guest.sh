#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a guest that writes its whole disk, reads it back past every cache, and says what it found.
b=/bin/busybox
$b mount -t devtmpfs none /dev
$b mount -t proc none /proc
$b mount -t sysfs none /sys
exec </dev/console >/dev/console 2>&1
while read -r module; do $b insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do $b usleep 50000; done

pieces=$(($($b cat /sys/block/vda/size) / 512))
round=0
while :; do
    round=$((round + 1))
    piece=0
    while [ $piece -lt $pieces ]; do
        $b yes "round $round piece $piece" | $b head -c 262144 >/tmp/wrote
        $b dd if=/tmp/wrote of=/dev/vda bs=262144 seek=$piece conv=notrunc 2>/dev/null || echo "FAILED write"
        piece=$((piece + 1))
    done
    $b sync
    $b blockdev --flushbufs /dev/vda
    echo 3 >/proc/sys/vm/drop_caches
    piece=0
    while [ $piece -lt $pieces ]; do
        $b yes "round $round piece $piece" | $b head -c 262144 >/tmp/wrote
        $b dd if=/dev/vda of=/tmp/read bs=262144 skip=$piece count=1 2>/dev/null || echo "FAILED read"
        $b cmp -s /tmp/wrote /tmp/read || echo "WRONG round $round piece $piece"
        piece=$((piece + 1))
    done
    echo "round $round"
done
