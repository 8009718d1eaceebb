//! Layers computed from their connections alone.
//!
//! A sparse layer is a host call: programs call a function of the host, and the call's body states the same computation as a
//! masked dense layer, for the evaluator and for devices without such functions. What the host derives from a mask, such as
//! lists of connections, it keeps under the mask's [`MASK_KEY`], which a program computes whenever the mask changes.
//!
//! The weights of a layer are a whole kernel, or *condensed*: `[connections]`, in row-major order of their positions in the mask.
//!
//! Images between sparse convolutions are *blocked*: `[blocks, lanes, height, width, channels]`, with `blocks * lanes` examples,
//! stored as `[blocks][height][channels][width][lanes]`, so that vectors run along the examples of a block.

use hlo::{DType, GatherDims, Graph, HostFunction, Padding, Shape, Tensor, Update, grad};

/// Host function: two sums that identify a mask, `pred` of any shape, as `u32[2]`: over its true elements, of [`mixed`] numbers of
/// their positions in row-major order. A host keeps what it derives from a mask under this key.
pub const MASK_KEY: &str = "rigl_xla.mask_key";

/// Host function: the forward pass of a sparse layer, on `(x, weights, mask, key)`.
///
/// A convolution takes and returns blocked images; its attributes are `depthwise` (0 or 1), and `stride` and `pad_low` of height and
/// width. A dense layer takes and returns matrices `[examples, units]` with contiguous examples, and has no attributes.
pub const SPARSE_FORWARD: &str = "rigl_xla.sparse_forward";

/// Host function: the gradient of [`SPARSE_FORWARD`] with respect to `x`, on `(cotangent, weights, mask, key)`.
pub const SPARSE_INPUT_GRADIENT: &str = "rigl_xla.sparse_input_gradient";

/// Host function: the gradient of [`SPARSE_FORWARD`] with respect to the weights, on
/// `(x, cotangent, mask, key)`: condensed, or a whole kernel with 0 outside of the mask.
pub const SPARSE_KERNEL_GRADIENT: &str = "rigl_xla.sparse_kernel_gradient";

/// Host function: the gradient of a dense layer with respect to all weights, `[in, out]`, on `(wanted, x, cotangent)`; anything if
/// the `pred` scalar `wanted` is false.
pub const ALL_WEIGHTS_GRADIENT: &str = "rigl_xla.all_weights_gradient";

/// Host function: a whole array, 0 outside of the mask, from `(values, mask)`: `f32[connections]` and `pred` of its shape.
pub const EXPAND: &str = "rigl_xla.expand_connections";

/// Host function: the values `f32[connections]` of an array at the true elements of a mask, from `(array, mask)`.
pub const CONDENSE: &str = "rigl_xla.condense_connections";

/// Host function: per channel of blocked images `x`, `Σ x` and `Σ (x - mean)²`.
pub const BLOCKED_MOMENTS: &str = "rigl_xla.blocked_moments";

/// Host function: per channel of blocked images `a` and `b`, with `m` `f32[channels]`, `Σ a (b - m)` and `Σ a`.
pub const BLOCKED_PRODUCTS: &str = "rigl_xla.blocked_products";

/// Axes of blocked images from minor to major in memory.
const BLOCKED_LAYOUT: [usize; 5] = [1, 3, 4, 2, 0];

/// Axes of activations of sparse layers from minor to major in memory: of blocked images, or of matrices.
fn memory_layout(rank: usize) -> Vec<usize> {
    match rank {
        5 => BLOCKED_LAYOUT.to_vec(),
        _ => vec![0, 1],
    }
}

/// Axes from major to minor in memory.
pub(crate) fn memory_order(x: Tensor<'_>) -> Vec<usize> {
    let rank = x.shape().rank();
    match is_blocked(x) {
        true => memory_layout(rank).into_iter().rev().collect(),
        false => (0..rank).collect(),
    }
}

/// Axes of blocked images other than their channels.
const WITHIN_CHANNELS: [usize; 4] = [0, 1, 2, 3];

/// Examples per block: the floats of an AVX-512 register.
pub const LANES: usize = 16;

/// The kernel of a sparse layer.
#[derive(Clone, Copy, Debug)]
pub struct SparseKernel<'g> {
    /// Weights, masked or not: `[height, width, in, out]` or `[in, out]`; or condensed.
    pub weights: Tensor<'g>,
    /// `pred`, of the shape of the whole kernel.
    pub mask: Tensor<'g>,
    /// [`MASK_KEY`] of the mask.
    pub key: Tensor<'g>,
    /// Whether the kernel's gradient is wanted outside of the mask too.
    pub dense_gradient: Wanted<'g>,
}

