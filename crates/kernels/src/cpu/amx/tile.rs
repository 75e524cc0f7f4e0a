//! The tile instructions: configuration of a thread and blocks of 32 x 32 sums.

#![allow(unsafe_code)]

use std::arch::asm;
use std::marker::PhantomData;

use super::overlap::Unstored;

/// Rows, and columns, of a block of sums: two tiles each.
pub(in crate::cpu) const BLOCK: usize = 32;
/// Depth of a tile of bf16 operands.
pub(super) const STEP: usize = 32;
/// Bytes of a tile.
const TILE: usize = 1024;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread, all eight of 16 rows of 64 bytes; given back on drop, which spares
/// context switches their 8 KiB. Neither `Send` nor `Sync`: the configuration is the thread's.
pub(in crate::cpu) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Panics where the tiles are not available.
    pub(in crate::cpu) fn configure() -> Self {
        assert!(super::available(), "the processor has no tiles");
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        config.bytes_per_row[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: the instruction exists and is permitted, as asserted; it reads 64 bytes of `config`,
        // which is a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists, for `configure` made this value; nothing else of the thread
        // uses tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Multiplies something that nobody asked for, between sums: the matrix unit falls asleep when it has had nothing to do
/// for a while, and takes some thousand ticks to be as fast as before.
pub(super) fn keep_awake(_: &Tiles) {
    // SAFETY: a `Tiles` exists, so this thread's tiles are configured; outside `multiply` they hold nothing.
    unsafe { asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nostack, nomem)) }
}

/// Tiles of an operand in memory: 32 rows of activations, or the panel of 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) first: *const u8,
    /// Bytes from row to row.
    pub(super) row: usize,
    /// Bytes from step to step.
    pub(super) step: usize,
}

/// Where a block of 32 x 32 sums lies: four tiles of 16 x 16.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    first: *mut f32,
    /// Bytes from row to row of a tile.
    row: usize,
    /// Bytes to the tile on the right.
    right: usize,
    /// Bytes to the tile below.
    below: usize,
}

impl Sums {
    /// Elements of a block.
    pub(super) const LEN: usize = BLOCK * BLOCK;

    /// A block of its own.
    pub(super) fn packed(block: &mut [f32]) -> Self {
        assert_eq!(block.len(), Self::LEN);
        Self { first: block.as_mut_ptr(), row: 64, right: TILE, below: 2 * TILE }
    }

    /// Columns `col..col + 32` of `[32, width]`.
    pub(super) fn within(rows: &mut [f32], width: usize, col: usize) -> Self {
        assert!(rows.len() == BLOCK * width && col + BLOCK <= width);
        Self { first: rows[col..].as_mut_ptr(), row: 4 * width, right: 64, below: 64 * width }
    }
}

/// Bytes of a pair of columns of a panel for a step.
const PANEL_STEP: usize = 2048;

/// Rows and a panel's column pair that are multiplied over some steps.
///
/// The pair holds two tiles for each step, whose row `i` holds the weights of depth `2i` and `2i + 1`
/// of 16 columns in turns.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) left: Left,
    pub(super) right: *const u8,
    pub(super) steps: usize,
    /// Four rows that are fetched to L2 meanwhile, laid out as those on the left; none if it is null.
    pub(super) ahead: *const u8,
}

impl Segment {
    /// Nothing to multiply yet.
    pub(super) const EMPTY: Self = {
        let left = Left { first: std::ptr::null(), row: 0, step: 0 };
        Self { left, right: std::ptr::null(), steps: 0, ahead: std::ptr::null() }
    };

    /// The next pair of columns, and the next four rows ahead.
    pub(super) fn next_pair(&mut self) {
        self.right = self.right.wrapping_add(self.steps * PANEL_STEP);
        if !self.ahead.is_null() {
            self.ahead = self.ahead.wrapping_add(4 * self.left.row);
        }
    }

    /// Without some steps.
    const fn after(self, steps: usize) -> Self {
        let Left { first, step, .. } = self.left;
        let left = Left { first: first.wrapping_add(steps * step), ..self.left };
        let right = self.right.wrapping_add(steps * PANEL_STEP);
        Self { left, right, steps: self.steps - steps, ..self }
    }
}

