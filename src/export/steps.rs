//! A network as a list of layers, read from the graph of its prediction.

use std::collections::{BTreeMap, BTreeSet};

use hlo::{Binary, Comparison, Computation, ConvDims, DType, Graph, Node, Op, Reducer, Shape, WindowDim};
use models::{Mode, Model, Net};
use serde::Serialize;

/// One step. Values are numbered: 0 is the input, `i + 1` the result of step `i`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its computation.
    #[serde(flatten)]
    pub kind: StepKind,
    /// Values that it takes.
    pub inputs: Vec<usize>,
}

/// The computation of a step. Images are `[height, width, channels]`, rows are `[features]`; both without the batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepKind {
    /// Convolution by a kernel `[height, width, in / groups, out]`.
    Conv {
        /// Name of the kernel.
        kernel: String,
        /// Dimensions of the kernel.
        dims: [usize; 4],
        /// Strides along height and width.
        strides: [usize; 2],
        /// Zeros before and after, along height and width.
        pads: [[usize; 2]; 2],
        /// Number of channel groups.
        groups: usize,
    },
    /// Product with a kernel `[in, out]`.
    Dense {
        /// Name of the kernel.
        kernel: String,
        /// Dimensions of the kernel.
        dims: [usize; 2],
    },
    /// Batch normalisation by the moving statistics.
    Norm {
        /// Scope of its arrays.
        scope: String,
        /// Number of channels.
        channels: usize,
    },
    /// Adds a bias per channel.
    Bias {
        /// Name of the bias.
        bias: String,
    },
    /// max(x, 0).
    Relu,
    /// min(x, limit).
    Min {
        /// The limit.
        limit: f64,
    },
    /// Sum of two values.
    Add,
    /// Maximum under windows.
    MaxPool {
        /// Height and width of the window.
        size: [usize; 2],
        /// Strides.
        strides: [usize; 2],
        /// Padding, which is below every value, before and after.
        pads: [[usize; 2]; 2],
    },
    /// Mean over an image, a row.
    Mean,
    /// A row as an image of one pixel.
    Pixel,
    /// An image of one pixel as a row.
    Row,
    /// The features at these positions.
    Columns {
        /// Name of the array of positions.
        indices: String,
    },
}

/// The steps of a network, and the last one's value.
///
/// # Errors
/// The first operator that is not part of a step.
pub fn steps(model: &dyn Model) -> Result<Vec<Step>, String> {
    let declaration = model.declaration();
    let f32s = |name: &String, dims: &[usize]| (name.clone(), Shape::new(DType::F32, dims));
    let mut parameters: Vec<(String, Shape)> = declaration.params.iter().map(|p| f32s(&p.name, &p.dims)).collect();
    parameters.extend(declaration.statistics.iter().map(|s| f32s(&s.name, &s.dims)));
    parameters.extend(declaration.fixed.iter().cloned());
    let arrays = parameters.len();
    parameters.push((
        "images".into(),
        Shape::new(DType::F32, [vec![1], model.input_dims()].concat()),
    ));
    let graph = Graph::function("predict", &parameters, |g, inputs| {
        let names = parameters.iter().map(|(name, _)| name.clone());
        let net = Net::new(g, Mode::Eval, names.zip(inputs.iter().copied()).take(arrays));
        vec![model.apply(&net, inputs[arrays])]
    });
    let graph = graph.map_err(|error| error.to_string())?;
    Reader::new(&graph, arrays).read()
}