/// Whether something is to be computed.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'g> {
    /// Never.
    Never,
    /// Where this `pred` scalar holds.
    If(Tensor<'g>),
    /// Always.
    Always,
    /// If the `pred` scalar `wanted` is true, as the gradient of `all`; otherwise that gradient may be anything. For condensed
    /// weights, whose own gradient has connections only.
    Apart {
        /// Whether it is wanted.
        wanted: Tensor<'g>,
        /// Any array of the shape of the whole kernel.
        all: Tensor<'g>,
    },
}

/// A whole array from its values at the true elements of `mask`, `f32[connections]`; 0 elsewhere.
#[track_caller]
pub fn expand<'g>(values: Tensor<'g>, mask: Tensor<'g>) -> Tensor<'g> {
    let host = HostFunction::named(EXPAND);
    values
        .graph()
        .host_call(host, &[values, mask], |_, x| vec![expanded(x[0], x[1])])[0]
}

/// The values of `array` at the `connections` true elements of `mask`, in row-major order.
#[track_caller]
pub fn condense<'g>(array: Tensor<'g>, mask: Tensor<'g>, connections: usize) -> Tensor<'g> {
    let host = HostFunction::named(CONDENSE);
    array
        .graph()
        .host_call(host, &[array, mask], |_, x| vec![condensed(x[0], x[1], connections)])[0]
}

/// [`expand`] as a graph.
fn expanded<'g>(values: Tensor<'g>, mask: Tensor<'g>) -> Tensor<'g> {
    let flat = mask.reshape(&[mask.shape().elements()]);
    let found = values.take_rows(ranks(flat));
    flat.select(found, found.zeros_like()).reshape(&mask.dims())
}

/// [`condense`] as a graph.
fn condensed<'g>(array: Tensor<'g>, mask: Tensor<'g>, connections: usize) -> Tensor<'g> {
    let (g, elements) = (array.graph(), array.shape().elements());
    let [array, mask] = [array, mask].map(|x| x.reshape(&[elements]));
    let ranks = ranks(mask);
    // A scatter drops what lies outside.
    let places = mask.select(ranks, g.full(&ranks.shape(), connections as f64));
    let each = GatherDims {
        offset: vec![],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    };
    let none = g.full(&Shape::new(DType::F32, [connections]), 0.0);
    none.scatter(places.reshape(&[elements, 1]), array, each, Update::Set, false)
}

