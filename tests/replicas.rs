//! Data parallelism on CPU devices: replicas that share a batch give the results of one device with the whole batch.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::runs::{Runs, ones};
use common::{error, json};
use hlo::{Computation, Literal, Node};
use pjrt::DeviceKind;
use rigl_xla::config::{Layers, Plan};
use rigl_xla::data::Split;
use rigl_xla::data::sets::Examples;
use rigl_xla::device::Device;
use rigl_xla::engine::{Arg, Buffer, EngineKind};
use rigl_xla::train::launch::LAUNCH_OUTPUTS;
use rigl_xla::train::replicas::{identity, part};
use rigl_xla::train::state;
use rigl_xla::train::step::{Row, Trainer, schedule};
use sparse::Counters;

/// Sums are taken in another order: at most this far apart, per number or per unit of it.
const TOLERANCE: f32 = 2e-5;

fn assert_close(what: &str, one: &BTreeMap<String, Literal>, other: &BTreeMap<String, Literal>) {
    assert!(one.keys().eq(other.keys()), "{what}");
    for (name, array) in one {
        match (array.to_vec::<f32>(), other[name].to_vec::<f32>()) {
            (Some(a), Some(b)) => {
                let far = a
                    .iter()
                    .zip(&b)
                    .find(|(a, b)| (*a - *b).abs() > TOLERANCE * a.abs().max(1.0));
                assert_eq!(far, None, "{what}: {name}");
            }
            _ => assert!(array == &other[name], "{what}: {name}"),
        }
    }
}

