//! Bad flags and configurations: exit code 2, and a message with the flag or file, its value and the accepted values.
#![allow(clippy::unwrap_used)]

mod common;

use common::{error, json};

#[test]
fn suggests_the_nearest_name() {
    for (args, near) in [
        (
            &["plan", "mnist-rigle"][..],
            "PRESET: unknown preset 'mnist-rigle'; did you mean 'mnist-rigl'?",
        ),
        (&["train", "mnist-rgil"], "did you mean 'mnist-rigl'?"),
        (&["train", "--method", "rigel"], "--method: unknown method 'rigel'"),
        (&["plan", "--method", "rigel"], "did you mean 'rigl'?"),
        (&["plan", "--model", "mnist-cf"], "did you mean 'mnist-fc'?"),
        (&["plan", "--distribution", "erdos-renyi"], "did you mean 'erdos_renyi'"),
        (&["plan", "--data", "minst"], "did you mean 'mnist'?"),
        (
            &["data", "dump", "--data", "minst", "--split", "test", "--output", "x"],
            "unknown data set or folder 'minst'; did you mean 'mnist'?\n  known: mnist, ",
        ),
        (&["plan", "--device", "gpo"], "did you mean 'gpu'"),
        (
            &["plan", "--engine", "xal"],
            "--engine: unknown engine 'xal'; did you mean 'xla'?\n  known: pjrt, xla, interpreter\n",
        ),
        (&["plan", "--set", "mask_update.anneal=cosin"], "did you mean 'cosine'?"),
        (
            &["plan", "--rounding", "up"],
            "unknown rounding 'up'\n  known: floor, ceil\n",
        ),
        (
            &["plan", "--select", "heap"],
            "unknown value 'heap'\n  known: bits, sort, topk\n",
        ),
        (&["dump-hlo", "--optimiser", "x"], "--optimized"),
        (&["trian"], "'train'"),
    ] {
        let message = error(args, 2);
        assert!(message.contains(near), "{args:?}: {message}");
    }
}

#[test]
fn numbers_out_of_range_name_flag_value_and_range() {
    for sparsity in ["1", "1.5", "-0.1", "nan"] {
        let message = error(&["plan", "--sparsity", sparsity], 2);
        assert!(
            message.contains("--sparsity: sparsity.target is ") && message.contains("[0, 1)"),
            "{message}"
        );
    }
    for (setting, expected) in [
        (
            "train.batch_size=0",
            "train.batch_size is 0, expected a whole number from 1 to 100000000",
        ),
        ("train.iterations=1000000000000", "train.iterations is 1000000000000"),
        (
            "train.iterations=-3",
            "train.iterations is -3, expected a whole number of at least 0",
        ),
        ("train.multiplier=0", "train.multiplier is 0"),
        ("train.multiplier=inf", "train.multiplier is inf"),
        ("optimizer.momentum=1", "optimizer.momentum is 1"),
        ("learning_rate.base=-1", "learning_rate.base is -1"),
        ("learning_rate.boundaries=[5, 5]", "increasing steps"),
        ("learning_rate.factors=[1]", "2 numbers of at least 0"),
        (
            "mask_update.frequency_steps=0",
            "frequency_steps is 0, expected at least 1",
        ),
        ("mask_update.drop_fraction=1.5", "drop_fraction is 1.5"),
        ("sparsity.layers.layer2=1.0", "sparsity.layers.layer2 is 1"),
        ("sparsity.layers.layer2={ scale = 2 }", "sparsity.layers.layer2 is 1.96"),
        ("sparsity.power_scale=inf", "inf"),
    ] {
        let message = error(&["plan", "--set", setting], 2);
        let flag = format!("error: --set {}: ", setting.split_once('=').unwrap().0);
        assert!(
            message.starts_with(&flag) && message.contains(expected),
            "{setting}: {message}"
        );
    }
}

#[test]
fn rejects_values_of_the_wrong_type() {
    for args in [
        ["plan", "--sparsity", "lots"],
        ["plan", "--seed", "1.5"],
        ["plan", "--seed", "-1"],
        ["plan", "--custom", "layer1"],
        ["plan", "--layers", "a=3xx4"],
        ["plan", "--set", "train"],
        ["plan", "--set", "train=3"],
        ["plan", "--set", "data.name=3"],
    ] {
        assert!(error(&args, 2).contains(args[1]), "{args:?}");
    }
}

