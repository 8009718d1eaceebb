//! The context that networks are written against.
//!
//! A forward pass asks its [`Net`] for every array by name, shape, initialiser and role, and the context remembers what it
//! was asked for. So the parameters, the graph and the layers whose cost is counted are one description.

use crate::layers::sparse::SparseKernel;
use crate::{Layer, Model, Param, Statistic};
use hlo::random::Key;
use hlo::{DType, Graph, Shape, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// What a forward pass is for.
#[derive(Clone, Copy)]
pub enum Mode<'g> {
    /// Batch normalisation by the statistics of the batch, and dropout by this key, which the caller derives from seed
    /// and step.
    Train(Key<'g>),
    /// Batch normalisation by the moving statistics, no dropout.
    Eval,
}

/// Element type of activations, and of kernels where they meet them. Arrays of the model, statistics of batches and logits
/// are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// Name in presets and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// Everything that a network needs and has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declaration {
    /// Trainable arrays in creation order, which is also the order in which masks are drawn.
    pub params: Vec<Param>,
    /// Arrays that training moves without a gradient, in creation order.
    pub statistics: Vec<Statistic>,
    /// Arrays that stay as they are, in creation order.
    pub fixed: Vec<(String, Shape)>,
    /// Layers with a kernel, in creation order.
    pub layers: Vec<Layer>,
    /// Whether training draws random numbers.
    pub random: bool,
}

impl Declaration {
    /// Of a network, by one forward pass of one example that is thrown away.
    pub fn of<M: Model + ?Sized>(model: &M) -> Self {
        let g = Graph::new("declaration");
        let net = Net {
            arrays: None,
            ..Net::new(&g, Mode::Eval, [])
        };
        let images = [vec![1], model.input_dims()].concat();
        model.apply(&net, g.parameter("images", Shape::new(DType::F32, images)));
        net.declared()
    }
}

