//! Settings, read from the environment when the library is first called.
//!
//! | variable | values | default |
//! |---|---|---|
//! | `CUDA_EMULATOR_PROFILE` | `rtx3090`, `rtx4090`, `a100`, `h100` | `rtx3090` |
//! | `CUDA_EMULATOR_DRIVER` | driver version as `12.8`; newer PTX is refused with code 222 | `13.5` |
//! | `CUDA_EMULATOR_MEMORY` | bytes of device memory, or `512MiB`, `2GiB` | the profile's |
//! | `CUDA_EMULATOR_SEED` | chooses orders of warps, blocks and streams | `0` |
//! | `CUDA_EMULATOR_THREADS` | worker threads across blocks | all processors |
//! | `CUDA_EMULATOR_BUDGET` | warp instructions after which a kernel counts as hanging | `17179869184` |
//! | `CUDA_EMULATOR_STREAMS` | `eager`: at once; `lazy`: as late and as reordered as CUDA allows | `eager` |
//! | `CUDA_EMULATOR_CHECKS` | `all`, `none`, or names; `-name` takes one away | `all` |
//! | `CUDA_EMULATOR_MATRIX_ORDER` | `sequential`, `truncated` | `sequential` |
//! | `CUDA_EMULATOR_FAIL` | `cuMemAllocAsync:17:2`: the 17th call returns error 2; `17-`: it and all later ones; several with commas | |
//! | `CUDA_EMULATOR_REPORT` | path of a JSON report | |
//! | `CUDA_EMULATOR_TABLE` | `1`: print a table of kernels at exit | `0` |
//! | `CUDA_EMULATOR_LOG` | `1`: print every call | `0` |
//! | `CUDA_EMULATOR_EXIT_CODE` | exit code of the process if there were findings | |

use std::{fmt, path::PathBuf};

use crate::{
    exec::{self, CheckSet, MatrixOrder},
    findings::Check,
    profile::Profile,
};

/// A call that is to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Name of the function.
    pub(crate) function: String,
    /// Which of its calls, from 1.
    pub(crate) call: u64,
    /// Whether all later ones fail too.
    pub(crate) onwards: bool,
    /// What it returns.
    pub(crate) code: u32,
}

impl Failure {
    /// Whether this call of that function fails.
    pub(crate) fn hits(&self, function: &str, call: u64) -> bool {
        self.function == function && (call == self.call || self.onwards && call > self.call)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, call, onwards, code } = self;
        write!(f, "{function}:{call}{}:{code}", if *onwards { "-" } else { "" })
    }
}

/// Everything that the environment sets.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) profile: &'static Profile,
    /// As `cuDriverGetVersion` says it: 1000 × major + 10 × minor.
    pub(crate) driver: u32,
    pub(crate) memory: u64,
    pub(crate) lazy: bool,
    pub(crate) run: exec::Settings,
    pub(crate) fail: Vec<Failure>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) table: bool,
    pub(crate) log: bool,
    pub(crate) exit_code: Option<i32>,
    /// Variables of this prefix that mean nothing.
    pub(crate) unknown: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: Profile::ALL[0],
            driver: 13_050,
            memory: Profile::ALL[0].memory,
            lazy: false,
            run: exec::Settings::default(),
            fail: Vec::new(),
            report: None,
            table: false,
            log: false,
            exit_code: None,
            unknown: Vec::new(),
        }
    }
}

const PREFIX: &str = "CUDA_EMULATOR_";

