//! Convolutions in a library's terms: checks the passes of operators and of their gradients, computed here by plain
//! loops.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{Computation, DType, Graph, Literal, Op, Padding, Shape, Tensor, grad};
use hlo_cases as cases;
use lowering::{ConvLowering, ConvPass, DIRECT_CONVOLUTION, DirectConvolution, Target, lower, lower_convolutions};

/// All indices into `sizes`.
fn indices(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    (0..sizes.iter().product()).map(|mut flat: usize| {
        let mut index = vec![0; sizes.len()];
        for axis in (0..sizes.len()).rev() {
            (index[axis], flat) = (flat % sizes[axis], flat / sizes[axis]);
        }
        index
    })
}

fn offset(strides: &[usize], index: &[usize]) -> usize {
    strides.iter().zip(index).map(|(stride, i)| stride * i).sum()
}

/// Computes the result of a pass from operands in the operator's order, as a library would.
fn compute(c: &DirectConvolution, [left, right]: [&[f64]; 2], results: usize) -> Vec<f64> {
    let mut out = vec![0.0; results];
    let [groups, outer, inner] = [c.w.sizes[0], c.w.sizes[1], c.w.sizes[2]];
    let elements: usize = c.w.sizes[3..].iter().product();
    for position in indices(&c.y.sizes) {
        let (group, within) = (position[1] / outer, position[1] % outer);
        assert!(group < groups);
        for at in indices(&c.w.sizes[2..]) {
            let source: Option<Vec<usize>> = (0..c.stride.len())
                .map(|axis| {
                    let at = (position[axis + 2] * c.stride[axis] + at[axis + 1] * c.dilation[axis])
                        .checked_sub(c.pad_low[axis])?;
                    (at < c.x.sizes[axis + 2]).then_some(at)
                })
                .collect();
            let Some(source) = source else { continue };
            let x = offset(
                &c.x.strides,
                &[&[position[0], group * inner + at[0]], &source[..]].concat(),
            );
            let y = offset(&c.y.strides, &position);
            let w = |at: &[usize]| offset(&c.w.strides, &[&[group, within], at].concat());
            match c.pass {
                ConvPass::Forward => out[y] += left[x] * right[w(&at)],
                ConvPass::Kernel => out[w(&at)] += left[x] * right[y],
                ConvPass::Input => {
                    // The kernel is flipped along its spatial axes.
                    let flipped: Vec<usize> = (1..at.len()).map(|a| c.w.sizes[a + 2] - 1 - at[a]).collect();
                    assert!(elements > 0);
                    out[x] += left[y] * right[w(&[&at[..1], &flipped].concat())];
                }
            }
        }
    }
    out
}

/// Checks each convolution of a computation that maps to a pass. Returns the passes.
fn checked(computation: &Computation) -> Vec<ConvPass> {
    let mut seen = vec![];
    for node in &computation.nodes {
        let Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
            ..
        } = &node.op
        else {
            continue;
        };
        let operand = |id: &usize| computation.nodes[*id].shape().clone();
        let shapes: Vec<Shape> = node.operands.iter().map(operand).collect();
        let arrays = [&shapes[0].dims, &shapes[1].dims, &node.shape().dims].map(|dims| &dims[..]);
        let Some(direct) = DirectConvolution::from_op(&node.op, arrays) else {
            continue;
        };
        let inputs: Vec<Literal> = (0..2).map(|i| values(&shapes[i].dims, 3 + 4 * i)).collect();
        let parameters = inputs
            .iter()
            .map(|i| ("x".to_string(), i.shape().clone()))
            .collect::<Vec<_>>();
        let alone = Graph::function("alone", &parameters, |_, x| {
            let groups = (*feature_groups, *batch_groups);
            vec![x[0].convolution(x[1], window.clone(), dims.clone(), groups.0, groups.1)]
        })
        .unwrap();
        let lowered = lower_convolutions(&alone, &|_| ConvLowering::DIRECT).unwrap();
        let called = lowered
            .nodes
            .iter()
            .find_map(|node| DirectConvolution::from_call(&node.op));
        // Grouped convolutions with several channels per group have no other form than the operator.
        assert!(called.is_some() || feature_groups * batch_groups > 1, "{direct:?}");
        assert!(called.is_none_or(|called| called == direct), "{direct:?}");
        let want = alone.evaluate(&inputs).unwrap()[0].to_f64_vec();
        let [left, right] = [0, 1].map(|i| inputs[i].to_f64_vec());
        let got = compute(&direct, [&left, &right], want.len());
        let largest = want.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
        for (g, w) in got.iter().zip(&want) {
            assert!((g - w).abs() <= 1e-5 * largest, "{direct:?}: {g}, not {w}");
        }
        seen.push(direct.pass);
    }
    seen
}

fn values(dims: &[usize], seed: usize) -> Literal {
    let value = |i: usize| (((i + seed) * 2_654_435_761 % 4093) as f32 - 2046.0) / 1024.0;
    Literal::new(dims, &(0..dims.iter().product()).map(value).collect::<Vec<_>>())
}

fn layer(x: [usize; 4], k: [usize; 4], stride: usize, padding: Padding, groups: usize) -> Computation {
    let parameters = [x, k].map(|dims| ("x".to_string(), Shape::new(DType::F32, dims)));
    Graph::function("layer", &parameters, |_, x: &[Tensor<'_>]| {
        let y = x[0].conv2d(x[1], [stride; 2], padding, groups);
        [vec![y], grad((y * y).reduce_sum_all(), x)].concat()
    })
    .unwrap()
}

