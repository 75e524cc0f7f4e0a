//! `cublasLt…`: of the library of that name, what a product of matrices takes. The driver library is laid out under
//! its name too.

use crate::driver::{
    blas::{Description, Element, Layout, Matrix, Preference, Product, size},
    error::{Code, Status},
    ffi::{
        enter,
        pointers::{In, Out},
    },
    state::Id,
};

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// `CUBLAS_COMPUTE_32F`, and `CUDA_R_32F` as the type of factors.
const COMPUTE_32F: u32 = 68;
const FACTORS_32F: u32 = 0;
/// `CUBLAS_OP_N` and `CUBLAS_OP_T`.
const PLAIN: i32 = 0;
const TRANSPOSED: i32 = 1;
const DESCRIPTION_TRANSPOSED: [u32; 2] = [3, 4];
const PREFERENCE_WORKSPACE: u32 = 1;

/// `cublasStatus_t` of a result.
fn status(code: u32) -> u32 {
    const NOT_INITIALIZED: u32 = 1;
    const ALLOCATION_FAILED: u32 = 3;
    const INVALID_VALUE: u32 = 7;
    const EXECUTION_FAILED: u32 = 13;
    const NOT_SUPPORTED: u32 = 15;
    match Code(code) {
        Code(0) => 0,
        Code::NOT_INITIALIZED => NOT_INITIALIZED,
        Code::OUT_OF_MEMORY => ALLOCATION_FAILED,
        Code::INVALID_VALUE | Code::INVALID_HANDLE => INVALID_VALUE,
        Code::NOT_SUPPORTED => NOT_SUPPORTED,
        _ => EXECUTION_FAILED,
    }
}

macro_rules! blas {
    ($(fn $name:ident($state:ident $(, $arg:ident: $type:ty)* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($($arg: $type),*) -> u32 {
                status(enter(stringify!($name), |$state| $body))
            }
        )*
    };
}

blas! {
    fn cublasLtCreate(s, handle: Out<Id>) {
        s.context()?;
        let id = s.fresh();
        handle.set(s.blas.handles.insert(id, ()))
    }
    fn cublasLtDestroy(s, handle: Id) { s.blas.handles.remove(handle) }
    fn cublasLtMatrixLayoutCreate(s, layout: Out<Id>, data_type: u32, rows: u64, cols: u64, ld: i64) {
        let ld = u64::try_from(ld).map_err(|_| Code::INVALID_VALUE)?;
        if rows == 0 || cols == 0 || ld < rows {
            return Err(Code::INVALID_VALUE);
        }
        let id = s.fresh();
        let made = Layout { element: Element::new(data_type)?, rows, cols, ld };
        layout.set(s.blas.layouts.insert(id, made))
    }
    fn cublasLtMatrixLayoutDestroy(s, layout: Id) { s.blas.layouts.remove(layout).map(drop) }
    fn cublasLtMatmulDescCreate(s, description: Out<Id>, compute: u32, factors: u32) {
        if (compute, factors) != (COMPUTE_32F, FACTORS_32F) {
            return Err(Code::NOT_SUPPORTED);
        }
        let id = s.fresh();
        description.set(s.blas.descriptions.insert(id, Description::default()))
    }
    fn cublasLtMatmulDescSetAttribute(s, description: Id, attribute: u32, value: In<i32>, bytes: usize) {
        let description = s.blas.descriptions.get_mut(description)?;
        let operand = DESCRIPTION_TRANSPOSED.iter().position(|known| *known == attribute);
        let transposed = match value.get()? {
            _ if bytes != 4 => return Err(Code::INVALID_VALUE),
            PLAIN => false,
            TRANSPOSED => true,
            _ => return Err(Code::NOT_SUPPORTED),
        };
        description.transposed[operand.ok_or(Code::NOT_SUPPORTED)?] = transposed;
        Ok(())
    }
    fn cublasLtMatmulDescDestroy(s, description: Id) {
        s.blas.descriptions.remove(description).map(drop)
    }
    fn cublasLtMatmulPreferenceCreate(s, preference: Out<Id>) {
        let id = s.fresh();
        preference.set(s.blas.preferences.insert(id, Preference::default()))
    }
    fn cublasLtMatmulPreferenceSetAttribute(s, preference: Id, attribute: u32, value: In<u64>, bytes: usize) {
        let preference = s.blas.preferences.get_mut(preference)?;
        match (attribute, bytes) {
            (PREFERENCE_WORKSPACE, 8) => preference.workspace = value.get()?,
            (PREFERENCE_WORKSPACE, _) => return Err(Code::INVALID_VALUE),
            _ => return Err(Code::NOT_SUPPORTED),
        }
        Ok(())
    }
    fn cublasLtMatmulPreferenceDestroy(s, preference: Id) {
        s.blas.preferences.remove(preference).map(drop)
    }
    fn cublasLtMatmulAlgoGetHeuristic(s, handle: Id, description: Id, a: Id, b: Id, c: Id, d: Id, preference: Id,
        wanted: i32, results: Out<Heuristic>, found: Out<i32>) {
        s.blas.handles.get(handle)?;
        let transposed = s.blas.descriptions.get(description)?.transposed;
        let mut layouts = Vec::new();
        for layout in [a, b, c, d] {
            layouts.push(*s.blas.layouts.get(layout)?);
        }
        let (m, n, k) = size(transposed, [layouts[0], layouts[1], layouts[2], layouts[3]])?;
        if wanted < 1 {
            return Err(Code::INVALID_VALUE);
        }
        // Tells the product that it was asked for from others.
        let algorithm = [m, n, k, transposed[0].into(), transposed[1].into(), 0, 0, 1];
        let workspace = s.blas.preferences.get(preference)?.workspace as usize;
        results.set(Heuristic { algorithm, workspace, state: 0, waves: 1.0, reserved: [0; 4] })?;
        found.set(1)
    }
    fn cublasLtMatmul(s, handle: Id, description: Id, alpha: In<f32>, a: u64, a_layout: Id, b: u64, b_layout: Id,
        beta: In<f32>, c: u64, c_layout: Id, d: u64, d_layout: Id, algorithm: In<u64>, workspace: u64, bytes: usize,
        stream: Id) {
        s.blas.handles.get(handle)?;
        let transposed = s.blas.descriptions.get(description)?.transposed;
        let matrix = |address, layout| -> Status<Matrix> {
            Ok(Matrix { address, layout: *s.blas.layouts.get(layout)? })
        };
        let (a, b) = (matrix(a, a_layout)?, matrix(b, b_layout)?);
        let (c, d) = (matrix(c, c_layout)?, matrix(d, d_layout)?);
        let layouts = [a, b, c, d].map(|matrix| matrix.layout);
        let (m, n, k) = size(transposed, layouts)?;
        let asked = [m, n, k, transposed[0].into(), transposed[1].into(), 0, 0, 1];
        for (index, word) in asked.into_iter().enumerate() {
            if algorithm.at(index)? != word {
                return Err(Code::INVALID_VALUE);
            }
        }
        let workspace = (workspace, bytes as u64);
        let (alpha, beta) = (alpha.get()?, beta.get()?);
        s.multiply(stream, Product { transposed, a, b, c, d, alpha, beta, workspace })
    }
}
