//! Which instruction sets the CPU backend uses: decided once for the process, asked everywhere else.

use std::env;
use std::fmt;
use std::sync::LazyLock;

use crate::{Error, Result};

/// What asks for a level.
const VARIABLE: &str = "QLORA_CPU";

/// What the CPU backend's loops and products are compiled for, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// What every processor of the architecture has.
    Scalar,
    /// Vectors of 4 on aarch64.
    Neon,
    /// Vectors of 8 with fused multiplication and addition (`x86-64-v3`).
    Avx2,
    /// Vectors of 16 (`x86-64-v4`).
    Avx512,
    /// Those, and the matrix unit of newer Xeons for bf16 (`AMX-BF16`).
    Amx,
}

impl CpuLevel {
    /// From least to most.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx];

    /// The levels that this processor has, from least to most.
    pub fn supported() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.arch().is_some()).collect()
    }

    /// The level of this process: what `QLORA_CPU` in the environment asks for, or the most that the
    /// processor has.
    ///
    /// An error unless what it asks for is the name of a level that the processor has.
    pub fn of_process() -> Result<Self> {
        match &*ASKED {
            Ok(level) => Ok(*level),
            Err(asked) => Err(Error::Level { asked: asked.clone() }),
        }
    }

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    fn highest() -> Self {
        Self::supported().pop().unwrap_or(Self::Scalar)
    }

    /// The level of that name, if the processor has it.
    fn find(name: &str) -> Option<Self> {
        Self::supported().into_iter().find(|level| level.name() == name)
    }

    /// What compiles loops for the level, if the processor has it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn arch(self) -> Option<pulp::Arch> {
        use pulp::x86::{V3, V4};
        match self {
            Self::Scalar => Some(pulp::Arch::Scalar),
            Self::Avx2 => V3::try_new().map(pulp::Arch::V3),
            Self::Avx512 => V4::try_new().map(pulp::Arch::V4),
            #[cfg(amx)]
            Self::Amx => V4::try_new().filter(|_| super::amx::available()).map(pulp::Arch::V4),
            _ => None,
        }
    }

    /// What compiles loops for the level, if the processor has it.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn arch(self) -> Option<pulp::Arch> {
        match self {
            Self::Scalar => Some(pulp::Arch::Scalar),
            Self::Neon => pulp::aarch64::Neon::try_new().map(pulp::Arch::Neon),
            _ => None,
        }
    }

    /// What compiles loops for the level, if the processor has it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn arch(self) -> Option<pulp::Arch> {
        (self == Self::Scalar).then_some(pulp::Arch::Scalar)
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The level asked for, or what was asked for in vain.
static ASKED: LazyLock<std::result::Result<CpuLevel, String>> =
    LazyLock::new(|| match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        None => Ok(CpuLevel::highest()),
        Some(value) => {
            let name = value.to_string_lossy().into_owned();
            CpuLevel::find(&name).ok_or(name)
        }
    });

/// The level of this process. Where something else is asked for in vain, which is an error of
/// [`CpuLevel::of_process`] and of every allocation, it is the lowest.
static LEVEL: LazyLock<CpuLevel> =
    LazyLock::new(|| ASKED.as_ref().map_or(CpuLevel::Scalar, |level| *level));

/// The level of this process.
pub(super) fn level() -> CpuLevel {
    *LEVEL
}

/// Whether bf16 activations are multiplied on the matrix unit.
pub(super) fn has_amx() -> bool {
    level() == CpuLevel::Amx
}

/// The end of an error about `asked`.
pub(crate) fn unusable(asked: &str) -> String {
    let names =
        |levels: &[CpuLevel]| levels.iter().map(|x| x.name()).collect::<Vec<_>>().join(", ");
    let what = if CpuLevel::ALL.iter().any(|level| level.name() == asked) {
        "this processor does not have it"
    } else {
        "there is no such level"
    };
    format!(
        "{VARIABLE}={asked}: {what}; accepted are {}, of which this processor has {}",
        names(&CpuLevel::ALL),
        names(&CpuLevel::supported())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_name_where_the_processor_has_them() {
        let supported = CpuLevel::supported();
        assert_eq!(supported[0], CpuLevel::Scalar);
        for level in CpuLevel::ALL {
            assert_eq!(CpuLevel::find(level.name()), supported.contains(&level).then_some(level));
        }
        for name in ["AVX2", "avx", "no-amx", " scalar"] {
            assert_eq!(CpuLevel::find(name), None);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let text = unusable("avx3");
        assert!(text.contains("QLORA_CPU=avx3: there is no such level"), "{text}");
        assert!(text.contains("scalar, neon, avx2, avx512, amx, of which"), "{text}");
        let other = if cfg!(target_arch = "aarch64") { CpuLevel::Avx2 } else { CpuLevel::Neon };
        assert!(unusable(other.name()).contains("does not have it"));
    }
}
