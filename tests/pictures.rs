//! Pictures of every kind as TensorFlow 1.15 decodes, crops, resizes and refuses them, bit for bit
//! (`tests/data/pictures/make.py`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use rigl_xla::data::imagenet::{self, Bits, Bounds, Kind, Preprocessor, central, distorted};
use rigl_xla::data::picture::{self, Dct, Error, Header, Pixels, Window};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Expected {
    pictures: Vec<Picture>,
    damaged: Vec<(String, Vec<(usize, u8)>, usize, [usize; 4], Option<String>)>,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Picture {
    name: String,
    shape: [usize; 3],
    fast: String,
    accurate: String,
    eval: Vec<Eval>,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Eval {
    size: usize,
    window: [usize; 4],
    digest: Option<String>,
}

#[derive(Deserialize)]
struct Part {
    window: [usize; 4],
    fast: String,
    accurate: String,
    train: String,
    mirrored: String,
}

#[derive(Deserialize)]
struct Sample {
    shape: [usize; 2],
    objects: Vec<Bounds>,
    seed2: u64,
    windows: Vec<[usize; 4]>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn expected() -> Expected {
    serde_json::from_slice(&read("expected.json")).unwrap()
}

fn window([top, left, height, width]: [usize; 4]) -> Window {
    Window {
        top,
        left,
        height,
        width,
    }
}

/// The first 64 bits of the SHA-256.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

fn digest_of(values: &[f32]) -> String {
    digest(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
}

/// A digest of the pixels, or why there are none.
fn decoded(bytes: &[u8], dct: Dct, window: Window) -> picture::Result<String> {
    let mut pixels = Pixels::default();
    picture::decode(bytes, dct, |_| Ok::<_, Error>(window), &mut pixels)?;
    assert_eq!((pixels.height(), pixels.width()), (window.height, window.width));
    let rows: Vec<_> = (0..window.height).map(|row| pixels.row(row)).collect();
    Ok(digest(&rows.concat()))
}

fn original(size: usize) -> Preprocessor {
    Preprocessor {
        size,
        kind: Kind::Original,
    }
}

fn part(bytes: &[u8], size: usize, part: Window, mirrored: bool) -> imagenet::Result<Vec<f32>> {
    let mut out = vec![f32::NAN; size * size * 3];
    original(size).part(bytes, |_| Ok(part), mirrored, &mut out)?;
    Ok(out)
}

#[test]
fn pictures_decode_to_the_same_bytes() {
    let pictures = expected().pictures;
    assert_eq!(pictures.len(), 16);
    for picture in pictures {
        let (name, bytes) = (&picture.name, read(&picture.name));
        let header = Header::of(&bytes).unwrap();
        assert_eq!(
            [header.height, header.width, header.components],
            picture.shape,
            "{name}"
        );
        assert_eq!(
            decoded(&bytes, Dct::Fast, header.whole()).unwrap(),
            picture.fast,
            "{name}"
        );
        let accurate = decoded(&bytes, Dct::Accurate, header.whole()).unwrap();
        assert_eq!(accurate, picture.accurate, "{name}");
        for part in picture.parts {
            for (dct, want) in [(Dct::Fast, part.fast), (Dct::Accurate, part.accurate)] {
                let got = decoded(&bytes, dct, window(part.window)).unwrap();
                assert_eq!(got, want, "{name} {:?} {dct:?}", part.window);
            }
        }
    }
}

#[test]
fn evaluation_sees_the_same_numbers() {
    for picture in expected().pictures {
        let (name, bytes) = (&picture.name, read(&picture.name));
        for Eval {
            size,
            window: part,
            digest,
        } in picture.eval
        {
            assert_eq!(
                central(picture.shape[0], picture.shape[1], size),
                window(part),
                "{name} {size}"
            );
            let mut out = vec![f32::NAN; size * size * 3];
            let outcome = original(size).eval(&bytes, &mut out);
            match digest {
                Some(digest) => {
                    outcome.unwrap();
                    let whole = folder().join(name.replace(".jpg", ".f32"));
                    if size == 12 && whole.exists() {
                        let want = fs::read(whole).unwrap();
                        let want = want.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                        assert_eq!(out, want.collect::<Vec<_>>(), "{name}");
                    }
                    assert_eq!(digest_of(&out), digest, "{name} {size}");
                }
                None => {
                    let [height, width, _] = picture.shape;
                    assert_eq!(outcome, Err(imagenet::Error::TooSmall { height, width }));
                }
            }
        }
    }
}

#[test]
fn training_sees_the_same_numbers_of_the_same_part() {
    for picture in expected().pictures {
        let (name, bytes) = (&picture.name, read(&picture.name));
        for (i, recorded) in picture.parts.into_iter().enumerate() {
            let mirrored = i % 2 == 1;
            let want = if mirrored { recorded.mirrored } else { recorded.train };
            let got = part(&bytes, 224, window(recorded.window), mirrored).unwrap();
            assert_eq!(digest_of(&got), want, "{name} {:?}", recorded.window);
        }
    }
}

#[test]
fn damaged_files_are_refused_where_tensorflow_refuses_them() {
    let (mut same, mut other, mut refused) = (0, 0, 0);
    for (name, changes, length, part, want) in expected().damaged {
        let mut bytes = read(&name);
        for &(at, change) in &changes {
            bytes[at] ^= change;
        }
        bytes.truncate(length);
        let got = decoded(&bytes, Dct::Fast, window(part));
        let what = format!("{name} {changes:?} {length} {part:?}: {got:?}, {want:?}");
        match (got, want) {
            (Ok(got), Some(want)) if got == want => same += 1,
            // Where codes make no sense, libraries of different years make different pixels of them.
            (Ok(_), Some(_)) if !changes.is_empty() => other += 1,
            (Err(_), None) => refused += 1,
            _ => panic!("{what}"),
        }
    }
    assert!(same > 600 && other < 60 && refused > 300, "{same} {other} {refused}");
}

/// TensorFlow's generator (Philox, ten rounds), from the seeds of an operation.
struct Philox {
    key: u64,
    counter: [u64; 2],
    words: Vec<u32>,
}

impl Bits for Philox {
    fn next_u32(&mut self) -> u32 {
        if self.words.is_empty() {
            let split = |x: u64| [x as u32, (x >> 32) as u32];
            let [mut a, mut b] = split(self.counter[0]);
            let [mut c, mut d] = split(self.counter[1]);
            let [mut first, mut second] = split(self.key);
            for _ in 0..10 {
                let [low, high] = split(u64::from(a) * 0xd251_1f53);
                let [other_low, other_high] = split(u64::from(c) * 0xcd9e_8d57);
                [a, b, c, d] = [other_high ^ b ^ first, other_low, high ^ d ^ second, low];
                first = first.wrapping_add(0x9e37_79b9);
                second = second.wrapping_add(0xbb67_ae85);
            }
            self.counter[0] += 1;
            self.words = vec![d, c, b, a];
        }
        self.words.pop().unwrap()
    }
}

#[test]
fn the_same_bits_draw_the_same_parts() {
    let (mut parts, mut wholes) = (0, 0);
    for sample in expected().samples {
        let [height, width] = sample.shape;
        for (seed, want) in (1..).zip(sample.windows) {
            let mut philox = Philox {
                key: seed,
                counter: [0, sample.seed2],
                words: vec![],
            };
            let got = distorted(height, width, &sample.objects, &mut philox);
            assert_eq!(got, window(want), "{:?} {:?} {seed}", sample.shape, sample.objects);
            let whole = window([0, 0, height, width]);
            *if got == whole { &mut wholes } else { &mut parts } += 1;
        }
    }
    assert!(parts > 300 && wholes > 300, "{parts} {wholes}");
}
