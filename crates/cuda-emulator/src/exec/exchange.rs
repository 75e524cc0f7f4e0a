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

impl Warp {
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

    fn write(&mut self, register: u16, active: u32, value: impl Fn(usize) -> u32) {
        if register != NONE {
            let to = self.w_mut(register);
            lanes(active, |lane| to[lane] = value(lane));
        }
    }

    /// Source: PTX ISA, `shfl.sync`.
    fn shuffle(&mut self, mode: Shuffle, r: [u16; 8], active: u32) -> Result<(), Problem> {
        self.members(r[5], active, "shfl.sync")?;
        let (values, wanted, clamps) = (*self.w(r[2]), *self.w(r[3]), *self.w(r[4]));
        let (mut out, mut inside, mut wrong) = ([0; WARP], 0, None);
        lanes(active, |lane| {
            let me = lane as u32;
            let (by, clamp, segment) =
                (wanted[lane] & 31, clamps[lane] & 31, clamps[lane] >> 8 & 31);
            let last = me & segment | clamp & !segment;
            let (from, valid) = match mode {
                Shuffle::Up => (me.wrapping_sub(by), me as i32 - by as i32 >= last as i32),
                Shuffle::Down => (me + by, me + by <= last),
                Shuffle::Butterfly => (me ^ by, me ^ by <= last),
                Shuffle::Index => {
                    let from = me & segment | by & !segment;
                    (from, from <= last)
                }
            };
            let from = if valid { from } else { me };
            if active >> from & 1 == 0 {
                wrong = wrong.or(Some((lane, from)));
            } else {
                out[lane] = values[from as usize];
            }
            inside |= u32::from(valid) << lane;
        });
        if let Some((lane, from)) = wrong {
            let message = format!("shfl.sync reads lane {from}, which does not take part");
            return Err(Problem::new(Check::WarpSync, message).lane(lane));
        }
        self.write(r[0], active, |lane| out[lane]);
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
