//! The backend that runs on any processor.

mod amx;
mod attention;
mod available;
mod blocks;
mod buffer;
mod check;
mod cross_entropy;
mod dropout;
mod elementwise;
mod exp;
mod fma;
mod four_bit;
mod gated;
mod heap;
mod level;
mod linear;
mod lines;
mod optimizer;
mod panel;
mod prefetch;
mod rate;
mod reduce;
mod rms_norm;
mod rope;
mod rows;
mod simd;
mod team;
mod tiles;
mod view;
mod weight;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use self::buffer::{Shared, Storage};
use crate::memory::Operation;
use crate::ops::{
    Activation, AdamW, AdamW8bitTensor, AdamWTensor, Attention, AttentionGrads, LinearBackward,
    LinearCrossEntropy, LinearInto, RmsNorm, Rope, RopeTable, Sequences,
};
use crate::{Backend, Buffer, DType, HostSlice, LayerMemory, MemoryKind, MemoryUsage, Result};

pub use self::buffer::CpuBuffer;
pub use self::level::CpuLevel;
pub(crate) use self::level::unusable;
pub use self::weight::CpuQuantizedWeight;

/// Host memory and the threads of the current rayon pool. Clones share memory and ledger.
#[derive(Debug, Clone, Default)]
pub struct Cpu {
    shared: Arc<Shared>,
}

impl Cpu {
    /// A backend with an empty ledger, on the level of this process. Where that cannot be had, all
    /// allocations are the error of [`CpuLevel::of_process`].
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`new`](Self::new), if the level of this process can be had.
    pub fn try_new() -> Result<Self> {
        CpuLevel::of_process().map(|_| Self::new())
    }

    /// Begins an operation, whose loops have nothing to do in a dry run.
    fn begin(&self, operation: &'static str) -> (Operation<'_>, Option<team::Idle>) {
        (self.shared.ledger.begin(operation), self.shared.dry_run.then(team::Idle::begin))
    }

    /// Counts floating-point operations.
    fn count_flops(&self, operation: &'static str, flops: u64) {
        self.shared.ledger.count(operation, flops);
    }

    fn scratch(&self, len: usize) -> Result<F32Scratch> {
        self.alloc(DType::F32, len, MemoryKind::Workspace).map(F32Scratch)
    }
}

/// Scratch shared by the tasks of one operation; content unspecified at first.
#[derive(Debug)]
struct F32Scratch(CpuBuffer);

impl Deref for F32Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_f32().expect("made as f32")
    }
}

impl DerefMut for F32Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self.0.storage_mut() {
            Storage::F32(x) => x,
            _ => unreachable!("made as f32"),
        }
    }
}

impl Backend for Cpu {
    type Buffer = CpuBuffer;
    type QuantizedWeight = CpuQuantizedWeight;
    type HostCopy = std::convert::Infallible;

    fn activations(&self) -> DType {
        // Integers of AVX-512 have not been timed against f32.
        let in_bf16 = matches!(level::level(), CpuLevel::Amx | CpuLevel::Avx2);
        if in_bf16 { DType::Bf16 } else { DType::F32 }
    }

    fn memory(&self) -> MemoryUsage {
        self.shared.usage()
    }

    fn reset_peak(&self) {
        self.shared.reset_peak();
    }

