//! Loads examples while the device computes: worker threads read, decode and augment a bounded number of batches ahead.
//!
//! The content of a batch depends only on the source, the [`Order`] and the batch number, never on the number of
//! threads or on timing. A pipeline started at batch `n` continues like one that reached it. An error is stored in its
//! batch and reported when that batch is taken. The consumer always gets a batch or an error, even if a worker panics,
//! and dropping the pipeline ends its threads.

mod order;
mod workers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;

use hlo::{Literal, Shape};

use super::Result;
use crate::threads::cores;

pub use order::{Order, Part};
pub use workers::Pipeline;

/// A source of examples with random access from several threads.
pub trait Source: Send + Sync + 'static {
    /// State that a thread keeps between examples.
    type Scratch: Default;

    /// Number of examples, at least 1.
    fn len(&self) -> usize;

    /// Element type (`u8` or `f32`) and dimensions of an image.
    fn image(&self) -> Shape;

    /// Writes the image of an example to `out`, which has its size and is aligned for any element type. Returns the
    /// label.
    ///
    /// # Errors
    /// A fault of the example. [`crate::data::Error::is_corrupt`] tells whether other examples are still usable.
    fn read(&self, example: Place, scratch: &mut Self::Scratch, out: &mut [u8]) -> Result<i32>;

    /// Whether there are no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An example of training or evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the example.
    pub index: usize,
    /// In training, the number of earlier epochs; with the index it selects the random numbers.
    pub epoch: Option<u64>,
}

/// Options of a pipeline. None changes the content of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Number of batches to prefetch, at least 1.
    pub prefetch: usize,
    /// Maximum number of distinct corrupt examples to skip; one more is an error.
    pub skip_corrupt: usize,
}

impl Options {
    /// Uses `threads`, or one per core, and prefetches enough batches of `batch` examples for two launches of `steps`
    /// and to keep the threads busy.
    pub fn new(threads: Option<usize>, batch: usize, steps: usize) -> Self {
        let threads = threads.unwrap_or_else(cores);
        Options {
            threads,
            prefetch: (2 * steps).max((2 * threads).div_ceil(batch.max(1))),
            skip_corrupt: 0,
        }
    }
}

/// A batch of examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[batch, dims..]`; zeros at positions without an example.
    pub images: Literal,
    /// `s32[batch]`; zero at positions without an example.
    pub labels: Vec<i32>,
    /// Whether a position has an example: false past the end of the set, and at corrupt examples without a replacement.
    pub present: Vec<bool>,
    /// Indices of the examples.
    pub indices: Vec<usize>,
}

impl Batch {
    /// An empty batch of `batch` positions for images of this shape.
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

/// Skipped corrupt examples: index and fault.
pub type Skipped = BTreeMap<usize, String>;

/// Concatenates the images of batches into one array of `batches` batches; missing batches are zeros.
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
