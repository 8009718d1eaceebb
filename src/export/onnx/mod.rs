//! Networks as ONNX models, of any batch size.

mod builder;
mod proto;

use prost::Message;

use self::builder::{Builder, Weights};
use super::{Error, Exported, Input, Step, StepKind};
use crate::data::pixels::Preprocessing;
use models::layers::BatchNorm;

/// The operator set, of ONNX 1.18, and its IR version.
const OPSET: i64 = 23;
const IR_VERSION: i64 = 11;

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Kernels as bf16, which the model converts to f32 before it uses them: few programs compute in bf16 on CPUs.
    pub bf16: bool,
    /// Kernels without their zeros, as sparse initializers.
    pub sparse: bool,
    /// Keep batch normalisation as an operator. Otherwise it is folded into the convolution before it, if there is one.
    pub keep_batch_norm: bool,
}

/// The model.
///
/// # Errors
/// [`Error::Unsupported`] for a network with other steps than ONNX has here, [`Error::Array`].
pub fn model(exported: &Exported<'_>, options: Options) -> Result<Vec<u8>, Error> {
    let model = &exported.network.model;
    let steps = exported.steps()?;
    let mut writer = Writer {
        exported,
        options,
        steps: &steps,
        values: vec![],
        builder: Builder::default(),
    };
    let input = writer.prepare();
    writer.values.push(input);
    let mut at = 0;
    while at < steps.len() {
        at = writer.write(at)?;
    }
    let last = writer.values.last().cloned().unwrap_or_default();
    writer.builder.node("Identity", &[&last], "logits", vec![]);
    let description = exported.description();
    let properties = description.as_object().into_iter().flatten().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        proto::StringEntry {
            key: key.clone(),
            value: text,
        }
    });
    let dims = model.input_dims();
    let element = match exported.input {
        Input::Pixels => proto::data_type::UINT8,
        Input::Images => proto::data_type::FLOAT,
    };
    let graph = writer.builder.finish(
        model.name(),
        builder::value(exported.input.name(), element, &dims),
        builder::value("logits", proto::data_type::FLOAT, &[model.classes()]),
    );
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "rigl-xla".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![proto::OperatorSet {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: properties.collect(),
    };
    Ok(model.encode_to_vec())
}

struct Writer<'a> {
    exported: &'a Exported<'a>,
    options: Options,
    steps: &'a [Step],
    /// Name of each value.
    values: Vec<String>,
    builder: Builder,
}

