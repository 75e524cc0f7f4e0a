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
    assert_eq!(check(s.touch(4, 4, Use::Read, who(33))), Some(Check::SharedRace), "another warp");
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
