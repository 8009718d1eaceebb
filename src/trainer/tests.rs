#![allow(clippy::unwrap_used)]

use super::*;
use models::layers::Dense;
use models::{Init, Naming, Net};

struct Tiny;

impl Model for Tiny {
    fn name(&self) -> &str {
        "tiny"
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![5]
    }

    fn classes(&self) -> usize {
        3
    }

    fn forward<'g>(&self, net: &Net<'g>, inputs: hlo::Tensor<'g>) -> hlo::Tensor<'g> {
        let layer = |scope: &str, units| Dense {
            scope: scope.into(),
            naming: Naming::Masked,
            units,
            init: Init::GlorotUniform,
        };
        let hidden = net.dense(inputs, &layer("hidden", 8)).relu();
        net.dense(hidden, &layer("head", 3))
    }
}

/// 60 points; the class is the position of the largest of the first three numbers.
fn points() -> (Vec<f32>, Vec<i32>) {
    let labels: Vec<i32> = (0..60).map(|i| i * 7 % 3).collect();
    let number = |i: usize, j: usize| ((i * 29 + j * 53) % 97) as f32 / 97.0 + f32::from(labels[i] == j as i32);
    let inputs = (0..60).flat_map(|i| (0..5).map(move |j| (i, j)));
    (inputs.map(|(i, j)| number(i, j)).collect(), labels)
}

fn trainer(dir: &Path) -> Trainer {
    let trainer = Trainer::new(Box::new(Tiny)).steps(60).output(dir);
    trainer.set("train.batch_size", 20).set("train.checkpoint_interval", 30)
}

#[test]
fn gives_weights_masks_and_metrics_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, labels) = points();
    let trained = trainer(&dir.path().join("run")).sparsity(0.5);
    let trained = trained.train_on(inputs.clone(), labels.clone()).train().unwrap();
    let names: Vec<&str> = trained.params().collect();
    assert_eq!(
        names,
        ["hidden/weights", "hidden/biases", "head/weights", "head/biases"]
    );
    assert!(trained.mask("hidden/biases").is_none() && trained.param("hidden/mask").is_none());
    let zeros: usize = trained.plan().budgets.iter().map(|budget| budget.zeros).sum();
    let masks = ["hidden/weights", "head/weights"].map(|name| trained.mask(name).unwrap().to_bools().unwrap());
    assert_eq!(masks.iter().flatten().filter(|&&kept| !kept).count(), zeros);
    assert_eq!(zeros, 31);

    // Its logits are those of the masked weights.
    let array = |name: &str| trained.param(name).unwrap().to_f64_vec();
    let layer = |x: &[f64], scope: &str, mask: &[bool]| -> Vec<f64> {
        let (weights, biases) = (array(&format!("{scope}/weights")), array(&format!("{scope}/biases")));
        let unit = |u: usize| {
            let at = |(i, value): (usize, &f64)| match mask[i * biases.len() + u] {
                true => value * weights[i * biases.len() + u],
                false => 0.0,
            };
            biases[u] + x.iter().enumerate().map(at).sum::<f64>()
        };
        (0..biases.len()).map(unit).collect()
    };
    let expected = inputs.chunks(5).flat_map(|x| {
        let x: Vec<f64> = x.iter().map(|&value| f64::from(value)).collect();
        let hidden: Vec<f64> = layer(&x, "hidden", &masks[0])
            .iter()
            .map(|&unit| unit.max(0.0))
            .collect();
        layer(&hidden, "head", &masks[1])
    });
    let logits = trained.logits(&inputs).unwrap();
    for (got, expected) in logits.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-5, "{got} {expected}");
    }
    let hits = logits.chunks(3).zip(&labels).filter(|(x, label)| {
        let others = x.iter().enumerate().filter(|(i, _)| *i != **label as usize);
        others.into_iter().all(|(_, other)| *other < x[**label as usize])
    });
    assert_eq!(trained.scores().top1, Some(hits.count() as f64 / 60.0));
    let losses = trained.metric("loss");
    assert!(losses.last().unwrap().1 < losses[0].1 && trained.metric("eval.top1").last().unwrap().0 == 60);
}

