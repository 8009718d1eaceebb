//! The topology journal of a run, and `rigl-xla topology`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::runs::{Runs, saved};
use common::{failed, json, rigl_xla};
use rigl_xla::checkpoint;
use rigl_xla::topology::{FILE, Header, Journal, Kind, Layer, Writer};
use serde_json::Value;

/// Flags of a run with 50 iterations that keeps every checkpoint.
const KEPT: &[&str] = &[
    "--steps",
    "50",
    "--set",
    "train.keep_checkpoints=20",
    "--set",
    "train.checkpoint_interval=5",
];

fn topology(runs: &Runs, run: &str, args: &[&str]) -> Value {
    let path = runs.path(run);
    json(&[&["topology", path.to_str().unwrap()], args].concat())
}

#[test]
fn the_journal_has_the_masks_of_every_checkpoint() {
    let runs = Runs::new();
    for method in ["rigl", "set", "snfs", "snip", "prune", "dnw", "static", "rigl-itop"] {
        let more = [&["--method", method, "--allow-incomplete-schedule"], KEPT].concat();
        let done = runs.train(method, &more);
        let checked = topology(&runs, method, &["--check"]);
        let expected: Vec<u64> = saved(&runs.path(method));
        assert!(expected.len() >= 10, "{method}: {expected:?}");
        assert_eq!(
            checked,
            serde_json::json!({ "equal": expected, "different": [] }),
            "{method}"
        );
        let report = topology(&runs, method, &["--updates"]);
        if method != "dnw" {
            // DNW updates in every iteration and is recorded once per launch.
            assert_eq!(
                report["updates"].as_array().unwrap().len() as u64 - 1,
                done["mask_updates"].as_u64().unwrap(),
                "{method}"
            );
        }
        assert_eq!(report["total"]["connections"], done["nonzeros"], "{method}");
        if !done["explored"].is_null() {
            assert_eq!(report["total"]["ever_active"], done["explored"], "{method}");
        }
    }
}

