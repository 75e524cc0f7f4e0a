//! cuBLASLt's products of matrices.

use std::{ffi::c_void, ptr::from_ref};

use cudarc::{
    cublaslt::{
        result::{self as lt, CublasError},
        sys::{
            self, cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, cublasStatus_t as Status,
            cudaDataType_t::CUDA_R_32F,
        },
    },
    driver::{CudaContext, result},
};

use crate::common::emulator::on_emulator;

/// A column-major matrix of f32: rows, columns, and elements from a column to the next.
type Shape = (u64, u64, i64);

/// D = op(A) . B + beta . D at these addresses, A transposed or not.
fn multiply(transposed: bool, shapes: [Shape; 3], at: [u64; 3], beta: f32) -> Result<(), Status> {
    multiply_in((0, 0), transposed, shapes, at, beta)
}

/// The same with so many bytes of workspace at an address.
fn multiply_in(
    workspace: (u64, usize),
    transposed: bool,
    shapes: [Shape; 3],
    at: [u64; 3],
    beta: f32,
) -> Result<(), Status> {
    let run = || -> Result<(), CublasError> {
        let layout = |(rows, cols, ld)| lt::create_matrix_layout(CUDA_R_32F, rows, cols, ld);
        let [a, b, d] = [layout(shapes[0])?, layout(shapes[1])?, layout(shapes[2])?];
        let (handle, product) =
            (lt::create_handle()?, lt::create_matmul_desc(CUBLAS_COMPUTE_32F, CUDA_R_32F)?);
        let preference = lt::create_matmul_pref()?;
        let (operation, one) = (i32::from(transposed), 1.0_f32);
        // SAFETY: the objects live, and attributes have the documented sizes. On the emulator a wrong address is a
        // finding, not undefined.
        unsafe {
            let operation = from_ref(&operation).cast();
            lt::set_matmul_desc_attribute(product, CUBLASLT_MATMUL_DESC_TRANSA, operation, 4)?;
            let algorithm =
                lt::get_matmul_algo_heuristic(handle, product, a, b, d, d, preference)?.algo;
            let pointer = |address: u64| address as *mut c_void;
            lt::matmul(
                handle,
                product,
                from_ref(&one).cast(),
                from_ref(&beta).cast(),
                pointer(at[0]),
                a,
                pointer(at[1]),
                b,
                pointer(at[2]),
                d,
                pointer(at[2]),
                d,
                &raw const algorithm,
                pointer(workspace.0),
                workspace.1,
                std::ptr::null_mut(),
            )?;
            for matrix in [a, b, d] {
                lt::destroy_matrix_layout(matrix)?;
            }
            lt::destroy_matmul_pref(preference)?;
            lt::destroy_matmul_desc(product)?;
            lt::destroy_handle(handle)
        }
    };
    run().map_err(|CublasError(status)| status)
}

fn upload(values: &[f32]) -> u64 {
    // SAFETY: the allocation has room for the values.
    unsafe {
        let address = result::malloc_sync(4 * values.len()).expect("fits");
        result::memcpy_htod_sync(address, values).expect("valid");
        address
    }
}

#[test]
fn products_are_in_order_with_the_stream_and_find_what_is_wrong() {
    let runs = on_emulator(&[&[], &[("STREAMS", "lazy")]], || {
        // SAFETY: opens the library, nothing else.
        assert!(unsafe { sys::is_culib_present() });
        let _context = CudaContext::new(0).expect("a device");
        // A = [[1, 3, 5], [2, 4, 6]], and one row between its columns; B = [[1], [10], [100]].
        let a = upload(&[1.0, 2.0, -1.0, 3.0, 4.0, -1.0, 5.0, 6.0, -1.0]);
        let (b, d) = (upload(&[1.0, 10.0, 100.0]), upload(&[0.5; 4]));
        let plain = [(2, 3, 3), (3, 1, 3), (2, 1, 2)];
        assert_eq!(multiply(false, plain, [a, b, d], 0.0), Ok(()));
        assert_eq!(multiply(false, plain, [a, b, d], 2.0), Ok(()));
        let mut out = [0.0_f32; 4];
        // SAFETY: the allocation is as long as what is read.
        unsafe { result::memcpy_dtoh_sync(&mut out, d) }.expect("valid");
        assert_eq!(out, [3.0 * 531.0, 3.0 * 642.0, 0.5, 0.5]);
        let transposed = [(3, 2, 3), (3, 1, 3), (2, 1, 2)];
        assert_eq!(multiply(true, transposed, [a, b, d], 0.0), Ok(()));
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_sync(&mut out, d) }.expect("valid");
        assert_eq!(out[..2], [1.0 + 20.0 - 100.0, 3.0 + 40.0 - 100.0]);

        let refused = Err(Status::CUBLAS_STATUS_INVALID_VALUE);
        assert_eq!(multiply(true, plain, [a, b, d], 0.0), refused, "shapes do not meet");
        assert_eq!(multiply(false, plain, [a + 16, b, d], 0.0), refused, "not aligned");
        // SAFETY: the allocation is freed once.
        unsafe {
            let unwritten = result::malloc_sync(12).expect("fits");
            assert_eq!(multiply(false, plain, [a, unwritten, d], 0.0), Ok(()));
            for address in [unwritten, b, a] {
                result::memory_free(address).expect("live");
            }
        }
        let long = [(2, 3, 3), (3, 1, 3), (2, 1, 2)];
        assert_eq!(multiply(false, long, [d, d, d], 0.0), Ok(()), "found when it runs");
    });
    for run in &runs {
        run.found(&["uninitialised", "out-of-bounds"]);
    }
}

#[test]
fn a_workspace_must_be_whole() {
    let runs = on_emulator(&[&[]], || {
        let _context = CudaContext::new(0).expect("a device");
        let [a, b, d, workspace] = [(); 4].map(|()| upload(&[1.0; 4]));
        let (shapes, at) = ([(2, 2, 2); 3], [a, b, d]);
        for bytes in [16, 17] {
            let result = multiply_in((workspace, bytes), false, shapes, at, 0.0);
            assert_eq!(result, Ok(()), "what is wrong shows when it runs");
        }
    });
    runs[0].found(&["out-of-bounds"]);
}