/// The number of true elements before each element of a flat mask, s32.
fn ranks(mask: Tensor<'_>) -> Tensor<'_> {
    let elements = mask.shape().elements();
    let ones = mask.convert(DType::S32);
    let (mut sums, mut step) = (ones, 1);
    // Each round doubles the number of elements that a sum covers.
    while step < elements {
        let earlier = sums
            .slice(&[0], &[elements - step])
            .pad(0.0, &[step as i64], &[0], &[0]);
        (sums, step) = (sums + earlier, 2 * step);
    }
    sums - ones
}

/// The [`MASK_KEY`] of a mask.
#[track_caller]
pub fn mask_key(mask: Tensor<'_>) -> Tensor<'_> {
    let called = mask.graph().host_call(HostFunction::named(MASK_KEY), &[mask], |g, x| {
        let elements = x[0].shape().elements();
        let mask = x[0].reshape(&[elements]);
        let numbers = mixed(g.iota(Shape::new(DType::U32, [elements]), 0));
        let sums = [numbers, mixed(numbers)].map(|numbers| {
            let ones = mask.select(numbers, numbers.zeros_like());
            ones.reduce_sum(&[0]).reshape(&[1])
        });
        vec![g.concatenate(&sums, 0)]
    });
    called[0]
}

/// Each number as one that looks random, by a multiplicative hash that is one to one: `x -> (x + 1) * 0x9E3779B1`,
/// `x -> (x ^ (x >> 15)) * 0x85EBCA77`, `x -> x ^ (x >> 13)`, modulo 2^32.
pub fn mixed(x: Tensor<'_>) -> Tensor<'_> {
    let g = x.graph();
    let x = (x + g.scalar(1u32)) * g.scalar(0x9E37_79B1u32);
    let x = (x ^ x.shift_right_logical(15.0)) * g.scalar(0x85EB_CA77u32);
    x ^ x.shift_right_logical(13.0)
}

/// A kind of sparse layer.
#[derive(Clone, Copy)]
enum Layer {
    /// A convolution of blocked images, with padding before and after height and width.
    Conv {
        strides: [usize; 2],
        edges: [(usize, usize); 2],
        /// Whether each channel has a kernel of its own: `[height, width, channels, 1]`.
        depthwise: bool,
    },
    /// A matrix product.
    Dense,
}

impl<'g> SparseKernel<'g> {
    /// The convolution of blocked images `x` with this kernel. Gradients go to `x` and to `effective`, the masked weights.
    #[track_caller]
    pub fn conv2d(&self, x: Tensor<'g>, effective: Tensor<'g>, strides: [usize; 2], padding: Padding) -> Tensor<'g> {
        self.convolution(x, effective, strides, padding, false)
    }

    /// The depthwise convolution of blocked images `x` with this kernel `[height, width, channels, 1]`. Gradients go to `x` and to
    /// `effective`, the masked weights.
    #[track_caller]
    pub fn depthwise(&self, x: Tensor<'g>, effective: Tensor<'g>, strides: [usize; 2], padding: Padding) -> Tensor<'g> {
        self.convolution(x, effective, strides, padding, true)
    }

    #[track_caller]
    fn convolution(
        &self,
        x: Tensor<'g>,
        effective: Tensor<'g>,
        strides: [usize; 2],
        padding: Padding,
        depthwise: bool,
    ) -> Tensor<'g> {
        let axis = |of: &Tensor<'g>, axis: usize| of.dims().get(axis).copied().unwrap_or(1);
        let size = [0, 1].map(|i| axis(&self.mask, i));
        let extents = [2, 3].map(|i| axis(&x, i));
        let windows = padding.windows(size, strides, extents);
        let layer = Layer::Conv {
            strides,
            edges: windows.map(|w| (w.pad_low as usize, w.pad_high as usize)),
            depthwise,
        };
        self.apply(x, effective, layer)
    }

    /// `[examples, in] -> [examples, out]`. Gradients go to `x` and to `effective`, the masked weights.
    #[track_caller]
    pub fn matmul(&self, x: Tensor<'g>, effective: Tensor<'g>) -> Tensor<'g> {
        let batch = x.dims().first().copied().unwrap_or(1);
        let more = batch.next_multiple_of(LANES) - batch;
        let whole = x.pad(0.0, &[0, 0], &[more as i64, 0], &[0, 0]);
        let y = self.apply(if more == 0 { x } else { whole }, effective, Layer::Dense);
        let units = y.dims().last().copied().unwrap_or(1);
        if more == 0 {
            y
        } else {
            y.slice(&[0, 0], &[batch, units])
        }
    }

    #[track_caller]
    fn apply(&self, x: Tensor<'g>, effective: Tensor<'g>, layer: Layer) -> Tensor<'g> {
        let operands = [x, self.weights, self.mask, self.key];
        let y = layer.call(SPARSE_FORWARD, &operands, &[0], |_, x| {
            layer.dense(x[0], whole(x[2], x[1]))
        });
        let mut of = vec![x, effective, self.weights, self.mask, self.key];
        let always = matches!(self.dense_gradient, Wanted::Always);
        match self.dense_gradient {
            Wanted::Never | Wanted::Always => {}
            Wanted::If(wanted) => of.push(wanted),
            Wanted::Apart { wanted, all } => of.extend([wanted, all]),
        }
        y.with_vjp(&of, move |of, cotangent| {
            let &[x, _, weights, mask, key, ref wanted @ ..] = of else {
                return vec![None; of.len()];
            };
            let kernel = whole_shape(mask);
            let operands = [cotangent, weights, mask, key];
            let to_x = layer.call(SPARSE_INPUT_GRADIENT, &operands, &[0], |g, o| {
                // Linear in x: any x has the same gradient.
                let x = g.full(&x.shape(), 0.0);
                let y = layer.dense(x, whole(o[2], o[1]));
                grad((y * o[0]).reduce_sum_all(), &[x])[0]
            });
            let mut gradients = vec![None; of.len()];
            gradients[0] = Some(to_x);
            let operands = [x, cotangent, mask, key];
            let of_weights = weights.shape();
            gradients[1] = Some(match *wanted {
                _ if always => layer.dense_gradient(x, cotangent, &kernel),
                [wanted] => x.graph().conditional(
                    wanted,
                    &operands,
                    |_, o| vec![layer.dense_gradient(o[0], o[1], &kernel)],
                    |_, o| vec![layer.sparse_gradient(o, &kernel)],
                )[0],
                _ => layer.sparse_gradient(&operands, &of_weights),
            });
            if let &[wanted, _] = wanted {
                gradients[6] = Some(layer.dense_gradient_if(wanted, x, cotangent, &kernel));
            }
            gradients
        })
    }
}

