//! Failures of training, evaluation and prediction: one clear error each, and saved files stay valid.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::runs::{Runs, saved, small_mnist, start_until};
use hlo::Literal;
use rigl_xla::checkpoint::{self, Metadata};

/// Standard error of a failed command, with exactly one error and no panic.
fn complaint(output: Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    assert_eq!(
        message.lines().filter(|line| line.starts_with("error: ")).count(),
        1,
        "{message}"
    );
    assert!(!message.contains("panicked"), "{message}");
    message
}

impl Runs {
    fn fails(&self, run: &str, args: &[&str], code: i32) -> String {
        complaint(self.command(run, args).output().unwrap(), code)
    }
}

/// Every file of a folder.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect()
}

#[test]
fn existing_run_is_neither_mixed_nor_lost() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "10"]);
    let before = files(&runs.path("run"));
    let message = runs.fails("run", &["--steps", "20"], 1);
    assert!(
        message.contains("holds another run") && message.contains("--resume") && message.contains("--overwrite"),
        "{message}"
    );
    for (args, differences) in [
        (&["--seed", "1"][..], vec!["train.seed (it has 0, asked for 1)"]),
        (
            &["--method", "set", "--batch-size", "10"],
            vec![
                "method.name (it has \"rigl\", asked for \"set\")",
                "train.batch_size (it has 20, asked for 10)",
            ],
        ),
        (
            &["--sparsity", "0.9"],
            vec!["sparsity.target (it has 0.98, asked for 0.9)"],
        ),
    ] {
        let message = runs.fails("run", &[args, &["--resume", "--steps", "20"]].concat(), 1);
        assert!(differences.iter().all(|d| message.contains(d)), "{message}");
        let error = message.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert_eq!(error.contains("; "), differences.len() > 1, "{message}");
    }
    let message = runs.fails("run", &["--resume", "--steps", "5"], 1);
    assert!(
        message.contains("done 10 iterations, expected at most the 5"),
        "{message}"
    );
    assert_eq!(files(&runs.path("run")), before);
    let message = runs.fails("none", &["--resume"], 1);
    assert!(
        message.contains("nothing to resume") && !runs.path("none").exists(),
        "{message}"
    );
    // An old run is overwritten only once the new one can start.
    let message = runs.fails("run", &["--overwrite", "--steps", "7", "--batch-size", "1001"], 1);
    assert!(
        message.contains("1001") && files(&runs.path("run")) == before,
        "{message}"
    );
    runs.train("run", &["--overwrite", "--steps", "7", "--seed", "1"]);
    assert_eq!(saved(&runs.path("run")), [7]);
}

#[test]
fn rejects_a_second_process_in_a_folder() {
    let runs = Runs::new();
    let command = runs.command("run", &["--steps", "1000000"]);
    let mut child = start_until(command, || !saved(&runs.path("run")).is_empty());
    let message = runs.fails("run", &["--resume"], 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        message.contains("another process is using this run folder"),
        "{message}"
    );
}

/// Damaged forms of a checkpoint: name, bytes and expected error.
fn damages(good: &Path) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bytes = fs::read(good).unwrap();
    let rewritten = |change: &dyn Fn(&mut BTreeMap<String, Literal>, &mut Metadata)| {
        let loaded = checkpoint::load(good).unwrap();
        let (mut tensors, mut metadata) = (loaded.tensors, loaded.metadata.unwrap());
        change(&mut tensors, &mut metadata);
        let path = good.with_file_name("changed");
        checkpoint::save(&path, &tensors, &metadata).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        bytes
    };
    vec![
        ("truncated", bytes[..bytes.len() - 1000].to_vec(), "damaged: "),
        (
            "empty",
            vec![],
            "an empty file, expected a file in safetensors form: copy or download it again",
        ),
        (
            "text",
            b"these are no tensors at all".to_vec(),
            "damaged or not a safetensors file",
        ),
        (
            "missing",
            rewritten(&|t, _| drop(t.remove("layer2/weights"))),
            "'layer2/weights' is missing, expected f32[300,100]",
        ),
        (
            "maskless",
            rewritten(&|t, _| drop(t.remove("layer3/mask"))),
            "'layer3/mask' is missing, expected pred[100,10]",
        ),
        (
            "reshaped",
            rewritten(&|t, _| drop(t.insert("layer3/biases".into(), Literal::new(&[11], &[0f32; 11])))),
            "'layer3/biases' is f32[11], expected f32[10]",
        ),
        (
            "model",
            rewritten(&|_, m| m.model = "lenet-5".into()),
            "model 'lenet-5', expected 'mnist-fc'",
        ),
    ]
}

