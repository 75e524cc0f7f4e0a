use proptest::prelude::*;

use super::*;
use crate::memory::lines;

struct Launch {
    races: Races,
    touches: Touches,
}

impl Launch {
    fn new(blocks: u64) -> Self {
        Self { races: Races::new(1, blocks), touches: Touches::new(256) }
    }

    fn touch(&self, me: &mut BlockOrder, range: (usize, usize), kind: Kind) -> Option<Conflict> {
        self.races.blocks.begin(kind, me);
        lines(range.0, range.1).fold(None, |found, line| {
            found.or(self.races.touch(0x1000, &self.touches, line, kind, me))
        })
    }
}

#[test]
fn unordered_writes_collide_even_when_a_reader_came_between() {
    let launch = Launch::new(3);
    let (mut a, mut b, mut c) =
        (launch.races.blocks.enter(0), launch.races.blocks.enter(1), launch.races.blocks.enter(2));
    assert_eq!(launch.touch(&mut a, (4, 8), Kind::Write), None);
    let race = launch.touch(&mut b, (0, 16), Kind::Read).unwrap();
    assert_eq!(race, Conflict { offset: 4, other: Some(0), kind: Kind::Write });
    assert_eq!(launch.touch(&mut c, (7, 8), Kind::Write).unwrap().other, Some(0));
}

#[test]
fn neighbours_in_one_word_do_not_collide() {
    let launch = Launch::new(2);
    let (mut a, mut b) = (launch.races.blocks.enter(0), launch.races.blocks.enter(1));
    assert_eq!(launch.touch(&mut a, (0, 2), Kind::Read), None);
    assert_eq!(launch.touch(&mut b, (2, 4), Kind::Read), None);
    assert_eq!(launch.touch(&mut a, (0, 2), Kind::Write), None);
    assert_eq!(launch.touch(&mut b, (2, 4), Kind::Write), None);
    assert!(launch.touch(&mut b, (1, 3), Kind::Write).is_some());
}

#[test]
fn a_write_collides_with_one_of_many_readers() {
    let launch = Launch::new(8);
    for block in 0..8 {
        assert_eq!(launch.touch(&mut launch.races.blocks.enter(block), (0, 64), Kind::Read), None);
    }
    assert_eq!(
        launch.touch(&mut launch.races.blocks.enter(3), (20, 21), Kind::Write).unwrap().kind,
        Kind::Read
    );
}

#[test]
fn a_line_splits_with_what_it_knows() {
    for kind in [Kind::Read, Kind::Write] {
        let launch = Launch::new(3);
        let (mut a, mut b) = (launch.races.blocks.enter(0), launch.races.blocks.enter(1));
        assert_eq!(launch.touch(&mut a, (64, 128), kind), None);
        assert_eq!(launch.touch(&mut a, (100, 104), Kind::Read), None, "its own");
        assert_eq!(launch.touch(&mut a, (64, 128), Kind::Write), None, "its own, split");
        let race = launch.touch(&mut b, (96, 100), Kind::Write).unwrap();
        assert_eq!((race.offset, race.other), (96, Some(0)));
    }
    let launch = Launch::new(3);
    let (mut a, mut b) = (launch.races.blocks.enter(0), launch.races.blocks.enter(1));
    launch.touch(&mut a, (0, 64), Kind::Read);
    let race = launch.touch(&mut b, (0, 64), Kind::Write).unwrap();
    assert_eq!((race.offset, race.other, race.kind), (0, Some(0), Kind::Read));
    launch.touch(&mut a, (128, 192), Kind::Write);
    let race = launch.touch(&mut b, (128, 192), Kind::Read).unwrap();
    assert_eq!((race.offset, race.other, race.kind), (128, Some(0), Kind::Write));
}

#[test]
fn atomics_collide_only_with_ordinary_accesses() {
    let launch = Launch::new(3);
    let (mut a, mut b, mut c) =
        (launch.races.blocks.enter(0), launch.races.blocks.enter(1), launch.races.blocks.enter(2));
    assert_eq!(launch.touch(&mut a, (0, 4), Kind::Atomic), None);
    assert_eq!(launch.touch(&mut b, (0, 4), Kind::Atomic), None);
    assert_eq!(launch.touch(&mut b, (0, 4), Kind::StrongRead), None);
    assert_eq!(launch.touch(&mut c, (0, 4), Kind::Read).unwrap().kind, Kind::Atomic);
}

#[test]
fn a_fence_and_a_signal_order_two_blocks() {
    let launch = Launch::new(2);
    let (mut a, mut b) = (launch.races.blocks.enter(0), launch.races.blocks.enter(1));
    launch.touch(&mut a, (0, 16), Kind::Write);
    launch.races.blocks.fence(&mut a);
    launch.touch(&mut a, (32, 36), Kind::Atomic);
    launch.touch(&mut b, (32, 36), Kind::Atomic);
    assert_eq!(launch.touch(&mut b, (0, 16), Kind::Read), None);
    launch.touch(&mut a, (16, 32), Kind::Write);
    launch.touch(&mut a, (32, 36), Kind::Atomic);
    launch.touch(&mut b, (32, 36), Kind::Atomic);
    assert!(launch.touch(&mut b, (16, 32), Kind::Read).is_some(), "no fence between");
}