#[test]
fn every_update_of_a_launch_is_recorded_and_numbers_stay() {
    let runs = Runs::new();
    let often = [
        "--steps",
        "50",
        "--steps-per-launch",
        "20",
        "--set",
        "mask_update.frequency_steps=3",
    ];
    let done = runs.train("with", &often);
    runs.train("without", &[&often[..], &["--no-topology"]].concat());
    assert!(!runs.path("without").join(FILE).exists());
    assert_eq!(runs.bytes("with", 50), runs.bytes("without", 50));
    let updates = topology(&runs, "with", &["--updates"]);
    let updates = updates["updates"].as_array().unwrap();
    assert_eq!(updates.len() as u64 - 1, done["mask_updates"].as_u64().unwrap());
    assert!(
        updates[1..]
            .iter()
            .all(|u| u["kind"] == "update" && u["dropped"] == u["grown"]),
        "{updates:?}"
    );
    let steps: Vec<_> = updates[1..]
        .iter()
        .map(|u| u["global_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (0..=36).step_by(3).collect::<Vec<_>>());
}

#[test]
fn a_resumed_run_has_the_journal_of_an_undisturbed_one() {
    let runs = Runs::new();
    runs.train("whole", &["--steps", "50"]);
    let whole = fs::read(runs.path("whole").join(FILE)).unwrap();
    let journal = runs.path("broken").join(FILE);
    let resume = || runs.command("broken", &["--steps", "50", "--resume"]).output().unwrap();
    // Later records, as a killed run leaves them, and a cut one.
    for rest in [&whole[whole.len() - 100..], &whole[..7], b"\x05\0\0\0\0\0\0\0"] {
        fs::remove_dir_all(runs.path("broken")).ok();
        runs.train("broken", &["--steps", "25"]);
        let mut bytes = fs::read(&journal).unwrap();
        assert!(whole.starts_with(&bytes), "deterministic");
        bytes.extend(rest);
        fs::write(&journal, &bytes).unwrap();
        assert!(resume().status.success());
        assert_eq!(fs::read(&journal).unwrap(), whole);
    }
}

#[test]
fn resuming_bridges_what_a_journal_lost() {
    let runs = Runs::new();
    let note = |damage: &dyn Fn(&Path)| {
        fs::remove_dir_all(runs.path("run")).ok();
        runs.train("run", &["--steps", "25"]);
        damage(&runs.path("run").join(FILE));
        let output = runs.command("run", &["--steps", "50", "--resume"]).output().unwrap();
        assert!(output.status.success());
        assert_eq!(topology(&runs, "run", &["--check"])["different"], serde_json::json!([]));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let flip = |path: &Path, at: fn(usize) -> usize| {
        let mut bytes = fs::read(path).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let late = note(&|path| flip(path, |n| n - 30));
    assert!(
        late.contains("lacks the updates after iteration 12: one record has their sum"),
        "{late}"
    );
    let header = note(&|path| flip(path, |_| 20));
    assert!(header.contains("begins anew at iteration 25"), "{header}");
    let gone = note(&|path| fs::remove_file(path).unwrap());
    assert!(gone.contains("begins at iteration 25"), "{gone}");
    let empty = note(&|path| fs::write(path, "").unwrap());
    assert!(empty.contains("begins anew"), "{empty}");
}

#[test]
fn compares_iterations_and_runs() {
    let runs = Runs::new();
    for (run, seed) in [("a", "1"), ("b", "2")] {
        runs.train(run, &["--steps", "50", "--seed", seed]);
    }
    let same = topology(&runs, "a", &["--at", "12", "--from", "12"]);
    assert_eq!(same["total"]["shared"], same["total"]["first"]);
    let layer = |report: &Value| report["layers"][0].clone();
    let (start, other) = (topology(&runs, "a", &["--from", "0"]), {
        let with = runs.path("b");
        topology(&runs, "a", &["--with", with.to_str().unwrap(), "--at", "0"])
    });
    let of = |report: &Value, key: &str| layer(report)[key].as_f64().unwrap();
    // Counted again from the checkpoints' masks.
    assert!(of(&start, "shared") > 3.0 * of(&start, "expected"));
    assert!(of(&start, "shared") < of(&start, "first"));
    // First masks of two seeds are drawn independently: 4704 of 235200 weights share 94 connections, plus or minus 10.
    assert!((of(&other, "expected") - 4704.0 * 4704.0 / 235_200.0).abs() < 1e-6);
    assert!((of(&other, "shared") - of(&other, "expected")).abs() < 60.0, "{other}");
    runs.train(
        "wide",
        &[
            "--steps",
            "5",
            "--set",
            "model.hidden=[30,20]",
            "--allow-incomplete-schedule",
        ],
    );
    let [a, wide] = ["a", "wide"].map(|run| runs.path(run).to_str().unwrap().to_owned());
    let message = failed(&["topology", &a, "--with", &wide], 1);
    assert!(
        message.contains("layers differ") && message.contains("layer1 [784, 30]"),
        "{message}"
    );
}

#[test]
fn writes_masks_and_pictures() {
    let runs = Runs::new();
    runs.train("run", KEPT);
    let [run, masks, pictures] =
        ["run", "masks.safetensors", "pictures"].map(|name| runs.path(name).to_str().unwrap().to_owned());
    json(&[
        "topology",
        &run,
        "--at",
        "30",
        "--masks",
        &masks,
        "--pictures",
        &pictures,
    ]);
    let (found, expected) = (
        checkpoint::load(masks.as_ref()).unwrap().tensors,
        runs.tensors("run", 30),
    );
    assert_eq!(found.len(), 3);
    found
        .iter()
        .for_each(|(name, mask)| assert_eq!(*mask, expected[name], "{name}"));
    let picture = |name: &str| {
        let decoder = png::Decoder::new(
            fs::File::open(Path::new(&pictures).join(name))
                .map(std::io::BufReader::new)
                .unwrap(),
        );
        let mut reader = decoder.read_info().unwrap();
        let frames = reader.info().animation_control.map_or(1, |control| control.num_frames);
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (reader.info().width, reader.info().height, frames, pixels)
    };
    let (width, height, frames, pixels) = picture("inputs.png");
    assert_eq!((width, height, frames), (2 * 280 + 8, 280, 1));
    // The pixel with most connections after 30 iterations, at the right, is the darkest unless one of the first is.
    let mask = expected["layer1/mask"].to_bools().unwrap();
    let fan: Vec<usize> = mask.chunks(300).map(|row| row.iter().filter(|&&m| m).count()).collect();
    let brightness = |at: usize| {
        let (y, x) = (at / 28 * 10 + 5, 288 + at % 28 * 10 + 5);
        pixels[(y * width as usize + x) * 3] as usize
    };
    let mut order: Vec<usize> = (0..784).collect();
    order.sort_by_key(|&at| fan[at]);
    assert!(
        order.windows(2).all(|pair| brightness(pair[0]) >= brightness(pair[1])),
        "darker with more connections"
    );
    let animated = picture("inputs-animated.png");
    assert_eq!((animated.0, animated.1, animated.2), (280, 280, 4));
    let histogram = fs::read_to_string(Path::new(&pictures).join("fan-in-layer1.svg")).unwrap();
    assert!(
        histogram.contains("connections into a unit") && histogram.contains("first masks"),
        "{histogram}"
    );
}

#[test]
fn numpy_reads_the_journal_as_documented() {
    let runs = Runs::new();
    runs.train("run", KEPT);
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/formats.md");
    let journal = runs.path("run").join(FILE);
    let mut args = vec![docs.to_owned(), journal.to_str().unwrap().to_owned()];
    args.extend(
        saved(&runs.path("run"))
            .iter()
            .map(|&at| runs.checkpoint_path("run", at).to_str().unwrap().to_owned()),
    );
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let printed = common::python::run(&["numpy==2.2.6", "safetensors==0.5.3"], "topology.py", &args);
    assert_eq!(
        printed,
        format!("6 records, {} checkpoints, 3 layers\n", args.len() - 2)
    );
}

/// `rigl_xla.Run`: metrics, masks and weights at any iteration, topology, predictions.
#[test]
fn python_reads_a_run_folder() {
    let runs = Runs::new();
    runs.train("run", KEPT);
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
    let (folder, report) = (runs.path("run"), topology(&runs, "run", &[]).to_string());
    let args = [
        package,
        folder.to_str().unwrap(),
        env!("CARGO_BIN_EXE_rigl-xla"),
        &report,
    ];
    let packages = ["numpy==2.2.6", "pandas==2.2.3", "tomli==2.2.1"];
    assert_eq!(common::python::run(&packages, "run_folder.py", &args), "read\n");
}

#[test]
fn the_notebook_about_runs_executes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (notebook, package) = (root.join("examples/run.ipynb"), root.join("python"));
    let program = Path::new(env!("CARGO_BIN_EXE_rigl-xla")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let paths = [&notebook, &package, program, folder.path()];
    let args = paths.map(|path| path.to_str().unwrap());
    let packages = [
        "nbclient==0.10.2",
        "nbformat==5.10.4",
        "ipykernel==6.29.5",
        "numpy==2.2.6",
        "pandas==2.2.3",
        "matplotlib==3.10.1",
        "tomli==2.2.1",
    ];
    assert_eq!(common::python::run(&packages, "notebook.py", &args), "executed\n");
}

#[test]
fn rejects_what_is_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let run = dir.path().to_str().unwrap();
    let message = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        failed(&["topology", run], 1)
    };
    assert!(failed(&["topology", run], 1).contains("no topology journal"));
    assert!(message(b"").contains("an empty file"));
    assert!(message(&[7; 100]).contains("not a TFRecord file"));
    let record = |data: &[u8]| {
        let mut out = vec![];
        rigl_xla::data::tfrecord::Writer::new(&mut out).write(data).unwrap();
        out
    };
    assert!(message(&record(b"{}")).contains("no header"));
    let header = |format: &str, version: u32, shape: &str| {
        record(format!(r#"{{"format":"{format}","version":{version},"input":[],"layers":[{{"name":"a\u001b","shape":{shape}}}]}}"#).as_bytes())
    };
    let name = "rigl-xla topology journal";
    assert!(message(&header("x", 1, "[2]")).contains("format 'x'"));
    assert!(message(&header(name, 2, "[2]")).contains("a newer program"));
    assert!(message(&header(name, 1, "[4294967296, 4294967296]")).contains("more than 1073741824 weights"));
    let with = |changes: &[u8], kind: u8| {
        let fixed = [&[0u8; 16][..], &[kind]].concat();
        [header(name, 1, "[2, 2]"), record(&[&fixed, changes].concat())].concat()
    };
    assert!(message(&header(name, 1, "[2, 2]")).contains("no masks"));
    assert!(message(&with(&[0, 1, 4], 0)).contains("beyond its weights"));
    assert!(message(&with(&[0, 255, 255, 255, 255, 127], 0)).contains("beyond its weights"));
    assert!(message(&with(&[1, 0, 3], 0)).contains("drops weight 3, which is no connection"));
    assert!(message(&with(&[0, 1, 3, 9], 0)).contains("1 bytes after its last layer"));
    assert!(message(&with(&[0, 0], 1)).contains("expected the first masks"));
    assert!(message(&with(&[0, 0], 9)).contains("kind 9"));
    assert!(!message(&with(&[1, 0, 3], 0)).contains('\u{1b}'));
    // Fewer bytes than a record: what was written before counts.
    let cut = [with(&[0, 1, 3], 0), vec![9; 5]].concat();
    fs::write(&path, cut).unwrap();
    assert_eq!(json(&["topology", run])["cut"], true);
    let early = Writer::create(
        &path,
        &Header::new(
            vec![],
            vec![Layer {
                name: "a".into(),
                shape: vec![4],
            }],
        ),
        10,
        10,
        vec![vec![1, 0, 0, 1]],
    );
    early
        .unwrap()
        .append(20, 20, Kind::Update, vec![vec![0, 1, 0, 1]])
        .unwrap();
    assert!(failed(&["topology", run, "--at", "9"], 2).contains("expected at least 10"));
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(journal.replay(Some(15), |_, _| {}).unwrap(), 10);
    assert_eq!(journal.masks(), [[1, 0, 0, 1]]);
    assert_eq!(journal.replay(None, |_, _| {}).unwrap(), 20);
    assert_eq!(journal.masks(), [[0, 1, 0, 1]]);
}

#[test]
fn a_run_without_masks_has_no_journal() {
    let runs = Runs::new();
    runs.train("dense", &["--method", "dense", "--sparsity", "0", "--steps", "5"]);
    assert!(!runs.path("dense").join(FILE).exists());
    let output = rigl_xla(&["topology", runs.path("dense").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

/// The journal of ResNet-50 takes less than two bytes for a connection that moves, over updates early and late in a run.
#[test]
fn resnet50_takes_two_bytes_a_moved_connection() {
    let layers = models::Options::new("resnet50", true)
        .build()
        .unwrap()
        .declaration()
        .params;
    let masked = layers.iter().filter(|param| param.mask.is_some());
    let layers: Vec<sparse::Layer> = masked.map(|p| sparse::Layer::new(&p.name, p.dims.clone())).collect();
    let options = sparse::BudgetOptions::new(sparse::Distribution::Erk, 0.9);
    let budgets = sparse::budgets(&layers, &options).unwrap();
    let masks = sparse::initial_masks(&budgets, 1, sparse::MaskSeedCompat::Native).unwrap();
    let mut masks: Vec<Vec<u8>> = masks
        .iter()
        .map(|mask| mask.iter().map(|&m| u8::from(m)).collect())
        .collect();
    let named = layers.iter().map(|layer| Layer {
        name: layer.name.clone(),
        shape: layer.dims.clone(),
    });
    let header = Header::new(vec![224, 224, 3], named.collect());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let mut writer = Writer::create(&path, &header, 0, 0, masks.clone()).unwrap();
    let (mut all_moved, mut bytes) = (0, 0);
    for (at, one_in) in [(1, 3), (2, 10), (3, 100)] {
        let before = fs::metadata(&path).unwrap().len();
        for mask in &mut masks {
            // Every `one_in`-th connection moves to the next free place.
            let ones: Vec<usize> = (0..mask.len()).filter(|&i| mask[i] == 1).collect();
            for &from in ones.iter().skip(at).step_by(one_in) {
                if let Some(to) = (from..mask.len()).find(|&i| mask[i] == 0) {
                    (mask[from], mask[to]) = (0, 1);
                }
            }
        }
        let record = writer
            .append(at as u64, at as i64, Kind::Update, masks.clone())
            .unwrap();
        let moved: usize = record
            .layers
            .iter()
            .map(|changes| changes.dropped.len() + changes.grown.len())
            .sum();
        assert!(moved > 4_000_000 / one_in / 3, "{moved}");
        (all_moved, bytes) = (all_moved + moved, bytes + fs::metadata(&path).unwrap().len() - before);
    }
    assert!(bytes as f64 <= 1.5 * all_moved as f64, "{bytes} bytes for {all_moved}");
}
