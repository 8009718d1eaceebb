//! Checkpoints that are truncated, garbled or foreign, folders that are taken, and a disk that fills up while saving.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use hlo::{DType, Literal, Shape};
use rigl_xla::checkpoint::{self, Error, Metadata, Mode, RunDir};

fn state(value: f32) -> BTreeMap<String, Literal> {
    [
        ("layer1/weights".to_owned(), Literal::new(&[2, 3], &[value; 6])),
        (
            "layer1/mask".to_owned(),
            Literal::from_bools(&[2, 3], &[true, false, true, true, false, true]),
        ),
        ("global_step".to_owned(), Literal::scalar(7i64)),
    ]
    .into()
}

fn metadata(iteration: u64) -> Metadata {
    Metadata::new("mnist-fc", iteration, "seed = 0\n")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A safetensors file with this header and `data_bytes` zeros.
fn file_with(header: &str, data_bytes: usize) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &vec![0; data_bytes],
    ]
    .concat()
}

#[test]
fn names_a_truncated_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    checkpoint::save(&path, &state(1.0), &metadata(3)).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, []).unwrap();
    let error = checkpoint::load(&path).unwrap_err().to_string();
    assert!(error.contains("c.safetensors: an empty file"), "{error}");
    for length in 1..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = checkpoint::load(&path).unwrap_err();
        assert!(
            matches!(error, Error::Length { found, expected, .. } if found == length as u64 && expected > found),
            "{error}"
        );
        assert!(error.to_string().contains("c.safetensors: damaged: "));
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(checkpoint::load(&path), Err(Error::Length { .. })));
}

#[test]
fn garbled_bytes_do_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    checkpoint::save(&path, &state(1.0), &metadata(3)).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        refused += usize::from(checkpoint::load(&path).is_err());
    }
    // Structure is checked; names, numbers in arrays and text of the configuration carry no redundancy.
    assert!(refused > whole.len() / 4, "{refused} of {}", whole.len());
}

#[test]
fn rejects_sizes_beyond_the_file_without_allocating() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let entry = |dtype: &str, shape: &str, end: u64| {
        format!("{{\"w\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}")
    };
    let cases = [
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 26).to_le_bytes().to_vec(),
        file_with(&entry("F32", "[1099511627776]", 1 << 42), 0),
        file_with(&entry("F32", "[4294967296,4294967296,2]", 8), 8),
        file_with(&entry("F32", "[0,9223372036854775808,2]", 0), 0),
        file_with(&entry("F32", "[3]", 8), 8),
        file_with("{\"w\":[]}", 0),
        file_with("not json", 0),
        file_with(&"[".repeat(100_000), 0),
    ];
    for (i, bytes) in cases.into_iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let error = checkpoint::load(&path).unwrap_err();
        assert!(
            matches!(error, Error::Length { .. } | Error::Damaged { .. }),
            "{i}: {error}"
        );
    }
    let mut two = file_with(&entry("BOOL", "[1]", 1), 0);
    two.push(2);
    fs::write(&path, two).unwrap();
    assert!(
        checkpoint::load(&path)
            .unwrap_err()
            .to_string()
            .contains("boolean of value 2, expected 0 or 1")
    );
}

#[test]
fn rejects_newer_formats_and_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let newer = r#"{"__metadata__":{"rigl-xla":"{\"format\":2,\"other\":[]}"}}"#;
    fs::write(&path, file_with(newer, 0)).unwrap();
    assert!(matches!(checkpoint::load(&path), Err(Error::Format { found: 2, .. })));
    let foreign = r#"{"__metadata__":{"format":"pt"},"m":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    fs::write(&path, file_with(foreign, 2)).unwrap();
    let mut loaded = checkpoint::load(&path).unwrap();
    assert_eq!(loaded.metadata, None);
    let taken = loaded.take("any", &[("m", Shape::new(DType::Pred, [2]))]).unwrap();
    assert_eq!(taken["m"], Literal::from_bools(&[2], &[false, false]));
}

