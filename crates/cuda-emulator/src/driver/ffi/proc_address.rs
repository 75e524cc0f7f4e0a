//! `cuGetProcAddress`: functions by name, for programs that do not link to their symbols.

use crate::driver::{
    error::{Code, Status},
    ffi::{
        api, context, copy, device, event, graph, launch, memory, module,
        pointers::{Out, Text},
        pool, process, stream, unsupported,
    },
};

/// Versions of functions that a program gets only if it was made for that CUDA version or a newer.
const SINCE: [(&str, i32); 5] = [
    ("cuCtxCreate_v3", 11_040),
    ("cuCtxCreate_v4", 12_050),
    ("cuMemPrefetchAsync_v2", 12_020),
    ("cuMemAdvise_v2", 12_020),
    ("cuGraphExecUpdate_v2", 12_000),
];

/// The newest version of a function that a program for `version` can call.
fn find(name: &str, version: i32) -> Option<usize> {
    let modelled = [
        context::exports(),
        copy::exports(),
        device::exports(),
        event::exports(),
        graph::exports(),
        launch::exports(),
        memory::exports(),
        module::exports(),
        pool::exports(),
        process::exports(),
        stream::exports(),
        exports(),
        unsupported::exports(),
    ]
    .concat();
    ["_v4", "_v3", "_v2", ""].into_iter().find_map(|suffix| {
        let versioned = format!("{name}{suffix}");
        let late = SINCE.iter().any(|(late, since)| *late == versioned && version < *since);
        let export = modelled.iter().find(|(export, _)| *export == versioned);
        export.filter(|_| !late).map(|(_, address)| *address)
    })
}

fn set(name: Text, function: Out<usize>, version: i32, flags: u64, found: Out<u32>) -> Status {
    const PER_THREAD: u64 = 2;
    const NOT_FOUND: u32 = 1;
    let name = name.get()?;
    // The functions are those of the legacy default stream.
    let Some(address) = find(&name, version).filter(|_| flags & PER_THREAD == 0) else {
        found.set_if_wanted(NOT_FOUND);
        function.set(0)?;
        return Err(Code::NOT_FOUND);
    };
    found.set_if_wanted(0);
    function.set(address)
}

api! {
    fn cuGetProcAddress_v2(_s, name: Text, function: Out<usize>, version: i32, flags: u64, found: Out<u32>) {
        set(name, function, version, flags, found)
    }
    fn cuGetProcAddress(_s, name: Text, function: Out<usize>, version: i32, flags: u64) {
        set(name, function, version, flags, Out::null())
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn names_find_the_version_that_was_asked_for() {
        let get = |name, version| find(name, version);
        assert_eq!(get("cuMemAlloc", 12_080), get("cuMemAlloc_v2", 12_080));
        assert!(get("cuMemAlloc", 12_080).is_some());
        assert_eq!(get("cuCtxCreate", 11_000), get("cuCtxCreate_v2", 11_000));
        assert_eq!(get("cuCtxCreate", 12_080), get("cuCtxCreate_v4", 12_080));
        assert!(get("cuGetProcAddress", 12_080).is_some());
        assert_eq!(get("cuNothing", 12_080), None);
    }
}
