use kernels::{Backend, Buffer, DType};

use crate::support::{FLOATS, Host, assert_close, output, rounded, upload_u32};

const LENGTHS: [usize; 6] = [0, 1, 3, 17, 1_000, 20_011];

pub(crate) fn check_add<K: Backend>(k: &K, dtype: DType) {
    for (y_dtype, out_dtype) in FLOATS.into_iter().flat_map(|y| FLOATS.map(|out| (y, out))) {
        check_sum(k, [dtype, y_dtype, out_dtype]);
    }
}

fn check_sum<K: Backend>(k: &K, [dtype, y_dtype, out_dtype]: [DType; 3]) {
    for len in LENGTHS {
        let (x, y) = (Host::normal(dtype, 1, len), Host::normal(y_dtype, 2, len));
        let mut out = output(k, out_dtype, len);
        k.add(&x.upload(k), &y.upload(k), &mut out).unwrap();
        let (naive, truth) = sums(&x, &y);
        assert_close(k, &format!("{y_dtype} added, to {out_dtype}"), &out, &naive, &truth);
    }
}

pub(crate) fn check_add_assign<K: Backend>(k: &K, dtype: DType) {
    for (len, x_dtype) in LENGTHS.into_iter().flat_map(|len| FLOATS.map(|x| (len, x))) {
        let (acc, x) = (Host::normal(dtype, 1, len), Host::normal(x_dtype, 2, len));
        let mut buffer = acc.upload(k);
        k.add_assign(&mut buffer, &x.upload(k)).unwrap();
        let (naive, truth) = sums(&acc, &x);
        assert_close(k, &format!("{x_dtype} added in place"), &buffer, &naive, &truth);
    }
}

/// Rounded once, to the bit.
pub(crate) fn check_convert<K: Backend>(k: &K, dtype: DType) {
    for (len, to) in LENGTHS.into_iter().flat_map(|len| FLOATS.map(|to| (len, to))) {
        let x = Host::normal(dtype, 1, len);
        let mut out = output(k, to, len);
        k.convert(&x.upload(k), &mut out).unwrap();
        assert_eq!(k.download(&out).unwrap(), rounded(to, x.f32), "{len} to {to}");
    }
}

fn sums(x: &Host, y: &Host) -> (Vec<f32>, Vec<f64>) {
    let naive = x.f32.iter().zip(&y.f32).map(|(x, y)| x + y).collect();
    let truth = x.f64.iter().zip(&y.f64).map(|(x, y)| x + y).collect();
    (naive, truth)
}

pub(crate) fn check_scale<K: Backend>(k: &K, dtype: DType) {
    for len in LENGTHS {
        let x = Host::normal(dtype, 1, len);
        let mut buffer = x.upload(k);
        k.scale(&mut buffer, 0.3).unwrap();
        let naive: Vec<f32> = x.f32.iter().map(|x| x * 0.3).collect();
        let truth: Vec<f64> = x.f64.iter().map(|x| x * f64::from(0.3_f32)).collect();
        assert_close(k, "scale", &buffer, &naive, &truth);
    }
}

pub(crate) fn check_copy_and_gather<K: Backend>(k: &K, dtype: DType) {
    let (rows, cols) = (23, 13);
    let table = Host::normal(dtype, 1, rows * cols);
    let row = |i: usize| &table.f32[i * cols..(i + 1) * cols];
    let buffer = table.upload(k);

    let mut copied = Host::new(dtype, vec![0.0; 2 * cols]).upload(k);
    k.copy(&buffer, 4 * cols, &mut copied, cols, cols).unwrap();
    assert_eq!(k.download(&copied).unwrap(), [&vec![0.0; cols], row(4)].concat());
    k.copy(&buffer, 0, &mut copied, 2 * cols, 0).unwrap();

    let ids: Vec<u32> = (0..150).map(|i| i * 7 % 23).collect();
    for out_dtype in FLOATS {
        let mut out = output(k, out_dtype, ids.len() * cols);
        k.gather_rows(&buffer, &upload_u32(k, &ids), cols, &mut out).unwrap();
        let picked: Vec<f32> = ids.iter().flat_map(|&id| row(id as usize)).copied().collect();
        assert_eq!(k.download(&out).unwrap(), rounded(out_dtype, picked));
    }
    let mut none = output(k, dtype, 0);
    k.gather_rows(&buffer, &upload_u32(k, &[]), cols, &mut none).unwrap();
    assert!(none.is_empty());
}
