//! Choosing a token from logits.

use kernels::Philox;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Nucleus sampling (Holtzman et al. 2020): only the most likely tokens whose probabilities reach
    /// this sum; 1 keeps all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, seed: 0 };
}

pub(crate) struct Sampler {
    sampling: Sampling,
    order: Vec<u32>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self { sampling, order: Vec::new() }
    }

    /// Token number `index` of text `stream`: the draw depends on nothing else but the logits.
    pub(crate) fn draw(&mut self, logits: &[f32], stream: u64, index: u64) -> u32 {
        if self.sampling.temperature <= 0.0 {
            return argmax(logits);
        }
        let inverse = 1.0 / f64::from(self.sampling.temperature);
        let weight = |token: u32| (f64::from(logits[token as usize]) * inverse, token);
        self.order.clear();
        self.order.extend(0..logits.len() as u32);
        // Ties go to the lower token, so that the order is the same everywhere.
        self.order.sort_unstable_by(|&a, &b| {
            logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
        });
        let max = weight(self.order[0]).0;
        let probabilities: Vec<f64> =
            self.order.iter().map(|&t| (weight(t).0 - max).exp()).collect();
        let total: f64 = probabilities.iter().sum();
        let kept = nucleus(&probabilities, total, f64::from(self.sampling.top_p));
        let mass: f64 = probabilities[..kept].iter().sum();
        let mut left = f64::from(Philox::new(self.sampling.seed, stream).uniform(index)) * mass;
        for (&token, p) in self.order.iter().zip(&probabilities[..kept]) {
            if left < *p {
                return token;
            }
            left -= p;
        }
        self.order[kept - 1]
    }
}

/// How many of the sorted weights reach `top_p` of their total; at least one.
fn nucleus(weights: &[f64], total: f64, top_p: f64) -> usize {
    let mut sum = 0.0;
    for (i, weight) in weights.iter().enumerate() {
        sum += weight;
        if sum >= top_p * total {
            return i + 1;
        }
    }
    weights.len()
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32], draws: u64) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for index in 0..draws {
            counts[sampler.draw(logits, 3, index) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let logits = [0.5, 2.0, 2.0, -1.0];
        assert_eq!(Sampler::new(Sampling::GREEDY).draw(&logits, 0, 0), 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let sampling = Sampling { temperature: 2.0, top_p: 1.0, seed: 9 };
        // exp(logit / 2) = 1, 2, 4.
        let logits = [0.0, 2.0 * 2f32.ln(), 2.0 * 4f32.ln()];
        let counts = counts(sampling, &logits, 7000);
        for (count, expected) in counts.iter().zip([1000.0, 2000.0, 4000.0]) {
            assert!((*count as f64 - expected).abs() < 200.0, "{counts:?}");
        }
    }

    #[test]
    fn nucleus_leaves_out_the_tail() {
        let sampling = Sampling { temperature: 1.0, top_p: 0.6, seed: 9 };
        // Probabilities 1/7, 2/7, 4/7: the first two of the order make 6/7.
        let counts = counts(sampling, &[0.0, 2f32.ln(), 4f32.ln()], 500);
        assert_eq!(counts[0], 0);
        assert!(counts[1] > 0 && counts[2] > counts[1]);
    }
}
