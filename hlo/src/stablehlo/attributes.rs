//! Attributes of operators in MLIR's textual form.

use super::constant::value;
use super::tensor;
use crate::op::elementwise::comparison_type;
use crate::op::{Comparison, ConvDims, DotDims, GatherDims, Op, WindowDim};
use crate::precision::MatmulPrecision;
use crate::shape::{DType, Shape};

/// The attributes of an operator on operands of these shapes.
pub(super) fn attributes(op: &Op, operands: &[&Shape]) -> Vec<String> {
    match op {
        Op::Constant(literal) => vec![format!("value = {} : {}", value(literal), tensor(literal.shape()))],
        Op::Iota { axis, .. } => vec![number("iota_dimension", *axis)],
        Op::Compare(direction) => comparison(*direction, operands[0].dtype, false),
        Op::Broadcast { axes, .. } => vec![array("broadcast_dimensions", axes)],
        Op::Transpose { permutation } => vec![array("permutation", permutation)],
        Op::Slice { start, limit, stride } => vec![
            array("start_indices", start),
            array("limit_indices", limit),
            array("strides", stride),
        ],
        Op::Pad { low, high, interior } => vec![
            array("edge_padding_low", low),
            array("edge_padding_high", high),
            array("interior_padding", interior),
        ],
        Op::Concatenate { axis } => vec![number("dimension", *axis)],
        Op::Reverse { axes } | Op::Reduce { axes, .. } => vec![array("dimensions", axes)],
        Op::DynamicSlice { sizes } => vec![array("slice_sizes", sizes)],
        Op::Gather { dims, sizes } => vec![
            format!("dimension_numbers = {}", gather(dims)),
            array("slice_sizes", sizes),
            "indices_are_sorted = false".into(),
        ],
        Op::Scatter { dims, unique, .. } => vec![
            format!("scatter_dimension_numbers = {}", scatter(dims)),
            "indices_are_sorted = false".into(),
            format!("unique_indices = {unique}"),
        ],
        Op::Dot(dims) => vec![format!("dot_dimension_numbers = {}", dot(dims))],
        Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } => convolution_attributes(window, dims, [*feature_groups, *batch_groups]),
        Op::ReduceWindow { window, .. } => vec![
            per_axis("window_dimensions", window, |w| w.size),
            per_axis("window_strides", window, |w| w.stride),
            per_axis("base_dilations", window, |w| w.base_dilation),
            per_axis("window_dilations", window, |w| w.window_dilation),
            padding(window),
        ],
        Op::SelectAndScatter { window } => vec![
            per_axis("window_dimensions", window, |w| w.size),
            per_axis("window_strides", window, |w| w.stride),
            padding(window),
        ],
        Op::Sort { axis, .. } => vec![number("dimension", *axis), "is_stable = true".into()],
        // Without groups all replicas form one group.
        Op::AllReduce { .. } => vec!["replica_groups = dense<> : tensor<0x0xi64>".into()],
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::Convert(_)
        | Op::BitcastConvert(_)
        | Op::Reshape { .. }
        | Op::DynamicUpdateSlice
        | Op::While { .. }
        | Op::Conditional { .. } => vec![],
        Op::Parameter { .. }
        | Op::StopGradient
        | Op::WithVjp(_)
        | Op::GetTupleElement { .. }
        | Op::TopK { .. }
        | Op::Call { .. }
        | Op::Module(_) => unreachable!("have no instruction of their own"),
    }
}

/// The precision of a matrix product or convolution, unless it is the default.
pub(super) fn precision(op: &Op, precision: MatmulPrecision) -> Option<String> {
    let multiplies = matches!(op, Op::Dot(_) | Op::Convolution { .. });
    (multiplies && !precision.is_default()).then(|| {
        let name = precision.name().to_uppercase();
        format!("precision_config = [#stablehlo<precision {name}>, #stablehlo<precision {name}>]")
    })
}

