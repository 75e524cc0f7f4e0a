//! Faults of kernels, refused launches and refused modules.

use std::ffi::c_void;

use cudarc::{
    driver::{
        CudaContext, DriverError, LaunchConfig, PushKernelArg, result,
        sys::{self, CUfunction_attribute},
    },
    nvrtc::Ptx,
};

use super::kernels::{KERNELS, session};
use crate::common::{driver::Session, emulator::on_emulator};

fn code<T>(result: Result<T, DriverError>) -> u32 {
    result.err().map_or(0, |error| error.0 as u32)
}

#[test]
fn a_fault_shows_at_the_next_wait_and_stays() {
    let lazy: &[(&str, &str)] = &[("STREAMS", "lazy")];
    for run in on_emulator(&[&[], lazy], || {
        let session = session().expect("loads");
        let mut x = session.stream.alloc_zeros::<f32>(10).expect("fits");
        let outside = session.function("outside");
        let mut launch = session.stream.launch_builder(&outside);
        launch.arg(&mut x).arg(&10u32);
        let config =
            LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: these are the kernel's parameters; the emulator finds that it writes outside.
        assert_eq!(code(unsafe { launch.launch(config) }), 0);
        assert_eq!(code(session.stream.synchronize()), 700);
        assert_eq!(code(session.stream.clone_dtoh(&x)), 700);
        assert_eq!(code(session.context.new_event(None)), 700);
        std::mem::forget(x); // what is lost cannot be freed
    }) {
        run.passed().found(&["out-of-bounds"]);
    }
}

#[test]
fn a_trap_is_a_launch_failure() {
    for run in on_emulator(&[&[]], || {
        let session = session().expect("loads");
        let fail = session.function("fail");
        let config =
            LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
        let mut launch = session.stream.launch_builder(&fail);
        // SAFETY: it has no parameters.
        assert_eq!(code(unsafe { launch.launch(config) }), 0);
        assert_eq!(code(session.context.synchronize()), 719);
    }) {
        run.passed().found(&["trap"]);
    }
}

#[test]
fn launches_are_held_to_the_limits() {
    let runs = on_emulator(&[&[]], || {
        let session = session().expect("loads");
        let launch = |name: &str, grid, block, shared, cooperative: bool| {
            let function = session.function(name);
            let start =
                if cooperative { result::launch_cooperative_kernel } else { result::launch_kernel };
            let stream = session.stream.cu_stream();
            // SAFETY: these kernels have no parameters.
            code(unsafe { start(function.cu_function(), grid, block, shared, stream, &mut []) })
        };
        let one = (1, 1, 1);
        assert_eq!(launch("bounded", one, (64, 1, 1), 0, false), 0);
        assert_eq!(launch("bounded", one, (65, 1, 1), 0, false), 1);
        assert_eq!(launch("registers", one, (512, 1, 1), 0, false), 0);
        assert_eq!(launch("registers", one, (513, 1, 1), 0, false), 701);
        assert_eq!(launch("shared", one, (1025, 1, 1), 0, false), 1);
        assert_eq!(launch("shared", (1, 65_536, 1), one, 0, false), 1);
        assert_eq!(launch("shared", (0, 1, 1), one, 0, false), 1);
        assert_eq!(launch("shared", one, one, 47 << 10, false), 0);
        assert_eq!(launch("shared", one, one, 48 << 10, false), 1);
        assert_eq!(launch("shared", (82, 1, 1), (1024, 1, 1), 0, true), 0);
        assert_eq!(launch("shared", (83, 1, 1), (1024, 1, 1), 0, true), 720);
        let function = session.function("shared");
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(function.set_attribute(attribute, 99 << 10)), 1);
        assert_eq!(code(function.set_attribute(attribute, 98 << 10)), 0);
        assert_eq!(launch("shared", one, one, 98 << 10, false), 0);
        assert_eq!(function.get_attribute(attribute), Ok(98 << 10));
        assert_eq!(code(session.stream.synchronize()), 0);
    });
    runs[0]
        .passed()
        .found(&["launch-limit"; 7])
        .says("launch bound is 64")
        .says("513 threads of about 128 registers")
        .says("83 cooperating");
}

