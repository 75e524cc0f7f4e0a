//! Tokens that are kept from one start to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use data::rows::Source;
use data::{Cache, CacheNote, HeldOut, Loaded, Overlength, Reading, TrainOn};
use proptest::prelude::*;

use crate::common::{OPTIONS, encoder, encoder_of};
use crate::reading::{ENCODER, SHORT, Told, write};

fn cache(dir: &Path) -> Cache {
    Cache { at_least: 0, ..Cache::new(dir.join("cache")) }
}

fn entries(cache: &Cache) -> Vec<PathBuf> {
    let entries = fs::read_dir(&cache.dir).into_iter().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn reused(loaded: &Loaded) -> bool {
    matches!(loaded.cache[..], [CacheNote::Reused { .. }])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_second_start_has_the_same_rows(
        kinds in prop::collection::vec(0_usize..80, 1..40),
        held_out in prop::option::of((0.05..0.9_f64).prop_map(HeldOut::Fraction)),
        cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let sources = [
            Source { weight: 1.5, ..Source::new(write(dir.path(), "a.jsonl", &kinds)) },
            Source::new(write(dir.path(), "b.jsonl", &[5, 6])),
        ];
        let overlength = if cut { Overlength::TruncateRight } else { Overlength::Drop };
        let options = data::EncodeOptions { overlength, ..SHORT };
        let held_out = held_out.map(|held_out| (held_out, 3));
        let plain = Reading { held_out, ..Reading::new(&sources, options) };
        let kept = Reading { cache: Some(&cache), ..plain };
        let Ok(without) = ENCODER.read(&plain) else { return Ok(()) };
        let [first, second] = [(); 2].map(|()| ENCODER.read(&kept).unwrap());
        prop_assert_eq!(first.cache.len(), 0);
        prop_assert!(reused(&second), "{:?}", second.cache);
        let told = Told::of(&ENCODER, &without);
        prop_assert_eq!(&Told::of(&ENCODER, &first), &told);
        prop_assert_eq!(&Told::of(&ENCODER, &second), &told);
        prop_assert_eq!(entries(&cache).len(), 1);
    }

    #[test]
    fn a_damaged_entry_is_made_again(at in 0.0..1.0_f64, bit in 0..8_u32, cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let sources = [Source::new(write(dir.path(), "a.jsonl", &[5, 0, 6, 1, 7, 3]))];
        let reading = Reading { cache: Some(&cache), ..Reading::new(&sources, SHORT) };
        let told = Told::of(&ENCODER, &ENCODER.read(&reading).unwrap());
        let entry = entries(&cache).remove(0);
        let mut bytes = fs::read(&entry).unwrap();
        let at = (bytes.len() as f64 * at) as usize;
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        fs::write(&entry, bytes).unwrap();
        let again = ENCODER.read(&reading).unwrap();
        prop_assert!(matches!(again.cache[..], [CacheNote::Damaged { .. }]), "{:?}", again.cache);
        prop_assert_eq!(&Told::of(&ENCODER, &again), &told);
        let after = ENCODER.read(&reading).unwrap();
        prop_assert!(reused(&after));
        prop_assert_eq!(&Told::of(&ENCODER, &after), &told);
    }
}

#[test]
fn whatever_tokens_depend_on_makes_another_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let path = write(dir.path(), "a.jsonl", &[5, 6, 7]);
    let sources = [Source::new(&path)];
    let reading = Reading { cache: Some(&cache), ..Reading::new(&sources, OPTIONS) };
    let mut count = 0;
    let mut is_new = |encoder: &data::Encoder, reading: &Reading<'_>| {
        let loaded = encoder.read(reading).unwrap();
        count += usize::from(loaded.cache.is_empty());
        assert_eq!(entries(&cache).len(), count);
        loaded.cache.is_empty()
    };
    assert!(is_new(&ENCODER, &reading));
    assert!(!is_new(&ENCODER, &reading));
    let everything = data::EncodeOptions { train_on: TrainOn::Everything, ..OPTIONS };
    assert!(is_new(&ENCODER, &Reading { options: everything, ..reading }));
    let held_out = |rows, seed| Reading { held_out: Some((HeldOut::Rows(rows), seed)), ..reading };
    assert!(is_new(&ENCODER, &held_out(1, 1)));
    assert!(is_new(&ENCODER, &held_out(1, 2)));
    assert!(!is_new(&ENCODER, &held_out(2, 1)), "rows are divided anew every time");
    assert!(is_new(&encoder("smollm2", "</s>"), &reading));
    assert!(is_new(&encoder("chatml", "<|im_end|>"), &reading));
    let packed = data::EncodeOptions { packing: true, ..OPTIONS };
    assert!(!is_new(&ENCODER, &Reading { options: packed, ..reading }));
    let weighted = [Source { weight: 2.0, ..Source::new(&path) }];
    assert!(is_new(&ENCODER, &Reading { sources: &weighted, ..reading }));
    let dated = "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}</s>{% endfor %}";
    assert!(is_new(&encoder_of(dated, "</s>"), &reading));
    write(dir.path(), "a.jsonl", &[5, 6, 15]);
    assert!(is_new(&ENCODER, &reading));
    write(dir.path(), "a.jsonl", &[5, 6, 7]);
    assert!(!is_new(&ENCODER, &reading));
    let moved = dir.path().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::rename(&path, moved.join("a.jsonl")).unwrap();
    let sources = [Source::new(&moved)];
    let reading = Reading { sources: &sources, ..reading };
    let loaded = ENCODER.read(&reading).unwrap();
    assert!(reused(&loaded));
    assert_eq!(loaded.train.places().next().unwrap().file(), moved.join("a.jsonl"));
}