fn convolution_attributes(window: &[WindowDim], dims: &ConvDims, groups: [usize; 2]) -> Vec<String> {
    vec![
        per_axis("window_strides", window, |w| w.stride),
        padding(window),
        per_axis("lhs_dilation", window, |w| w.base_dilation),
        per_axis("rhs_dilation", window, |w| w.window_dilation),
        format!("dimension_numbers = {}", convolution(dims)),
        number("feature_group_count", groups[0]),
        number("batch_group_count", groups[1]),
    ]
}

/// The attributes of a comparison; `total` selects IEEE's total order of floating-point numbers.
pub(super) fn comparison(direction: Comparison, dtype: DType, total: bool) -> Vec<String> {
    let kind = match total && dtype.is_float() {
        true => "TOTALORDER",
        false => comparison_type(dtype),
    };
    vec![
        format!(
            "comparison_direction = #stablehlo<comparison_direction {}>",
            direction.name()
        ),
        format!("compare_type = #stablehlo<comparison_type {kind}>"),
    ]
}

fn number(name: &str, value: usize) -> String {
    format!("{name} = {value} : i64")
}

fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn array<T: ToString>(name: &str, values: &[T]) -> String {
    let colon = if values.is_empty() { "" } else { ": " };
    format!("{name} = array<i64{colon}{}>", joined(values))
}

fn per_axis(name: &str, window: &[WindowDim], value: impl Fn(&WindowDim) -> usize) -> String {
    array(name, &window.iter().map(value).collect::<Vec<_>>())
}

fn padding(window: &[WindowDim]) -> String {
    let pairs: Vec<String> = window
        .iter()
        .map(|w| format!("[{}, {}]", w.pad_low, w.pad_high))
        .collect();
    let values = if pairs.is_empty() {
        String::new()
    } else {
        format!("[{}]", pairs.join(", "))
    };
    format!("padding = dense<{values}> : tensor<{}x2xi64>", window.len())
}

fn gather(d: &GatherDims) -> String {
    format!(
        "#stablehlo.gather<offset_dims = [{}], collapsed_slice_dims = [{}], start_index_map = [{}], index_vector_dim = {}>",
        joined(&d.offset),
        joined(&d.collapsed),
        joined(&d.start_index_map),
        d.index_vector_axis
    )
}

fn scatter(d: &GatherDims) -> String {
    format!(
        "#stablehlo.scatter<update_window_dims = [{}], inserted_window_dims = [{}], scatter_dims_to_operand_dims = [{}], \
         index_vector_dim = {}>",
        joined(&d.offset),
        joined(&d.collapsed),
        joined(&d.start_index_map),
        d.index_vector_axis
    )
}

fn dot(d: &DotDims) -> String {
    format!(
        "#stablehlo.dot<lhs_batching_dimensions = [{}], rhs_batching_dimensions = [{}], lhs_contracting_dimensions = [{}], \
         rhs_contracting_dimensions = [{}]>",
        joined(&d.lhs_batch),
        joined(&d.rhs_batch),
        joined(&d.lhs_contract),
        joined(&d.rhs_contract)
    )
}

fn convolution(d: &ConvDims) -> String {
    let axes = |[first, second]: [(usize, &'static str); 2], spatial: &[usize]| {
        let mut labels = vec![String::new(); spatial.len() + 2];
        for (axis, label) in [first, second] {
            labels[axis] = label.into();
        }
        for (i, &axis) in spatial.iter().enumerate() {
            labels[axis] = i.to_string();
        }
        format!("[{}]", labels.join(", "))
    };
    format!(
        "#stablehlo.conv<{}x{}->{}>",
        axes([(d.input_batch, "b"), (d.input_feature, "f")], &d.input_spatial),
        axes([(d.kernel_input, "i"), (d.kernel_output, "o")], &d.kernel_spatial),
        axes([(d.output_batch, "b"), (d.output_feature, "f")], &d.output_spatial)
    )
}