#[test]
fn layers_map_to_forward_input_and_kernel_passes() {
    use ConvPass::{Forward, Input, Kernel};
    let explicit = Padding::Explicit([(1, 1); 2]);
    // Without a stride, the input gradient is itself a forward pass with the kernel that the graph flipped.
    for (layer, passes) in [
        (
            layer([2, 8, 7, 3], [3, 3, 3, 4], 1, Padding::Same, 1),
            [Forward, Forward, Kernel],
        ),
        (
            layer([2, 8, 7, 3], [3, 3, 3, 4], 2, Padding::Same, 1),
            [Forward, Input, Kernel],
        ),
        (
            layer([1, 9, 9, 2], [3, 3, 2, 3], 2, explicit, 1),
            [Forward, Input, Kernel],
        ),
        (
            layer([1, 9, 8, 2], [7, 7, 2, 3], 2, Padding::Same, 1),
            [Forward, Input, Forward],
        ),
        (
            layer([2, 8, 7, 4], [1, 1, 4, 2], 1, Padding::Same, 1),
            [Forward, Forward, Kernel],
        ),
        (
            layer([2, 8, 7, 4], [1, 1, 4, 2], 2, Padding::Same, 1),
            [Forward, Input, Kernel],
        ),
        (
            layer([2, 8, 7, 3], [3, 3, 1, 3], 1, Padding::Same, 3),
            [Forward, Forward, Kernel],
        ),
        (
            layer([2, 8, 7, 3], [3, 3, 1, 3], 2, explicit, 3),
            [Forward, Input, Kernel],
        ),
        (
            layer([2, 8, 7, 4], [3, 2, 2, 6], 1, Padding::Same, 2),
            [Forward, Forward, Kernel],
        ),
        (
            layer([2, 8, 7, 4], [3, 2, 2, 6], 2, Padding::Valid, 2),
            [Forward, Input, Kernel],
        ),
    ] {
        assert_eq!(checked(&layer), passes);
    }
}

#[test]
fn mapped_cases_compute_the_operators_values() {
    let convolutions = cases::all().into_iter().filter(|case| case.op == "convolution");
    let passes: Vec<ConvPass> = convolutions
        .flat_map(|case| checked(&case.computation().unwrap()))
        .collect();
    for pass in [ConvPass::Forward, ConvPass::Input, ConvPass::Kernel] {
        assert!(passes.contains(&pass), "{pass:?} of {passes:?}");
    }
}

#[test]
fn host_calls_carry_the_full_description() {
    let layer = layer([32, 8, 7, 3], [3, 3, 3, 4], 2, Padding::Same, 1);
    let module = lower(&layer, Target::CpuWithHostFunctions).unwrap().to_proto(&[]);
    let calls: Vec<_> = module
        .computations
        .iter()
        .flat_map(|c| &c.instructions)
        .filter(|i| i.opcode == "custom-call")
        .collect();
    assert_eq!(
        calls.len(),
        1,
        "the output; phases are matrix products, and the kernel's sum is short"
    );
    assert_eq!(
        (calls[0].custom_call_target.as_str(), calls[0].custom_call_api_version),
        (DIRECT_CONVOLUTION, 4)
    );
    assert!(calls[0].constrain_layout && calls[0].operand_shapes_with_layout.len() == 2);
    let config = String::from_utf8(calls[0].backend_config.clone()).unwrap();
    let expected = "{dilation = array<i64: 1, 1>, packed = array<i64: 0>, pad_high = array<i64: 1, 1>, \
        pad_low = array<i64: 0, 1>, pass = array<i64: 0>, \
        stride = array<i64: 2, 2>, w_sizes = array<i64: 1, 4, 3, 3, 3>, w_strides = array<i64: 4, 1, 4, 36, 12>, \
        x_sizes = array<i64: 32, 3, 8, 7>, x_strides = array<i64: 168, 1, 21, 3>, \
        y_sizes = array<i64: 32, 4, 4, 4>, y_strides = array<i64: 64, 1, 16, 4>}";
    assert_eq!(config, expected);
}

#[test]
fn unsupported_convolutions_are_not_replaced() {
    let parameters = [[2, 8, 7, 3], [3, 3, 3, 4]].map(|dims| ("x".to_string(), Shape::new(DType::F64, dims)));
    let built = Graph::function("layer", &parameters, |_, x| {
        vec![x[0].conv2d(x[1], [1; 2], Padding::Same, 1)]
    })
    .unwrap();
    let lowered = lower_convolutions(&built, &|_| ConvLowering::DIRECT).unwrap();
    assert_eq!(lowered.to_bytes(&[]), built.to_bytes(&[]));
    // Batch groups in a forward pass, and negative padding.
    let convolution = |window, batch_groups| Op::Convolution {
        window: vec![window; 2],
        dims: hlo::ConvDims::nhwc(),
        feature_groups: 1,
        batch_groups,
    };
    let unit = hlo::WindowDim::unit();
    let cropped = hlo::WindowDim { pad_low: -1, ..unit };
    let grouped = [&[2, 1, 1, 3], &[1, 1, 3, 4], &[1, 1, 1, 4]].map(|dims| &dims[..]);
    assert_eq!(DirectConvolution::from_op(&convolution(unit, 2), grouped), None);
    let smaller = [&[2, 3, 3, 3], &[1, 1, 3, 4], &[2, 2, 2, 4]].map(|dims| &dims[..]);
    assert_eq!(DirectConvolution::from_op(&convolution(cropped, 1), smaller), None);
}
