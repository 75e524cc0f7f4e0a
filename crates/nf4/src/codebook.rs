use serde::{Deserialize, Serialize};

/// A 4-bit code book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantType {
    /// 4-bit `NormalFloat`: quantiles of a normal distribution (QLoRA, arXiv:2305.14314).
    Nf4,
    /// 4-bit float: a sign bit and eight magnitudes.
    Fp4,
}

impl QuantType {
    /// The name used in checkpoints: `nf4` or `fp4`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The value of each of the 16 codes, in units of the block's `absmax`.
    pub fn values(self) -> &'static [f32; 16] {
        &self.book().values
    }

    pub(crate) fn book(self) -> &'static CodeBook {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }
}

/// Values of a code book and the tables derived from them.
pub(crate) struct CodeBook {
    /// Value of each code.
    pub(crate) values: [f32; 16],
    /// f32 midpoints between neighbours in ascending order of value. The rank of `x` is the number
    /// of midpoints below it, so a tie takes the lower value.
    pub(crate) midpoints: [f32; 15],
    /// The pair of codes in one byte, from the pair of ranks in one byte.
    pub(crate) from_ranks: [u8; 256],
    /// Both values of one packed byte, high nibble first.
    pub(crate) pairs: [[f32; 2]; 256],
}

static NF4: CodeBook = CodeBook::new(
    [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
);

/// Code 8 is a second zero: ranks above zero and up to the first midpoint land on it.
static FP4: CodeBook = CodeBook::new(
    [
        0.0,
        0.0625 / 12.0,
        8.0 / 12.0,
        1.0,
        4.0 / 12.0,
        6.0 / 12.0,
        2.0 / 12.0,
        3.0 / 12.0,
        0.0,
        -0.0625 / 12.0,
        -8.0 / 12.0,
        -1.0,
        -4.0 / 12.0,
        -6.0 / 12.0,
        -2.0 / 12.0,
        -3.0 / 12.0,
    ],
    [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
);

impl CodeBook {
    /// `order` lists the codes by ascending value.
    const fn new(values: [f32; 16], order: [u8; 16]) -> Self {
        let mut midpoints = [0.0; 15];
        let mut i = 0;
        while i < 15 {
            midpoints[i] = f32::midpoint(values[order[i] as usize], values[order[i + 1] as usize]);
            i += 1;
        }
        let mut from_ranks = [0; 256];
        let mut pairs = [[0.0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            let (high, low) = (byte >> 4, byte & 15);
            from_ranks[byte] = order[high] << 4 | order[low];
            pairs[byte] = [values[high], values[low]];
            byte += 1;
        }
        Self { values, midpoints, from_ranks, pairs }
    }
}
