use std::collections::BTreeMap;

use super::{MutantClass::*, *};
use crate::ptx::{parse, tests::TILE};

fn tile() -> Module {
    parse(TILE).expect("valid")
}

#[test]
fn a_tile_has_mutants_of_every_class() {
    let mut counts = BTreeMap::new();
    for mutant in mutants(&tile()) {
        *counts.entry(mutant.class).or_insert(0) += 1;
    }
    let counts: Vec<_> = counts.into_iter().collect();
    assert_eq!(
        counts,
        [
            (RemovedBarrier, 2), // bar.sync, bar.warp.sync
            (WeakenedWait, 2),   // removed, 1 -> 2
            (RemovedCommit, 1),
            (DroppedZeroFill, 1),
            (SwappedFragment, 5), // ldmatrix twice; mma d, a and b, but not c of four equal registers
            (ChangedTranspose, 2), // added, removed
            (ChangedStride, 4),   // shl, mul.wide, mad.lo; shl of the device function
            (ChangedSwizzle, 2),  // xor, and
            (ChangedBound, 3),    // lt -> le, 63 -> 64, 63 -> 62
            (NegatedGuard, 3),
            (RemovedGuard, 5), // two of each branch, one of the store
            (HalvedShared, 1),
            (ChangedShuffle, 6), // mode, offset, mask of each
            (ReplacedAtomic, 2), // atom, red
        ]
    );
    assert_eq!(counts.iter().map(|(class, _)| *class).collect::<Vec<_>>(), MutantClass::ALL);
}

#[test]
fn every_mutant_differs_and_can_be_printed() {
    let module = tile();
    let printed = module.to_string();
    for mutant in mutants(&module) {
        let text = mutant.apply(&module).to_string();
        assert_ne!(text, printed, "{}", mutant.description);
        let again = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", mutant.description));
        assert_eq!(again.to_string(), text, "{}", mutant.description);
    }
}

#[test]
fn the_order_is_that_of_the_text() {
    let module = tile();
    let list = mutants(&module);
    assert_eq!(list, mutants(&module));
    let line = |mutant: &Mutant| -> Option<u32> {
        mutant.description.rsplit_once("PTX line ")?.1.trim_end_matches(')').parse().ok()
    };
    assert!(list.iter().map(line).is_sorted());
}

/// Mutants of one instruction, as text.
fn mutants_of(instruction: &str) -> Vec<(MutantClass, String)> {
    let text = |instruction: &str| {
        let registers = ".reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<3>; mov.u32 %r8, 16;";
        let header = ".version 8.0 .target sm_80 .address_size 64 .entry k()";
        parse(&format!("{header} {{ {registers}\nL:\n {instruction} }}"))
            .expect("valid")
            .to_string()
    };
    let module = parse(&text(instruction)).expect("valid");
    let rest = text("");
    let (head, tail) = rest.split_at(rest.rfind("L:\n").expect("a label") + 3);
    mutants(&module)
        .iter()
        .map(|mutant| {
            let text = mutant.apply(&module).to_string();
            let line = text.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
            (mutant.class, line.expect("nothing else changed").trim().to_owned())
        })
        .collect()
}

