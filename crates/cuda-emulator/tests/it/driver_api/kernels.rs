//! The kernels of these tests, written as PTX so that they need no compiler.

use cudarc::driver::DriverError;

use crate::common::driver::Session;

/// The kernels, and a stream that does not keep order by itself.
pub(crate) fn session() -> Result<Session, DriverError> {
    let session = Session::new(KERNELS.into())?;
    // SAFETY: the tests order their streams themselves, or mean not to.
    unsafe { session.context.disable_event_tracking() };
    Ok(session)
}

/// `add`: x[i] += value for i < n. `outside`: writes 4 bytes at x + 4 n. `assert`: traps.
/// `bounded` has a launch bound of 64, `registers` 128 of them a thread; `shared` 1 KiB of static shared memory.
pub(crate) const KERNELS: &str = r"
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .u32 counter = 7;

.visible .entry add(.param .u64 x, .param .u32 n, .param .f32 value)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    ld.param.f32 %f1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    add.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}

.visible .entry outside(.param .u64 x, .param .u32 n)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r1;
    ret;
}

.visible .entry fail()
{
    trap;
    ret;
}

.visible .entry bounded()
.maxntid 64, 1, 1
{
    ret;
}

.visible .entry registers()
.maxnreg 128
{
    ret;
}

.visible .entry shared()
{
    .shared .align 4 .b8 buffer[1024];
    ret;
}
";
