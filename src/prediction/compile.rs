//! From the graph of a prediction to a network of sparse kernels.

use cpu::{Activation, After, Features, Kernel, Network, NetworkBuilder, Reduction, Weights, Window};
use hlo::{Binary, Comparison, Computation, ConvDims, DotDims, Literal, Node, Op, Reducer, WindowDim};

use super::constants::Constants;

/// The network that computes what `graph` does for one picture. Its first parameters are `fixed`, the last one is the picture.
///
/// # Errors
/// The first operator that is no step of such networks, and where it is.
pub(super) fn compile(graph: &Computation, fixed: &[Literal]) -> Result<Network, String> {
    let (Some(&input), &[output]) = (graph.parameters.last(), &graph.outputs[..]) else {
        return Err("the graph has no picture, or more than one result".into());
    };
    let (builder, picture) = NetworkBuilder::new(features(graph.nodes[input].shape().dims.as_slice())?);
    let constants = Constants::new(graph, fixed);
    let mut compiler = Compiler {
        uses: uses(graph, &constants),
        values: vec![None; graph.nodes.len()],
        graph,
        constants,
        builder,
    };
    for (id, node) in graph.nodes.iter().enumerate() {
        if compiler.constants.is_fixed(id) {
            continue;
        }
        let value = match id == input {
            true => Some(Pending::of(Source::Array(picture))),
            false => compiler.step(node).map_err(|reason| at(node, &reason))?,
        };
        // A value with several users is stored in memory.
        let value = match value {
            Some(value) if compiler.uses[id] > 1 => {
                let array = compiler.array(value).map_err(|reason| at(node, &reason))?;
                Some(Pending::of(Source::Array(array)))
            }
            value => value,
        };
        compiler.values[id] = value;
    }
    let result = compiler.take(output)?;
    let result = compiler.array(result)?;
    compiler.builder.build(result).map_err(|error| error.to_string())
}

fn at(node: &Node, reason: &str) -> String {
    match node.scope.is_empty() {
        true => reason.to_owned(),
        false => format!("{}: {reason}", node.scope),
    }
}

/// Rows, columns and channels of an array of one picture, or of one row of features.
fn features(dims: &[usize]) -> Result<[usize; 3], String> {
    match *dims {
        [1, channels] => Ok([1, 1, channels]),
        [1, height, width, channels] => Ok([height, width, channels]),
        _ => Err(format!("an array {dims:?} is neither a picture nor a row of features")),
    }
}

/// Number of users of each value, without the comparison of a ReLU and without gradients.
fn uses(graph: &Computation, constants: &Constants<'_>) -> Vec<usize> {
    let mut uses = vec![0; graph.nodes.len()];
    let varying = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(id, _)| !constants.is_fixed(*id));
    for (_, node) in varying {
        let operands = match node.op {
            Op::Compare(_) => &[],
            Op::WithVjp(_) => &node.operands[..1],
            Op::Select => &node.operands[1..],
            _ => &node.operands[..],
        };
        operands.iter().for_each(|&operand| uses[operand] += 1);
    }
    graph.outputs.iter().for_each(|&output| uses[output] += 1);
    uses
}

/// The source of a value.
#[derive(Clone)]
enum Source {
    Array(Features),
    Layer(Features, Weights<'static>),
}

/// A value to be computed: `relu(scale × source + shift + residual)`, each part optional.
#[derive(Clone)]
struct Pending {
    source: Source,
    scale: Option<Vec<f64>>,
    shift: Option<Vec<f64>>,
    residual: Option<Features>,
    relu: bool,
}

impl Pending {
    fn of(source: Source) -> Self {
        Pending {
            source,
            scale: None,
            shift: None,
            residual: None,
            relu: false,
        }
    }

    /// Whether a residual sum may follow.
    fn takes_residual(&self) -> bool {
        !self.relu && self.residual.is_none()
    }

