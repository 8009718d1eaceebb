//! JAX, from the reference alone, makes the training steps and mask updates that the program makes with image networks:
//! preprocessing, loss, every gradient, moved statistics, updated weights, masks.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{json, rigl_xla};
use hlo::random::Key;
use hlo::{Graph, Literal};
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::config::{Layers, Plan};
use rigl_xla::data::pixels::{Crop, Preprocessing};
use rigl_xla::data::{Split, synthetic};
use rigl_xla::named::Named;
use rigl_xla::train::state;
use serde_json::json as value;
use sparse::rng::stream;

const PACKAGES: &[&str] = &["jax==0.4.38", "numpy==2.2.6", "safetensors==0.5.3"];

/// Examples of the data set, all of which are in every batch.
const BATCH: usize = 16;

/// Every iteration is saved: a mask update, without noise, and a gradient step.
const SETTINGS: [&str; 9] = [
    "train.checkpoint_interval=1",
    "train.keep_checkpoints=100",
    "mask_update.frequency_steps=100",
    "mask_update.anneal=constant",
    "method.drop_noise_std=0",
    "data.augment=false",
    "learning_rate.warmup_epochs=0",
    "sparsity.target=0.8",
    "data.examples=16",
];

struct Case {
    preset: &'static str,
    /// As the script calls it.
    network: &'static str,
    /// Settings of the network.
    settings: &'static [&'static str],
    /// One for which no activation lies so near to zero that rounding decides on which side, and so on gradients: the
    /// script prints the margin.
    seed: u64,
}

impl Case {
    /// The configuration, as `-v` shows it.
    fn config(&self) -> String {
        let seed = self.seed.to_string();
        let run = [
            "plan",
            self.preset,
            "--data",
            "synthetic",
            "--steps",
            "1",
            "--seed",
            &seed,
            "--batch-size",
            "16",
            "-v",
        ];
        let settings = SETTINGS.iter().chain(self.settings).flat_map(|s| ["--set", s]);
        let shown = rigl_xla(&run.into_iter().chain(settings).collect::<Vec<_>>());
        let text = String::from_utf8(shown.stderr).unwrap();
        assert!(shown.status.success(), "{text}");
        text
    }

    /// A run before its first iteration, and the recipe for the script. Writes `examples.safetensors`.
    fn prepare(&self, folder: &Path) -> String {
        let config = folder.join("config.toml");
        fs::write(&config, self.config()).unwrap();
        let plan = Layers::preset(self.preset)
            .unwrap()
            .file(&config)
            .unwrap()
            .plan()
            .unwrap();
        let text = fs::read_to_string(config).unwrap();
        let start = Metadata::new(&plan.run.model.name, 0, text);
        save(&folder.join("ckpt-0.safetensors"), &well_conditioned(&plan), &start).unwrap();
        let model = plan.model();
        let examples = synthetic::generate(&model.input_dims(), model.classes(), BATCH, Split::Train, self.seed);
        let arrays = [("images".into(), examples.images), ("labels".into(), examples.labels)];
        let path = folder.join("examples.safetensors");
        save(&path, &arrays.into(), &Metadata::new("", 0, "")).unwrap();
        let recipe = value!({
            "network": self.network,
            "preprocessing": plan.run.data.preprocessing.map(Named::name),
            "classes": model.classes(),
            "smoothing": plan.run.train.label_smoothing,
            "decay": plan.run.optimizer.weight_decay,
            "drop": plan.run.mask_update.drop_fraction,
        });
        recipe.to_string()
    }

    fn check(&self) {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().to_str().unwrap();
        let recipe = self.prepare(folder.path());
        let done = json(&["train", "--resume", "--out", run]);
        assert_eq!((&done["steps"], &done["mask_updates"]), (&2.into(), &1.into()));
        let report = common::python::run(PACKAGES, "steps.py", &[run, &recipe]);
        let report: BTreeMap<String, f64> = serde_json::from_str(&report).unwrap();
        assert_eq!((report["steps"], report["updates"]), (1.0, 1.0));
        assert!(report["replaced"] > 50.0, "{}: {report:?}", self.network);
        for kind in ["loss", "l2", "weights", "statistics", "gradient"] {
            let error = report.get(kind).copied().unwrap_or_default(); // VGG has no statistics
            assert!(error < 1e-5, "{}: {kind}; {report:?}", self.network);
        }
    }
}