#[test]
fn arguments_are_checked_as_far_as_they_can_be() {
    let runs = on_emulator(&[&[]], || {
        let session = session().expect("loads");
        let x = session.stream.clone_htod(&[1f32; 4]).expect("copied");
        let address = result_address(&session, &x);
        let function = session.function("add");
        let launch = |params: *mut *mut c_void, extra: *mut *mut c_void| {
            let (f, stream) = (function.cu_function(), session.stream.cu_stream());
            // SAFETY: params and extra are null or as long as the kernel's parameters need.
            unsafe { sys::cuLaunchKernel(f, 1, 1, 1, 4, 1, 1, 0, stream, params, extra) as u32 }
        };
        let null = std::ptr::null_mut();
        assert_eq!(launch(null, null), 1);
        let (mut n, mut address) = (4u32, address);
        let first = (&raw mut address).cast::<c_void>();
        let mut params = [first, (&raw mut n).cast(), null.cast()];
        assert_eq!(launch(params.as_mut_ptr(), null), 1);
        let mut block = [0u8; 16];
        block[..8].copy_from_slice(&address.to_le_bytes());
        block[8..12].copy_from_slice(&4u32.to_le_bytes());
        block[12..].copy_from_slice(&5f32.to_le_bytes());
        for (mut size, expected) in [(15usize, 1), (16, 0)] {
            let mut extra = [
                std::ptr::without_provenance_mut(1),
                block.as_mut_ptr().cast(),
                std::ptr::without_provenance_mut(2),
                (&raw mut size).cast(),
                null.cast(),
            ];
            assert_eq!(launch(null, extra.as_mut_ptr()), expected);
            assert_eq!(launch(params.as_mut_ptr(), extra.as_mut_ptr()), 1);
        }
        assert_eq!(session.stream.clone_dtoh(&x), Ok(vec![6f32; 4]));
    });
    runs[0].passed().found(&["arguments"; 4]);
    runs[0]
        .says("no arguments for 3 parameters")
        .says("argument 2, ")
        .says("15 bytes of arguments");
}

fn result_address(session: &Session, x: &cudarc::driver::CudaSlice<f32>) -> u64 {
    use cudarc::driver::DevicePtr;
    x.device_ptr(&session.stream).0
}

#[test]
fn modules_that_the_device_cannot_take_are_refused() {
    let old: &[(&str, &str)] = &[("DRIVER", "11.8")];
    let runs = on_emulator(&[&[], old], || {
        let context = CudaContext::new(0).expect("a device");
        let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
        println!("good {}", load(KERNELS));
        println!("target {}", load(&KERNELS.replace("sm_80", "sm_90")));
        println!("opcode {}", load(&KERNELS.replace("add.f32", "add.f31")));
        println!("syntax {}", load(".version 7.0\n.target sm_80\n.visible nonsense"));
        println!("cubin {}", load("\u{7f}ELF"));
        println!("file {}", code(context.load_module(Ptx::from_file("/nowhere.ptx"))));
        let module = context.load_module(Ptx::from_src(KERNELS.replace("8.0", "7.0")));
        println!("function {}", code(module.expect("loads").load_function("nothing")));
    });
    for (line, codes) in [
        ("good", ["0", "222"]),
        ("target", ["218", "222"]),
        ("opcode", ["218", "222"]),
        ("syntax", ["218", "218"]),
        ("cubin", ["209", "209"]),
        ("file", ["301", "301"]),
        ("function", ["500", "500"]),
    ] {
        for (run, code) in runs.iter().zip(codes) {
            run.passed().says(&format!("{line} {code}\n"));
        }
    }
    runs[0].says("sm_90 cannot be compiled for sm_86").says("add.f31");
    runs[1].says("PTX version 8.0 is newer than 7.8");
}

#[test]
fn the_jit_log_has_the_reason() {
    let runs = on_emulator(&[&[]], || {
        let _context = CudaContext::new(0).expect("a device");
        let text = std::ffi::CString::new(KERNELS.replace("sm_80", "sm_90")).expect("no NUL");
        let mut log = [1u8; 64];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        ];
        let mut values = [log.len() as *mut c_void, log.as_mut_ptr().cast()];
        let mut module = std::ptr::null_mut();
        // SAFETY: text, options and values are as the function expects.
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &raw mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        assert_eq!(code as u32, 218);
        let end = log.iter().position(|&byte| byte == 0).expect("terminated");
        let text = std::str::from_utf8(&log[..end]).expect("text");
        assert_eq!(text, "target sm_90 cannot be compiled for sm_86");
    });
    runs[0].passed();
}
