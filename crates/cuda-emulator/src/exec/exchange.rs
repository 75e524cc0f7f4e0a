//! Exchanges between the lanes of a warp.

use super::{
    fault::Problem,
    instruction::{Instruction, NONE, Op, Reduce, Shuffle, Vote},
    warp::{FULL, Warp, lanes},
};
use crate::{
    alu::{WARP, matrix},
    findings::Check,
};

/// What a lane of a shuffle knows.
struct Lane {
    me: i32,
    by: i32,
    segment: i32,
    last: i32,
}

/// The lane that each lane reads, by `from`, which also says whether it lies in the segment; else the
/// lane itself. The bits of those that do.
#[inline(always)]
fn sources(
    by: &[u32; WARP],
    clamps: &[u32; WARP],
    from: impl Fn(Lane) -> (i32, bool),
) -> ([i32; WARP], u32) {
    let (mut out, mut bits) = ([0; WARP], 0);
    for lane in 0..WARP {
        let me = lane as i32;
        let segment = (clamps[lane] >> 8 & 31) as i32;
        let last = me & segment | (clamps[lane] & 31) as i32 & !segment;
        let (from, inside) = from(Lane { me, by: (by[lane] & 31) as i32, segment, last });
        out[lane] = if inside { from } else { me };
        bits |= u32::from(inside) << lane;
    }
    (out, bits)
}

impl Warp {
    #[inline(always)]
    pub(super) fn exchange(
        &mut self,
        instruction: &Instruction,
        active: u32,
    ) -> Result<(), Problem> {
        let r = instruction.registers;
        match instruction.op {
            Op::Shuffle(mode) => self.shuffle(mode, r, active),
            Op::Vote(mode) => self.vote(mode, r, active),
            Op::Match { all, wide } => self.matching(all, wide, r, active),
            Op::Reduce(op) => self.reduce(op, r, active),
            Op::ActiveMask => {
                self.write(r[0], active, |_| active);
                Ok(())
            }
            Op::MoveMatrix => {
                if active != FULL {
                    return Err(self.divergent("movmatrix", active));
                }
                let moved = matrix::movmatrix(&self.registers.w[usize::from(r[1])]);
                self.registers.w[usize::from(r[0])] = moved;
                Ok(())
            }
            _ => Err(Problem::new(Check::Trap, "an instruction that the emulator lost")),
        }
    }

    #[inline(always)]
    fn write(&mut self, register: u16, active: u32, value: impl Fn(usize) -> u32) {
        if register != NONE {
            let to = self.w_mut(register);
            if active == FULL {
                for (lane, to) in to.iter_mut().enumerate() {
                    *to = value(lane);
                }
            } else {
                lanes(active, |lane| to[lane] = value(lane));
            }
        }
    }

    /// Source: PTX ISA, `shfl.sync`.
    #[inline(always)]
    fn shuffle(&mut self, mode: Shuffle, r: [u16; 8], active: u32) -> Result<(), Problem> {
        self.members(r[5], active, "shfl.sync")?;
        let (by, clamps) = (self.w(r[3]), self.w(r[4]));
        let (sources, inside) = match mode {
            Shuffle::Up => sources(
                by,
                clamps,
                #[inline(always)]
                |l| (l.me - l.by, l.me - l.by >= l.last),
            ),
            Shuffle::Down => sources(
                by,
                clamps,
                #[inline(always)]
                |l| (l.me + l.by, l.me + l.by <= l.last),
            ),
            Shuffle::Butterfly => sources(
                by,
                clamps,
                #[inline(always)]
                |l| (l.me ^ l.by, l.me ^ l.by <= l.last),
            ),
            Shuffle::Index => sources(
                by,
                clamps,
                #[inline(always)]
                |l| {
                    let from = l.me & l.segment | l.by & !l.segment;
                    (from, from <= l.last)
                },
            ),
        };
        let (values, mut out) = (self.w(r[2]), [0; WARP]);
        for (to, &from) in out.iter_mut().zip(&sources) {
            *to = values[from as usize % WARP];
        }
        let mut wrong = None;
        if active != FULL {
            lanes(active, |lane| {
                if active >> sources[lane] & 1 == 0 {
                    wrong = wrong.or(Some((lane, sources[lane])));
                }
            });
        }
        if let Some((lane, from)) = wrong {
            let message = format!("shfl.sync reads lane {from}, which does not take part");
            return Err(Problem::new(Check::WarpSync, message).lane(lane));
        }
        self.write(
            r[0],
            active,
            #[inline(always)]
            |lane| out[lane],
        );
        self.set_predicate(r[1], inside, active);
        Ok(())
    }

    fn vote(&mut self, mode: Vote, r: [u16; 8], active: u32) -> Result<(), Problem> {
        self.members(r[2], active, "vote.sync")?;
        let yes = self.registers.p[usize::from(r[1])] & active;
        let answer = match mode {
            Vote::All => yes == active,
            Vote::Any => yes != 0,
            Vote::Uniform => yes == active || yes == 0,
            Vote::Ballot => {
                self.write(r[0], active, |_| yes);
                return Ok(());
            }
        };
        self.set_predicate(r[0], if answer { FULL } else { 0 }, active);
        Ok(())
    }

    fn matching(&mut self, all: bool, wide: bool, r: [u16; 8], active: u32) -> Result<(), Problem> {
        self.members(r[3], active, "match.sync")?;
        let values: [u64; WARP] = if wide { *self.d(r[2]) } else { self.w(r[2]).map(u64::from) };
        let mut same = [0; WARP];
        lanes(active, |a| lanes(active, |b| same[a] |= u32::from(values[a] == values[b]) << b));
        if all {
            let equal = same[active.trailing_zeros() as usize & 31] == active;
            self.write(r[0], active, |_| if equal { active } else { 0 });
            self.set_predicate(r[1], if equal { FULL } else { 0 }, active);
        } else {
            self.write(r[0], active, |lane| same[lane]);
        }
        Ok(())
    }

    fn reduce(&mut self, op: Reduce, r: [u16; 8], active: u32) -> Result<(), Problem> {
        self.members(r[2], active, "redux.sync")?;
        let values = *self.w(r[1]);
        let mut total: Option<u32> = None;
        lanes(active, |lane| {
            let v = values[lane];
            total = Some(match (total, op) {
                (None, _) => v,
                (Some(t), Reduce::Add) => t.wrapping_add(v),
                (Some(t), Reduce::MinSigned) => (t as i32).min(v as i32) as u32,
                (Some(t), Reduce::MaxSigned) => (t as i32).max(v as i32) as u32,
                (Some(t), Reduce::MinUnsigned) => t.min(v),
                (Some(t), Reduce::MaxUnsigned) => t.max(v),
                (Some(t), Reduce::And) => t & v,
                (Some(t), Reduce::Or) => t | v,
                (Some(t), Reduce::Xor) => t ^ v,
            });
        });
        self.write(r[0], active, |_| total.unwrap_or(0));
        Ok(())
    }
}
