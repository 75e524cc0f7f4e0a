//! Cases through the driver interface, by cudarc.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError,
        result,
    },
    nvrtc::Ptx,
};

use super::case::{Buffer, Case, Launch};

/// A context, a stream of its own, and a module.
pub(crate) struct Session {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) module: Arc<CudaModule>,
}

impl Session {
    pub(crate) fn new(ptx: String) -> Result<Self, DriverError> {
        let context = CudaContext::new(0)?;
        let stream = context.new_stream()?;
        let module = context.load_module(Ptx::from_src(ptx))?;
        Ok(Self { context, stream, module })
    }

    pub(crate) fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs a case; the buffers afterwards.
    pub(crate) fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, DriverError> {
        let mut buffers =
            case.buffers.iter().map(|b| self.place(b)).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<u64> = buffers.iter().map(|b| address(b, &self.stream)).collect();
        for (buffer, slice) in case.buffers.iter().zip(&mut buffers) {
            if matches!(buffer, Buffer::Freed(_)) {
                *slice = self.stream.null()?; // frees what was there
            }
        }
        for step in &case.launches {
            let args: Vec<Vec<u8>> = step.args.iter().map(|arg| arg.bytes(&addresses)).collect();
            launch(&self.stream, &self.function(step.kernel), step, &args)?;
        }
        self.stream.synchronize()?;
        let wanted = |index| case.expected.iter().any(|(i, _)| *i == index);
        let read = |(index, (buffer, slice)): (usize, (&Buffer, &CudaSlice<u8>))| match buffer {
            // Reading what nobody wrote would be a finding of its own.
            Buffer::Unwritten(_) | Buffer::Freed(_) if !wanted(index) => Ok(vec![]),
            _ => self.stream.clone_dtoh(slice),
        };
        case.buffers.iter().zip(&buffers).enumerate().map(read).collect()
    }

    fn place(&self, buffer: &Buffer) -> Result<CudaSlice<u8>, DriverError> {
        match buffer {
            Buffer::Data(bytes) => self.stream.clone_htod(bytes),
            Buffer::Unwritten(bytes) | Buffer::Freed(bytes) => {
                // SAFETY: only kernels and copies of this context use it, on the device.
                unsafe { self.stream.alloc::<u8>(*bytes) }
            }
        }
    }
}

/// The device address of a buffer.
pub(crate) fn address(buffer: &CudaSlice<u8>, stream: &Arc<CudaStream>) -> u64 {
    buffer.device_ptr(stream).0
}

/// Launches on a stream with the bytes of each argument.
pub(crate) fn launch(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    step: &Launch,
    args: &[Vec<u8>],
) -> Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    let mut pointers: Vec<_> = args.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
    let ([gx, gy, gz], [bx, by, bz]) = (step.grid, step.block);
    let start =
        if step.cooperative { result::launch_cooperative_kernel } else { result::launch_kernel };
    // SAFETY: the case gives the kernel's arguments in order and size, and its buffers live until
    // their results are read. On the emulator a mistake is a finding, not undefined.
    unsafe {
        start(
            function.cu_function(),
            (gx, gy, gz),
            (bx, by, bz),
            step.shared,
            stream.cu_stream(),
            &mut pointers,
        )
    }
}
