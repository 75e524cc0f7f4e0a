//! The backend for NVIDIA cards of compute capability 8.0 and newer.
//!
//! All work goes to one stream, so that a buffer given back may be used again at once: what reads it
//! was submitted before. Large copies to the device run beside it, and each waits for it and it for each.
//! Inside [`in_graphs`](Backend::in_graphs) work goes as graphs. Nothing waits for the device but
//! [`download`](Backend::download), [`squared_norm`](Backend::squared_norm) and
//! [`quantize`](Backend::quantize).

mod attention;
mod buffer;
mod card;
mod cross_entropy;
mod cublas;
mod decode_attention;
mod driver;
mod elementwise;
mod host_copy;
mod linear;
mod lora;
mod matmul;
mod matvec;
mod memory;
mod optimizer;
mod params;
mod quantize;
mod routes;
mod rows;
mod tile_matmul;
mod weight;

use std::sync::Arc;

use self::driver::Driver;
use self::memory::Memory;
use crate::ops::{
    Activation, AdamW, AdamW8bitTensor, AdamWTensor, Attention, AttentionGrads, LinearBackward,
    LinearCrossEntropy, LinearInto, RmsNorm, Rope, RopeTable, Sequences,
};
use crate::{Backend, DType, Error, HostSlice, LayerMemory, MemoryKind, MemoryUsage, Result};

pub(crate) use self::card::has_nvtx;

pub use self::buffer::CudaBuffer;
pub use self::driver::DeviceInfo;
pub use self::host_copy::CudaHostCopy;
pub use self::routes::{Route, RouteEntry, RouteTiming, Routes};
pub use self::weight::CudaQuantizedWeight;

/// A card. Clones share its stream, memory and ledger.
#[derive(Debug, Clone)]
pub struct Cuda {
    memory: Arc<Memory>,
    routes: Arc<Routes>,
}

impl Cuda {
    /// Opens device `ordinal` and loads the kernels.
    ///
    /// Errors when there is no driver, no such device, or one that is too old.
    pub fn new(ordinal: usize) -> Result<Self> {
        let memory = Arc::new(Memory::new(Driver::new(ordinal)?));
        Ok(Self { memory, routes: Arc::default() })
    }

    /// A [dry run](Backend::dry_run) on a card like `imagined`, which need not be there, nor its driver.
    #[must_use]
    pub fn dry_run_on(imagined: DeviceInfo) -> Self {
        let memory = Arc::new(Memory::new(Driver::dry_run(imagined)));
        Self { memory, routes: Arc::default() }
    }

    /// The same device, with products of 4-bit weights as `routes` says. But for [`Route::Cublas`], results do not depend
    /// on them.
    #[must_use]
    pub fn with_routes(self, routes: Routes) -> Self {
        Self { routes: Arc::new(routes), ..self }
    }

    /// Number of devices that the driver shows.
    pub fn count() -> Result<usize> {
        card::count()
    }

    /// Whether cuBLASLt is there, for [`Route::Cublas`].
    pub fn has_cublas() -> bool {
        card::blas::is_present()
    }

    /// What the driver says of the device.
    pub fn info(&self) -> Result<DeviceInfo> {
        self.driver().info()
    }

    fn driver(&self) -> &Driver {
        &self.memory.driver
    }

    /// Counts floating-point operations.
    fn count_flops(&self, operation: &'static str, flops: u64) {
        self.memory.ledger.count(operation, flops);
    }

    fn scratch(&self, len: usize) -> Result<CudaBuffer> {
        self.alloc(DType::F32, len, MemoryKind::Workspace)
    }
}

impl Backend for Cuda {
    type Buffer = CudaBuffer;
    type QuantizedWeight = CudaQuantizedWeight;
    type HostCopy = CudaHostCopy;

    fn activations(&self) -> DType {
        DType::Bf16
    }