#[test]
fn every_reader_rejects_bad_checkpoints() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "10"]);
    let path = runs.checkpoint_path("run", 10);
    let images = runs.path("images.safetensors");
    let tensors = [("images".to_string(), Literal::new(&[1, 784], &[7u8; 784]))].into();
    checkpoint::save(&images, &tensors, &Metadata::new("", 0, "")).unwrap();
    let (file, input, output) = (path.to_str().unwrap(), images.to_str().unwrap(), runs.path("out"));
    let program = |args: &[&str]| complaint(common::rigl_xla(args), 1);
    for (damage, bytes, expected) in damages(&path) {
        fs::write(&path, bytes).unwrap();
        let before = files(&runs.path("run"));
        let message = [
            program(&["eval", "--checkpoint", file, "--data", small_mnist()]),
            program(&[
                "predict",
                "--checkpoint",
                file,
                "--input",
                input,
                "--output",
                output.to_str().unwrap(),
            ]),
            runs.fails("run", &["--resume", "--steps", "20"], 1),
        ];
        for message in message {
            assert!(
                message.contains(file) && message.contains(expected),
                "{damage}: {message}"
            );
        }
        assert!(!output.exists());
        assert_eq!(files(&runs.path("run")), before, "{damage}");
    }
    let message = program(&["eval", "--checkpoint", "no/such.safetensors", "--data", small_mnist()]);
    assert!(message.contains("no/such.safetensors"), "{message}");
}

#[test]
fn reports_a_damaged_newest_checkpoint() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "60"]);
    let newest = runs.checkpoint_path("run", 60);
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let message = runs.fails("run", &["--resume"], 1);
    assert!(
        message.contains("ckpt-60.safetensors: damaged") && message.contains("ckpt-50.safetensors"),
        "{message}"
    );
    // Without the damaged file, the run resumes from the checkpoint before it.
    fs::remove_file(&newest).unwrap();
    runs.train("run", &["--resume", "--steps", "60"]);
    assert!(fs::read(&newest).unwrap() == bytes);
}

/// Another program's file has the arrays but not where its run stood.
#[test]
fn rejects_resuming_from_a_foreign_checkpoint() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "10"]);
    let path = runs.checkpoint_path("run", 10);
    let bytes = fs::read(&path).unwrap();
    let ours = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    safetensors::serialize_to_file(ours.tensors(), None, &path).unwrap();
    let message = runs.fails("run", &["--steps", "20", "--resume"], 1);
    assert!(
        message.contains("ckpt-10.safetensors: does not say after how many iterations"),
        "{message}"
    );
    common::json(&["eval", "--checkpoint", path.to_str().unwrap(), "--data", small_mnist()]);
}

#[test]
fn predict_rejects_files_that_are_not_images() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "10"]);
    let [input, output] = ["in", "out"].map(|name| runs.path(name));
    let (run, output) = (runs.path("run"), output.to_str().unwrap());
    let one = |name: &str, array: Literal| vec![(name.to_string(), array)];
    let good = || Literal::new(&[1, 784], &[0u8; 784]);
    let two = [one("a", good()), one("b", good())].concat();
    for (tensors, expected) in [
        (
            one("images", Literal::new(&[2, 100], &[0u8; 200])),
            "u8[2,100], expected",
        ),
        (one("images", Literal::new(&[784], &[0i32; 784])), "s32[784], expected"),
        (one("images", Literal::scalar(1f32)), "f32[], expected"),
        (two, "holds 2 tensors, 'a', 'b', expected one, or a tensor 'images'"),
    ] {
        checkpoint::save(&input, &tensors.into_iter().collect(), &Metadata::new("", 0, "")).unwrap();
        let args = [
            run.to_str().unwrap(),
            "--input",
            input.to_str().unwrap(),
            "--output",
            output,
        ];
        let message = complaint(common::rigl_xla(&[&["predict", "--checkpoint"], &args[..]].concat()), 1);
        assert!(message.contains(expected) && !Path::new(output).exists(), "{message}");
    }
}

