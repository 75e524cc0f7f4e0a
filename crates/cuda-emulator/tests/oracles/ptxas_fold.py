#!/usr/bin/env python3
"""Writes ptxas_fold.txt: results of PTX instructions on constants, as ptxas folds them.

Each case is a kernel that stores the result of one instruction on immediate operands; where ptxas
folds it, the machine code holds the result. Cases it leaves to the hardware are dropped. Only
values are kept. Made with ptxas of CUDA 13.5 for sm_80:

    python3 ptxas_fold.py [folder of ptxas and nvdisasm] > ptxas_fold.txt

A line is: opcode, result, sources; 32-bit numbers in hexadecimal. A predicate is 0 or 1.
"""
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
INTEGERS = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xF0F1, 0xAABBCCDD]
FLOATS = [0, 0x80000000, 0x3F800000, 0xBF800000, 0x3F800001, 0x33800000, 0x00800000, 0x00000001,
          0x807FFFFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F000000, 0x40200000,
          0xC0200000, 0x4F800000, 0xCF000000, 0x40490FDB, 0x42C80000, 0xC2FC0000, 0x3DCCCCCD]
AMOUNTS = [0, 1, 5, 13, 31, 32, 33, 40, 255]
PICK = {"i": INTEGERS, "f": FLOATS, "n": AMOUNTS}
# Opcode, kinds of the sources (integer, float, amount), result in a float register or predicate.
OPERATIONS = [
    ("add.s32", "ii", "r"), ("sub.s32", "ii", "r"), ("mul.lo.s32", "ii", "r"), ("mad.lo.s32", "iii", "r"),
    ("mul.hi.u32", "ii", "r"), ("mul.hi.s32", "ii", "r"), ("mul24.lo.s32", "ii", "r"), ("mul24.lo.u32", "ii", "r"),
    ("min.s32", "ii", "r"), ("max.s32", "ii", "r"), ("min.u32", "ii", "r"), ("max.u32", "ii", "r"),
    ("abs.s32", "i", "r"), ("neg.s32", "i", "r"), ("sad.s32", "iii", "r"), ("sad.u32", "iii", "r"),
    ("div.s32", "ii", "r"), ("rem.s32", "ii", "r"), ("div.u32", "ii", "r"), ("rem.u32", "ii", "r"),
    ("and.b32", "ii", "r"), ("or.b32", "ii", "r"), ("xor.b32", "ii", "r"), ("not.b32", "i", "r"), ("cnot.b32", "i", "r"),
    ("popc.b32", "i", "r"), ("clz.b32", "i", "r"), ("brev.b32", "i", "r"),
    ("bfind.u32", "i", "r"), ("bfind.s32", "i", "r"), ("bfind.shiftamt.u32", "i", "r"), ("bfind.shiftamt.s32", "i", "r"),
    ("shl.b32", "in", "r"), ("shr.u32", "in", "r"), ("shr.s32", "in", "r"),
    ("shf.l.wrap.b32", "iin", "r"), ("shf.l.clamp.b32", "iin", "r"), ("shf.r.wrap.b32", "iin", "r"), ("shf.r.clamp.b32", "iin", "r"),
    ("bfe.u32", "inn", "r"), ("bfe.s32", "inn", "r"), ("bfi.b32", "iinn", "r"),
    ("prmt.b32", "iii", "r"), ("prmt.b32.f4e", "iin", "r"), ("prmt.b32.b4e", "iin", "r"), ("prmt.b32.rc8", "iin", "r"),
    ("prmt.b32.ecl", "iin", "r"), ("prmt.b32.ecr", "iin", "r"), ("prmt.b32.rc16", "iin", "r"),
    ("lop3.b32", "iiin", "r"), ("dp4a.s32.s32", "iii", "r"), ("dp4a.u32.u32", "iii", "r"), ("slct.s32.s32", "iii", "r"),
    ("setp.lt.s32", "ii", "p"), ("setp.lt.u32", "ii", "p"), ("setp.ge.s32", "ii", "p"), ("setp.eq.s32", "ii", "p"),
    *((f"setp.{c}.f32", "ff", "p") for c in "eq ne lt le gt ge equ neu ltu leu gtu geu num nan".split()),
    ("setp.lt.ftz.f32", "ff", "p"), ("setp.eq.ftz.f32", "ff", "p"),
    *((f"{op}{r}{z}.f32", "ff", "f") for op in ("add", "sub", "mul") for r in ("", ".rz", ".rm", ".rp") for z in ("", ".ftz")),
    *((f"fma{r}.f32", "fff", "f") for r in (".rn", ".rz", ".rm", ".rp")),
    ("add.sat.f32", "ff", "f"), ("mul.sat.f32", "ff", "f"),
    ("min.f32", "ff", "f"), ("max.f32", "ff", "f"), ("min.NaN.f32", "ff", "f"), ("max.NaN.f32", "ff", "f"), ("max.ftz.f32", "ff", "f"),
    ("abs.f32", "f", "f"), ("neg.f32", "f", "f"), ("copysign.f32", "ff", "f"),
    *((f"cvt.{r}i.{t}.f32", "f", "r") for r in ("rn", "rz", "rm", "rp") for t in ("s32", "u32")),
    *((f"cvt.{r}i.f32.f32", "f", "f") for r in ("rn", "rz", "rm", "rp")),
    *((f"cvt.{r}.f32.{t}", "i", "f") for r in ("rn", "rz", "rm", "rp") for t in ("s32", "u32")),
    ("cvt.sat.f32.f32", "f", "f"), ("cvt.ftz.f32.f32", "f", "f"),
    ("ex2.approx.f32", "f", "f"), ("ex2.approx.ftz.f32", "f", "f"), ("lg2.approx.f32", "f", "f"), ("lg2.approx.ftz.f32", "f", "f"),
    ("rsqrt.approx.f32", "f", "f"), ("rsqrt.approx.ftz.f32", "f", "f"), ("rcp.approx.ftz.f32", "f", "f"), ("sqrt.approx.f32", "f", "f"),
    ("sin.approx.f32", "f", "f"), ("cos.approx.f32", "f", "f"), ("tanh.approx.f32", "f", "f"),
    ("rcp.rn.f32", "f", "f"), ("sqrt.rn.f32", "f", "f"), ("div.rn.f32", "ff", "f"), ("div.full.f32", "ff", "f"),
    ("cvt.rn.bf16x2.f32", "ff", "r"), ("cvt.rn.f16x2.f32", "ff", "r"), ("cvt.rna.tf32.f32", "f", "r"),
]