impl Layer {
    /// The layer by a dense kernel.
    #[track_caller]
    fn dense<'g>(self, x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
        match self {
            Layer::Conv {
                strides,
                edges,
                depthwise,
            } => {
                let (kernel, groups) = match (depthwise, &kernel.dims()[..]) {
                    (true, &[height, width, channels, _]) => (kernel.reshape(&[height, width, 1, channels]), channels),
                    _ => (kernel, 1),
                };
                in_blocks(unblocked(x).conv2d(kernel, strides, Padding::Explicit(edges), groups))
            }
            Layer::Dense => x.matmul(kernel),
        }
    }

    /// The gradient with respect to all weights of a kernel.
    #[track_caller]
    fn dense_gradient<'g>(self, x: Tensor<'g>, cotangent: Tensor<'g>, kernel: &Shape) -> Tensor<'g> {
        let kernel = x.graph().full(kernel, 0.0);
        let y = self.dense(x, kernel);
        grad((y * cotangent).reduce_sum_all(), &[kernel])[0]
    }

    /// The gradient with respect to all weights of a kernel if `wanted`; otherwise anything.
    #[track_caller]
    fn dense_gradient_if<'g>(
        self,
        wanted: Tensor<'g>,
        x: Tensor<'g>,
        cotangent: Tensor<'g>,
        kernel: &Shape,
    ) -> Tensor<'g> {
        match self {
            // Where nothing is wanted, the host writes nothing, and a conditional would fill an array in every iteration.
            Layer::Dense => {
                let host = HostFunction {
                    layouts: vec![vec![], vec![0, 1], vec![0, 1]],
                    ..HostFunction::named(ALL_WEIGHTS_GRADIENT)
                };
                let called = x.graph().host_call(host, &[wanted, x, cotangent], |_, o| {
                    vec![self.dense_gradient_or_zeros(o[0], o[1], o[2], kernel)]
                });
                called[0]
            }
            Layer::Conv { .. } => self.dense_gradient_or_zeros(wanted, x, cotangent, kernel),
        }
    }

    #[track_caller]
    fn dense_gradient_or_zeros<'g>(
        self,
        wanted: Tensor<'g>,
        x: Tensor<'g>,
        cotangent: Tensor<'g>,
        kernel: &Shape,
    ) -> Tensor<'g> {
        x.graph().conditional(
            wanted,
            &[x, cotangent],
            |_, o| vec![self.dense_gradient(o[0], o[1], kernel)],
            |g, _| vec![g.full(kernel, 0.0)],
        )[0]
    }

    /// The gradient with respect to the connections, on `(x, cotangent, mask, key)`, of this shape: condensed, or a whole kernel.
    #[track_caller]
    fn sparse_gradient<'g>(self, operands: &[Tensor<'g>], shape: &Shape) -> Tensor<'g> {
        self.call(SPARSE_KERNEL_GRADIENT, operands, &[0, 1], |_, o| {
            let dense = self.dense_gradient(o[0], o[1], &whole_shape(o[2]));
            match shape.rank() {
                1 => condensed(dense, o[2], shape.elements()),
                _ => masked(o[2], dense),
            }
        })
    }

    /// A host call whose operands at `activations`, and whose result if it has their rank, are activations.
    #[track_caller]
    fn call<'g>(
        self,
        name: &'static str,
        operands: &[Tensor<'g>],
        activations: &[usize],
        body: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Tensor<'a>,
    ) -> Tensor<'g> {
        let row_major = |rank: usize| (0..rank).rev().collect::<Vec<_>>();
        let mut layouts: Vec<Vec<usize>> = operands.iter().map(|x| row_major(x.shape().rank())).collect();
        for &at in activations {
            layouts[at] = memory_layout(operands[at].shape().rank());
        }
        // The result is activations but for the gradient of a kernel, whose layout is the default.
        if name != SPARSE_KERNEL_GRADIENT {
            layouts.push(memory_layout(operands[0].shape().rank()));
        }
        let host = HostFunction {
            name,
            attributes: self.attributes(),
            layouts,
        };
        operands[0].graph().host_call(host, operands, |g, x| vec![body(g, x)])[0]
    }

    fn attributes(self) -> Vec<(&'static str, Vec<i64>)> {
        let numbers = |values: [usize; 2]| values.map(|value| value as i64).to_vec();
        match self {
            Layer::Dense => vec![],
            Layer::Conv {
                strides,
                edges,
                depthwise,
            } => vec![
                ("depthwise", vec![i64::from(depthwise)]),
                ("pad_low", numbers(edges.map(|(low, _)| low))),
                ("stride", numbers(strides)),
            ],
        }
    }
}