/// `to = [from +] left . right`, summed over the steps of all segments, for the upper 16 rows alone or
/// all 32.
///
/// Panels stream from L2 past L1, where the rows stay (`tileloaddt1`: 3.25 against 2.47 TFLOP/s of one
/// core in the loop alone). The order was chosen of all 1,088 in the loop alone, and of a dozen in products: loading the
/// panel's tiles first, which are further away, takes 3 % off those that are 576 deep. Fetching them ahead adds a third.
///
/// # Safety
///
/// Each segment has at least one step, 16 rows (32 for `ALL`) of 64 readable bytes for each step on
/// its left, and on its right 2048 readable bytes for each step. The slices that `from` and `to` were
/// made of are still borrowed, at least until the call returns.
pub(super) unsafe fn multiply<const ALL: bool>(
    _: &Tiles,
    segments: &[Segment],
    from: Option<Sums>,
    to: Sums,
) {
    // SAFETY: a `Tiles` exists, so this thread's tiles are configured and their instructions permitted.
    // The compiler knows nothing of tiles and leaves them alone between the blocks. All memory that is
    // read or written is the caller's to vouch for.
    unsafe {
        begin::<ALL>(from);
        for segment in segments {
            accumulate::<ALL>(*segment);
        }
        store::<ALL>(to);
    }
}

/// As [`multiply`] of all 32 rows, and meanwhile stores lines of rows that were computed before, two with each step.
///
/// # Safety
///
/// As [`multiply`]; the sums before can be read, and where they are stored belongs to the caller.
pub(super) unsafe fn multiply_storing(
    _: &Tiles,
    segments: &[Segment],
    from: Option<Sums>,
    to: Sums,
    before: &mut Unstored,
) {
    // SAFETY: as in `multiply`; what is stored is the caller's to vouch for.
    unsafe {
        begin::<true>(from);
        for &segment in segments {
            let mut left = segment;
            while left.steps > 0 && before.lines > 1 {
                let steps = left.steps.min(before.lines / 2);
                let first = Segment { steps, ..left };
                if before.past_caches {
                    accumulate_storing_past_caches(first, before);
                } else {
                    accumulate_storing(first, before);
                }
                before.advance(2 * steps);
                left = left.after(steps);
            }
            if left.steps > 0 {
                accumulate::<true>(left);
            }
        }
        store::<true>(to);
    }
}

/// Two times 32 columns of rows.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) first: *const u8,
    pub(super) second: *const u8,
    /// Bytes from row to row.
    pub(super) row: usize,
}

/// `to = [from +] left . columns`, summed over `blocks` of 16 rows, whose left operands are two tiles each: the first
/// makes the left tiles of a block of sums, the second the right ones; those of the first columns are above those of the
/// second.
///
/// # Safety
///
/// There are 16 rows of 64 readable bytes of both columns and 2048 readable bytes of `left` for each of the blocks, of
/// which there is one at least. The slices that `from` and `to` were made of are still borrowed, at least until the
/// call returns.
pub(super) unsafe fn multiply_columns(
    _: &Tiles,
    left: *const u8,
    columns: Columns,
    blocks: usize,
    from: Option<Sums>,
    to: Sums,
) {
    let Columns { first, second, row } = columns;
    // SAFETY: as in `multiply`.
    unsafe {
        begin::<true>(from);
        asm!(
            ".p2align 6",
            "2:",
            "tileloadd tmm6, [{x}+{row}]",
            "tileloadd tmm4, [{a}+{line}]",
            "tileloadd tmm5, [{a}+{line}+1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{y}+{row}]",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, {rows}",
            "add {y}, {rows}",
            "add {a}, 2048",
            "dec {n}",
            "jnz 2b",
            x = inout(reg) first => _,
            y = inout(reg) second => _,
            a = inout(reg) left => _,
            n = inout(reg) blocks => _,
            row = in(reg) row,
            rows = in(reg) 16 * row,
            line = in(reg) 64_usize,
            options(nostack, readonly)
        );
        store::<true>(to);
    }
}

/// Sums to begin with, or none. Safety: as [`multiply`].
#[inline]
unsafe fn begin<const ALL: bool>(from: Option<Sums>) {
    // SAFETY: by the caller's contract.
    unsafe {
        match from {
            None => asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            ),
            Some(from) => load::<ALL>(from),
        }
    }
}

/// Sums to tiles. Safety: as [`multiply`].
#[inline]
unsafe fn load<const ALL: bool>(from: Sums) {
    // SAFETY: by the caller's contract.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c}+{row}]",
            "tileloadd tmm1, [{d}+{row}]",
            c = in(reg) from.first,
            d = in(reg) from.first.byte_add(from.right),
            row = in(reg) from.row,
            options(nostack, readonly)
        );
        if ALL {
            let below = from.first.byte_add(from.below);
            asm!(
                "tileloadd tmm2, [{c}+{row}]",
                "tileloadd tmm3, [{d}+{row}]",
                c = in(reg) below,
                d = in(reg) below.byte_add(from.right),
                row = in(reg) from.row,
                options(nostack, readonly)
            );
        }
    }
}

