//! Mutated checkpoints, records, pictures, data sets, configurations, arrays and models by the million: as `tests/faults_convert.rs`, `tests/records.rs` and
//! `tests/pictures.rs` make thousands, in release mode.
//!
//! `cargo bench --bench mutations [-- [checkpoints|records|pictures|data|arrays] INPUTS [FIRST]]` makes INPUTS inputs (by default 1000000) of the
//! kinds in turn, from number FIRST on, and prints one JSON object: how many were refused, the time, and the peak memory of
//! the process, by kind. It fails if an input takes more than 5 seconds, or the process more than 1 GiB.
//! Writes and reads many small files: TMPDIR should be in memory.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../tests/common/array_mutations.rs"]
mod array_mutations;
#[path = "../../tests/common/data_mutations.rs"]
mod data_mutations;
#[path = "../../tests/common/mutations.rs"]
mod mutations;
#[path = "../../tests/common/picture_mutations.rs"]
mod picture_mutations;
#[path = "../../tests/common/record_mutations.rs"]
mod record_mutations;

use std::time::Instant;

use mutations::Outcome;

#[derive(Default, serde::Serialize)]
struct Counts {
    inputs: u64,
    refused: u64,
    /// Taken, but no variable could be read, as the shards do not hold them.
    without_data: u64,
    with_data: u64,
    seconds: f64,
    /// Seconds of the slowest input.
    slowest_s: f64,
    /// Peak memory of the process while the kind ran, where the system reports it.
    resident_mb: f64,
}

/// Bounds that hold for every input, in seconds and MB.
const MOST_SECONDS: f64 = 5.0;
const MOST_MB: f64 = 1024.0;

/// A line of `/proc/self/status`, in MB.
fn memory_mb(line: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix(line))?;
    Some(kib.trim().split(' ').next()?.parse::<f64>().ok()? / 1024.0)
}

/// Runs inputs from number `first` on.
fn count(inputs: u64, first: u64, run: impl Fn(u64) -> Outcome) -> Counts {
    // Resets the peak memory. Where that is impossible, the peak is that of all kinds so far.
    std::fs::write("/proc/self/clear_refs", "5").ok();
    let started = Instant::now();
    let mut counts = Counts {
        inputs,
        ..Counts::default()
    };
    for number in first..first + inputs {
        let begun = Instant::now();
        let outcome = run(number);
        counts.slowest_s = counts.slowest_s.max(begun.elapsed().as_secs_f64());
        assert!(
            counts.slowest_s < MOST_SECONDS,
            "input {number} took {} s",
            counts.slowest_s
        );
        match outcome {
            Outcome::Refused => counts.refused += 1,
            Outcome::Accepted(0) => counts.without_data += 1,
            Outcome::Accepted(_) => counts.with_data += 1,
        }
    }
    counts.resident_mb = memory_mb("VmHWM:").unwrap_or(0.0);
    let resident = counts.resident_mb;
    assert!(
        resident < MOST_MB,
        "{resident} MB resident, expected less than {MOST_MB}"
    );
    counts.seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    counts
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let mut numbers = arguments.iter().filter_map(|arg| arg.parse().ok());
    let (inputs, first): (u64, u64) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(0));
    let dir = tempfile::tempdir()?;
    let (checkpoints, records) = (
        mutations::Subject::new(dir.path()),
        record_mutations::Subject::new(dir.path()),
    );
    let before = memory_mb("VmPeak:");
    let mut kinds = serde_json::Map::new();
    let mut add = |kind: String, counts: Counts| -> anyhow::Result<()> {
        kinds.insert(kind.to_lowercase(), serde_json::to_value(counts)?);
        Ok(())
    };
    if arguments.iter().any(|arg| arg == "records") {
        let each = inputs / record_mutations::Kind::ALL.len() as u64;
        for kind in record_mutations::Kind::ALL {
            add(
                format!("{kind:?}"),
                count(each, first, |number| records.run(kind, number)),
            )?;
        }
    } else if arguments.iter().any(|arg| arg == "data") {
        let data = data_mutations::Subject::new(dir.path());
        let each = inputs / data_mutations::Kind::ALL.len() as u64;
        for kind in data_mutations::Kind::ALL {
            add(format!("{kind:?}"), count(each, first, |number| data.run(kind, number)))?;
        }
    } else if arguments.iter().any(|arg| arg == "arrays") {
        let arrays = array_mutations::Subject::new(dir.path());
        let each = inputs / array_mutations::Kind::ALL.len() as u64;
        for kind in array_mutations::Kind::ALL {
            add(
                format!("{kind:?}"),
                count(each, first, |number| arrays.run(kind, number)),
            )?;
        }
    } else if arguments.iter().any(|arg| arg == "pictures") {
        let pictures = picture_mutations::Pictures::new();
        let outcome = |taken| if taken { Outcome::Accepted(1) } else { Outcome::Refused };
        add(
            "pictures".into(),
            count(inputs, first, |number| outcome(pictures.run(number))),
        )?;
    } else {
        let each = inputs / mutations::Kind::ALL.len() as u64;
        for kind in mutations::Kind::ALL {
            add(
                format!("{kind:?}"),
                count(each, first, |number| checkpoints.run(kind, number)),
            )?;
        }
    }
    let report = serde_json::json!({
        "inputs": inputs, "first": first, "kinds": kinds,
        "virtual_mb_before": before, "virtual_mb_peak": memory_mb("VmPeak:"),
    });
    println!("{report}");
    Ok(())
}