#[test]
fn bad_data_leaves_no_run_folder() {
    let bad = tempfile::tempdir().unwrap();
    let runs = Runs::new();
    let whole: BTreeMap<String, Vec<u8>> = files(small_mnist().as_ref());
    let (images, labels, test) = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-labels-idx1-ubyte",
    );
    type Edit = fn(&mut Vec<u8>);
    let cases: [(&str, Edit, &str); 5] = [
        (
            images,
            |b| b.truncate(784_000),
            "truncated: 784000 bytes, expected 784016",
        ),
        (images, |b| b[3] = 1, "IDX array of rank 1, expected rank 3"),
        (
            labels,
            |b| b[0] = 1,
            "not an IDX file: it starts with [01, 00], expected [00, 00]",
        ),
        (
            labels,
            |b| b[8 + 500] = 10,
            "label 10 at index 500, expected less than 10",
        ),
        (test, |b| b[8] = 255, "label 255 at index 0, expected less than 10"),
    ];
    for (name, edit, expected) in cases {
        for (file, bytes) in &whole {
            let mut bytes = bytes.clone();
            if file == name {
                edit(&mut bytes);
            }
            fs::write(bad.path().join(file), bytes).unwrap();
        }
        let args = ["train", "--json", "--steps", "10", "--data"].map(String::from);
        let out = runs.path("run");
        let train = |data: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
            command.args(&args).arg(data).arg("--out").arg(&out);
            complaint(command.output().unwrap(), 1)
        };
        let message = train(bad.path());
        assert!(message.contains(&format!("{name}: {expected}")), "{message}");
        assert!(!out.exists(), "{expected}");
    }
    let message = runs.fails("large", &["--batch-size", "1001"], 1);
    assert!(message.contains("1001") && message.contains("1000"), "{message}");
    // A folder that failed so holds no run: a good one needs no flag.
    runs.train("run", &["--steps", "10"]);
}

/// Whether every number of a checkpoint is finite.
fn is_finite(path: &Path) -> bool {
    let tensors = checkpoint::load(path).unwrap().tensors;
    tensors
        .values()
        .all(|array| array.to_f64_vec().iter().all(|v| v.is_finite()))
}

#[test]
fn nan_loss_stops_the_run_and_is_not_saved() {
    let runs = Runs::new();
    // From gradient step 31 on, the learning rate is 2e29.
    let explode = [
        "--set",
        "learning_rate.boundaries=[30]",
        "--set",
        "learning_rate.factors=[1e30]",
        "--steps",
        "200",
    ];
    let message = runs.fails("run", &explode, 1);
    // Counted from 0, mask updates at iterations 0, 11, 22 and 33 replace gradient steps. Step 31 is iteration 35, and the loss of the
    // next iteration is the first bad one.
    assert!(
        message.contains("the loss is NaN at iteration 37 (gradient step 32); "),
        "{message}"
    );
    assert!(
        message.contains("the last good checkpoint is ") && message.contains("ckpt-25.safetensors"),
        "{message}"
    );
    assert_eq!(saved(&runs.path("run")), [25]);
    assert!(is_finite(&runs.checkpoint_path("run", 25)));
    let metrics = runs.metrics("run");
    assert!(
        metrics.iter().all(|r| r["iteration"].as_u64() <= Some(32)),
        "{metrics:?}"
    );
    // The last good checkpoint is loadable, and a run that is stopped in time ends well from it.
    let done = runs.train("run", &[&explode[..4], &["--steps", "30", "--resume"]].concat());
    assert_eq!(done["steps"], 30);
    // Saved after every launch, the newest checkpoint is still one of finite numbers.
    let often = [
        "--steps-per-launch",
        "1",
        "--set",
        "train.keep_checkpoints=100",
        "--set",
        "train.checkpoint_interval=1",
    ];
    let message = runs.fails("often", &[&explode[..], &often].concat(), 1);
    let path = runs.path("often");
    // If a launch ends at the bad step, the L2 term reveals it.
    assert!(
        message.contains("at iteration 36 (gradient step 31); ") && message.contains("ckpt-35.safetensors"),
        "{message}"
    );
    assert_eq!(saved(&path), (1..=35).collect::<Vec<_>>());
    assert!(is_finite(&runs.checkpoint_path("often", 35)));

    let message = runs.fails("at-once", &["--lr", "1e30"], 1);
    assert!(
        message.contains("at iteration 3 (gradient step 1); no checkpoint was saved before"),
        "{message}"
    );
    assert!(saved(&runs.path("at-once")).is_empty());
}

