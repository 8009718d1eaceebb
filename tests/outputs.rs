//! Files to write that cannot be: found before any work starts, whatever the command.
#![allow(clippy::unwrap_used)]

mod common;

use common::error;

#[test]
fn rejects_outputs_that_are_folders_or_lie_in_none() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let orphan = dir.path().join("none/file");
    let orphan = orphan.to_str().unwrap();
    // The checkpoint and the images do not exist either: the output comes first.
    for command in [
        &["predict", "--checkpoint", "no", "--input", "no", "--output"][..],
        &["compact", "--checkpoint", "no", "--output"],
        &["dump-hlo", "--output"],
        &["compile", "--topology", "v5e:2x2", "--save"],
        &["compile", "--topology", "v5e:2x2", "--save-hlo"],
        &["data", "dump", "--data", "synthetic", "--split", "test", "--output"],
    ] {
        let message = error(&[command, &[folder]].concat(), 1);
        assert!(
            message.contains("a folder, expected the path of a file to write"),
            "{message}"
        );
        let message = error(&[command, &[orphan]].concat(), 1);
        assert!(
            message.contains("there is no folder ") && message.contains("none; make it first"),
            "{message}"
        );
    }
}

#[test]
fn rejects_existing_outputs_without_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("output.safetensors");
    std::fs::write(&output, "kept").unwrap();
    let output = output.to_str().unwrap();
    for command in [
        &["predict", "--checkpoint", "no", "--input", "no", "--output", output][..],
        &["compact", "--checkpoint", "no", "--output", output],
        &[
            "compact",
            "--checkpoint",
            "no",
            "--format",
            "bitmask",
            "--output",
            output,
        ],
    ] {
        let message = error(command, 2);
        assert!(message.contains("exists: give --overwrite to replace it"), "{message}");
        // With the flag the next fault is reported: the checkpoint is missing.
        let message = error(&[command, &["--overwrite"]].concat(), 1);
        assert!(message.contains("no: no such file"), "{message}");
    }
    assert_eq!(std::fs::read(output).unwrap(), b"kept");
}

#[test]
fn explains_missing_and_empty_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.safetensors");
    std::fs::write(&empty, "").unwrap();
    let missing = dir.path().join("missing.safetensors");
    let output = dir.path().join("output.safetensors");
    let output = output.to_str().unwrap();
    for (file, expected) in [
        (
            &empty,
            "an empty file, expected a file in safetensors form: copy or download it again",
        ),
        (
            &missing,
            "no such file, expected a file in safetensors form: check the path",
        ),
    ] {
        let file = file.to_str().unwrap();
        for command in [
            &["predict", "--input", "no", "--output", output, "--checkpoint", file][..],
            &["compact", "--output", output, "--checkpoint", file],
            &["eval", "--data", "synthetic", "--checkpoint", file],
        ] {
            let message = error(command, 1);
            assert!(message.contains(&format!("{file}: {expected}")), "{message}");
        }
    }
    let message = error(&["convert", empty.to_str().unwrap(), output], 1);
    assert!(message.contains("an empty file, expected"), "{message}");
    let message = error(&["convert", missing.to_str().unwrap(), output], 1);
    assert!(
        message.contains("no such file, and no TensorFlow checkpoint of this prefix")
            && message.contains("check the path"),
        "{message}"
    );
}
