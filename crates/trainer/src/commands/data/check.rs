//! `qlora-train data check`: what is in the data and what is wrong with it.

use std::io::Write;

use anyhow::{Result, bail};
use data::preflight::{Finding, Report, SideReport};
use serde::Serialize;

use super::RunArgs;
use crate::prepare::{prepare, unwaived};
use crate::recipe::Recipe;
use crate::sft::Plan;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Say how long the run takes at this speed, which a short run tells.
    #[arg(long, value_name = "N")]
    tokens_per_second: Option<f64>,
}

/// What a run will do with the data.
#[derive(Debug, Serialize)]
struct Work {
    steps: usize,
    epochs: f64,
    /// Tokens through training steps.
    tokens: f64,
    /// Seconds of training steps, where the speed is known.
    seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    work: &'a Work,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let (recipe, base) = args.run.open()?;
    let prepared = prepare(&recipe, &base)?;
    let plan = Plan::new(&recipe.train, &recipe.data, &prepared.train);
    let steps = plan.total_steps();
    let epochs = plan.epochs(steps);
    let tokens = epochs * prepared.train.tokens_per_epoch() as f64;
    let seconds = args.tokens_per_second.map(|speed| tokens / speed);
    let work = Work { steps, epochs, tokens, seconds };
    let report = &prepared.report;

    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&Output { report, work: &work })?)?;
    } else {
        print(&mut out, &recipe, report, &work)?;
    }
    let fatal: Vec<String> =
        unwaived(report, &recipe.data.waive).map(|finding| finding.check.to_string()).collect();
    if !fatal.is_empty() {
        bail!("training would refuse this data: {}", fatal.join(", "));
    }
    Ok(())
}

fn print(out: &mut impl Write, recipe: &Recipe, report: &Report, work: &Work) -> Result<()> {
    print_side(out, "training rows", &report.train)?;
    if let Some(eval) = &report.eval {
        print_side(out, "evaluation rows", eval)?;
    }
    let Work { steps, epochs, tokens, seconds } = work;
    write!(out, "run: {steps} steps, {epochs:.2} epochs, {tokens:.0} tokens")?;
    if let Some(seconds) = seconds {
        write!(out, ", {} without evaluations", duration(*seconds))?;
    }
    writeln!(out)?;
    for Finding { check, fatal, message, places, count } in &report.findings {
        let level = match (*fatal, recipe.data.waive.contains(check)) {
            (true, true) => "waived",
            (true, false) => "FATAL",
            (false, _) => "warning",
        };
        writeln!(out, "{level} {check}: {message}")?;
        for place in places {
            writeln!(out, "    {place}")?;
        }
        if *count > places.len() && !places.is_empty() {
            writeln!(out, "    and {} more", count - places.len())?;
        }
    }
    if report.findings.is_empty() {
        writeln!(out, "nothing is wrong with this data that can be told without training")?;
    }
    Ok(())
}

fn print_side(out: &mut impl Write, what: &str, side: &SideReport) -> Result<()> {
    let SideReport { read, bad, left_out, dropped, truncated, stats, bins, lengths } = side;
    write!(out, "{what}: {read} read, {} kept", stats.rows)?;
    for (count, why) in [
        (bad, "cannot be used"),
        (left_out, "left out by weight"),
        (dropped, "too long and dropped"),
        (truncated, "too long and cut"),
    ] {
        if *count > 0 {
            write!(out, ", {count} {why}")?;
        }
    }
    let share = 100.0 * stats.trained_tokens as f64 / stats.tokens.max(1) as f64;
    let mean = stats.tokens as f64 / stats.rows.max(1) as f64;
    writeln!(
        out,
        "\n  {} tokens, {} of them ({share:.1} %) trained",
        stats.tokens, stats.trained_tokens
    )?;
    writeln!(out, "  {mean:.0} tokens a row, {} in the longest; rows by tokens:", stats.longest)?;
    write!(out, "{lengths}")?;
    if let Some((bins, capacity)) = bins {
        let full = 100.0 * stats.tokens as f64 / (bins * capacity).max(1) as f64;
        writeln!(out, "  packed into {bins} bins of {capacity} tokens, {full:.1} % full")?;
    }
    Ok(())
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds:.0} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes:02} min"),
    }
}
