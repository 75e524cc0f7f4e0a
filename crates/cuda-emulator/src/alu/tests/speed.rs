//! Nanoseconds of every operation and GFLOP/s of every matrix instruction.
//!
//! `OPS=add.f32,mov.b32 cargo test --release -p cuda-emulator speed -- --ignored --nocapture`;
//! without `OPS`, all of them.

use std::{hint::black_box, time::Instant};

use crate::{
    alu::{Lanes32, Lanes64, Registers, entries, find, matrix},
    exec::MatrixOrder,
};

/// Mean seconds of a call.
fn seconds(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

#[test]
#[ignore = "prints speeds"]
fn speed() {
    let number = |lane| (lane as f32 * 0.1 + 1.0).to_bits();
    let mut registers = Registers {
        p: vec![0x1234_5678; 8],
        w: vec![Lanes32(std::array::from_fn(number)); 14],
        d: vec![Lanes64([3; 32]); 8],
        carry: 0,
    };
    let chosen = std::env::var("OPS").ok();
    let mut names: Vec<&str> = match &chosen {
        Some(names) => names.split(',').collect(),
        None => entries().map(|entry| entry.opcode.as_str()).collect(),
    };
    names.sort_unstable();
    for name in names {
        let run = black_box(find(name).expect("OPS names opcodes").run);
        let operands = [0, 1, 2, 3, 4, 5, 6, 7];
        let full = seconds(200_000, || run(&mut registers, &operands, u32::MAX));
        let partial = seconds(200_000, || run(&mut registers, &operands, 0x7fff_ffff));
        println!("{name:28} full {:6.1} ns, masked {:6.1} ns", full * 1e9, partial * 1e9);
    }
    for (name, op) in matrix::entries() {
        let (d, a, b, c) = ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11, 12, 13]);
        let (d, a, b, c) = (&d[..op.d], &a[..op.a], &b[..op.b], &c[..op.c]);
        for order in [MatrixOrder::Sequential, MatrixOrder::Truncated] {
            let time = seconds(20_000, || (op.run)(&mut registers, d, a, b, c, order));
            println!("{name} {order:?} {:.2} GFLOP/s", op.flops as f64 / time / 1e9);
        }
    }
}
