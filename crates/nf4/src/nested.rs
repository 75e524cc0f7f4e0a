use crate::Error;
use crate::dynamic8::{self, Rounding};

/// Absmax values that share one nested scale.
const NESTED_BLOCKSIZE: usize = 256;

/// The `absmax` values of a weight, quantised to 8 bits around their mean (double quantisation).
#[derive(Clone, Debug, PartialEq)]
pub struct NestedAbsmax {
    /// One code per block of the weight.
    pub codes: Vec<u8>,
    /// One scale per `blocksize` codes.
    pub absmax: Vec<f32>,
    /// The mean that was taken off before quantising.
    pub offset: f32,
    /// Codes that share one scale; bitsandbytes writes 256.
    pub blocksize: usize,
    /// Value of each code; [`dynamic8::map`] unless a checkpoint says otherwise.
    pub map: Box<[f32; 256]>,
}

impl NestedAbsmax {
    /// Quantises the absmax values of tensor `name`, rounding as bitsandbytes' CPU backend does.
    pub(crate) fn quantize(name: &str, absmax: &[f32]) -> Result<Self, Error> {
        let offset = sum(absmax) / absmax.len() as f32;
        if !offset.is_finite() {
            let name = name.to_owned();
            return Err(Error::OffsetOverflow { name });
        }
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        let quantized = dynamic8::quantize(&centred, NESTED_BLOCKSIZE, Rounding::Table);
        Ok(Self {
            codes: quantized.codes,
            absmax: quantized.absmax,
            offset,
            blocksize: NESTED_BLOCKSIZE,
            map: Box::new(*dynamic8::map()),
        })
    }

    /// The f32 absmax of each block: `map[code] * absmax + offset`, each step rounded.
    pub fn restore(&self) -> Vec<f32> {
        let blocks = self.codes.chunks(self.blocksize).zip(&self.absmax);
        blocks
            .flat_map(|(codes, absmax)| {
                let value = move |code: &u8| self.map[*code as usize] * absmax + self.offset;
                codes.iter().map(value)
            })
            .collect()
    }
}

/// Lanes of the vectors that torch sums with on x86.
const LANES: usize = 8;
/// Independent accumulators of torch's inner loop.
const ROWS: usize = 4;
/// Levels of torch's cascade.
const LEVELS: usize = 4;

/// The sum in the order of torch's single-threaded x86 kernel (`SumKernel.cpp`), since the codes
/// depend on every bit of the mean.
///
/// Torch splits 32,768 values or more between its threads, so that its own last bits then change
/// with their number; this sum never does.
fn sum(values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (rows, extra) = vectors.as_chunks::<ROWS>();
    let mut partial = cascade_sum(rows);
    for vector in extra {
        add(&mut partial[0], vector);
    }
    let [mut total, others @ ..] = partial;
    for row in &others {
        add(&mut total, row);
    }
    let tail = rest.iter().fold(0.0, |sum, x| sum + x);
    total.iter().fold(tail, |sum, x| sum + x)
}

type Rows = [[f32; LANES]; ROWS];

/// Sums rows through a cascade: a level that has taken `2^power` rows is added to the next one and
/// starts again, which keeps the rounding error small.
fn cascade_sum(rows: &[Rows]) -> Rows {
    let power = (ceil_log2(rows.len()) / LEVELS as u32).max(4);
    let step = 1 << power;
    let mut levels = [[[0.0; LANES]; ROWS]; LEVELS];
    let groups = rows.chunks_exact(step);
    let rest = groups.remainder();
    for (i, group) in groups.enumerate() {
        for row in group {
            add_rows(&mut levels[0], row);
        }
        let done = (i + 1) * step;
        for level in 1..LEVELS {
            let full = std::mem::take(&mut levels[level - 1]);
            add_rows(&mut levels[level], &full);
            if done & ((step - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    for row in rest {
        add_rows(&mut levels[0], row);
    }
    let [mut total, higher @ ..] = levels;
    for level in &higher {
        add_rows(&mut total, level);
    }
    total
}

fn add_rows(to: &mut Rows, from: &Rows) {
    for (to, from) in to.iter_mut().zip(from) {
        add(to, from);
    }
}

fn add(to: &mut [f32; LANES], from: &[f32; LANES]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

fn ceil_log2(n: usize) -> u32 {
    n.max(1).next_power_of_two().ilog2()
}
