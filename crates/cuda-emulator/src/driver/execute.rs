//! Running an operation: its effect, what it touched, and the virtual time that it takes.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use crate::{
    driver::{
        blas::{Matrix, Product},
        error::Code,
        hazards::Access,
        roofline::Bound,
        state::{Labelled, State},
        timeline::Point,
        work::{Action, Launch},
    },
    exec::{self, Outcome},
    findings::{Check, Finding},
    memory::AccessError,
};

/// Virtual nanoseconds of starting a kernel or a copy.
const START: u64 = 2_000;
/// Virtual bytes per nanosecond between host and device.
const HOST_LINK: u64 = 24;

impl State {
    /// Runs an operation; how long it takes in virtual nanoseconds.
    pub(crate) fn execute(&mut self, point: &Point, operation: &Labelled) -> u64 {
        let context = operation.work.context;
        let faulted = self.contexts.get(context).map_or(true, |c| c.fault.is_some());
        match &operation.work.action {
            // A lost context runs nothing any more, but its memory still goes back.
            Action::Free { .. } => {}
            _ if faulted => return 0,
            _ => {}
        }
        match self.run(point, &operation.label, &operation.work.action) {
            Ok(duration) => duration,
            Err(code) => {
                if let Ok(context) = self.contexts.get_mut(context) {
                    context.fault.get_or_insert(code);
                }
                START
            }
        }
    }

    fn run(&mut self, point: &Point, label: &Arc<str>, action: &Action) -> Result<u64, Code> {
        let copy_time = |bytes: u64| START + bytes / HOST_LINK;
        let device_time = |state: &Self, bytes: u64| {
            START + (bytes as f64 / state.settings.profile.peak_bandwidth * 1e9) as u64
        };
        match action {
            Action::Marker => Ok(0),
            Action::Launch(launch) => self.run_kernel(point, label, launch),
            Action::Multiply(product) => self.run_product(point, label, product),
            Action::Call(callback) => {
                callback.run();
                Ok(START)
            }
            Action::Rows(rows) => {
                for row in rows {
                    self.run(point, label, row)?;
                }
                Ok(copy_time(0))
            }
            Action::Allocate { base, bytes } => {
                self.touch(point, label, *base, (*base, base + bytes), true);
                Ok(0)
            }
            Action::Free { base, bytes } => {
                self.touch(point, label, *base, (*base, base + bytes), true);
                self.hazards.forget(*base);
                self.allocations.remove(base);
                // It is the start of an allocation: that was checked when the free was submitted.
                let _ = self.memory.free(*base);
                Ok(0)
            }
            Action::Upload { to, from } => {
                let bytes = from.read();
                self.touch_host_source(point, label, from);
                self.touch_device(point, label, *to, bytes.len() as u64, true);
                let result = self.memory.write(*to, &bytes);
                self.accessed(label, result)?;
                Ok(copy_time(bytes.len() as u64))
            }
            Action::Download { to, from } => {
                self.touch_device(point, label, *from, to.bytes(), false);
                self.touch_device(point, label, to.address(), to.bytes(), true);
                let mut bytes = vec![0; to.bytes() as usize];
                let result = self.memory.read(*from, &mut bytes);
                if !self.accessed(label, result)? {
                    let message = format!(
                        "copies {} bytes to the host, some of which were never written",
                        bytes.len()
                    );
                    self.journal.host(Check::Uninitialised, label, Some(*from), message);
                }
                to.write(&bytes);
                Ok(copy_time(to.bytes()))
            }
            Action::Copy { to, from, bytes } => {
                self.touch_device(point, label, *from, *bytes, false);
                self.touch_device(point, label, *to, *bytes, true);
                let result = self.memory.copy(*to, *from, *bytes);
                self.accessed(label, result)?;
                Ok(device_time(self, 2 * bytes))
            }
            Action::Fill { to, pattern, count } => {
                let bytes = pattern.len() as u64 * count;
                self.touch_device(point, label, *to, bytes, true);
                let result = self.memory.fill(*to, pattern, *count);
                self.accessed(label, result)?;
                Ok(device_time(self, bytes))
            }
            Action::HostCopy { to, from } => {
                self.touch_host_source(point, label, from);
                self.touch_device(point, label, to.address(), to.bytes(), true);
                to.write(&from.read());
                Ok(copy_time(to.bytes()))
            }
        }
    }

    fn run_kernel(
        &mut self,
        point: &Point,
        label: &Arc<str>,
        launch: &Launch,
    ) -> Result<u64, Code> {
        let started = Instant::now();
        let run = AssertUnwindSafe(|| {
            exec::launch(
                &launch.kernel,
                &self.memory,
                &launch.params,
                &launch.config,
                self.settings.profile,
                &self.settings.run,
            )
        });
        let Ok(Outcome { counters, findings, fault, touched }) = std::panic::catch_unwind(run)
        else {
            let name = &launch.kernel.name;
            self.journal.warn(format!("internal error in {name}; its results are lost"));
            return Err(Code::UNKNOWN);
        };
        self.journal.launch(&launch.kernel.name, &counters, started.elapsed());
        for allocation in touched {
            for (range, write) in [(allocation.read, false), (allocation.written, true)] {
                if let Some(range) = range {
                    self.touch(point, label, allocation.base, range, write);
                }
            }
        }
        let code = fault.then(|| fault_code(&findings));
        for finding in findings {
            self.journal.record(finding);
        }
        let (_, seconds) = Bound::new(&counters, self.settings.profile).limit();
        code.map_or(Ok(START + (seconds * 1e9) as u64), Err)
    }