/// Updates at gradient steps 0, 10 and 20, evaluations and checkpoints across launches.
#[test]
fn mnist_replicas_match_one_device_and_resume_with_another_number() {
    let runs = Runs::new();
    let train = |run: &str, replicas: &str, steps: &str, more: &[&str]| {
        let own = ["--batch-size", "24", "--replicas", replicas, "--steps", steps];
        runs.train(run, &[&own, more].concat())
    };
    let whole = train("1", "1", "30", &[]);
    assert_eq!(whole["mask_updates"], 3);
    for n in ["2", "4", "8"] {
        let shared = train(n, n, "30", &[]);
        assert_close(n, &runs.tensors("1", 30), &runs.tensors(n, 30));
        // 300 test examples are no multiple of 8: every one is counted once.
        assert_eq!(shared["eval"]["top1"], whole["eval"]["top1"], "{n}");
        let losses = [&whole, &shared].map(|of| of["eval"]["loss"].as_f64().unwrap());
        assert!((losses[0] - losses[1]).abs() < 1e-5, "{n}: {losses:?}");
        for (one, other) in runs.metrics("1").iter().zip(runs.metrics(n)) {
            assert_eq!(one["accuracy"], other["accuracy"], "{n}");
            assert_eq!(one["mask_updates"], other["mask_updates"], "{n}");
        }
    }
    // 25 iterations on four devices, the others on as many again or on two.
    train("from-4-to-4", "4", "25", &[]);
    copy(&runs.path("from-4-to-4"), &runs.path("from-4-to-2"));
    for n in ["4", "2"] {
        let run = format!("from-4-to-{n}");
        train(&run, n, "30", &["--resume"]);
        assert_close(&run, &runs.tensors("1", 30), &runs.tensors(&run, 30));
    }
    assert!(runs.tensors("4", 30) == runs.tensors("from-4-to-4", 30));
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Gradients that are sent in bf16 train nearly as those in f32, and masks stay equal on all replicas.
#[test]
fn gradients_can_be_sent_in_bf16() {
    let runs = Runs::new();
    let [single, half] = ["f32", "bf16"].map(|precision| {
        let own = ["--gradient-precision", precision, "--batch-size", "24"];
        let more = ["--replicas", "2", "--steps", "30"];
        runs.train(precision, &[&own[..], &more].concat());
        runs.metrics(precision)
            .into_iter()
            .filter_map(|m| m["loss"].as_f64())
            .collect::<Vec<_>>()
    });
    for (a, b) in single.iter().zip(&half) {
        assert!((a / b - 1.0).abs() < 0.05, "{single:?} {half:?}");
    }
    assert_ne!(single, half);
    let changed = |run: &str| ones(&runs.tensors(run, 30)["layer1/mask"]);
    assert_eq!(changed("f32").len(), changed("bf16").len());
}

/// One-shot pruning sums its inputs over replicas too: gradients, and products of the Hessian with them.
#[test]
fn pruning_replicas_match_one_device() {
    let runs = Runs::new();
    for method in ["snip", "grasp"] {
        let train = |replicas: &str| {
            let run = format!("{method}-{replicas}");
            let own = [&format!("mnist-{method}"), "--replicas", replicas, "--steps", "12"];
            runs.train(&run, &own);
            runs.tensors(&run, 12)
        };
        let (one, two) = (train("1"), train("2"));
        assert_close(method, &one, &two);
        assert!(ones(&one["layer1/mask"]).len() < 235_200, "{method}");
    }
}

/// WRN-10-1 on random images, without dropout or augmentation.
const WIDE: &[&str] = &[
    "cifar10-rigl",
    "--set",
    "model={name='wrn-10-1',image_size=16,dropout=0}",
    "--set",
    "data.augment=false",
    "--batch-size",
    "16",
    "--data",
    "synthetic",
    "--set",
    "data.examples=50",
    "--set",
    "mask_update.frequency_steps=2",
    "--steps",
    "4",
    "--set",
    "train.eval_interval=3",
];

#[test]
fn synchronised_batch_norm_matches_one_device() {
    let runs = Runs::new();
    let train = |run: &str, more: &[&str]| {
        let out = runs.path(run);
        let summary = json(&[&["train", "--out", out.to_str().unwrap()], WIDE, more].concat());
        let iterations = summary["steps"].as_u64().unwrap();
        (runs.tensors(run, iterations), summary["eval"].clone())
    };
    let (whole, scores) = train("1", &[]);
    for n in ["2", "4", "8"] {
        let (shared, shared_scores) = train(n, &["--replicas", n, "--sync-bn"]);
        assert_close(n, &whole, &shared);
        assert_eq!(scores["top1"], shared_scores["top1"], "{n}");
    }
    // Without, each replica normalises by its own part.
    let own = train("own", &["--replicas", "2"]).0;
    let mean = |of: &BTreeMap<String, Literal>| -> Vec<f32> {
        let name = of.keys().find(|name| name.ends_with("batch_normalization/moving_mean"));
        of[name.unwrap()].to_vec().unwrap()
    };
    assert_ne!(mean(&whole), mean(&own));
}

/// One launch, by hand, of replicas that each have their own indices and number.
struct Launched {
    state: Vec<BTreeMap<String, Literal>>,
    cross_entropy: Vec<f32>,
}

fn plan(args: &[(&str, toml::Value)]) -> Plan {
    let mut layers = Layers::preset("cifar10-rigl").unwrap();
    for (key, value) in args {
        let path: Vec<&str> = key.split('.').collect();
        layers = layers.set("test", &path, value.clone()).unwrap();
    }
    layers.plan().unwrap()
}

/// `batches` are each replica's, `identities` the number that each is given.
fn launch(plan: &Plan, batches: &[Vec<i32>], identities: &[usize]) -> Launched {
    let device = Device::open_replicas(EngineKind::Pjrt, DeviceKind::Cpu, None, plan.replicas()).unwrap();
    let model = plan.model();
    let dims = model.input_dims();
    let spec = plan.run.example_spec(&dims, model.classes());
    let data = plan.run.data.set;
    let Examples::Whole(data) = data.open("", Split::Train, &spec).unwrap() else {
        panic!("made up");
    };
    let trainer = Trainer { plan, model };
    let (computation, aliases) = trainer.launch(data.len()).unwrap();
    let program = device.replicated(&computation, &aliases).unwrap();
    let specs = state::specs(plan);
    let start = state::initial(plan).unwrap();
    let mut counters = Counters::start(plan.method.timing, &plan.schedule);
    let row: Vec<f32> = schedule(plan, &mut counters, 1)
        .iter()
        .flat_map(|(_, row)| row.values())
        .collect();
    let inputs = |replica: usize| -> Vec<Arg<'static>> {
        let state = specs.iter().map(|(name, _)| start[name].clone());
        let own = [
            data.images.clone(),
            data.labels.clone(),
            Literal::new(&[1, batches[replica].len()], &batches[replica]),
            Literal::new(&[1, Row::columns(plan)], &row),
            Literal::scalar(1i32),
        ];
        let draws = plan.draws().then(|| Literal::scalar(0i64));
        let identity = identity(plan, identities[replica]);
        let all = state.chain(own).chain(draws).chain(identity);
        all.map(|l| Arg::Donate(device.upload(&l, replica).unwrap())).collect()
    };
    let outputs = program
        .execute_replicated((0..plan.replicas()).map(inputs).collect())
        .unwrap();
    let read = |outputs: &Vec<Buffer>| outputs.iter().map(|b| b.to_literal().unwrap()).collect::<Vec<_>>();
    let outputs: Vec<Vec<Literal>> = outputs.iter().map(read).collect();
    let named = |of: &Vec<Literal>| specs.iter().map(|(name, _)| name.clone()).zip(of.clone()).collect();
    assert_eq!(
        outputs[0].len(),
        specs.len() + LAUNCH_OUTPUTS.len() + usize::from(plan.replicas() > 1)
    );
    Launched {
        state: outputs.iter().map(named).collect(),
        cross_entropy: outputs.iter().map(|of| of[specs.len()].item().unwrap()).collect(),
    }
}

