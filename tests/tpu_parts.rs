//! Which networks have their images cut into parts for TPUs.
#![allow(clippy::unwrap_used)]

use hlo::{Computation, Op};
use lowering::{Target, lower};
use rigl_xla::config::Layers;
use rigl_xla::train::step::Trainer;

fn step(preset: &str, batch: i64) -> Computation {
    let layers = Layers::preset(preset).unwrap();
    let layers = layers.set("test", &["train", "batch_size"], batch).unwrap();
    let layers = layers.set("test", &["train", "precision"], "bf16").unwrap();
    let plan = layers.set("test", &["device", "kind"], "tpu").unwrap().plan().unwrap();
    let model = plan.model();
    let trainer = Trainer { plan: &plan, model };
    trainer.step().unwrap().0
}

/// Convolutions of this batch.
fn convolutions(computation: &Computation, batch: usize) -> usize {
    let nodes = &computation.nodes;
    let of_batch = |node: &&hlo::Node| {
        matches!(node.op, Op::Convolution { .. }) && nodes[node.operands[0]].shape().dims[0] == batch
    };
    nodes.iter().filter(of_batch).count()
}

/// Networks of narrow images are cut at half of the lanes and left alone at all of them. ResNet-50's images are wide.
#[test]
fn images_are_cut_where_lanes_would_be_empty() {
    for (preset, batch, cut) in [
        ("cifar10-dense", 64, true),
        ("mobilenet-v1-dense", 64, true),
        ("mobilenet-v2-dense", 192, true),
        ("cifar10-dense", 128, false),
        ("resnet50-dense", 64, false),
    ] {
        let step = step(preset, batch);
        let lowered = lower(&step, Target::Tpu).unwrap();
        let batch = batch as usize;
        match cut {
            true => assert!(convolutions(&lowered, 2 * batch) > 10, "{preset} {batch}"),
            false => {
                let [before, after] = [&step, &lowered].map(|c| convolutions(c, batch));
                assert_eq!(
                    (before, 0),
                    (after, convolutions(&lowered, 2 * batch)),
                    "{preset} {batch}"
                );
            }
        }
    }
}
