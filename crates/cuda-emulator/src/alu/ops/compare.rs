//! Comparisons: `setp` to a predicate and `set` to all ones or 1.0.

use half::{bf16, f16};

use super::flush;
use crate::alu::sixteen::Sixteen;
use crate::alu::table::{Table, op};

pub(super) fn add(t: &mut Table) {
    integers(t);
    floats(t);
}

/// `setp` and `set` of one comparison, alone and combined with a predicate. `$name` and `$types`
/// may be patterns.
macro_rules! comparison {
    ($t:ident, $class:ident, $name:expr, $types:expr, |$x:ident: $ty:ty, $y:ident| $test:expr) => {
        op!($t, $class, concat!("setp.", $name, $types), ($x: $ty, $y: $ty) -> (bool) { $test });
        op!($t, $class, concat!("setp.", $name, ".and", $types), ($x: $ty, $y: $ty, p: bool) -> (bool) { ($test) & p });
        op!($t, $class, concat!("setp.", $name, ".or", $types), ($x: $ty, $y: $ty, p: bool) -> (bool) { ($test) | p });
        op!($t, $class, concat!("setp.", $name, ".xor", $types), ($x: $ty, $y: $ty, p: bool) -> (bool) { ($test) ^ p });
    };
    (set $t:ident, $class:ident, $name:expr, $flush:literal, $types:expr, |$x:ident: $ty:ty, $y:ident| $test:expr) => {
        op!($t, $class, concat!("set.", $name, $flush, "(.u32|.s32)", $types), ($x: $ty, $y: $ty) -> (u32) {
            u32::from($test).wrapping_neg()
        });
        op!($t, $class, concat!("set.", $name, $flush, ".f32", $types), ($x: $ty, $y: $ty) -> (f32) {
            if $test { 1.0 } else { 0.0 }
        });
        op!($t, $class, concat!("set.", $name, ".and", $flush, "(.u32|.s32)", $types), ($x: $ty, $y: $ty, p: bool) -> (u32) {
            u32::from(($test) & p).wrapping_neg()
        });
        op!($t, $class, concat!("set.", $name, ".or", $flush, "(.u32|.s32)", $types), ($x: $ty, $y: $ty, p: bool) -> (u32) {
            u32::from(($test) | p).wrapping_neg()
        });
        op!($t, $class, concat!("set.", $name, ".xor", $flush, "(.u32|.s32)", $types), ($x: $ty, $y: $ty, p: bool) -> (u32) {
            u32::from(($test) ^ p).wrapping_neg()
        });
    };
}

fn integers(t: &mut Table) {
    macro_rules! test {
        ($name:literal, $types:literal, |$x:ident: $ty:ty, $y:ident| $test:expr) => {
            comparison!(t, Integer, $name, $types, |$x: $ty, $y| $test);
            comparison!(set t, Integer, $name, "", $types, |$x: $ty, $y| $test);
        };
    }
    macro_rules! order {
        ($ty:ty, $types:literal, $lt:literal, $le:literal, $gt:literal, $ge:literal) => {
            test!($lt, $types, |x: $ty, y| x < y);
            test!($le, $types, |x: $ty, y| x <= y);
            test!($gt, $types, |x: $ty, y| x > y);
            test!($ge, $types, |x: $ty, y| x >= y);
        };
    }
    macro_rules! width {
        ($unsigned:ty, $signed:ty, $all:literal, $u:literal, $s:literal) => {
            test!("eq", $all, |x: $unsigned, y| x == y);
            test!("ne", $all, |x: $unsigned, y| x != y);
            order!($unsigned, $u, "(lt|lo)", "(le|ls)", "(gt|hi)", "(ge|hs)");
            order!($signed, $s, "lt", "le", "gt", "ge");
        };
    }
    width!(u16, i16, "(.b16|.u16|.s16)", ".u16", ".s16");
    width!(u32, i32, "(.b32|.u32|.s32)", ".u32", ".s32");
    width!(u64, i64, "(.b64|.u64|.s64)", ".u64", ".s64");
}

