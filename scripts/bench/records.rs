//! The record layer alone: checksums, examples and the features of a picture, ours against the `tfrecord` crate, one thread.
//!
//! `cargo bench --bench records -- PEER [ROUNDS]`: PEER is the program of `scripts/bench/tfrecord_peer`. Writes a file of 2000
//! records of about 110 KB with the official features, which stays in memory, and in each round (by default 7) reads it with
//! each reader in turn, every picture and label looked up. Prints one JSON object with the median of each and its range, in
//! processor time, which other programs on the machine stretch less than they do the clock's.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use rigl_xla::data::tfrecord::labelled::{Labelled, Picture};
use rigl_xla::data::tfrecord::{self, Compression, Indexed, Options, Reader};
use sparse::rng::{BoundedRng, stream};

const RECORDS: usize = 2000;

/// Records, and bytes of their pictures.
type Found = (u64, u64);

fn write(path: &Path) -> anyhow::Result<()> {
    let mut random = stream(0, "bench", "records", 0);
    let picture: Vec<u8> = (0..120_000).map(|_| random.next_u32() as u8).collect();
    tfrecord::write(path, Compression::None, |out| {
        (0..RECORDS).try_for_each(|i| {
            let length = 100_000 + random.up_to(20_000 - 1) as usize;
            let picture = Picture {
                encoded: &picture[..length],
                format: "JPEG",
                height: 375,
                width: 500,
                channels: 3,
                filename: "n01440764_10026.JPEG",
                label: 1 + i as i64 % 1000,
                synset: "n01440764",
                text: "tench, Tinca tinca",
            };
            out.write(&picture.encode())
        })
    })?;
    Ok(())
}

fn in_order(path: &Path) -> anyhow::Result<Found> {
    let (mut records, mut bytes) = (0, 0);
    let mut reader = Reader::open(path, Options::default())?;
    while let Some(record) = reader.next()? {
        let labelled = Labelled::of(&record.example()?)?;
        ensure!(labelled.label > 0);
        (records, bytes) = (records + 1, bytes + labelled.encoded.len() as u64);
    }
    Ok((records, bytes))
}

/// Opens the file and reads it in an order that is drawn.
fn shuffled(path: &Path) -> anyhow::Result<Found> {
    let (mut records, mut bytes, mut buffer) = (0, 0, vec![]);
    let file = Indexed::open(path, Options::default())?;
    let mut order: Vec<usize> = (0..file.len()).collect();
    stream(1, "bench", "order", 0).shuffle(&mut order);
    for index in order {
        let record = file.read(index, &mut buffer)?;
        let labelled = Labelled::of(&record.example()?)?;
        ensure!(labelled.label > 0);
        (records, bytes) = (records + 1, bytes + labelled.encoded.len() as u64);
    }
    Ok((records, bytes))
}

/// The crate's time, taken in its own process.
fn peer(program: &str, path: &Path, what: &str) -> anyhow::Result<(Found, f64)> {
    let output = Command::new(program)
        .arg(path)
        .arg(what)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| report[key].as_u64().context("a number");
    let seconds = report["seconds"].as_f64().context("seconds")?;
    Ok(((number("records")?, number("bytes")?), seconds))
}

/// Processor time of this process, which has one thread, from Linux's scheduler statistics.
fn processor_seconds() -> anyhow::Result<f64> {
    let schedule = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: u64 = schedule.split(' ').next().context("no time")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

/// Reads several times, because Linux counts processor time in steps of milliseconds.
fn timed(read: impl Fn() -> anyhow::Result<Found>) -> anyhow::Result<(Found, f64)> {
    const TIMES: u32 = 5;
    let started = processor_seconds()?;
    let mut found = read()?;
    for _ in 1..TIMES {
        found = read()?;
    }
    Ok((found, (processor_seconds()? - started) / f64::from(TIMES)))
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let program = arguments
        .next()
        .context("expected the program of scripts/bench/tfrecord_peer")?;
    let rounds: usize = arguments.next().map_or(Ok(7), |rounds| rounds.parse())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("records");
    write(&path)?;
    let file_bytes = std::fs::metadata(&path)?.len();
    let mut seconds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let wanted = in_order(&path)?;
    for _ in 0..rounds {
        let runs = [
            ("ours, in order", timed(|| in_order(&path))?),
            ("tfrecord, examples", peer(&program, &path, "examples")?),
            ("ours, any order", timed(|| shuffled(&path))?),
        ];
        for (name, (found, taken)) in runs {
            ensure!(found == wanted, "{name}: {found:?}, expected {wanted:?}");
            seconds.entry(name).or_default().push(taken);
        }
        let (_, taken) = peer(&program, &path, "bytes")?;
        seconds.entry("tfrecord, bytes alone").or_default().push(taken);
    }
    let mut readers = serde_json::Map::new();
    let mut medians = BTreeMap::new();
    for (name, mut taken) in seconds {
        taken.sort_by(f64::total_cmp);
        let median = taken[taken.len() / 2];
        medians.insert(name, median);
        let rate = |seconds: f64| (file_bytes as f64 / seconds / 1e6).round();
        readers.insert(
            name.to_owned(),
            serde_json::json!({
                "mb_per_s": rate(median), "least": rate(taken[taken.len() - 1]), "most": rate(taken[0]),
                "records_per_s": (RECORDS as f64 / median).round(),
            }),
        );
    }
    let times = |name: &str| (10.0 * medians["tfrecord, examples"] / medians[name]).round() / 10.0;
    let times = serde_json::json!({"in order": times("ours, in order"), "any order": times("ours, any order")});
    let report = serde_json::json!({
        "records": RECORDS, "bytes": file_bytes, "rounds": rounds, "readers": readers, "times_tfrecord": times,
    });
    println!("{report}");
    Ok(())
}
