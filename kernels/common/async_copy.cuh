// Copies from global to shared memory that do not wait.
#pragma once

#include <stdint.h>

// Copies `bytes` (0 or 16) and fills the rest of the 16 with zeros; without bytes, `from` is not read.
__device__ __forceinline__ void async_copy(uint32_t to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Copies four bytes, or fills them with zeros.
__device__ __forceinline__ void async_copy_word(uint32_t to, const void* from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(present ? 4 : 0) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups but the last `kPending`.
template <int kPending>
__device__ __forceinline__ void async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
