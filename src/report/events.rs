//! TensorBoard's event files: TFRecords with an `Event` each (`tensorflow/core/util/event.proto`).

mod messages;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::data::tfrecord::{self, Compression, Options, Reader};
use messages::{Event, HistogramProto, Image, Stepped, Summary, SummaryValue, What};

pub use messages::{Hparam, HparamValue};

/// Name of the event file of a run folder. TensorBoard looks for `tfevents`.
pub const FILE: &str = "events.out.tfevents.0.rigl-xla";

/// Appends events to the file of a run.
#[derive(Debug)]
pub struct Events {
    file: File,
    /// Records that are not written yet.
    pending: Vec<u8>,
}

impl Events {
    /// Begins an event file, replacing another one.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut events = Events {
            file: File::create(path)?,
            pending: vec![],
        };
        events.add(0, What::FileVersion("brain.Event:2".into()))?;
        events.flush()?;
        Ok(events)
    }

    /// Continues an event file after `step`: removes later events, which will be written again, and a cut one. Begins a new
    /// file if there is none, or none that can be read.
    ///
    /// # Errors
    /// I/O errors.
    pub fn resume(path: &Path, step: u64) -> io::Result<Self> {
        match kept(path, step) {
            None | Some(0) => Events::create(path),
            Some(length) => {
                File::options().write(true).open(path)?.set_len(length)?;
                Ok(Events {
                    file: File::options().append(true).open(path)?,
                    pending: vec![],
                })
            }
        }
    }

    /// Adds the values of a step.
    ///
    /// # Errors
    /// None: I/O happens in [`Events::flush`].
    pub fn values(&mut self, step: u64, values: Vec<Value>) -> io::Result<()> {
        let value = values.into_iter().map(Value::message).collect();
        self.add(step, What::Summary(Summary { value }))
    }

    /// Adds the configuration, for TensorBoard's table of hyperparameters.
    ///
    /// # Errors
    /// As [`Events::values`].
    pub fn start_session(&mut self, name: &str, hparams: Vec<Hparam>) -> io::Result<()> {
        let value = vec![messages::session_start(name, hparams, now())];
        self.add(0, What::Summary(Summary { value }))
    }

    /// Adds that the run is done.
    ///
    /// # Errors
    /// As [`Events::values`].
    pub fn end_session(&mut self, step: u64) -> io::Result<()> {
        let value = vec![messages::session_end(now())];
        self.add(step, What::Summary(Summary { value }))
    }

    fn add(&mut self, step: u64, what: What) -> io::Result<()> {
        let event = Event {
            wall_time: now(),
            step: step as i64,
            what: Some(what),
        };
        tfrecord::Writer::new(&mut self.pending).write(&event.encode_to_vec())
    }

    /// Writes what was added, at once.
    ///
    /// # Errors
    /// I/O errors.
    pub fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written
    }
}

/// Length of the part of an event file before the first event after `step`, or before the first damaged one.
fn kept(path: &Path, step: u64) -> Option<u64> {
    let options = Options {
        compression: Some(Compression::None),
        ..Options::default()
    };
    let mut reader = Reader::open(path, options).ok()?;
    loop {
        let before = reader.offset();
        match reader.next() {
            Ok(Some(record)) => match Stepped::decode(record.bytes) {
                Ok(event) if event.step <= step as i64 => {}
                Ok(_) | Err(_) => return Some(before),
            },
            Ok(None) | Err(_) => return Some(before),
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A named value of a step.
#[derive(Clone, Debug)]
pub struct Value {
    tag: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(f64),
    Histogram(HistogramProto),
    Image(Image),
}

impl Value {
    /// A number.
    pub fn scalar(tag: impl Into<String>, value: f64) -> Self {
        Value {
            tag: tag.into(),
            content: Content::Scalar(value),
        }
    }

    /// The distribution of the finite numbers among `values`.
    pub fn histogram(tag: impl Into<String>, values: &[f32]) -> Self {
        Value {
            tag: tag.into(),
            content: Content::Histogram(histogram(values)),
        }
    }

    /// A picture in the form of a PNG file.
    pub fn image(tag: impl Into<String>, [width, height]: [u32; 2], png: Vec<u8>) -> Self {
        Value {
            tag: tag.into(),
            content: Content::Image(Image {
                height: height as i32,
                width: width as i32,
                colorspace: 3,
                encoded_image_string: png,
            }),
        }
    }

    fn message(self) -> SummaryValue {
        let empty = SummaryValue {
            tag: self.tag,
            ..SummaryValue::default()
        };
        match self.content {
            Content::Scalar(value) => SummaryValue {
                simple_value: Some(value as f32),
                ..empty
            },
            Content::Histogram(histogram) => SummaryValue {
                histo: Some(histogram),
                ..empty
            },
            Content::Image(image) => SummaryValue {
                image: Some(image),
                ..empty
            },
        }
    }
}

/// Counts values in bins of equal width between the smallest and the largest.
fn histogram(values: &[f32]) -> HistogramProto {
    const BINS: usize = 40;
    let finite = || values.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v));
    let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if min > max {
        return HistogramProto::default();
    }
    // TensorBoard needs bins that are not empty intervals.
    let width = ((max - min) / BINS as f64).max(f64::from(f32::MIN_POSITIVE));
    let mut bucket = vec![0.0; BINS];
    let (mut num, mut sum, mut sum_squares) = (0.0, 0.0, 0.0);
    for value in finite() {
        bucket[(((value - min) / width) as usize).min(BINS - 1)] += 1.0;
        num += 1.0;
        sum += value;
        sum_squares += value * value;
    }
    HistogramProto {
        min,
        max,
        num,
        sum,
        sum_squares,
        bucket_limit: (1..=BINS).map(|i| min + i as f64 * width).collect(),
        bucket,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_finite_values() {
        let found = histogram(&[1.0, f32::NAN, 3.0, 2.0, f32::INFINITY, 3.0]);
        assert_eq!(
            (found.min, found.max, found.num, found.sum, found.sum_squares),
            (1.0, 3.0, 4.0, 9.0, 23.0)
        );
        assert_eq!((found.bucket[0], found.bucket[20], found.bucket[39]), (1.0, 1.0, 2.0));
        assert_eq!(found.bucket_limit.len(), found.bucket.len());
        let constant = histogram(&[0.5; 7]);
        assert_eq!((constant.bucket[0], constant.num), (7.0, 7.0));
        assert!(constant.bucket_limit.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(histogram(&[f32::NAN]).num, 0.0);
    }

    #[test]
    fn a_resumed_file_has_each_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let add = |events: &mut Events, step| {
            events.values(step, vec![Value::scalar("loss", 1.0)]).unwrap();
            events.flush().unwrap();
        };
        let mut events = Events::create(&path).unwrap();
        (1..=4).for_each(|step| add(&mut events, step));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let mut events = Events::resume(&path, 2).unwrap();
        (3..=4).for_each(|step| add(&mut events, step));
        assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len());
        let mut steps = vec![];
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        while let Some(record) = reader.next().unwrap() {
            steps.push(Stepped::decode(record.bytes).unwrap().step);
        }
        assert_eq!(steps, [0, 1, 2, 3, 4]);
        std::fs::write(&path, "not a record").unwrap();
        Events::resume(&path, 2).unwrap();
        assert!(std::fs::read(&path).unwrap().len() > 30);
    }
}