    fn is_layer(&self) -> bool {
        matches!(self.source, Source::Layer(..))
    }

    /// Multiplied by `scale` where there is one, then plus `shift`.
    fn affine(&mut self, scale: Option<Vec<f64>>, shift: Option<Vec<f64>>) {
        let product = |a: Vec<f64>, b: &[f64]| a.into_iter().zip(b).map(|(a, b)| a * b).collect();
        if let Some(scale) = scale {
            self.shift = self.shift.take().map(|before| product(before, &scale));
            self.scale = Some(match self.scale.take() {
                Some(before) => product(before, &scale),
                None => scale,
            });
        }
        if let Some(shift) = shift {
            self.shift = Some(match self.shift.take() {
                Some(before) => before.into_iter().zip(&shift).map(|(a, b)| a + b).collect(),
                None => shift,
            });
        }
    }

    fn after(&self) -> After {
        let changes = |values: &Option<Vec<f64>>, neutral: f64| {
            let values = values.as_ref().filter(|values| values.iter().any(|&v| v != neutral));
            values.map(|values| values.iter().map(|&v| v as f32).collect())
        };
        After {
            scale: changes(&self.scale, 1.0),
            shift: changes(&self.shift, 0.0),
            residual: self.residual,
            activation: match self.relu {
                true => Activation::Relu,
                false => Activation::None,
            },
        }
    }
}

struct Compiler<'a> {
    graph: &'a Computation,
    constants: Constants<'a>,
    /// By node.
    uses: Vec<usize>,
    values: Vec<Option<Pending>>,
    builder: NetworkBuilder<'static>,
}

