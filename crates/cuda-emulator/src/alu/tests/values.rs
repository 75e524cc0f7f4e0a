//! Operands: special values of every type among random ones.

/// The generator of Steele, Lea and Flood (`SplitMix64`).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub(super) fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

const WORDS: [u32; 36] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    63,
    64,
    65,
    255,
    256,
    0x7f,
    0x80,
    0x7fff,
    0x8000,
    0xffff,
    0x0001_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0xffff_fffe,
    // f32: 1, -1, 0.5, infinities, greatest, least normal, subnormals, 2^31, 2^-25, 126
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7f7f_ffff,
    0x0080_0000,
    0x007f_ffff,
    0x807f_ffff,
    0x4f00_0000,
    0x3300_0000,
    0x42fc_0000,
    0x7fc0_0000,
];
/// 16-bit halves: f16 and bf16 special values.
const HALVES: [u16; 16] = [
    0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3f80, 0x7bff, 0x7c00, 0xfc00, 0x7e00,
    0x7f80, 0x7f7f, 0x007f,
];
const DOUBLE_WORDS: [u64; 24] = [
    0,
    1,
    63,
    64,
    u64::MAX,
    1 << 63,
    i64::MAX as u64,
    u32::MAX as u64,
    1 << 31,
    1 << 32,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x000f_ffff_ffff_ffff,
    0x800f_ffff_ffff_ffff,
    0x41df_ffff_ffe0_0000,
    0x43e0_0000_0000_0000,
    0x36a0_0000_0000_0000,
    0x3e60_0000_0000_0000,
    0x47ef_ffff_f000_0000,
];

/// A 32-bit operand.
pub(super) fn word(random: &mut Random) -> u32 {
    let bits = random.word();
    match random.below(8) {
        0 | 1 => WORDS[random.below(WORDS.len())],
        2 => {
            let mut half = || u32::from(HALVES[random.below(HALVES.len())]);
            half() | half() << 16
        }
        3 => bits & 0x7f,
        // f32 of magnitudes near 1, whose sums cancel and round
        4 => bits & 0x83ff_ffff | 0x3c00_0000,
        // few digits: ties
        5 => (bits & 0x8780_f000) + 0x3c00_0000,
        _ => bits,
    }
}

/// A 64-bit operand.
pub(super) fn double_word(random: &mut Random) -> u64 {
    let bits = random.next();
    match random.below(6) {
        0 | 1 => DOUBLE_WORDS[random.below(DOUBLE_WORDS.len())],
        2 => bits & 0x80ff_ffff_ffff_ffff | 0x3f80_0000_0000_0000,
        3 => (bits & 0x83f0_0000_e000_0001) + 0x3e00_0000_0000_0000,
        4 => (bits as i64 >> random.below(64)) as u64,
        _ => bits,
    }
}
