//! Operations of instructions, counted as XLA's own cost analysis does: one per element of an elementwise operator, two per
//! multiply-add, none for operators that move data, and none for transcendental functions, which it counts apart.

use hlo::proto::{Instruction, WindowDimension};

use super::program::{Indexed, Program, shape};

/// Most callers of callers: deeper than compilers nest, so that a module whose computations call each other ends.
pub(super) const DEEPEST: usize = 32;

/// Elementwise operators of one operation per element.
const ELEMENTWISE: [&str; 27] = [
    "abs",
    "add",
    "and",
    "ceil",
    "clamp",
    "clz",
    "compare",
    "convert",
    "divide",
    "floor",
    "maximum",
    "minimum",
    "multiply",
    "negate",
    "not",
    "or",
    "popcnt",
    "remainder",
    "round-nearest-afz",
    "round-nearest-even",
    "select",
    "shift-left",
    "shift-right-arithmetic",
    "shift-right-logical",
    "sign",
    "subtract",
    "xor",
];

/// Operations of one instruction, with those of the computations it calls; one turn of a loop.
pub(super) fn flops(program: &Program<'_>, within: &Indexed<'_>, i: &Instruction, depth: usize) -> f64 {
    if depth > DEEPEST {
        return 0.0;
    }
    let elements = shape(i).elements() as f64;
    let operand = |n| within.operand(i, n).map(shape);
    let operand_elements = |n| operand(n).map_or(0.0, |s| s.elements() as f64);
    let called = |n| {
        program
            .called(i, n)
            .map_or(0.0, |c| of_computation(program, c, depth + 1))
    };
    match i.opcode.as_str() {
        opcode if ELEMENTWISE.contains(&opcode) => elements,
        "dot" => {
            let contracted = i.dot_dimension_numbers.as_ref().map_or(1.0, |d| {
                let size = |&axis: &i64| {
                    operand(0)
                        .and_then(|s| s.dimensions.get(axis as usize))
                        .map_or(1.0, |&d| d as f64)
                };
                d.lhs_contracting_dimensions.iter().map(size).product()
            });
            2.0 * elements * contracted
        }
        "convolution" => convolution(within, i).unwrap_or(0.0),
        "reduce" => {
            // A reduction of several arrays has the shape of the first result.
            let results = shape(i).tuple_shapes.first().unwrap_or(shape(i)).elements() as f64;
            (operand_elements(0) - results).max(0.0) * called(0)
        }
        "reduce-window" => elements * (window_elements(i) - 1.0).max(0.0) * called(0),
        "select-and-scatter" => operand_elements(1) * (called(0) * (window_elements(i) - 1.0).max(0.0) + called(1)),
        "map" | "scatter" => elements * called(0),
        "all-reduce" | "all-reduce-start" | "reduce-scatter" => {
            within.operands(i).map(|o| shape(o).elements() as f64).sum()
        }
        "conditional" => (0..i.called_computation_ids.len()).map(called).fold(0.0, f64::max),
        "fusion" | "call" | "while" | "async-start" => (0..i.called_computation_ids.len()).map(called).sum(),
        _ => 0.0,
    }
}

fn of_computation(program: &Program<'_>, computation: &Indexed<'_>, depth: usize) -> f64 {
    let instructions = computation.computation.instructions.iter();
    instructions.map(|i| flops(program, computation, i, depth)).sum()
}

fn window_elements(i: &Instruction) -> f64 {
    let dimensions = i.window.iter().flat_map(|w| &w.dimensions);
    dimensions.map(|d| d.size as f64).product()
}

/// Two operations per product of an element of the image, not of padding or of the zeros of a dilation.
fn convolution(within: &Indexed<'_>, i: &Instruction) -> Option<f64> {
    let numbers = i.convolution_dimension_numbers.as_ref()?;
    let (x, kernel, y) = (shape(within.operand(i, 0)?), shape(within.operand(i, 1)?), shape(i));
    let size = |dimensions: &[i64], axis: i64| dimensions.get(usize::try_from(axis).ok()?).copied();
    let inner = size(&kernel.dimensions, numbers.kernel_input_feature_dimension)?;
    let outer = size(&kernel.dimensions, numbers.kernel_output_feature_dimension)?;
    let batch = size(&x.dimensions, numbers.input_batch_dimension)? / i.batch_group_count.max(1);
    let mut products = 2.0 * inner as f64 * outer as f64 * batch as f64;
    let window = &i.window.as_ref()?.dimensions;
    let axes = numbers
        .input_spatial_dimensions
        .iter()
        .zip(&numbers.output_spatial_dimensions);
    for (window, (&input, &output)) in window.iter().zip(axes) {
        products *= positions(window, size(&x.dimensions, input)?, size(&y.dimensions, output)?) as f64;
    }
    Some(products)
}

/// Pairs of a window's element and a position where it covers an element of an axis of `input` elements.
fn positions(window: &WindowDimension, input: i64, output: i64) -> u64 {
    /// Longer axes are not counted position by position.
    const LONGEST: i64 = 1 << 14;
    if window.size > LONGEST || output > LONGEST {
        return (window.size.max(0) as u64).saturating_mul(output.max(0) as u64);
    }
    let base = window.base_dilation.max(1);
    let last = (input - 1) * base;
    let covered = |at: i64| (0..=last).contains(&at) && at % base == 0;
    let at = |out: i64, k: i64| out * window.stride.max(1) - window.padding_low + k * window.window_dilation.max(1);
    let pairs = (0..window.size).flat_map(|k| (0..output).map(move |out| (out, k)));
    pairs.filter(|&(out, k)| covered(at(out, k))).count() as u64
}
