//! A recipe in TOML, then lines as `--set` takes them. What can be read must be written and read back the same.
#![no_main]

use fuzz::{Scratch, parts};
use libfuzzer_sys::fuzz_target;
use trainer::recipe::{Override, Recipe};

fuzz_target!(|input: &[u8]| {
    let [recipe, sets] = parts(input);
    let dir = Scratch::new();
    let path = dir.write("recipe.toml", recipe);
    let sets = String::from_utf8_lossy(sets);
    let overrides: Vec<Override> = sets.lines().filter_map(|line| line.parse().ok()).collect();
    if let Ok(recipe) = Recipe::read(&path, &overrides) {
        let path = dir.write("written.toml", recipe.to_toml().as_bytes());
        assert_eq!(Recipe::read(&path, &[]).expect("what was written"), recipe);
    }
});