/// A forward pass under construction.
pub struct Net<'g> {
    graph: &'g Graph,
    mode: Mode<'g>,
    precision: Precision,
    /// Replicas over which batch normalisation takes its moments.
    normalised_over: usize,
    /// The arrays by variable name; absent while a network is only asked what it needs.
    arrays: Option<BTreeMap<String, Tensor<'g>>>,
    /// Kernels of the layers that are computed from their connections alone, by variable name.
    sparse: BTreeMap<String, SparseKernel<'g>>,
    declared: RefCell<Declaration>,
    /// Output of each convolution, before any bias, by the index of the layer.
    outputs: RefCell<Vec<(usize, Tensor<'g>)>>,
    /// Layers whose outputs are normalised: index, output, scope of the normalisation.
    normalised: RefCell<Vec<(usize, Tensor<'g>, String)>>,
    /// Statistics after this pass, in creation order.
    moved: RefCell<Vec<Tensor<'g>>>,
    dropouts: Cell<u64>,
}

impl<'g> Net<'g> {
    /// A pass in `graph` over these arrays, by variable name: the weights that the layers are to use, already masked, and
    /// the statistics.
    pub fn new(graph: &'g Graph, mode: Mode<'g>, arrays: impl IntoIterator<Item = (String, Tensor<'g>)>) -> Self {
        Net {
            graph,
            mode,
            precision: Precision::F32,
            normalised_over: 1,
            arrays: Some(arrays.into_iter().collect()),
            sparse: BTreeMap::new(),
            declared: RefCell::default(),
            outputs: RefCell::default(),
            normalised: RefCell::default(),
            moved: RefCell::default(),
            dropouts: Cell::new(0),
        }
    }

    /// The same pass in another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Net { precision, ..self }
    }

    /// The same pass with these layers computed from their connections alone, by the kernel's variable name.
    #[must_use]
    pub fn with_sparse(self, kernels: impl IntoIterator<Item = (String, SparseKernel<'g>)>) -> Self {
        Net {
            sparse: kernels.into_iter().collect(),
            ..self
        }
    }

    /// The same pass as one of `replicas` that normalise by the moments of all their batches together. Without this each
    /// replica normalises by its own batch.
    #[must_use]
    pub fn normalised_over(self, replicas: usize) -> Self {
        Net {
            normalised_over: replicas,
            ..self
        }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// What the pass is for.
    pub fn mode(&self) -> Mode<'g> {
        self.mode
    }

    /// What the pass computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The statistics as a training pass leaves them, by name, in creation order; none after an evaluation.
    pub fn moved_statistics(&self) -> Vec<(String, Tensor<'g>)> {
        let names = self.declared.borrow().statistics.clone().into_iter().map(|s| s.name);
        names.zip(self.moved.borrow().iter().copied()).collect()
    }

    /// What was asked for so far.
    pub fn declared(&self) -> Declaration {
        let mut declared = self.declared.borrow().clone();
        for (layer, output, norm) in self.normalised.borrow().iter() {
            declared.layers[*layer].norm = (output.uses() == 1).then(|| norm.clone());
        }
        declared
    }

    /// `x` in the precision of the pass.
    pub fn compute(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.convert(self.precision.dtype())
    }

    /// A trainable array, f32.
    ///
    /// # Panics
    /// Here and below: when the caller of [`Net::new`] left out an array that [`Model::declaration`] lists.
    pub fn param(&self, param: Param) -> Tensor<'g> {
        let shape = Shape::new(DType::F32, param.dims.clone());
        let array = self.array(&param.name, shape);
        self.declared.borrow_mut().params.push(param);
        array
    }

    /// The kernel of this name, where its layer is computed from its connections alone.
    pub(crate) fn sparse_kernel(&self, name: &str) -> Option<SparseKernel<'g>> {
        self.sparse.get(name).copied()
    }

    /// An array that training moves without a gradient, f32.
    pub fn statistic(&self, statistic: Statistic) -> Tensor<'g> {
        let shape = Shape::new(DType::F32, statistic.dims.clone());
        let array = self.array(&statistic.name, shape);
        self.declared.borrow_mut().statistics.push(statistic);
        array
    }

    /// An array that stays as it is.
    pub fn fixed(&self, name: &str, shape: Shape) -> Tensor<'g> {
        let array = self.array(name, shape.clone());
        self.declared.borrow_mut().fixed.push((name.to_string(), shape));
        array
    }

    fn array(&self, name: &str, shape: Shape) -> Tensor<'g> {
        match &self.arrays {
            None => self.graph.parameter(name, shape),
            Some(arrays) => match arrays.get(name) {
                Some(&array) => array,
                None => panic!("no array was given for {name}"),
            },
        }
    }

    pub(crate) fn record(&self, layer: Layer) {
        self.declared.borrow_mut().layers.push(layer);
    }

    /// Records the output of the last layer, before any bias.
    pub(crate) fn record_output(&self, output: Tensor<'g>) {
        let last = self.declared.borrow().layers.len() - 1;
        self.outputs.borrow_mut().push((last, output));
    }

    /// Records that `x` is normalised, in case it is the output of a layer.
    pub(crate) fn record_norm(&self, x: Tensor<'g>, scope: &str) {
        let outputs = self.outputs.borrow();
        if let Some((layer, output)) = outputs.iter().find(|(_, output)| output.output() == x.output()) {
            let normalised = (*layer, *output, scope.to_owned());
            self.normalised.borrow_mut().push(normalised);
        }
    }

    /// Batch normalisations so far: each has two statistics.
    pub(crate) fn batch_norms(&self) -> usize {
        self.declared.borrow().statistics.len() / 2
    }

    /// Notes what becomes of the next statistic, in creation order.
    pub(crate) fn moved(&self, statistic: Tensor<'g>) {
        self.moved.borrow_mut().push(statistic);
    }

    /// Replicas that normalise together.
    pub(crate) fn replicas_together(&self) -> usize {
        self.normalised_over
    }

    pub(crate) fn record_dropout(&self) {
        self.declared.borrow_mut().random = true;
    }

    /// The number of this dropout, counted from 0, so that no two of a pass draw the same.
    pub(crate) fn next_dropout(&self) -> u64 {
        let next = self.dropouts.get();
        self.dropouts.set(next + 1);
        next
    }
}