impl Compiler<'_> {
    fn take(&mut self, id: usize) -> Result<Pending, String> {
        let value = match self.uses[id] {
            ..=1 => self.values[id].take(),
            _ => self.values[id].clone(),
        };
        value.ok_or_else(|| format!("{} is used in an unknown way", self.graph.nodes[id].op.name()))
    }

    /// The value, computed.
    fn array(&mut self, value: Pending) -> Result<Features, String> {
        let after = value.after();
        let array = match value.source {
            Source::Array(array) if after == After::default() => Ok(array),
            Source::Array(array) => self.builder.elementwise(array, after),
            Source::Layer(x, weights) => self.builder.conv(x, weights, after),
        };
        array.map_err(|error| error.to_string())
    }

    /// The value of a node; `None` if the node is part of a later step.
    fn step(&mut self, node: &Node) -> Result<Option<Pending>, String> {
        let operand = |i: usize| node.operands[i];
        let value = match &node.op {
            Op::Compare(_) => return Ok(None),
            Op::StopGradient | Op::WithVjp(_) => self.take(operand(0))?,
            Op::Reshape { dims } => {
                let from = &self.graph.nodes[operand(0)].shape().dims;
                if features(dims)? != features(from)? {
                    return Err(format!("a reshape of {from:?} to {dims:?} moves pixels"));
                }
                self.take(operand(0))?
            }
            Op::Binary(binary) => self.binary(*binary, node)?,
            Op::Select => self.relu(node)?,
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups: 1,
            } if *dims == ConvDims::nhwc() => self.convolution(node, window, *feature_groups)?,
            Op::Dot(dims) if *dims == matrix_product() => {
                let (values, mask) = self.constants.kernel(operand(1))?;
                let [inputs, outputs] = self.graph.nodes[operand(1)].shape().dims[..] else {
                    return Err("a product of more than two axes".into());
                };
                let kernel = Kernel::new(1, 1, inputs, outputs);
                self.layer(operand(0), kernel, Window::unit(), values, mask)?
            }
            Op::Reduce {
                axes,
                reducer: Reducer::Add,
            } if axes == &[1, 2] => self.sum_over_picture(operand(0))?,
            Op::ReduceWindow {
                window,
                reducer: Reducer::Max,
            } => self.max_pool(operand(0), window)?,
            Op::Gather { .. } => self.columns(node)?,
            other => return Err(format!("{} is no step of a sparse prediction", other.name())),
        };
        Ok(Some(value))
    }

    fn channels(&self, node: &Node) -> usize {
        node.shape().dims.last().copied().unwrap_or(1)
    }

    fn binary(&mut self, binary: Binary, node: &Node) -> Result<Pending, String> {
        let &[left, right] = &node.operands[..] else {
            return Err("an operator of two operands has another number".into());
        };
        if !self.constants.is_fixed(left) && !self.constants.is_fixed(right) {
            return match binary {
                Binary::Add => self.sum(left, right),
                _ => Err(format!("{} of two arrays of a picture", binary.name())),
            };
        }
        let varying = if self.constants.is_fixed(left) { right } else { left };
        let constant = self
            .constants
            .per_channel(if varying == left { right } else { left }, self.channels(node))?;
        let each = |f: fn(f64) -> f64| Some(constant.iter().map(|&v| f(v)).collect::<Vec<_>>());
        let (scale, shift) = match (binary, varying == left) {
            (Binary::Add, _) => (None, Some(constant)),
            (Binary::Subtract, true) => (None, each(|v| -v)),
            (Binary::Subtract, false) => (each(|_| -1.0), Some(constant)),
            (Binary::Multiply, _) => (Some(constant), None),
            (Binary::Divide, true) => (each(|v| 1.0 / v), None),
            _ => return Err(format!("{} with a constant", binary.name())),
        };
        let mut value = self.take(varying)?;
        if value.relu || (value.residual.is_some() && scale.is_some()) {
            value = Pending::of(Source::Array(self.array(value)?));
        }
        value.affine(scale, shift);
        Ok(value)
    }

    /// A residual sum: in the epilogue of a layer if one of its terms is that of a layer.
    fn sum(&mut self, left: usize, right: usize) -> Result<Pending, String> {
        let (mut host, mut other) = (self.take(left)?, self.take(right)?);
        let better = |a: &Pending, b: &Pending| (a.takes_residual(), a.is_layer()) > (b.takes_residual(), b.is_layer());
        if better(&other, &host) {
            std::mem::swap(&mut host, &mut other);
        }
        let residual = self.array(other)?;
        if !host.takes_residual() {
            host = Pending::of(Source::Array(self.array(host)?));
        }
        host.residual = Some(residual);
        Ok(host)
    }

    /// `select(x <= 0, 0, x)`.
    fn relu(&mut self, node: &Node) -> Result<Pending, String> {
        let &[condition, zeros, x] = &node.operands[..] else {
            return Err("a select has three operands".into());
        };
        let compare = &self.graph.nodes[condition];
        let is_zero = |id: usize| {
            let values = || self.constants.per_channel(id, self.channels(node));
            self.constants.is_fixed(id) && values().is_ok_and(|values| values.iter().all(|&v| v == 0.0))
        };
        let of_x = matches!(compare.op, Op::Compare(Comparison::Le)) && compare.operands[0] == x;
        if !of_x || !is_zero(compare.operands[1]) || !is_zero(zeros) {
            return Err("a select that is not max(x, 0)".into());
        }
        let mut value = self.take(x)?;
        value.relu = true;
        Ok(value)
    }

    fn convolution(&mut self, node: &Node, window: &[WindowDim], groups: usize) -> Result<Pending, String> {
        let (x, kernel) = (node.operands[0], node.operands[1]);
        let (window, _) = plain_window(window)?;
        let [rows, columns, inputs, outputs] = self.graph.nodes[kernel].shape().dims[..] else {
            return Err("a convolution's kernel has four axes".into());
        };
        let channels = self.channels(&self.graph.nodes[x]);
        let shape = match groups {
            1 => Kernel::new(rows, columns, inputs, outputs),
            _ if groups == channels => Kernel::depthwise(rows, columns, channels, outputs / channels),
            _ => return Err(format!("a convolution of {groups} groups of {channels} channels")),
        };
        let (values, mask) = self.constants.kernel(kernel)?;
        self.layer(x, shape, window, values, mask)
    }

    fn layer(
        &mut self,
        x: usize,
        kernel: Kernel,
        window: Window,
        values: Vec<f32>,
        mask: Option<Vec<bool>>,
    ) -> Result<Pending, String> {
        let x = self.take(x)?;
        let x = self.array(x)?;
        let weights = Weights {
            kernel,
            window,
            mask: mask.map(Into::into),
            values: values.into(),
        };
        Ok(Pending::of(Source::Layer(x, weights)))
    }

    /// The sum over rows and columns, as the mean times their number.
    fn sum_over_picture(&mut self, x: usize) -> Result<Pending, String> {
        let x = self.take(x)?;
        let x = self.array(x)?;
        let [height, width, channels] = self.builder.shape(x);
        let mean = self
            .builder
            .pool(x, Reduction::Average, [height, width], Window::unit())
            .map_err(|error| error.to_string())?;
        let mut value = Pending::of(Source::Array(mean));
        value.affine(Some(vec![(height * width) as f64; channels]), None);
        Ok(value)
    }

    fn max_pool(&mut self, x: usize, window: &[WindowDim]) -> Result<Pending, String> {
        let (&[examples, height, width, channels], unit) = (
            <&[WindowDim; 4]>::try_from(window).map_err(|_| "a window of other than four axes")?,
            WindowDim::unit(),
        );
        if examples != unit || channels != unit {
            return Err("a window over examples or channels".into());
        }
        let (window, size) = plain_window(&[height, width])?;
        let x = self.take(x)?;
        let x = self.array(x)?;
        let pooled = self.builder.pool(x, Reduction::Max, size, window);
        Ok(Pending::of(Source::Array(pooled.map_err(|error| error.to_string())?)))
    }

    /// Some features of a row, by a layer with one connection each.
    fn columns(&mut self, node: &Node) -> Result<Pending, String> {
        let Op::Gather { dims, sizes } = &node.op else {
            return Err("no gather".into());
        };
        let (row, indices) = (node.operands[0], node.operands[1]);
        if *dims != models::column_gather() || sizes != &[1, 1] {
            return Err("a gather of other than columns".into());
        }
        let inputs = self.channels(&self.graph.nodes[row]);
        let indices = self.constants.evaluate(indices)?;
        let kept = indices.len();
        let mut mask = vec![false; inputs * kept];
        for (column, index) in indices.iter().enumerate() {
            // As a gather clamps them.
            let index = index.clamp(0.0, inputs as f64 - 1.0) as usize;
            mask[index * kept + column] = true;
        }
        let values = vec![1.0; mask.len()];
        self.layer(row, Kernel::new(1, 1, inputs, kept), Window::unit(), values, Some(mask))
    }
}

fn matrix_product() -> DotDims {
    DotDims {
        lhs_contract: vec![1],
        rhs_contract: vec![0],
        ..DotDims::default()
    }
}

/// A window over rows and columns without dilation, and its size.
fn plain_window(window: &[WindowDim]) -> Result<(Window, [usize; 2]), String> {
    let &[rows, columns] = window else {
        return Err("a window of other than two axes".into());
    };
    let pad = |axis: WindowDim| match (usize::try_from(axis.pad_low), usize::try_from(axis.pad_high)) {
        (Ok(low), Ok(high)) if axis.base_dilation == 1 && axis.window_dilation == 1 => Ok([low, high]),
        _ => Err("a window with dilation or negative padding".to_owned()),
    };
    let plain = Window {
        stride: [rows.stride, columns.stride],
        pads: [pad(rows)?, pad(columns)?],
    };
    Ok((plain, [rows.size, columns.size]))
}
