//! Which arrays of a computation are cut into parts.

use super::LANES;
use super::borders::Rows;
use hlo::{Computation, ConvDims, Node, NodeId, Op, Shape};
use std::collections::BTreeSet;

/// Parts of an image: more would leave few rows in each.
const PARTS: usize = 2;

/// Least size of images in memory, with padding, relative to their elements, for which they are cut.
const LEAST_PADDING: f64 = 1.5;

/// Elements of an image of half the lanes with the padding of its tiles: along the batch or along the channels, whichever is less.
fn stored(image: &Shape) -> usize {
    let channels = image.dims[3].max(1);
    let pixels = image.elements() / channels;
    pixels * (PARTS * channels).min(channels.next_multiple_of(LANES))
}

/// How images are cut.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Number of parts of an image.
    pub parts: usize,
    /// Number of images.
    pub batch: usize,
    /// Rows of the smallest image that is cut.
    least_rows: usize,
    /// Image sizes that other operators need whole.
    whole: BTreeSet<Vec<usize>>,
}

/// How a convolution uses images `[batch, rows, columns, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Use {
    /// Slides a kernel over images, which yields images.
    Images,
    /// Sums products of two images: the gradient of a kernel.
    Kernel,
}

impl Use {
    /// The use of a convolution with these roles of axes; `None` for others.
    pub fn of(d: &ConvDims, batch_groups: usize, feature_groups: usize) -> Option<Use> {
        if d.input_spatial != [1, 2] {
            return None;
        }
        let images = d.input_batch == 0 && d.output_batch == 0 && d.output_spatial == [1, 2] && batch_groups == 1;
        let kernel = d.input_feature == 0 && d.kernel_input == 0 && d.kernel_spatial == [1, 2] && feature_groups == 1;
        match (images, kernel) {
            (true, _) => Some(Use::Images),
            (_, true) => Some(Use::Kernel),
            _ => None,
        }
    }
}

/// A convolution that this pass knows.
pub(super) struct Convolution<'c> {
    pub using: Use,
    pub rows: Rows,
    /// Its two images: the input, and the output or the cotangent.
    pub images: [&'c Shape; 2],
}

impl<'c> Convolution<'c> {
    /// `None` for other operators.
    pub fn of(nodes: &'c [Node], id: NodeId) -> Option<Self> {
        let node = &nodes[id];
        let Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } = &node.op
        else {
            return None;
        };
        let using = Use::of(dims, *batch_groups, *feature_groups)?;
        let [input, other] = [0, 1].map(|i| nodes[node.operands[i]].shape());
        let (rows, image) = match using {
            Use::Images => (Rows::sliding(&window[0]), node.shape()),
            Use::Kernel => {
                let taps = node.shape().dims[dims.output_spatial[0]];
                (Rows::of_kernel_gradient(&window[0], taps), other)
            }
        };
        let known = input.rank() == 4 && image.rank() == 4 && input.dims[0] == image.dims[0];
        known.then_some(Convolution {
            using,
            rows,
            images: [input, image],
        })
    }

    /// Whether it can be computed on images in parts.
    pub fn fits(&self, parts: usize) -> bool {
        let [inputs, outputs] = self.images.map(|image| image.dims[1]);
        let divide = inputs > 0 && inputs.is_multiple_of(parts) && outputs.is_multiple_of(parts);
        divide && self.rows.fits(inputs / parts, outputs / parts)
    }
}

impl Plan {
    /// How the images of a computation are cut; `None` if too few of them would fill their tiles badly. Where most channels are
    /// many, as in ResNet-50, compilers lay out the others alike, with channels in the lanes, and halves would gain nothing.
    pub fn of(computation: &Computation) -> Option<Self> {
        let nodes = &computation.nodes;
        let whole: BTreeSet<Vec<usize>> = nodes.iter().flat_map(|node| needed_whole(nodes, node)).collect();
        let known = (0..nodes.len()).filter_map(|id| Convolution::of(nodes, id));
        let images: Vec<&Shape> = known
            .filter(|conv| conv.fits(PARTS))
            .flat_map(|conv| conv.images)
            .filter(|image| image.dims[0] % LANES == LANES / PARTS && !whole.contains(&image.dims))
            .collect();
        let padded_enough = |&rows: &usize| {
            let large = || images.iter().filter(|image| image.dims[1] >= rows);
            let elements: usize = large().map(|image| image.elements()).sum();
            large().map(|image| stored(image)).sum::<usize>() as f64 >= LEAST_PADDING * elements as f64
        };
        let narrow = images.iter().filter(|image| image.dims[3] < LANES);
        let least_rows = narrow.map(|image| image.dims[1]).filter(padded_enough).min()?;
        let batch = images.iter().find(|image| image.dims[1] == least_rows)?.dims[0];
        Some(Plan {
            parts: PARTS,
            batch,
            least_rows,
            whole,
        })
    }

    /// Whether an array of this shape is held in parts.
    pub fn cuts(&self, shape: &Shape) -> bool {
        let [batch, rows, _, _] = shape.dims[..] else {
            return false;
        };
        let large = rows >= self.least_rows && rows.is_multiple_of(self.parts);
        batch == self.batch && large && !self.whole.contains(&shape.dims)
    }

    /// Dimensions of an array in parts.
    pub fn dims(&self, dims: &[usize]) -> Vec<usize> {
        let mut cut = dims.to_vec();
        cut[0] *= self.parts;
        cut[1] /= self.parts;
        cut
    }
}

/// Image sizes of the operands of a pooling.
fn needed_whole(nodes: &[Node], node: &Node) -> Vec<Vec<usize>> {
    let pools = matches!(node.op, Op::ReduceWindow { .. } | Op::SelectAndScatter { .. });
    let operand = pools.then(|| nodes[node.operands[0]].shape().dims.clone());
    operand.into_iter().collect()
}
