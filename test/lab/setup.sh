#!/bin/sh
# Makes a host for tests of what debootstrap unpacked. Runs inside of it, as root, once, when the image is built.
set -eu
kernel=$(ls /lib/modules)

# Nobody logs in, and nothing is updated: under emulation every process at boot costs.
systemctl mask --quiet \
	getty.target getty-static.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer systemd-binfmt.service systemd-rfkill.socket \
	systemd-pstore.service systemd-networkd.service systemd-resolved.service
systemd-machine-id-setup >/dev/null 2>&1
echo lab >/etc/hostname
echo '127.0.0.1 localhost lab' >/etc/hosts

# The second disk has the agent and what it is to run.
mkdir -p /lab
cat >/etc/fstab <<-'END'
	/dev/vda /    ext4 defaults 0 0
	/dev/vdb /lab ext4 defaults 0 0
END
cat >/etc/systemd/system/lab-agent.service <<-'END'
	[Unit]
	Description=Runs what the machine's maker asks for
	RequiresMountsFor=/lab
	After=systemd-modules-load.service systemd-tmpfiles-setup.service dbus.socket

	[Service]
	ExecStart=/lab/agent
	Restart=always
	OOMScoreAdjust=-900

	[Install]
	WantedBy=multi-user.target
END
systemctl enable --quiet lab-agent.service
printf '%s\n' virtio_console kvm_amd tun loop vhost_vsock >/etc/modules-load.d/lab.conf

# An initrd with what it takes to reach the first disk. The distribution's is ten times as large, and as slow.
initrd=$(mktemp -d)
mkdir -p "$initrd/bin" "$initrd/dev" "$initrd/proc" "$initrd/root" "$initrd/modules"
cp /bin/busybox "$initrd/bin/"
for module in virtio_pci virtio_blk ext4; do
	modprobe -S "$kernel" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >/tmp/modules
: >"$initrd/modules/order"
while read -r path; do
	cp "$path" "$initrd/modules/"
	basename "$path" >>"$initrd/modules/order"
done </tmp/modules
cat >"$initrd/init" <<-'END'
	#!/bin/busybox sh
	/bin/busybox mount -t proc proc /proc
	/bin/busybox mount -t devtmpfs dev /dev
	while read -r module; do
		/bin/busybox insmod "/modules/$module" 2>/dev/null # one that is for another CPU is refused
	done </modules/order
	until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
	/bin/busybox mount -t ext4 /dev/vda /root
	/bin/busybox umount /proc
	/bin/busybox mount -o move /dev /root/dev
	exec /bin/busybox switch_root /root /sbin/init
END
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet) | gzip -1 >/boot/initrd-lab
ln "/boot/vmlinuz-$kernel" /boot/vmlinuz-lab
rm -rf "$initrd" /tmp/modules /boot/initrd.img-*

rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale /var/log/*.log
touch /etc/.updated /var/.updated # nothing is to be brought up to date at the first boot