/// The effect of what follows a kernel on each output channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Writer<'_> {
    /// The prepared images, channels first, or rows.
    fn prepare(&mut self) -> String {
        let (input, dims) = (self.exported.input.name(), self.exported.network.model.input_dims());
        let b = &mut self.builder;
        let images = match self.exported.input {
            Input::Images => input.to_owned(),
            Input::Pixels => {
                let x = b.cast(input, "pixels/f32");
                let preprocessing = self.exported.network.preprocessing;
                match preprocessing {
                    Preprocessing::Mnist => {
                        let scale = b.f32s("prepare/scale", &[], &[preprocessing.scale()]);
                        b.node("Mul", &[&x, &scale], "prepare/scaled", vec![])
                    }
                    Preprocessing::ImageNet => {
                        let [mean, scale] = preprocessing.affine();
                        let mean = b.f32s("prepare/mean", &[3], &mean);
                        let scale = b.f32s("prepare/scale", &[3], &scale);
                        let centred = b.node("Sub", &[&x, &mean], "prepare/centred", vec![]);
                        b.node("Mul", &[&centred, &scale], "prepare/scaled", vec![])
                    }
                    Preprocessing::Cifar => standardised(b, &x, &dims),
                    Preprocessing::None => x,
                }
            }
        };
        match dims.len() {
            3 => b.node(
                "Transpose",
                &[&images],
                "prepare/channels_first",
                vec![builder::ints("perm", &[0, 3, 1, 2])],
            ),
            _ => images,
        }
    }

    /// Writes the step at `at`, and those that are folded into it; returns the next one.
    fn write(&mut self, at: usize) -> Result<usize, Error> {
        let step = &self.steps[at];
        let x = self.values[step.inputs[0]].clone();
        let name = |kind: &str| format!("{kind}{}", at + 1);
        let (next, value) = match &step.kind {
            StepKind::Conv {
                kernel,
                dims,
                strides,
                pads,
                groups,
            } => {
                let (next, affine) = self.affine(at, dims[3])?;
                let weights = self.kernel(kernel, dims, &[3, 2, 0, 1], affine.as_ref())?;
                let mut inputs = vec![x, weights];
                inputs.extend(affine.map(|affine| self.shift(kernel, &affine)));
                let attributes = vec![
                    builder::ints("kernel_shape", &[dims[0], dims[1]]),
                    builder::ints("strides", strides),
                    builder::ints("pads", &[pads[0][0], pads[1][0], pads[0][1], pads[1][1]]),
                    builder::int("group", *groups),
                ];
                (next, self.builder.node("Conv", &inputs, &name("conv"), attributes))
            }
            StepKind::Dense { kernel, dims } => {
                let (next, affine) = self.affine(at, dims[1])?;
                let weights = self.kernel(kernel, dims, &[0, 1], affine.as_ref())?;
                let mut inputs = vec![x, weights];
                inputs.extend(affine.map(|affine| self.shift(kernel, &affine)));
                (next, self.builder.node("Gemm", &inputs, &name("dense"), vec![]))
            }
            StepKind::Norm { scope, channels } => {
                let mut inputs = vec![x];
                for part in ["gamma", "beta", "moving_mean", "moving_variance"] {
                    let part = format!("{scope}/{part}");
                    let values = self.exported.f32s(&part)?;
                    inputs.push(self.builder.f32s(&part, &[*channels], &values));
                }
                let epsilon = builder::float("epsilon", BatchNorm::EPSILON as f32);
                (
                    at + 1,
                    self.builder
                        .node("BatchNormalization", &inputs, &name("norm"), vec![epsilon]),
                )
            }
            StepKind::Bias { bias } => {
                let values = self.exported.f32s(bias)?;
                // Of the rank of the value, channels first: a bias that no kernel takes stands after an image.
                let dims = [values.len(), 1, 1];
                let bias = self.builder.f32s(bias, &dims, &values);
                (at + 1, self.builder.node("Add", &[&x, &bias], &name("bias"), vec![]))
            }
            StepKind::Relu => (at + 1, self.builder.node("Relu", &[&x], &name("relu"), vec![])),
            StepKind::Min { limit } => {
                let limit = self.builder.f32s(&name("limit"), &[], &[*limit as f32]);
                (at + 1, self.builder.node("Min", &[&x, &limit], &name("min"), vec![]))
            }
            StepKind::Add => {
                let y = self.values[step.inputs[1]].clone();
                (at + 1, self.builder.node("Add", &[&x, &y], &name("add"), vec![]))
            }
            StepKind::MaxPool { size, strides, pads } => {
                let attributes = vec![
                    builder::ints("kernel_shape", size),
                    builder::ints("strides", strides),
                    builder::ints("pads", &[pads[0][0], pads[1][0], pads[0][1], pads[1][1]]),
                ];
                (
                    at + 1,
                    self.builder.node("MaxPool", &[&x], &name("max_pool"), attributes),
                )
            }
            StepKind::Mean => {
                let pooled = self.builder.node("GlobalAveragePool", &[&x], &name("pool"), vec![]);
                (at + 1, self.builder.node("Flatten", &[&pooled], &name("mean"), vec![]))
            }
            StepKind::Row => (at + 1, self.builder.node("Flatten", &[&x], &name("row"), vec![])),
            StepKind::Pixel => {
                let dims = self.builder.i64s(&name("pixel_dims"), &[0, -1, 1, 1]);
                (
                    at + 1,
                    self.builder.node("Reshape", &[&x, &dims], &name("pixel"), vec![]),
                )
            }
            StepKind::Columns { indices } => {
                let found = self.exported.array(indices)?.to_vec::<i32>();
                let found = found.ok_or_else(|| Error::Array { name: indices.clone() })?;
                let found: Vec<i64> = found.into_iter().map(i64::from).collect();
                let positions = self.builder.i64s(indices, &found);
                let axis = builder::int("axis", 1);
                (
                    at + 1,
                    self.builder
                        .node("Gather", &[&x, &positions], &name("columns"), vec![axis]),
                )
            }
        };
        // Steps that were folded have the value of the kernel.
        self.values.resize(next + 1, value);
        Ok(next)
    }

    /// The bias and normalisation that alone use the result of the kernel at `at`, and the step after them.
    fn affine(&self, at: usize, channels: usize) -> Result<(usize, Option<Affine>), Error> {
        let (mut next, mut affine) = (at + 1, None);
        let only_user = |value: usize| {
            let users = self
                .steps
                .iter()
                .flat_map(|step| &step.inputs)
                .filter(|&&input| input == value);
            users.count() == 1
        };
        while let Some(step) = self
            .steps
            .get(next)
            .filter(|step| step.inputs == [next] && only_user(next))
        {
            let of = || Affine {
                scale: vec![1.0; channels],
                shift: vec![0.0; channels],
            };
            match &step.kind {
                StepKind::Bias { bias } => {
                    let bias = self.exported.f32s(bias)?;
                    let now: &mut Affine = affine.get_or_insert_with(of);
                    now.shift
                        .iter_mut()
                        .zip(&bias)
                        .for_each(|(shift, &bias)| *shift += f64::from(bias));
                }
                StepKind::Norm { scope, .. } if !self.options.keep_batch_norm => {
                    let now = affine.get_or_insert_with(of);
                    self.fold(now, scope)?;
                }
                _ => break,
            }
            next += 1;
        }
        Ok((next, affine))
    }

    /// Appends a normalisation.
    fn fold(&self, affine: &mut Affine, scope: &str) -> Result<(), Error> {
        let parts = ["gamma", "beta", "moving_mean", "moving_variance"];
        let [gamma, beta, mean, variance] = parts.map(|part| self.exported.f32s(&format!("{scope}/{part}")));
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        for channel in 0..affine.scale.len().min(gamma.len()) {
            let [gamma, beta, mean, variance] =
                [gamma[channel], beta[channel], mean[channel], variance[channel]].map(f64::from);
            let scale = gamma / (variance + BatchNorm::EPSILON).sqrt();
            affine.scale[channel] *= scale;
            affine.shift[channel] = (affine.shift[channel] - mean) * scale + beta;
        }
        Ok(())
    }

    /// Name of a kernel's initializer: its axes in the order of `axes`, its last axis scaled.
    fn kernel(&mut self, name: &str, dims: &[usize], axes: &[usize], affine: Option<&Affine>) -> Result<String, Error> {
        let mut values = self.exported.f32s(name)?;
        if let Some(affine) = affine {
            let scales = affine.scale.iter().cycle();
            values
                .iter_mut()
                .zip(scales)
                .for_each(|(value, scale)| *value = (f64::from(*value) * scale) as f32);
        }
        let (values, dims) = builder::transposed(&values, dims, axes);
        let sparse = self.options.sparse && values.contains(&0.0);
        let weights = match (sparse, self.options.bf16) {
            (false, false) => Weights::F32,
            (false, true) => Weights::Bf16,
            (true, false) => Weights::SparseF32,
            (true, true) => Weights::SparseBf16,
        };
        Ok(self.builder.weights(name, &dims, &values, weights))
    }

    fn shift(&mut self, kernel: &str, affine: &Affine) -> String {
        let shift: Vec<f32> = affine.shift.iter().map(|&shift| shift as f32).collect();
        self.builder.f32s(&format!("{kernel}/shift"), &[shift.len()], &shift)
    }
}

/// Each image less its mean, over its standard deviation, as [`Preprocessing::Cifar`].
fn standardised(b: &mut Builder, x: &str, dims: &[usize]) -> String {
    let axes = b.i64s("prepare/axes", &[1, 2, 3]);
    let mean = b.node("ReduceMean", &[x, &axes], "prepare/mean", vec![]);
    let centred = b.node("Sub", &[x, &mean], "prepare/centred", vec![]);
    let squares = b.node("Mul", &[&centred, &centred], "prepare/squares", vec![]);
    let variance = b.node("ReduceMean", &[&squares, &axes], "prepare/variance", vec![]);
    let deviation = b.node("Sqrt", &[&variance], "prepare/deviation", vec![]);
    let elements: usize = dims.iter().product();
    let least = b.f32s("prepare/least", &[], &[(elements as f32).sqrt().recip()]);
    let deviation = b.node("Max", &[&deviation, &least], "prepare/bounded", vec![]);
    b.node("Div", &[&centred, &deviation], "prepare/standardised", vec![])
}
