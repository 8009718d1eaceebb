//! Data parallelism.
//!
//! Every replica runs the same program on its part of each batch; the batch size is the total, as in the original. Weights,
//! masks and slots are the same on all replicas, because all apply the same sums of gradients. Each replica's loss is divided by
//! the number of replicas and the dense gradients are summed (reference 2.10), so that growth, SNFS's averages and saliencies
//! use the same sums (2.3, 2.5, 2.7).
//!
//! Dropout and augmentation differ by replica; mask updates use the same random numbers everywhere. Batch normalisation and its
//! moving statistics are per replica (3.1) unless the run has `sync_bn`. At the end of every launch all replicas take the moving
//! statistics of the first, which the original saves. So between launches the state is the same on all replicas and does not
//! depend on their number.

use super::state::State;
use super::step::Trainer;
use crate::config::Plan;
use hlo::{DType, Graph, Literal, Reducer, Shape, Tensor};

/// Name of the last output of a launch with several replicas, after [`super::launch::LAUNCH_OUTPUTS`]: whether their masks were
/// equal after every update (pred).
pub const AGREE: &str = "agree";

/// The last inputs of a launch on `replica`: the seed, and with several replicas its number.
pub fn identity(plan: &Plan, replica: usize) -> Vec<Literal> {
    let seed = plan.run.train.seed;
    let seed = Literal::new(&[2], &[seed as u32, (seed >> 32) as u32]);
    let replica = (plan.replicas() > 1).then(|| Literal::scalar(replica as i32));
    [seed].into_iter().chain(replica).collect()
}

/// The part of `replica` in the batches of `indices`, row-major `s32[_, batch]`: `batch / replicas` consecutive examples of each.
pub fn part(indices: &[i32], batch: usize, replicas: usize, replica: usize) -> Vec<i32> {
    let own = batch / replicas;
    let first = own * replica;
    let batches = indices.chunks_exact(batch);
    batches.flat_map(|batch| &batch[first..first + own]).copied().collect()
}

impl Trainer<'_> {
    /// Number of replicas over which batch normalisation computes its moments.
    pub(super) fn normalised_over(&self) -> usize {
        match self.plan.run.train.sync_bn {
            Some(true) => self.plan.replicas(),
            _ => 1,
        }
    }

    /// Contribution of this replica's mean to the mean over the batch.
    pub(super) fn part_of_mean<'g>(&self, own: Tensor<'g>) -> Tensor<'g> {
        match self.plan.replicas() {
            1 => own,
            replicas => own / replicas as f64,
        }
    }

    /// Sum over all replicas.
    pub(super) fn sum<'g>(&self, own: Tensor<'g>) -> Tensor<'g> {
        match self.plan.replicas() {
            1 => own,
            _ => own.all_reduce(Reducer::Add),
        }
    }

    /// Sums of gradients over all replicas, sent in the run's precision for them.
    pub(super) fn sums<'g>(&self, g: &'g Graph, own: Vec<Tensor<'g>>) -> Vec<Tensor<'g>> {
        let _scope = g.scope("replicas");
        let sent = self.plan.run.train.gradient_precision.dtype();
        let sum = |own: Tensor<'g>| match self.plan.replicas() {
            1 => own,
            _ => self.sum(own.convert(sent)).convert(own.dtype()),
        };
        own.into_iter().map(sum).collect()
    }

    /// Whether all replicas have the same masks (pred scalar); `None` for a single replica.
    pub(super) fn agreement<'g>(&self, g: &'g Graph, state: &State<'g>) -> Option<Tensor<'g>> {
        if self.plan.replicas() == 1 {
            return None;
        }
        let _scope = g.scope("agreement");
        let masks = self.plan.params.iter().filter_map(|p| p.mask.as_deref());
        let masks: Vec<_> = masks.map(|mask| state.get(mask)).collect();
        let hash = hash(g, &masks);
        Some(hash.all_reduce(Reducer::Max).eq(hash.all_reduce(Reducer::Min)))
    }

    /// Replaces moving statistics by those of the first replica.
    pub(super) fn share_statistics<'g>(&self, g: &'g Graph, state: &mut State<'g>, replica: Tensor<'g>) {
        let _scope = g.scope("statistics");
        let first = replica.eq(0.0);
        for statistic in &self.plan.statistics {
            let own = state.get(&statistic.name);
            let first = first.broadcast_to(&own.dims());
            let of_first = first.select(own, own.zeros_like());
            let shared = match statistic.dtype {
                DType::Pred => self.sum(of_first.convert(DType::S32)).ne(0.0),
                _ => self.sum(of_first),
            };
            state.set(&statistic.name, shared);
        }
    }
}

/// A hash (u32 scalar) of masks: the sum of a number per position of the ones. Different masks collide with probability 2^-32.
fn hash<'g>(g: &'g Graph, masks: &[Tensor<'g>]) -> Tensor<'g> {
    let add = |sum: Tensor<'g>, mask: &Tensor<'g>| {
        let n = mask.shape().elements();
        let numbers = models::layers::sparse::mixed(g.iota(Shape::new(DType::U32, [n]), 0));
        let ones = mask.reshape(&[n]).select(numbers, numbers.zeros_like());
        sum * g.scalar(31u32) + ones.reduce_sum(&[0])
    };
    masks.iter().fold(g.scalar(0u32), add)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_concatenate_to_the_batch() {
        let indices: Vec<i32> = (0..24).collect();
        let parts: Vec<_> = (0..3).map(|replica| part(&indices, 12, 3, replica)).collect();
        assert_eq!(parts[1], [4, 5, 6, 7, 16, 17, 18, 19]);
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, indices);
        assert_eq!(part(&indices, 12, 1, 0), indices);
    }

    #[test]
    fn different_masks_have_different_hashes() {
        let shapes = [[3, 4], [2, 5]].map(|dims| ("mask".to_string(), Shape::new(DType::Pred, dims)));
        let computation = Graph::function("hash", &shapes, |g, masks| vec![hash(g, masks)]).unwrap();
        let of = |ones: [&[usize]; 2]| {
            let mask = |dims: [usize; 2], ones: &[usize]| {
                let bits: Vec<bool> = (0..dims[0] * dims[1]).map(|i| ones.contains(&i)).collect();
                Literal::from_bools(&dims, &bits)
            };
            let masks = [mask([3, 4], ones[0]), mask([2, 5], ones[1])];
            computation.evaluate(&masks).unwrap()[0].item::<u32>().unwrap()
        };
        // Moves one connection, swaps two between layers, exchanges two: the number of ones is the same.
        let masks: [[&[usize]; 2]; 6] = [
            [&[1, 5, 9], &[0, 7]],
            [&[1, 5, 10], &[0, 7]],
            [&[1, 5, 9], &[0, 8]],
            [&[0, 5, 9], &[1, 7]],
            [&[2, 4, 9], &[0, 7]],
            [&[0, 7, 9], &[1, 5]],
        ];
        let mut hashes = masks.map(of).to_vec();
        assert_eq!(of(masks[0]), hashes[0]);
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), masks.len());
    }
}
