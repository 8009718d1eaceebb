//! Where the examples of a launch come from: they stay on the device, or each launch is sent its own.

use super::error::{Error, Result};
use crate::config::Plan;
use crate::data::batches::BatchOrder;
use crate::data::pipeline::{self, Order, Part, Pipeline};
use crate::data::sets::Examples;
use crate::device::Device;
use crate::pjrt::Buffer;
use crate::report::note;
use hlo::Literal;
use std::rc::Rc;

/// The training examples of a run, launch by launch.
pub struct Feed {
    /// Examples per iteration, and iterations of a full launch.
    batch: usize,
    launch: usize,
    kind: Kind,
}

enum Kind {
    /// The whole set; a launch is told which examples it takes.
    Resident {
        images: Rc<Buffer>,
        labels: Rc<Buffer>,
        order: BatchOrder,
    },
    /// Images of a launch in the order in which it takes them; a launch's indices just count.
    Stream {
        pipeline: Pipeline,
        indices: Rc<Buffer>,
        /// Files of which a part is left out, and corrupt examples told of.
        damaged: usize,
        told: usize,
    },
}

/// What a launch is given: `images`, `labels` and `indices` (see [`super::step::Trainer::launch`]).
pub type Fed = [Rc<Buffer>; 3];

impl Feed {
    /// The examples of `plan` from iteration `first` on.
    ///
    /// # Errors
    /// A set smaller than a batch, or what the device or the system refuses.
    pub fn new(plan: &Plan, device: &Device, examples: Examples, first: u64) -> Result<Self> {
        let (batch, launch) = (plan.run.train.batch_size, plan.launch_length() as usize);
        let (n, seed) = (examples.len(), plan.run.train.seed);
        let upload = |array: &Literal| device.client.to_device(array, 0).map(Rc::new);
        let kind = match examples {
            Examples::Whole(set) => Kind::Resident {
                order: BatchOrder::new(n, batch, seed)?,
                images: upload(&set.images)?,
                labels: upload(&set.labels)?,
            },
            Examples::Records(records) => {
                let augment = plan.run.data.augment != Some(false);
                let order = Order::shuffled(n, batch, seed, augment, Part::WHOLE)?;
                let options = plan.run.data.pipeline(batch, launch);
                let counted: Vec<i32> = (0..(launch * batch) as i32).collect();
                let damaged = records.damaged();
                Kind::Stream {
                    pipeline: records.pipeline(order, options, first)?,
                    indices: upload(&Literal::new(&[launch, batch], &counted))?,
                    damaged,
                    told: 0,
                }
            }
        };
        Ok(Feed { batch, launch, kind })
    }

    /// Examples of iterations `at .. at + count`. Those of a stream follow each other without a gap.
    ///
    /// # Errors
    /// A corrupt or unreadable example, or the device's.
    pub fn next(&mut self, device: &Device, at: u64, count: usize) -> Result<Fed> {
        let (k, batch) = (self.launch, self.batch);
        match &mut self.kind {
            Kind::Resident { images, labels, order } => {
                // Arrays have the length of a full launch; entries past `count` are not used.
                let mut indices = order.indices(at, count);
                indices.resize(k * batch, 0);
                let indices = device.client.to_device(&Literal::new(&[k, batch], &indices), 0)?;
                Ok([images.clone(), labels.clone(), Rc::new(indices)])
            }
            Kind::Stream {
                pipeline,
                indices,
                told,
                ..
            } => {
                let mut parts = Vec::with_capacity(count);
                let mut labels = Vec::with_capacity(k * batch);
                for _ in 0..count {
                    let part = pipeline.take()?.ok_or(crate::data::Error::Workers)?;
                    labels.extend(part.labels);
                    parts.push(part.images);
                }
                for fault in pipeline.skipped().values().skip(*told) {
                    note!("left out: {fault}");
                }
                *told = pipeline.skipped().len();
                labels.resize(k * batch, 0);
                let images = pipeline::joined(parts, k).ok_or(Error::Output("batch"))?;
                let labels = Literal::new(&[k * batch], &labels);
                Ok([
                    Rc::new(device.client.to_device_async(images, 0)?),
                    Rc::new(device.client.to_device_async(labels, 0)?),
                    indices.clone(),
                ])
            }
        }
    }

    /// Corrupt examples, and files without their end, left out so far.
    pub fn skipped(&self) -> usize {
        match &self.kind {
            Kind::Resident { .. } => 0,
            Kind::Stream { pipeline, damaged, .. } => damaged + pipeline.skipped().len(),
        }
    }
}
