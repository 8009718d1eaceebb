//! Where the examples of a launch come from: they stay on the devices, or each launch is sent its own.

use super::error::{Error, Result};
use super::inference::rows;
use super::profile::{Clock, Phase};
use super::replicas::part;
use crate::config::Plan;
use crate::data::batches::BatchOrder;
use crate::data::pipeline::{self, Order, Part, Pipeline};
use crate::data::sets::Examples;
use crate::device::Device;
use crate::engine::Buffer;
use crate::report::note;
use hlo::Literal;
use std::rc::Rc;

/// The training examples of a run, launch by launch.
pub struct Feed {
    /// Examples per iteration, over all replicas, and those of one replica.
    batch: usize,
    own: usize,
    /// Iterations of a full launch.
    launch: usize,
    kind: Kind,
}

enum Kind {
    /// The whole set, on the device of each replica here: images and labels. A launch is told which examples it takes.
    Resident {
        data: Vec<[Rc<Buffer>; 2]>,
        order: BatchOrder,
    },
    /// Images of a launch in the order in which it takes them, of each batch this process's part; a launch's indices just count.
    Stream {
        pipeline: Pipeline,
        indices: Vec<Rc<Buffer>>,
        /// Files of which a part is left out, and corrupt examples told of.
        damaged: usize,
        told: usize,
    },
}

/// What a launch is given on one device: `images`, `labels` and `indices` (see [`super::step::Trainer::launch`]).
pub type Fed = [Rc<Buffer>; 3];

impl Feed {
    /// The examples of `plan` from iteration `first` on, for the replicas of this process.
    ///
    /// # Errors
    /// A set smaller than a batch, or what the device or the system refuses.
    pub fn new(plan: &Plan, device: &Device, examples: Examples, first: u64) -> Result<Self> {
        let (batch, launch) = (plan.run.train.batch_size, plan.launch_length() as usize);
        let (n, seed, own) = (examples.len(), plan.run.train.seed, batch / device.replicas);
        let to_all = |array: &Literal| device.each(|_, at| device.upload(array, at).map(Rc::new));
        let kind = match examples {
            Examples::Whole(set) => {
                let order = BatchOrder::new(n, batch, seed)?;
                let data = to_all(&set.images)?.into_iter().zip(to_all(&set.labels)?);
                let data = data.map(|(images, labels)| [images, labels]).collect();
                Kind::Resident { data, order }
            }
            Examples::Records(records) => {
                let augment = plan.run.data.augment != Some(false);
                let order = Order::shuffled(n, batch, seed, augment, share(device))?;
                let options = plan.run.data.pipeline(own * device.own.len(), launch);
                let counted: Vec<i32> = (0..(launch * own) as i32).collect();
                Kind::Stream {
                    damaged: records.damaged(),
                    pipeline: records.pipeline(order, options, first)?,
                    indices: to_all(&Literal::new(&[launch, own], &counted))?,
                    told: 0,
                }
            }
        };
        Ok(Feed {
            batch,
            own,
            launch,
            kind,
        })
    }

    /// Examples of iterations `at .. at + count`, of each replica here. Those of a stream follow each other without a gap.
    /// `clock` is left in [`Phase::Transfer`].
    ///
    /// # Errors
    /// A corrupt or unreadable example, or the device's.
    pub fn next(&mut self, device: &Device, at: u64, count: usize, clock: &mut Clock) -> Result<Vec<Fed>> {
        clock.enter(Phase::Input);
        let (k, batch, own) = (self.launch, self.batch, self.own);
        match &mut self.kind {
            Kind::Resident { data, order } => {
                // Arrays have the length of a full launch; entries past `count` are not used.
                let mut indices = order.indices(at, count);
                indices.resize(k * batch, 0);
                clock.enter(Phase::Transfer);
                device.each(|replica, at| {
                    let indices = part(&indices, batch, device.replicas, replica);
                    let indices = device.upload(&Literal::new(&[k, own], &indices), at)?;
                    let [images, labels] = &data[at];
                    Ok([Rc::clone(images), Rc::clone(labels), Rc::new(indices)])
                })
            }
            Kind::Stream {
                pipeline,
                indices,
                told,
                ..
            } => {
                let mut images = Vec::with_capacity(count);
                let here = device.own.len();
                let mut labels = Vec::with_capacity(k * own * here);
                for _ in 0..count {
                    let next = pipeline.take()?.ok_or(crate::data::Error::Workers)?;
                    labels.extend(next.labels);
                    images.push(next.images);
                }
                for fault in pipeline.skipped().values().skip(*told) {
                    note!("left out: {fault}");
                }
                *told = pipeline.skipped().len();
                labels.resize(k * own * here, 0);
                let images = parts(images, own, here, k).ok_or(Error::Output("batch"))?;
                clock.enter(Phase::Transfer);
                let feed = |(at, images): (usize, Literal)| {
                    let labels = part(&labels, own * here, here, at);
                    let labels = Literal::new(&[labels.len()], &labels);
                    Ok([
                        Rc::new(device.send(images, at)?),
                        Rc::new(device.send(labels, at)?),
                        Rc::clone(&indices[at]),
                    ])
                };
                images.into_iter().enumerate().map(feed).collect()
            }
        }
    }

    /// Corrupt examples, and files without their end, left out so far by all processes, which all ask.
    ///
    /// # Errors
    /// What keeps the processes from telling each other.
    pub fn skipped(&self, device: &Device) -> Result<usize> {
        match &self.kind {
            Kind::Resident { .. } => Ok(0),
            Kind::Stream { pipeline, damaged, .. } => {
                let sums = device.sums(&[pipeline.skipped().len()])?;
                Ok(damaged + sums.iter().sum::<usize>())
            }
        }
    }
}

/// What this process reads of every batch.
pub(super) fn share(device: &Device) -> Part {
    let here = device.own.len();
    Part {
        process: device.own.start / here,
        count: device.replicas / here,
    }
}

/// Images of a launch of `launch` batches, of which the last ones may be missing, for each replica: its `own` of each batch.
fn parts(batches: Vec<Literal>, own: usize, replicas: usize, launch: usize) -> Option<Vec<Literal>> {
    if replicas == 1 {
        return Some(vec![pipeline::joined(batches, launch)?]);
    }
    let of = |replica: usize| {
        let part = |batch: &Literal| rows(batch, own * replica..own * (replica + 1));
        pipeline::joined(batches.iter().map(part).collect::<Option<_>>()?, launch)
    };
    (0..replicas).map(of).collect()
}
