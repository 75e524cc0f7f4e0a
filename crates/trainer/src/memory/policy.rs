//! What to keep of each layer, so that a run fits and computes as little as possible twice.

use std::sync::Arc;

use anyhow::Result;
use models::decoder::{Keep, Part};

use super::Need;

/// The fastest choice that fits.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// It fits.
    Fits(Need),
    /// Nothing does: what the least takes.
    TooLarge(Need),
}

impl Choice {
    /// By whether `need` fits into `budget` bytes.
    pub fn of(need: Need, budget: usize) -> Self {
        if need.bytes() <= budget { Self::Fits(need) } else { Self::TooLarge(need) }
    }

    /// What is kept, fitting or not, and what that takes.
    pub fn need(&self) -> &Need {
        match self {
            Self::Fits(need) | Self::TooLarge(need) => need,
        }
    }
}

/// Finds what to keep in `layers` layers within `budget` bytes.
///
/// Parts of a layer are given up in order of bytes saved for each operation that it takes to make them again,
/// each first in the first layer: the last layers' memory is free again when the backward comes to the others. Last of
/// all, layers' inputs are put away in the host's memory. Of these choices, one after the other slower and smaller, the first that fits is taken.
pub fn choose(
    layers: usize,
    budget: usize,
    mut measure: impl FnMut(Arc<[Keep]>) -> Result<Need>,
) -> Result<Choice> {
    let all = measure(Keep::ALL.for_layers(layers))?;
    if all.bytes() <= budget {
        return Ok(Choice::Fits(all));
    }
    let mut keep = Keep::ALL;
    for part in order(layers, &all, &mut measure)? {
        let less = keep.without(part);
        let need = measure(less.for_layers(layers))?;
        if need.bytes() <= budget {
            return within(layers, budget, [keep, less], need, &mut measure).map(Choice::Fits);
        }
        keep = less;
    }
    Ok(Choice::TooLarge(measure(keep.for_layers(layers))?))
}

/// Parts by bytes saved for an operation, most first.
fn order(
    layers: usize,
    all: &Need,
    measure: &mut impl FnMut(Arc<[Keep]>) -> Result<Need>,
) -> Result<Vec<Part>> {
    let mut rated = Vec::new();
    for part in Part::COMPUTED {
        let need = measure(Keep::ALL.without(part).for_layers(layers))?;
        let saved = all.bytes().saturating_sub(need.bytes()) as f64;
        let spent = need.flops.saturating_sub(all.flops) as f64;
        // What costs a pass over memory costs more than nothing.
        rated.push((saved / (1.0 + spent), part));
    }
    rated.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    Ok(rated.into_iter().map(|(_, part)| part).chain([Part::Input]).collect())
}

/// The fewest layers that keep `less` instead of `more`; with all of them it fits, with `need`.
fn within(
    layers: usize,
    budget: usize,
    [more, less]: [Keep; 2],
    need: Need,
    measure: &mut impl FnMut(Arc<[Keep]>) -> Result<Need>,
) -> Result<Need> {
    let (mut fits, mut too_few, mut best) = (layers, 0, need);
    while fits - too_few > 1 {
        let some = too_few.midpoint(fits);
        let keep = (0..layers).map(|layer| if layer < some { less } else { more });
        let need = measure(keep.collect())?;
        if need.bytes() <= budget {
            (fits, best) = (some, need);
        } else {
            too_few = some;
        }
    }
    Ok(best)
}