impl Settings {
    /// Reads the variables of the process.
    pub(crate) fn from_environment() -> Result<Self, String> {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.to_string_lossy().into_owned()))
        }))
    }

    /// Reads `variables`, others' among them.
    pub(crate) fn from_variables(
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let mut settings = Self::default();
        let mut memory = None;
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            if name == "MEMORY" {
                memory = Some(parse_bytes(&value).ok_or_else(|| {
                    invalid(&variable, &value, "a number of bytes such as 512MiB")
                })?);
            } else if !settings.set(name, &value).map_err(|e| invalid(&variable, &value, &e))? {
                settings.unknown.push(variable);
            }
        }
        settings.memory = memory.unwrap_or(settings.profile.memory);
        Ok(settings)
    }

    /// Sets one; false if there is none of that name, an error says what was expected.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "PROFILE" => {
                self.profile = Profile::find(value).ok_or_else(|| {
                    let keys: Vec<_> = Profile::ALL.iter().map(|p| p.key).collect();
                    keys.join(", ")
                })?;
            }
            "DRIVER" => self.driver = parse_version(value).ok_or("a version such as 12.8")?,
            "SEED" => self.run.seed = value.parse().map_err(|_| "a number")?,
            "THREADS" => {
                self.run.threads =
                    value.parse().ok().filter(|&n| n > 0).ok_or("a number above 0")?;
            }
            "BUDGET" => {
                self.run.instruction_budget =
                    value.parse().ok().filter(|&n| n > 0).ok_or("a number above 0")?;
            }
            "STREAMS" => self.lazy = choose(value, &[("eager", false), ("lazy", true)])?,
            "CHECKS" => self.run.checks = parse_checks(value)?,
            "MATRIX_ORDER" => {
                self.run.matrix_order = choose(
                    value,
                    &[
                        ("sequential", MatrixOrder::Sequential),
                        ("truncated", MatrixOrder::Truncated),
                    ],
                )?;
            }
            "FAIL" => {
                self.fail = value
                    .split(',')
                    .map(parse_failure)
                    .collect::<Option<_>>()
                    .ok_or("name:call:code or name:call-:code, calls counted from 1")?;
            }
            "REPORT" if value.is_empty() => return Err("a path".into()),
            "REPORT" => self.report = Some(PathBuf::from(value)),
            "TABLE" => self.table = choose(value, &[("0", false), ("1", true)])?,
            "LOG" => self.log = choose(value, &[("0", false), ("1", true)])?,
            "EXIT_CODE" => {
                self.exit_code = Some(
                    value.parse().ok().filter(|code| (1..=255).contains(code)).ok_or("1 to 255")?,
                );
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn invalid(variable: &str, value: &str, expected: &str) -> String {
    format!("{variable}={value}: expected {expected}")
}

fn choose<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        names.join(" or ")
    })
}

