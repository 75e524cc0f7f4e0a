//! What happened, kept and written: findings, warnings, counts of calls and of kernels.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    fmt::Write as _,
    io::Write as _,
    path::Path,
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    counters::{Counters, InstructionClass, SharedAccess},
    driver::{
        roofline::{Bound, LABEL},
        settings::Settings,
    },
    exec::{CheckSet, MatrixOrder},
    findings::{Check, Finding},
    profile::Profile,
};

/// Findings printed to standard error; the report has all.
const PRINTED: usize = 100;

/// Findings kept for the report.
const KEPT: usize = 10_000;

/// Totals of a kernel.
#[derive(Debug, Default)]
pub(crate) struct KernelTotals {
    pub(crate) launches: u64,
    /// Time that the emulation took.
    pub(crate) wall: Duration,
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct Recorded {
    finding: Finding,
    count: u64,
}

/// The record of a process.
#[derive(Debug)]
pub(crate) struct Journal {
    checks: CheckSet,
    findings: Vec<Recorded>,
    known: HashMap<(Check, String, String), usize>,
    warnings: BTreeMap<String, u64>,
    calls: BTreeMap<&'static str, u64>,
    kernels: BTreeMap<String, KernelTotals>,
    /// Whether something was found since the report was written.
    pub(crate) unwritten: bool,
}

impl Journal {
    /// An empty record of findings of `checks`.
    pub(crate) fn new(checks: CheckSet) -> Self {
        Self {
            checks,
            findings: Vec::new(),
            known: HashMap::new(),
            warnings: BTreeMap::new(),
            calls: BTreeMap::new(),
            kernels: BTreeMap::new(),
            unwritten: false,
        }
    }

    /// Counts a call and says how many there were.
    pub(crate) fn call(&mut self, name: &'static str) -> u64 {
        let count = self.calls.entry(name).or_default();
        *count += 1;
        *count
    }

    /// A defect that a kernel or the scheduler met; repeats at one place are counted.
    pub(crate) fn record(&mut self, finding: Finding) {
        // Without a place in a source, the same words are the same defect.
        let place = match finding.source.as_str() {
            "" => without_numbers_of_operations(&finding.message),
            source => source.to_owned(),
        };
        let key = (finding.check, finding.kernel.clone(), place);
        if let Some(&index) = self.known.get(&key) {
            self.findings[index].count += 1;
            return;
        }
        match self.findings.len() {
            n if n < PRINTED => eprintln!("cuda-emulator: {finding}"),
            PRINTED => eprintln!("cuda-emulator: more findings are not printed"),
            KEPT.. => return,
            _ => {}
        }
        self.known.insert(key, self.findings.len());
        self.findings.push(Recorded { finding, count: 1 });
        self.unwritten = true;
    }

    /// A defect of the host program, if its check is on.
    pub(crate) fn host(&mut self, check: Check, call: &str, address: Option<u64>, message: String) {
        if self.checks.contains(check) {
            self.record(Finding {
                check,
                message,
                kernel: call.to_owned(),
                source: String::new(),
                line: 0,
                block: None,
                thread: None,
                address,
            });
        }
    }

    /// Something that is not modelled or not as expected, printed the first time.
    pub(crate) fn warn(&mut self, message: String) {
        match self.warnings.entry(message) {
            Entry::Occupied(mut entry) => *entry.get_mut() += 1,
            Entry::Vacant(entry) => {
                eprintln!("cuda-emulator: {}", entry.key());
                entry.insert(1);
            }
        }
    }

    /// Adds a launch.
    pub(crate) fn launch(&mut self, kernel: &str, counters: &Counters, wall: Duration) {
        if !self.kernels.contains_key(kernel) {
            self.kernels.insert(kernel.to_owned(), KernelTotals::default());
        }
        if let Some(totals) = self.kernels.get_mut(kernel) {
            totals.launches += 1;
            totals.wall += wall;
            totals.counters.merge(counters);
        }
    }

    /// Number of distinct findings.
    pub(crate) fn found(&self) -> usize {
        self.findings.len()
    }

