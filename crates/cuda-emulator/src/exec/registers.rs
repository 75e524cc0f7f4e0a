//! Register allocation: few physical registers keep a warp's state in the cache.
//!
//! Liveness is that of one thread. A physical register may hold different variables in different
//! lanes after a divergence, because an instruction writes active lanes only.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    instruction::{Instruction, NONE, Op, Reference},
    lower::{Lowered, Lowering},
};
use crate::alu::{Class, Operands};

/// Sizes of the register files: allocated registers, then constants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Files {
    pub(super) p: usize,
    pub(super) w: usize,
    pub(super) d: usize,
    /// First constant of each file.
    pub(super) first_constant: [usize; 3],
}

fn file(class: Class) -> usize {
    match class {
        Class::P => 0,
        Class::W => 1,
        Class::D => 2,
    }
}

/// Registers that instruction `at` reads, its guard included.
fn reads(lowered: &Lowered) -> impl Iterator<Item = Reference> + '_ {
    lowered
        .sources
        .iter()
        .flatten()
        .copied()
        .chain(lowered.guard.map(|(r, _)| r))
        .filter(|r| !r.constant)
}

fn writes(lowered: &Lowered) -> impl Iterator<Item = Reference> + '_ {
    lowered.results.iter().flatten().copied().filter(|r| !r.constant)
}

/// Where control goes after instruction `at`.
fn successors(code: &[Lowered], at: usize) -> Vec<usize> {
    let lowered = &code[at];
    let mut next: Vec<usize> = lowered.targets.iter().map(|&t| t as usize).collect();
    let ends = matches!(lowered.op, Op::Branch(_) | Op::Switch(_) | Op::Exit | Op::Trap(_));
    if !ends || lowered.guard.is_some() {
        next.push(at + 1);
    }
    next
}

/// A set of registers.
type Set = Vec<u64>;

fn insert(set: &mut Set, id: u32) {
    set[id as usize / 64] |= 1 << (id % 64);
}

fn remove(set: &mut Set, id: u32) {
    set[id as usize / 64] &= !(1 << (id % 64));
}

