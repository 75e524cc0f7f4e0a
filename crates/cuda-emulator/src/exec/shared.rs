//! Shared memory of a block, and who touched each byte of it since when.
//!
//! Time advances at barriers. `ordered[a][b]` is the time before which everything that warp b did
//! is ordered before what warp a does now; the diagonal belongs to `bar.warp.sync`. An access
//! collides with an earlier one of another thread that is not so ordered, if one of them writes.

use super::fault::Problem;
use crate::findings::Check;

/// Several threads.
const SEVERAL: u16 = u16::MAX;
/// Of a granule: see its words.
const SPLIT: u16 = u16::MAX - 1;
const WORD: usize = 4;
/// Bytes that one access of the widest kind covers.
const GRANULE: usize = 16;
const WORDS: usize = GRANULE / WORD;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    Atomic,
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) thread: u16,
    pub(super) warp: u8,
    /// Index of the instruction.
    pub(super) at: u32,
}

/// The latest accesses of one kind to a word.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    time: u32,
    at: u32,
    warps: u32,
    thread: u16,
    bytes: u8,
    atomic: bool,
}

/// State of a word.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Last,
    read: Last,
    /// The exact state is in `bytes`.
    split: bool,
}

/// The latest accesses of one kind to all of 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    time: u32,
    at: u32,
    warps: u32,
    thread: u16,
    /// A bit for each byte: ever written (of the writes), destination of a copy on its way (of the
    /// reads). Here so that a granule is half a cache line.
    bits: u16,
}

impl Seen {
    #[inline(always)]
    fn set(&mut self, time: u32, who: Who) {
        (self.time, self.at, self.warps, self.thread) = (time, who.at, 1 << who.warp, who.thread);
    }

    fn word(self) -> Last {
        let Self { time, at, warps, thread, .. } = self;
        Last { time, at, warps, thread, bytes: 0xf, atomic: false }
    }
}

/// State of 16 bytes: one for all of them as long as they are accessed together, else word by word.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Granule {
    write: Seen,
    read: Seen,
}

impl Granule {
    /// The state is that of the words; the time of `write` is that of the latest access.
    #[inline(always)]
    fn is_split(&self) -> bool {
        self.write.thread == SPLIT
    }

    #[inline(always)]
    fn written(&mut self) -> &mut u16 {
        &mut self.write.bits
    }

    #[inline(always)]
    fn pending(&mut self) -> &mut u16 {
        &mut self.read.bits
    }
}

/// An access that must not happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hazard {
    pub(super) check: Check,
    pub(super) address: u32,
    /// The other access of a race: instruction, thread if it was one, and whether it wrote.
    pub(super) other: Option<(u32, Option<u16>, bool)>,
}

/// Shared memory.
#[derive(Debug)]
pub(super) struct Shared {
    size: usize,
    data: Vec<u8>,
    granules: Vec<Granule>,
    cells: Vec<Cell>,
    bytes: Vec<[Last; 2]>,
    ordered: Vec<[u32; 32]>,
    now: u32,
    /// Time before which everything is ordered for everyone.
    all: u32,
    races: bool,
    uninitialised: bool,
}

impl Shared {
    pub(super) fn new(bytes: usize, races: bool, uninitialised: bool) -> Self {
        let granules = bytes.div_ceil(GRANULE);
        Self {
            size: bytes,
            data: vec![0xff; granules * GRANULE],
            granules: vec![Granule::default(); granules],
            cells: Vec::new(),
            bytes: Vec::new(),
            ordered: vec![[1; 32]; 32],
            now: 1,
            all: 1,
            races,
            uninitialised,
        }
    }

    /// Forgets everything, for the next block.
    pub(super) fn reset(&mut self) {
        self.data.fill(0xff);
        self.granules.fill(Granule::default());
        if self.now != 1 {
            self.now = 1;
            self.all = 1;
            self.ordered.fill([1; 32]);
        }
    }

    /// A barrier: what the warps of `arrived` did is ordered before what those of `waiting` do next.
    pub(super) fn order(&mut self, arrived: u32, waiting: u32, everyone: bool) {
        self.now += 1;
        if everyone {
            self.all = self.now;
            self.ordered.fill([self.now; 32]);
            return;
        }
        for a in (0..32).filter(|a| waiting >> a & 1 != 0) {
            for b in (0..32).filter(|b| arrived >> b & 1 != 0) {
                self.ordered[a][b] = self.now;
            }
        }
    }

