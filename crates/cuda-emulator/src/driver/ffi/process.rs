//! The process: its one state, entering it, and its end.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError, TryLockError},
};

use crate::driver::{
    error::{Code, Status, describe},
    ffi::{
        api,
        pointers::{Out, is_calling_back},
    },
    settings::Settings,
    state::State,
};

static STATE: LazyLock<Mutex<State>> =
    LazyLock::new(|| Mutex::new(State::new(Settings::from_environment())));

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
    fn fflush(stream: *mut std::ffi::c_void) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// Functions that work before `cuInit`.
const ALWAYS: [&str; 6] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
];

fn lock() -> MutexGuard<'static, State> {
    // A panic is reported where it is caught; the state stays usable for the calls after it.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of an exported function. No panic leaves it.
pub(super) fn enter(name: &'static str, body: impl FnOnce(&mut State) -> Status) -> u32 {
    if is_calling_back() {
        return Code::NOT_PERMITTED.0;
    }
    catch_unwind(AssertUnwindSafe(|| {
        let mut state = lock();
        let result = run(&mut state, name, body);
        let code = result.err().map_or(0, |code| code.0);
        if state.settings.log {
            let text = describe(code).map_or_else(String::new, |(n, _)| n.to_string_lossy().into());
            eprintln!("cuda-emulator: {name} -> {code} {text}");
        }
        if state.journal.unwritten {
            state.write_report();
        }
        code
    }))
    .unwrap_or(Code::UNKNOWN.0)
}

fn run(state: &mut State, name: &'static str, body: impl FnOnce(&mut State) -> Status) -> Status {
    let call = state.journal.call(name);
    let failure = state.settings.fail.iter().find(|f| f.hits(name, call));
    if let Some(failure) = failure {
        eprintln!("cuda-emulator: {name}, call {call}: returns {} as set", failure.code);
        return Err(Code(failure.code));
    }
    if !state.initialised && !ALWAYS.contains(&name) {
        return Err(Code::NOT_INITIALIZED);
    }
    catch_unwind(AssertUnwindSafe(|| body(state))).unwrap_or_else(|_| {
        eprintln!("cuda-emulator: internal error in {name}");
        Err(Code::UNKNOWN)
    })
}

/// A function that is exported but does nothing.
pub(super) fn unsupported(name: &'static str) -> u32 {
    enter(name, |state| {
        state.journal.warn(format!("{name} is not supported"));
        Err(Code::NOT_SUPPORTED)
    })
}

/// At the end of the process. Another thread may be inside a call that never ends.
extern "C" fn at_exit() {
    let code = catch_unwind(|| match STATE.try_lock() {
        Ok(mut state) => state.exit(),
        Err(TryLockError::Poisoned(state)) => state.into_inner().exit(),
        Err(TryLockError::WouldBlock) => None,
    });
    if let Ok(Some(code)) = code {
        // SAFETY: a null stream means all streams, and `_exit` takes any code. What other handlers
        // would still do is given up for the exit code, which cannot be changed otherwise.
        unsafe {
            fflush(std::ptr::null_mut());
            _exit(code);
        }
    }
}

fn register_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is a plain function that lives as long as this library.
        if unsafe { atexit(at_exit) } != 0 {
            eprintln!("cuda-emulator: no report at exit: atexit failed");
        }
    });
}

api! {
    fn cuInit(s, flags: u32) {
        s.init(flags)?;
        register_at_exit();
        Ok(())
    }
    fn cuDriverGetVersion(s, version: Out<i32>) {
        version.set(s.settings.driver as i32)
    }
    fn cuGetErrorString(_s, error: u32, text: Out<usize>) {
        let (_, description) = describe(error).ok_or(Code::INVALID_VALUE)?;
        text.set(description.as_ptr().expose_provenance())
    }
    fn cuGetErrorName(_s, error: u32, text: Out<usize>) {
        let (name, _) = describe(error).ok_or(Code::INVALID_VALUE)?;
        text.set(name.as_ptr().expose_provenance())
    }
    fn cuProfilerStart(_s) { Ok(()) }
    fn cuProfilerStop(_s) { Ok(()) }
}