#[test]
fn several_at_once_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let kinds: Vec<usize> = (0..300).collect();
    let sources = [Source::new(write(dir.path(), "a.jsonl", &kinds))];
    let reading = Reading { cache: Some(&cache), chunk: 7, ..Reading::new(&sources, SHORT) };
    let expected = Told::of(&ENCODER, &ENCODER.read(&Reading { cache: None, ..reading }).unwrap());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (cache, expected, reading) = (&cache, &expected, &reading);
            scope.spawn(move || {
                for round in 0..4 {
                    let loaded = ENCODER.read(reading).unwrap();
                    // Whoever has an entry open goes on with it.
                    if (worker + round) % 3 == 0 {
                        for entry in entries(cache) {
                            let _ = fs::remove_file(entry);
                        }
                    }
                    assert_eq!(&Told::of(&ENCODER, &loaded), expected);
                }
            });
        }
    });
    ENCODER.read(&reading).unwrap();
    assert!(reused(&ENCODER.read(&reading).unwrap()));
    assert_eq!(entries(&cache).len(), 1, "nothing is left half written");
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let read = |cache: &Cache, row: usize| {
        let sources = [Source::new(write(dir.path(), "a.jsonl", &[row]))];
        ENCODER.read(&Reading { cache: Some(cache), ..Reading::new(&sources, OPTIONS) }).unwrap()
    };
    let age = |path: &Path, hours: u64| {
        let then = SystemTime::now() - Duration::from_hours(hours);
        fs::File::open(path).unwrap().set_modified(then).unwrap();
    };
    read(&cache, 5);
    let first = entries(&cache).remove(0);
    read(&cache, 6);
    let second = entries(&cache).into_iter().find(|entry| *entry != first).unwrap();
    age(&first, 5);
    age(&second, 4);
    assert!(reused(&read(&cache, 5)), "and with that used last");
    let bytes = fs::metadata(&first).unwrap().len();
    // Room for two entries of about this size.
    let small = Cache { limit: 2 * bytes + bytes / 2, ..cache.clone() };
    read(&small, 7);
    let left = entries(&cache);
    assert!(left.contains(&first) && !left.contains(&second) && left.len() == 2, "{left:?}");
    let none = Cache { limit: 0, ..cache.clone() };
    read(&none, 13);
    assert_eq!(entries(&cache).len(), 1, "the one in use stays");
    let abandoned = cache.dir.join("x.partial");
    let busy = cache.dir.join("y.partial");
    fs::write(&abandoned, "").unwrap();
    fs::write(&busy, "").unwrap();
    age(&abandoned, 25);
    read(&cache, 14);
    assert!(!abandoned.exists() && busy.exists());
}

#[test]
fn without_room_for_a_cache_rows_are_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cache"), "a file, no directory").unwrap();
    let cache = cache(dir.path());
    let sources = [Source::new(write(dir.path(), "a.jsonl", &[5, 6]))];
    let reading = Reading { cache: Some(&cache), ..Reading::new(&sources, OPTIONS) };
    let loaded = ENCODER.read(&reading).unwrap();
    assert!(matches!(loaded.cache[..], [CacheNote::NotKept { .. }]), "{:?}", loaded.cache);
    assert_eq!(loaded.train.len(), 2);
    // Small files are not worth it.
    let loaded = ENCODER
        .read(&Reading { cache: Some(&Cache::new(dir.path().join("other"))), ..reading })
        .unwrap();
    assert!(loaded.cache.is_empty() && !dir.path().join("other").exists());
}