/// The fourteen comparisons of floating-point numbers: `$run!` gets name and test of each.
macro_rules! float_comparisons {
    ($run:ident) => {
        $run!("eq", |x, y| x == y);
        $run!("ne", |x, y| (x < y) | (x > y));
        $run!("lt", |x, y| x < y);
        $run!("le", |x, y| x <= y);
        $run!("gt", |x, y| x > y);
        $run!("ge", |x, y| x >= y);
        $run!("equ", |x, y| !((x < y) | (x > y)));
        $run!("neu", |x, y| x != y);
        $run!("ltu", |x, y| !(x >= y));
        $run!("leu", |x, y| !(x > y));
        $run!("gtu", |x, y| !(x <= y));
        $run!("geu", |x, y| !(x < y));
        $run!("num", |x, y| !x.is_nan() & !y.is_nan());
        $run!("nan", |x, y| x.is_nan() | y.is_nan());
    };
}

// The negated comparisons are the unordered ones.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn floats(t: &mut Table) {
    macro_rules! test {
        ($name:literal, |$x:ident, $y:ident| $test:expr) => {
            comparison!(t, Float32, $name, ".f32", |$x: f32, $y| $test);
            comparison!(t, Float32, $name, ".ftz.f32", |$x: f32, $y| {
                let ($x, $y) = (flush($x), flush($y));
                $test
            });
            comparison!(t, Float64, $name, ".f64", |$x: f64, $y| $test);
            comparison!(set t, Float32, $name, "", ".f32", |$x: f32, $y| $test);
            comparison!(set t, Float32, $name, ".ftz", ".f32", |$x: f32, $y| {
                let ($x, $y) = (flush($x), flush($y));
                $test
            });
            comparison!(set t, Float64, $name, "", ".f64", |$x: f64, $y| $test);
            sixteen!(f16, $name, |$x, $y| $test);
            sixteen!(bf16, $name, |$x, $y| $test);
        };
    }
    // Pairs give two predicates, of the lower half first, or a mask or number in each half.
    macro_rules! sixteen {
        ($ty:ident, $name:literal, |$x:ident, $y:ident| $test:expr) => {
            comparison!(t, Half, $name, concat!(".", stringify!($ty)), |$x: $ty, $y| {
                let ($x, $y) = ($x.widen(), $y.widen());
                $test
            });
            op!(t, Half, concat!("setp.", $name, ".", stringify!($ty), "x2"), (a: [$ty; 2], b: [$ty; 2]) -> (bool, bool) {
                #[inline(always)]
                fn one($x: f32, $y: f32) -> bool {
                    $test
                }
                (one(a[0].widen(), b[0].widen()), one(a[1].widen(), b[1].widen()))
            });
            op!(t, Half, concat!("set.", $name, ".u32.", stringify!($ty), "x2"), (a: [$ty; 2], b: [$ty; 2]) -> ([u16; 2]) {
                #[inline(always)]
                fn one($x: f32, $y: f32) -> u16 {
                    u16::from($test).wrapping_neg()
                }
                [one(a[0].widen(), b[0].widen()), one(a[1].widen(), b[1].widen())]
            });
            op!(t, Half, concat!("set.", $name, ".", stringify!($ty), ".", stringify!($ty)), ($x: $ty, $y: $ty) -> ($ty) {
                let ($x, $y) = ($x.widen(), $y.widen());
                if $test { $ty::ONE } else { $ty::ZERO }
            });
            op!(t, Half, concat!("set.", $name, ".", stringify!($ty), "x2.", stringify!($ty), "x2"), (a: [$ty; 2], b: [$ty; 2]) -> ([$ty; 2]) {
                #[inline(always)]
                fn one($x: f32, $y: f32) -> $ty {
                    if $test { $ty::ONE } else { $ty::ZERO }
                }
                [one(a[0].widen(), b[0].widen()), one(a[1].widen(), b[1].widen())]
            });
        };
    }
    float_comparisons!(test);
}