struct Reader<'a> {
    graph: &'a Computation,
    /// Names of the arrays that a node depends on; `None` if it depends on the images.
    fixed: Vec<Option<BTreeSet<&'a str>>>,
    /// Value of each node that depends on the images.
    values: BTreeMap<usize, usize>,
    steps: Vec<Step>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a Computation, arrays: usize) -> Self {
        let mut fixed: Vec<Option<BTreeSet<&str>>> = vec![];
        for node in &graph.nodes {
            fixed.push(match &node.op {
                Op::Parameter { index, name } => (*index < arrays).then(|| BTreeSet::from([name.as_str()])),
                _ => node.operands.iter().try_fold(BTreeSet::new(), |mut all, &operand| {
                    all.extend(fixed[operand].iter().flatten().copied());
                    fixed[operand].is_some().then_some(all)
                }),
            });
        }
        Reader {
            graph,
            fixed,
            values: BTreeMap::new(),
            steps: vec![],
        }
    }

    fn read(mut self) -> Result<Vec<Step>, String> {
        let graph = self.graph;
        let (Some(&input), &[output]) = (graph.parameters.last(), &graph.outputs[..]) else {
            return Err("its graph has more than one result".into());
        };
        self.values.insert(input, 0);
        for (id, node) in graph.nodes.iter().enumerate() {
            if self.fixed[id].is_some() || id == input {
                continue;
            }
            let value = self.step(node).map_err(|reason| match node.scope.is_empty() {
                true => reason,
                false => format!("{}: {reason}", node.scope),
            })?;
            self.values.extend(value.map(|value| (id, value)));
        }
        match self.values.get(&output) {
            Some(&value) if value == self.steps.len() => Ok(self.steps),
            _ => Err("its result is not that of its last layer".into()),
        }
    }

    fn value(&self, id: usize) -> Result<usize, String> {
        let value = self.values.get(&id).copied();
        value.ok_or_else(|| format!("{} is used in an unknown way", self.graph.nodes[id].op.name()))
    }

    fn push(&mut self, kind: StepKind, inputs: Vec<usize>) -> Option<usize> {
        self.steps.push(Step { kind, inputs });
        Some(self.steps.len())
    }

    fn dims(&self, id: usize) -> &'a [usize] {
        &self.graph.nodes[id].shape().dims
    }

    /// The only array that a fixed node depends on.
    fn array(&self, id: usize) -> Option<&'a str> {
        let names = self.fixed[id].as_ref()?;
        names.first().copied().filter(|_| names.len() == 1)
    }

    /// The number that all elements of a constant have.
    fn number(&self, id: usize) -> Option<f64> {
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Broadcast { .. } | Op::Reshape { .. } | Op::Convert(_) => self.number(node.operands[0]),
            Op::Constant(literal) if literal.shape().elements() == 1 => literal.to_f64_vec().first().copied(),
            _ => None,
        }
    }

    /// The value of a node; `None` for parts of a later step.
    fn step(&mut self, node: &Node) -> Result<Option<usize>, String> {
        let operands = &node.operands;
        let kind = match &node.op {
            Op::Compare(_) => return Ok(None),
            Op::StopGradient | Op::WithVjp(_) => return self.value(operands[0]).map(Some),
            Op::Reshape { dims } => {
                let from = self.dims(operands[0]);
                match (from, &dims[..]) {
                    (&[_, a], &[_, 1, 1, b]) if a == b => StepKind::Pixel,
                    (&[_, 1, 1, a], &[_, b]) if a == b => StepKind::Row,
                    _ if from == dims => return self.value(operands[0]).map(Some),
                    _ => return Err(format!("a reshape of {from:?} to {dims:?}")),
                }
            }
            Op::Binary(binary) => return self.binary(*binary, node),
            Op::Select => {
                let compare = &self.graph.nodes[operands[0]];
                let of_x = matches!(compare.op, Op::Compare(Comparison::Le)) && compare.operands[0] == operands[2];
                let zeros = self.number(compare.operands[1]) == Some(0.0) && self.number(operands[1]) == Some(0.0);
                if !of_x || !zeros {
                    return Err("a select that is not max(x, 0)".into());
                }
                let x = self.value(operands[2])?;
                return Ok(self.push(StepKind::Relu, vec![x]));
            }
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups: 1,
            } if *dims == ConvDims::nhwc() => {
                let (strides, pads, _) = plain_window(window)?;
                let kernel = self.array(operands[1]).ok_or("a kernel that is no array")?;
                StepKind::Conv {
                    kernel: kernel.to_owned(),
                    dims: self
                        .dims(operands[1])
                        .try_into()
                        .map_err(|_| "a kernel without four axes")?,
                    strides,
                    pads,
                    groups: *feature_groups,
                }
            }
            Op::Dot(dims)
                if dims.lhs_contract == [1] && dims.rhs_contract == [0] && self.dims(operands[0]).len() == 2 =>
            {
                let kernel = self.array(operands[1]).ok_or("a product of two activations")?;
                StepKind::Dense {
                    kernel: kernel.to_owned(),
                    dims: self
                        .dims(operands[1])
                        .try_into()
                        .map_err(|_| "a kernel without two axes")?,
                }
            }
            Op::Reduce {
                axes,
                reducer: Reducer::Add,
            } if axes == &[1, 2] => StepKind::Mean,
            Op::ReduceWindow {
                window,
                reducer: Reducer::Max,
            } => {
                let &[examples, height, width, channels] = &window[..] else {
                    return Err("a window of other than four axes".into());
                };
                if examples != WindowDim::unit() || channels != WindowDim::unit() {
                    return Err("a window over examples or channels".into());
                }
                let (strides, pads, size) = plain_window(&[height, width])?;
                StepKind::MaxPool { size, strides, pads }
            }
            Op::Gather { dims, .. } if *dims == models::column_gather() => {
                let indices = self.array(operands[1]).ok_or("positions that are no array")?;
                StepKind::Columns {
                    indices: indices.to_owned(),
                }
            }
            other => return Err(format!("{} is no step of an exported network", other.name())),
        };
        let x = self.value(operands[0])?;
        Ok(self.push(kind, vec![x]))
    }

    fn binary(&mut self, binary: Binary, node: &Node) -> Result<Option<usize>, String> {
        let &[left, right] = &node.operands[..] else {
            return Err("an operator of two operands has another number".into());
        };
        let (varying, constant) = match (&self.fixed[left], &self.fixed[right]) {
            (None, None) if binary == Binary::Add => {
                let inputs = vec![self.value(left)?, self.value(right)?];
                return Ok(self.push(StepKind::Add, inputs));
            }
            (None, None) => return Err(format!("{} of two activations", binary.name())),
            (None, Some(_)) => (left, right),
            _ => (right, left),
        };
        let value = self.value(varying)?;
        if let Some(number) = self.number(constant) {
            return self.with_number(binary, value, number, varying);
        }
        let names = self.fixed[constant].clone().unwrap_or_default();
        let names: Vec<&str> = names.into_iter().collect();
        let channels = node.shape().dims.last().copied().unwrap_or(1);
        // A normalisation is `(x - mean) · factor + beta`: its three operators become one step.
        let kind = match (binary, &names[..]) {
            (Binary::Subtract, [mean]) if mean.ends_with("/moving_mean") && varying == left => StepKind::Norm {
                scope: mean.trim_end_matches("/moving_mean").to_owned(),
                channels,
            },
            (Binary::Multiply, [_, _]) | (Binary::Add, [_]) if self.continues_norm(value, &names) => {
                return Ok(Some(value));
            }
            (Binary::Add, [bias]) => StepKind::Bias {
                bias: (*bias).to_owned(),
            },
            _ => return Err(format!("{} with {}", binary.name(), names.join(", "))),
        };
        Ok(self.push(kind, vec![value]))
    }

    /// Whether a value is a normalisation that these arrays belong to.
    fn continues_norm(&self, value: usize, names: &[&str]) -> bool {
        let step = value.checked_sub(1).map(|i| &self.steps[i].kind);
        let Some(StepKind::Norm { scope, .. }) = step else {
            return false;
        };
        let parts = ["gamma", "moving_variance", "beta"];
        names
            .iter()
            .all(|name| parts.iter().any(|part| *name == format!("{scope}/{part}")))
    }

    /// A value and a number: the end of a mean, or a limit.
    fn with_number(&mut self, binary: Binary, value: usize, number: f64, x: usize) -> Result<Option<usize>, String> {
        let summed = match self.graph.nodes[x].op {
            Op::Reduce { .. } => {
                let [_, height, width, _] = self.dims(self.graph.nodes[x].operands[0]) else {
                    return Err("a sum over other than an image".into());
                };
                Some((height * width) as f64)
            }
            _ => None,
        };
        match (binary, summed) {
            (Binary::Divide, Some(n)) if number == n => Ok(Some(value)),
            (Binary::Multiply, Some(n)) if (number * n - 1.0).abs() < 1e-6 => Ok(Some(value)),
            (Binary::Minimum, None) => Ok(self.push(StepKind::Min { limit: number }, vec![value])),
            _ => Err(format!("{} with {number}", binary.name())),
        }
    }
}

/// Strides, padding and size of a window over rows and columns.
type Window = ([usize; 2], [[usize; 2]; 2], [usize; 2]);

fn plain_window(window: &[WindowDim]) -> Result<Window, String> {
    let &[rows, columns] = window else {
        return Err("a window of other than two axes".into());
    };
    let pad = |axis: WindowDim| match (usize::try_from(axis.pad_low), usize::try_from(axis.pad_high)) {
        (Ok(low), Ok(high)) if axis.base_dilation == 1 && axis.window_dilation == 1 => Ok([low, high]),
        _ => Err("a window with dilation or negative padding".to_owned()),
    };
    let pads = [pad(rows)?, pad(columns)?];
    Ok(([rows.stride, columns.stride], pads, [rows.size, columns.size]))
}