    /// One line on the findings of each check.
    pub(crate) fn summary(&self) -> String {
        let mut checks = BTreeMap::new();
        for recorded in &self.findings {
            *checks.entry(recorded.finding.check.name()).or_insert(0u64) += 1;
        }
        let parts: Vec<_> = checks.iter().map(|(name, n)| format!("{n} {name}")).collect();
        format!("{} findings: {}", self.findings.len(), parts.join(", "))
    }

    /// Everything as JSON.
    pub(crate) fn to_json(&self, settings: &Settings) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|recorded| {
                let mut value = json!(recorded.finding);
                value["count"] = recorded.count.into();
                value
            })
            .collect();
        let kernels: Map<String, Value> = self
            .kernels
            .iter()
            .map(|(name, totals)| (name.clone(), kernel_json(totals, settings.profile)))
            .collect();
        json!({
            "settings": settings_json(settings),
            "findings": findings,
            "warnings": self.warnings,
            "calls": self.calls,
            "kernels": kernels,
        })
    }

    /// Writes the report under its name once it is complete.
    pub(crate) fn write(&mut self, settings: &Settings, path: &Path) {
        self.unwritten = false;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let text = format!("{:#}\n", self.to_json(settings));
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        if let Err(error) = write() {
            let _ = std::fs::remove_file(&temporary);
            eprintln!("cuda-emulator: cannot write {}: {error}", path.display());
        }
    }

    /// The kernels as a table for people.
    pub(crate) fn table(&self, profile: &Profile) -> String {
        let header = [
            "kernel",
            "launches",
            "warp instr",
            "lanes",
            "sectors",
            "shared pass",
            "conflicts",
            "mma",
            "bound us",
            "by",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        for (name, totals) in &self.kernels {
            let c = &totals.counters;
            let (by, seconds) = Bound::new(c, profile).limit();
            let shared = c.total_shared();
            let conflicts = shared.wavefronts.saturating_sub(shared.ideal_wavefronts);
            let instructions = c.total_instructions();
            rows.push([
                name.clone(),
                totals.launches.to_string(),
                instructions.to_string(),
                format!("{:.1}", c.active_lanes as f64 / instructions.max(1) as f64),
                c.global_sectors.to_string(),
                shared.wavefronts.to_string(),
                conflicts.to_string(),
                c.mma.to_string(),
                format!("{:.2}", seconds * 1e6),
                by.to_owned(),
            ]);
        }
        let mut text = format!("{} ({LABEL})\n", profile.name);
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
                let _ = match column {
                    0 => write!(text, "{cell:width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        text
    }
}

/// A message less the `#17` that tells one operation from the next of its kind.
fn without_numbers_of_operations(message: &str) -> String {
    let mut parts = message.split('#');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn kernel_json(totals: &KernelTotals, profile: &Profile) -> Value {
    let c = &totals.counters;
    let instructions: Map<String, Value> = InstructionClass::ALL
        .iter()
        .zip(c.instructions)
        .filter(|(_, count)| *count > 0)
        .filter_map(|(class, count)| Some((json!(class).as_str()?.to_owned(), count.into())))
        .collect();
    let shared: Map<String, Value> = SharedAccess::ALL
        .iter()
        .zip(c.shared)
        .filter(|(_, count)| count.requests > 0)
        .filter_map(|(kind, count)| Some((json!(kind).as_str()?.to_owned(), json!(count))))
        .collect();
    let bound = Bound::new(c, profile);
    let (by, seconds) = bound.limit();
    json!({
        "launches": totals.launches,
        "wall_seconds": totals.wall.as_secs_f64(),
        "instructions": instructions,
        "warp_instructions": c.total_instructions(),
        "active_lanes": c.active_lanes,
        "global_load_bytes": c.global_load_bytes,
        "global_store_bytes": c.global_store_bytes,
        "global_sectors": c.global_sectors,
        "shared": shared,
        "mma": c.mma,
        "mma_flops": c.mma_flops,
        "barriers": c.barriers,
        "atomics": c.atomics,
        "atomic_conflicts": c.atomic_conflicts,
        "bound": { "label": LABEL, "seconds": seconds, "by": by, "parts": bound },
    })
}

fn settings_json(settings: &Settings) -> Value {
    let checks = settings.run.checks;
    let on: Vec<_> = Check::ALL.iter().filter(|c| checks.contains(**c)).map(|c| c.name()).collect();
    json!({
        "profile": settings.profile.key,
        "driver": settings.driver,
        "memory": settings.memory,
        "seed": settings.run.seed,
        "threads": settings.run.threads,
        "streams": if settings.lazy { "lazy" } else { "eager" },
        "checks": on,
        "matrix_order": match settings.run.matrix_order {
            MatrixOrder::Sequential => "sequential",
            MatrixOrder::Truncated => "truncated",
        },
        "fail": settings
            .fail
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        let mut journal = Journal::new(CheckSet::ALL.without(Check::Leak));
        journal.host(Check::Leak, "exit", None, "off".into());
        journal.host(Check::DoubleFree, "cuMemFree_v2", Some(256), "0x100 was freed before".into());
        journal.host(Check::DoubleFree, "cuMemFree_v2", Some(512), "0x200 was freed before".into());
        journal.host(Check::DoubleFree, "cuMemFree_v2", Some(256), "0x100 was freed before".into());
        let mut counters = Counters { global_sectors: 10, active_lanes: 32, ..Counters::default() };
        counters.instructions[0] = 2;
        counters.shared[SharedAccess::AsyncCopy as usize].wavefronts = 7;
        counters.shared[SharedAccess::AsyncCopy as usize].requests = 1;
        journal.launch("scale", &counters, Duration::from_millis(5));
        journal.launch("scale", &counters, Duration::from_millis(5));
        journal.call("cuInit");
        journal
    }

    #[test]
    fn the_report_has_everything() {
        let json = journal().to_json(&Settings::default());
        assert_eq!(json["findings"].as_array().map(Vec::len), Some(2));
        assert_eq!(json["findings"][0]["count"], 2);
        assert_eq!(json["findings"][0]["check"], "double-free");
        let kernel = &json["kernels"]["scale"];
        assert_eq!(kernel["launches"], 2);
        assert_eq!(kernel["global_sectors"], 20);
        assert_eq!(kernel["instructions"]["integer"], 4);
        assert_eq!(kernel["shared"]["async-copy"]["wavefronts"], 14);
        assert!(kernel["shared"].get("load").is_none());
        assert_eq!(kernel["bound"]["label"], "bound from counts, not a time");
        assert_eq!(kernel["bound"]["by"], "memory");
        assert_eq!(json["calls"]["cuInit"], 1);
        assert_eq!(json["settings"]["profile"], "rtx3090");
        assert_eq!(journal().summary(), "2 findings: 2 double-free");
    }

    #[test]
    fn a_loop_is_one_defect() {
        let mut journal = Journal::new(CheckSet::ALL);
        for step in 0..5 {
            let message = format!("copy #{step} in stream 1 writes what fill #{} reads", step * 2);
            journal.host(Check::StreamOrder, "copy", None, message);
        }
        assert_eq!((journal.found(), journal.findings[0].count), (1, 5));
    }

    #[test]
    fn the_table_is_aligned() {
        let table = journal().table(Profile::ALL[0]);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].contains(LABEL));
        assert_eq!(lines[1].len(), lines[2].len());
        assert!(lines[2].starts_with("scale ") && lines[2].ends_with("memory"));
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let path = std::env::temp_dir().join(format!("emulator-{}.json", std::process::id()));
        std::fs::write(&path, "old").expect("writable");
        let mut journal = journal();
        assert!(journal.unwritten);
        journal.write(&Settings::default(), &path);
        assert!(!journal.unwritten);
        let text = std::fs::read_to_string(&path).expect("written");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["kernels"]["scale"]["launches"], 2);
        std::fs::remove_file(&path).expect("there");
    }
}