    fn in_graphs<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.driver().capture(true)?;
        let done = work();
        let launched = self.driver().capture(false);
        let done = done?;
        launched?;
        Ok(done)
    }

    fn memory(&self) -> MemoryUsage {
        self.memory.usage()
    }

    fn reset_peak(&self) {
        self.memory.reset_peak();
    }

    fn layer(&self, index: usize) -> LayerMemory<'_> {
        self.memory.ledger.layer(index)
    }

    fn shares_host_memory(&self) -> bool {
        false
    }

    fn free_memory(&self) -> Option<usize> {
        self.info().ok().map(|info| info.free)
    }

    fn reserve(&self, bytes: usize) -> Result<()> {
        self.memory.reserve(bytes)
    }

    fn dry_run(&self) -> Self {
        let imagined = self.driver().imagined();
        let memory = Arc::new(Memory::new(Driver::dry_run(imagined)));
        Self { memory, routes: Arc::clone(&self.routes) }
    }

    fn is_dry_run(&self) -> bool {
        self.driver().is_dry_run()
    }

    fn alloc(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<CudaBuffer> {
        CudaBuffer::alloc(&self.memory, dtype, len, kind)
    }

    fn zeros(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<CudaBuffer> {
        let buffer = self.alloc(dtype, len, kind)?;
        self.driver().zero(buffer.address(), buffer.size())?;
        Ok(buffer)
    }

    fn upload(&self, data: HostSlice<'_>, kind: MemoryKind) -> Result<CudaBuffer> {
        CudaBuffer::upload(&self.memory, data, kind)
    }

    fn upload_quantized(&self, weight: nf4::QuantizedTensor) -> Result<CudaQuantizedWeight> {
        CudaQuantizedWeight::new(&self.memory, &weight)
    }

    fn quantize(
        &self,
        name: &str,
        weight: nf4::Elements<'_>,
        shape: &[usize],
        config: &nf4::QuantConfig,
    ) -> Result<CudaQuantizedWeight> {
        let _run = self.memory.ledger.begin("quantize");
        quantize::quantize(self, name, weight, shape, config)
    }

    fn download(&self, buffer: &CudaBuffer) -> Result<Vec<f32>> {
        let _run = self.memory.ledger.begin("download");
        rows::download(self, buffer)
    }

    fn put_away(&self, buffer: &CudaBuffer) -> Result<Option<CudaHostCopy>> {
        let _run = self.memory.ledger.begin("put_away");
        CudaHostCopy::of(&self.memory, buffer).map(Some)
    }

    fn bring_back(&self, copy: &CudaHostCopy, kind: MemoryKind) -> Result<CudaBuffer> {
        let _run = self.memory.ledger.begin("bring_back");
        copy.upload(kind)
    }

    fn copy(
        &self,
        src: &CudaBuffer,
        src_start: usize,
        dst: &mut CudaBuffer,
        dst_start: usize,
        len: usize,
    ) -> Result<()> {
        rows::copy(self, src, src_start, dst, dst_start, len)
    }

    fn gather_rows(
        &self,
        table: &CudaBuffer,
        ids: &CudaBuffer,
        cols: usize,
        out: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("gather_rows");
        rows::gather(self, table, ids, cols, out)
    }

    fn add(&self, x: &CudaBuffer, y: &CudaBuffer, out: &mut CudaBuffer) -> Result<()> {
        let _run = self.memory.ledger.begin("add");
        elementwise::add(self, x, y, out)
    }

    fn convert(&self, x: &CudaBuffer, out: &mut CudaBuffer) -> Result<()> {
        let _run = self.memory.ledger.begin("convert");
        elementwise::convert(self, x, out)
    }

    fn add_assign(&self, acc: &mut CudaBuffer, x: &CudaBuffer) -> Result<()> {
        let _run = self.memory.ledger.begin("add_assign");
        elementwise::add_assign(self, acc, x)
    }

    fn scale(&self, x: &mut CudaBuffer, factor: f32) -> Result<()> {
        let _run = self.memory.ledger.begin("scale");
        elementwise::scale(self, x, factor)
    }

    fn rms_norm(
        &self,
        op: RmsNorm,
        x: &CudaBuffer,
        weight: &CudaBuffer,
        y: &mut CudaBuffer,
        inv_rms: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("rms_norm");
        rows::rms_norm(self, op, x, weight, y, inv_rms)
    }

    fn add_rms_norm(
        &self,
        op: RmsNorm,
        x: &CudaBuffer,
        added: &CudaBuffer,
        weight: &CudaBuffer,
        sum: &mut CudaBuffer,
        y: &mut CudaBuffer,
        inv_rms: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("add_rms_norm");
        rows::add_rms_norm(self, op, [x, added, weight], sum, y, inv_rms)
    }

    fn rms_norm_backward(
        &self,
        op: RmsNorm,
        x: &CudaBuffer,
        weight: &CudaBuffer,
        inv_rms: &CudaBuffer,
        dy: &CudaBuffer,
        dx: &mut CudaBuffer,
        accumulate: bool,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("rms_norm_backward");
        rows::rms_norm_backward(self, op, [x, weight, inv_rms, dy], dx, accumulate)
    }

    fn linears(&self, x: &CudaBuffer, linears: &mut [LinearInto<'_, Self>]) -> Result<()> {
        let _run = self.memory.ledger.begin("linear");
        self.count_flops("linear", linears.iter().map(|linear| linear.op.flops()).sum());
        linear::forward(self, x, linears)
    }

    fn linears_backward(
        &self,
        x: &CudaBuffer,
        linears: &mut [LinearBackward<'_, Self>],
        dx: Option<&mut CudaBuffer>,
        accumulate_dx: bool,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("linear_backward");
        let flops = linears.iter().map(|linear| linear.flops(dx.is_some())).sum();
        self.count_flops("linear_backward", flops);
        linear::backward(self, x, linears, dx, accumulate_dx)
    }

    fn rope(
        &self,
        op: Rope,
        table: &RopeTable<Self>,
        positions: &CudaBuffer,
        x: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("rope");
        rows::rope(self, op, table, positions, x)
    }

    fn attention(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        q: &CudaBuffer,
        k: &CudaBuffer,
        v: &CudaBuffer,
        o: &mut CudaBuffer,
        lse: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("attention");
        attention::forward(self, op, sequences, [q, k, v], o, lse)
    }

    fn attention_backward(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("attention_backward");
        attention::backward(self, op, sequences, &grads)
    }

    fn gated(
        &self,
        act: Activation,
        gate: &CudaBuffer,
        up: &CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("gated");
        elementwise::gated(self, act, gate, up, out)
    }

    fn gated_backward(
        &self,
        act: Activation,
        gate: &mut CudaBuffer,
        up: &mut CudaBuffer,
        d_out: &mut CudaBuffer,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("gated_backward");
        elementwise::gated_backward(self, act, gate, up, d_out)
    }

    fn linear_of_gated_backward(
        &self,
        act: Activation,
        gate: &mut CudaBuffer,
        up: &mut CudaBuffer,
        gated: &mut CudaBuffer,
        mut linear: LinearBackward<'_, Self>,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("linear_of_gated_backward");
        self.count_flops("linear_of_gated_backward", linear.flops(true));
        linear::backward_of_gated(self, act, [gate, up, gated], &mut linear)
    }

    fn linear_cross_entropy(
        &self,
        op: &LinearCrossEntropy<'_, Self>,
        x: &CudaBuffer,
        labels: &CudaBuffer,
        token_loss: &mut CudaBuffer,
        dx: Option<&mut CudaBuffer>,
    ) -> Result<()> {
        let _run = self.memory.ledger.begin("linear_cross_entropy");
        cross_entropy::run(self, op, x, labels, token_loss, dx)
    }

    fn squared_norm(&self, buffers: &[&CudaBuffer]) -> Result<f64> {
        let _run = self.memory.ledger.begin("squared_norm");
        optimizer::squared_norm(self, buffers)
    }

    fn adamw(&self, op: AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        let _run = self.memory.ledger.begin("adamw");
        optimizer::adamw(self, op, tensors)
    }

    fn adamw_8bit(&self, op: AdamW, tensors: &mut [AdamW8bitTensor<'_, Self>]) -> Result<()> {
        let _run = self.memory.ledger.begin("adamw_8bit");
        optimizer::adamw_8bit(self, op, tensors)
    }
}
