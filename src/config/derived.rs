//! Figures that follow from a plan: steps, launches, replicas, budgets, sizes.

use hlo::DType;
use models::Param;

use super::plan::{Plan, Pruned, Replacement, gradient_steps, layer_name, update_steps};
use super::reach::share_of_zeros;
use super::{Data, Run};
use crate::data::pipeline;
use crate::data::pixels::Preprocessing;
use crate::data::sets::{ExampleSpec, Reader};
use crate::engine::EngineKind;
use models::{Family, Precision};
use pjrt::DeviceKind;
use sparse::{Budget, GradualPruning};

/// Maximum bytes of images per transfer, if they are sent launch by launch: enough to hide the overhead of a launch, and little
/// compared with the memory that training takes.
const MAX_STREAMED_BYTES: usize = 64 << 20;

impl Plan {
    /// Global steps of the mask updates of the whole run, in order.
    pub fn update_steps(&self) -> impl Iterator<Item = i64> {
        self.update_steps_within(self.iterations)
    }

    /// Global steps of the mask updates of the first `iterations` iterations, in order.
    pub fn update_steps_within(&self, iterations: u64) -> impl Iterator<Item = i64> {
        update_steps(self.method, &self.schedule, iterations)
    }

    /// Iterations of a full launch. A launch ends at an evaluation or a checkpoint, and receives at most `MAX_STREAMED_BYTES` of
    /// images, unless a single batch has more.
    pub fn launch_length(&self) -> u64 {
        let train = &self.run.train;
        let rhythm = train.eval_interval.min(train.checkpoint_interval);
        let sent = match self.streams() {
            true => MAX_STREAMED_BYTES / self.batch_bytes().max(1),
            false => usize::MAX,
        };
        train.steps_per_launch.min(rhythm).min(sent.max(1) as u64)
    }

    /// Whether the run keeps a journal of its mask updates.
    pub fn keeps_topology(&self) -> bool {
        self.method.masked && self.run.output.topology != Some(false)
    }

    /// Whether examples are sent to the device launch by launch, not once. Arrays are for exported models only; a network of
    /// this program has them in memory.
    pub fn streams(&self) -> bool {
        match self.run.data.set.reader {
            Reader::Arrays => self.exported.is_some(),
            Reader::Memory { .. } | Reader::Records | Reader::Generated(_) => self.run.data.set.is_streamed(),
        }
    }

    /// Element type of images on the device.
    pub fn pixels(&self) -> DType {
        match self.run.data.set.reader {
            Reader::Records | Reader::Arrays => DType::F32,
            Reader::Memory { .. } | Reader::Generated(_) => DType::U8,
        }
    }

    /// Size of a batch of images that is sent to the device.
    pub fn batch_bytes(&self) -> usize {
        if let Some(exported) = &self.exported {
            let bytes: usize = exported.manifest.inputs.iter().map(|input| input.typed().bytes()).sum();
            return self.replicas() * self.accumulated() * bytes;
        }
        size_of::<f32>() * self.run.train.batch_size * self.input_dims.iter().product::<usize>()
    }

    /// The engine that runs programs.
    pub fn engine(&self) -> EngineKind {
        self.run.device.engine.unwrap_or_default()
    }

    /// Requested plugin file or package.
    pub fn plugin(&self) -> Option<&str> {
        Some(self.run.device.plugin.as_str()).filter(|plugin| !plugin.is_empty())
    }

    /// Devices for data-parallel training, over all processes.
    pub fn replicas(&self) -> usize {
        self.run.device.replicas()
    }

    /// Processes that share the replicas.
    pub fn processes(&self) -> usize {
        self.run.device.processes.unwrap_or(1)
    }

    /// Examples per batch and replica.
    pub fn replica_batch(&self) -> usize {
        self.run.train.batch_size / self.replicas()
    }

    /// Parts of a replica's batch that are computed one after the other.
    pub fn accumulated(&self) -> usize {
        self.run.train.accumulate.unwrap_or(1)
    }

    /// Examples of one of them.
    pub fn part_batch(&self) -> usize {
        self.replica_batch() / self.accumulated()
    }

    /// Bytes of gradients in the all-reduce of each iteration: 4 per parameter, or 2 in bf16. 0 for a single replica.
    pub fn all_reduced_bytes(&self) -> usize {
        match self.replicas() {
            1 => 0,
            _ => self.run.train.gradient_precision.dtype().size() * self.parameters(),
        }
    }

    /// Gradient steps of the whole run: iterations minus the mask updates that replace a step.
    pub fn gradient_steps(&self) -> u64 {
        gradient_steps(self.method, &self.schedule, self.iterations)
    }

    /// Gradient steps of the first `iterations` iterations.
    pub fn gradient_steps_within(&self, iterations: u64) -> u64 {
        gradient_steps(self.method, &self.schedule, iterations)
    }

