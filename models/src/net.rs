//! The context that networks are written against.
//!
//! A forward pass requests every array from its [`Net`] by name, shape, initialiser and role, and the context records
//! the requests. So parameters, graph and the layers of the cost table come from one description.

use crate::layers::Expanding;
use crate::layers::sparse::SparseKernel;
use crate::{Layer, Model, Param, Statistic};
use hlo::random::Key;
use hlo::{DType, Graph, Shape, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Purpose of a forward pass.
#[derive(Clone, Copy)]
pub enum Mode<'g> {
    /// Normalises by the statistics of the batch. Dropout uses this key, which the caller derives from seed and step.
    Train(Key<'g>),
    /// Normalises by the moving statistics; no dropout.
    Eval,
}

/// Element type of activations, and of kernels where they are applied. The model's arrays, batch statistics and logits
/// are always f32.
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

/// The arrays and layers of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declaration {
    /// Trainable arrays in creation order, which is also the order in which masks are drawn.
    pub params: Vec<Param>,
    /// Arrays that training updates without a gradient, in creation order.
    pub statistics: Vec<Statistic>,
    /// Constant arrays, in creation order.
    pub fixed: Vec<(String, Shape)>,
    /// Layers with a kernel, in creation order.
    pub layers: Vec<Layer>,
    /// Whether training draws random numbers.
    pub random: bool,
}

impl Declaration {
    /// Declaration of a network, from a forward pass of one example whose graph is discarded.
    pub fn from_model<M: Model + ?Sized>(model: &M) -> Self {
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
    /// Number of replicas that share their moments in batch normalisation.
    batch_norm_replicas: usize,
    /// Whether expanding convolutions and their normalisation have a common gradient.
    joint_gradients: bool,
    /// The arrays by variable name; `None` while only the declaration is recorded.
    arrays: Option<BTreeMap<String, Tensor<'g>>>,
    /// Kernels of the layers that are computed from their connections alone, by variable name.
    sparse: BTreeMap<String, SparseKernel<'g>>,
    declared: RefCell<Declaration>,
    /// Output of each convolution, before any bias, by the index of the layer.
    outputs: RefCell<Vec<(usize, Tensor<'g>)>>,
    /// Layers whose outputs are normalised: index, output, scope of the normalisation.
    normalised: RefCell<Vec<(usize, Tensor<'g>, String)>>,
    /// Convolutions whose gradients are computed together with those of their normalisation, by their result.
    expanding: RefCell<Vec<(Tensor<'g>, Expanding<'g>)>>,
    /// Updated statistics, in creation order.
    updated: RefCell<Vec<Tensor<'g>>>,
    dropouts: Cell<u64>,
}

impl<'g> Net<'g> {
    /// A pass in `graph` over these arrays by variable name: the masked weights that the layers use, and the
    /// statistics.
    pub fn new(graph: &'g Graph, mode: Mode<'g>, arrays: impl IntoIterator<Item = (String, Tensor<'g>)>) -> Self {
        Net {
            graph,
            mode,
            precision: Precision::F32,
            batch_norm_replicas: 1,
            joint_gradients: false,
            arrays: Some(arrays.into_iter().collect()),
            sparse: BTreeMap::new(),
            declared: RefCell::default(),
            outputs: RefCell::default(),
            normalised: RefCell::default(),
            expanding: RefCell::default(),
            updated: RefCell::default(),
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

    /// The same pass as one of `replicas` that normalise by the moments of all their batches. By default each replica
    /// normalises by its own batch.
    #[must_use]
    pub fn with_batch_norm_over(self, replicas: usize) -> Self {
        Net {
            batch_norm_replicas: replicas,
            ..self
        }
    }

    /// The same pass with common gradients of 1x1 convolutions that expand to four or more times the channels and of
    /// their normalisations: with fewer reads of the wide arrays where compilers fuse normalisation into convolutions, as
    /// for TPUs, and more elsewhere.
    #[must_use]
    pub fn with_joint_gradients(self, joint_gradients: bool) -> Self {
        Net {
            joint_gradients,
            ..self
        }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Purpose of the pass.
    pub fn mode(&self) -> Mode<'g> {
        self.mode
    }

    /// Precision of the pass.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The updated statistics after a training pass, by name, in creation order; empty after an evaluation.
    pub fn updated_statistics(&self) -> Vec<(String, Tensor<'g>)> {
        let updated = self.updated.borrow();
        let declared = self.declared.borrow();
        assert!(updated.is_empty() || updated.len() == declared.statistics.len());
        let names = declared.statistics.iter().map(|s| s.name.clone());
        names.zip(updated.iter().copied()).collect()
    }

    /// The requests so far.
    pub fn declared(&self) -> Declaration {
        let mut declared = self.declared.borrow().clone();
        for (layer, output, norm) in self.normalised.borrow().iter() {
            declared.layers[*layer].norm = (output.uses() == 1).then(|| norm.clone());
        }
        declared
    }

    /// Converts `x` to the precision of the pass.
    pub fn compute(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.convert(self.precision.dtype())
    }

    /// Requests a trainable array, f32.
    ///
    /// # Panics
    ///
    /// If the caller of [`Net::new`] left out an array that [`Model::declaration`] lists. The same holds for the
    /// methods below.
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

    /// Requests an array that training updates without a gradient, f32.
    pub fn statistic(&self, statistic: Statistic) -> Tensor<'g> {
        let shape = Shape::new(DType::F32, statistic.dims.clone());
        let array = self.array(&statistic.name, shape);
        self.declared.borrow_mut().statistics.push(statistic);
        array
    }

    /// Requests a constant array.
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

    /// Records that `y` is the result of this convolution, if joint gradients are on.
    pub(crate) fn record_expanding(&self, y: Tensor<'g>, conv: Expanding<'g>) {
        if self.joint_gradients {
            self.expanding.borrow_mut().push((y, conv));
        }
    }

    /// The convolution that was recorded with the result `y`.
    pub(crate) fn expanding(&self, y: Tensor<'g>) -> Option<Expanding<'g>> {
        let expanding = self.expanding.borrow();
        expanding
            .iter()
            .find(|(result, _)| result.output() == y.output())
            .map(|(_, conv)| *conv)
    }

    /// Records that `x` is normalised, in case it is the output of a layer.
    pub(crate) fn record_norm(&self, x: Tensor<'g>, scope: &str) {
        let outputs = self.outputs.borrow();
        if let Some((layer, output)) = outputs.iter().find(|(_, output)| output.output() == x.output()) {
            let normalised = (*layer, *output, scope.to_owned());
            self.normalised.borrow_mut().push(normalised);
        }
    }

    /// Name of the next batch normalisation, without its scope.
    pub(crate) fn next_batch_norm(&self) -> String {
        // Each has two statistics.
        match self.declared.borrow().statistics.len() / 2 {
            0 => "batch_normalization".to_owned(),
            i => format!("batch_normalization_{i}"),
        }
    }

    /// Records the updated value of the next statistic, in creation order.
    pub(crate) fn record_updated_statistic(&self, statistic: Tensor<'g>) {
        self.updated.borrow_mut().push(statistic);
    }

    /// Number of replicas that share their moments.
    pub(crate) fn batch_norm_replicas(&self) -> usize {
        self.batch_norm_replicas
    }

    pub(crate) fn record_dropout(&self) {
        self.declared.borrow_mut().random = true;
    }

    /// Index of the next dropout in this pass, from 0, so that no two draw the same numbers.
    pub(crate) fn next_dropout(&self) -> u64 {
        let next = self.dropouts.get();
        self.dropouts.set(next + 1);
        next
    }
}