/// Tiles to sums. Safety: as [`multiply`].
#[inline]
unsafe fn store<const ALL: bool>(to: Sums) {
    // SAFETY: by the caller's contract.
    unsafe {
        asm!(
            "tilestored [{c}+{row}], tmm0",
            "tilestored [{d}+{row}], tmm1",
            c = in(reg) to.first,
            d = in(reg) to.first.byte_add(to.right),
            row = in(reg) to.row,
            options(nostack)
        );
        if ALL {
            let below = to.first.byte_add(to.below);
            asm!(
                "tilestored [{c}+{row}], tmm2",
                "tilestored [{d}+{row}], tmm3",
                c = in(reg) below,
                d = in(reg) below.byte_add(to.right),
                row = in(reg) to.row,
                options(nostack)
            );
        }
    }
}

/// Adds the products of 32 rows over all steps of a segment to the tiles, with other instructions and their operands for
/// each step.
macro_rules! accumulate {
    ($segment:expr, [$($with_each:tt)*], [$($operands:tt)*], $($option:ident),*) => {
        asm!(
            ".p2align 6",
            "2:",
            "tileloaddt1 tmm6, [{b}+{line}]",
            "tileloadd tmm4, [{a}+{row}]",
            "tileloaddt1 tmm7, [{b}+{line}+1024]",
            "tileloadd tmm5, [{a1}+{row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            $($with_each)*
            "add {a}, {step}",
            "add {a1}, {step}",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) $segment.left.first => _,
            a1 = inout(reg) $segment.left.first.wrapping_add(16 * $segment.left.row) => _,
            b = inout(reg) $segment.right => _,
            n = inout(reg) $segment.steps => _,
            row = in(reg) $segment.left.row,
            step = in(reg) $segment.left.step,
            line = in(reg) 64_usize,
            $($operands)*
            options($($option),*)
        )
    };
}

/// As [`accumulate`], and stores two lines with each step. Safety: as [`multiply_storing`].
macro_rules! accumulate_storing {
    ($name:ident, $store:literal) => {
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(segment: Segment, before: &Unstored) {
            // SAFETY: by the caller's contract.
            unsafe {
                accumulate!(
                    segment,
                    [
                        "vmovups {u}, [{s}+64]",
                        "vcvtne2ps2bf16 {u}, {u}, [{s}]",
                        concat!($store, " [{o}], {u}"),
                        "vmovups {v}, [{s}+192]",
                        "vcvtne2ps2bf16 {v}, {v}, [{s}+128]",
                        concat!($store, " [{o}+64], {v}"),
                        "add {s}, 256",
                        "add {o}, 128",
                    ],
                    [
                        s = inout(reg) before.sums => _,
                        o = inout(reg) before.out => _,
                        u = out(zmm_reg) _,
                        v = out(zmm_reg) _,
                    ],
                    nostack
                );
            }
        }
    };
}

accumulate_storing!(accumulate_storing, "vmovdqu64");
accumulate_storing!(accumulate_storing_past_caches, "vmovntdq");

/// Adds the products of a segment to the tiles. Safety: as [`multiply`].
#[inline]
unsafe fn accumulate<const ALL: bool>(segment: Segment) {
    let Segment { left, right, steps, ahead } = segment;
    // SAFETY: by the caller's contract.
    unsafe {
        if ALL && !ahead.is_null() {
            accumulate!(
                segment,
                [
                    "prefetcht1 [{p}]",
                    "prefetcht1 [{p}+{row}]",
                    "prefetcht1 [{q}]",
                    "prefetcht1 [{q}+{row}]",
                    "add {p}, {step}",
                    "add {q}, {step}",
                ],
                [
                    p = inout(reg) ahead => _,
                    q = inout(reg) ahead.wrapping_add(2 * left.row) => _,
                ],
                nostack,
                readonly
            );
        } else if ALL {
            accumulate!(segment, [], [], nostack, readonly);
        } else {
            asm!(
                ".p2align 6",
                "2:",
                "tileloadd tmm4, [{a}+{row}]",
                "tileloaddt1 tmm6, [{b}+{line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b}+{line}+1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {a}, {step}",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                a = inout(reg) left.first => _,
                b = inout(reg) right => _,
                n = inout(reg) steps => _,
                row = in(reg) left.row,
                step = in(reg) left.step,
                line = in(reg) 64_usize,
                options(nostack, readonly)
            );
        }
    }
}
