use kernels::ops::{Rope, RopeTable};
use kernels::{Backend, DType, reference};

use crate::support::{Host, assert_close, upload_u32};

/// `cos` and `sin` of positions times falling frequencies.
pub(crate) fn table(positions: usize, half: usize) -> (Host, Host) {
    let angle = |i: usize| (i / half) as f32 * 0.7_f32.powi((i % half) as i32);
    let values = |f: fn(f32) -> f32| (0..positions * half).map(|i| f(angle(i))).collect();
    (Host::new(DType::F32, values(f32::cos)), Host::new(DType::F32, values(f32::sin)))
}

pub(crate) fn check_rope<K: Backend>(k: &K, dtype: DType) {
    for (tokens, heads, head_dim) in
        [(0, 1, 2), (1, 1, 2), (3, 5, 6), (17, 3, 64), (50, 2, 10), (7, 2, 48), (5, 3, 128)]
    {
        let positions = 40;
        let (cos, sin) = table(positions, head_dim / 2);
        let rope_table = RopeTable { cos: cos.upload(k), sin: sin.upload(k), positions };
        let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 11 % 40).collect();
        let x = Host::normal(dtype, 1, tokens * heads * head_dim);
        for inverse in [false, true] {
            let op = Rope { tokens, heads, head_dim, inverse };
            let mut out = x.upload(k);
            k.rope(op, &rope_table, &upload_u32(k, &ids), &mut out).unwrap();
            let naive = reference::rope(op, &cos.f32, &sin.f32, &ids, &x.f32);
            let truth = reference::rope(op, &cos.f64, &sin.f64, &ids, &x.f64);
            assert_close(k, &format!("{op:?}"), &out, &naive, &truth);
        }
    }
}