    /// Whether `[address, address + bytes)` lies inside.
    #[inline(always)]
    pub(super) fn holds(&self, address: u64, bytes: usize) -> bool {
        address < self.size as u64 && self.size as u64 - address >= bytes as u64
    }

    /// Whether `[address, address + bytes)` lies inside and is aligned to `align`.
    #[inline(always)]
    pub(super) fn check(&self, address: u64, bytes: usize, align: usize) -> Result<usize, Problem> {
        let inside = usize::try_from(address)
            .ok()
            .filter(|a| a.checked_add(bytes).is_some_and(|end| end <= self.size));
        match inside {
            Some(at) if at % align == 0 => Ok(at),
            Some(_) => Err(Problem::at(
                Check::Misaligned,
                address,
                format!(
                    "{bytes} bytes of shared memory at an address that is no multiple of {align}"
                ),
            )),
            None => Err(Problem::at(
                Check::OutOfBounds,
                address,
                format!("{bytes} bytes outside the block's {} bytes of shared memory", self.size),
            )),
        }
    }

    #[inline(always)]
    pub(super) fn data(&self, at: usize, bytes: usize) -> &[u8] {
        &self.data[at..at + bytes]
    }

    /// `N` bytes from `at`.
    #[inline(always)]
    pub(super) fn at<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.data[at..].first_chunk().expect("the access was checked")
    }

    /// `N` bytes from `at`.
    #[inline(always)]
    pub(super) fn at_mut<const N: usize>(&mut self, at: usize) -> &mut [u8; N] {
        self.data[at..].first_chunk_mut().expect("the access was checked")
    }

    #[inline(always)]
    pub(super) fn data_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        &mut self.data[at..at + bytes]
    }

    /// Records an access; the range has been checked.
    #[inline(always)]
    pub(super) fn touch(&mut self, at: usize, bytes: usize, what: Use, who: Who) -> Option<Hazard> {
        let index = at / GRANULE;
        let mask = (((1_u32 << bytes) - 1) << (at % GRANULE)) as u16;
        let state = self.touch_state(index, mask, what);
        if !self.races {
            return state;
        }
        let race = if bytes == GRANULE {
            self.touch_granule(index, what, who)
        } else if bytes >= WORD {
            let words = at / WORD..(at + bytes) / WORD;
            words.fold(None, |found, word| found.or(self.touch_word(word, 0xf, what, who)))
        } else {
            let mask = ((1 << bytes) - 1) << (at % WORD);
            self.touch_word(at / WORD, mask, what, who)
        };
        state.or(race)
    }

    /// Bytes in flight and bytes that nobody wrote.
    #[inline(always)]
    fn touch_state(&mut self, index: usize, mask: u16, what: Use) -> Option<Hazard> {
        let granule = &mut self.granules[index];
        let (pending, missing) = (*granule.pending() & mask, !*granule.written() & mask);
        if pending == 0 && missing == 0 {
            return None;
        }
        *granule.written() |= mask;
        let hazard = |check, bits: u16| Hazard {
            check,
            address: (index * GRANULE) as u32 + bits.trailing_zeros(),
            other: None,
        };
        if pending != 0 {
            Some(hazard(Check::AsyncCopyPending, pending))
        } else if what != Use::Write && self.uninitialised {
            Some(hazard(Check::Uninitialised, missing))
        } else {
            None
        }
    }

    /// Races on 16 bytes at once.
    #[inline(always)]
    fn touch_granule(&mut self, index: usize, what: Use, who: Who) -> Option<Hazard> {
        let (now, all) = (self.now, self.all);
        let granule = &mut self.granules[index];
        if granule.is_split() && granule.write.time < all {
            granule.write.thread = SEVERAL;
        }
        let lone = |seen: &Seen| seen.time < all || seen.thread == who.thread;
        if !granule.is_split() && lone(&granule.write) {
            let read = &mut granule.read;
            match what {
                Use::Read if lone(read) => {
                    read.set(now, who);
                    return None;
                }
                Use::Read => {
                    let warps = read.warps | 1 << who.warp;
                    if read.time != now || read.warps != warps || read.thread != SEVERAL {
                        (read.time, read.at, read.warps, read.thread) =
                            (now, who.at, warps, SEVERAL);
                    }
                    return None;
                }
                Use::Write if lone(read) => {
                    granule.write.set(now, who);
                    return None;
                }
                _ => {}
            }
        }
        (0..WORDS).fold(None, |found, word| {
            found.or(self.touch_word(index * WORDS + word, 0xf, what, who))
        })
    }

    /// Makes the words of a granule carry their own state.
    fn expand(&mut self, index: usize) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::default(); self.granules.len() * WORDS];
        }
        let (all, now) = (self.all, self.now);
        let granule = &mut self.granules[index];
        let current = |seen: Seen| if seen.time < all { Last::default() } else { seen.word() };
        let cell = if granule.is_split() {
            Cell::default()
        } else {
            Cell { write: current(granule.write), read: current(granule.read), split: false }
        };
        self.cells[index * WORDS..][..WORDS].fill(cell);
        (granule.write.time, granule.write.thread) = (now, SPLIT);
    }

    #[inline(always)]
    fn touch_word(&mut self, word: usize, mask: u8, what: Use, who: Who) -> Option<Hazard> {
        let index = word / WORDS;
        let (now, all) = (self.now, self.all);
        if !self.granules[index].is_split() || self.granules[index].write.time < all {
            self.expand(index);
        }
        self.granules[index].write.time = now;
        let cell = &mut self.cells[word];
        let stale_write = cell.write.time < all;
        let stale_read = cell.read.time < all;
        if stale_write && stale_read {
            cell.split = false;
        }
        // Nobody else is involved since the last barrier.
        let lone_write =
            stale_write || (cell.write.thread == who.thread && cell.write.bytes == mask);
        let lone_read = stale_read || (cell.read.thread == who.thread && cell.read.bytes == mask);
        let fresh = Last {
            time: now,
            at: who.at,
            warps: 1 << who.warp,
            thread: who.thread,
            bytes: mask,
            atomic: what == Use::Atomic,
        };
        if !cell.split {
            match what {
                Use::Read if lone_write && lone_read => {
                    cell.read = fresh;
                    return None;
                }
                Use::Read if lone_write && cell.read.bytes == mask => {
                    cell.read =
                        Last { warps: cell.read.warps | fresh.warps, thread: SEVERAL, ..fresh };
                    return None;
                }
                Use::Write if lone_write && lone_read => {
                    cell.write = fresh;
                    return None;
                }
                _ => {}
            }
        }
        self.touch_bytes(word, mask, fresh, what, who.warp)
    }

    /// The exact way, byte by byte.
    fn touch_bytes(
        &mut self,
        word: usize,
        mask: u8,
        fresh: Last,
        what: Use,
        warp: u8,
    ) -> Option<Hazard> {
        if self.bytes.is_empty() {
            self.bytes = vec![[Last::default(); 2]; self.cells.len() * WORD];
        }
        let cell = &mut self.cells[word];
        if !cell.split {
            cell.split = true;
            for byte in 0..WORD {
                let keep =
                    |last: Last| if last.bytes >> byte & 1 != 0 { last } else { Last::default() };
                self.bytes[word * WORD + byte] = [keep(cell.write), keep(cell.read)];
            }
        }
        // Kept for the time at which the word is everyone's again.
        if what == Use::Read {
            cell.read.time = fresh.time;
        } else {
            cell.write.time = fresh.time;
        }
        let mut hazard = None;
        for byte in (0..WORD).filter(|byte| mask >> byte & 1 != 0) {
            let index = word * WORD + byte;
            let [write, read] = self.bytes[index];
            let collides = |last: &Last| {
                last.time >= self.all
                    && last.thread != fresh.thread
                    && !(last.atomic && fresh.atomic)
                    && (0..32).any(|w| {
                        last.warps >> w & 1 != 0 && last.time >= self.ordered[usize::from(warp)][w]
                    })
            };
            let found = if collides(&write) {
                Some((write, true))
            } else if what != Use::Read && collides(&read) {
                Some((read, false))
            } else {
                None
            };
            hazard = hazard.or(found.map(|(last, wrote)| Hazard {
                check: Check::SharedRace,
                address: index as u32,
                other: Some((last.at, (last.thread != SEVERAL).then_some(last.thread), wrote)),
            }));
            let all = self.all;
            let slot = &mut self.bytes[index][usize::from(what == Use::Read)];
            let joins = slot.time >= all
                && slot.thread != fresh.thread
                && (what == Use::Read || (slot.atomic && fresh.atomic));
            *slot = if joins {
                Last { warps: slot.warps | fresh.warps, thread: SEVERAL, ..fresh }
            } else {
                fresh
            };
        }
        hazard
    }

    /// The destination of an asynchronous copy, from its issue to its wait.
    #[inline(always)]
    pub(super) fn begin_copy(&mut self, at: usize, bytes: usize, who: Who) -> Option<Hazard> {
        let hazard = self.touch(at, bytes, Use::Write, who);
        *self.granules[at / GRANULE].pending() |= copy_mask(at, bytes);
        hazard
    }

    /// The first `bytes` bytes of a copy arrive: the thread that waited for them wrote them now.
    #[inline(always)]
    pub(super) fn end_copy(
        &mut self,
        at: usize,
        bytes: usize,
        data: &[u8; GRANULE],
        who: Who,
    ) -> Option<Hazard> {
        *self.granules[at / GRANULE].pending() &= !copy_mask(at, bytes);
        if bytes == GRANULE {
            *self.at_mut(at) = *data;
        } else {
            self.data_mut(at, bytes).copy_from_slice(&data[..bytes]);
        }
        self.touch(at, bytes, Use::Write, who)
    }
}