    fn run_product(
        &mut self,
        point: &Point,
        label: &Arc<str>,
        product: &Product,
    ) -> Result<u64, Code> {
        let Product { a, b, c, d, beta, workspace, .. } = *product;
        let whole = |(base, size)| workspace.0 + workspace.1 <= base + size;
        if workspace.1 > 0 && !self.memory.range_of(workspace.0).is_some_and(whole) {
            let outside = self.memory.explain(workspace.0, workspace.1);
            self.accessed(label, Err::<(), _>(outside))?;
        }
        self.touch_device(point, label, workspace.0, workspace.1, true);
        let c = (beta != 0.0).then(|| self.columns(point, label, c)).transpose()?;
        let (a, b) = (self.columns(point, label, a)?, self.columns(point, label, b)?);
        self.touch_device(point, label, d.address, d.layout.extent(), true);
        let values = product.columns([a, b, c.unwrap_or_default()]);
        for ((address, _), column) in d.runs().zip(values) {
            let result = self.memory.write(address, &d.encode(&column));
            self.accessed(label, result)?;
        }
        Ok(START + (product.flops() as f64 / self.settings.profile.peak_matrix_flops * 1e9) as u64)
    }

    /// The values of a matrix, column by column.
    fn columns(
        &mut self,
        point: &Point,
        label: &Arc<str>,
        matrix: Matrix,
    ) -> Result<Vec<Vec<f32>>, Code> {
        self.touch_device(point, label, matrix.address, matrix.layout.extent(), false);
        let mut columns = Vec::new();
        for (address, bytes) in matrix.runs() {
            let mut column = vec![0; bytes as usize];
            let result = self.memory.read(address, &mut column);
            if !self.accessed(label, result)? {
                let message = "multiplies by values that were never written".into();
                self.journal.host(Check::Uninitialised, label, Some(address), message);
            }
            columns.push(matrix.decode(&column));
        }
        Ok(columns)
    }

    fn touch_host_source(&mut self, point: &Point, label: &Arc<str>, from: &super::work::Source) {
        if let super::work::Source::Late(range) = from {
            self.touch_device(point, label, range.address(), range.bytes(), false);
        }
    }

    /// Records an access to device or pinned memory.
    fn touch_device(
        &mut self,
        point: &Point,
        label: &Arc<str>,
        address: u64,
        bytes: u64,
        write: bool,
    ) {
        let base = self.memory.range_of(address).map(|(base, _)| base).or_else(|| {
            let (base, size) = self.registered.range(..=address).next_back()?;
            (address - base < *size).then_some(*base)
        });
        // Pageable memory is read and written while the host waits.
        if let Some(base) = base {
            self.touch(point, label, base, (address, address + bytes), write);
        }
    }

    fn touch(
        &mut self,
        point: &Point,
        label: &Arc<str>,
        base: u64,
        range: (u64, u64),
        write: bool,
    ) {
        let access = Access { range, write };
        let Some(conflict) = self.hazards.access(base, access, point, label) else { return };
        let verb = |writes| if writes { "writes" } else { "reads" };
        let (this, other) = (verb(write), verb(conflict.other_writes));
        let message =
            format!("{label} {this} what {} {other}, and nothing orders the two", conflict.other);
        let call = label.split(" #").next().unwrap_or_default();
        self.journal.host(Check::StreamOrder, call, Some(conflict.address), message);
    }

    /// The result of an access; a failed one is a finding and loses the context.
    fn accessed<T>(&mut self, label: &str, result: Result<T, AccessError>) -> Result<T, Code> {
        result.map_err(|error| {
            self.report_access(label, &error);
            Code::ILLEGAL_ADDRESS
        })
    }

    /// Reports an access outside of live allocations.
    pub(crate) fn report_access(&mut self, call: &str, error: &AccessError) {
        let (check, address) = match error {
            AccessError::Freed { address, .. } => (Check::UseAfterFree, *address),
            AccessError::Outside { address, .. } => (Check::OutOfBounds, *address),
        };
        self.journal.host(check, call, Some(address), error.to_string());
    }
}

/// What the driver says of a kernel that could not go on.
fn fault_code(findings: &[Finding]) -> Code {
    let Some(finding) = findings.iter().find(|finding| finding.check.is_fault()) else {
        return Code::LAUNCH_FAILED;
    };
    match finding.check {
        Check::OutOfBounds | Check::UseAfterFree => Code::ILLEGAL_ADDRESS,
        Check::Misaligned => Code::MISALIGNED_ADDRESS,
        Check::Hang => Code::LAUNCH_TIMEOUT,
        Check::Trap if finding.message.contains("assert") => Code::ASSERT,
        _ => Code::LAUNCH_FAILED,
    }
}
