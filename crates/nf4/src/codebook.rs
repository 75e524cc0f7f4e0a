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

    /// The codes by ascending value. FP4 has two zeros, of which the first is for zero itself.
    pub fn ascending(self) -> [u8; 16] {
        let book = self.book();
        let mut code = book.lowest;
        let next = |step: &u32| {
            code = code.wrapping_add(*step);
            code as u8
        };
        let mut codes = [book.lowest as u8; 16];
        codes[1..].iter_mut().zip(book.steps.iter().map(next)).for_each(|(to, from)| *to = from);
        codes
    }

    /// The f32 midpoints between neighbours in that order: a value gets the code that has as many codes
    /// before it as midpoints are below the value.
    pub fn midpoints(self) -> &'static [f32; 15] {
        &self.book().midpoints
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
    /// f32 midpoints between neighbours in ascending order of value.
    pub(crate) midpoints: [f32; 15],
    /// Code of the lowest value.
    pub(crate) lowest: u32,
    /// What leads from the code below each midpoint to the one above, in wrapping arithmetic.
    pub(crate) steps: [u32; 15],
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

/// Code 8 is a second zero: what lies above zero and up to the next midpoint gets it.
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
    const fn new(values: [f32; 16], order: [u32; 16]) -> Self {
        let (mut midpoints, mut steps) = ([0.0; 15], [0; 15]);
        let mut i = 0;
        while i < 15 {
            let (below, above) = (order[i], order[i + 1]);
            midpoints[i] = f32::midpoint(values[below as usize], values[above as usize]);
            steps[i] = above.wrapping_sub(below);
            i += 1;
        }
        let mut pairs = [[0.0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [values[byte >> 4], values[byte & 15]];
            byte += 1;
        }
        Self { values, midpoints, lowest: order[0], steps, pairs }
    }
}
