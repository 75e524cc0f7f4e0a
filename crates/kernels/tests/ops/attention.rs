use kernels::ops::{Attention, AttentionGrads, Sequences};
use kernels::reference::{self, AttentionInputs, Sequence};
use kernels::{Backend, DType};

use crate::support::{Host, assert_close, output, upload_u32};

/// Shape, and `(queries, keys)` of each sequence; keys follow one another.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) op: Attention,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) k_tokens: usize,
}

impl Case {
    pub(crate) fn new(
        (heads, kv_heads, head_dim): (usize, usize, usize),
        lens: &[(usize, usize)],
        window: Option<usize>,
        softcap: Option<f32>,
    ) -> Self {
        let (mut q, mut k) = (0, 0);
        let sequences = lens.iter().map(|&(q_len, k_len)| {
            (q, k) = (q + q_len, k + k_len);
            Sequence { q: q - q_len..q, k: k - k_len..k }
        });
        let sequences = sequences.collect();
        Self {
            op: Attention {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).sqrt().recip(),
                window,
                softcap,
            },
            sequences,
            // One row more than any sequence uses.
            k_tokens: k + 1,
        }
    }

    fn q_tokens(&self) -> usize {
        self.sequences.last().map_or(0, |s| s.q.end)
    }

    fn q_len(&self) -> usize {
        self.q_tokens() * self.op.heads * self.op.head_dim
    }

    fn k_len(&self) -> usize {
        self.k_tokens * self.op.kv_heads * self.op.head_dim
    }

    pub(crate) fn upload<K: Backend>(&self, k: &K) -> Sequences<K> {
        let list = |f: fn(&Sequence) -> usize| -> Vec<u32> {
            self.sequences.iter().map(|s| f(s) as u32).collect()
        };
        let q_start = [vec![0], list(|s| s.q.end)].concat();
        Sequences {
            q_start: upload_u32(k, &q_start),
            k_start: upload_u32(k, &list(|s| s.k.start)),
            k_len: upload_u32(k, &list(|s| s.k.len())),
            count: self.sequences.len(),
            q_tokens: self.q_tokens(),
            k_tokens: self.k_tokens,
            max_q: self.sequences.iter().map(|s| s.q.len()).max().unwrap_or(0),
            max_k: self.sequences.iter().map(|s| s.k.len()).max().unwrap_or(0),
        }
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new((1, 1, 1), &[], None, None),
        Case::new((1, 1, 2), &[(1, 1)], None, None),
        Case::new((2, 2, 8), &[(0, 0), (3, 3), (0, 4), (17, 17)], None, None),
        Case::new((6, 2, 5), &[(17, 17), (1, 1), (40, 40)], Some(7), None),
        Case::new((9, 3, 64), &[(50, 50), (131, 131)], None, None),
        Case::new((4, 1, 16), &[(3, 150), (1, 33), (130, 300)], None, Some(2.0)),
        Case::new((4, 2, 16), &[(3, 290), (1, 33), (33, 300)], Some(130), Some(5.0)),
        Case::new((3, 1, 7), &[(1, 200), (1, 1), (1, 129)], Some(2), None),
        Case::new((2, 1, 7), &[(20, 20)], Some(1_000_000), None),
        // Head sizes of the tensor-core kernels, whose tiles have 32 or 64 rows.
        Case::new((2, 2, 64), &[(1, 1), (63, 63), (65, 65), (0, 5), (130, 130)], None, None),
        Case::new((3, 1, 64), &[(200, 200), (5, 130), (64, 64)], Some(70), None),
        Case::new((4, 1, 128), &[(65, 200), (1, 130), (63, 63)], None, None),
        Case::new((2, 2, 128), &[(130, 130), (3, 3)], Some(33), None),
        Case::new((3, 1, 96), &[(65, 130), (1, 1), (63, 64)], Some(64), None),
        Case::new((2, 1, 256), &[(65, 130), (1, 33)], None, None),
    ]
}

/// One query a sequence, as in generation: keys at the ends of parts and blocks, heads in groups, sequences
/// without queries.
fn decode_cases() -> Vec<Case> {
    let lens = [(1, 1), (1, 600), (0, 5), (1, 63), (1, 130)];
    vec![
        Case::new((1, 1, 16), &[(1, 600)], None, None),
        Case::new((3, 3, 64), &lens, None, None),
        Case::new((6, 2, 80), &lens, None, None),
        Case::new((8, 1, 128), &lens, None, None),
        Case::new((3, 1, 256), &lens, Some(100), None),
        Case::new((8, 1, 64), &lens, Some(65), Some(3.0)),
        Case::new((2, 2, 80), &[(1, 64), (1, 65), (1, 128)], Some(1_000), Some(5.0)),
        Case::new((18, 2, 8), &[(1, 257), (1, 2)], Some(3), None),
        Case::new((64, 64, 24), &[(1, 129), (1, 20), (1, 70)], None, None),
    ]
}

pub(crate) struct Operands {
    pub(crate) q: Host,
    pub(crate) k: Host,
    pub(crate) v: Host,
    pub(crate) d_o: Host,
}

impl Operands {
    pub(crate) fn new(case: &Case, dtype: DType) -> Self {
        Self {
            q: Host::normal(dtype, 1, case.q_len()),
            k: Host::normal(dtype, 2, case.k_len()),
            v: Host::normal(dtype, 3, case.k_len()),
            d_o: Host::normal(dtype, 4, case.q_len()),
        }
    }

    fn inputs<'a, T>(
        &'a self,
        case: &'a Case,
        get: fn(&'a Host) -> &'a [T],
    ) -> AttentionInputs<'a, T> {
        AttentionInputs {
            op: case.op,
            sequences: &case.sequences,
            q: get(&self.q),
            k: get(&self.k),
            v: get(&self.v),
        }
    }
}

