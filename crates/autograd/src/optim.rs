//! `AdamW` with decoupled decay, and global-norm clipping.

use kernels::ops::{AdamW as Step, AdamW8bitTensor, AdamWTensor, MOMENT8_BLOCK, Moment8};
use kernels::{Backend, Buffer, DType, HostSlice, MemoryKind};

use crate::{Error, Param, ParamGrads, Params, Result};

/// Constants of [`AdamW`] (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// Parameters with fewer elements have f32 moments in an 8-bit optimizer, as in bitsandbytes.
const LEAST_8BIT: usize = 4096;

/// First and second moment of one parameter.
#[derive(Debug)]
enum Moments<K: Backend> {
    F32([K::Buffer; 2]),
    /// Codes and absmax of each.
    Eight([[K::Buffer; 2]; 2]),
}

/// Both moments of one parameter on the host, as they are held.
#[derive(Debug, Clone, PartialEq)]
pub enum MomentsState {
    /// First and second, f32.
    F32([Vec<f32>; 2]),
    /// First and second: one code an element, one absmax a block of [`MOMENT8_BLOCK`] elements.
    Eight([(Vec<u8>, Vec<f32>); 2]),
}

/// Everything that an [`AdamW`] carries from one step to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWState {
    /// Steps taken.
    pub step: u64,
    /// In the parameters' order.
    pub moments: Vec<MomentsState>,
}

/// Optimizer with f32 or 8-bit moments.
#[derive(Debug)]
pub struct AdamW<K: Backend> {
    config: AdamWConfig,
    moments: Vec<Moments<K>>,
    step: u64,
}

impl<K: Backend> Moments<K> {
    fn f32(backend: &K, len: usize) -> Result<Self> {
        let zeros = || backend.zeros(DType::F32, len, MemoryKind::Optimizer);
        Ok(Self::F32([zeros()?, zeros()?]))
    }

    fn eight(backend: &K, len: usize) -> Result<Self> {
        let zeros = || -> Result<_> {
            let blocks = len.div_ceil(MOMENT8_BLOCK);
            Ok([
                backend.zeros(DType::U8, len, MemoryKind::Optimizer)?,
                backend.zeros(DType::F32, blocks, MemoryKind::Optimizer)?,
            ])
        };
        Ok(Self::Eight([zeros()?, zeros()?]))
    }

    fn download(&self, backend: &K) -> Result<MomentsState> {
        let f32 = |buffer: &K::Buffer| backend.download(buffer);
        let eight = |[codes, absmax]: &[K::Buffer; 2]| -> Result<_> {
            // Codes come widened to f32, which holds them exactly.
            Ok((f32(codes)?.into_iter().map(|code| code as u8).collect(), f32(absmax)?))
        };
        Ok(match self {
            Self::F32([m, v]) => MomentsState::F32([f32(m)?, f32(v)?]),
            Self::Eight([m, v]) => MomentsState::Eight([eight(m)?, eight(v)?]),
        })
    }

    fn upload(backend: &K, state: &MomentsState) -> Result<Self> {
        let upload = |slice: HostSlice<'_>| backend.upload(slice, MemoryKind::Optimizer);
        let eight = |(codes, absmax): &(Vec<u8>, Vec<f32>)| -> Result<_> {
            Ok([upload(HostSlice::U8(codes))?, upload(HostSlice::F32(absmax))?])
        };
        Ok(match state {
            MomentsState::F32([m, v]) => {
                Self::F32([upload(HostSlice::F32(m))?, upload(HostSlice::F32(v))?])
            }
            MomentsState::Eight([m, v]) => Self::Eight([eight(m)?, eight(v)?]),
        })
    }

    /// Whether a state has the type and the sizes of this one.
    fn fits(&self, state: &MomentsState) -> bool {
        match (self, state) {
            (Self::F32(own), MomentsState::F32(given)) => {
                own.iter().zip(given).all(|(own, given)| own.len() == given.len())
            }
            (Self::Eight(own), MomentsState::Eight(given)) => {
                own.iter().zip(given).all(|([codes, absmax], given)| {
                    codes.len() == given.0.len() && absmax.len() == given.1.len()
                })
            }
            _ => false,
        }
    }
}

