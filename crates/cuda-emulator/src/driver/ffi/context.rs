//! `cuCtx…` and `cuDevicePrimaryCtx…`.

use crate::driver::{
    context::current,
    error::Code,
    ffi::{
        api,
        pointers::{In, Out},
    },
    state::State,
    streams::PRIORITIES,
};

/// `cuCtxGetApiVersion`'s answer.
const API_VERSION: u32 = 3020;

/// `CUctxCreateParams`: execution affinity, its count and graphics parameters.
#[derive(Clone, Copy)]
#[repr(C)]
struct CreateParams {
    affinity: usize,
    affinities: i32,
    graphics: usize,
}

api! {
    fn cuCtxCreate_v2(s, context: Out<u64>, flags: u32, device: i32) {
        check_device(device)?;
        context.set(s.create_context(flags))
    }
    fn cuCtxCreate_v3(s, context: Out<u64>, _affinity: In<u8>, affinities: i32, flags: u32, device: i32) {
        check_device(device)?;
        if affinities != 0 {
            s.journal.warn("execution affinity is not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        context.set(s.create_context(flags))
    }
    fn cuCtxCreate_v4(s, context: Out<u64>, params: In<CreateParams>, flags: u32, device: i32) {
        check_device(device)?;
        if !params.is_null() {
            let CreateParams { affinity: _, affinities, graphics } = params.get()?;
            if affinities != 0 || graphics != 0 {
                s.journal.warn("execution affinity and graphics contexts are not supported".into());
                return Err(Code::NOT_SUPPORTED);
            }
        }
        context.set(s.create_context(flags))
    }
    fn cuCtxDestroy_v2(s, context: u64) { s.destroy_context(context) }
    fn cuCtxGetCurrent(_s, context: Out<u64>) { context.set(current()) }
    fn cuCtxSetCurrent(s, context: u64) { s.set_current(context) }
    fn cuCtxPushCurrent_v2(s, context: u64) { s.push_current(context) }
    fn cuCtxPopCurrent_v2(_s, context: Out<u64>) {
        let popped = State::pop_current()?;
        context.set_if_wanted(popped);
        Ok(())
    }
    fn cuCtxGetDevice(s, device: Out<i32>) {
        s.contexts.get(current())?;
        device.set(0)
    }
    fn cuCtxGetId(s, context: u64, id: Out<u64>) {
        let context = if context == 0 { current() } else { context };
        s.contexts.get(context)?;
        id.set(context)
    }
    fn cuCtxGetApiVersion(s, context: u64, version: Out<u32>) {
        if context != 0 {
            s.contexts.get(context)?;
        }
        version.set(API_VERSION)
    }
    fn cuCtxSynchronize(s) {
        let context = s.context()?;
        s.synchronize_context(context)
    }
    fn cuCtxGetFlags(s, flags: Out<u32>) {
        let context = s.context()?;
        flags.set(s.contexts.get(context)?.flags)
    }
    fn cuCtxSetFlags(s, flags: u32) {
        let context = s.context()?;
        s.contexts.get_mut(context)?.flags = flags;
        Ok(())
    }
    fn cuCtxGetLimit(s, value: Out<usize>, limit: u32) {
        let context = s.context()?;
        let limit = s.contexts.get(context)?.limits.get(&limit).copied();
        value.set(limit.ok_or(Code::UNSUPPORTED_LIMIT)?)
    }
    fn cuCtxSetLimit(s, limit: u32, value: usize) {
        let context = s.context()?;
        let limit = s.contexts.get_mut(context)?.limits.get_mut(&limit);
        *limit.ok_or(Code::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }
    fn cuCtxGetCacheConfig(s, config: Out<u32>) {
        let context = s.context()?;
        config.set(s.contexts.get(context)?.cache_config)
    }
    fn cuCtxSetCacheConfig(s, config: u32) {
        let context = s.context()?;
        if config > 3 {
            return Err(Code::INVALID_VALUE);
        }
        s.contexts.get_mut(context)?.cache_config = config;
        Ok(())
    }
    fn cuCtxGetStreamPriorityRange(s, least: Out<i32>, greatest: Out<i32>) {
        s.context()?;
        least.set_if_wanted(PRIORITIES.0);
        greatest.set_if_wanted(PRIORITIES.1);
        Ok(())
    }
    fn cuDevicePrimaryCtxRetain(s, context: Out<u64>, device: i32) {
        check_device(device)?;
        context.set(s.retain_primary())
    }
    fn cuDevicePrimaryCtxRelease_v2(s, device: i32) {
        check_device(device)?;
        s.release_primary()
    }
    fn cuDevicePrimaryCtxReset_v2(s, device: i32) {
        check_device(device)?;
        s.reset_primary();
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState(s, device: i32, flags: Out<u32>, active: Out<i32>) {
        check_device(device)?;
        let context = s.primary.and_then(|id| s.contexts.get(id).ok());
        flags.set(context.map_or(0, |context| context.flags))?;
        active.set(context.is_some().into())
    }
    fn cuDevicePrimaryCtxSetFlags_v2(s, device: i32, flags: u32) {
        check_device(device)?;
        if let Some(id) = s.primary && let Ok(context) = s.contexts.get_mut(id) {
            context.flags = flags;
        }
        Ok(())
    }
}

/// There is one device.
pub(super) fn check_device(device: i32) -> crate::driver::error::Status {
    if device == 0 { Ok(()) } else { Err(Code::INVALID_DEVICE) }
}
