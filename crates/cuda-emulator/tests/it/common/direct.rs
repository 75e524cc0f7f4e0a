//! Cases in this process, without the driver: fast enough for thousands of mutants.

use cuda_emulator::{
    exec::{self, LaunchConfig, LoadError, LoadedModule, MatrixOrder, Settings},
    findings::Finding,
    memory::Memory,
    profile::Profile,
    ptx::{self, Module},
};

use super::case::{Buffer, Case, Launch};

/// The buffers after a case, and what the checks found.
pub(crate) struct Outcome {
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) findings: Vec<Finding>,
}

/// Loads `module` into memory of its own and runs a case up to the first fault.
pub(crate) fn run(module: &Module, case: &Case, settings: &Settings) -> Result<Outcome, LoadError> {
    let mut memory = Memory::new(1 << 30);
    let module = LoadedModule::from_tree(module, &mut memory)?;
    let addresses: Vec<u64> = case.buffers.iter().map(|b| place(&mut memory, b)).collect();
    for (buffer, address) in case.buffers.iter().zip(&addresses) {
        if matches!(buffer, Buffer::Freed(_)) {
            memory.free(*address).expect("allocated above");
        }
    }
    let mut findings = Vec::new();
    for step in &case.launches {
        let kernel = &module.kernels[step.kernel];
        let mut params = vec![0; kernel.param_bytes];
        for (arg, param) in step.args.iter().zip(&kernel.params) {
            let bytes = arg.bytes(&addresses);
            assert_eq!(bytes.len(), param.bytes, "{}, {}", step.kernel, param.name);
            params[param.offset..][..param.bytes].copy_from_slice(&bytes);
        }
        let outcome =
            exec::launch(kernel, &memory, &params, &config(step), Profile::ALL[0], settings);
        findings.extend(outcome.findings);
        if outcome.fault {
            break;
        }
    }
    let buffers = case.buffers.iter().zip(&addresses).map(|(buffer, address)| {
        let mut bytes = vec![0; buffer.bytes()];
        if !matches!(buffer, Buffer::Freed(_)) {
            memory.read(*address, &mut bytes).expect("allocated above");
        }
        bytes
    });
    Ok(Outcome { buffers: buffers.collect(), findings })
}

/// Fails unless every case is right and nothing is found, under each of these orders.
pub(crate) fn assert_clean(text: &str, cases: &[Case]) {
    let module = ptx::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let orders = [0, 1, 2].map(|seed| (seed, MatrixOrder::Sequential));
    for (seed, matrix_order) in orders.into_iter().chain([(3, MatrixOrder::Truncated)]) {
        let settings = Settings { seed, matrix_order, ..Settings::default() };
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|case| {
                let outcome =
                    run(&module, case, &settings).unwrap_or_else(|error| panic!("{error}"));
                let found = outcome.findings.first().map(|f| format!("{}: {f}", case.label));
                found.or(case.check(&outcome.buffers).err())
            })
            .collect();
        assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
    }
}

fn place(memory: &mut Memory, buffer: &Buffer) -> u64 {
    let address = memory.allocate(buffer.bytes() as u64).expect("cases are small");
    if let Buffer::Data(bytes) = buffer {
        memory.write(address, bytes).expect("just allocated");
    }
    address
}

fn config(step: &Launch) -> LaunchConfig {
    let Launch { grid, block, shared, cooperative, .. } = *step;
    LaunchConfig { grid, block, dynamic_shared: shared, cooperative }
}