fn small(replicas: i64, batch: i64, dropout: f64) -> Plan {
    let model: toml::Table = [
        ("name".to_string(), "wrn-10-1".into()),
        ("image_size".to_string(), 16.into()),
        ("dropout".to_string(), dropout.into()),
    ]
    .into_iter()
    .collect();
    plan(&[
        ("model", model.into()),
        ("data.name", "synthetic".into()),
        ("data.examples", 16.into()),
        ("data.augment", false.into()),
        ("train.steps_per_launch", 1.into()),
        ("train.batch_size", batch.into()),
        ("device.replicas", replicas.into()),
    ])
}

/// Reference 3.1: statistics are per replica. The first replica's are the run's, and all have them after a launch.
#[test]
fn moving_statistics_are_of_the_first_replica() {
    let indices: Vec<i32> = (0..8).collect();
    let parts: Vec<_> = (0..2).map(|replica| part(&indices, 8, 2, replica)).collect();
    let two = launch(&small(2, 8, 0.0), &parts, &[0, 1]);
    let first = launch(&small(1, 4, 0.0), &parts[..1], &[0]);
    let statistics = |of: &BTreeMap<String, Literal>| {
        let moving = of.iter().filter(|(name, _)| name.contains("/moving_"));
        moving
            .map(|(name, l)| (name.clone(), l.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_close("first", &statistics(&first.state[0]), &statistics(&two.state[0]));
    assert!(two.state[0] == two.state[1]);
    assert_eq!(two.cross_entropy[0], two.cross_entropy[1]);
}

/// Two replicas that see the same examples drop other activations; with the same number they drop the same.
#[test]
fn replicas_draw_different_random_numbers() {
    let indices: Vec<i32> = (0..4).collect();
    let loss = |dropout, identities: [usize; 2]| {
        launch(&small(2, 8, dropout), &[indices.clone(), indices.clone()], &identities).cross_entropy[0]
    };
    let [own, again, first, second] = [[0, 1], [0, 1], [0, 0], [1, 1]].map(|identities| loss(0.3, identities));
    assert_eq!(own, again);
    assert!(first != second, "{first}");
    assert!((own - (first + second) / 2.0).abs() < 1e-5, "{own}, {first}, {second}");
    assert_eq!(loss(0.0, [0, 1]), loss(0.0, [1, 1]));
}

#[test]
fn rejects_impossible_numbers_of_replicas() {
    for (replicas, batch, expected) in [
        (
            "3",
            "100",
            "--replicas: device.replicas is 3, expected a number that divides train.batch_size, which is 100",
        ),
        (
            "0",
            "100",
            "--replicas: device.replicas is 0, expected a whole number from 1 to ",
        ),
        (
            "64",
            "32",
            "--replicas: device.replicas is 64, expected a number that divides train.batch_size, which is 32",
        ),
    ] {
        let message = error(&["train", "--replicas", replicas, "--batch-size", batch], 2);
        assert!(message.contains(expected), "{message}");
    }
}

/// Scope and bytes of every sum over replicas, called computations included.
fn all_reduced(computation: &Computation) -> Vec<(String, usize)> {
    let of = |node: &Node| {
        let own = (node.op.name() == "all-reduce").then(|| (node.scope.clone(), node.shape().bytes()));
        let called = node.op.called().into_iter().flat_map(|c| all_reduced(c));
        own.into_iter().chain(called).collect::<Vec<_>>()
    };
    computation.nodes.iter().flat_map(of).collect()
}

/// Each gradient is reduced once, for growth and step. Besides gradients only the loss and two hashes are, and once a
/// launch the count of hits and the moving statistics.
#[test]
fn all_reduced_bytes_match_the_plan() {
    all_reduced_as_planned("f32", 4);
    all_reduced_as_planned("bf16", 2);
}

fn all_reduced_as_planned(precision: &str, bytes_each: usize) {
    let plan = Layers::preset("resnet50-rigl").unwrap();
    let plan = plan.set("test", &["device", "replicas"], 32).unwrap();
    let plan = plan.set("test", &["train", "gradient_precision"], precision).unwrap();
    let plan = plan.plan().unwrap();
    let parameters: usize = plan.params.iter().map(|p| p.dims.iter().product::<usize>()).sum();
    assert_eq!(plan.all_reduced_bytes(), bytes_each * parameters);
    let model = plan.model();
    let trainer = Trainer { plan: &plan, model };
    let sums = all_reduced(&trainer.launch(64).unwrap().0);
    let bytes = |part: &str| -> usize {
        let within = sums.iter().filter(|(scope, _)| scope.split('/').any(|at| at == part));
        within.map(|(_, bytes)| bytes).sum()
    };
    let statistics: usize = plan.statistics.iter().map(|s| 4 * s.dims[0]).sum();
    assert_eq!(bytes("replicas"), plan.all_reduced_bytes());
    assert_eq!(bytes("agreement"), 8);
    assert_eq!(bytes("statistics"), statistics);
    let all: usize = sums.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(all, plan.all_reduced_bytes() + statistics + 8 + 4 + 4);
}

#[test]
fn plan_reports_all_reduced_bytes() {
    let shared = json(&["plan", "resnet50-rigl", "--replicas", "32", "--batch-size", "4096"]);
    let parameters = shared["parameters"].as_u64().unwrap();
    let of = &shared["replicas"];
    assert_eq!((&of["replicas"], &of["batch_per_replica"]), (&32.into(), &128.into()));
    assert_eq!(of["all_reduced_bytes"], 4 * parameters);
    assert_eq!(of["sent_bytes"], 2 * 4 * parameters * 31 / 32);
    assert_eq!(of["processes"], 1);
    assert!(json(&["plan"]).get("replicas").is_none());
    // One each, unless more are asked for.
    let processes = json(&["plan", "--num-processes", "4"]);
    let of = &processes["replicas"];
    assert_eq!((&of["replicas"], &of["processes"]), (&4.into(), &4.into()));
}
