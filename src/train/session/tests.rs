//! Failures that only a manipulated session can show.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Layers;
use crate::signals::Stop;

/// A run of two replicas on random images, each launch of which has a mask update.
fn plan(out: &std::path::Path) -> Plan {
    let layers = Layers::preset("mnist-rigl").unwrap();
    let set = |layers: Layers, key: [&str; 2], value: toml::Value| layers.set("test", &key, value).unwrap();
    let values: [([&str; 2], toml::Value); 6] = [
        (["data", "name"], "synthetic".into()),
        (["data", "examples"], 40.into()),
        (["train", "batch_size"], 10.into()),
        (["train", "steps_per_launch"], 7.into()),
        (["mask_update", "frequency_steps"], 3.into()),
        (["device", "replicas"], 2.into()),
    ];
    let layers = values
        .into_iter()
        .fold(layers, |layers, (key, value)| set(layers, key, value));
    let out = out.to_str().unwrap();
    set(layers, ["output", "dir"], out.into()).plan().unwrap()
}

/// Updates are at gradient steps 0 and 3, that is at iterations 1 and 5.
#[test]
fn detects_diverged_replicas_at_the_next_mask_update() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&dir.path().join("run"));
    let mut session = Session::open(&plan, Mode::Fresh, None, &Stop::new(), None).unwrap();
    let launch = session.prepare().unwrap().unwrap();
    let next = session.run(launch).unwrap().unwrap();

    let weights = session
        .specs
        .iter()
        .position(|(name, _)| name == "layer1/weights")
        .unwrap();
    let values: Vec<f32> = session.state[1][weights].to_literal().unwrap().to_vec().unwrap();
    let others: Vec<f32> = values.iter().rev().copied().collect();
    let others = Literal::new(session.specs[weights].1.dims.as_slice(), &others);
    session.state[1][weights] = session.device.upload(&others, 1).unwrap();
    let error = session.run(next).map(|_| ()).unwrap_err();
    let Error::MasksDiffer {
        iteration: 5,
        step: 3,
        replicas: 2,
        last_good: None,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        error.to_string(),
        "the 2 replicas have different masks after the update at iteration 5 (gradient step 3), expected the same on \
         all: their devices do not compute alike; no checkpoint was saved before"
    );
}
