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
