//! The CUDA driver: everything of this backend that is `unsafe`.
//!
//! Device addresses are plain numbers here. The safety of a call rests on [`super::memory`], which
//! hands out addresses of live allocations, and on the operations, which check every length before
//! they launch; a kernel that goes astray harms only device memory, which holds no Rust value.
#![allow(unsafe_code)]

pub(super) mod blas;
mod graph;
mod staging;

pub(super) use self::staging::Mark;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytemuck::{AnyBitPattern, NoUninit};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;

use self::blas::Blas;
use self::graph::Graphs;
use self::staging::Staging;
use super::params::{self, Kernel};
use crate::{Error, Result};

/// A compiled file of `kernels/`.
struct Image {
    name: &'static str,
    /// Machine code for the architectures of the build.
    code: &'static [u8],
    ptx: &'static str,
}

const IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Oldest compute capability: bf16 tensor cores and asynchronous copies.
const OLDEST: (i32, i32) = (8, 0);

/// What a driver says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As the driver names it.
    pub name: String,
    /// Compute capability.
    pub compute_capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes that no process holds.
    pub free: usize,
}

fn device(what: impl Into<String>, error: DriverError) -> Error {
    Error::Device { what: what.into(), message: error.to_string() }
}

fn require_driver() -> Result<()> {
    // SAFETY: opens and closes the driver library, nothing else.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::Device {
        what: "CUDA".into(),
        message: "libcuda.so.1 is not there: install the NVIDIA driver, or train on the processor with --device cpu"
            .into(),
    })
}

/// Whether the library for a profiler's ranges is there.
pub(crate) fn has_nvtx() -> bool {
    // SAFETY: opens and closes the library, nothing else.
    unsafe { cudarc::nvtx::sys::is_culib_present() }
}

/// Number of devices.
pub(super) fn count() -> Result<usize> {
    require_driver()?;
    let count = CudaContext::device_count().map_err(|e| device("counting devices", e))?;
    Ok(count.try_into().unwrap_or(0))
}

/// A device, its stream and its kernels.
#[derive(Debug)]
pub(super) struct Card {
    // Before the context, which they belong to.
    graphs: Mutex<Graphs>,
    /// `None` before the first large copy.
    staging: Mutex<Option<Staging>>,
    /// `None` before the first product that asks for it.
    blas: Mutex<Option<Blas>>,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    multiprocessors: usize,
}

impl Card {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        let count = count()?;
        if ordinal >= count {
            return Err(Error::Device {
                what: format!("device cuda:{ordinal}"),
                message: format!("the driver shows {count} devices, counted from 0"),
            });
        }
        let open = |e| device(format!("opening device cuda:{ordinal}"), e);
        let context = CudaContext::new(ordinal).map_err(open)?;
        let found = context.compute_capability().map_err(open)?;
        if found < OLDEST {
            return Err(Error::Device {
                what: format!("device cuda:{ordinal}"),
                message: format!(
                    "compute capability {}.{} is too old: 8.0 is needed",
                    found.0, found.1
                ),
            });
        }
        let stream = context.new_stream().map_err(open)?;
        let functions = load(&context)?;
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(open)?;
        let multiprocessors = multiprocessors.max(1) as usize;
        let (graphs, staging, blas) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { graphs, staging, blas, context, stream, functions, multiprocessors })
    }

    pub(super) fn info(&self) -> Result<DeviceInfo> {
        let ask = |e| device("asking for the device's properties", e);
        let (free, memory) = self.context.mem_get_info().map_err(ask)?;
        Ok(DeviceInfo {
            name: self.context.name().map_err(ask)?,
            compute_capability: self.context.compute_capability().map_err(ask)?,
            multiprocessors: self.multiprocessors,
            memory,
            free,
        })
    }

    fn bind(&self, what: &str) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| device(what, e))
    }

    /// An allocation of `bytes` > 0 bytes; `None` when the device has no room for it.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.bind("allocating")?;
        self.settle()?;
        // SAFETY: the context is current on this thread.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(e) => Err(device(format!("allocating {bytes} bytes"), e)),
        }
    }

    /// Gives an allocation back, after all work on it.
    pub(super) fn free(&self, address: u64) {
        if !self.free_later(address) {
            self.free_now(address);
        }
    }

    /// A failure is left for the next call to report: the driver's errors stay.
    fn free_now(&self, address: u64) {
        if self.bind("freeing").is_ok() {
            // SAFETY: `Memory` frees what `allocate` gave it, once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    pub(super) fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("zeroing")?;
        self.submit("zero")?;
        // SAFETY: the range lies in a live allocation, see the module's documentation.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| device("zeroing", e))
    }

    /// A copy to the device in the stream of the kernels, by way of the driver's own buffers.
    fn copy_in_order<T: NoUninit>(&self, address: u64, data: &[T]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.bind("copying to the device")?;
        self.settle()?;
        // SAFETY: as in `zero`; pageable host memory has been read when the call returns.
        unsafe { result::memcpy_htod_async(address, data, self.stream.cu_stream()) }
            .map_err(|e| device("copying to the device", e))
    }

    pub(super) fn copy_out<T: AnyBitPattern + NoUninit>(
        &self,
        address: u64,
        out: &mut [T],
    ) -> Result<()> {
        let what = "copying from the device";
        if !out.is_empty() {
            self.bind(what)?;
            self.settle()?;
            // SAFETY: as in `zero`; `out` outlives the copy, which is waited for below.
            unsafe { result::memcpy_dtoh_async(out, address, self.stream.cu_stream()) }
                .map_err(|e| device(what, e))?;
        }
        self.synchronize(what)
    }

    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("copying")?;
        self.submit("copy")?;
        // SAFETY: as in `zero`, for both ranges.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| device("copying", e))
    }

    pub(super) fn synchronize(&self, what: &str) -> Result<()> {
        self.settle()?;
        self.stream.synchronize().map_err(|e| device(what, e))
    }

    /// Launches `kernel` on `grid` blocks of `threads` threads with `shared` bytes of dynamic shared
    /// memory. An empty grid is nothing to do.
    pub(super) fn launch<P>(
        &self,
        kernel: &Kernel<P>,
        params: &P,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let limits = [i32::MAX as usize, 65_535, 65_535];
        if grid.iter().zip(limits).any(|(&blocks, limit)| blocks > limit) {
            return Err(Error::Device {
                what: format!("kernel {}", kernel.name),
                message: format!("a grid of {grid:?} blocks is more than a device takes"),
            });
        }
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        self.submit(kernel.name)?;
        let function = &self.functions[kernel.name];
        let mut launch = self.stream.launch_builder(function);
        launch.arg(Params::of(params));
        // SAFETY: `Kernel` ties the struct to the kernel, and `load` compared their sizes; addresses
        // and lengths are the operation's, see the module's documentation.
        unsafe { launch.launch(config) }
            .map(drop)
            .map_err(|e| device(format!("launching kernel {}", kernel.name), e))
    }
}

