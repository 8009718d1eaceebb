//! Random numbers inside graphs: counter-based and built from integer operators only, so that every device and the
//! evaluator produce the same bits.
//!
//! The generator is Threefry-2x32 with 20 rounds (Salmon et al., SC 2011). A draw is a pure function of the element's
//! index and of a key, which is derived from a seed, a purpose and a step. There is no shared stream.

use crate::graph::Tensor;
use crate::literal::Literal;
use crate::shape::{DType, Shape};

/// Rotation distances of the two alternating groups of four rounds.
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
/// Key-schedule parity word.
const PARITY: u32 = 0x1BD1_1BDA;

/// Two 32-bit words (scalars, u32) that select an independent generator.
#[derive(Clone, Copy)]
pub struct Key<'g>([Tensor<'g>; 2]);

/// Several keys, derived together; each has the value that it would have alone. This keeps the number of instructions,
/// and so the compile time, low.
#[derive(Clone, Copy)]
pub struct Keys<'g>([Tensor<'g>; 2]);

impl<'g> Keys<'g> {
    /// Folds a step into each key, as [`Key::fold_step`].
    #[track_caller]
    pub fn fold_step(self, step: Tensor<'g>) -> Self {
        Keys(threefry(self.0, step_words(step)))
    }

    /// The words of every key as rows of a `u32[n, 2]`; [`Key::new`] takes one row.
    #[track_caller]
    pub fn seeds(self) -> Tensor<'g> {
        let columns = self.0.map(|words| words.reshape(&[words.shape().elements(), 1]));
        columns[0].graph().concatenate(&columns, 1)
    }
}

impl<'g> Key<'g> {
    /// The key whose words are the elements of `seed`, a `u32[2]`.
    #[track_caller]
    pub fn new(seed: Tensor<'g>) -> Self {
        let word = |i: usize| seed.slice(&[i], &[i + 1]).reshape(&[]);
        Key([word(0), word(1)])
    }

    /// Folds in a purpose and name, given as a 64-bit hash.
    #[track_caller]
    pub fn fold(self, hash: u64) -> Self {
        let g = self.0[0].graph();
        Key(threefry(self.0, [g.scalar(hash as u32), g.scalar((hash >> 32) as u32)]))
    }

