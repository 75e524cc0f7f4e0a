//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). Word `i` is a pure function of `(key, stream, i)`, so a mask can be drawn
//! again in the backward, in any order and by any number of threads.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// One stream of random words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
}

impl Philox {
    /// The stream numbered `stream` under `key`.
    pub const fn new(key: u64, stream: u64) -> Self {
        Self {
            key: [key as u32, (key >> 32) as u32],
            stream: [stream as u32, (stream >> 32) as u32],
        }
    }

    /// Words `4 * index .. 4 * index + 4`: the counter is `index` in its low 64 bits, the stream in
    /// its high 64 bits.
    pub const fn block(&self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.stream[0], self.stream[1]];
        philox4x32(counter, self.key)
    }

    /// [`block`](Self::block) of `N` consecutive indices, computed side by side.
    #[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    #[inline(always)]
    pub(crate) fn blocks<const N: usize>(&self, first: u64) -> [[u32; 4]; N] {
        let index: [u64; N] = std::array::from_fn(|lane| first + lane as u64);
        let mut c0 = index.map(|i| i as u32);
        let mut c1 = index.map(|i| (i >> 32) as u32);
        let mut c2 = [self.stream[0]; N];
        let mut c3 = [self.stream[1]; N];
        let mut key = self.key;
        for _ in 0..ROUNDS {
            let lanes = c0.iter_mut().zip(&mut c1).zip(&mut c2).zip(&mut c3);
            for (((c0, c1), c2), c3) in lanes {
                [*c0, *c1, *c2, *c3] = round([*c0, *c1, *c2, *c3], key);
            }
            key = next(key);
        }
        std::array::from_fn(|lane| [c0[lane], c1[lane], c2[lane], c3[lane]])
    }

    /// Word `index`.
    pub const fn word(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// Element `index` of a uniform sequence over `[0, 1)`, a multiple of 2^-24.
    pub const fn uniform(&self, index: u64) -> f32 {
        uniform(self.word(index))
    }

    /// Element `index` of a standard normal sequence (Box and Muller 1958): elements `2i` and
    /// `2i + 1` come from words `2i` and `2i + 1`.
    pub fn normal(&self, index: u64) -> f32 {
        let words = self.block(index / 4);
        let pair = (index % 4 / 2 * 2) as usize;
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(uniform(words[pair]))).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(uniform(words[pair + 1]));
        let value = if index.is_multiple_of(2) { angle.cos() } else { angle.sin() };
        (radius * value) as f32
    }
}

const fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

const fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut done = 0;
    while done < ROUNDS {
        counter = round(counter, key);
        key = next(key);
        done += 1;
    }
    counter
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
const fn round(c: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let p0 = MULTIPLIERS[0] as u64 * c[0] as u64;
    let p1 = MULTIPLIERS[1] as u64 * c[2] as u64;
    [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32]
}

const fn next(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kat_vectors` of Random123 1.14, lines `philox4x32 10`.
    #[test]
    fn known_answers() {
        let all = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([all; 4], [all; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn key_and_stream_fill_the_counter_in_order() {
        let philox = Philox::new(0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e);
        let words = philox.block(0x85a3_08d3_243f_6a88);
        assert_eq!(words[0], 0xd16c_fe09);
        assert_eq!(philox.word(7), philox.block(1)[3]);
        let first = u64::from(u32::MAX) - 1;
        let blocks = philox.blocks::<5>(first);
        assert!((first..).zip(blocks).all(|(i, block)| block == philox.block(i)));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let philox = Philox::new(1, 2);
        let n = 100_000_u32;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(|i| f(i.into())).sum::<f64>() / f64::from(n);
        assert!((mean(&|i| philox.uniform(i).into()) - 0.5).abs() < 5e-3);
        assert!(mean(&|i| philox.normal(i).into()).abs() < 1e-2);
        assert!((mean(&|i| f64::from(philox.normal(i)).powi(2)) - 1.0).abs() < 2e-2);
        assert!(
            mean(&|i| f64::from(philox.normal(i)) * f64::from(philox.normal(i ^ 1))).abs() < 2e-2
        );
        assert!((mean(&|i| f64::from(philox.normal(i)).powi(4)) - 3.0).abs() < 2e-1);
    }
}