/// Setting one value twice on the command line is an error.
#[test]
fn rejects_settings_given_twice() {
    for (args, named) in [
        (
            &["--custom", "layer2=0.45", "--set", "sparsity.layers={}"][..],
            ["--custom layer2=0.45", "--set sparsity.layers={}"],
        ),
        (
            &["--custom", "layer2=0.4", "--custom", "layer2=0.5"],
            ["--custom layer2=0.4", "--custom layer2=0.5"],
        ),
        (
            &["--set", "train.seed=1", "--set", "train.seed=2"],
            ["--set train.seed=1", "--set train.seed=2"],
        ),
        (
            &[
                "--set",
                "sparsity.layers.layer1.scale=0.5",
                "--set",
                "sparsity.layers.layer1=0.3",
            ],
            [
                "--set sparsity.layers.layer1.scale=0.5",
                "--set sparsity.layers.layer1=0.3",
            ],
        ),
        (
            &["--lr", "0.1", "--set", "learning_rate.base=0.2"],
            ["--lr", "--set learning_rate.base=0.2"],
        ),
        (
            &["--set", "model={name='mnist-fc'}", "--width", "0.5"],
            ["--width", "--set model={name='mnist-fc'}"],
        ),
        (
            &[
                "resnet50-rigl",
                "--first-layer-sparsity",
                "0.5",
                "--custom",
                "resnet_model/initial_conv=0.4",
            ],
            ["--first-layer-sparsity", "--custom resnet_model/initial_conv=0.4"],
        ),
    ] {
        let message = error(&[&["plan"], args].concat(), 2);
        assert!(named.iter().all(|flag| message.contains(flag)), "{args:?}: {message}");
    }
    // A name of data clears the folder of the preset or file below; a folder of its own may be set.
    json(&["plan", "--data", "mnist", "--set", "data.dir=elsewhere"]);
}

#[test]
fn rejects_unknown_and_impossible_layers() {
    let message = error(&["plan", "--custom", "nolayer=0.5"], 2);
    assert!(
        message.contains("`nolayer`") && message.contains("layer1, layer2, layer3"),
        "{message}"
    );
    assert!(error(&["plan", "--layers", "a=4x5,a=4x5"], 2).contains("`a` is given twice"));
    let all_custom = [
        "plan",
        "--distribution",
        "erk",
        "--layers",
        "a=4x5",
        "--custom",
        "a=0.5",
    ];
    assert!(error(&all_custom, 2).contains("no layer left to scale"));
    let huge = "a=4294967296x4294967296";
    assert!(error(&["plan", "--layers", huge], 2).contains("at most 281474976710656 weights"));
}

#[test]
fn rejects_contradictions() {
    let message = error(&["plan", "mnist-rigl", "--method", "dense"], 2);
    assert!(
        message.contains("sparsity.target is 0.98, expected 0, as method dense keeps every weight"),
        "{message}"
    );
    let message = error(&["plan", "--method", "set", "--set", "method.grow_init=grad_sign"], 2);
    assert!(
        message.contains("method.grow_init") && message.contains("method `set`"),
        "{message}"
    );
    error(&["train", "--resume", "--overwrite"], 2);
}

#[test]
fn names_the_file_and_its_fault() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    let path = file.to_str().unwrap();
    for (text, expected) in [
        ("[train]\nitertions = 3\n", "unknown key 'itertions'"),
        ("[trian]\nseed = 3\n", "unknown key 'trian'"),
        ("seed = 3\n", "unknown key 'seed'"),
        (
            "[train]\nseed = \"x\"\n",
            "train.seed is \"x\", expected a whole number of at least 0",
        ),
        ("[train\n", "TOML parse error at line 1"),
        (
            "[sparsity]\ntarget = 2.0\n",
            "sparsity.target is 2, expected a number in [0, 1)",
        ),
        ("[sparsity.layers]\nlayer9 = 0.5\n", "`layer9`"),
    ] {
        std::fs::write(&file, text).unwrap();
        let message = error(&["plan", "--config", path], 2);
        assert!(
            message.starts_with(&format!("error: {path}: ")) && message.contains(expected),
            "{text}: {message}"
        );
    }
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(error(&["plan", "--config", path], 2).contains(path));
    let missing = dir.path().join("none.toml");
    assert!(error(&["plan", "--config", missing.to_str().unwrap()], 2).contains("none.toml"));
}