    /// One key for each of several purposes and names, as [`Key::fold`].
    #[track_caller]
    pub fn fold_each(self, hashes: &[u64]) -> Keys<'g> {
        let g = self.0[0].graph();
        let counter = [0, 32].map(|shift| {
            let words: Vec<u32> = hashes.iter().map(|hash| (hash >> shift) as u32).collect();
            g.constant(Literal::new(&[hashes.len()], &words))
        });
        Keys(threefry(self.0, counter))
    }

    /// Folds in a step (any integer scalar; its low 64 bits count).
    #[track_caller]
    pub fn fold_step(self, step: Tensor<'g>) -> Self {
        Key(threefry(self.0, step_words(step)))
    }

    /// Two independent u32 arrays of `dims`, at most 2^32 elements.
    #[track_caller]
    pub fn bits(self, dims: &[usize]) -> [Tensor<'g>; 2] {
        self.at(self.index(dims))
    }

    /// The number of each element of an array of `dims`, u32.
    fn index(self, dims: &[usize]) -> Tensor<'g> {
        let n = dims.iter().product();
        let numbers = self.0[0].graph().iota(Shape::new(DType::U32, [n]), 0);
        numbers.reshape(dims)
    }

    /// Two words for each number.
    fn at(self, index: Tensor<'g>) -> [Tensor<'g>; 2] {
        threefry(self.0, [index, index.zeros_like()])
    }

    /// Uniform f32 in [0, 1), multiples of 2^−24.
    #[track_caller]
    pub fn uniform(self, dims: &[usize]) -> Tensor<'g> {
        unit(self.bits(dims)[0])
    }

    /// `pred[dims]`, each true with `probability`, to within 2^−17. An element uses 16 bits, so one Threefry block
    /// yields four elements, which are a quarter of the first axis apart.
    #[track_caller]
    pub fn bernoulli(self, probability: f64, dims: &[usize]) -> Tensor<'g> {
        self.bernoulli_in(probability, dims, &(0..dims.len()).collect::<Vec<_>>())
    }

    /// [`Key::bernoulli`], written with the axes of the result in `order`, from major to minor; the first one stays. It spares a
    /// transposition where the result meets an array with this order in memory.
    #[track_caller]
    pub fn bernoulli_in(self, probability: f64, dims: &[usize], order: &[usize]) -> Tensor<'g> {
        let g = self.0[0].graph();
        let in_order: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
        let (rows, row) = (
            in_order.first().copied().unwrap_or(1),
            in_order.get(1..).unwrap_or_default(),
        );
        let with_row = |leading: &[usize]| [leading, row].concat();
        let quarter = rows.div_ceil(4);
        let sorted = order.is_sorted();
        let index = self.index(&[&[quarter], dims.get(1..).unwrap_or_default()].concat());
        let [low, high] = self.at(if sorted { index } else { index.transpose(order) });
        let below = g.scalar((probability * 65536.0).round() as u32);
        let lanes = g.full(&Shape::new(DType::Pred, with_row(&[4 * quarter])), 0.0);
        // A loop materialises the result. Otherwise its users would read the words, four bytes for one.
        let lanes = g.repeat(g.scalar(2i32), &[lanes, low, high, below], |g, half, s| {
            let shift = (half * g.scalar(16i32)).convert(DType::U32);
            let mut lanes = s[0];
            for (word, lane) in [(s[1], half), (s[2], half + g.scalar(2i32))] {
                let drawn = (word.shift_right_logical(shift) & g.scalar(0xFFFFu32)).lt(s[3]);
                let mut starts = vec![g.scalar(0i32); word.dims().len()];
                starts[0] = lane * g.scalar(quarter as i32);
                lanes = lanes.dynamic_update_slice(drawn, &starts);
            }
            vec![lanes, s[1], s[2], s[3]]
        })[0];
        let drawn = lanes.slice(&vec![0; row.len() + 1], &with_row(&[rows]));
        if sorted {
            return drawn.reshape(dims);
        }
        let place = |axis| order.iter().position(|&at| at == axis).unwrap_or(axis);
        drawn.transpose(&(0..order.len()).map(place).collect::<Vec<_>>())
    }

    /// Standard normal f32, by inverse transform sampling.
    #[track_caller]
    pub fn normal(self, dims: &[usize]) -> Tensor<'g> {
        erf_inv(self.symmetric(dims)) * std::f64::consts::SQRT_2
    }

    /// Standard normal f32, truncated at two standard deviations.
    #[track_caller]
    pub fn truncated_normal(self, dims: &[usize]) -> Tensor<'g> {
        const WITHIN_TWO: f64 = 0.954_499_736_103_641_6; // erf(√2)
        erf_inv(self.symmetric(dims) * WITHIN_TWO) * std::f64::consts::SQRT_2
    }

    /// Uniform f32 in (−1, 1): the midpoint of one of 2^24 equal intervals, never an end point.
    #[track_caller]
    fn symmetric(self, dims: &[usize]) -> Tensor<'g> {
        unit(self.bits(dims)[0]) * 2.0 + ((-24f64).exp2() - 1.0)
    }
}

/// The low and the high 32 bits of a step.
#[track_caller]
fn step_words(step: Tensor<'_>) -> [Tensor<'_>; 2] {
    let step = step.convert(DType::U64);
    let low = step.convert(DType::U32);
    [low, step.shift_right_logical(32.0).convert(DType::U32)]
}