fn parse_bytes(value: &str) -> Option<u64> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &value[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

fn parse_version(value: &str) -> Option<u32> {
    let (major, minor) = value.split_once('.')?;
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    ((11..100).contains(&major) && minor < 10).then_some(major * 1000 + minor * 10)
}

fn parse_failure(text: &str) -> Option<Failure> {
    let mut parts = text.trim().split(':');
    let function = parts.next().filter(|name| name.starts_with("cu"))?.to_owned();
    let call = parts.next()?;
    let failure = Failure {
        function,
        call: call.strip_suffix('-').unwrap_or(call).parse().ok().filter(|&call| call > 0)?,
        onwards: call.ends_with('-'),
        code: parts.next()?.parse().ok().filter(|&code| code > 0)?,
    };
    parts.next().is_none().then_some(failure)
}

fn parse_checks(value: &str) -> Result<CheckSet, String> {
    let mut checks = if value.starts_with('-') { CheckSet::ALL } else { CheckSet::NONE };
    for word in value.split(',').map(str::trim) {
        let name = word.strip_prefix('-').unwrap_or(word);
        let find = || Check::ALL.into_iter().find(|check| check.name() == name);
        checks = match (word, find()) {
            ("all", _) => CheckSet::ALL,
            ("none", _) => CheckSet::NONE,
            (_, Some(check)) if word.starts_with('-') => checks.without(check),
            (_, Some(check)) => checks.with(check),
            (_, None) => {
                let names: Vec<_> = Check::ALL.iter().map(|check| check.name()).collect();
                return Err(format!("all, none, or of: {}", names.join(", ")));
            }
        };
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::from_variables(
            variables.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())),
        )
    }

    #[test]
    fn values_are_read() {
        let settings = read(&[
            ("MEMORY", "512MiB"),
            ("PROFILE", "a100"),
            ("DRIVER", "12.8"),
            ("SEED", "7"),
            ("THREADS", "3"),
            ("BUDGET", "1000"),
            ("STREAMS", "lazy"),
            ("MATRIX_ORDER", "truncated"),
            ("FAIL", "cuMemAllocAsync:17:2,cuLaunchKernel:3-:719"),
            ("REPORT", "/tmp/report.json"),
            ("LOG", "1"),
            ("EXIT_CODE", "3"),
            ("COLOUR", "blue"),
        ])
        .expect("valid");
        assert_eq!(settings.profile.key, "a100");
        assert_eq!(settings.driver, 12_080);
        assert_eq!(settings.memory, 512 << 20);
        assert_eq!((settings.run.seed, settings.run.threads), (7, 3));
        assert_eq!(settings.run.instruction_budget, 1000);
        assert!(settings.lazy && settings.log && !settings.table);
        assert_eq!(settings.run.matrix_order, MatrixOrder::Truncated);
        assert_eq!(settings.fail.len(), 2);
        let [once, onwards] = &settings.fail[..] else { panic!("two failures") };
        let hit = |failure: &Failure, name: &str| {
            (1..20).filter(|&call| failure.hits(name, call)).collect::<Vec<_>>()
        };
        assert_eq!((hit(once, "cuMemAllocAsync"), once.code), (vec![17], 2));
        assert_eq!(hit(onwards, "cuLaunchKernel"), (3..20).collect::<Vec<_>>());
        assert_eq!((hit(onwards, "cuMemAllocAsync"), onwards.code), (vec![], 719));
        assert_eq!(onwards.to_string(), "cuLaunchKernel:3-:719");
        assert_eq!(settings.exit_code, Some(3));
        assert_eq!(settings.unknown, ["CUDA_EMULATOR_COLOUR"]);
    }

    #[test]
    fn memory_defaults_to_the_profile() {
        assert_eq!(read(&[("PROFILE", "h100")]).expect("valid").memory, 80 << 30);
    }

    #[test]
    fn invalid_values_name_variable_and_choices() {
        for (name, value, expected) in [
            ("PROFILE", "gtx", "rtx3090, rtx4090, a100, h100"),
            ("MEMORY", "1GB", "512MiB"),
            ("MEMORY", "0", "512MiB"),
            ("SEED", "-1", "number"),
            ("THREADS", "0", "above 0"),
            ("STREAMS", "lazily", "eager or lazy"),
            ("CHECKS", "all,-leaks", "leak"),
            ("FAIL", "cuMemAlloc_v2:0:2", "from 1"),
            ("FAIL", "cuMemAlloc_v2:1", "name:call:code"),
            ("FAIL", "cuMemAlloc_v2:-:2", "name:call-:code"),
            ("DRIVER", "12", "12.8"),
            ("EXIT_CODE", "0", "1 to 255"),
            ("LOG", "yes", "0 or 1"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn checks_add_and_subtract() {
        let all_but_leak = parse_checks("all,-leak").expect("valid");
        assert_eq!(all_but_leak, parse_checks("-leak").expect("valid"));
        assert!(!all_but_leak.contains(Check::Leak) && all_but_leak.contains(Check::Hang));
        let two = parse_checks("shared-race, stream-order").expect("valid");
        for check in Check::ALL {
            let expected = matches!(check, Check::SharedRace | Check::StreamOrder);
            assert_eq!(two.contains(check), expected);
        }
        assert_eq!(parse_checks("none"), Ok(CheckSet::NONE));
    }
}