/// `[first, last]` position at which each register holds a value that is read later, or is written.
fn intervals(code: &[Lowered], registers: usize) -> Vec<Option<(usize, usize)>> {
    let mut leaders: Vec<usize> = vec![0, code.len()];
    for at in 0..code.len() {
        if !code[at].targets.is_empty() || matches!(code[at].op, Op::Exit | Op::Trap(_)) {
            leaders.push(at + 1);
            leaders.extend(successors(code, at));
        }
    }
    leaders.sort_unstable();
    leaders.dedup();
    leaders.retain(|&l| l <= code.len());
    let block_of = |at: usize| leaders.partition_point(|&l| l <= at) - 1;
    let blocks = leaders.len() - 1;
    let words = registers.div_ceil(64);
    let mut live_in: Vec<Set> = vec![vec![0; words]; blocks + 1];
    let live_out = |live_in: &[Set], block: usize| {
        let mut out = vec![0; words];
        for next in successors(code, leaders[block + 1] - 1) {
            if next < code.len() {
                for (a, b) in out.iter_mut().zip(&live_in[block_of(next)]) {
                    *a |= b;
                }
            }
        }
        out
    };
    let mut changed = true;
    while changed {
        changed = false;
        for block in (0..blocks).rev() {
            let mut live = live_out(&live_in, block);
            for lowered in code[leaders[block]..leaders[block + 1]].iter().rev() {
                if lowered.guard.is_none() {
                    writes(lowered).for_each(|r| remove(&mut live, r.id));
                }
                reads(lowered).for_each(|r| insert(&mut live, r.id));
            }
            if live != live_in[block] {
                live_in[block] = live;
                changed = true;
            }
        }
    }
    let mut spans = vec![None; registers];
    let mut widen = |id: usize, at: usize| {
        let span = spans[id].get_or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    for block in 0..blocks {
        let (start, end) = (leaders[block], leaders[block + 1]);
        for (set, at) in [(&live_in[block], start), (&live_out(&live_in, block), end - 1)] {
            for (word, &bits) in set.iter().enumerate() {
                let mut rest = bits;
                while rest != 0 {
                    widen(word * 64 + rest.trailing_zeros() as usize, at);
                    rest &= rest - 1;
                }
            }
        }
        for (at, lowered) in code.iter().enumerate().take(end).skip(start) {
            reads(lowered).chain(writes(lowered)).for_each(|r| widen(r.id as usize, at));
        }
    }
    spans
}

/// Gives every register a place in its file; returns the places and the sizes.
fn assign(spans: &[Option<(usize, usize)>], classes: &[Option<Class>]) -> (Vec<u16>, [usize; 3]) {
    let mut order: Vec<usize> = (0..spans.len()).filter(|&id| spans[id].is_some()).collect();
    order.sort_by_key(|&id| spans[id].map(|s| s.0));
    let mut places = vec![0_u16; spans.len()];
    let mut sizes = [0_usize; 3];
    let mut free: [BinaryHeap<Reverse<u16>>; 3] = Default::default();
    let mut active: [BinaryHeap<Reverse<(usize, u16)>>; 3] = Default::default();
    for id in order {
        let (Some((start, end)), Some(class)) = (spans[id], classes[id]) else { continue };
        let f = file(class);
        while let Some(&Reverse((last, place))) = active[f].peek() {
            if last >= start {
                break;
            }
            active[f].pop();
            free[f].push(Reverse(place));
        }
        let place = free[f].pop().map_or_else(
            || {
                sizes[f] += 1;
                (sizes[f] - 1) as u16
            },
            |Reverse(place)| place,
        );
        places[id] = place;
        active[f].push(Reverse((end, place)));
    }
    (places, sizes)
}

/// Replaces references by places in the register files. `None` when a file would need more than
/// 16 bits of index.
pub(super) fn allocate(
    code: Vec<Lowered>,
    classes: &[Option<Class>],
    lowering: &Lowering<'_>,
    origin: &[(crate::ptx::LocationId, u32)],
) -> Option<(Vec<Instruction>, Files)> {
    let spans = intervals(&code, classes.len());
    let (places, sizes) = assign(&spans, classes);
    // A place for results that nobody wants.
    let dump = sizes;
    let first_constant = sizes.map(|size| size + 1);
    let total = |class| first_constant[file(class)] + lowering.constants(class) as usize;
    let files =
        Files { p: total(Class::P), w: total(Class::W), d: total(Class::D), first_constant };
    if [files.p, files.w, files.d].iter().any(|&size| size >= usize::from(NONE)) {
        return None;
    }
    let place = |r: Reference| {
        if r.constant {
            (first_constant[file(r.class)] + r.id as usize) as u16
        } else {
            places[r.id as usize]
        }
    };
    let instructions = code
        .into_iter()
        .zip(origin)
        .map(|(lowered, &(location, ptx_line))| finish(lowered, location, ptx_line, &place, dump))
        .collect();
    Some((instructions, files))
}

fn finish(
    lowered: Lowered,
    location: crate::ptx::LocationId,
    ptx_line: u32,
    place: &impl Fn(Reference) -> u16,
    dump: [usize; 3],
) -> Instruction {
    let optional = |r: &Option<Reference>| r.map_or(NONE, place);
    let mut op = lowered.op;
    let mut registers: Operands = [NONE; 8];
    match &mut op {
        Op::Matrix(matrix) => {
            matrix.d = lowered.results.iter().map(optional).collect();
            let mut rest = lowered.sources.iter().map(optional);
            matrix.a = rest.by_ref().take(matrix.op.a).collect();
            matrix.b = rest.by_ref().take(matrix.op.b).collect();
            matrix.c = rest.collect();
        }
        Op::Load(access) => {
            // A vector load may leave elements out: they go to the spare register.
            let spare = dump[if access.wide { 2 } else { 1 }] as u16;
            let all = lowered
                .results
                .iter()
                .map(|r| r.map_or(spare, place))
                .chain(lowered.sources.iter().map(optional));
            registers.iter_mut().zip(all).for_each(|(slot, r)| *slot = r);
        }
        _ => {
            let all = lowered.results.iter().chain(&lowered.sources).map(optional);
            registers.iter_mut().zip(all).for_each(|(slot, r)| *slot = r);
        }
    }
    match &mut op {
        Op::Branch(target) => *target = lowered.targets[0],
        Op::Switch(targets) => *targets = lowered.targets.into_boxed_slice(),
        _ => {}
    }
    let (guard, negated) = lowered.guard.map_or((NONE, false), |(r, negated)| (place(r), negated));
    let run = if let Op::Alu(run) = op { Some(run) } else { None };
    Instruction { op, run, guard, negated, class: lowered.class, registers, location, ptx_line }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counters::InstructionClass;

    const REGISTERS: u32 = 12;

    fn register() -> impl Strategy<Value = Reference> {
        (0..REGISTERS).prop_map(|id| Reference { class: Class::W, constant: false, id })
    }

    /// Instructions with random reads, writes, guards and jumps; the last one ends.
    fn program() -> impl Strategy<Value = Vec<Lowered>> {
        let instruction = (
            proptest::collection::vec(register(), 0..3),
            proptest::collection::vec(register(), 0..4),
            any::<bool>(),
            proptest::option::weighted(0.2, 0_u32..40),
        );
        proptest::collection::vec(instruction, 2..40).prop_map(|code| {
            let length = code.len() as u32;
            let guard = Reference { class: Class::P, constant: true, id: 0 };
            let mut code: Vec<Lowered> = code
                .into_iter()
                .map(|(results, sources, guarded, target)| Lowered {
                    op: if target.is_some() { Op::Branch(0) } else { Op::Nop },
                    class: InstructionClass::Integer,
                    guard: guarded.then_some((guard, false)),
                    results: if target.is_some() {
                        Vec::new()
                    } else {
                        results.into_iter().map(Some).collect()
                    },
                    sources: sources.into_iter().map(Some).collect(),
                    targets: target.map(|t| t % length).into_iter().collect(),
                })
                .collect();
            code.last_mut().expect("two at least").op = Op::Exit;
            code.last_mut().expect("two at least").targets.clear();
            code.last_mut().expect("two at least").guard = None;
            code
        })
    }

    proptest! {
        /// Along any path, a register that was written is found where it was put.
        #[test]
        fn a_place_is_not_reused_while_its_value_is_needed(code in program(), choices in any::<u64>()) {
            let spans = intervals(&code, REGISTERS as usize);
            let (places, _) = assign(&spans, &[Some(Class::W); REGISTERS as usize]);
            let mut holds = [None; REGISTERS as usize];
            let mut written = [false; REGISTERS as usize];
            let (mut at, mut choices) = (0, choices);
            for _ in 0..200 {
                let lowered = &code[at];
                for r in reads(lowered).filter(|r| written[r.id as usize]) {
                    prop_assert_eq!(holds[usize::from(places[r.id as usize])], Some(r.id), "read at {}", at);
                }
                choices = choices.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let runs = lowered.guard.is_none() || choices >> 40 & 1 != 0;
                if runs {
                    for r in writes(lowered) {
                        holds[usize::from(places[r.id as usize])] = Some(r.id);
                        written[r.id as usize] = true;
                    }
                }
                let next = successors(&code, at);
                let Some(&to) = (if runs { next.first() } else { next.last() }) else { break };
                at = to;
            }
        }
    }

    #[test]
    fn short_lives_share_a_register() {
        let value = |id| Reference { class: Class::W, constant: false, id };
        let step = |from: u32| Lowered {
            op: Op::Nop,
            class: InstructionClass::Integer,
            guard: None,
            results: vec![Some(value(from + 1))],
            sources: vec![Some(value(from))],
            targets: Vec::new(),
        };
        let code: Vec<Lowered> = (0..100).map(step).collect();
        let (_, sizes) = assign(&intervals(&code, 101), &[Some(Class::W); 101]);
        assert_eq!(sizes, [0, 2, 0]);
    }
}
