//! cuBLASLt, where the library is there: products of bf16 matrices with f32 sums.
//!
//! It is loaded at run time and needed by nobody: only what was measured to be faster with it asks for it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::from_ref;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys as lt;

use super::Card;
use crate::{Error, Result};

/// `out` [m, n] = `x` [m, k] . W^T with W [n, k], or `x` . W with W [k, n]; all row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Shape {
    pub(in crate::cuda) m: usize,
    pub(in crate::cuda) n: usize,
    pub(in crate::cuda) k: usize,
    /// Elements from a row of `x` to the next.
    pub(in crate::cuda) x_stride: usize,
    /// W is transposed.
    pub(in crate::cuda) forward: bool,
}

/// Addresses, multiples of 256: `x` and `weight` bf16, `out` f32.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct Operands {
    pub(in crate::cuda) x: u64,
    pub(in crate::cuda) weight: u64,
    pub(in crate::cuda) out: u64,
    /// [`WORKSPACE`] bytes.
    pub(in crate::cuda) workspace: u64,
}

/// Bytes that the library may use beside the operands: what NVIDIA advises for compute capability 9.0, more than for
/// those before it.
pub(in crate::cuda) const WORKSPACE: usize = 32 << 20;

/// Whether the library is there.
pub(in crate::cuda) fn is_present() -> bool {
    // SAFETY: opens and closes the library, nothing else.
    unsafe { lt::is_culib_present() }
}

fn error(error: CublasError) -> Error {
    Error::Device { what: "cuBLASLt".into(), message: error.to_string() }
}

/// The library's handle, and what was made for each shape.
#[derive(Debug)]
pub(super) struct Blas {
    handle: lt::cublasLtHandle_t,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the library's objects belong to no thread, and the card's lock lets one thread at a time use them.
unsafe impl Send for Blas {}

/// Descriptions of a product, and how the library would do it.
#[derive(Debug)]
struct Plan {
    product: lt::cublasLtMatmulDesc_t,
    weight: lt::cublasLtMatrixLayout_t,
    x: lt::cublasLtMatrixLayout_t,
    out: lt::cublasLtMatrixLayout_t,
    algorithm: lt::cublasLtMatmulAlgo_t,
}

impl Card {
    /// Multiplies, adding to what is in `out` if `accumulate`. Not a part of a graph: what the library submits is its
    /// own affair.
    pub(in crate::cuda) fn multiply(
        &self,
        shape: Shape,
        operands: Operands,
        accumulate: bool,
    ) -> Result<()> {
        self.bind("cuBLASLt")?;
        self.settle()?;
        let mut blas = self.blas.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let blas = match &mut *blas {
            Some(blas) => blas,
            none => none.insert(Blas::new()?),
        };
        let handle = blas.handle;
        let plan = match blas.plans.entry(shape) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Plan::new(handle, shape).map_err(error)?)
            }
        };
        let Operands { x, weight, out, workspace } = operands;
        let (one, factor) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let number = |value: &f32| from_ref(value).cast::<c_void>();
        // SAFETY: the plan's objects live, the two factors outlive the call, and addresses and lengths are the
        // operation's, see the module's documentation.
        unsafe {
            result::matmul(
                handle,
                plan.product,
                number(&one),
                number(&factor),
                weight as *const c_void,
                plan.weight,
                x as *const c_void,
                plan.x,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(error)
    }
}

impl Blas {
    fn new() -> Result<Self> {
        if !is_present() {
            let message = "libcublasLt.so.12 is not there; run `qlora-train autotune` again".into();
            return Err(Error::Device { what: "cuBLASLt".into(), message });
        }
        Ok(Self { handle: result::create_handle().map_err(error)?, plans: HashMap::new() })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: the handle is the library's own, and nothing uses it any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    /// The library's matrices are column-major: it sees each of these transposed, and multiplies in the other order.
    fn new(handle: lt::cublasLtHandle_t, shape: Shape) -> Result<Self, CublasError> {
        use lt::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let Shape { m, n, k, x_stride, forward } = shape;
        let layout = |kind, rows: usize, cols: usize, stride: usize| {
            result::create_matrix_layout(kind, rows as u64, cols as u64, stride as i64)
        };
        // A plan from the start, so that what was made goes when something else fails.
        let mut plan = Self {
            product: std::ptr::null_mut(),
            weight: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            algorithm: lt::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.product =
            result::create_matmul_desc(lt::cublasComputeType_t::CUBLAS_COMPUTE_32F, CUDA_R_32F)?;
        plan.weight =
            if forward { layout(CUDA_R_16BF, k, n, k)? } else { layout(CUDA_R_16BF, n, k, n)? };
        plan.x = layout(CUDA_R_16BF, k, m, x_stride)?;
        plan.out = layout(CUDA_R_32F, n, m, n)?;
        let transposed = i32::from(forward);
        // SAFETY: the description was just made, and the attribute is an integer of four bytes.
        unsafe {
            result::set_matmul_desc_attribute(
                plan.product,
                lt::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                from_ref(&transposed).cast(),
                size_of::<i32>(),
            )
        }?;
        plan.algorithm = plan.choose(handle)?;
        Ok(plan)
    }

    fn choose(
        &self,
        handle: lt::cublasLtHandle_t,
    ) -> Result<lt::cublasLtMatmulAlgo_t, CublasError> {
        use lt::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let preference = result::create_matmul_pref()?;
        // SAFETY: all objects live; the attribute is an integer of eight bytes.
        unsafe {
            let chosen = result::set_matmul_pref_attribute(
                preference,
                CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                from_ref(&WORKSPACE).cast(),
                size_of::<usize>(),
            )
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    handle,
                    self.product,
                    self.weight,
                    self.x,
                    self.out,
                    self.out,
                    preference,
                )
            });
            result::destroy_matmul_pref(preference)?;
            chosen.map(|found| found.algo)
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each object is the plan's own, and goes once; a failure leaves it to the library.
        unsafe {
            for layout in [self.weight, self.x, self.out] {
                if !layout.is_null() {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            if !self.product.is_null() {
                let _ = result::destroy_matmul_desc(self.product);
            }
        }
    }
}