def cases():
    chooser = random.Random(7)
    for opcode, kinds, result in OPERATIONS:
        seen = set()
        for _ in range(10):
            def pick(kind):
                if kind == "i" and chooser.random() < 0.5:
                    return chooser.getrandbits(32)
                if kind == "f" and chooser.random() < 0.4:
                    return chooser.getrandbits(24) | chooser.choice([0x3F000000, 0xBF000000, 0x40000000])
                return chooser.choice(PICK[kind])
            sources = tuple(pick(kind) for kind in kinds)
            if sources not in seen:
                seen.add(sources)
                yield opcode, kinds, result, sources


def kernel(i, opcode, kinds, result, sources):
    # Selectors and truth tables must be immediates.
    words = [f"%f{j}" if kind == "f" else f"%r{j}" for j, kind in enumerate(kinds)]
    if opcode == "lop3.b32":
        words[3] = str(sources[3])
    moves = "".join(f"mov.b32 %r{j}, {value};" + (f"mov.b32 %f{j}, %r{j};" if kind == "f" else "")
                    for j, (kind, value) in enumerate(zip(kinds, sources)))
    target, after = {"r": ("%r9", ""), "f": ("%f9", "mov.b32 %r9, %f9;"),
                     "p": ("%p1", "selp.u32 %r9, 1, 0, %p1;")}[result]
    return f""".visible .entry k{i}(.param .u64 out) {{
    .reg .b32 %r<10>; .reg .f32 %f<10>; .reg .pred %p<2>; .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out]; {moves} {opcode} {target}, {", ".join(words)}; {after}
    st.global.u32 [%rd1], %r9; ret;
}}
"""


def half_bits(text):
    number = {"+INF": "inf", "-INF": "-inf", "+QNAN": "nan", "QNAN": "nan"}.get(text, text)
    return struct.unpack("<H", struct.pack("<e", float(number)))[0]


def folded(body):
    """The constant that reaches the store, or None."""
    constants = {"RZ": 0}
    for line in body.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line).strip().rstrip(";").strip()
        move = re.match(r"(?:MOV|IMAD\.MOV\.U32|UMOV) (R\d+), (?:RZ, RZ, )?(0x[0-9a-f]+)$", line)
        half = re.match(r"HFMA2(?:\.MMA)? (R\d+), -RZ, RZ, (\S+), (\S+)$", line)
        store = re.match(r"STG\.E(?:\.\w+)* \[.*\], (R\w+)$", line)
        if move:
            constants[move.group(1)] = int(move.group(2), 16)
        elif half and "NAN" not in line:
            constants[half.group(1)] = half_bits(half.group(2)) << 16 | half_bits(half.group(3))
        elif store:
            return constants.get(store.group(1))
        else:
            # Anything else that writes the register makes it unknown.
            written = re.match(r"\S+ (R\d+),", line)
            if written:
                constants.pop(written.group(1), None)
    return None


def tool(name, *arguments):
    path = str(TOOLS / name) if TOOLS else name
    return subprocess.run([path, *arguments], capture_output=True, text=True)


def assembles(text, folder):
    (folder / "k.ptx").write_text(".version 8.0\n.target sm_80\n.address_size 64\n" + text)
    return tool("ptxas", "-arch=sm_80", "-O3", str(folder / "k.ptx"), "-o", str(folder / "k.cubin"))


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        accepted, rejected = {}, []
        kept = []
        for case in cases():
            if case[0] not in accepted:
                accepted[case[0]] = assembles(kernel(0, *case), folder).returncode == 0
                if not accepted[case[0]]:
                    rejected.append(case[0])
            if accepted[case[0]]:
                kept.append(case)
        done = assembles("".join(kernel(i, *case) for i, case in enumerate(kept)), folder)
        if done.returncode:
            sys.exit(done.stderr)
        text = tool("nvdisasm", "-c", str(folder / "k.cubin")).stdout
        bodies = dict(re.findall(r"\n\.text\.k(\d+):(.*?)(?=\n\.text\.|\Z)", text, re.S))
        lines = []
        for i, (opcode, _, _, sources) in enumerate(kept):
            value = folded(bodies[str(i)])
            if value is not None:
                lines.append(f"{opcode} {value:08x} " + " ".join(f"{source:08x}" for source in sources))
        print("\n".join(lines))
        names = {case[0] for case in kept}
        print("rejected by ptxas:", rejected, file=sys.stderr)
        print("never folded:", sorted(names - {line.split()[0] for line in lines}), file=sys.stderr)


main()
