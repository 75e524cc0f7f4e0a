//! Modules as they are after loading.

use std::{collections::HashMap, sync::Arc};

use super::{
    flatten::{Flat, FlatKernel, flatten},
    instruction::{Constant, Instruction},
    launch::LaunchConfig,
    lower::{Lowering, class_of},
    registers::{Files, allocate},
};
use crate::{
    alu::Class,
    memory::Memory,
    profile::Profile,
    ptx::{self, FunctionKind, Initial, Linkage, LocationId, Locations, Module, Space, Variable},
};

/// A parameter of a kernel in its parameter block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelParam {
    /// Name in PTX.
    pub name: String,
    /// Bytes from the start of the parameter block.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// A kernel, lowered.
#[derive(Debug)]
pub struct Kernel {
    /// Name in PTX.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<KernelParam>,
    /// Size of the parameter block.
    pub param_bytes: usize,
    /// Bytes of static shared memory.
    pub static_shared: usize,
    /// Bytes of local memory a thread.
    pub local_bytes: usize,
    /// Registers a thread: `.maxnreg`, or an estimate from what is live at once, at most 255.
    pub registers: u32,
    /// `.maxntid` as a product.
    pub max_threads: Option<u32>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    pub(super) program: Program,
}

/// What runs.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) code: Vec<Instruction>,
    pub(super) files: Files,
    /// Constant registers: file, place, value.
    pub(super) constants: Vec<(Class, u16, Constant)>,
    /// Those that change from block to block.
    pub(super) block_constants: Vec<usize>,
    pub(super) static_shared: usize,
    pub(super) local_bytes: usize,
    locations: Arc<Locations>,
}

impl Program {
    /// Place of instruction `at` in the CUDA source, or in the PTX without line information.
    pub(super) fn describe(&self, at: u32) -> String {
        let Some(instruction) = self.code.get(at as usize) else {
            return "unknown line".into();
        };
        if self.locations.outermost(instruction.location).line == 0 {
            return format!("PTX line {}", instruction.ptx_line);
        }
        self.locations.describe(instruction.location)
    }

    /// Line of the kernel's own source; 0 when unknown.
    pub(super) fn line(&self, at: u32) -> u32 {
        self.code.get(at as usize).map_or(0, |i| self.locations.outermost(i.location).line)
    }
}

impl Kernel {
    /// Blocks that one multiprocessor holds at once. Source: NVIDIA, "CUDA Occupancy Calculator":
    /// registers go by 256 a warp, shared memory by 128 bytes and 1 KiB for the system.
    pub fn blocks_per_multiprocessor(
        &self,
        threads: u32,
        dynamic_shared: u32,
        profile: &Profile,
    ) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let registers = (self.registers.max(1) * 32).next_multiple_of(256) * warps;
        let shared = (self.static_shared as u32 + dynamic_shared + 1024).next_multiple_of(128);
        (profile.threads_per_multiprocessor / (warps * 32))
            .min(profile.blocks_per_multiprocessor)
            .min(profile.registers_per_multiprocessor / registers)
            .min(profile.shared_per_multiprocessor / shared)
    }

    pub(super) fn resident_blocks(&self, config: &LaunchConfig, profile: &Profile) -> u64 {
        let threads = config.block.iter().product();
        let each = self.blocks_per_multiprocessor(threads, config.dynamic_shared, profile);
        u64::from(each) * u64::from(profile.multiprocessors)
    }
}

/// A `.global` or `.const` variable of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleSymbol {
    /// Device address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: usize,
}

/// A module whose variables live in device memory.
#[derive(Debug, Default)]
pub struct LoadedModule {
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Variables by name.
    pub symbols: HashMap<String, ModuleSymbol>,
    /// What was accepted but not modelled, `printf` for one.
    pub warnings: Vec<String>,
}

/// Why a module cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The text is no PTX this emulator reads.
    #[error(transparent)]
    Syntax(#[from] ptx::ParseError),
    /// An instruction that is not implemented, with its place in the source.
    #[error(
        "{function}: `{opcode}` is not supported ({source_line}, PTX line {ptx_line}): {reason}"
    )]
    Unsupported {
        /// Kernel or device function.
        function: String,
        /// The opcode as written.
        opcode: String,
        /// `file:line` of the CUDA source.
        source_line: String,
        /// Line in the PTX text.
        ptx_line: u32,
        /// What of it is not supported.
        reason: String,
    },
    /// A construct around instructions: recursion, missing function, too much memory.
    #[error("{function}: {reason}")]
    Invalid {
        /// Kernel or device function.
        function: String,
        /// What is wrong.
        reason: String,
    },
}

impl LoadedModule {
    /// Parses and lowers `text`; its variables are allocated and initialised in `memory`.
    pub fn load(text: &str, memory: &mut Memory) -> Result<Self, LoadError> {
        Self::from_tree(&ptx::parse(text)?, memory)
    }

    /// As [`Self::load`], of a module already parsed.
    pub fn from_tree(module: &Module, memory: &mut Memory) -> Result<Self, LoadError> {
        let mut loaded = Self::default();
        let result = loaded.fill(module, memory);
        if result.is_err() {
            loaded.unload(memory);
        }
        result.map(|()| loaded)
    }

