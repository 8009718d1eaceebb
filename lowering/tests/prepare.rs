//! Split computations: both parts together have the values of the whole, and the first part contains all that is fixed.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{Alias, Computation, DType, Graph, Literal, Padding, Shape};
use hlo_cases as cases;
use lowering::{ConvLowering, DirectConvolution, Target, lower, lower_convolutions, prepare};

fn names(computation: &Computation) -> Vec<&'static str> {
    computation.nodes.iter().map(|node| node.op.name()).collect()
}

fn parameters(dims: &[&[usize]]) -> Vec<(String, Shape)> {
    let named = |(i, dims): (usize, &&[usize])| (format!("x{i}"), Shape::new(DType::F32, *dims));
    dims.iter().enumerate().map(named).collect()
}

#[test]
fn both_parts_together_compute_the_whole() {
    let mut moved = 0;
    for case in cases::all() {
        let whole = case.computation().unwrap();
        let direct = lower_convolutions(&whole, &|_| ConvLowering::DIRECT).unwrap();
        let chosen = lower(&whole, Target::CpuWithHostFunctions).unwrap();
        for whole in [whole, direct, chosen] {
            let want = whole.evaluate(&case.inputs).unwrap();
            for fixed in 0..=case.inputs.len() {
                let parts = prepare(&whole, fixed).unwrap();
                let (stay, vary) = case.inputs.split_at(fixed);
                let first = parts.first.evaluate(stay).unwrap();
                for alias in &parts.aliases {
                    assert_eq!(first[alias.output], stay[alias.parameter]);
                }
                let got = parts.rest.evaluate(&[&first, vary].concat()).unwrap();
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(&want) {
                    assert_eq!(
                        (got.shape(), got.bytes()),
                        (want.shape(), want.bytes()),
                        "{}, {fixed}",
                        case.title()
                    );
                }
                moved += usize::from(first.len() > parts.aliases.len());
            }
        }
    }
    assert!(moved > 100, "{moved}");
}

#[test]
fn values_of_fixed_inputs_move_to_the_first_part() {
    let specs = parameters(&[&[4, 3], &[4, 3], &[3], &[3], &[2, 4]]);
    let whole = Graph::function("layer", &specs, |_, x| {
        let [kernel, mask, scale, bias, images] = x else {
            return vec![];
        };
        let y = images.matmul(*kernel * *mask);
        let scale = (*scale + 1.0).rsqrt();
        vec![y * scale.broadcast_to(&[2, 3]) + bias.broadcast_to(&[2, 3])]
    })
    .unwrap();
    let parts = prepare(&whole, 4).unwrap();
    // The masked kernel, the root, and the unchanged bias.
    assert_eq!(parts.first.outputs.len(), 3);
    assert!(names(&parts.first).contains(&"rsqrt") && !names(&parts.rest).contains(&"rsqrt"));
    let bias = parts.aliases.iter().map(|alias| alias.parameter).collect::<Vec<_>>();
    assert_eq!(bias, [3]);
    // Broadcasts are repeated where they are used.
    assert!(names(&parts.rest).contains(&"broadcast"));
    let sizes = |computation: &Computation| {
        computation
            .parameter_specs()
            .iter()
            .map(|(_, s)| s.elements())
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(&parts.rest).iter().sum::<usize>(), 12 + 3 + 3 + 8);
}

#[test]
fn results_larger_than_their_inputs_are_not_precomputed() {
    let whole = Graph::function("outer", &parameters(&[&[8], &[8, 8]]), |_, x| {
        let rows = x[0].broadcast(&[8, 8], &[0]);
        let columns = x[0].broadcast(&[8, 8], &[1]);
        vec![(rows * columns) + x[1]]
    })
    .unwrap();
    let parts = prepare(&whole, 1).unwrap();
    let kept = [Alias {
        output: 0,
        parameter: 0,
    }];
    assert_eq!((parts.first.outputs.len(), &parts.aliases[..]), (1, &kept[..]));
}

#[test]
fn kernels_of_host_convolutions_are_packed() {
    let specs = parameters(&[&[3, 3, 3, 8], &[2, 8, 8, 3]]);
    let whole = Graph::function("conv", &specs, |_, x| {
        vec![x[1].conv2d(x[0] * 2.0, [1; 2], Padding::Same, 1)]
    })
    .unwrap();
    let inputs: Vec<Literal> = specs
        .iter()
        .map(|(_, shape)| {
            let values: Vec<f32> = (0..shape.elements()).map(|i| (i % 7) as f32).collect();
            Literal::new(&shape.dims, &values)
        })
        .collect();
    let direct = lower_convolutions(&whole, &|_| ConvLowering::DIRECT).unwrap();
    let parts = prepare(&direct, 1).unwrap();
    let packed =
        |node: &hlo::Node| DirectConvolution::from_call(&node.op).is_some_and(|convolution| convolution.packed);
    assert!(parts.rest.nodes.iter().any(packed));
    assert_eq!(names(&parts.rest), ["parameter", "parameter", "call"]);
    // Libraries pad the eight filters to 64.
    let packed_sizes: Vec<_> = parts.first.output_shapes().iter().map(hlo::Shape::elements).collect();
    assert_eq!(packed_sizes, [3 * 3 * 3 * 64]);
    let first = parts.first.evaluate(&inputs[..1]).unwrap();
    let got = parts.rest.evaluate(&[&first, &inputs[1..]].concat()).unwrap();
    assert_eq!(got, whole.evaluate(&inputs).unwrap());
    // A kernel that varies is not packed.
    let varying = prepare(&direct, 0).unwrap();
    assert!(!varying.rest.nodes.iter().any(packed) && varying.first.outputs.is_empty());
    // Both host calls have the attribute.
    let calls = |computation: &Computation| {
        let module = computation.to_proto(&[]);
        let all = module.computations.into_iter().flat_map(|c| c.instructions);
        all.filter(|i| i.opcode == "custom-call")
            .map(|i| (i.custom_call_target, String::from_utf8(i.backend_config).unwrap()))
            .collect::<Vec<_>>()
    };
    let [first, rest] = [&parts.first, &parts.rest].map(|part| calls(part).remove(0));
    assert_eq!(
        [first.0.as_str(), &rest.0],
        [lowering::PACK_KERNEL, lowering::DIRECT_CONVOLUTION]
    );
    assert_eq!(first.1, rest.1);
    assert!(first.1.contains("packed = array<i64: 1>"), "{}", first.1);
}
