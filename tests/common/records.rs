//! Small data sets of pictures in TFRecords.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};

use rigl_xla::data::tfrecord::example::{Values, encode};
use rigl_xla::data::tfrecord::labelled::{ENCODED, LABEL};
use rigl_xla::data::tfrecord::{self, Compression, Indexed, shards};
use rigl_xla::data::{Split, fetch, mnist};

/// Classes of Fashion-MNIST.
pub const CLASSES: i64 = 10;

/// Writes a set of so many files, in turn of the first Fashion-MNIST pictures of a split (as PNG, in arbitrary colours,
/// slightly enlarged, no two neighbours of the same size) and, every eighth, of real JPEGs.
pub fn write(dir: &Path, set: &str, files: usize, examples: usize) -> Vec<PathBuf> {
    let split = if set == "train" { Split::Train } else { Split::Test };
    let fashion = mnist::load(&fetch::ensure("fashion-mnist").unwrap(), split).unwrap();
    let labels: Vec<i32> = fashion.labels.to_vec().unwrap();
    let pictures = fashion.images.bytes().chunks(mnist::SIDE * mnist::SIDE);
    let records: Vec<Vec<u8>> = pictures
        .zip(labels)
        .take(examples)
        .enumerate()
        .map(|(i, (pixels, label))| match i % 8 {
            7 => record(&jpeg(i), i64::from(label) + 1),
            _ => record(&png(pixels, 34 + i % 5, 36), i64::from(label) + 1),
        })
        .collect();
    write_records(dir, set, files, &records)
}

/// Writes records to files in turn: record `i` goes to file `i % files`.
pub fn write_records(dir: &Path, set: &str, files: usize, records: &[Vec<u8>]) -> Vec<PathBuf> {
    let one = |file: usize| {
        let path = dir.join(shards::name(set, file, files));
        tfrecord::write(&path, Compression::None, |out| {
            let mut mine = records.iter().skip(file).step_by(files);
            mine.try_for_each(|record| out.write(record))
        })
        .unwrap();
        path
    };
    (0..files).map(one).collect()
}

/// An example with the features that are read.
pub fn record(picture: &[u8], label: i64) -> Vec<u8> {
    encode(&[(ENCODED, Values::Bytes(&[picture])), (LABEL, Values::Int64s(&[label]))])
}

/// A grey picture of 28 x 28 in the middle of a black one, in colour.
pub fn png(pixels: &[u8], height: usize, width: usize) -> Vec<u8> {
    let (top, left) = ((height - mnist::SIDE) / 2, (width - mnist::SIDE) / 2);
    let mut image = vec![0; height * width * 3];
    for (row, line) in pixels.chunks(mnist::SIDE).enumerate() {
        for (column, &pixel) in line.iter().enumerate() {
            let at = 3 * ((row + top) * width + column + left);
            image[at..at + 3].fill(pixel);
        }
    }
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&image).unwrap();
    writer.finish().unwrap();
    file
}

/// One of the small JPEGs of the tests.
pub fn jpeg(i: usize) -> Vec<u8> {
    let names = ["small.jpg", "odd.jpg", "grey.jpg"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/pictures")
        .join(names[i / 8 % names.len()]);
    std::fs::read(path).unwrap()
}

/// Where record `index` of a file begins.
pub fn offset(path: &Path, index: usize) -> u64 {
    Indexed::open(path, tfrecord::Options::default()).unwrap().offset(index)
}

/// Changes one byte of a file.
pub fn damage(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}
