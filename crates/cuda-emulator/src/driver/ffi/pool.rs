//! Stream-ordered allocation.

use crate::driver::{
    error::Code,
    ffi::{
        api,
        context::check_device,
        pointers::{In, Out},
    },
    state::{Pool, State},
};

api! {
    fn cuMemAllocAsync(s, address: Out<u64>, bytes: usize, stream: u64) {
        let pool = s.current_pool;
        address.set(s.allocate_async("cuMemAllocAsync", bytes as u64, pool, stream)?)
    }
    fn cuMemAllocFromPoolAsync(s, address: Out<u64>, bytes: usize, pool: u64, stream: u64) {
        address.set(s.allocate_async("cuMemAllocFromPoolAsync", bytes as u64, pool, stream)?)
    }
    fn cuMemFreeAsync(s, address: u64, stream: u64) { s.free_async(address, stream) }
    fn cuDeviceGetDefaultMemPool(s, pool: Out<u64>, device: i32) {
        check_device(device)?;
        pool.set(s.default_pool)
    }
    fn cuDeviceGetMemPool(s, pool: Out<u64>, device: i32) {
        check_device(device)?;
        pool.set(s.current_pool)
    }
    fn cuDeviceSetMemPool(s, device: i32, pool: u64) {
        check_device(device)?;
        s.pools.get(pool)?;
        s.current_pool = pool;
        Ok(())
    }
    fn cuMemPoolCreate(s, pool: Out<u64>, properties: In<[u32; 4]>) {
        // Allocation type, handle types, location type and its number.
        let [kind, handles, location, device] = properties.get()?;
        if kind != 1 || location != 1 || device != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if handles != 0 {
            s.journal.warn("memory pools with shareable handles are not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        let id = s.fresh();
        pool.set(s.pools.insert(id, Pool::default()))
    }
    fn cuMemPoolDestroy(s, pool: u64) {
        if pool == s.default_pool {
            return Err(Code::INVALID_VALUE);
        }
        s.pools.remove(pool)?;
        if s.current_pool == pool {
            s.current_pool = s.default_pool;
        }
        Ok(())
    }
    fn cuMemPoolTrimTo(s, pool: u64, _keep: usize) { s.pools.get(pool).map(drop) }
    fn cuMemPoolGetAttribute(s, pool: u64, attribute: u32, value: Out<u64>) {
        let set = s.pools.get(pool)?.attributes.get(&attribute).copied();
        match attribute {
            // Reuse along events, opportunistic and by added dependencies: on unless turned off.
            1..=3 => value.cast::<i32>().set(set.unwrap_or(1) as i32),
            4 => value.set(set.unwrap_or(0)),
            // Reserved and used, now and at most.
            5..=8 => value.set(pooled(s)),
            _ => Err(Code::INVALID_VALUE),
        }
    }
    fn cuMemPoolSetAttribute(s, pool: u64, attribute: u32, value: In<u8>) {
        let number = match attribute {
            1..=3 => u64::from(value.cast::<u32>().get()?),
            4 | 6 | 8 => value.cast::<u64>().get()?,
            _ => return Err(Code::INVALID_VALUE),
        };
        s.pools.get_mut(pool)?.attributes.insert(attribute, number);
        Ok(())
    }
}

fn pooled(s: &State) -> u64 {
    s.allocations.values().filter(|a| a.call.ends_with("Async")).map(|a| a.bytes).sum()
}
