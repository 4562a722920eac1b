#!/bin/busybox sh
# The first process of a machine that boots quickly, see Config.Quick. It replaces the initrd's, and systemd.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
bb=/bin/busybox
root=/root

$bb mount -t devtmpfs dev /dev
while read -r module; do
	$bb insmod "/modules/$module" 2>/dev/null # one that is for another CPU is refused
done </modules/order
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do $bb usleep 10000; done
$bb mount -t ext4 -o ro /dev/vda $root
$bb mount -t ext4 -o noinit_itable /dev/vdb $root/lab
$bb mount -o move /dev $root/dev
$bb mount -t proc proc $root/proc
$bb mount -t sysfs sys $root/sys
$bb mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
$bb mount -t tmpfs -o mode=0755 run $root/run
$bb mount -t tmpfs -o mode=1777 tmp $root/tmp
$bb mkdir -p $root/dev/pts $root/dev/shm $root/dev/virtio-ports
$bb mount -t devpts devpts $root/dev/pts
$bb mount -t tmpfs -o mode=1777 shm $root/dev/shm

$bb chroot $root modprobe -a virtio_console kvm_amd tun
$bb chroot $root sh -c 'chgrp kvm /dev/kvm && chmod 0660 /dev/kvm; ip link set lo up'
for controller in $($bb cat $root/sys/fs/cgroup/cgroup.controllers); do
	echo "+$controller" >$root/sys/fs/cgroup/cgroup.subtree_control
done

# What udev would do for the agent's port.
until [ -e $root/dev/virtio-ports/metald.lab ]; do
	for port in $root/sys/class/virtio-ports/vport*; do
		name=$($bb cat "$port/name" 2>/dev/null)
		[ -z "$name" ] || $bb ln -sf "../${port##*/}" "$root/dev/virtio-ports/$name"
	done
	$bb usleep 10000
done
ulimit -n 65536
exec $bb switch_root $root /bin/sh -c 'while :; do /lab/agent; done'
