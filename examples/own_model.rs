#![allow(missing_docs)]
use hlo::{DType, Graph, Literal, Shape, Tensor, grad};
use models::layers::{Dense, cross_entropy};
use models::{Init, Mode, Model, Naming, Net};

/// 16 inputs, two masked layers, 4 classes.
struct Tiny;

impl Model for Tiny {
    fn name(&self) -> &str {
        "tiny"
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![16]
    }

    fn classes(&self) -> usize {
        4
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let layer = |scope: &str, units| Dense {
            scope: scope.into(),
            naming: Naming::Masked,
            units,
            init: Init::GlorotUniform,
        };
        let hidden = net.dense(images, &layer("hidden", 8)).relu();
        net.dense(hidden, &layer("head", 4))
    }
}

fn main() -> hlo::Result<()> {
    // The forward pass is also the table of parameters.
    let params = Tiny.params();
    let names: Vec<_> = params.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        ["hidden/weights", "hidden/biases", "head/weights", "head/biases"]
    );

    // Loss and gradients on a batch of two, as one graph.
    let g = Graph::new("tiny");
    let array = |(name, dims)| (String::from(name), g.parameter(name, Shape::new(DType::F32, dims)));
    let arrays: Vec<_> = params.iter().map(|p| array((&*p.name, &p.dims[..]))).collect();
    let images = g.parameter("images", Shape::new(DType::F32, [2, 16]));
    let labels = g.constant(Literal::new(&[2], &[0i32, 3]));
    let net = Net::new(&g, Mode::Eval, arrays.clone());
    let loss = cross_entropy(Tiny.apply(&net, images), labels, 0.0).reduce_mean(&[0]);
    let weights: Vec<_> = arrays.iter().map(|(_, tensor)| *tensor).collect();
    let results = [vec![loss], grad(loss, &weights)].concat();
    let outputs: Vec<_> = results.iter().map(Tensor::output).collect();
    let step = g.build(&outputs)?;

    // The evaluator runs it here; `step.to_bytes(&[])` is the module for a PJRT plugin.
    let fill = |dims: &[usize]| {
        let values = (0..dims.iter().product()).map(|i: usize| (i % 7) as f32 * 0.1 - 0.3);
        Literal::new(dims, &values.collect::<Vec<_>>())
    };
    let inputs: Vec<_> = params.iter().map(|p| fill(&p.dims)).chain([fill(&[2, 16])]).collect();
    let results = step.evaluate(&inputs)?;
    println!("loss {:.3}", results[0].to_f64_vec()[0]);
    for (name, gradient) in names.iter().zip(&results[1..]) {
        let squares: f64 = gradient.to_f64_vec().iter().map(|x| x * x).sum();
        println!("|d loss / d {name}| = {:.3}", squares.sqrt());
        assert!(squares.is_finite() && squares > 0.0);
    }
    Ok(())
}
