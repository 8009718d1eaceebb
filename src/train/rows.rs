//! The schedule as rows of numbers: learning rate, drop fraction and whether to update masks, per iteration, as float32 values
//! that are the same on every device and in `plan`.

use crate::config::Plan;
use hlo::Tensor;
use sparse::{Counters, Tick};

/// The schedule of one iteration: a value of type `T` for each column of a launch's `schedule`.
///
/// If a mask update replaces the gradient step, the step is still computed, with coefficients that change nothing:
/// `V <- 1 V + 0 g`, `W <- W - 0 (..)`. Selecting between old and new arrays instead would copy every array in every
/// iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns<T> {
    /// Learning rate; 0 if the step is replaced.
    pub rate: T,
    /// Factor of the velocity; 1 if the step is replaced.
    pub decay: T,
    /// Increment of `global_step`, and factor of the gradient in the velocity: 1, or 0 if the step is replaced.
    pub advance: T,
    /// 1 if masks are updated, else 0.
    pub update: T,
    /// Drop fraction of the update.
    pub drop_fraction: T,
    /// Factors of the previous average and of this iteration's gradient, if gradients are averaged for updates.
    pub average: Option<[T; 2]>,
    /// Gradual pruning only: share of the weights that each updated layer keeps.
    pub densities: Vec<T>,
}

/// A row of a launch's `schedule`.
pub type Row = Columns<f32>;

/// A row as f32 scalars of a graph.
pub(super) type Scheduled<'g> = Columns<Tensor<'g>>;

impl<T: Copy> Columns<T> {
    /// The values in the order of the columns.
    pub fn values(&self) -> Vec<T> {
        let common = [self.rate, self.decay, self.advance, self.update, self.drop_fraction];
        let average = self.average.into_iter().flatten();
        common
            .into_iter()
            .chain(average)
            .chain(self.densities.iter().copied())
            .collect()
    }

    /// The same columns with the values that `next` gives in their order.
    pub(super) fn with<U>(&self, next: &mut impl FnMut() -> U) -> Columns<U> {
        Columns {
            rate: next(),
            decay: next(),
            advance: next(),
            update: next(),
            drop_fraction: next(),
            average: self.average.map(|factors| factors.map(|_| next())),
            densities: self.densities.iter().map(|_| next()).collect(),
        }
    }
}

impl Row {
    /// Columns that every schedule has.
    const COMMON: usize = 5;

    /// Columns of a plan's `schedule`.
    pub fn columns(plan: &Plan) -> usize {
        let averages = if averages(plan) { 2 } else { 0 };
        let densities = if plan.gradual.is_some() { plan.budgets.len() } else { 0 };
        Row::COMMON + averages + densities
    }

    /// The row of an iteration, whose gradients are averaged over `window`.
    fn new(plan: &Plan, tick: &Tick, window: Option<Window>) -> Self {
        let update = tick.update_at.is_some();
        let replaced = update && plan.method.timing.replaces_step();
        let unless_replaced = |value: f64, otherwise: f32| if replaced { otherwise } else { value as f32 };
        let density = |b: &sparse::Budget, gs| plan.gradual.map(|g| g.density_at(gs, b.sparsity));
        let gs = tick.update_at.unwrap_or(tick.step_after);
        Row {
            rate: unless_replaced(f64::from(plan.learning_rate.at(tick.step_before)), 0.0),
            decay: unless_replaced(plan.run.optimizer.momentum, 1.0),
            advance: unless_replaced(1.0, 0.0),
            update: f32::from(update),
            drop_fraction: tick.drop_fraction,
            average: averages(plan).then(|| Window::factors(window, tick.iteration)),
            densities: plan.budgets.iter().filter_map(|b| density(b, gs)).collect(),
        }
    }
}

/// Whether gradients of several batches are averaged for an update.
fn averages(plan: &Plan) -> bool {
    plan.run.method.gradient_batches > 1
}

/// The next `count` iterations after `counters`, which it advances, with their rows.
pub fn schedule(plan: &Plan, counters: &mut Counters, count: usize) -> Vec<(Tick, Row)> {
    let advance = |counters: &mut Counters| counters.advance(plan.method.timing, &plan.schedule);
    let ticks: Vec<Tick> = (0..count).map(|_| advance(counters)).collect();
    // Gradients are averaged for the next update, which may come after these iterations.
    let batches = plan.run.method.gradient_batches;
    let mut beyond = *counters;
    let further: Vec<Tick> = (1..batches).map(|_| advance(&mut beyond)).collect();
    let updates = ticks.iter().chain(&further).filter(|t| t.update_at.is_some());
    let windows: Vec<Window> = updates.map(|t| Window::before(t.iteration, batches)).collect();
    let row = |tick: Tick| {
        let window = windows.iter().copied().find(|w| w.contains(tick.iteration));
        let row = Row::new(plan, &tick, window);
        (tick, row)
    };
    ticks.into_iter().map(row).collect()
}

/// The iterations whose gradients are averaged for an update; the last one is the update's. Bounds are inclusive.
#[derive(Clone, Copy)]
struct Window {
    first: u64,
    last: u64,
}

impl Window {
    /// The last `batches` iterations up to `update`, or as many as there are.
    fn before(update: u64, batches: u64) -> Self {
        Window {
            first: (update + 1).saturating_sub(batches),
            last: update,
        }
    }

    fn contains(&self, iteration: u64) -> bool {
        (self.first..=self.last).contains(&iteration)
    }

    /// Factors of the previous average and of an iteration's gradient. Outside a window the average does not change.
    fn factors(window: Option<Window>, iteration: u64) -> [f32; 2] {
        match window {
            None => [1.0, 0.0],
            Some(Window { first, last }) => {
                let started = f32::from(iteration > first);
                [started, 1.0 / (last - first + 1) as f32]
            }
        }
    }
}

impl<'g> Scheduled<'g> {
    /// From the values of a row, in the order of the columns.
    pub fn new(plan: &Plan, values: &[Tensor<'g>]) -> Self {
        let &[rate, decay, advance, update, drop_fraction, ref rest @ ..] = values else {
            panic!("{} columns, expected at least {}", values.len(), Row::COMMON)
        };
        let mut rest = rest;
        let average = match (averages(plan), rest) {
            (true, &[kept, added, ref others @ ..]) => {
                rest = others;
                Some([kept, added])
            }
            _ => None,
        };
        Scheduled {
            rate,
            decay,
            advance,
            update,
            drop_fraction,
            average,
            densities: rest.to_vec(),
        }
    }
}