/// Whether images are blocked, or their number can be divided into blocks.
pub fn can_be_blocked(x: Tensor<'_>) -> bool {
    is_blocked(x) || x.dims().first().is_some_and(|batch| batch.is_multiple_of(LANES))
}

/// Images `[batch, height, width, channels]` in blocks; blocked ones as they are.
#[track_caller]
pub fn blocked(x: Tensor<'_>) -> Tensor<'_> {
    if is_blocked(x) { x } else { in_blocks(x) }
}

#[track_caller]
fn in_blocks(x: Tensor<'_>) -> Tensor<'_> {
    match x.dims()[..] {
        [batch, ref image @ ..] => x.reshape(&[&[batch / LANES, LANES], image].concat()),
        // A failed call.
        [] => x,
    }
}

/// Blocked images as `[batch, height, width, channels]`; others as they are.
#[track_caller]
pub fn unblocked(x: Tensor<'_>) -> Tensor<'_> {
    match x.dims()[..] {
        [blocks, lanes, ref image @ ..] if image.len() == 3 => x.reshape(&[&[blocks * lanes], image].concat()),
        _ => x,
    }
}

/// Whether images are blocked.
pub(crate) fn is_blocked(x: Tensor<'_>) -> bool {
    x.shape().rank() == BLOCKED_LAYOUT.len()
}

/// `Σ x` and `Σ (x - mean)²` per channel of blocked images.
#[track_caller]
pub(crate) fn moments(x: Tensor<'_>) -> [Tensor<'_>; 2] {
    per_channel(BLOCKED_MOMENTS, &[x], |_, x| {
        let centred = x[0] - x[0].reduce_mean(&WITHIN_CHANNELS);
        vec![
            x[0].reduce_sum(&WITHIN_CHANNELS),
            (centred * centred).reduce_sum(&WITHIN_CHANNELS),
        ]
    })
}

/// `Σ a (b - m)` and `Σ a` per channel of blocked images, with one number of `m` per channel.
#[track_caller]
pub(crate) fn products<'g>(a: Tensor<'g>, b: Tensor<'g>, m: Tensor<'g>) -> [Tensor<'g>; 2] {
    per_channel(BLOCKED_PRODUCTS, &[a, b, m], |_, x| {
        let products = (x[0] * (x[1] - x[2])).reduce_sum(&WITHIN_CHANNELS);
        vec![products, x[0].reduce_sum(&WITHIN_CHANNELS)]
    })
}

#[track_caller]
fn per_channel<'g>(
    name: &'static str,
    operands: &[Tensor<'g>],
    body: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
) -> [Tensor<'g>; 2] {
    let layout = |x: &Tensor<'g>| match is_blocked(*x) {
        true => BLOCKED_LAYOUT.to_vec(),
        false => vec![0],
    };
    let host = HostFunction {
        layouts: operands.iter().map(layout).collect(),
        ..HostFunction::named(name)
    };
    let sums = operands[0].graph().host_call(host, operands, body);
    [sums[0], sums[1]]
}

/// The masked kernel of weights, condensed or not.
fn whole<'g>(mask: Tensor<'g>, weights: Tensor<'g>) -> Tensor<'g> {
    match is_condensed(weights, mask) {
        true => expanded(weights, mask),
        false => masked(mask, weights),
    }
}

/// Shape of the whole kernel of a mask.
fn whole_shape(mask: Tensor<'_>) -> Shape {
    Shape::new(DType::F32, mask.dims())
}

/// Whether `weights` are condensed: those of `mask`'s connections alone.
pub fn is_condensed(weights: Tensor<'_>, mask: Tensor<'_>) -> bool {
    weights.shape().rank() < mask.shape().rank()
}

fn masked<'g>(mask: Tensor<'g>, weights: Tensor<'g>) -> Tensor<'g> {
    mask.select(weights, weights.zeros_like())
}