#[inline(always)]
fn copy_mask(at: usize, bytes: usize) -> u16 {
    (((1_u32 << bytes) - 1) << (at % GRANULE)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(thread: u16) -> Who {
        Who { thread, warp: (thread / 32) as u8, at: u32::from(thread) }
    }

    fn shared() -> Shared {
        Shared::new(1024, true, true)
    }

    fn check(hazard: Option<Hazard>) -> Option<Check> {
        hazard.map(|h| h.check)
    }

    #[test]
    fn a_barrier_orders_a_write_before_a_read() {
        for bytes in [1, 2, 4, 8, 16] {
            let mut s = shared();
            assert_eq!(check(s.touch(32, bytes, Use::Write, who(0))), None);
            assert_eq!(check(s.touch(32, bytes, Use::Read, who(0))), None, "its own");
            let race = s.touch(32, bytes, Use::Read, who(40)).unwrap();
            assert_eq!(
                (race.check, race.address, race.other),
                (Check::SharedRace, 32, Some((0, Some(0), true)))
            );
            s.order(0b11, 0b11, true);
            assert_eq!(check(s.touch(32, bytes, Use::Read, who(40))), None);
        }
    }

    #[test]
    fn equal_values_are_no_excuse_and_neighbours_are_no_race() {
        let mut s = shared();
        assert_eq!(check(s.touch(0, 2, Use::Write, who(0))), None);
        assert_eq!(check(s.touch(2, 2, Use::Write, who(1))), None);
        assert_eq!(check(s.touch(4, 4, Use::Write, who(2))), None);
        assert_eq!(check(s.touch(3, 1, Use::Write, who(3))), Some(Check::SharedRace));
    }

    #[test]
    fn many_readers_then_a_writer() {
        for bytes in [4, 16] {
            let mut s = shared();
            s.touch(0, 16, Use::Write, who(0));
            s.order(0b111, 0b111, true);
            for thread in 0..96 {
                assert_eq!(check(s.touch(0, bytes, Use::Read, who(thread))), None);
            }
            assert_eq!(check(s.touch(0, bytes, Use::Write, who(0))), Some(Check::SharedRace));
        }
    }

    proptest! {
        /// After two threads of a warp, a third one's read of the same finds and changes nothing.
        #[test]
        fn two_readers_of_a_warp_stand_for_all(
            before in prop::collection::vec((0..32_usize, 0..5_u32, 0..4_u16, 0..3_u32), 0..12),
            (at, wide, warp) in (0..32_usize, 0..5_u32, 0..2_u16),
        ) {
            let mut s = shared();
            for (at, wide, thread, what) in before {
                let bytes = 1 << wide;
                match what {
                    0 => s.order(0b11, 0b11, true),
                    1 => drop(s.touch(at / bytes * bytes, bytes, Use::Write, who(thread * 17))),
                    _ => drop(s.touch(at / bytes * bytes, bytes, Use::Read, who(thread * 17))),
                }
            }
            let bytes = 1 << wide;
            let read = |s: &mut Shared, lane: u16| {
                let who = Who { at: 7, ..who(warp * 32 + lane) };
                check(s.touch(at / bytes * bytes, bytes, Use::Read, who))
            };
            let found = [20, 21].map(|lane| read(&mut s, lane));
            let state = format!("{s:?}");
            let third = read(&mut s, 22);
            prop_assert!(third.is_none() || found.contains(&third));
            prop_assert_eq!(state, format!("{s:?}"));
        }
    }

    #[test]
    fn a_warp_barrier_orders_lanes_of_its_warp_only() {
        let mut s = shared();
        s.touch(0, 4, Use::Write, who(0));
        s.touch(4, 4, Use::Write, who(0));
        assert_eq!(
            check(s.touch(0, 4, Use::Read, who(1))),
            Some(Check::SharedRace),
            "no barrier between"
        );
        s.order(1, 1, false);
        assert_eq!(check(s.touch(4, 4, Use::Read, who(1))), None);
        assert_eq!(
            check(s.touch(4, 4, Use::Read, who(33))),
            Some(Check::SharedRace),
            "another warp"
        );
    }

    #[test]
    fn a_partial_barrier_orders_its_participants() {
        let mut s = shared();
        s.touch(0, 16, Use::Write, who(0));
        s.touch(16, 16, Use::Write, who(0));
        s.order(0b011, 0b011, false);
        assert_eq!(check(s.touch(0, 16, Use::Read, who(32))), None);
        assert_eq!(check(s.touch(16, 16, Use::Read, who(64))), Some(Check::SharedRace));
    }

    #[test]
    fn atomics_go_with_atomics() {
        let mut s = shared();
        s.touch(0, 4, Use::Write, who(0));
        s.order(0b11, 0b11, true);
        assert_eq!(check(s.touch(0, 4, Use::Atomic, who(0))), None);
        assert_eq!(check(s.touch(0, 4, Use::Atomic, who(33))), None);
        assert_eq!(check(s.touch(0, 4, Use::Read, who(34))), Some(Check::SharedRace));
    }

    #[test]
    fn a_copy_owns_its_destination_until_it_lands() {
        let mut s = shared();
        assert_eq!(check(s.begin_copy(64, 16, who(0))), None);
        assert_eq!(check(s.touch(68, 4, Use::Read, who(0))), Some(Check::AsyncCopyPending));
        assert_eq!(check(s.begin_copy(64, 16, who(0))), Some(Check::AsyncCopyPending));
        assert_eq!(check(s.end_copy(64, 16, &[7; 16], who(0))), None);
        assert_eq!(check(s.touch(64, 16, Use::Read, who(0))), None);
        assert_eq!(s.data(64, 16), [7; 16]);
        assert_eq!(
            check(s.touch(64, 16, Use::Read, who(1))),
            Some(Check::SharedRace),
            "waited for, but no barrier"
        );
    }

    #[test]
    fn bytes_that_nobody_wrote() {
        let mut s = shared();
        s.touch(0, 2, Use::Write, who(0));
        let hazard = s.touch(0, 4, Use::Read, who(0)).unwrap();
        assert_eq!((hazard.check, hazard.address), (Check::Uninitialised, 2));
        s.reset();
        assert_eq!(check(s.touch(0, 2, Use::Read, who(0))), Some(Check::Uninitialised));
    }

    #[test]
    fn the_last_bytes_of_an_odd_size() {
        let s = Shared::new(10, true, true);
        assert!(s.check(8, 2, 2).is_ok());
        assert_eq!(s.check(8, 4, 4).unwrap_err().check, Check::OutOfBounds);
        assert_eq!(s.check(1, 2, 2).unwrap_err().check, Check::Misaligned);
        assert_eq!(s.check(u64::MAX, 4, 4).unwrap_err().check, Check::OutOfBounds);
    }
}
