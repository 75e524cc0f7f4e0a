//! Results that ptxas computed at compile time.

use cuda_emulator::alu::{Class, Lanes32, Lanes64, Registers, find};

/// Result of a 32-bit operation on constants; a predicate as 0 or 1.
fn run(opcode: &str, sources: &[u32]) -> u32 {
    let entry = find(opcode).unwrap_or_else(|| panic!("{opcode} is missing"));
    let mut registers = Registers {
        p: vec![0; 2],
        w: vec![Lanes32([0; 32]); 8],
        d: vec![Lanes64([0; 32]); 1],
        ..Registers::default()
    };
    let mut operands = [0; 8];
    for (i, source) in sources.iter().enumerate() {
        assert_eq!(entry.sources[i], Class::W, "{opcode}");
        registers.w[i + 1] = Lanes32([*source; 32]);
        operands[i + 1] = i as u16 + 1;
    }
    (entry.run)(&mut registers, &operands, u32::MAX);
    match entry.results[0] {
        Class::P => registers.p[0] & 1,
        _ => registers.w[0].0[7],
    }
}

/// The most that a result may differ by, in units of the last place, where the hardware has its
/// own approximation: its documented error, with one for ours.
fn tolerance(opcode: &str) -> u32 {
    match opcode.split('.').next() {
        _ if !opcode.contains(".approx") && !opcode.contains(".full") => 0,
        Some("ex2" | "rsqrt" | "lg2" | "sqrt" | "div") => 3,
        _ => 2,
    }
}

/// Errors that the PTX manual states absolutely.
fn absolute_tolerance(opcode: &str) -> f32 {
    match opcode.split('.').next() {
        // 2^-20.5 within [-2 pi, 2 pi]; beyond, it grows with the argument.
        Some("sin" | "cos") => 1e-6,
        // 2^-22 for arguments in [0.5, 2]
        Some("lg2") => 2.4e-7,
        _ => 0.0,
    }
}

fn agrees(opcode: &str, sources: &[u32], got: u32, want: u32) -> bool {
    let (x, y) = (f32::from_bits(got), f32::from_bits(want));
    if got == want {
        return true;
    }
    let tolerance = tolerance(opcode);
    if tolerance == 0 {
        return false;
    }
    if x.is_nan() || y.is_nan() {
        return x.is_nan() && y.is_nan();
    }
    let argument = f32::from_bits(sources[0]).abs().max(1.0);
    (got ^ want) >> 31 == 0 && got.abs_diff(want) <= tolerance
        || (x - y).abs() <= absolute_tolerance(opcode) * argument
}

#[test]
fn results_are_those_that_ptxas_folds() {
    let hex = |text| u32::from_str_radix(text, 16).unwrap();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for line in include_str!("ptxas_fold.txt").lines() {
        let [opcode, want, sources @ ..] = &line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let sources: Vec<u32> = sources.iter().copied().map(hex).collect();
        let (got, want) = (run(opcode, &sources), hex(want));
        cases += 1;
        if !agrees(opcode, &sources, got, want) {
            wrong.push(format!("{line}: got {got:08x}"));
        }
    }
    assert!(cases >= 300, "only {cases} cases");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
}
