#!/usr/bin/env bash
# Runs a program in a small Linux on Bochs, an emulator of a processor with AVX-512 and VNNI (Ice Lake), for machines
# whose own has neither: some 30 million instructions a second. The program has its libraries and QLORA_CPU there, no
# files else. Exits as it does, or with 124 after EMULATED_SECONDS (600) altogether:
#   cargo test --release -p kernels --no-run        # says where the tests lie
#   QLORA_CPU=avx512 scripts/emulated-avx512.sh target/release/deps/ops-... --test-threads 1 cpu_bf16::check_linear
# Needs of Debian: bochs bochsbios bochs-term vgabios isolinux syslinux-common xorriso busybox-static cpio binutils; the
# guest's kernel is fetched from there once.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

if [ $# = 0 ]; then
    echo "usage: $0 PROGRAM [ARGUMENTS...]" >&2
    exit 2
fi
for tool in bochs-bin xorriso busybox cpio strip script; do
    command -v "$tool" > /dev/null || { echo "$tool is missing: the packages are listed in $0" >&2; exit 1; }
done
cache=$(cd "$project" && realpath -m "${CARGO_TARGET_DIR:-target}")/emulated-avx512
mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9

if [ ! -e "$cache/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    (cd "$cache" && apt-get --quiet=2 download "$package" && dpkg-deb --extract linux-image-*.deb kernel) >&2
    mv "$cache"/kernel/boot/vmlinuz-* "$cache/vmlinuz"
    rm -rf "$cache"/kernel "$cache"/linux-image-*.deb
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
# Bochs 2.7 describes the state of PKU (515, 516), XSAVEC and XSAVES (321, 323) wrongly, and FSRM (580) without ERMS has
# this kernel move memory in an endless loop.
cat > "$disk/isolinux/isolinux.cfg" << 'END'
DEFAULT linux
LABEL linux
 KERNEL /vmlinuz
 APPEND initrd=/initrd rdinit=/init console=ttyS0,115200 quiet tsc=reliable clocksource=tsc no_timer_check mitigations=off panic=-1 nopku clearcpuid=515,516,321,323,580
END
xorriso -as mkisofs -quiet -o "$work/disk.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$disk" 2> "$work/xorriso" || { cat "$work/xorriso" >&2; exit 1; }

cat > "$work/bochsrc" << END
display_library: term
cpu: model=corei7_icelake_u, count=1, ips=100000000, reset_on_triple_fault=0
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
END
# Debian's is built with a debugger, which has to be told to go on; its display wants a terminal.
echo c > "$work/debugger"
touch "$work/console" "$work/output"
TERM=vt100 setsid script --quiet --command "bochs-bin -q -f $work/bochsrc -rc $work/debugger" /dev/null \
    < /dev/null > "$work/terminal" 2>&1 9>&- &
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