#[test]
fn a_fence_without_a_signal_after_it_publishes_nothing() {
    let launch = Launch::new(2);
    let (mut a, mut b) = (launch.races.blocks.enter(0), launch.races.blocks.enter(1));
    launch.races.blocks.fence(&mut a);
    launch.touch(&mut a, (32, 36), Kind::Atomic);
    launch.touch(&mut a, (0, 16), Kind::Write);
    launch.races.blocks.fence(&mut a);
    launch.touch(&mut b, (32, 36), Kind::StrongRead);
    launch.races.blocks.fence(&mut b);
    assert!(launch.touch(&mut b, (0, 16), Kind::Read).is_some());
}

#[test]
fn a_grid_barrier_orders_many_readers_before_a_writer() {
    let launch = Launch::new(4);
    let mut blocks: Vec<_> = (0..4).map(|b| launch.races.blocks.enter(b)).collect();
    for me in &mut blocks {
        assert_eq!(launch.touch(me, (0, 16), Kind::Read), None);
        launch.races.blocks.fence(me);
        launch.touch(me, (64, 68), Kind::Atomic);
    }
    for me in &mut blocks {
        launch.touch(me, (64, 68), Kind::StrongRead);
    }
    assert_eq!(launch.touch(&mut blocks[2], (0, 16), Kind::Write), None);
    assert!(launch.touch(&mut blocks[1], (0, 16), Kind::Read).is_some());
}

#[test]
fn the_next_launch_starts_clean() {
    let mut launch = Launch::new(2);
    launch.touch(&mut launch.races.blocks.enter(0), (0, 16), Kind::Write);
    launch.races = Races::new(2, 2);
    assert_eq!(launch.touch(&mut launch.races.blocks.enter(1), (0, 16), Kind::Write), None);
}

#[test]
fn what_many_read_piece_by_piece_needs_no_table() {
    let launch = Launch::new(4);
    let read = |block, from: usize, len| {
        launch.touch(&mut launch.races.blocks.enter(block), (from, from + len), Kind::Read)
    };
    assert_eq!(read(0, 0, 16), None);
    for at in [0, 4, 8] {
        assert_eq!(read(1, at, 4), None);
        assert_eq!(launch.races.exact.len(), 1);
    }
    assert_eq!(read(1, 12, 4), None);
    for (block, at) in [(0, 8), (2, 0), (3, 4)] {
        assert_eq!(read(block, at, 4), None);
        assert_eq!(launch.races.exact.len(), 0);
    }
    let mut c = launch.races.blocks.enter(2);
    assert_eq!(launch.touch(&mut c, (13, 14), Kind::Write).unwrap().kind, Kind::Read);
}

/// Which blocks read and wrote a byte.
type Users = [u8; 2];

proptest! {
    /// Up to the first, collisions are found where the blocks that read and wrote each byte say so.
    #[test]
    fn collisions_are_those_of_each_byte(
        accesses in prop::collection::vec((0..4_u64, 0..64_usize, 0..5_u32, 0..8_u32), 1..60),
    ) {
        let launch = Launch::new(4);
        let mut blocks: Vec<_> = (0..4).map(|block| launch.races.blocks.enter(block)).collect();
        let mut users: [Users; 64] = [[0; 2]; 64];
        for (block, at, wide, writes) in accesses {
            let bytes = 1 << wide;
            let range = (at / bytes * bytes, at / bytes * bytes + bytes);
            let kind = if writes == 0 { Kind::Write } else { Kind::Read };
            let me = 1_u8 << block;
            let collides = users[range.0..range.1].iter_mut().fold(false, |any, [read, wrote]| {
                let others = !me & if kind == Kind::Write { *read | *wrote } else { *wrote };
                *(if kind == Kind::Write { wrote } else { read }) |= me;
                any || (others != 0)
            });
            let found = launch.touch(&mut blocks[block as usize], range, kind);
            prop_assert_eq!(found.is_some(), collides, "{:?} of {:?} by {}", kind, range, block);
            if collides {
                break;
            }
        }
    }

    /// Many alike are recorded as each by itself, or left to that.
    #[test]
    fn bytes_alike_are_touched_as_one_by_one(
        accesses in prop::collection::vec((0..2_u64, 0..4_u32, 0..2_u32, 1..4_usize), 1..12),
    ) {
        let [at_once, one_by_one] = [Launch::new(2), Launch::new(2)];
        for (block, quarter, writes, count) in accesses {
            let kind = if writes == 0 { Kind::Write } else { Kind::Read };
            let part = 0xf_u64 << (4 * quarter);
            let mask = part * 0x1_0001_0001_0001;
            let [mut me, mut twin] =
                [&at_once, &one_by_one].map(|launch| launch.races.blocks.enter(block));
            let single = |launch: &Launch, me: &mut BlockOrder| {
                (0..count).fold(None, |found, line| {
                    found.or(launch.races.touch(0x1000, &launch.touches, (line, mask), kind, me))
                })
            };
            let alone = at_once.races.touch_alike(&at_once.touches, 0..count, part, kind, &me);
            let expected = single(&one_by_one, &mut twin);
            if !alone {
                prop_assert_eq!(single(&at_once, &mut me), expected);
            }
            prop_assert!(!alone || expected.is_none());
            if expected.is_some() {
                break;
            }
            for line in 0..4 {
                for entry in 0..GRANULES {
                    let at = (line * GRANULES + entry) * 8;
                    for (left, right) in [
                        (&at_once.touches.reads, &one_by_one.touches.reads),
                        (&at_once.touches.writes, &one_by_one.touches.writes),
                    ] {
                        prop_assert_eq!(left.u64(at).load(Relaxed), right.u64(at).load(Relaxed));
                    }
                }
            }
        }
    }
}