/// Inverse error function of f32 in (−1, 1): the single-precision approximation of Giles (2012), two polynomials in
/// −log(1 − x²). It needs only arithmetic and one logarithm, so compilers vectorise it.
#[track_caller]
fn erf_inv(x: Tensor<'_>) -> Tensor<'_> {
    const CENTRE: [f64; 9] = [
        2.810_226_36e-08,
        3.432_739_39e-07,
        -3.523_387_7e-06,
        -4.391_506_54e-06,
        0.000_218_580_87,
        -0.001_253_725_03,
        -0.004_177_681_64,
        0.246_640_727,
        1.501_409_41,
    ];
    const TAIL: [f64; 9] = [
        -0.000_200_214_257,
        0.000_100_950_558,
        0.001_349_343_22,
        -0.003_673_428_44,
        0.005_739_507_73,
        -0.007_622_461_3,
        0.009_438_870_47,
        1.001_674_06,
        2.832_976_82,
    ];
    let w = -((1.0 - x) * (1.0 + x)).log();
    let centre = polynomial(CENTRE, w - 2.5);
    let tail = polynomial(TAIL, w.sqrt() - 3.0);
    w.lt(5.0).select(centre, tail) * x
}

/// Polynomial with these coefficients, highest power first.
fn polynomial<'g>(coefficients: [f64; 9], x: Tensor<'g>) -> Tensor<'g> {
    let highest = x.zeros_like() + coefficients[0];
    coefficients[1..].iter().fold(highest, |sum, &c| sum * x + c)
}

/// The high 24 bits as an f32 in [0, 1).
#[track_caller]
fn unit(bits: Tensor<'_>) -> Tensor<'_> {
    bits.shift_right_logical(8.0).convert(DType::F32) * (-24f64).exp2()
}

/// One block of Threefry-2x32-20 per element of the counter words.
///
/// The five groups of four rounds form a loop: compilers fuse an unrolled chain into each of its users, which costs far
/// more compile time than five passes over the words cost run time.
#[track_caller]
fn threefry<'g>(key: [Tensor<'g>; 2], counter: [Tensor<'g>; 2]) -> [Tensor<'g>; 2] {
    let g = key[0].graph();
    let schedule = [key[0], key[1], key[0] ^ key[1] ^ g.scalar(PARITY)];
    let [even, odd] = ROTATIONS.map(|distances| g.constant(Literal::new(&[4], &distances)));
    let first = [counter[0] + schedule[0], counter[1] + schedule[1]];
    let state = [&first[..], &schedule, &[even, odd]].concat();
    // Schedule words and rotations alternate: each group uses the front ones and moves them to the back.
    let mixed = g.repeat(g.scalar(5i32), &state, |g, group, s| {
        let [mut a, mut b] = [s[0], s[1]];
        for round in 0..4 {
            a = a + b;
            b = rotate_left(b, s[5].slice(&[round], &[round + 1]).reshape(&[])) ^ a;
        }
        let injected = [a + s[3], b + (s[4] + group.convert(DType::U32) + g.scalar(1u32))];
        vec![injected[0], injected[1], s[3], s[4], s[2], s[6], s[5]]
    });
    [mixed[0], mixed[1]]
}

