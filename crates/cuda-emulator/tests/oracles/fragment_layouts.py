#!/usr/bin/env python3
"""Writes fragment_layouts.txt: which element each lane's value is, for every fragment of `mma`,
`ldmatrix` and `movmatrix`.

Source: the layouts of CuTe (BSD-3-Clause), as CUTLASS ships them in C++ headers. Made with the
PyPI wheel nvidia-cutlass 4.2.0.0; only the values computed from it are kept here.

    pip download --no-deps nvidia-cutlass==4.2.0.0 && unzip -q nvidia_cutlass-*.whl -d wheel
    python3 fragment_layouts.py wheel/cutlass_library/source/include > fragment_layouts.txt

A line is: shape, fragment, value, then "row.column" for lanes 0 to 31. A value is an element in the
order of registers, low bits first. Rows and columns are those of the matrix: A is m x k, B is k x n,
C is m x n; for `ldmatrix`, row of the source and element in the row.
"""
import pathlib
import re
import sys

ATOMS = {
    "m16n8k16.bf16": "SM80_16x8x16_F32BF16BF16F32_TN",
    "m16n8k8.bf16": "SM80_16x8x8_F32BF16BF16F32_TN",
    "m16n8k16.f16": "SM80_16x8x16_F32F16F16F32_TN",
    "m16n8k8.f16": "SM80_16x8x8_F32F16F16F32_TN",
    "m16n8k8.tf32": "SM80_16x8x8_F32TF32TF32F32_TN",
    "m16n8k4.tf32": "SM80_16x8x4_F32TF32TF32F32_TN",
    "m16n8k16.s8": "SM80_16x8x16_S32S8S8S32_TN",
    "m16n8k32.s8": "SM80_16x8x32_S32S8S8S32_TN",
}
COPIES = {"n": "SM75_U32x4_LDSM_N", "t": "SM75_U16x8_LDSM_T"}
LAYOUT = r"Layout<.*?>;|\w+;"


def parse(text, names):
    """A layout as (shape leaves, stride leaves)."""
    text = text.strip().rstrip(";").strip()
    if text in names:
        return parse(names[text], names)
    tree = re.sub(r"Layout|Shape|Stride", "", re.sub(r"\s+", "", text))
    tree = tree.replace("<", "(").replace(">", ",)").replace("_", "")
    shape, stride = eval(tree)
    return shape, stride


def leaves(tree):
    return [tree] if isinstance(tree, int) else [leaf for part in tree for leaf in leaves(part)]


def offset(shape, stride, index):
    total = 0
    for size, step in zip(leaves(shape), leaves(stride)):
        total += index % size * step
        index //= size
    return total


def size(shape):
    product = 1
    for leaf in leaves(shape):
        product *= leaf
    return product


def element(layout, lane, value):
    (lanes, values), (lane_stride, value_stride) = layout
    return offset(lanes, lane_stride, lane) + offset(values, value_stride, value)


def emit(shape, fragment, value, places):
    print(shape, fragment, value, *(f"{row}.{column}" for row, column in places))


def structs(text, kind):
    pattern = rf"struct {kind}<(\w+)>\s*(?::\s*{kind}<(\w+)>)?\s*{{(.*?)}};"
    return {name: (base, body) for name, base, body in re.findall(pattern, text, re.S)}


def field(table, atom, name):
    base, body = table[atom]
    found = re.search(rf"using {name}\s*=\s*({LAYOUT})", body, re.S)
    return found.group(1) if found else field(table, base, name)


def main():
    atom_folder = pathlib.Path(sys.argv[1]) / "cute" / "atom"
    text = (atom_folder / "mma_traits_sm80.hpp").read_text()
    text = re.sub(r"//.*", "", text)
    names = dict(re.findall(r"using (SM80_\w+)\s*=\s*(Layout.*?>);", text, re.S))
    table = structs(text, "MMA_Traits")
    for shape, atom in ATOMS.items():
        depth = int(re.search(r"k(\d+)", shape).group(1))
        # CuTe's matrices are column-major; its B is n x k.
        for fragment, rows in (("A", 16), ("B", 8), ("C", 16)):
            layout = parse(field(table, atom, f"{fragment}Layout"), names)
            assert size(layout[0]) == rows * (8 if fragment == "C" else depth)
            for value in range(size(layout[0][1])):
                places = [divmod(element(layout, lane, value), rows)[::-1] for lane in range(32)]
                if fragment == "B":
                    places = [(k, n) for n, k in places]
                emit(shape, fragment, value, places)
    text = re.sub(r"//.*", "", (atom_folder / "copy_traits_sm75.hpp").read_text())
    table = structs(text, "Copy_Traits")
    for mode, atom in COPIES.items():
        layout = parse(field(table, atom, "DstLayout"), {})
        for value in range(2):
            # Offsets are bits; a row has 8 elements of 16 bits. The first of four tiles.
            bits = [element(layout, lane, 16 * value) for lane in range(32)]
            emit("ldmatrix", mode, value, [(bit // 128, bit % 128 // 16) for bit in bits])


main()
