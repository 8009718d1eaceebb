//! Gradients of a batch in parts that fit into memory, one after the other.
//!
//! With `train.accumulate = N` an iteration is the same step of the same batch: its loss, metrics and dense gradients are means
//! over N parts of equal size, so growth scores and averages use them too. Batch normalisation and dropout see one part at a
//! time; moving statistics change once for each.

use super::exported::Loss;
use super::rows::Scheduled;
use super::state::State;
use super::step::{Batch, Draw, Trainer};
use hlo::{Graph, Shape, Tensor};

/// A loop over the parts: what changes, then what does not.
struct Carry<'g> {
    /// Loss, metrics and gradients of the parts so far, summed.
    sums: Vec<Tensor<'g>>,
    correct: Tensor<'g>,
    /// Moving statistics.
    statistics: Vec<Tensor<'g>>,
    fixed: Vec<Tensor<'g>>,
}

impl<'g> Carry<'g> {
    fn pack(&self) -> Vec<Tensor<'g>> {
        [&self.sums, &[self.correct][..], &self.statistics, &self.fixed].concat()
    }

    fn unpack(tensors: &[Tensor<'g>], sums: usize, statistics: usize) -> Self {
        let (summed, rest) = tensors.split_at(sums);
        let (statistics, fixed) = rest[1..].split_at(statistics);
        Carry {
            sums: summed.to_vec(),
            correct: rest[0],
            statistics: statistics.to_vec(),
            fixed: fixed.to_vec(),
        }
    }
}

impl Trainer<'_> {
    /// Loss and gradients of this replica's part of a batch, a part at a time if the run accumulates, and the correct
    /// predictions. Sets moving statistics and the state of an exported model.
    pub(super) fn accumulated<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        batch: Batch<'g, '_>,
        draw: &Draw<'g>,
        scheduled: &Scheduled<'g>,
    ) -> (Loss<'g>, Tensor<'g>) {
        let parts = self.plan.accumulated();
        if parts == 1 {
            return self.loss(g, state, batch, draw, scheduled);
        }
        let _scope = g.scope("accumulate");
        let statistics: Vec<String> = self.plan.statistics.iter().map(|s| s.name.clone()).collect();
        let read = self.read_in_parts(&statistics, state);
        let inputs = Fixed::new(batch, draw, scheduled, read);
        let zero = |tensor: &Tensor<'g>| g.full(&Shape::new(hlo::DType::F32, tensor.dims()), 0.0);
        let scalars = vec![g.scalar(0f32); 1 + self.metrics()];
        let apart = batch.apart.iter().flatten();
        let gradients = batch.effective.iter().chain(apart).map(zero);
        let start = Carry {
            sums: scalars.into_iter().chain(gradients).collect(),
            correct: g.scalar(0i32),
            statistics: state.get_all(&statistics),
            fixed: inputs.pack(),
        };
        let (sums, n) = (start.sums.len(), statistics.len());
        let end = g.repeat(g.scalar(parts as i32), &start.pack(), |g, part, tensors| {
            let before = Carry::unpack(tensors, sums, n);
            let inputs = inputs.unpack(&before.fixed);
            let mut state = inputs.state();
            state.set_all(&statistics, before.statistics);
            let own = inputs.part_of(g, part, self.plan.part_batch());
            let draw = inputs.draw(g, part, parts);
            let batch = Batch {
                examples: &own,
                ..inputs.batch()
            };
            let (loss, correct) = self.loss(g, &mut state, batch, &draw, &inputs.scheduled);
            let values = [&[loss.loss], &loss.metrics[..], &loss.gradients].concat();
            let sums = before.sums.iter().zip(values).map(|(&sum, value)| sum + value);
            let after = Carry {
                sums: sums.collect(),
                correct: before.correct + correct,
                statistics: state.get_all(&statistics),
                fixed: before.fixed,
            };
            after.pack()
        });
        let end = Carry::unpack(&end, sums, n);
        state.set_all(&statistics, end.statistics);
        let mut means = end.sums.into_iter().map(|sum| sum / parts as f64);
        let mut take = |n: usize| -> Vec<Tensor<'g>> { means.by_ref().take(n).collect() };
        let (loss, metrics) = (take(1)[0], take(self.metrics()));
        let loss = Loss {
            loss,
            metrics,
            gradients: means.collect(),
        };
        (loss, end.correct)
    }

    /// The arrays of the state that a loss reads: masked kernels with their masks, and moving statistics.
    fn read_in_parts<'g>(&self, statistics: &[String], state: &State<'g>) -> Vec<(String, Tensor<'g>)> {
        let sparse = self.plan.params.iter().filter(|p| self.plan.sparse.contains(&p.name));
        let kernels = sparse.flat_map(|p| [Some(&p.name), p.mask.as_ref()]).flatten();
        let names = kernels.chain(statistics).cloned();
        names.map(|name| (name.clone(), state.get(&name))).collect()
    }
}

