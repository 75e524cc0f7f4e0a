//! The ledger of the CPU backend, and what the CUDA backend asks the driver for.

use kernels::{Backend, Buffer, Cpu, DType, HostSlice, MemoryKind};
use nf4::QuantConfig;

fn live(cpu: &Cpu, kind: MemoryKind) -> usize {
    let usage = cpu.memory();
    usage.live.iter().find(|(k, _)| *k == kind).unwrap().1
}

#[test]
fn buffers_are_counted_while_they_live() {
    let cpu = Cpu::new();
    let a = cpu.alloc(DType::F32, 100, MemoryKind::Activations).unwrap();
    let b = cpu.clone().zeros(DType::Bf16, 50, MemoryKind::Gradients).unwrap();
    let ids = cpu.upload(HostSlice::U32(&[1, 2, 3]), MemoryKind::Data).unwrap();
    assert_eq!((a.bytes(), b.bytes(), ids.bytes()), (400, 100, 12));
    assert_eq!(live(&cpu, MemoryKind::Activations), 400);
    assert_eq!(live(&cpu, MemoryKind::Gradients), 100);
    assert_eq!(live(&cpu, MemoryKind::Data), 12);
    drop((a, b, ids));
    assert!(cpu.memory().live.iter().all(|(_, bytes)| *bytes == 0));
    assert_eq!(cpu.memory().peak, 512);
}

#[test]
fn quantized_weights_are_counted_apart_from_their_scales() {
    let cpu = Cpu::new();
    let weight = nf4::quantize("w", &[0.5_f32; 640], &[10, 64], &QuantConfig::default()).unwrap();
    let (bytes, packed) = (weight.bytes(), weight.packed().len());
    let weight = cpu.upload_quantized(weight).unwrap();
    assert_eq!(live(&cpu, MemoryKind::Weights), packed);
    assert_eq!(live(&cpu, MemoryKind::QuantState), bytes - packed);
    drop(weight);
    assert!(cpu.memory().live.iter().all(|(_, bytes)| *bytes == 0));
}

#[test]
fn reused_memory_is_zeroed_where_asked_for() {
    let cpu = Cpu::new();
    for dtype in [DType::F32, DType::Bf16] {
        let ones = crate::support::upload(&cpu, dtype, &[1.0; 33]);
        drop(ones);
        let zeros = cpu.zeros(dtype, 33, MemoryKind::Workspace).unwrap();
        assert_eq!(cpu.download(&zeros).unwrap(), [0.0; 33]);
    }
    let ones = cpu.upload(HostSlice::U32(&[1; 5]), MemoryKind::Data).unwrap();
    drop(ones);
    let zeros = cpu.zeros(DType::U32, 5, MemoryKind::Data).unwrap();
    assert_eq!(zeros.as_u32(), Some(&[0; 5][..]));
    let ones = cpu.upload(HostSlice::U8(&[1; 5]), MemoryKind::Data).unwrap();
    drop(ones);
    let zeros = cpu.zeros(DType::U8, 5, MemoryKind::Data).unwrap();
    assert_eq!((zeros.as_u8(), zeros.bytes()), (Some(&[0; 5][..]), 5));
}

#[test]
fn reused_memory_counts_what_was_asked_for() {
    let cpu = Cpu::new();
    for len in [1_030, 1_026, 1_100] {
        let mut buffer = cpu.zeros(DType::F32, len, MemoryKind::Workspace).unwrap();
        assert_eq!((buffer.len(), live(&cpu, MemoryKind::Workspace)), (len, 4 * len));
        assert_eq!(cpu.download(&buffer).unwrap(), vec![0.0; len]);
        let ones = crate::support::upload(&cpu, DType::F32, &vec![1.0; len]);
        cpu.add_assign(&mut buffer, &ones).unwrap();
    }
}

/// Buffers of all sizes that come and go, in the order of a step, over several chunks of the driver's memory.
#[cfg(feature = "cuda")]
fn step_of_buffers(k: &kernels::Cuda) {
    let mut held = std::collections::VecDeque::new();
    for i in 0..200_usize {
        let len = (i * 7_919 % 97 + 1) << (i % 17);
        held.push_back(k.alloc(DType::F32, len, MemoryKind::Workspace).unwrap());
        if i % 3 > 0 {
            let other = if i % 2 == 0 { held.pop_front() } else { held.swap_remove_back(i % 7) };
            drop(other);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_steps_after_the_first_allocate_nothing() {
    use crate::child;
    if child::results().is_some() {
        let steps: usize = std::env::var("STEPS").unwrap().parse().unwrap();
        let k = crate::cuda();
        let _weights = k.zeros(DType::U8, 3 << 20, MemoryKind::Weights).unwrap();
        (0..steps).for_each(|_| step_of_buffers(&k));
        return;
    }
    if !child::emulated() {
        return;
    }
    let allocations = |steps| {
        let variables = [("STEPS", steps), ("QLORA_CUDA_ALLOCATIONS", "shared")];
        let name = "memory::cuda_steps_after_the_first_allocate_nothing";
        child::run(name, &variables).report["calls"]["cuMemAlloc_v2"].as_u64().unwrap()
    };
    let first = allocations("1");
    assert!(first > 4, "{first} chunks");
    assert_eq!(allocations("6"), first);
}