/// A limit on the size of files stops a save halfway, as a full disk does.
#[test]
#[cfg(unix)]
fn full_disk_keeps_the_previous_checkpoint() {
    let runs = Runs::new();
    runs.train("straight", &["--steps", "60"]);
    runs.train("run", &["--steps", "25"]);
    let before = runs.bytes("run", 25);
    let inner = runs.command("run", &["--steps", "60", "--resume"]);
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .unwrap();
    let message = complaint(output, 1);
    assert!(
        message.contains("ckpt-50.safetensors: not saved: File too large"),
        "{message}"
    );
    let left: Vec<String> = files(&runs.path("run")).into_keys().collect();
    let kept = [
        "config.toml",
        "events.out.tfevents.0.rigl-xla",
        "metrics.jsonl",
        "topology.journal",
    ];
    assert_eq!(left, [&[".lock", "ckpt-25.safetensors"], &kept[..]].concat());
    assert!(runs.bytes("run", 25) == before);
    // Once there is room, the run resumes and ends the same.
    runs.train("run", &["--steps", "60", "--resume"]);
    assert!(runs.bytes("run", 60) == runs.bytes("straight", 60));
    assert!(runs.bytes("run", 50) == runs.bytes("straight", 50));
}

#[test]
fn unknown_plugins_and_devices_are_usage_errors() {
    let runs = Runs::new();
    runs.train("good", &["--steps", "10"]);
    let good = runs.path("good");
    for (flag, value, code, expected) in [
        ("--plugin", "xla-cpu-pjtr", 2, "did you mean 'xla-cpu-pjrt'?"),
        ("--plugin", "./no/such.so", 1, "./no/such.so: no such file"),
        ("--device", "gpuu", 2, "did you mean"),
    ] {
        let eval = ["eval", "--checkpoint", good.to_str().unwrap(), "--data", small_mnist()];
        for message in [
            runs.fails("new", &["--steps", "10", flag, value], code),
            complaint(common::rigl_xla(&[&eval[..], &[flag, value]].concat()), code),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}

/// No plugin in the cache and no pip that works: one error with the command to run by hand.
#[test]
#[cfg(unix)]
fn failed_plugin_fetch_is_one_error() {
    use std::os::unix::fs::PermissionsExt;
    let runs = Runs::new();
    let [cache, bin] = ["cache", "bin"].map(|name| runs.path(name));
    fs::create_dir_all(&bin).unwrap();
    let train = |run: &str| {
        let mut command = runs.command(run, &["--steps", "10"]);
        command
            .env("RIGL_XLA_CACHE", &cache)
            .env("PATH", &bin)
            .env_remove("RIGL_XLA_PLUGIN");
        complaint(command.output().unwrap(), 1)
    };
    let message = train("pathless");
    assert!(
        message.contains("python3 is not installed, or not on PATH"),
        "{message}"
    );
    assert!(message.contains("sudo apt-get install python3-pip"), "{message}");
    let python = bin.join("python3");
    fs::write(&python, "#!/bin/sh\necho 'ERROR: no route to the index' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let message = train("offline");
    assert!(
        message.contains("pip failed: ERROR: no route to the index"),
        "{message}"
    );
    assert!(message.contains("python3 -m pip install xla-cpu-pjrt=="), "{message}");
    assert!(!runs.path("offline").join("config.toml").exists());
}

#[test]
fn closed_stderr_does_not_stop_a_run() {
    let runs = Runs::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = runs.command("run", &["--steps", "30"]).stderr(full).output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(saved(&runs.path("run")), [25, 30]);
}
