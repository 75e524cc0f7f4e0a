//! Values that are not finite: a single one in a frozen weight makes every loss NaN, and no loss tells which.

use half::bf16;
use kernels::HostSlice;
use rayon::prelude::*;

/// Elements that one task looks through.
const CHUNK: usize = 1 << 16;

/// The first NaN or infinity with its flat index; integers have none.
pub(super) fn first_not_finite(values: HostSlice<'_>) -> Option<(usize, f32)> {
    match values {
        HostSlice::F32(x) => {
            let index = first(x, |x| x.to_bits() & 0x7fff_ffff >= 0x7f80_0000)?;
            Some((index, x[index]))
        }
        HostSlice::Bf16(x) => {
            let index = first(x, |x: bf16| x.to_bits() & 0x7fff >= 0x7f80)?;
            Some((index, x[index].to_f32()))
        }
        HostSlice::U32(_) | HostSlice::U8(_) => None,
    }
}

fn first<T: Copy + Sync>(values: &[T], is_bad: impl Fn(T) -> bool + Sync) -> Option<usize> {
    let find = |(i, chunk): (usize, &[T])| {
        // The whole chunk in a loop without a way out, which vectorises.
        let any = chunk.iter().fold(false, |any, x| any | is_bad(*x));
        any.then(|| i * CHUNK + chunk.iter().position(|x| is_bad(*x)).expect("there is one"))
    };
    values.par_chunks(CHUNK).enumerate().find_map_first(find)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_found_wherever_it_is(
            len in 1..3 * CHUNK,
            places in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize), 0..4),
        ) {
            let mut values = vec![f32::MAX; len];
            values[0] = f32::MIN_POSITIVE / 2.0;
            for (at, kind) in &places {
                values[at.index(len)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][*kind];
            }
            let expected = values.iter().position(|x| !x.is_finite());
            let found = first_not_finite(HostSlice::F32(&values));
            prop_assert_eq!(found.map(|(index, _)| index), expected);
            prop_assert!(found.is_none_or(|(index, value)| value.to_bits() == values[index].to_bits()));
            let narrow: Vec<bf16> =
                values.iter().map(|x| if x.is_finite() { bf16::MAX } else { bf16::from_f32(*x) }).collect();
            let found = first_not_finite(HostSlice::Bf16(&narrow));
            prop_assert_eq!(found.map(|(index, _)| index), expected);
        }
    }
}
