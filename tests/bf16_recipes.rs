//! The recipes in bf16: only activations and the kernels applied to them are rounded.
#![allow(clippy::unwrap_used)]

use hlo::{Computation, DType, Op};
use rigl_xla::config::{Layers, PRESETS, Plan};
use rigl_xla::train::step::Trainer;

/// Every preset for ImageNet with its form in bf16.
fn pairs() -> impl Iterator<Item = (&'static str, String)> {
    let names = PRESETS.iter().map(|(name, _)| *name);
    names.filter_map(|name| Some((name.strip_suffix("-bf16")?, name.to_string())))
}

#[test]
fn they_change_the_precision_alone() {
    for (name, half) in pairs() {
        let [single, half] = [name, &half].map(|name| Layers::preset(name).unwrap().run().unwrap().to_toml().unwrap());
        assert_eq!(
            single.replace("precision = \"f32\"", "precision = \"bf16\""),
            half,
            "{name}"
        );
        assert_ne!(single, half, "{name}");
    }
    let imagenet = PRESETS.iter().filter(|(name, _)| {
        let run = Layers::preset(name).unwrap().run().unwrap();
        run.data.set.name == "imagenet" && !name.ends_with("-bf16")
    });
    assert_eq!(imagenet.count(), pairs().count());
}

fn step(plan: &Plan) -> Computation {
    let model = plan.model();
    let trainer = Trainer { plan, model };
    trainer.step().unwrap().0
}

/// State, loss and sums of normalisation are in f32; convolutions are in bf16.
#[test]
fn state_loss_and_statistics_stay_in_f32() {
    for name in [
        "resnet50-rigl-bf16",
        "mobilenet-v1-rigl-bf16",
        "mobilenet-v2-dense-bf16",
        "vgg-16-rigl-bf16",
    ] {
        let small = Layers::preset(name).unwrap();
        let small = small.set("test", &["model", "image_size"], 32).unwrap();
        let small = small.set("test", &["train", "batch_size"], 4).unwrap();
        let step = step(&small.plan().unwrap());
        let of_state = step.parameter_specs().into_iter().map(|(_, shape)| shape.dtype);
        assert!(of_state.clone().all(|dtype| dtype != DType::BF16), "{name}");
        assert!(
            step.output_shapes().iter().all(|shape| shape.dtype != DType::BF16),
            "{name}"
        );
        let mut convolutions = 0;
        for node in &step.nodes {
            match &node.op {
                Op::Reduce { .. }
                    if ["batch_normalization", "loss"]
                        .iter()
                        .any(|part| node.scope.contains(part)) =>
                {
                    assert_ne!(node.shape().dtype, DType::BF16, "{name}: {}", node.scope);
                }
                Op::Convolution { .. } => {
                    assert_eq!(node.shape().dtype, DType::BF16, "{name}: {}", node.scope);
                    convolutions += 1;
                }
                _ => {}
            }
        }
        assert!(convolutions > 20, "{name}: {convolutions}");
    }
}