impl<K: Backend> AdamW<K> {
    /// Zero moments for every parameter, in f32.
    pub fn new(backend: &K, params: &Params<K>, config: AdamWConfig) -> Result<Self> {
        Self::with(params, config, |len| Moments::f32(backend, len))
    }

    /// Zero moments for every parameter, in blocks of 8-bit codes where it has 4096 elements or more:
    /// a quarter of the memory (Dettmers et al. 2021).
    pub fn new_8bit(backend: &K, params: &Params<K>, config: AdamWConfig) -> Result<Self> {
        Self::with(params, config, |len| match len {
            LEAST_8BIT.. => Moments::eight(backend, len),
            _ => Moments::f32(backend, len),
        })
    }

    fn with(
        params: &Params<K>,
        config: AdamWConfig,
        moments: impl Fn(usize) -> Result<Moments<K>>,
    ) -> Result<Self> {
        let moments = params.iter().map(|p| moments(p.value.len())).collect::<Result<_>>()?;
        Ok(Self { config, moments, step: 0 })
    }

    /// A copy of the state.
    pub fn state(&self, backend: &K) -> Result<AdamWState> {
        let moments = self.moments.iter().map(|m| m.download(backend)).collect::<Result<_>>()?;
        Ok(AdamWState { step: self.step, moments })
    }

    /// Goes on from a state of an optimizer of the same kind over the same parameters.
    ///
    /// # Errors
    /// [`Error::ParamCount`], and [`Error::OptimizerState`] naming the first parameter whose moments have another
    /// size or type; the optimizer is then as it was. Memory may run out.
    pub fn restore(&mut self, backend: &K, params: &Params<K>, state: &AdamWState) -> Result<()> {
        let (actual, expected) = (state.moments.len(), self.moments.len());
        if actual != expected {
            return Err(Error::ParamCount { what: "optimizer state", actual, expected });
        }
        let mut pairs = params.iter().zip(self.moments.iter().zip(&state.moments));
        if let Some((param, _)) = pairs.find(|(_, (own, given))| !own.fits(given)) {
            return Err(Error::OptimizerState { name: param.name.clone() });
        }
        for (own, given) in self.moments.iter_mut().zip(&state.moments) {
            *own = Moments::upload(backend, given)?;
        }
        self.step = state.step;
        Ok(())
    }

    /// Updates the parameters with the learning rate of this step; gradients are multiplied by
    /// `grad_scale` (see [`clip_factor`]).
    pub fn step(
        &mut self,
        backend: &K,
        params: &mut Params<K>,
        grads: &ParamGrads<K>,
        lr: f32,
        grad_scale: f32,
    ) -> Result<()> {
        for (what, actual) in
            [("gradients", grads.buffers().len()), ("optimizer state", self.moments.len())]
        {
            if actual != params.len() {
                return Err(Error::ParamCount { what, actual, expected: params.len() });
            }
        }
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let op = Step { lr, beta1, beta2, eps, weight_decay, step: self.step, grad_scale };
        let (mut tensors, mut tensors_8bit) = (Vec::new(), Vec::new());
        let all = params.iter_mut().zip(grads.buffers()).zip(&mut self.moments);
        for ((Param { value: param, .. }, grad), moments) in all {
            match moments {
                Moments::F32([m, v]) => tensors.push(AdamWTensor { param, grad, m, v }),
                Moments::Eight(moments) => {
                    let [m, v] =
                        moments.each_mut().map(|[codes, absmax]| Moment8 { codes, absmax });
                    tensors_8bit.push(AdamW8bitTensor { param, grad, m, v });
                }
            }
        }
        backend.adamw(op, &mut tensors)?;
        Ok(backend.adamw_8bit(op, &mut tensors_8bit)?)
    }
}

/// What to multiply gradients of global norm `norm` by so that it is at most `max_norm`, as torch's
/// `clip_grad_norm_` does.
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0) as f32)
}