#[test]
fn trains_from_a_file_with_other_methods_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, labels) = points();
    let arrays = [
        ("train/inputs".to_owned(), Literal::new(&[60, 5], &inputs)),
        ("train/labels".to_owned(), Literal::new(&[60], &labels)),
        ("test/inputs".to_owned(), Literal::new(&[20, 5], &inputs[..100])),
        ("test/labels".to_owned(), Literal::new(&[20], &labels[..20])),
    ];
    let file = dir.path().join("points.safetensors");
    checkpoint::save(&file, &arrays.into(), &checkpoint::Metadata::new("", 0, "")).unwrap();
    let run = |name: &str, steps| trainer(&dir.path().join(name)).steps(steps).data(&file);
    let dense = run("dense", 30)
        .method("dense")
        .set("sparsity.target", 0.0)
        .train()
        .unwrap();
    assert!(dense.mask("head/weights").is_none() && dense.scores().examples == 20);

    // Two replicas, interrupted and resumed, have the masks of one replica.
    let set = |name| run(name, 60).method("set");
    let two = |mode| set("two").set("device.replicas", 2).mode(mode);
    let stop = Stop::new();
    stop.ask(15);
    assert!(two(Mode::Fresh).train_until(&stop).unwrap().summary.interrupted);
    let two = two(Mode::Resume).train().unwrap();
    let one = set("one").train().unwrap();
    assert_eq!(
        (two.summary.steps, two.summary.mask_updates),
        (60, one.summary.mask_updates)
    );
    assert_eq!(two.mask("hidden/weights"), one.mask("hidden/weights"));
}

#[test]
fn reports_wrong_settings_and_examples() {
    let dir = tempfile::tempdir().unwrap();
    let message = |trainer: Trainer| trainer.train().map(|_| ()).unwrap_err().to_string();
    let (inputs, labels) = points();
    let run = || trainer(&dir.path().join("run"));
    let on = |labels: Vec<i32>| run().train_on(inputs.clone(), labels);
    assert_eq!(
        message(run()),
        "Trainer has no training examples, expected some from train_on or data"
    );
    assert_eq!(
        message(on(labels[1..].to_vec())),
        "the training set has 300 numbers for 59 labels, expected at least 1, of [5] numbers each"
    );
    let mut wrong = labels.clone();
    wrong[7] = 3;
    let text = "the training set has class 3 at index 7, expected 0 to 2";
    assert_eq!(message(on(wrong)), text);
    let text = message(on(labels.clone()).set("optimizer.nam", "adam"));
    assert!(
        text.contains("Trainer::set optimizer.nam") && text.contains("'name'"),
        "{text}"
    );
    let text = message(on(labels.clone()).sparsity(1.5));
    assert!(
        text.starts_with("Trainer::set sparsity.target") && text.contains("1.5"),
        "{text}"
    );
    let text = message(on(labels).set("train.batch_size", 100));
    assert!(text.contains("batch size 100"), "{text}");
}

#[test]
fn parts_of_a_batch_train_like_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, labels) = points();
    let run = |name: &str, method: &str, settings: &[(&str, i64)]| {
        let trainer = trainer(&dir.path().join(name))
            .method(method)
            .sparsity(0.5)
            .set("train.batch_size", 48);
        let trainer = settings
            .iter()
            .fold(trainer, |trainer, (key, value)| trainer.set(key, *value));
        trainer
            .set("optimizer.clip_norm", 0.5)
            .train_on(inputs.clone(), labels.clone())
    };
    let equal = |one: &Trained, other: &Trained, what: &str| {
        for name in one.params() {
            assert_eq!(one.mask(name), other.mask(name), "{what}: mask of {name}");
            let [a, b] = [one, other].map(|trained| trained.param(name).unwrap().to_f64_vec());
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-6, "{what}: {name} {far}");
        }
        let [a, b] = [one, other].map(|trained| trained.metric("accuracy"));
        assert_eq!(a, b, "{what}");
    };
    for method in ["rigl", "snfs", "static"] {
        let average = [("method.gradient_batches", 2)];
        let settings = if method == "rigl" { &average[..] } else { &[] };
        let whole = run(&format!("{method}-whole"), method, settings).train().unwrap();
        let parts = [settings, &[("train.accumulate", 4)]].concat();
        let parts = run(&format!("{method}-parts"), method, &parts).train().unwrap();
        equal(&whole, &parts, method);
    }
    let whole = run("whole", "rigl", &[]).train().unwrap();
    let two = [("train.accumulate", 3), ("device.replicas", 2)];
    let stop = Stop::new();
    stop.ask(15);
    assert!(run("two", "rigl", &two).train_until(&stop).unwrap().summary.interrupted);
    let two = run("two", "rigl", &two).mode(Mode::Resume).train().unwrap();
    equal(&whole, &two, "two replicas, resumed");
    // Kernels of connections alone.
    let sparse = run("sparse", "rigl", &[("train.accumulate", 3)]).set("device.execution", "sparse");
    equal(&whole, &sparse.train().unwrap(), "sparse execution");

    let message = |trainer: Trainer| trainer.train().map(|_| ()).unwrap_err().to_string();
    let text = message(run("no", "rigl", &[("train.accumulate", 5)]));
    assert!(
        text.contains("train.accumulate is 5, expected a number that divides train.batch_size, which is 48"),
        "{text}"
    );
    let text = message(run("no", "rigl", &[("train.accumulate", 0)]));
    assert!(text.contains("train.accumulate is 0"), "{text}");
}
