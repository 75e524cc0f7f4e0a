//! Where a model runs: `--device auto|cpu|cuda[:N]`.

use std::str::FromStr;

use anyhow::Result;
use kernels::{Backend, Cpu};

use crate::progress::say;

/// A device as the user names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA device if this binary and this machine have one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A CUDA device by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => {
                Ok(Self::Cuda(number.parse().expect("just seen to be a number")))
            }
            _ => Err("not one of auto, cpu, cuda, cuda:N".to_owned()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// What a command does once it has a backend.
pub trait Task {
    /// What comes of it.
    type Output;

    /// Does it on `backend`.
    fn run<K: Backend>(self, backend: &K) -> Result<Self::Output>;
}

impl Device {
    /// Whether a task would run on a CUDA device.
    pub fn is_cuda(self) -> bool {
        match self {
            Self::Cpu => false,
            Self::Cuda(_) => true,
            Self::Auto => cuda_devices() > 0,
        }
    }

    /// Runs `task` on this device; says which one was chosen by [`Auto`](Self::Auto).
    pub fn run<T: Task>(self, task: T) -> Result<T::Output> {
        match self {
            Self::Cpu => task.run(&Cpu::try_new()?),
            Self::Cuda(number) => on_cuda(number, task),
            Self::Auto if cuda_devices() > 0 => {
                say("device: cuda:0");
                on_cuda(0, task)
            }
            Self::Auto => {
                say("device: cpu");
                task.run(&Cpu::try_new()?)
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn on_cuda<T: Task>(number: usize, task: T) -> Result<T::Output> {
    let cuda = kernels::Cuda::new(number)?;
    let routes = crate::tuning::read(&cuda.info()?.name);
    task.run(&cuda.with_routes(routes))
}

#[cfg(not(feature = "cuda"))]
fn on_cuda<T: Task>(number: usize, _: T) -> Result<T::Output> {
    let message = format!(
        "--device cuda:{number}: this binary was built without CUDA; build it with `cargo build --release --features cuda`"
    );
    Err(crate::UsageError(message).into())
}

/// CUDA devices that this binary can use.
#[cfg(feature = "cuda")]
pub fn cuda_devices() -> usize {
    kernels::Cuda::count().unwrap_or(0)
}

/// CUDA devices that this binary can use.
#[cfg(not(feature = "cuda"))]
pub fn cuda_devices() -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for (text, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(device));
        }
        assert_eq!(Device::Cuda(3).to_string().parse(), Ok(Device::Cuda(3)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