#[test]
fn reports_model_and_missing_arrays_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    checkpoint::save(&path, &state(1.0), &metadata(3)).unwrap();
    let wanted = [
        ("layer9/weights", Shape::new(DType::F32, [4])),
        ("layer1/weights", Shape::new(DType::F32, [3, 2])),
    ];
    let error = checkpoint::load(&path)
        .unwrap()
        .take("wide-resnet", &wanted)
        .unwrap_err();
    let expected = "c.safetensors: does not fit: model 'mnist-fc', expected 'wide-resnet'; \
        'layer9/weights' is missing, expected f32[4]; 'layer1/weights' is f32[2,3], expected f32[3,2]";
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn existing_run_is_rejected_resumed_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let refused = |mode| RunDir::create(&path, mode).unwrap_err().to_string();
    assert!(refused(Mode::Resume).contains("nothing to resume"));
    assert!(!path.exists());

    let run = RunDir::create(&path, Mode::Fresh).unwrap();
    assert_eq!(run.stored_config(), None);
    run.write_config("seed = 0\n").unwrap();
    run.save(&state(1.0), &metadata(10), None).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    assert!(refused(Mode::Resume).contains("another process is using this run folder"));
    drop(run);

    let message = refused(Mode::Fresh);
    assert!(message.contains("ckpt-10.safetensors") && message.contains("--resume") && message.contains("--overwrite"));

    // The temporary file of a process killed while saving is removed.
    fs::write(path.join(".ckpt-20.safetensors.x1Y2z3.tmp"), "half").unwrap();
    let run = RunDir::create(&path, Mode::Resume).unwrap();
    assert_eq!(run.stored_config(), Some("seed = 0\n"));
    assert_eq!(run.latest().unwrap().unwrap().metadata, Some(metadata(10)));
    assert_eq!(
        names(&path),
        [".lock", "ckpt-10.safetensors", "config.toml", "notes.txt"]
    );
    drop(run);

    let run = RunDir::create(&path, Mode::Overwrite).unwrap();
    assert!(run.latest().unwrap().is_some());
    run.clear().unwrap();
    assert!(run.latest().unwrap().is_none());
    assert_eq!(names(&path), [".lock", "notes.txt"]);
    let error = checkpoint::resolve(&path).unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");
}

#[test]
fn damaged_newest_checkpoint_error_names_the_previous_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), Mode::Fresh).unwrap();
    let paths = [10, 20, 30].map(|iteration| run.save(&state(1.0), &metadata(iteration), None).unwrap());
    for path in &paths[1..] {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
    let message = run.latest().unwrap_err().to_string();
    assert!(
        message.contains("ckpt-30.safetensors: damaged") && message.contains("good checkpoint is"),
        "{message}"
    );
    assert!(
        message.contains("ckpt-10.safetensors") && !message.contains("ckpt-20"),
        "{message}"
    );
    fs::write(&paths[0], "").unwrap();
    assert!(
        run.latest()
            .unwrap_err()
            .to_string()
            .contains("no good checkpoint before it")
    );
}

/// Runs itself again in a shell that limits the size of files, which stops a write halfway as a full disk does.
#[test]
#[cfg(unix)]
fn a_full_disk_while_saving_leaves_the_previous_checkpoint_good() {
    const CHILD: &str = "FAULTS_CHECKPOINT_CHILD";
    let big = [("w".to_owned(), Literal::zeros(Shape::new(DType::F32, [1 << 20])))].into();
    if let Some(path) = env::var_os(CHILD) {
        let error = checkpoint::save(Path::new(&path), &big, &metadata(2)).unwrap_err();
        println!("child: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ckpt.safetensors");
    checkpoint::save(&path, &state(1.0), &metadata(1)).unwrap();

    let test = "a_full_disk_while_saving_leaves_the_previous_checkpoint_good";
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{message}");
    assert!(
        message.contains("ckpt.safetensors: not saved: File too large"),
        "{message}"
    );
    assert_eq!(names(dir.path()), ["ckpt.safetensors"], "the temporary file is gone");
    let kept = checkpoint::load(&path).unwrap();
    assert_eq!((kept.tensors, kept.metadata), (state(1.0), Some(metadata(1))));
    // The same save succeeds once there is room.
    checkpoint::save(&path, &big, &metadata(2)).unwrap();
    assert_eq!(checkpoint::load(&path).unwrap().metadata, Some(metadata(2)));
}

#[test]
fn names_a_missing_folder() {
    let error = checkpoint::save(Path::new("no/such/c.safetensors"), &state(0.0), &metadata(0)).unwrap_err();
    assert!(
        error.to_string().starts_with("no/such/c.safetensors: not saved: "),
        "{error}"
    );
    let error = checkpoint::load(Path::new("no/such/c.safetensors")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/c.safetensors: "), "{error}");
}

#[cfg(unix)]
#[test]
fn follows_links_and_rejects_special_files() {
    let dir = tempfile::tempdir().unwrap();
    let [file, link, folder] = ["file", "link", "folder"].map(|name| dir.path().join(name));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    fs::write(&file, "old").unwrap();
    checkpoint::save(&link, &state(1.0), &metadata(1)).unwrap();
    assert!(link.is_symlink());
    assert_eq!(checkpoint::load(&file).unwrap().tensors, state(1.0));

    fs::create_dir(&folder).unwrap();
    for path in [folder.as_path(), Path::new("/dev/null")] {
        let message = checkpoint::save(path, &state(1.0), &metadata(1))
            .unwrap_err()
            .to_string();
        assert!(message.contains("it exists and is not a regular file"), "{message}");
        assert!(!path.is_file());
    }
}
