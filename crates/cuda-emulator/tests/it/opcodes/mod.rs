//! Every family of instructions: kernels that write one value after the other, and the same values
//! computed here.

mod arithmetic;
mod memory;
mod warp;

use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch},
    compile::{Flavour, ptx},
    direct,
    driver::Session,
    emulator::on_emulator,
    random::Random,
};

const THREADS: usize = 128;
const BLOCK: usize = 64;
const WARP: usize = 32;

/// What is in the output before the launch.
const UNTOUCHED: u32 = 0xaaaa_aaaa;

/// A word a thread, with the corners of the range among them.
fn inputs() -> Vec<u32> {
    let mut words = Random::new(7).words(THREADS);
    words[..6].copy_from_slice(&[0, 1, u32::MAX, 0x8000_0000, 0x7fff_ffff, 64]);
    words
}

/// The values that one thread writes.
#[derive(Default)]
struct Values(Vec<u32>);

impl Values {
    fn word(&mut self, v: u32) {
        self.0.push(v);
    }

    fn words(&mut self, v: &[u32]) {
        self.0.extend(v);
    }

    fn int(&mut self, v: i32) {
        self.0.push(v as u32);
    }

    fn flag(&mut self, v: bool) {
        self.0.push(v.into());
    }

    fn float(&mut self, v: f32) {
        self.0.push(v.to_bits());
    }

    fn floats<const N: usize>(&mut self, v: [f32; N]) {
        self.0.extend(v.map(f32::to_bits));
    }

    fn long(&mut self, v: u64) {
        self.0.extend([v as u32, (v >> 32) as u32]);
    }

    fn double(&mut self, v: f64) {
        self.long(v.to_bits());
    }

    fn pair(&mut self, [low, high]: [u16; 2]) {
        self.0.push(u32::from(low) | u32::from(high) << 16);
    }
}

/// The output of a kernel in which thread t writes what `thread` says of it.
fn by_thread(thread: impl Fn(usize, &mut Values)) -> Vec<u32> {
    let values: Vec<Vec<u32>> = (0..THREADS)
        .map(|t| {
            let mut values = Values::default();
            thread(t, &mut values);
            values.0
        })
        .collect();
    let slots = values.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = vec![UNTOUCHED; slots * THREADS];
    for (t, values) in values.iter().enumerate() {
        for (slot, value) in values.iter().enumerate() {
            out[slot * THREADS + t] = *value;
        }
    }
    out
}

/// A kernel and what it must write for given inputs.
type Kernel = (&'static str, fn(&[u32]) -> Vec<u32>);

fn case(kernel: &'static str, inputs: &[u32], before: &[u32], after: &[u32]) -> Case {
    let args = vec![Arg::Buffer(0), Arg::Buffer(1)];
    Case {
        label: kernel.into(),
        buffers: vec![Buffer::data(inputs), Buffer::data(before)],
        launches: vec![Launch::line(kernel, THREADS / BLOCK, BLOCK as u32, args)],
        expected: vec![(1, Expected::Exact(bytemuck::cast_slice(after).to_vec()))],
    }
}

/// Runs the kernels of one file in this process.
fn check_in_process(file: &str, flavour: Flavour, cases: impl FnOnce(&[u32]) -> Vec<Case>) {
    direct::assert_clean(&ptx(file, flavour), &cases(&inputs()));
}

/// Runs the kernels of one file on the emulated driver.
fn check(file: &str, flavour: Flavour, cases: impl FnOnce(&[u32]) -> Vec<Case>) {
    let runs = on_emulator(&[&[("SEED", "0")], &[("SEED", "5")]], || {
        let session = Session::new(ptx(file, flavour)).expect("loads");
        let failures: Vec<String> = cases(&inputs())
            .iter()
            .filter_map(|case| match session.run(case) {
                Ok(buffers) => case.check(&buffers).err(),
                Err(error) => Some(format!("{}: {error}", case.label)),
            })
            .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
    runs.iter().for_each(crate::common::emulator::Run::assert_clean);
}

fn exact(kernels: &[Kernel], inputs: &[u32]) -> Vec<Case> {
    kernels
        .iter()
        .map(|(kernel, reference)| {
            let after = reference(inputs);
            case(kernel, inputs, &vec![UNTOUCHED; after.len()], &after)
        })
        .collect()
}