/// Everything that the parts of a batch share. A loop takes it as tensors and gives it back to its body.
struct Fixed<'g> {
    state: Vec<(String, Tensor<'g>)>,
    effective: Vec<Tensor<'g>>,
    examples: Vec<Tensor<'g>>,
    apart: Vec<Option<Tensor<'g>>>,
    mask_keys: Vec<Tensor<'g>>,
    seed: Tensor<'g>,
    iteration: Tensor<'g>,
    replica: Option<Tensor<'g>>,
    scheduled: Scheduled<'g>,
}

impl<'g> Fixed<'g> {
    fn new(batch: Batch<'g, '_>, draw: &Draw<'g>, scheduled: &Scheduled<'g>, state: Vec<(String, Tensor<'g>)>) -> Self {
        Fixed {
            state,
            effective: batch.effective.to_vec(),
            examples: batch.examples.to_vec(),
            apart: batch.apart.to_vec(),
            mask_keys: batch.mask_keys.to_vec(),
            seed: draw.seed,
            iteration: draw.iteration,
            replica: draw.replica,
            scheduled: scheduled.clone(),
        }
    }

    fn pack(&self) -> Vec<Tensor<'g>> {
        let state = self.state.iter().map(|(_, tensor)| tensor);
        let lists = [&self.effective, &self.examples, &self.mask_keys].into_iter().flatten();
        let draw = [&self.seed, &self.iteration].into_iter().chain(&self.replica);
        let tensors = state.chain(lists).chain(self.apart.iter().flatten()).chain(draw);
        tensors.copied().chain(self.scheduled.values()).collect()
    }

    /// The same from the tensors of [`Fixed::pack`], in another graph.
    fn unpack<'a>(&self, tensors: &[Tensor<'a>]) -> Fixed<'a> {
        let mut rest = tensors.iter().copied();
        let mut next = || match rest.next() {
            Some(tensor) => tensor,
            None => panic!("{} tensors, expected those of a part", tensors.len()),
        };
        let state = self.state.iter().map(|(name, _)| (name.clone(), next())).collect();
        let mut list = |of: &[Tensor<'g>]| of.iter().map(|_| next()).collect::<Vec<_>>();
        let (effective, examples, mask_keys) = (list(&self.effective), list(&self.examples), list(&self.mask_keys));
        Fixed {
            state,
            effective,
            examples,
            mask_keys,
            apart: self.apart.iter().map(|apart| apart.map(|_| next())).collect(),
            seed: next(),
            iteration: next(),
            replica: self.replica.map(|_| next()),
            scheduled: self.scheduled.with(&mut next),
        }
    }

    fn state(&self) -> State<'g> {
        self.state.iter().cloned().collect()
    }

    fn batch(&self) -> Batch<'g, '_> {
        Batch {
            effective: &self.effective,
            examples: &self.examples,
            apart: &self.apart,
            mask_keys: &self.mask_keys,
        }
    }

    /// The `rows` examples of a part.
    fn part_of(&self, g: &'g Graph, part: Tensor<'g>, rows: usize) -> Vec<Tensor<'g>> {
        let first = part * g.scalar(rows as i32);
        let rows_of = |array: &Tensor<'g>| {
            let (mut starts, mut window) = (vec![g.scalar(0i32); array.dims().len()], array.dims());
            (starts[0], window[0]) = (first, rows);
            array.dynamic_slice(&starts, &window)
        };
        self.examples.iter().map(rows_of).collect()
    }

    /// Random numbers of their own for each part.
    fn draw(&self, g: &'g Graph, part: Tensor<'g>, parts: usize) -> Draw<'g> {
        let number = self.iteration * g.scalar(parts as i64) + part.convert(hlo::DType::S64);
        Draw::new(self.seed, number, self.replica)
    }
}
