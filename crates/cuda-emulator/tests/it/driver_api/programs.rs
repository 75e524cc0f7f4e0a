//! Whole programs, and what the driver says of itself.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, result, sys};

use super::kernels::session;
use crate::common::emulator::on_emulator;

#[test]
fn a_program_runs_and_is_reported() {
    let eager: &[(&str, &str)] = &[("TABLE", "1"), ("LOG", "1")];
    let runs = on_emulator(&[eager, &[("STREAMS", "lazy"), ("SEED", "5")]], || {
        let session = session().expect("loads");
        let add = session.function("add");
        let mut x = session.stream.clone_htod(&vec![1f32; 1000]).expect("copied");
        for value in [2f32, 3.0] {
            let config = LaunchConfig::for_num_elems(1000);
            let mut launch = session.stream.launch_builder(&add);
            launch.arg(&mut x).arg(&1000u32).arg(&value);
            // SAFETY: these are the kernel's parameters.
            unsafe { launch.launch(config) }.expect("launched");
        }
        assert_eq!(session.stream.clone_dtoh(&x).expect("copied"), vec![6f32; 1000]);
        let counter = session.module.get_global("counter", &session.stream).expect("there");
        assert_eq!(session.stream.clone_dtoh(&counter), Ok(7u32.to_le_bytes().to_vec()));
    });
    for run in &runs {
        run.passed().found(&[]);
        assert_eq!(run.report["kernels"]["add"]["launches"], 2);
        assert_eq!(run.report["kernels"]["add"]["global_load_bytes"], 8000);
        assert_eq!(run.report["calls"]["cuLaunchKernel"], 2);
        assert_eq!(run.report["kernels"]["add"]["bound"]["label"], "bound from counts, not a time");
    }
    runs[0].says("cuLaunchKernel -> 0 CUDA_SUCCESS").says("(bound from counts, not a time)");
}

#[test]
fn the_device_is_the_profiles() {
    let body = || {
        let context = CudaContext::new(0).expect("a device");
        println!(
            "{} {:?} {:?}",
            context.name().expect("named"),
            context.compute_capability().expect("known"),
            context.mem_get_info().expect("known")
        );
        let unknown = unsafe {
            // SAFETY: the value has the layout of an attribute's number, which C does not restrict.
            let attribute: sys::CUdevice_attribute =
                std::mem::transmute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX as u32);
            result::device::get_attribute(0, attribute)
        };
        println!("{unknown:?}");
        assert!(CudaContext::new(1).is_err());
    };
    let a100: &[(&str, &str)] = &[("PROFILE", "a100"), ("MEMORY", "1MiB")];
    let runs = on_emulator(&[&[], a100], body);
    runs[0].passed().says("NVIDIA GeForce RTX 3090 (8, 6) (25769803776, 25769803776)");
    runs[1].passed().says("NVIDIA A100-SXM4-40GB (8, 0) (1048576, 1048576)");
}

#[test]
fn settings_are_checked_and_failures_are_made() {
    let body = || match CudaContext::new(0) {
        Err(error) => println!("init {error:?}"),
        Ok(context) => {
            let stream = context.default_stream();
            for call in 1..4 {
                // SAFETY: nobody reads it.
                match unsafe { stream.alloc::<u8>(16) } {
                    Ok(_) => println!("call {call} works"),
                    Err(error) => println!("call {call} {}", error.0 as u32),
                }
            }
        }
    };
    let invalid: &[(&str, &str)] = &[("STREAMS", "sometimes")];
    let fail: &[(&str, &str)] = &[("FAIL", "cuMemAllocAsync:2:2"), ("COLOUR", "blue")];
    let small: &[(&str, &str)] = &[("MEMORY", "8B")];
    let runs = on_emulator(&[invalid, fail, small], body);
    runs[0].says("CUDA_EMULATOR_STREAMS=sometimes: expected eager or lazy").says("INVALID_VALUE");
    runs[1].passed().says("call 1 works").says("call 2 2").says("call 3 works");
    runs[1].says("CUDA_EMULATOR_COLOUR is not a setting");
    runs[2].passed().says("call 1 2").says("16 bytes requested");
}

#[test]
fn findings_can_fail_the_process() {
    let three: &[(&str, &str)] = &[("EXIT_CODE", "3")];
    let without: &[(&str, &str)] = &[("EXIT_CODE", "3"), ("CHECKS", "all,-leak")];
    let runs = on_emulator(&[three, without, &[]], || {
        let context = CudaContext::new(0).expect("a device");
        // SAFETY: nobody reads it.
        let leak = unsafe { context.default_stream().alloc::<u8>(300) }.expect("fits");
        std::mem::forget(leak);
    });
    assert_eq!(runs[0].code, Some(3), "{}", runs[0].output);
    runs[0].found(&["leak"]).says("300 bytes at").says("allocation 1 of the process");
    runs[0].says("1 findings: 1 leak");
    runs[1].passed().found(&[]);
    runs[2].passed().found(&["leak"]);
}

#[test]
fn what_is_not_emulated_says_so() {
    let runs = on_emulator(&[&[]], || {
        let _context = CudaContext::new(0).expect("a device");
        let mut clusters = 0;
        // SAFETY: the function reads nothing.
        let call = |count: &mut i32| unsafe {
            sys::cuOccupancyMaxActiveClusters(count, std::ptr::null_mut(), std::ptr::null())
        };
        assert_eq!(call(&mut clusters), sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(call(&mut clusters), sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
    });
    runs[0].passed().says("cuOccupancyMaxActiveClusters is not supported");
    assert_eq!(runs[0].output.matches("is not supported").count(), 1);
    assert_eq!(runs[0].report["warnings"]["cuOccupancyMaxActiveClusters is not supported"], 2);
}

#[test]
fn everything_cudarc_calls_before_a_context_needs_init() {
    let runs = on_emulator(&[&[]], || {
        assert_eq!(
            result::device::get(0).map_err(|e| e.0),
            Err(sys::CUresult::CUDA_ERROR_NOT_INITIALIZED)
        );
        result::init().expect("starts");
        let mut address = 0;
        // SAFETY: the pointer is valid.
        let code = unsafe { sys::cuMemAlloc_v2(&raw mut address, 16) };
        assert_eq!(code, sys::CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
    runs[0].passed();
}