    fn fill(&mut self, module: &Module, memory: &mut Memory) -> Result<(), LoadError> {
        for variable in
            module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const))
        {
            if variable.linkage == Linkage::Extern {
                return Err(invalid(&variable.name, "an external variable cannot be linked"));
            }
            let bytes = variable.bytes();
            let address = memory
                .allocate(bytes.max(1) as u64)
                .map_err(|error| invalid(&variable.name, &error.to_string()))?;
            self.symbols.insert(variable.name.clone(), ModuleSymbol { address, bytes });
        }
        for variable in &module.variables {
            if let Some(symbol) = self.symbols.get(&variable.name) {
                let image = self.image(variable)?;
                memory
                    .write(symbol.address, &image)
                    .map_err(|error| invalid(&variable.name, &error.to_string()))?;
            }
        }
        let locations = Arc::new(module.locations.clone());
        for function in module.functions.iter().filter(|f| f.kind == FunctionKind::Entry) {
            let flat = flatten(module, function, &self.symbols)?;
            self.warnings.extend(flat.warnings.iter().cloned());
            let kernel = lower(module, function, &flat, &locations)?;
            self.kernels.insert(function.name.clone(), Arc::new(kernel));
        }
        Ok(())
    }

    /// The bytes of a variable; what is not initialised is zero.
    fn image(&self, variable: &Variable) -> Result<Vec<u8>, LoadError> {
        let element = variable.ty.bytes();
        let mut image = vec![0; variable.bytes().max(1)];
        for (i, initial) in variable.initial.iter().enumerate() {
            let value = match initial {
                Initial::Bits(bits) => *bits,
                Initial::Address { symbol, offset, .. } => {
                    let Some(target) = self.symbols.get(symbol) else {
                        let reason = format!(
                            "its initial value is the address of `{symbol}`, which is no variable"
                        );
                        return Err(invalid(&variable.name, &reason));
                    };
                    target.address.wrapping_add_signed(*offset)
                }
            };
            let Some(slot) = image.get_mut(i * element..(i + 1) * element) else {
                return Err(invalid(&variable.name, "has more initial values than elements"));
            };
            slot.copy_from_slice(&value.to_le_bytes()[..element]);
        }
        Ok(image)
    }

    /// Frees the module's variables.
    pub fn unload(&self, memory: &mut Memory) {
        for symbol in self.symbols.values() {
            // Already gone where the host freed it itself, which is reported there.
            let _ = memory.free(symbol.address);
        }
    }
}

fn invalid(function: &str, reason: &str) -> LoadError {
    LoadError::Invalid { function: function.into(), reason: reason.into() }
}

fn lower(
    module: &Module,
    function: &ptx::Function,
    flat: &FlatKernel<'_>,
    locations: &Arc<Locations>,
) -> Result<Kernel, LoadError> {
    let unsupported = |instruction: &Flat<'_>, reason: String| LoadError::Unsupported {
        function: instruction.function.to_owned(),
        opcode: instruction.source.opcode.clone(),
        source_line: module.locations.describe(instruction.source.location),
        ptx_line: instruction.source.ptx_line,
        reason,
    };
    let classes: Vec<_> = flat.registers.iter().map(|&ty| class_of(ty)).collect();
    let mut lowering = Lowering::new(flat);
    let mut code = Vec::with_capacity(flat.code.len() + 1);
    let mut origin: Vec<(LocationId, u32)> = Vec::with_capacity(flat.code.len() + 1);
    for instruction in &flat.code {
        let lowered =
            lowering.instruction(instruction).map_err(|reason| unsupported(instruction, reason))?;
        code.push(lowered);
        origin.push((instruction.source.location, instruction.source.ptx_line));
    }
    code.push(Lowering::end());
    origin.push(origin.last().copied().unwrap_or_default());
    if let Some((.., reason)) = lowering.parameters_beyond(flat.param_bytes) {
        return Err(invalid(&function.name, &reason));
    }
    let (code, files) = allocate(code, &classes, &lowering, &origin).ok_or_else(|| {
        invalid(&function.name, "uses more registers than the emulator can index")
    })?;
    let constants = lowering.places(&files);
    let block_constants = (0..constants.len())
        .filter(|&i| matches!(constants[i].2, Constant::BlockIndex(_) | Constant::Multiprocessor))
        .collect();
    let live = files.first_constant[1] + 2 * files.first_constant[2];
    let product = |dim: [u32; 3]| dim.iter().product();
    let program = Program {
        name: function.name.clone(),
        code,
        files,
        constants,
        block_constants,
        static_shared: flat.static_shared.next_multiple_of(16) as usize,
        local_bytes: flat.local_bytes as usize,
        locations: locations.clone(),
    };
    Ok(Kernel {
        name: function.name.clone(),
        params: flat
            .params
            .iter()
            .map(|(name, offset, bytes, align)| KernelParam {
                name: name.clone(),
                offset: *offset,
                bytes: *bytes,
                align: *align,
            })
            .collect(),
        param_bytes: flat.param_bytes,
        static_shared: program.static_shared,
        local_bytes: program.local_bytes,
        registers: function
            .max_registers
            .unwrap_or_else(|| register_limit(function).min(live.min(255) as u32)),
        max_threads: function.max_threads.map(product),
        required_threads: function.required_threads,
        program,
    })
}

/// Registers a thread that the launch bounds leave: 65,536 over the threads and blocks promised.
fn register_limit(function: &ptx::Function) -> u32 {
    let threads: u32 =
        function.max_threads.or(function.required_threads).map_or(1, |d| d.iter().product());
    let blocks = function.min_blocks_per_sm.unwrap_or(1).max(1);
    (65_536 / (threads.max(1) * blocks)).clamp(16, 255)
}
