//! A test of a kernel as data: buffers, launches, and what must be in the buffers afterwards. The same
//! case runs through the driver interface and in this process.

use bytemuck::{NoUninit, Pod};
use half::bf16;

/// A device buffer before the first launch.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    /// Copied from the host.
    Data(Vec<u8>),
    /// So many bytes that nobody has written.
    Unwritten(usize),
    /// So many bytes that are freed again before the first launch.
    Freed(usize),
}

impl Buffer {
    pub(crate) fn data<T: NoUninit>(values: &[T]) -> Self {
        Buffer::Data(bytemuck::cast_slice(values).to_vec())
    }

    /// Room for `count` elements.
    pub(crate) fn output<T>(count: usize) -> Self {
        Buffer::Unwritten(count * size_of::<T>())
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Buffer::Data(bytes) => bytes.len(),
            Buffer::Unwritten(bytes) | Buffer::Freed(bytes) => *bytes,
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    /// The address of a buffer of the case.
    Buffer(usize),
    /// The bytes of a scalar or a struct.
    Value(Vec<u8>),
}

impl Arg {
    pub(crate) fn value<T: NoUninit>(value: T) -> Self {
        Arg::Value(bytemuck::bytes_of(&value).to_vec())
    }

    /// The bytes that go into the parameter block.
    pub(crate) fn bytes(&self, addresses: &[u64]) -> Vec<u8> {
        match self {
            Arg::Buffer(index) => addresses[*index].to_ne_bytes().to_vec(),
            Arg::Value(bytes) => bytes.clone(),
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) cooperative: bool,
    pub(crate) args: Vec<Arg>,
}

impl Launch {
    /// A launch over x alone.
    pub(crate) fn line(kernel: &'static str, blocks: usize, threads: u32, args: Vec<Arg>) -> Self {
        let (grid, block) = ([blocks as u32, 1, 1], [threads, 1, 1]);
        Self { kernel, grid, block, shared: 0, cooperative: false, args }
    }
}

/// What a buffer must hold.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// These bytes.
    Exact(Vec<u8>),
    /// f32 numbers, each within its own distance of the truth.
    F32(Near),
    /// bf16 numbers.
    Bf16(Near),
}

/// Numbers with a tolerance each.
#[derive(Clone, Debug)]
pub(crate) struct Near {
    truth: Vec<f64>,
    allowed: Vec<f64>,
}

impl Near {
    /// Allows three times the largest error of `naive`, a plain implementation in the same types,
    /// errors being relative to `scale`: the magnitude of the terms that an element sums up.
    pub(crate) fn to_naive(truth: Vec<f64>, naive: &[f64], scale: &[f64]) -> Self {
        assert!(truth.len() == naive.len() && truth.len() == scale.len());
        let error = |((t, n), s): ((&f64, &f64), &f64)| (t - n).abs() / s.max(1e-30);
        let worst = truth.iter().zip(naive).zip(scale).map(error).fold(0.0, f64::max);
        assert!(worst.is_finite() && worst < 0.05, "a naive implementation is off by {worst}");
        let relative = 3.0 * worst + f64::from(f32::EPSILON);
        Self { truth, allowed: scale.iter().map(|s| relative * s + 1e-37).collect() }
    }

    /// Allows each element a distance of its own.
    pub(crate) fn within(truth: Vec<f64>, allowed: Vec<f64>) -> Self {
        assert_eq!(truth.len(), allowed.len());
        Self { truth, allowed }
    }

    fn compare(&self, got: impl ExactSizeIterator<Item = f64>) -> Result<(), String> {
        if got.len() != self.truth.len() {
            return Err(format!("{} elements, not {}", got.len(), self.truth.len()));
        }
        for (i, ((got, truth), allowed)) in got.zip(&self.truth).zip(&self.allowed).enumerate() {
            let error = (got - truth).abs();
            if error.is_nan() || error > *allowed {
                return Err(format!("element {i} is {got:e}, not {truth:e} within {allowed:e}"));
            }
        }
        Ok(())
    }
}

/// A test.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) label: String,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) launches: Vec<Launch>,
    /// By index of the buffer. One that is not listed must stay as it was.
    pub(crate) expected: Vec<(usize, Expected)>,
}

impl Case {
    /// Compares every buffer with what it must hold.
    pub(crate) fn check(&self, buffers: &[Vec<u8>]) -> Result<(), String> {
        for (index, (before, got)) in self.buffers.iter().zip(buffers).enumerate() {
            let expected = self.expected.iter().find(|(i, _)| *i == index).map(|(_, e)| e);
            match expected {
                Some(Expected::Exact(bytes)) => compare_bytes(got, bytes),
                Some(Expected::F32(near)) => near.compare(elements::<f32>(got).map(f64::from)),
                Some(Expected::Bf16(near)) => near.compare(elements::<bf16>(got).map(f64::from)),
                None => match before {
                    Buffer::Data(bytes) => compare_bytes(got, bytes),
                    Buffer::Unwritten(_) | Buffer::Freed(_) => Ok(()),
                },
            }
            .map_err(|message| format!("{}, buffer {index}: {message}", self.label))?;
        }
        Ok(())
    }
}

fn elements<T: Pod>(bytes: &[u8]) -> impl ExactSizeIterator<Item = T> + '_ {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

fn compare_bytes(got: &[u8], expected: &[u8]) -> Result<(), String> {
    match got.iter().zip(expected).position(|(a, b)| a != b) {
        _ if got.len() != expected.len() => {
            Err(format!("{} bytes, not {}", got.len(), expected.len()))
        }
        Some(i) => Err(format!(
            "word {} is {:02x?}, not {:02x?}",
            i / 4,
            &got[i / 4 * 4..(i / 4 * 4 + 4).min(got.len())],
            &expected[i / 4 * 4..(i / 4 * 4 + 4).min(got.len())]
        )),
        None => Ok(()),
    }
}
