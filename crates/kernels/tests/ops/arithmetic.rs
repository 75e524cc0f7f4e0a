//! In what a backend may multiply, where checks have to know.

use std::any::TypeId;

use kernels::{Backend, Cpu, CpuLevel, DType};

/// The level of the processor, where that is what `K` is.
fn level<K: Backend>() -> Option<CpuLevel> {
    (TypeId::of::<K>() == TypeId::of::<Cpu>()).then(|| CpuLevel::of_process().unwrap())
}

/// Whether `K` is a processor with a matrix unit: there `xa` and `dY . B` may be rounded to the type of `dY`.
pub(crate) fn has_matrix_unit<K: Backend>() -> bool {
    level::<K>() == Some(CpuLevel::Amx)
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_vnni() -> bool {
    false
}

/// Whether that many rows may be multiplied in integers, in which [`in_parts`] counts.
pub(crate) fn in_integers<K: Backend>(dtype: DType, rows: usize) -> bool {
    dtype == DType::Bf16
        && match level::<K>() {
            Some(CpuLevel::Amx) => rows <= 4,
            Some(CpuLevel::Avx2) => true,
            Some(CpuLevel::Avx512) => rows > 4 && has_vnni(),
            _ => false,
        }
}

/// Rows of `width` elements, each 64 of which are rounded to so many parts of their largest.
pub(crate) fn in_parts(x: &[f32], width: usize, parts: f32) -> Vec<f32> {
    let round = |run: &[f32]| -> Vec<f32> {
        let part = run.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / parts;
        run.iter()
            .map(|x| if part > 0.0 { (x / part).round_ties_even() * part } else { *x })
            .collect()
    };
    x.chunks(width.max(1)).flat_map(|row| row.chunks(64).flat_map(round)).collect()
}
