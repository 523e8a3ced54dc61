#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a server: needs no network, says on the console what it sees, and believes no disk before it has
# read back what it wrote.  What it says, N being 512-byte sectors of a disk:
#
#   config-drive DEVICE UUID NAME       disk DEVICE N marker WORDS       wrote DEVICE WORDS
#   verified DEVICE KIB at KIB          size DEVICE N                    gone DEVICE
#   DAMAGED DEVICE KIB at KIB           boot N                           tick N
#   agent at PORT
b=/bin/busybox
$b mount -t devtmpfs none /dev
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mkdir -p /tmp/config
exec </dev/console >/dev/console 2>&1
while read -r module; do $b insmod "/modules/$module" 2>/dev/null; done </modules/order

disks() { $b ls /sys/block | $b grep -E '^[vsh]d'; }
sectors() { $b cat "/sys/block/$1/size" 2>/dev/null; }
random() { $b cat /proc/sys/kernel/random/uuid; }

# check DEVICE KIB PLACE: write random bytes PLACE KiB into it, and read them back past every cache
check() {
    $b head -c $(($2 * 1024)) /dev/urandom >/tmp/wrote
    $b dd if=/tmp/wrote of="$1" bs=1024 seek="$3" conv=notrunc,fsync 2>/dev/null
    $b blockdev --flushbufs "$1" 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    $b dd if="$1" of=/tmp/read bs=1024 skip="$3" count="$2" 2>/dev/null
    if $b cmp -s /tmp/wrote /tmp/read; then echo "verified $1 $2 at $3"; else echo "DAMAGED $1 $2 at $3"; fi
    $b rm -f /tmp/wrote /tmp/read
}

# meet NAME: say which marker a disk has, and give it a new one in sector 8, unless something else may be there
meet() {
    $b dd if="/dev/$1" bs=512 skip=8 count=1 2>/dev/null | $b tr -d '\000' >/tmp/marker
    between=$($b dd if="/dev/$1" bs=512 skip=1 count=7 2>/dev/null | $b tr -d '\000' | $b wc -c)
    words=$($b cat /tmp/marker)
    case "$between $words" in "0 " | "0 ministack "*) ;; *) words="of others" ;; esac
    echo "disk $1 $(sectors "$1") marker ${words:-none}"
    if [ "$words" != "of others" ] && [ "$($b cat "/sys/block/$1/ro")" = 0 ]; then
        echo "ministack $server $(random)" >/tmp/marker
        $b dd if=/tmp/marker of="/dev/$1" bs=512 seek=8 conv=notrunc,sync,fsync 2>/dev/null &&
            echo "wrote $1 $($b cat /tmp/marker)"
    fi
}

# look: say what came, went or grew
look() {
    for disk in $(disks); do
        now=$(sectors "$disk")
        was=$($b cat "/tmp/known.$disk" 2>/dev/null)
        [ "$now" = "$was" ] && continue
        echo "$now" >"/tmp/known.$disk"
        case "$disk" in "$config") continue ;; esac
        if [ "$was" ]; then echo "size $disk $now"; else meet "$disk"; fi
    done
    for known in /tmp/known.*; do
        [ -e "/sys/block/${known#/tmp/known.}" ] || { $b rm -f "$known" && echo "gone ${known#/tmp/known.}"; }
    done
}

root=
waited=0
until [ "$root" ]; do
    for part in /dev/vda2 /dev/sda2 /dev/hda2 /dev/vdb2 /dev/sdb2; do
        [ -b "$part" ] && $b mount -t ext4 "$part" /disk 2>/dev/null && root=$part && break
    done
    waited=$((waited + 1))
    [ $waited -gt 200 ] && echo "no root disk" && $b poweroff -f
    [ "$root" ] || $b usleep 50000
done

# A drive of emulated IDE is found a little later than the others.
server=none config=
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -e /sys/block/sr0 ] && break
    $b usleep 50000
done
for disk in sr0 $(disks); do
    [ -b "/dev/$disk" ] || continue
    $b mount -r -t iso9660 "/dev/$disk" /tmp/config 2>/dev/null || $b mount -r -t vfat "/dev/$disk" /tmp/config 2>/dev/null ||
        continue
    data=/tmp/config/openstack/latest/meta_data.json
    if [ -e $data ]; then
        config=$disk
        server=$($b sed -n 's/.*"uuid": *"\([^"]*\)".*/\1/p' $data)
        echo "config-drive $disk $server $($b sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' $data)"
    fi
    $b umount /tmp/config
    [ "$config" ] && break
done

# ACPI: the power button is an input device; its first event means "off".  It keeps events from when it is opened,
# so that is done before anybody is told that this server is up.
for event in /sys/class/input/event*; do
    if $b grep -q "Power Button" "$event/device/name"; then
        exec 3<"/dev/input/${event##*/}"
        ($b head -c 24 <&3 >/dev/null && : >/tmp/off) &
    fi
done

# The agent takes its room in memory only where QEMU has a port for it.
for port in /sys/class/virtio-ports/*; do
    if $b grep -q -s org.qemu.guest_agent.0 "$port/name"; then
        $b gunzip -c /disk/agent.tgz | $b tar -x -C / && $b mkdir -p /run /var/run /usr/var/run
        /usr/sbin/qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /tmp &
        echo "agent at ${port##*/}"
    fi
done

look
disk=$(echo "${root#/dev/}" | $b tr -d 0-9)
echo "found $($b cat /disk/ticks) ticks on $root"
$b touch /disk/scratch
check /disk/scratch 256 0
# Past the partitions, where the disk grew with its flavor.
[ "$(sectors "$disk")" -gt 131072 ] && check "/dev/$disk" 64 $(($(sectors "$disk") / 2 - 64))
count=$(($($b cat /disk/boots) + 1))
echo $count >/disk/boots.new
$b mv /disk/boots.new /disk/boots
$b sync
echo "boot $count of $server"
echo "ministack login:"

tick=$($b cat /disk/ticks)
until [ -e /tmp/off ]; do
    tick=$((tick + 1))
    echo $tick >/disk/ticks.new
    $b mv /disk/ticks.new /disk/ticks
    $b sync
    echo "tick $tick"
    for _ in 1 2 3 4 5 6 7 8; do
        [ -e /tmp/off ] || $b usleep 250000
        look
    done
done
$b umount /disk && echo "unmounted"
$b sync
$b poweroff -f
