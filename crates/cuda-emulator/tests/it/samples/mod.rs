//! Kernels of a training step against references in f64, under every order the emulator knows.

mod adamw;
mod attention;
mod cross_entropy;
mod gemm;
mod grid_variance;
mod rms_norm;
mod vector_add;

use crate::common::{
    case::Case,
    compile::{Flavour, ptx},
    direct,
    driver::Session,
    emulator::{Setting, on_emulator},
};

/// How many cases to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shapes {
    /// Every ragged edge.
    All,
    /// What tells a broken kernel from a good one, for tests that run many kernels.
    Few,
}

/// A kernel file with its cases.
pub(crate) struct Sample {
    /// Name of the file.
    pub(crate) name: &'static str,
    /// Makes the cases.
    pub(crate) cases: fn(Shapes) -> Vec<Case>,
}

/// Every sample.
pub(crate) const SAMPLES: [Sample; 7] = [
    Sample { name: "vector_add", cases: vector_add::cases },
    Sample { name: "rms_norm", cases: rms_norm::cases },
    Sample { name: "cross_entropy", cases: cross_entropy::cases },
    Sample { name: "gemm", cases: gemm::cases },
    Sample { name: "attention", cases: attention::cases },
    Sample { name: "adamw", cases: adamw::cases },
    Sample { name: "grid_variance", cases: grid_variance::cases },
];

/// f64 for the truth, f32 for the plain implementation that sets the tolerance.
trait Real: num_traits::Float {
    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Seeds choose the order of warps and blocks; streams run at once or as late as allowed; matrix
/// instructions sum in one order or the other.
const ORDERS: [&[Setting]; 4] = [
    &[("SEED", "0"), ("STREAMS", "eager"), ("MATRIX_ORDER", "sequential")],
    &[("SEED", "1"), ("STREAMS", "lazy"), ("MATRIX_ORDER", "truncated")],
    &[("SEED", "2"), ("STREAMS", "eager"), ("MATRIX_ORDER", "truncated")],
    &[("SEED", "3"), ("STREAMS", "lazy"), ("MATRIX_ORDER", "sequential")],
];

fn correct(name: &str) {
    let sample = SAMPLES.iter().find(|s| s.name == name).expect("listed above");
    let runs = on_emulator(&ORDERS, || {
        let session = Session::new(ptx(name, Flavour::Optimised)).expect("loads");
        for case in (sample.cases)(Shapes::All) {
            let buffers = session.run(&case).unwrap_or_else(|e| panic!("{}: {e}", case.label));
            case.check(&buffers).unwrap();
        }
    });
    runs.iter().for_each(crate::common::emulator::Run::assert_clean);
}

/// The same without the driver.
fn correct_in_process(name: &str) {
    let sample = SAMPLES.iter().find(|s| s.name == name).expect("listed above");
    direct::assert_clean(&ptx(name, Flavour::Optimised), &(sample.cases)(Shapes::All));
}

macro_rules! tests {
    ($($name:ident)*) => {
        mod correct {
            $(#[test] fn $name() { super::correct(stringify!($name)); })*
        }
        mod correct_in_process {
            $(#[test] fn $name() { super::correct_in_process(stringify!($name)); })*
        }
    };
}

tests! { vector_add rms_norm cross_entropy gemm attention adamw grid_variance }