/// The state before the first iteration, with weights by which activations neither grow nor vanish, sparse as layers are,
/// normalisations that do not start as the identity, and velocities.
fn well_conditioned(plan: &Plan) -> BTreeMap<String, Literal> {
    let mut arrays = state::initial(plan).unwrap();
    for param in &plan.params {
        let mut random = stream(plan.run.train.seed, "well conditioned", &param.name, 0);
        let (centre, scale) = match param.dims[..] {
            [ref window @ .., inputs, outputs] => {
                let density = plan
                    .budget(param)
                    .map_or(1.0, |b| b.nonzeros as f64 / param.elements() as f64);
                let inputs = if param.name.ends_with("depthwise_weights") {
                    outputs
                } else {
                    inputs
                };
                let fan = (window.iter().product::<usize>() * inputs) as f64 * density;
                (0.0, (2.0 / fan).sqrt())
            }
            // Few activations near the kink of a ReLU, where layers enlarge what rounding left.
            _ if param.name.ends_with("gamma") => (0.5, 0.1),
            _ if param.name.ends_with("beta") => (1.0, 0.2),
            _ => (0.0, 0.2),
        };
        let mut draw = || (centre + scale * random.truncated_normal()) as f32;
        let values: Vec<f32> = (0..param.elements()).map(|_| draw()).collect();
        let velocities: Vec<f32> = values.iter().map(|value| 0.1 * value).collect();
        arrays.insert(param.name.clone(), Literal::new(&param.dims, &values));
        arrays.insert(
            format!("{}/Momentum", param.name),
            Literal::new(&param.dims, &velocities),
        );
    }
    arrays
}

#[test]
fn wide_resnet() {
    let case = Case {
        preset: "cifar10-rigl",
        network: "wrn-10-1",
        settings: &[
            "model.depth=10",
            "model.width=1",
            "model.dropout=0",
            "model.image_size=16",
        ],
        seed: 7,
    };
    case.check();
}

#[test]
fn resnet() {
    let case = Case {
        preset: "resnet50-rigl",
        network: "resnet18",
        settings: &["model={name='resnet18',width=0.125,image_size=48,classes=10}"],
        seed: 3,
    };
    case.check();
}

#[test]
fn mobilenet() {
    let case = Case {
        preset: "mobilenet-v1-rigl",
        network: "mobilenet-v1",
        // With smaller pictures the last layers would normalise over 16 numbers, and rounding would reach 1e-5 of a gradient.
        settings: &["model={name='mobilenet-v1',width=0.125,image_size=64,classes=10}"],
        seed: 12,
    };
    case.check();
}

#[test]
fn vgg() {
    let case = Case {
        preset: "vgg-16-rigl",
        network: "vgg-a",
        settings: &["model={name='vgg-a',width=0.125,image_size=16,classes=10}"],
        seed: 1,
    };
    case.check();
}

/// NumPy standardises, pads, crops and flips as the graph does, given where.
#[test]
fn augmentation_matches_numpy() {
    let examples = synthetic::generate(&[32, 32, 3], 10, 24, Split::Train, 4);
    let g = Graph::new("augment");
    let key = Key::new(g.constant(Literal::new(&[2], &[9u32, 1])));
    let pixels = g.constant(examples.images.clone());
    let crop = Crop::draw(key, 24);
    let changed = Preprocessing::Cifar.augment(pixels, key);
    let outputs = [crop.top, crop.left, crop.flipped, changed].map(|t| t.output());
    let results = g.build(&outputs).unwrap().evaluate(&[]).unwrap();
    let names = ["top", "left", "flipped", "augmented"].map(String::from);
    let arrays = names
        .into_iter()
        .zip(results)
        .chain([("pixels".into(), examples.images)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.safetensors");
    save(&path, &arrays.collect(), &Metadata::new("", 0, "")).unwrap();
    let output = common::python::run(PACKAGES, "augment.py", &[path.to_str().unwrap()]);
    assert_eq!(output, "24 images\n");
}
