//! Reads the records of a file with the `tfrecord` crate, checksums verified: `tfrecord-peer FILE examples|bytes`. Prints one
//! JSON object: records, bytes of pictures (or of records), and seconds.

use std::time::Instant;

use tfrecord::{BytesIter, ExampleIter, FeatureKind, RecordReaderInit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, what] = &arguments[..] else {
        return Err("expected FILE examples|bytes".into());
    };
    let (mut records, mut bytes) = (0u64, 0u64);
    let started = Instant::now();
    match what.as_str() {
        "examples" => {
            let reader: ExampleIter<_> = RecordReaderInit::default().open(path)?;
            for example in reader {
                let example = example?;
                let picture = example.get("image/encoded").ok_or("no picture")?;
                let label = example.get("image/class/label").ok_or("no label")?;
                let (FeatureKind::Bytes(picture), FeatureKind::I64(label)) = (picture.kinds(), label.kinds()) else {
                    return Err("features of other kinds".into());
                };
                (records, bytes) = (records + label.len() as u64, bytes + picture[0].len() as u64);
            }
        }
        "bytes" => {
            let reader: BytesIter<_> = RecordReaderInit::default().open(path)?;
            for record in reader {
                (records, bytes) = (records + 1, bytes + record?.len() as u64);
            }
        }
        other => return Err(format!("'{other}', expected examples or bytes").into()),
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"records\": {records}, \"bytes\": {bytes}, \"seconds\": {seconds}}}");
    Ok(())
}
