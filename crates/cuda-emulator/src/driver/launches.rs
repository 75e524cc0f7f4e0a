//! Launching kernels.

use std::sync::Arc;

use crate::{
    driver::{
        error::{Code, Status},
        ffi::{Arguments, Callback},
        limits::{self, Needs},
        state::{Id, State},
        work::{Action, Launch},
    },
    exec::{Kernel, LaunchConfig},
    findings::Check,
};

impl State {
    /// `cuLaunchKernel` and its kin.
    pub(crate) fn launch(
        &mut self,
        call: &'static str,
        function: Id,
        config: LaunchConfig,
        stream: Id,
        arguments: Arguments,
    ) -> Status {
        let stream = self.stream(stream)?;
        let function = self.function(function)?;
        let kernel = Arc::clone(&function.kernel);
        let opted_in = function.max_dynamic_shared;
        let name = format!("{call} {}", kernel.name);
        let needs = Needs::from(&*kernel);
        if let Err(refusal) = limits::check(&needs, &config, opted_in, self.settings.profile) {
            self.journal.host(Check::LaunchLimit, &name, None, refusal.message);
            return Err(refusal.code);
        }
        let params = self.parameter_block(&name, &kernel, arguments)?;
        self.submit(stream, &name, Action::Launch(Launch { kernel, params, config }))?;
        Ok(())
    }

    /// The kernel's parameter block from what the caller passed.
    fn parameter_block(
        &mut self,
        name: &str,
        kernel: &Kernel,
        arguments: Arguments,
    ) -> Status<Arc<[u8]>> {
        let wrong = |state: &mut Self, message: String| {
            state.journal.host(Check::Arguments, name, None, message);
            Err(Code::INVALID_VALUE)
        };
        match arguments {
            Arguments::None if kernel.params.is_empty() => Ok(Arc::new([])),
            Arguments::None => {
                wrong(self, format!("no arguments for {} parameters", kernel.params.len()))
            }
            Arguments::Both => wrong(self, "both kernelParams and extra are given".into()),
            Arguments::Malformed => wrong(self, "extra is not a buffer and its size".into()),
            Arguments::Buffer(bytes) if bytes.len() == kernel.param_bytes => Ok(bytes.into()),
            Arguments::Buffer(bytes) => wrong(
                self,
                format!(
                    "{} bytes of arguments, the kernel takes {}",
                    bytes.len(),
                    kernel.param_bytes
                ),
            ),
            Arguments::Pointers(pointers) => {
                let mut block = vec![0; kernel.param_bytes];
                for (index, param) in kernel.params.iter().enumerate() {
                    let Some(bytes) = pointers.read(index, param.bytes) else {
                        let message =
                            format!("argument {index}, {}, is a null pointer", param.name);
                        return wrong(self, message);
                    };
                    block[param.offset..param.offset + param.bytes].copy_from_slice(&bytes);
                }
                Ok(block.into())
            }
        }
    }

    /// `cuLaunchHostFunc`.
    pub(crate) fn launch_host(&mut self, stream: Id, callback: Callback) -> Status {
        let stream = self.stream(stream)?;
        self.submit(stream, "cuLaunchHostFunc", Action::Call(callback)).map(drop)
    }
}