#[test]
fn instructions_are_changed_as_their_class_says() {
    for (instruction, expected) in [
        ("barrier.sync.aligned 0, 64;", vec![(RemovedBarrier, "")]),
        ("bar.arrive 0, 64;", vec![]),
        ("cp.async.wait_all;", vec![(WeakenedWait, "")]),
        ("cp.async.ca.shared.global [%r1], [%rd1], 4;", vec![]),
        ("cp.async.cg.shared.global.L2::cache_hint [%r1], [%rd1], 16, %rd2;", vec![]),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7}, {%r1,%r2,%r3,%r4};",
            vec![
                (
                    SwappedFragment,
                    "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r1, %r3, %r2, %r4}, {%r5, %r6}, {%r7}, {%r1, %r2, %r3, %r4};",
                ),
                (
                    SwappedFragment,
                    "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r1, %r2, %r3, %r4}, {%r6, %r5}, {%r7}, {%r1, %r2, %r3, %r4};",
                ),
                (
                    SwappedFragment,
                    "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7}, {%r1, %r3, %r2, %r4};",
                ),
            ],
        ),
        (
            "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};",
            vec![(
                ChangedTranspose,
                "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r1], {%r2};",
            )],
        ),
        ("mul.lo.s32 %r1, %r2, -3;", vec![(ChangedStride, "mul.lo.s32 %r1, %r2, -6;")]),
        ("mul.hi.u32 %r1, %r2, 3;", vec![]),
        ("mul.lo.s32 %r1, %r2, -2147483648;", vec![]),
        ("mul.lo.s32 %r1, %r2, %r3;", vec![]),
        ("shl.b64 %rd1, %rd2, 0;", vec![(ChangedStride, "shl.b64 %rd1, %rd2, 1;")]),
        ("xor.pred %p1, %p1, %p2;", vec![]),
        ("and.b32 %r1, %r2, 0;", vec![]),
        ("and.b32 %r1, %r2, -2;", vec![(ChangedSwizzle, "and.b32 %r1, %r2, -4;")]),
        ("setp.hs.u32 %p1, %r1, %r2;", vec![(ChangedBound, "setp.hi.u32 %p1, %r1, %r2;")]),
        (
            "setp.le.and.s32 %p1|%p2, %r1, 7, %p1;",
            vec![
                (ChangedBound, "setp.le.and.s32 %p1|%p2, %r1, 8, %p1;"),
                (ChangedBound, "setp.le.and.s32 %p1|%p2, %r1, 6, %p1;"),
            ],
        ),
        (
            "setp.gt.f32 %p1, %r1, 0f00000000;",
            vec![(ChangedBound, "setp.ge.f32 %p1, %r1, 0f00000000;")],
        ),
        ("setp.ne.s32 %p1, %r1, %r2;", vec![]),
        (
            "shfl.sync.up.b32 %r1, %r2, %r8, 0, 65535;",
            vec![
                (ChangedShuffle, "shfl.sync.down.b32 %r1, %r2, %r8, 0, 65535;"),
                (ChangedShuffle, "shfl.sync.up.b32 %r1, %r2, 8, 0, 65535;"),
            ],
        ),
        (
            "atom.acq_rel.gpu.global.add.noftz.f16x2 %r1, [%rd1], %r2;",
            vec![(ReplacedAtomic, "atom.acq_rel.gpu.global.exch.b32 %r1, [%rd1], %r2;")],
        ),
        ("red.shared.add.u64 [%r1], %rd1;", vec![(ReplacedAtomic, "st.shared.b64 [%r1], %rd1;")]),
        ("atom.global.max.s32 %r1, [%rd1], %r2;", vec![]),
        ("red.global.v2.f32.add [%rd1], {%r1, %r2};", vec![]),
        ("@%p1 ret;", vec![(NegatedGuard, "@!%p1 ret;")]),
        (
            "@!%p1 st.global.b32 [%rd1], 1;",
            vec![
                (NegatedGuard, "@%p1 st.global.b32 [%rd1], 1;"),
                (RemovedGuard, "st.global.b32 [%rd1], 1;"),
            ],
        ),
        (
            "@%p1 bra L;",
            vec![(NegatedGuard, "@!%p1 bra L;"), (RemovedGuard, "bra L;"), (RemovedGuard, "")],
        ),
    ] {
        let expected: Vec<_> =
            expected.into_iter().map(|(class, line)| (class, line.to_owned())).collect();
        assert_eq!(mutants_of(instruction), expected, "{instruction}");
    }
}

#[test]
fn shared_arrays_are_halved_in_either_scope() {
    let text = ".version 8.0 .target sm_80 .address_size 64\n.shared .b8 a[9];\n.shared .b32 one;\n\
                .extern .shared .b8 dynamic[];\n.entry k() { .shared .b32 b[4]; .local .b32 c[4]; ret; }";
    let module = parse(text).expect("valid");
    let list = mutants(&module);
    let described: Vec<_> = list.iter().map(|m| (&m.function[..], &m.description[..])).collect();
    assert_eq!(
        described,
        [
            ("", "module: .shared a with half its 9 elements"),
            ("k", "k: .shared b with half its 4 elements")
        ]
    );
    assert_eq!(list[0].apply(&module).variables[0].length, Some(4));
    let halved = list[1].apply(&module).functions.remove(0).body.expect("a body");
    assert_eq!(halved.variables[0].length, Some(2));
}