/// A parameter struct, passed by value.
#[repr(transparent)]
struct Params<P>(P);

impl<P> Params<P> {
    fn of(params: &P) -> &Self {
        // SAFETY: a transparent wrapper has the layout of what it wraps.
        unsafe { &*std::ptr::from_ref(params).cast() }
    }
}

// SAFETY: only structs that bindgen made from the kernels' own header are launched with.
unsafe impl<P> cudarc::driver::DeviceRepr for Params<P> {}

/// All kernels of all images.
fn load(context: &Arc<CudaContext>) -> Result<HashMap<&'static str, CudaFunction>> {
    let mut functions = HashMap::new();
    for image in IMAGES {
        let module = match context.load_module(Ptx::from_binary(image.code.to_vec())) {
            Ok(module) => module,
            // No machine code for this device, or a driver too old for it.
            Err(_) => context
                .load_module(Ptx::from_src(image.ptx))
                .map_err(|e| device(format!("loading the kernels of {}", image.name), e))?,
        };
        for &(name, bytes) in params::ALL {
            if !image.ptx.contains(&format!(".entry {name}(")) {
                continue;
            }
            let function =
                module.load_function(name).map_err(|e| device(format!("kernel {name}"), e))?;
            check_params(name, &function, bytes)?;
            allow_shared(context, name, &function)?;
            functions.insert(name, function);
        }
    }
    match params::ALL.iter().find(|(name, _)| !functions.contains_key(name)) {
        None => Ok(functions),
        Some((name, _)) => {
            Err(Error::Device { what: format!("kernel {name}"), message: "no image has it".into() })
        }
    }
}

/// Lets a kernel have all the shared memory that the device gives a block: without being asked, it
/// gives 48 KiB.
fn allow_shared(context: &CudaContext, name: &str, function: &CudaFunction) -> Result<()> {
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST;
    use sys::CUfunction_attribute_enum::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC,
        CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
    };
    let allow = || {
        let most = context.attribute(MOST)? - function.get_attribute(STATIC)?;
        function.set_attribute(DYNAMIC, most)
    };
    allow().map_err(|e| device(format!("shared memory of kernel {name}"), e))
}

/// The kernel takes one parameter of `bytes` bytes. Drivers before CUDA 12.4 cannot tell.
fn check_params(name: &str, function: &CudaFunction, bytes: usize) -> Result<()> {
    let mut version = 0;
    // SAFETY: writes the version to a live integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|e| device("asking for the driver's version", e))?;
    if version < 12_040 {
        return Ok(());
    }
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the function is loaded, and both results are live integers.
    unsafe { sys::cuFuncGetParamInfo(function.cu_function(), 0, &raw mut offset, &raw mut size) }
        .result()
        .map_err(|e| device(format!("parameters of kernel {name}"), e))?;
    if (offset, size) == (0, bytes) {
        return Ok(());
    }
    Err(Error::Device {
        what: format!("kernel {name}"),
        message: format!(
            "it takes {size} bytes of parameters, not {bytes}: the build is inconsistent"
        ),
    })
}
