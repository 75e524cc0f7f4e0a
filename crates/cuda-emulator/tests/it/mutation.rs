//! Whether the samples' tests would notice a wrong kernel: each of the faults that
//! [`cuda_emulator::ptx::mutate`] can make must give a wrong number or a finding. Faults that are known
//! to change nothing are listed, with the reason, in `tests/mutation-allowlist.txt`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use cuda_emulator::{
    exec::Settings,
    ptx::{self, Module, mutate::Mutant},
};
use rayon::prelude::*;

use crate::{
    common::{
        case::Case,
        compile::{Flavour, ptx, target},
        direct,
    },
    samples::{SAMPLES, Sample, Shapes},
};

/// Instructions after which a mutant hangs; the samples need a tenth of it.
const BUDGET: u64 = 1_000_000;

/// How a mutant was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It does not load.
    Rejected,
    /// A check found something.
    Found,
    /// Nothing was found, but a number is wrong.
    Wrong,
    /// Nobody noticed.
    Survived,
}

fn fate(module: &Module, cases: &[Case], seeds: u64) -> Fate {
    for seed in 0..seeds {
        let settings =
            Settings { seed, threads: 1, instruction_budget: BUDGET, ..Settings::default() };
        let mut wrong = false;
        for case in cases {
            match direct::run(module, case, &settings) {
                Err(_) => return Fate::Rejected,
                Ok(outcome) if !outcome.findings.is_empty() => return Fate::Found,
                Ok(outcome) => wrong |= case.check(&outcome.buffers).is_err(),
            }
        }
        if wrong {
            return Fate::Wrong;
        }
    }
    Fate::Survived
}

/// The mutants of a sample and what became of them.
fn fates(sample: &Sample) -> Vec<(Mutant, Fate)> {
    let module = ptx::parse(&ptx(sample.name, Flavour::Optimised)).expect("nvcc wrote it");
    let few = (sample.cases)(Shapes::Few);
    let all = (sample.cases)(Shapes::All);
    // What the few cases let pass gets all of them.
    let fate = |module: &Module| match fate(module, &few, 6) {
        Fate::Survived => fate(module, &all, 1),
        noticed => noticed,
    };
    assert_eq!(fate(&module), Fate::Survived, "{} as it is", sample.name);
    let run = |mutant: Mutant| {
        let fate = fate(&mutant.apply(&module));
        (mutant, fate)
    };
    ptx::mutate::mutants(&module).into_par_iter().map(run).collect()
}

/// Lines of the form `description | reason`; `#` starts a comment.
fn allowed() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutation-allowlist.txt");
    let text = fs::read_to_string(path).expect("the list is there");
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (mutant, reason) = line.split_once(" | ").expect("description | reason");
            assert!(!reason.trim().is_empty(), "{line}");
            mutant.trim().to_owned()
        })
        .collect()
}

/// Counts by class.
fn table(fates: &[(Mutant, Fate)]) -> String {
    let mut rows: BTreeMap<_, [usize; 4]> = BTreeMap::new();
    for (mutant, fate) in fates {
        rows.entry(mutant.class).or_default()[*fate as usize] += 1;
    }
    let mut text = format!(
        "{:20}{:>9}{:>9}{:>9}{:>9}{:>8}\n",
        "class", "rejected", "found", "wrong", "survived", "caught"
    );
    let mut line = |name: &str, counts: [usize; 4]| {
        let all: usize = counts.iter().sum();
        let caught = 100.0 * (all - counts[3]) as f64 / all.max(1) as f64;
        let [rejected, found, wrong, survived] = counts;
        let _ = writeln!(text, "{name:20}{rejected:9}{found:9}{wrong:9}{survived:9}{caught:7.1}%");
    };
    for (class, counts) in &rows {
        line(class.name(), *counts);
    }
    let total = |column: usize| rows.values().map(|counts| counts[column]).sum();
    line("all", [0, 1, 2, 3].map(total));
    text
}

#[test]
fn every_mutant_is_noticed_or_known_to_be_equivalent() {
    let fates: Vec<_> = SAMPLES.iter().flat_map(fates).collect();
    let table = table(&fates);
    print!("{table}");
    fs::write(target().join("cuda-emulator-mutants.txt"), &table).expect("target is writable");

    let survived: BTreeSet<String> = fates
        .iter()
        .filter(|(_, fate)| *fate == Fate::Survived)
        .map(|(mutant, _)| format!("{}, {}", mutant.class.name(), mutant.description))
        .collect();
    let allowed = allowed();
    let missed: Vec<_> = survived.difference(&allowed).collect();
    let stale: Vec<_> = allowed.difference(&survived).collect();
    assert!(
        missed.is_empty() && stale.is_empty(),
        "not noticed by any test:\n{missed:#?}\nin the list, but noticed or no longer there:\n{stale:#?}"
    );
}
