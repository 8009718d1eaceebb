//! Feeds examples to launches: they stay on the devices, or are sent with each launch.

use super::error::{Error, Result};
use super::inference::rows;
use super::profile::{Clock, Phase};
use super::replicas::part;
use crate::config::Plan;
use crate::data::arrays::Arrays;
use crate::data::batches::BatchOrder;
use crate::data::pipeline::{self, Order, Part, Pipeline};
use crate::data::sets::Examples;
use crate::device::Device;
use crate::engine::Buffer;
use crate::report::note;
use hlo::Literal;
use std::rc::Rc;
use std::sync::Arc;

/// The training examples of a run, launch by launch.
pub struct Feed {
    /// Examples per iteration, over all replicas and of one replica.
    batch: usize,
    own: usize,
    /// Iterations of a full launch.
    launch: usize,
    kind: Kind,
}

enum Kind {
    /// Images and labels of the whole set, on the device of each local replica. Launches get the indices of their examples.
    Resident {
        data: Vec<[Rc<Buffer>; 2]>,
        order: BatchOrder,
    },
    /// The inputs of an exported model are sent with each launch in the order of use.
    Arrays { data: Arc<Arrays>, order: BatchOrder },
    /// Images are sent with each launch in the order of use, of each batch this process's part. Indices just count.
    Stream {
        pipeline: Pipeline,
        indices: Vec<Rc<Buffer>>,
        /// Number of damaged files.
        damaged: usize,
        /// Number of corrupt examples reported so far.
        reported: usize,
    },
}

/// Inputs of a launch on one device: `images`, `labels` and `indices`, or those of an exported model (see
/// [`super::step::Trainer::launch`]).
pub type LaunchInputs = Vec<Rc<Buffer>>;

impl Feed {
    /// Starts with iteration `first`, for the replicas of this process.
    ///
    /// # Errors
    /// A set smaller than a batch, and errors of the device or the system.
    pub fn new(plan: &Plan, device: &Device, examples: Examples, first: u64) -> Result<Self> {
        let (batch, launch) = (plan.run.train.batch_size, plan.launch_length() as usize);
        let (n, seed, own) = (examples.len(), plan.run.train.seed, batch / device.replicas);
        let to_all = |array: &Literal| device.each(|_, at| device.upload(array, at).map(Rc::new));
        let kind = match examples {
            Examples::Arrays(data) => {
                let order = BatchOrder::new(n, batch, seed)?;
                Kind::Arrays { data, order }
            }
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
                    reported: 0,
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

    /// Examples of iterations `at .. at + count` for each local replica. Calls must be consecutive for streams. Leaves `clock` in
    /// [`Phase::Transfer`].
    ///
    /// # Errors
    /// A corrupt or unreadable example, and errors of the device.
    pub fn next(&mut self, device: &Device, at: u64, count: usize, clock: &mut Clock) -> Result<Vec<LaunchInputs>> {
        clock.enter(Phase::Input);
        let (k, batch, own) = (self.launch, self.batch, self.own);
        match &mut self.kind {
            Kind::Resident { data, order } => {
                // Arrays have the length of a full launch; the program ignores entries past `count`.
                let mut indices = order.indices(at, count);
                indices.resize(k * batch, 0);
                clock.enter(Phase::Transfer);
                device.each(|replica, at| {
                    let indices = part(&indices, batch, device.replicas, replica);
                    let indices = device.upload(&Literal::new(&[k, own], &indices), at)?;
                    let [images, labels] = &data[at];
                    Ok(vec![Rc::clone(images), Rc::clone(labels), Rc::new(indices)])
                })
            }
            Kind::Arrays { data, order } => {
                let indices = order.indices(at, count);
                // The program ignores rows past `count` batches.
                device.each(|replica, at| {
                    let own_indices = part(&indices, batch, device.replicas, replica);
                    let arrays = data.gather(&own_indices, k * own).map_err(crate::data::Error::from)?;
                    let send = |array| Ok(Rc::new(device.send(array, at)?));
                    arrays.into_iter().map(send).collect()
                })
            }
            Kind::Stream {
                pipeline,
                indices,
                reported,
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
                for fault in pipeline.skipped().values().skip(*reported) {
                    note!("left out: {fault}");
                }
                *reported = pipeline.skipped().len();
                labels.resize(k * own * here, 0);
                let images = parts(images, own, here, k).ok_or(Error::Output("batch"))?;
                clock.enter(Phase::Transfer);
                let feed = |(at, images): (usize, Literal)| {
                    let labels = part(&labels, own * here, here, at);
                    let labels = Literal::new(&[labels.len()], &labels);
                    Ok(vec![
                        Rc::new(device.send(images, at)?),
                        Rc::new(device.send(labels, at)?),
                        Rc::clone(&indices[at]),
                    ])
                };
                images.into_iter().enumerate().map(feed).collect()
            }
        }
    }

    /// Number of corrupt examples and damaged files skipped so far by all processes. All processes must call it.
    ///
    /// # Errors
    /// Failures of the communication between processes.
    pub fn skipped(&self, device: &Device) -> Result<usize> {
        match &self.kind {
            Kind::Resident { .. } | Kind::Arrays { .. } => Ok(0),
            Kind::Stream { pipeline, damaged, .. } => {
                let sums = device.sums(&[pipeline.skipped().len()])?;
                Ok(damaged + sums.iter().sum::<usize>())
            }
        }
    }
}

/// The part of every batch that this process reads.
pub(super) fn share(device: &Device) -> Part {
    let here = device.own.len();
    Part {
        process: device.own.start / here,
        count: device.replicas / here,
    }
}

/// Images of a launch for each replica: its `own` of each batch. There may be fewer than `launch` batches.
fn parts(batches: Vec<Literal>, own: usize, replicas: usize, launch: usize) -> Option<Vec<Literal>> {
    if replicas == 1 {
        return Some(vec![pipeline::joined(batches, launch)?]);
    }
    let images_of = |replica: usize| {
        let part = |batch: &Literal| rows(batch, own * replica..own * (replica + 1));
        pipeline::joined(batches.iter().map(part).collect::<Option<_>>()?, launch)
    };
    (0..replicas).map(images_of).collect()
}
