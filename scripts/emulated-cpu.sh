#!/usr/bin/env bash
# Runs a program in a small Linux on Bochs, an emulator of processors this machine may not have; some 400 million simple
# instructions take it a second. The program has its libraries and QLORA_CPU there, no files else. Exits as it does, or with 124
# after EMULATED_SECONDS (600) altogether:
#   export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/scripts/emulated-cpu.sh sapphire_rapids"
#   cargo test --release -p kernels --test ops -- --test-threads 1 cpu_bf16::check_linear
# The processor is one of Bochs: sapphire_rapids (AMX), corei7_icelake_u (AVX-512 with VNNI), arrow_lake (AVX2 and AVX-VNNI).
# The guest's kernel and the source of Bochs are fetched from Debian, and built, in some two minutes once. What else is
# needed of it says
#   scripts/emulated-cpu.sh packages
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

if [ "$*" = packages ]; then
    echo bochsbios busybox-static cpio curl g++ isolinux make patch syslinux-common vgabios xorriso
    exit
elif [ $# -lt 2 ]; then
    echo "usage: $0 PROCESSOR PROGRAM [ARGUMENTS...]" >&2
    exit 2
fi
processor=$1
shift
for tool in busybox cpio curl g++ make patch strip xorriso; do
    command -v "$tool" > /dev/null || { echo "$tool is missing: apt-get install \$($0 packages)" >&2; exit 1; }
done
cache=$(cd "$project" && realpath -m "${CARGO_TARGET_DIR:-target}")/emulated-cpu
mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9

if [ ! -e "$cache/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    (
        cd "$cache"
        apt-get --quiet=2 --option APT::Sandbox::User=root download "$package"
        dpkg-deb --extract linux-image-*.deb kernel
    ) >&2
    mv "$cache"/kernel/boot/vmlinuz-* "$cache/vmlinuz"
    rm -rf "$cache"/kernel "$cache"/linux-image-*.deb
fi

# Debian 13's is the first to know AMX.
if [ ! -e "$cache/bochs" ]; then
    archive=bochs_3.0+dfsg.orig.tar.xz
    trap 'tail -n 20 "$cache/build" >&2' ERR
    (
        cd "$cache"
        curl --fail --silent --show-error --remote-name "http://deb.debian.org/debian/pool/main/b/bochs/$archive"
        echo "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b  $archive" | sha256sum --check --quiet
        tar --extract --file "$archive"
        cd bochs-3.0
        patch --quiet --strip 1 < "$project/scripts/emulated-cpu.patch"
        # Its rate is logged on a signal, which may come while something is.
        ./configure --disable-show-ips --with-nogui --enable-x86-64 --enable-all-optimizations --enable-avx --enable-evex \
            --enable-amx --enable-protection-keys --enable-monitor-mwait CXXFLAGS=-O2 CFLAGS=-O2
        make --jobs "$(nproc)"
    ) > "$cache/build" 2>&1
    trap - ERR
    mv "$cache/bochs-3.0/bochs" "$cache/bochs"
    rm -rf "$cache"/bochs-3.0 "$cache"/bochs_3.0*
fi
flock --unlock 9
if ! "$cache/bochs" -help cpu < /dev/null 2>&1 | grep -x "$processor" > /dev/null; then
    echo "$processor is none of Bochs: $cache/bochs -help cpu" >&2
    exit 2
fi

work=$(mktemp -d "$cache/run.XXXXXX")
emulator=
stop() {
    [ -z "$emulator" ] || kill -9 -- "-$emulator" 2> /dev/null || true
    rm -rf "$work"
}
trap stop EXIT

# The guest's files: the program and what it links to, where they are here.
root=$work/root
mkdir -p "$root"/bin "$root"/dev "$root"/proc "$root"/sys "$root"/tmp
cp "$(command -v busybox)" "$root/bin/busybox"
program=$(realpath "$1")
shift
libraries=$(ldd "$program" | grep -o '/[^ ]*' || true)
for file in $program $libraries; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
    strip --strip-unneeded "$root$file"
done
cat > "$root/init" << END
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp QLORA_CPU=${QLORA_CPU:-} RUST_BACKTRACE=0
stty -F /dev/ttyS1 raw -echo -opost -hupcl
$(printf '%q ' "$program" "$@") > /dev/ttyS1 2>&1
echo "exit \$?" > /dev/ttyS0
poweroff -f
END
chmod +x "$root/init"

disk=$work/disk
mkdir -p "$disk/isolinux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$disk/isolinux"
ln "$cache/vmlinuz" "$disk/vmlinuz"
(cd "$root" && find . | cpio --create --format=newc --quiet) > "$disk/initrd"
# With FSRM (580) this kernel does not come up there, and pages of five levels make SMM panic.
cat > "$disk/isolinux/isolinux.cfg" << 'END'
DEFAULT linux
LABEL linux
 KERNEL /vmlinuz
 APPEND initrd=/initrd rdinit=/init console=ttyS0,115200 quiet tsc=reliable clocksource=tsc no_timer_check mitigations=off panic=-1 no5lvl clearcpuid=580
END
xorriso -as mkisofs -quiet -o "$work/disk.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$disk" 2> "$work/xorriso" || { cat "$work/xorriso" >&2; exit 1; }

cat > "$work/bochsrc" << END
display_library: nogui
cpu: model=$processor, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$work/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/console
com2: enabled=1, mode=file, dev=$work/output
clock: sync=none, time0=local
log: $work/log
panic: action=fatal
error: action=ignore
info: action=ignore
END
touch "$work/console" "$work/output"
setsid "$cache/bochs" -q -f "$work/bochsrc" < /dev/null > "$work/terminal" 2>&1 9>&- &
emulator=$!
disown

tail --follow --lines=+1 --pid="$emulator" --sleep-interval=0.2 "$work/output" 2> /dev/null &
until status=$(grep -aoE '^exit [0-9]+' "$work/console"); do
    if [ $SECONDS -ge "${EMULATED_SECONDS:-600}" ]; then
        status="exit 124"
        break
    elif ! kill -0 "$emulator" 2> /dev/null; then
        { tail -n 5 "$work/console"; grep -a PANIC "$work/log"; } >&2 || true
        status="exit 125"
        break
    fi
    sleep 0.2
done
sleep 1
exit "${status#exit }"
