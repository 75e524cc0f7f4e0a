use super::Shapes;
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch},
    random::Random,
};

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let counts = match shapes {
        Shapes::All => &[1, 31, 256, 1000, 4097][..],
        Shapes::Few => &[77, 256],
    };
    counts.iter().map(|&n| case(n)).collect()
}

fn case(n: usize) -> Case {
    let mut random = Random::new(n as u64);
    let (a, b) = (random.skewed(n, 7, 100.0), random.skewed(n, 9, 1000.0));
    let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let args = vec![Arg::Buffer(0), Arg::Buffer(1), Arg::Buffer(2), Arg::value(n as i32)];
    Case {
        label: format!("vector_add of {n}"),
        buffers: vec![Buffer::data(&a), Buffer::data(&b), Buffer::output::<f32>(n)],
        launches: vec![Launch::line("vector_add", n.div_ceil(128), 128, args)],
        expected: vec![(2, Expected::Exact(bytemuck::cast_slice(&sum).to_vec()))],
    }
}