pub(crate) fn forward<K: Backend>(
    k: &K,
    case: &Case,
    operands: &Operands,
    dtype: DType,
) -> (K::Buffer, K::Buffer) {
    let mut o = output(k, dtype, case.q_len());
    let mut lse = output(k, DType::F32, case.q_tokens() * case.op.heads);
    let [q, key, v] = [&operands.q, &operands.k, &operands.v].map(|x| x.upload(k));
    k.attention(case.op, &case.upload(k), &q, &key, &v, &mut o, &mut lse).unwrap();
    (o, lse)
}

/// `dq`, `dk`, `dv`.
pub(crate) fn backward<K: Backend>(
    k: &K,
    case: &Case,
    operands: &Operands,
    (o, lse): (&K::Buffer, &K::Buffer),
    dtype: DType,
) -> [K::Buffer; 3] {
    let mut dq = output(k, dtype, case.q_len());
    let [mut dk, mut dv] = [(); 2].map(|()| output(k, dtype, case.k_len()));
    let [q, key, v] = [&operands.q, &operands.k, &operands.v].map(|x| x.upload(k));
    let grads = AttentionGrads {
        q: &q,
        k: &key,
        v: &v,
        o,
        lse,
        d_o: &operands.d_o.upload(k),
        dq: &mut dq,
        dk: &mut dk,
        dv: &mut dv,
    };
    k.attention_backward(case.op, &case.upload(k), grads).unwrap();
    [dq, dk, dv]
}

pub(crate) fn check_attention<K: Backend>(k: &K, dtype: DType) {
    // With a window of one key the gradients of q and k are nothing but rounding.
    let alone = Case::new((3, 1, 7), &[(3, 3), (1, 200)], Some(1), None);
    for case in cases().into_iter().chain([alone]) {
        check_output(k, &case, &Operands::new(&case, dtype), dtype);
    }
}

pub(crate) fn check_decode_attention<K: Backend>(k: &K, dtype: DType) {
    for case in decode_cases() {
        check_output(k, &case, &Operands::new(&case, dtype), dtype);
    }
}

/// A query or key of no value shows in the outputs that depend on it, and in no others.
pub(crate) fn check_attention_of_nan<K: Backend>(k: &K, dtype: DType) {
    check_nan(k, cases(), dtype);
}

/// The same of single queries.
pub(crate) fn check_decode_attention_of_nan<K: Backend>(k: &K, dtype: DType) {
    check_nan(k, decode_cases(), dtype);
}

fn check_nan<K: Backend>(k: &K, cases: Vec<Case>, dtype: DType) {
    for case in cases.into_iter().filter(|case| case.q_tokens() > 2) {
        let poisoned = |dtype, values: Vec<f32>, at: usize| {
            let nan = |(i, x)| if i == at { f32::NAN } else { x };
            Host::new(dtype, values.into_iter().enumerate().map(nan).collect())
        };
        let operands = || Operands::new(&case, dtype);
        let Operands { q, k: key, .. } = operands();
        // The last query and the last key that is used.
        let q = poisoned(dtype, q.f32, case.q_len() - 1);
        let last = (case.k_tokens - 1) * case.op.kv_heads * case.op.head_dim - 1;
        let key = poisoned(dtype, key.f32, last);
        for operands in [Operands { q, ..operands() }, Operands { k: key, ..operands() }] {
            let o = check_output(k, &case, &operands, dtype);
            assert!(o.iter().any(|x| x.is_nan()), "{case:?}");
        }
    }
}

/// `o` and `lse` against the reference; returns `o`.
pub(crate) fn check_output<K: Backend>(
    k: &K,
    case: &Case,
    operands: &Operands,
    dtype: DType,
) -> Vec<f32> {
    let (o, lse) = forward(k, case, operands, dtype);
    let naive = reference::attention(&operands.inputs(case, |x| &x.f32));
    let truth = reference::attention(&operands.inputs(case, |x| &x.f64));
    assert_close(k, &format!("o of {case:?}"), &o, &naive.0, &truth.0);
    assert_close(k, &format!("lse of {case:?}"), &lse, &naive.1, &truth.1);
    k.download(&o).unwrap()
}

pub(crate) fn check_attention_backward<K: Backend>(k: &K, dtype: DType) {
    for case in cases() {
        check_gradients(k, &case, dtype);
    }
}

/// Sequences may read the same keys, whose gradients then add up.
pub(crate) fn check_shared_keys<K: Backend>(k: &K, dtype: DType) {
    for head_dim in [8, 64] {
        let mut case = Case::new((2, 1, head_dim), &[(5, 100), (7, 60)], None, None);
        case.sequences[1].k = 50..110;
        case.k_tokens = 115;
        check_gradients(k, &case, dtype);
    }
}

pub(crate) fn check_gradients<K: Backend>(k: &K, case: &Case, dtype: DType) {
    let operands = Operands::new(case, dtype);
    let (o, lse) = forward(k, case, &operands, dtype);
    let got = backward(k, case, &operands, (&o, &lse), dtype);

    let inputs = operands.inputs(case, |x| &x.f32);
    let (o, lse) = reference::attention(&inputs);
    let stored = crate::support::rounded(dtype, o);
    let naive = reference::attention_backward(&inputs, &stored, &lse, &operands.d_o.f32);
    let inputs = operands.inputs(case, |x| &x.f64);
    let (o, lse) = reference::attention(&inputs);
    let truth = reference::attention_backward(&inputs, &o, &lse, &operands.d_o.f64);
    for (i, what) in ["dq", "dk", "dv"].into_iter().enumerate() {
        assert_close(k, &format!("{what} of {case:?}"), &got[i], &naive[i], &truth[i]);
    }
}
