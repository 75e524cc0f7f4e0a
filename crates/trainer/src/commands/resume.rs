//! Going on with a run: which checkpoint, whether it is the same run, and how to say it.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::train::quoted;
use crate::checkpoint::{self, Checkpoint, Difference, Identity};
use crate::progress::{say, warn};
use crate::recipe::Recipe;
use crate::sft::{Output, Summary};
use crate::stop::{Stop, Stopped};

/// What `--resume` without a directory stands for.
pub(super) const NEWEST: &str = "newest";

/// The checkpoint in `dir`, which is one itself, or has some, as the directory of a run does; for [`NEWEST`], the
/// newest whole one of `output`. `None` where there is none yet.
pub(super) fn find(dir: &Path, output: &Output) -> Result<Option<Checkpoint>> {
    let found = match dir.to_str() {
        Some(NEWEST) => checkpoint::latest(&output.checkpoints())?,
        _ => Some(named(dir)?),
    };
    match &found {
        None => say("nothing to go on from yet: beginning"),
        Some(found) => say(&format!("going on from {}", found.dir().display())),
    }
    Ok(found)
}

fn named(dir: &Path) -> Result<Checkpoint> {
    for parent in [dir, &dir.join("checkpoints")] {
        if !checkpoint::list(parent).with_context(|| parent.display().to_string())?.is_empty() {
            let newest = checkpoint::latest(parent)?;
            return Ok(newest.expect("there is at least one, or an error"));
        }
    }
    if !dir.join("manifest.json").is_file() {
        bail!("{}: neither a checkpoint nor a directory with some", dir.display());
    }
    Checkpoint::open(dir)
        .context("cannot go on from here; --resume without a directory takes the newest whole one")
}

/// Refuses to go on with another run than `checkpoint` is of, but for the fields that may change.
pub(super) fn compare(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    identity: &Identity,
    allowed: &[String],
) -> Result<()> {
    let then = (&checkpoint.recipe, &checkpoint.state.identity);
    let all = checkpoint::differences(then, (recipe, identity));
    let (changed, refused): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|difference| allowed.contains(&difference.field));
    for Difference { field, then, now } in changed {
        warn(&format!("{field} is {now}, and was {then}: not the same run any more"));
    }
    let Some(Difference { field, then, now }) = refused.first() else { return Ok(()) };
    let more = match refused.len() {
        1 => String::new(),
        n => format!(" (and {} more fields differ)", n - 1),
    };
    bail!(
        "{}: `{field}` was {then} and is {now}{more}; go on with what it was, or allow the change: \
         --allow-change {field}",
        checkpoint.dir().display()
    )
}

/// How a run ends that was asked to stop.
pub(super) fn stopped(stop: Stop, summary: &Summary, resume: Option<&Path>) -> Result<()> {
    let stood = match summary.steps {
        0 => "before the first step".to_owned(),
        step => format!("after step {step} of {}", summary.total_steps),
    };
    let command = command(std::env::args_os(), resume);
    let stopped = Stopped { stop, stood, command };
    if stop.exit_code() == 0 {
        say(&stopped.to_string());
        return Ok(());
    }
    Err(stopped.into())
}

/// The command line with `--resume` for the newest checkpoint, whatever it had.
fn command(args: impl Iterator<Item = OsString>, dir: Option<&Path>) -> String {
    let mut words = Vec::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        if arg == "--resume" {
            args.next_if(|next| dir.is_some_and(|dir| dir == Path::new(next)));
        } else if !arg.to_string_lossy().starts_with("--resume=") {
            words.push(quoted(Path::new(&arg)));
        }
    }
    words.push("--resume".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_go_on_with() {
        let says = |words: &[&str], dir: Option<&str>| {
            command(words.iter().map(OsString::from), dir.map(Path::new))
        };
        assert_eq!(says(&["q", "train", "a b.toml"], None), "q train 'a b.toml' --resume");
        assert_eq!(
            says(&["q", "train", "r", "--resume", "--threads", "2"], None),
            "q train r --threads 2 --resume"
        );
        for words in [&["q", "train", "r", "--resume", "d"][..], &["q", "train", "r", "--resume=d"]]
        {
            assert_eq!(says(words, Some("d")), "q train r --resume");
        }
    }
}