    fn layer(&self, index: usize) -> LayerMemory<'_> {
        self.shared.ledger.layer(index)
    }

    fn shares_host_memory(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Option<usize> {
        available::available()
    }

    fn give_back(&self, bytes: usize) {
        self.shared.give_back(bytes);
    }

    fn reserve(&self, bytes: usize) -> Result<()> {
        self.shared.reserve(bytes)
    }

    fn dry_run(&self) -> Self {
        Self { shared: Arc::new(Shared::dry_run()) }
    }

    fn is_dry_run(&self) -> bool {
        self.shared.dry_run
    }

    fn alloc(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<CpuBuffer> {
        CpuBuffer::alloc(&self.shared, dtype, len, kind)
    }

    fn zeros(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<CpuBuffer> {
        CpuBuffer::zeros(&self.shared, dtype, len, kind)
    }

    fn upload(&self, data: HostSlice<'_>, kind: MemoryKind) -> Result<CpuBuffer> {
        CpuBuffer::upload(&self.shared, data, kind)
    }

    fn upload_quantized(&self, weight: nf4::QuantizedTensor) -> Result<CpuQuantizedWeight> {
        CpuQuantizedWeight::new(&self.shared, weight)
    }

    fn quantize(
        &self,
        name: &str,
        weight: nf4::Elements<'_>,
        shape: &[usize],
        config: &nf4::QuantConfig,
    ) -> Result<CpuQuantizedWeight> {
        self.upload_quantized(if self.shared.dry_run {
            nf4::QuantizedTensor::zeros(name, shape, config)?
        } else {
            weight.quantize(name, shape, config)?
        })
    }

    fn download(&self, buffer: &CpuBuffer) -> Result<Vec<f32>> {
        if self.shared.dry_run {
            return Ok(vec![0.0; buffer.len()]);
        }
        let _run = self.begin("download");
        rows::download(buffer)
    }

    fn put_away(&self, _: &CpuBuffer) -> Result<Option<Self::HostCopy>> {
        Ok(None)
    }

    fn bring_back(&self, copy: &Self::HostCopy, _: MemoryKind) -> Result<CpuBuffer> {
        match *copy {}
    }

    fn copy(
        &self,
        src: &CpuBuffer,
        src_start: usize,
        dst: &mut CpuBuffer,
        dst_start: usize,
        len: usize,
    ) -> Result<()> {
        if self.shared.dry_run {
            return Ok(());
        }
        rows::copy(src, src_start, dst, dst_start, len)
    }

    fn gather_rows(
        &self,
        table: &CpuBuffer,
        ids: &CpuBuffer,
        cols: usize,
        out: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("gather_rows");
        rows::gather(table, ids, cols, out)
    }

    fn add(&self, x: &CpuBuffer, y: &CpuBuffer, out: &mut CpuBuffer) -> Result<()> {
        let _run = self.begin("add");
        elementwise::add(x, y, out)
    }

    fn convert(&self, x: &CpuBuffer, out: &mut CpuBuffer) -> Result<()> {
        let _run = self.begin("convert");
        elementwise::convert(x, out)
    }

    fn add_assign(&self, acc: &mut CpuBuffer, x: &CpuBuffer) -> Result<()> {
        let _run = self.begin("add_assign");
        elementwise::add_assign(acc, x)
    }

    fn scale(&self, x: &mut CpuBuffer, factor: f32) -> Result<()> {
        let _run = self.begin("scale");
        elementwise::scale(x, factor)
    }

    fn rms_norm(
        &self,
        op: RmsNorm,
        x: &CpuBuffer,
        weight: &CpuBuffer,
        y: &mut CpuBuffer,
        inv_rms: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("rms_norm");
        rms_norm::forward(op, x, weight, y, inv_rms)
    }

    fn add_rms_norm(
        &self,
        op: RmsNorm,
        x: &CpuBuffer,
        added: &CpuBuffer,
        weight: &CpuBuffer,
        sum: &mut CpuBuffer,
        y: &mut CpuBuffer,
        inv_rms: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("add_rms_norm");
        rms_norm::add_forward(op, [x, added, weight], sum, y, inv_rms)
    }

    fn rms_norm_backward(
        &self,
        op: RmsNorm,
        x: &CpuBuffer,
        weight: &CpuBuffer,
        inv_rms: &CpuBuffer,
        dy: &CpuBuffer,
        dx: &mut CpuBuffer,
        accumulate: bool,
    ) -> Result<()> {
        let _run = self.begin("rms_norm_backward");
        rms_norm::backward(op, x, weight, inv_rms, dy, dx, accumulate)
    }

    fn linears(&self, x: &CpuBuffer, linears: &mut [LinearInto<'_, Self>]) -> Result<()> {
        let _run = self.begin("linear");
        self.count_flops("linear", linears.iter().map(|linear| linear.op.flops()).sum());
        linear::forward(self, x, linears)
    }

    fn linears_backward(
        &self,
        x: &CpuBuffer,
        linears: &mut [LinearBackward<'_, Self>],
        dx: Option<&mut CpuBuffer>,
        accumulate_dx: bool,
    ) -> Result<()> {
        let _run = self.begin("linear_backward");
        let flops = linears.iter().map(|linear| linear.flops(dx.is_some())).sum();
        self.count_flops("linear_backward", flops);
        linear::backward(self, linear::Input::Given { x, dx }, linears, accumulate_dx)
    }

    fn rope(
        &self,
        op: Rope,
        table: &RopeTable<Self>,
        positions: &CpuBuffer,
        x: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("rope");
        rope::rotate(op, table, positions, x)
    }

    fn attention(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        q: &CpuBuffer,
        k: &CpuBuffer,
        v: &CpuBuffer,
        o: &mut CpuBuffer,
        lse: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("attention");
        attention::forward(self, op, sequences, [q, k, v], o, lse)
    }

    fn attention_backward(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        let _run = self.begin("attention_backward");
        attention::backward(self, op, sequences, grads)
    }

    fn gated(
        &self,
        act: Activation,
        gate: &CpuBuffer,
        up: &CpuBuffer,
        out: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("gated");
        gated::forward(act, gate, up, out)
    }

    fn gated_backward(
        &self,
        act: Activation,
        gate: &mut CpuBuffer,
        up: &mut CpuBuffer,
        d_out: &mut CpuBuffer,
    ) -> Result<()> {
        let _run = self.begin("gated_backward");
        gated::backward(act, gate, up, d_out)
    }

    fn linear_of_gated_backward(
        &self,
        act: Activation,
        gate: &mut CpuBuffer,
        up: &mut CpuBuffer,
        gated: &mut CpuBuffer,
        linear: LinearBackward<'_, Self>,
    ) -> Result<()> {
        let _run = self.begin("linear_of_gated_backward");
        self.count_flops("linear_of_gated_backward", linear.flops(true));
        let input = linear::Input::Gated { act, gate, up, out: gated };
        linear::backward(self, input, &mut [linear], false)
    }

    fn linear_cross_entropy(
        &self,
        op: &LinearCrossEntropy<'_, Self>,
        x: &CpuBuffer,
        labels: &CpuBuffer,
        token_loss: &mut CpuBuffer,
        dx: Option<&mut CpuBuffer>,
    ) -> Result<()> {
        let _run = self.begin("linear_cross_entropy");
        cross_entropy::run(self, op, x, labels, token_loss, dx)
    }

    fn squared_norm(&self, buffers: &[&CpuBuffer]) -> Result<f64> {
        let _run = self.begin("squared_norm");
        optimizer::squared_norm(buffers)
    }

    fn adamw(&self, op: AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        let _run = self.begin("adamw");
        optimizer::adamw(op, tensors)
    }

    fn adamw_8bit(&self, op: AdamW, tensors: &mut [AdamW8bitTensor<'_, Self>]) -> Result<()> {
        let _run = self.begin("adamw_8bit");
        optimizer::adamw_8bit(op, tensors)
    }
}
