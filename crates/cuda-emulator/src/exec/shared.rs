//! Shared memory of a block, and who touched each byte of it since when.
//!
//! Time advances at barriers. `ordered[a][b]` is the time before which everything that warp b did
//! is ordered before what warp a does now; the diagonal belongs to `bar.warp.sync`. An access
//! collides with an earlier one of another thread that is not so ordered, if one of them writes.

#[cfg(test)]
mod tests;

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
