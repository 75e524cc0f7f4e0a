//! The ways to multiply by a 4-bit weight on a card.

use kernels::ops::LinearGrads;
use kernels::{Backend, Cuda, DType, Route, RouteEntry, Routes};

use crate::linear::check_case;
use crate::linears::{forward_together, upload_group};
use crate::operands::{Case, Operands, fp4, nf4};
use crate::support::{Host, output};

fn always(n: usize, k: usize, route: Route) -> Cuda {
    let entry = |backward| RouteEntry { n, k, backward, rows: 0, route };
    crate::cuda().with_routes(Routes { entries: vec![entry(false), entry(true)] })
}

/// Bits of `y`, `dx`, `da` and `db`.
fn results(k: &Cuda, case: Case) -> Vec<Vec<u32>> {
    let (m, n, depth) = case.shape;
    let operands = Operands::new(case, DType::Bf16);
    let uploaded = operands.upload(k);
    let dy = Host::normal(DType::Bf16, 6, m * n).upload(k);
    let (y, xa) = uploaded.forward(k, DType::Bf16);
    let mut dx = output(k, DType::Bf16, m * depth);
    let zeros = |len| Host::new(DType::F32, vec![0.0; len]).upload(k);
    let mut da = case.lora.map(|(r, _)| zeros(r * depth));
    let mut db = case.lora.map(|(r, _)| zeros(n * r));
    let grads =
        LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: da.as_mut(), db: db.as_mut() };
    k.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy, grads).unwrap();
    let bits = |buffer| k.download(buffer).unwrap().into_iter().map(f32::to_bits).collect();
    [Some(&y), Some(&dx), da.as_ref(), db.as_ref()].into_iter().flatten().map(bits).collect()
}

#[test]
fn cuda_routes_give_the_same_bits() {
    let cases = [
        ((33, 72, 192), nf4(64, true), true, Some((8, 0.1))),
        ((130, 136, 128), nf4(128, false), false, Some((16, 0.0))),
        ((300, 200, 256), fp4(64, true), true, None),
    ];
    for (shape, stored, bias, lora) in cases {
        let case = Case { shape, stored, bias, lora };
        let [(fused, least), (dequantized, most)] =
            [Route::Fused, Route::Dequantized].map(|route| {
                let cuda = always(shape.1, shape.2, route);
                (results(&cuda, case), cuda.memory().peak)
            });
        assert!(fused == dequantized, "{case:?}");
        assert!(most > least, "{case:?}: the weight was dequantised");
    }
}

/// Of linears of one input, one whose weight is dequantised.
#[test]
fn cuda_linears_of_several_routes_give_the_same_bits() {
    let case = |n| Case { shape: (130, n, 128), stored: nf4(64, true), bias: true, lora: None };
    let of = |cuda: &Cuda| -> Vec<Vec<f32>> {
        let linears = upload_group(cuda, &[136, 72].map(case), DType::Bf16);
        let outputs = forward_together(cuda, &linears, DType::Bf16);
        outputs.iter().map(|(y, _)| cuda.download(y).unwrap()).collect()
    };
    let (fused, one) = (crate::cuda(), always(72, 128, Route::Dequantized));
    assert!(of(&fused) == of(&one));
    assert!(one.memory().peak > fused.memory().peak, "the weight was dequantised");
}

/// The library, which the emulated driver stands in for; a machine with a real card may lack it.
fn has_cublas() -> bool {
    let emulated = std::env::var_os("CUDA_EMULATOR_EXIT_CODE").is_some();
    assert!(Cuda::has_cublas() || !emulated, "no libcublasLt.so beside the emulated driver");
    Cuda::has_cublas()
}

#[test]
fn cuda_products_of_cublas_are_right() {
    if !has_cublas() {
        return;
    }
    for (shape, stored, bias, lora) in [
        ((33, 72, 192), nf4(64, true), true, Some((8, 0.1))),
        ((130, 136, 128), nf4(128, false), false, Some((16, 0.0))),
        ((300, 200, 256), fp4(64, true), true, None),
        // Outputs that the library is not asked for: rows of them are no multiples of 16 bytes.
        ((40, 65, 64), nf4(64, true), true, Some((4, 0.0))),
    ] {
        let cuda = always(shape.1, shape.2, Route::Cublas);
        check_case(&cuda, Case { shape, stored, bias, lora }, DType::Bf16);
        let took_workspace = cuda.memory().peak > 32 << 20;
        assert_eq!(took_workspace, shape.1 % 8 == 0, "{shape:?}: by the library");
    }
}

/// The sums of a wide output take more memory than is spent on them at a time.
#[test]
fn cuda_cublas_does_wide_outputs_in_slices() {
    if !has_cublas() {
        return;
    }
    let case = Case { shape: (520, 40_960, 64), stored: nf4(64, true), bias: true, lora: None };
    let y = |route| {
        let cuda = always(case.shape.1, case.shape.2, route);
        let y = Operands::new(case, DType::Bf16).upload(&cuda).forward(&cuda, DType::Bf16).0;
        cuda.download(&y).unwrap()
    };
    let (fused, cublas) = (y(Route::Fused), y(Route::Cublas));
    let near = |(x, y): (&f32, &f32)| (x - y).abs() <= x.abs().max(1.0) / 128.0;
    assert!(fused.iter().zip(&cublas).all(near));
}

#[test]
fn cuda_routes_are_measured() {
    let mut seen = 0;
    let shapes = [(64, 128), (72, 100), (136, 64)];
    let with_cublas = has_cublas();
    let routes = Routes::measure(&crate::cuda(), &shapes, &[16, 130], with_cublas, |timing| {
        assert!(timing.fused > 0.0 && timing.dequantized > 0.0);
        assert_eq!(timing.cublas.is_some_and(|seconds| seconds > 0.0), with_cublas);
        seen += 1;
    });
    let routes = routes.unwrap();
    assert_eq!((routes.entries.len(), seen), (8, 8), "100 columns are not runs of 64");
    assert!(routes.entries.iter().all(|e| (e.n, e.k) != (72, 100)));
}
