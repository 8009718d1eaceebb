//! Trains a network of one's own, on data of one's own, with RigL.
use rigl_xla::models::{Init, Model, Naming, Net, layers::Dense};
use rigl_xla::{Trainer, hlo::Tensor};

struct Tiny; // 16 inputs, two layers with masks, 4 classes

#[rustfmt::skip] // short
impl Model for Tiny {
    fn name(&self) -> &str { "tiny" }
    fn input_dims(&self) -> Vec<usize> { vec![16] }
    fn classes(&self) -> usize { 4 }
    fn forward<'g>(&self, net: &Net<'g>, inputs: Tensor<'g>) -> Tensor<'g> {
        let (naming, init) = (Naming::Masked, Init::GlorotUniform);
        let layer = |scope: &str, units| Dense { scope: scope.into(), naming, units, init };
        let hidden = net.dense(inputs, &layer("hidden", 32)).relu();
        net.dense(hidden, &layer("head", 4))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Points around one corner of a cube for each class.
    let labels: Vec<i32> = (0..400).map(|i| i % 4).collect();
    let bit = |label: i32, j: i32| ((label * 7 + 3) >> (j % 5) & 1) as f32;
    let noise = |i: i32, j: i32| ((i * 31 + j * 17) % 13) as f32 / 13.0 - 0.5;
    let point = |(i, &label)| (0..16).map(move |j| bit(label, j) + noise(i, j));
    let inputs: Vec<f32> = (0..).zip(&labels).flat_map(point).collect();
    let folder = std::env::temp_dir().join(format!("own_model-{}", std::process::id()));
    let trainer = Trainer::new(Box::new(Tiny)).method("rigl").sparsity(0.8).steps(300);
    let trainer = trainer.set("optimizer.name", "adam").set("learning_rate.base", 0.01);
    let trained = trainer.output(&folder).train_on(inputs, labels).train()?;

    let mask = trained.mask("hidden/weights").expect("a layer with a mask");
    println!("{} of 512 connections", mask.to_f64_vec().iter().sum::<f64>());
    assert!(trained.scores().top1 > Some(0.95) && trained.metric("loss").len() > 1);
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}