    /// Whether expanding convolutions and their normalisations have joint gradients
    /// ([`models::Net::with_joint_gradients`]): on TPUs in bf16, where it was measured to need fewer bytes.
    pub fn joins_gradients(&self) -> bool {
        self.run.device.kind == DeviceKind::Tpu && self.run.train.precision == Precision::Bf16
    }

    /// Whether training augments images.
    pub fn augments(&self) -> bool {
        self.preprocessing.is_random() && self.run.data.augment != Some(false)
    }

    /// Whether an iteration draws random numbers before its mask update.
    pub fn draws(&self) -> bool {
        self.random || self.augments()
    }

    /// The budget of a parameter; `None` if it is not maskable.
    pub fn budget(&self, param: &Param) -> Option<&Budget> {
        let layer = layer_name(param)?;
        self.budgets.iter().find(|b| b.name == layer)
    }

    /// Connections replaced by an update at global step `step`.
    pub fn replacement(&self, step: i64) -> Replacement {
        let drop_fraction = self.schedule.drop_fraction_at(step);
        let moved = |b: &Budget| sparse::reference::n_prune(b.nonzeros, drop_fraction) as u64;
        let replaced = self.budgets.iter().filter(|b| b.zeros > 0).map(moved).sum();
        Replacement {
            step,
            drop_fraction,
            replaced,
        }
    }

    /// Result of an update at global step `step`; `None` unless the method is gradual pruning.
    pub fn pruned(&self, step: i64) -> Option<Pruned> {
        let gradual = self.gradual?;
        let kept = |b: &Budget| GradualPruning::kept(b.zeros + b.nonzeros, gradual.density_at(step, b.sparsity));
        Some(Pruned {
            step,
            sparsity: gradual.sparsity_at(step),
            nonzeros: self.budgets.iter().map(kept).sum(),
        })
    }

    /// Ones over all maskable layers at the end of the run.
    pub fn nonzeros(&self) -> usize {
        self.reached.iter().map(|b| b.nonzeros).sum()
    }

    /// Weights of all maskable layers.
    pub fn maskable(&self) -> usize {
        self.budgets.iter().map(|b| b.nonzeros + b.zeros).sum()
    }

    /// Share of zeros over all maskable layers at the end of the run; 0 when there are none.
    pub fn sparsity(&self) -> f64 {
        share_of_zeros(self.nonzeros(), self.maskable())
    }

    /// Elements of all parameters, masks and slots apart.
    pub fn parameters(&self) -> usize {
        self.params.iter().map(Param::elements).sum()
    }

    /// Size of the training state: parameters, statistics and slots in f32, a byte per mask entry, and what the method keeps
    /// beside them (averages of gradients in f32, a byte per weight for whether it was ever active). Activations come on
    /// top.
    pub fn state_bytes(&self) -> usize {
        let statistics: usize = self.statistics.iter().map(|s| s.dims.iter().product::<usize>()).sum();
        let averaged = self.method.grow == sparse::GrowScore::Momentum || self.run.method.gradient_batches > 1;
        let floats = self.parameters() * (1 + self.run.optimizer.rule.slots.len())
            + statistics
            + if averaged { self.maskable() } else { 0 };
        let masks = usize::from(self.method.masked) + usize::from(self.method.tracks_exploration);
        size_of::<f32>() * floats + masks * self.maskable()
    }
}

impl Run {
    /// The examples that a network for inputs of `dims` in `classes` classes needs from the run's data set.
    pub fn example_spec<'a>(&self, dims: &'a [usize], classes: usize) -> ExampleSpec<'a> {
        ExampleSpec {
            dims,
            classes,
            examples: [self.generated_examples(); 2],
            seed: self.train.seed,
            pictures: self.data.pictures.unwrap_or_default(),
            skip_corrupt: self.data.skip_corrupt.unwrap_or(0),
        }
    }

    /// Number of training examples that remain of `all` beside the validation split.
    pub fn training_examples(&self, all: usize) -> usize {
        all - self.data.held_out(all).min(all)
    }

    /// Number of examples of a split that is generated.
    pub fn generated_examples(&self) -> usize {
        self.data.examples.unwrap_or(2 * self.train.batch_size)
    }
}

impl Data {
    /// How pixels become the input of a network of this family: as configured, or as in the network's driver.
    pub fn preprocessing_for(&self, family: &Family) -> Preprocessing {
        self.preprocessing.unwrap_or(Preprocessing::of(family))
    }

    /// Number of `all` training examples that are held out for validation.
    pub fn held_out(&self, all: usize) -> usize {
        match self.validation {
            None => 0,
            Some(share) if share < 1.0 => ((share * all as f64).round() as usize).max(1),
            Some(number) => number as usize,
        }
    }

    /// Options of the threads that make batches of `batch` examples, `steps` batches per launch.
    pub fn pipeline(&self, batch: usize, steps: usize) -> pipeline::Options {
        let usual = pipeline::Options::new(self.threads, batch, steps);
        pipeline::Options {
            prefetch: self.prefetch.unwrap_or(usual.prefetch),
            skip_corrupt: self.skip_corrupt.unwrap_or(0),
            ..usual
        }
    }
}
