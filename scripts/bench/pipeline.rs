//! Pictures per second of the input pipeline alone: reading, decoding, cropping, resizing, flipping, batching.
//!
//! `cargo bench --bench pipeline -- DIR train|test THREADS BATCH BATCHES` prints one JSON object. The first batches, as many
//! as are made ahead and one more, are not timed.
#![allow(missing_docs)]

use anyhow::{Context, bail};
use rigl_xla::data::Split;
use rigl_xla::data::imagenet::Kind;
use rigl_xla::data::pipeline::{Options, Order, Part, Source};
use rigl_xla::data::records::Records;
use rigl_xla::data::sets::ExampleSpec;
use std::sync::Arc;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [dir, split, threads, batch, batches] = &args[..] else {
        bail!("expected DIR train|test THREADS BATCH BATCHES, found {args:?}");
    };
    let split = match split.as_str() {
        "train" => Split::Train,
        "test" => Split::Test,
        other => bail!("split '{other}', expected train or test"),
    };
    let [threads, batch, batches] = [threads, batch, batches].map(|text| text.parse::<usize>());
    let (threads, batch, batches) = (threads?, batch?, batches?);
    let spec = ExampleSpec {
        dims: &[224, 224, 3],
        classes: 1000,
        examples: [0; 2],
        seed: 0,
        pictures: Kind::Original,
        skip_corrupt: 0,
    };
    let opened = Instant::now();
    let records = Arc::new(Records::open(dir.as_ref(), split, &spec)?);
    let open_s = opened.elapsed().as_secs_f64();
    let order = match split {
        Split::Train => Order::shuffled(records.len(), batch, 0, true, Part::WHOLE)?,
        Split::Test => Order::in_turn(records.len(), batch, Part::WHOLE),
    };
    let options = Options::new(Some(threads), batch, 1);
    let examples = records.len();
    let mut pipeline = records.pipeline(order, options, 0)?;
    let mut take = || pipeline.take()?.context("the set has too few examples");
    for _ in 0..=options.prefetch {
        take()?;
    }
    let (started, mut sum) = (Instant::now(), 0);
    for _ in 0..batches {
        sum += take()?.labels.iter().map(|&label| i64::from(label)).sum::<i64>();
    }
    let rate = (batch * batches) as f64 / started.elapsed().as_secs_f64();
    let report = serde_json::json!({
        "pictures_per_s": rate,
        "threads": threads,
        "examples": examples,
        "open_s": open_s,
        "label_sum": sum,
    });
    println!("{report}");
    Ok(())
}
