//! Checkpoints that saving keeps and deletes.
#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Write;

fn save(run: &RunDir, iteration: u64) {
    let state = [("w".to_owned(), Literal::scalar(iteration))];
    run.save(&state.into(), &Metadata::new("m", iteration, ""), None)
        .unwrap();
}

fn iterations(dir: &Path) -> Vec<u64> {
    checkpoints(dir)
        .unwrap()
        .into_iter()
        .map(|(iteration, _)| iteration)
        .collect()
}

#[test]
fn keeps_the_newest_by_number_and_loads_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), Mode::Fresh).unwrap();
    assert!(run.latest().unwrap().is_none());
    [900, 1000, 1100, 10_000].iter().for_each(|&i| save(&run, i));
    assert_eq!(iterations(dir.path()), [1000, 1100, 10_000]);
    assert_eq!(run.latest().unwrap().unwrap().tensors["w"].item::<u64>(), Some(10_000));
    assert!(resolve(dir.path()).unwrap().ends_with("ckpt-10000.safetensors"));
    save(&run.keep(1), 10_001);
    assert_eq!(iterations(dir.path()), [10_001]);
}

#[test]
fn a_save_never_deletes_newer_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), Mode::Fresh).unwrap().keep(1);
    save(&run, 50);
    save(&run, 20);
    assert_eq!(iterations(dir.path()), [20, 50]);
}

#[test]
fn keeps_the_best_and_every_kth() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), Mode::Fresh)
        .unwrap()
        .keep(1)
        .keep_every(Some(40));
    let state = BTreeMap::from([("w".to_owned(), Literal::scalar(1u64))]);
    for (iteration, best, kept) in [
        (10, 10, &[10][..]),
        (20, 20, &[20]),
        (30, 20, &[20, 30]),
        (40, 20, &[20, 40]),
        (50, 20, &[20, 40, 50]),
        (60, 60, &[40, 60]),
    ] {
        run.save(&state, &Metadata::new("m", iteration, ""), Some(best))
            .unwrap();
        assert_eq!(iterations(dir.path()), kept);
        let linked = file::load(&dir.path().join(BEST)).unwrap();
        assert_eq!(linked.metadata.unwrap().iteration, best);
    }
    run.clear().unwrap();
    assert!(
        fs::read_dir(dir.path())
            .unwrap()
            .all(|entry| entry.unwrap().file_name() == LOCK)
    );
}

#[test]
fn metrics_drop_what_will_be_written_again_and_a_cut_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), Mode::Fresh).unwrap();
    let head = "{\"iteration\":100,\"loss\":1.5}\n{\"note\":\"kept\"}\n{\"iteration\":200,\"loss\":1.0}\n";
    write!(run.metrics(0).unwrap(), "{head}{{\"iteration\":300}}\n{{\"iterat").unwrap();
    writeln!(run.metrics(200).unwrap(), "{{\"iteration\":201}}").unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join(METRICS)).unwrap(),
        format!("{head}{{\"iteration\":201}}\n")
    );
}
