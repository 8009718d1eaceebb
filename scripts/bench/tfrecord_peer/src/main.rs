//! Reads the records of a file with the `tfrecord` crate, checksums verified: `tfrecord-peer FILE examples|bytes`. Prints one
//! JSON object: records, bytes of pictures (or of records), and the seconds of processor time it took.

use tfrecord::{BytesIter, ExampleIter};

/// Processor time of this process, which has one thread, from Linux's scheduler statistics.
fn processor_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let schedule = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: u64 = schedule.split(' ').next().ok_or("no time")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, what] = &arguments[..] else {
        return Err("expected FILE examples|bytes".into());
    };
    let (mut records, mut bytes) = (0u64, 0u64);
    let started = processor_seconds()?;
    match what.as_str() {
        "examples" => {
            for example in ExampleIter::open(path, Default::default())? {
                let features = example?.features.ok_or("no features")?.feature;
                let feature = |key: &str| features.get(key).ok_or(format!("no {key}"));
                let picture = feature("image/encoded")?.as_bytes_list().ok_or("no bytes")?;
                let label = feature("image/class/label")?.as_i64_list().ok_or("no integers")?;
                (records, bytes) = (records + label.len() as u64, bytes + picture[0].len() as u64);
            }
        }
        "bytes" => {
            for record in BytesIter::open(path, Default::default())? {
                (records, bytes) = (records + 1, bytes + record?.len() as u64);
            }
        }
        other => return Err(format!("'{other}', expected examples or bytes").into()),
    }
    let seconds = processor_seconds()? - started;
    println!("{{\"records\": {records}, \"bytes\": {bytes}, \"seconds\": {seconds}}}");
    Ok(())
}
