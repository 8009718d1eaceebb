//! Examples that are made while the device works: worker threads read, decode and change them at random, batch by batch,
//! a bounded number of batches ahead of the consumer.
//!
//! What a batch holds is a function of the source, the [`Order`] and the batch's number alone: neither the number of threads
//! nor how far they are ahead changes a bit, and a pipeline that starts at batch `n` goes on as one that came there. An
//! error waits in the batch that it belongs to, so that it is told when that batch's turn comes and not before; whatever
//! happens to a worker, the consumer gets a batch or an error, and dropping the pipeline ends its threads.

mod order;
mod workers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;

use hlo::{Literal, Shape};

use super::{Result, cores};

pub use order::{Order, Part};
pub use workers::Pipeline;

/// Examples that can be made one by one, each from its index, in any order and from several threads.
pub trait Source: Send + Sync + 'static {
    /// What a thread keeps from one example to the next.
    type Scratch: Default;

    /// Number of examples, at least 1.
    fn len(&self) -> usize;

    /// Element type (`u8` or `f32`) and dimensions of an image.
    fn image(&self) -> Shape;

    /// Makes the image of an example in `out`, which has its bytes and starts where any element type may, and returns the
    /// label.
    ///
    /// # Errors
    /// What is wrong with the example; [`crate::data::Error::is_corrupt`] tells whether others may be had all the same.
    fn read(&self, example: Place, scratch: &mut Self::Scratch, out: &mut [u8]) -> Result<i32>;

    /// Whether there is no example at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An example in the course of training or evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which example it is.
    pub index: usize,
    /// For training, how often all examples were seen before: with the index it tells which random numbers are its own.
    pub epoch: Option<u64>,
}

/// How a pipeline works. Nothing of it changes a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, at least 1.
    pub threads: usize,
    /// Batches that are begun before the consumer asks for them, at least 1.
    pub prefetch: usize,
    /// How many different corrupt examples are left out; one more is an error.
    pub skip_corrupt: usize,
}

impl Options {
    /// The threads said, or one per core, and enough batches of `batch` examples for two launches of `steps` and to keep
    /// the threads busy.
    pub fn new(threads: Option<usize>, batch: usize, steps: usize) -> Self {
        let threads = threads.unwrap_or_else(cores);
        Options {
            threads,
            prefetch: (2 * steps).max((2 * threads).div_ceil(batch.max(1))),
            skip_corrupt: 0,
        }
    }
}

/// Examples side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, dims..]`; of places without an example all zeros.
    pub images: Literal,
    /// `s32[batch]`, likewise.
    pub labels: Vec<i32>,
    /// Whether a place has an example: not past the end of the set, and not where one is corrupt that nothing replaces.
    pub present: Vec<bool>,
    /// Indices of the examples.
    pub indices: Vec<usize>,
}

impl Batch {
    /// `batch` places without an example, of images of this shape.
    pub fn empty(image: &Shape, batch: usize) -> Option<Self> {
        let shape = batch_shape(image, batch);
        let zeros = vec![0; shape.bytes()];
        Some(Batch {
            images: Literal::from_bytes(shape, zeros)?,
            labels: vec![0; batch],
            present: vec![false; batch],
            indices: vec![],
        })
    }
}

/// Corrupt examples that were left out: index and what was wrong.
pub type Skipped = BTreeMap<usize, String>;

/// Images of batches, one after the other, as one array of `batches` batches, of which the missing ones are zeros.
pub fn joined(parts: Vec<Literal>, batches: usize) -> Option<Literal> {
    if let [_] = parts.as_slice()
        && batches == 1
    {
        return parts.into_iter().next();
    }
    let first = parts.first()?.shape().clone();
    let mut dims = first.dims.to_vec();
    *dims.first_mut()? *= batches;
    let shape = Shape::new(first.dtype, dims);
    let mut bytes = Vec::with_capacity(shape.bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part.bytes()));
    bytes.resize(shape.bytes(), 0);
    Literal::from_bytes(shape, bytes)
}

/// Shape of `batch` images.
fn batch_shape(image: &Shape, batch: usize) -> Shape {
    Shape::new(image.dtype, [&[batch][..], &image.dims[..]].concat())
}