#[track_caller]
fn rotate_left<'g>(x: Tensor<'g>, distance: Tensor<'g>) -> Tensor<'g> {
    x.shift_left(distance) | x.shift_right_logical(32.0 - distance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Graph;

    fn block(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
        let g = Graph::new("block");
        let pair = |words: [u32; 2]| [g.scalar(words[0]), g.scalar(words[1])];
        let outputs = threefry(pair(key), pair(counter)).map(|t| t.output());
        let results = g.build(&outputs).unwrap().evaluate(&[]).unwrap();
        [0, 1].map(|i| results[i].item().unwrap())
    }

    #[test]
    fn matches_published_known_answers() {
        assert_eq!(block([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(block([!0, !0], [!0, !0]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(
            block([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]),
            [0xc492_3a9c, 0x483d_f7a0]
        );
    }

    #[test]
    fn inverse_error_function_inverts_erf() {
        // erf at 0.1, 0.5, 1, 2, 3: Abramowitz and Stegun, table 7.1.
        let table: [(f32, f64); 5] = [
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_878),
            (1.0, 0.842_700_793),
            (2.0, 0.995_322_265),
            (3.0, 0.999_977_910),
        ];
        for (want, erf) in table {
            let g = Graph::new("erf_inv");
            let outputs = [erf_inv(g.scalar(-erf as f32)).output()];
            let got: f32 = g.build(&outputs).unwrap().evaluate(&[]).unwrap()[0].item().unwrap();
            assert!((got + want).abs() < 3e-3 * want, "{got} {want}");
        }
    }

    fn draw(hash: u64, step: i64, f: impl for<'a> Fn(Key<'a>) -> Tensor<'a>) -> Vec<f32> {
        let g = Graph::new("draw");
        let seed = g.parameter("seed", Shape::new(DType::U32, [2]));
        let outputs = [f(Key::new(seed).fold(hash).fold_step(g.scalar(step))).output()];
        let results = g
            .build(&outputs)
            .unwrap()
            .evaluate(&[Literal::new(&[2], &[1u32, 0])])
            .unwrap();
        results[0].to_vec().unwrap()
    }

    #[test]
    fn the_order_of_axes_does_not_change_what_is_drawn() {
        let drawn = |order: &[usize]| {
            let g = Graph::new("drawn");
            let key = Key::new(g.full(&Shape::new(DType::U32, [2]), 7.0));
            let output = key.bernoulli_in(0.7, &[6, 2, 3, 4, 5], order).output();
            g.build(&[output]).unwrap().evaluate(&[]).unwrap().remove(0)
        };
        assert_eq!(drawn(&[0, 2, 4, 3, 1]), drawn(&[0, 1, 2, 3, 4]));
    }

    #[test]
    fn samples_have_the_moments_of_their_distribution() {
        let n = 20_000;
        let moments = |v: &[f32]| {
            let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, variance)
        };
        let uniform = draw(7, 3, |k| k.uniform(&[n]));
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
        let (mean, variance) = moments(&uniform);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.003);
        let (mean, variance) = moments(&draw(7, 3, |k| k.normal(&[n])));
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        // Fractions beyond one and two standard deviations.
        let beyond = |z: f32, v: &[f32]| v.iter().filter(|x| x.abs() > z).count() as f64 / n as f64;
        let normal = draw(9, 3, |k| k.normal(&[n]));
        assert!((beyond(1.0, &normal) - 0.3173).abs() < 0.01 && (beyond(2.0, &normal) - 0.0455).abs() < 0.005);
        // Truncated at two standard deviations, the variance is 1 − 4 φ(2) / (2 Φ(2) − 1).
        let truncated = draw(7, 3, |k| k.truncated_normal(&[n]));
        let (mean, variance) = moments(&truncated);
        assert!(
            mean.abs() < 0.03 && (variance - 0.773_74).abs() < 0.02,
            "{mean} {variance}"
        );
        assert!(beyond(2.0, &truncated) == 0.0 && beyond(1.9, &truncated) > 0.0);
        assert_ne!(uniform, draw(8, 3, |k| k.uniform(&[n])));
        assert_ne!(uniform, draw(7, 4, |k| k.uniform(&[n])));
    }

    #[test]
    fn bernoulli_trials_are_independent_with_their_probability() {
        let kept = |probability, dims: &[usize]| draw(7, 3, |k| k.bernoulli(probability, dims).convert(DType::F32));
        let share = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        let (rows, row) = (4000, 10);
        let v = kept(0.7, &[rows, row]);
        // With 40000 trials a standard deviation is 0.0023; with a quarter of them, 10000, it is 0.0046.
        assert!((share(&v) - 0.7).abs() < 0.01, "{}", share(&v));
        let quarters: Vec<&[f32]> = v.chunks(rows / 4 * row).collect();
        for (i, a) in quarters.iter().enumerate() {
            assert!((share(a) - 0.7).abs() < 0.02, "{}", share(a));
            for b in &quarters[..i] {
                let both: Vec<f32> = a.iter().zip(*b).map(|(a, b)| a * b).collect();
                assert!((share(&both) - 0.49).abs() < 0.02, "{}", share(&both));
            }
        }
        // The same words for every probability; the end points included.
        let (likely, unlikely) = (kept(0.9, &[rows, row]), kept(0.2, &[rows, row]));
        assert!(likely.iter().zip(&v).zip(&unlikely).all(|((a, b), c)| a >= b && b >= c));
        assert!(kept(1.0, &[9]).iter().all(|&v| v == 1.0) && kept(0.0, &[9]).iter().all(|&v| v == 0.0));
        // Works for any shape.
        for dims in [&[][..], &[1], &[5], &[7, 3], &[2, 3, 2], &[0, 2]] {
            assert_eq!(kept(0.5, dims).len(), dims.iter().product::<usize>());
        }
    }
}
