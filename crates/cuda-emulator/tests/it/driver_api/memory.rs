//! Allocations and copies, and what goes wrong with them.

use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, result, sys};

use crate::common::emulator::{Run, on_emulator};

fn code<T>(result: Result<T, DriverError>) -> u32 {
    result.err().map_or(0, |error| error.0 as u32)
}

/// Runs on the emulator with a context that is current.
fn with_context(settings: &[&[(&str, &str)]], body: impl FnOnce()) -> Vec<Run> {
    on_emulator(settings, || {
        let _context = CudaContext::new(0).expect("a device");
        body();
    })
}

#[test]
fn wrong_frees_are_found() {
    let runs = with_context(&[&[]], || {
        // SAFETY: the emulator finds what is wrong here.
        unsafe {
            let a = result::malloc_sync(100).expect("fits");
            assert_eq!(code(result::memory_free(a + 4)), 1);
            assert_eq!(code(result::memory_free(a)), 0);
            assert_eq!(code(result::memory_free(a)), 1);
            let b = result::malloc_sync(100).expect("fits");
            let null = std::ptr::null_mut();
            assert_eq!(code(result::free_async(b, null)), 0);
            assert_eq!(code(result::free_async(b, null)), 1);
            assert_eq!(code(result::malloc_sync(0)), 1);
            assert_eq!(
                code(result::free_async(result::malloc_async(null, 0).expect("null"), null)),
                0
            );
            let pinned = result::malloc_host(64, 0).expect("fits");
            assert_eq!(code(result::memory_free(pinned as u64)), 1);
            assert_eq!(code(result::free_host(pinned)), 0);
        }
    });
    runs[0].passed().found(&["double-free", "double-free", "double-free", "arguments"]);
}

#[test]
fn copies_outside_are_refused() {
    let runs = with_context(&[&[]], || {
        let mut host = [0u8; 128];
        // SAFETY: the host's side is as long as the copies.
        unsafe {
            let a = result::malloc_sync(100).expect("fits");
            let null = std::ptr::null_mut();
            assert_eq!(code(result::memcpy_htod_sync(a, &host[..100])), 0);
            assert_eq!(code(result::memcpy_htod_sync(a, &host[..101])), 1);
            assert_eq!(code(result::memcpy_dtoh_async(&mut host[..100], a + 1, null)), 1);
            assert_eq!(code(result::memset_d8_async(a, 0, 104, null)), 1);
            let b = result::malloc_sync(50).expect("fits");
            assert_eq!(code(result::memcpy_dtod_sync(b, a, 51)), 1);
            assert_eq!(code(result::memory_free(a)), 0);
            assert_eq!(code(result::memcpy_htod_sync(a, &host[..4])), 1);
            assert_eq!(code(result::memory_free(b)), 0);
        }
    });
    let outside = "out-of-bounds";
    runs[0].passed().found(&[outside, outside, outside, outside, "use-after-free"]);
}

#[test]
fn reading_what_was_never_written_is_found() {
    let runs = with_context(&[&[], &[("CHECKS", "-uninitialised")]], || {
        let mut host = [0f32; 4];
        // SAFETY: the ranges are valid.
        unsafe {
            let a = result::malloc_sync(16).expect("fits");
            assert_eq!(code(result::memset_d8_sync(a, 0, 12)), 0);
            assert_eq!(code(result::memcpy_dtoh_sync(&mut host[..3], a)), 0);
            assert_eq!(host, [0.0; 4]);
            assert_eq!(code(result::memcpy_dtoh_sync(&mut host, a)), 0);
            assert!(host[3].is_nan(), "memory is poisoned");
            assert_eq!(code(result::memory_free(a)), 0);
        }
    });
    runs[0].passed().found(&["uninitialised"]);
    runs[1].passed().found(&[]);
}

#[test]
fn rows_pitches_and_patterns_are_honoured() {
    let runs = with_context(&[&[]], || {
        // SAFETY: the ranges are valid, and so is the description of the copy.
        unsafe {
            let (mut a, mut pitch) = (0, 0);
            assert_eq!(sys::cuMemAllocPitch_v2(&raw mut a, &raw mut pitch, 12, 3, 4) as u32, 0);
            assert_eq!(sys::cuMemsetD2D32_v2(a, pitch, 9, 3, 3) as u32, 0);
            assert_eq!(sys::cuMemsetD16_v2(a + pitch as u64, 5, 2) as u32, 0);
            let mut host = [0u32; 9];
            let copy = sys::CUDA_MEMCPY2D {
                srcXInBytes: 4,
                srcY: 1,
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcHost: std::ptr::null(),
                srcDevice: a,
                srcArray: std::ptr::null_mut(),
                srcPitch: pitch,
                dstXInBytes: 0,
                dstY: 1,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: host.as_mut_ptr().cast(),
                dstDevice: 0,
                dstArray: std::ptr::null_mut(),
                dstPitch: 12,
                WidthInBytes: 8,
                Height: 2,
            };
            assert_eq!(sys::cuMemcpy2D_v2(&raw const copy) as u32, 0);
            assert_eq!(host, [0, 0, 0, 9, 9, 0, 9, 9, 0]);
            let mut row = [0u32; 3];
            assert_eq!(code(result::memcpy_dtoh_sync(&mut row, a + pitch as u64)), 0);
            assert_eq!(row, [0x0005_0005, 9, 9]);
            assert_eq!(code(result::memory_free(a)), 0);
        }
    });
    runs[0].passed().found(&[]);
}

#[test]
fn managed_memory_is_the_hosts_too() {
    let lazy: &[(&str, &str)] = &[("STREAMS", "lazy")];
    for run in on_emulator(&[&[], lazy], || {
        let session = super::kernels::session().expect("loads");
        // SAFETY: any bits are a float.
        let mut x = unsafe { session.context.alloc_unified::<f32>(4, true) }.expect("fits");
        x.as_mut_slice().expect("host").copy_from_slice(&[1.0; 4]);
        let add = session.function("add");
        let stream = session.context.default_stream();
        let mut launch = stream.launch_builder(&add);
        launch.arg(&mut x).arg(&4u32).arg(&1f32);
        // SAFETY: these are the kernel's parameters.
        unsafe { launch.launch(LaunchConfig::for_num_elems(4)) }.expect("launched");
        session.context.synchronize().expect("runs");
        assert_eq!(x.as_slice().expect("host"), [2.0; 4]);
    }) {
        run.passed().found(&[]);
    }
}

#[test]
fn pools_and_pointers_can_be_asked() {
    let runs = with_context(&[&[]], || {
        // SAFETY: the pointers are valid for what each attribute has.
        unsafe {
            let mut pool = std::ptr::null_mut();
            assert_eq!(sys::cuDeviceGetDefaultMemPool(&raw mut pool, 0) as u32, 0);
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let mut value = 1u64 << 30;
            assert_eq!(
                sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut value).cast()) as u32,
                0
            );
            value = 0;
            assert_eq!(
                sys::cuMemPoolGetAttribute(pool, threshold, (&raw mut value).cast()) as u32,
                0
            );
            assert_eq!(value, 1 << 30);
            let a = result::malloc_sync(1000).expect("fits");
            let mut base = 0u64;
            let start = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR;
            assert_eq!(
                sys::cuPointerGetAttribute((&raw mut base).cast(), start, a + 999) as u32,
                0
            );
            assert_eq!(base, a);
            assert_eq!(
                sys::cuPointerGetAttribute((&raw mut base).cast(), start, a + 1000) as u32,
                1
            );
            assert_eq!(code(result::memory_free(a)), 0);
        }
    });
    runs[0].passed().found(&[]);
}
