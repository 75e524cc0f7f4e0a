//! The ways to multiply by a 4-bit weight on a card.

use kernels::ops::LinearGrads;
use kernels::{Backend, Cuda, DType, Route, RouteEntry, Routes};

use crate::linear::{Case, Operands, fp4, nf4};
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

#[test]
fn cuda_routes_are_measured() {
    let mut seen = 0;
    let shapes = [(64, 128), (72, 100), (136, 64)];
    let routes = Routes::measure(&crate::cuda(), &shapes, &[16, 130], |timing| {
        assert!(timing.fused > 0.0 && timing.dequantized > 0.0);
        seen += 1;
    });
    let routes = routes.unwrap();
    assert_eq!((routes.entries.len(), seen), (8, 8), "100 columns are not runs of 64");
    assert!(routes.entries.iter().all(|e| (e.n, e.k) != (72, 100)));
}
