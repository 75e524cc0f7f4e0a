//! Loads that the compiler widened: bytes that a pragma calls unused need not have been written.

use cuda_emulator::{exec::Settings, findings::Check, ptx::parse};

use crate::common::{
    case::{Arg, Buffer, Case, Launch},
    direct,
};

/// Three of four words are written, then all four are read.
fn text(space: &str, mask: u32) -> String {
    format!(
        ".version 8.3\n.target sm_80\n.address_size 64\n
        .visible .entry k(.param .u64 out) {{
            .reg .b32 %r<8>;
            .reg .b64 %rd<8>;
            .shared .align 16 .b8 cells[1024];
            ld.param.u64 %rd1, [out];
            cvta.to.global.u64 %rd2, %rd1;
            mov.u32 %r0, %tid.x;
            mul.wide.u32 %rd3, %r0, 16;
            mov.u64 %rd4, cells;
            add.u64 %rd5, %rd3, {base};
            st.{space}.v2.u32 [%rd5], {{%r0, %r0}};
            st.{space}.u32 [%rd5+8], %r0;
            .pragma \"used_bytes_mask {mask}\";
            ld.{space}.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd5];
            ret;
        }}",
        base = if space == "shared" { "%rd4" } else { "%rd2" }
    )
}

#[test]
fn unused_bytes_are_not_checked() {
    let launches = vec![Launch::line("k", 1, 64, vec![Arg::Buffer(0)])];
    let buffers = vec![Buffer::Unwritten(1024)];
    let case = Case { label: "used_bytes".into(), buffers, launches, expected: vec![] };
    for space in ["shared", "global"] {
        for (mask, missing) in [(0x0fff, None), (0xffff, Some(12)), (0x4fff, Some(14)), (0xc, None)]
        {
            let module = parse(&text(space, mask)).expect("it is PTX");
            let outcome = direct::run(&module, &case, &Settings::default()).expect("it loads");
            let found: Vec<_> = outcome.findings.iter().map(|f| (f.check, f.address)).collect();
            let kind = found.first().map(|&(check, _)| check);
            assert_eq!(kind, missing.map(|_| Check::Uninitialised), "{space} {mask:#x}");
            assert_eq!(found.len(), usize::from(missing.is_some()), "{space} {mask:#x}");
            let offset = found.first().and_then(|&(_, at)| at).map(|at| at % 16);
            assert_eq!(offset, missing, "{space} {mask:#x}");
        }
    }
}

#[test]
fn a_mask_that_is_none_is_an_error() {
    for mask in ["", "x", "0", "65536"] {
        let text = text("shared", 1).replace("mask 1", &format!("mask {mask}"));
        let error = parse(&text).expect_err("no mask").to_string();
        assert!(error.contains("used_bytes_mask"), "{error}");
    }
}
