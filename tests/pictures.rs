//! Pictures of every kind as TensorFlow 1.15 decodes, crops, resizes and refuses them, bit for bit
//! (`tests/data/pictures/make.py`).
#![allow(clippy::unwrap_used)]

#[path = "common/picture_mutations.rs"]
mod picture_mutations;

use std::fs;
use std::path::{Path, PathBuf};

use rigl_xla::data::imagenet::{self, Bits, Bounds, Kind, Preprocessor, central, distorted};
use rigl_xla::data::picture::{self, Dct, Error, Header, Image, Window};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Expected {
    pictures: Vec<Picture>,
    damaged: Vec<Damaged>,
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

/// A file, changed bits, the length that is left, a window, and the digest of its pixels where there are any.
#[derive(Deserialize)]
struct Damaged(String, Vec<(usize, u8)>, usize, [usize; 4], Option<String>);

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
    let mut pixels = Image::default();
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
fn evaluation_gets_the_same_numbers() {
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
fn training_gets_the_same_numbers_of_the_same_crop() {
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
fn rejects_damaged_files_as_tensorflow_does() {
    let (mut same, mut other, mut refused) = (0, 0, 0);
    for Damaged(name, changes, length, part, want) in expected().damaged {
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

#[test]
fn rejects_or_decodes_mutants() {
    let pictures = picture_mutations::Pictures::new();
    let taken = (0..2000).filter(|&number| pictures.run(number)).count();
    assert!((300..1700).contains(&taken), "{taken}");
}

#[test]
fn a_png_is_decoded_where_the_original_stops() {
    let bytes = read("grey_alpha.png");
    let header = Header::of(&bytes).unwrap();
    assert_eq!((header.height, header.width, header.components), (30, 40, 2));
    let mut pixels = Image::default();
    let inner = window([3, 5, 20, 30]);
    picture::decode(&bytes, Dct::Fast, |_| Ok::<_, Error>(inner), &mut pixels).unwrap();
    let grey = |row: usize, column: usize| pixels.row(row)[3 * column..][..3].to_vec();
    // As Pillow has them, from row 3 and column 5 on.
    for (row, column, want) in [(0, 0, 152), (19, 29, 81), (7, 11, 144)] {
        assert_eq!(grey(row, column), [want; 3], "{row} {column}");
    }
    assert_eq!(
        decoded(b"GIF89a", Dct::Fast, inner).unwrap_err(),
        Error::Format {
            found: b"GIF8".to_vec()
        }
    );
}

#[test]
fn bounds_sizes_before_allocating() {
    let whole = |bytes: &[u8]| decoded(bytes, Dct::Fast, window([0, 0, 1, 1])).unwrap_err();
    let mut bytes = read("small.jpg");
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    let expected = (1 << 26) / 512;
    let too_few = Error::TooFewBytes {
        height: 1 << 13,
        width: 1 << 13,
        bytes: bytes.len(),
        expected,
    };
    assert_eq!(whole(&bytes), too_few);
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let too_large = Error::TooLarge {
        height: 65500,
        width: 65500,
        components: 3,
    };
    assert_eq!(whole(&bytes), too_large);
    let good = read("small.jpg");
    for part in [
        [0, 0, 0, 5],
        [0, 0, 42, 5],
        [40, 0, 2, 5],
        [usize::MAX, 0, 2, 5],
        [0, 50, 1, 1],
    ] {
        let part = window(part);
        let want = Error::Window {
            window: part,
            height: 41,
            width: 50,
        };
        assert_eq!(decoded(&good, Dct::Fast, part), Err(want));
    }
}

/// The start of a PNG: bits of a sample, type of colour (0 grey, 2 RGB, 3 palette, 6 RGB with alpha), whether interlaced.
fn png_start([height, width]: [u32; 2], bits: u8, colour: u8, interlaced: bool) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8], data: &[u8]| {
        let sealed = [name, data].concat();
        let mut sum = flate2::Crc::new();
        sum.update(&sealed);
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(sealed);
        file.extend(sum.sum().to_be_bytes());
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(
        b"IHDR",
        &[&size[..], &[bits, colour, 0, 0, u8::from(interlaced)]].concat(),
    );
    if colour == 3 {
        chunk(b"PLTE", &[0, 0, 0]);
    }
    chunk(b"IDAT", &[]);
    file
}

/// ImageNet's largest picture has 60 million pixels, but its one PNG is small.
#[test]
fn the_work_of_a_png_is_bounded() {
    let whole = |size: [u32; 2], bits, colour| {
        let bytes = png_start(size, bits, colour, bits == 16);
        decoded(&bytes, Dct::Fast, window([0, 0, 1, 1])).unwrap_err()
    };
    for (size, bits, colour, found) in [
        ([11_000, 11_000], 16, 0, 242_000_000),
        ([8_000, 9_000], 8, 2, 216_000_000),
        ([9_000, 8_000], 1, 3, 216_000_000),
        ([6_000, 5_000], 16, 6, 240_000_000),
    ] {
        let [height, width] = size.map(|length| length as usize);
        let want = Error::TooMuchUnpacked {
            height,
            width,
            bytes: found,
        };
        assert_eq!(whole(size, bits, colour), want);
    }
    for (size, bits, colour) in [
        ([6_700, 9_000], 8, 2),
        ([10_000, 10_000], 16, 0),
        ([6_600, 10_000], 1, 3),
        ([5_000, 5_000], 16, 6),
    ] {
        let error = whole(size, bits, colour);
        assert!(matches!(error, Error::TooFewBytes { .. }), "{error}");
    }
}

#[test]
fn antialiased_pictures_equal_pillows_up_to_rounding() {
    const SIDE: usize = 40;
    let preprocessor = Preprocessor {
        size: SIDE,
        kind: Kind::Antialiased,
    };
    let mut out = vec![f32::NAN; SIDE * SIDE * 3];
    preprocessor.eval(&read("portrait.jpg"), &mut out).unwrap();
    let want = read("portrait.pillow");
    assert_eq!(out.len(), want.len());
    let differences: Vec<f32> = out
        .iter()
        .zip(want)
        .map(|(x, want)| (x - f32::from(want)).abs())
        .collect();
    let (largest, sum) = differences.iter().fold((0f32, 0.0), |(m, s), &d| (m.max(d), s + d));
    assert!(largest <= 2.0 && sum / out.len() as f32 <= 0.3, "{largest} {sum}");
    let original = part(&read("portrait.jpg"), SIDE, central(333, 219, SIDE), false).unwrap();
    assert!(original.iter().zip(&out).any(|(a, b)| (a - b).abs() > 30.0));
    // Mirrored is the other way round.
    let mut mirrored = out.clone();
    let middle = |header: Header| Ok(central(header.height, header.width, SIDE));
    preprocessor
        .part(&read("portrait.jpg"), middle, true, &mut mirrored)
        .unwrap();
    for (row, mirrored) in out.chunks(3 * SIDE).zip(mirrored.chunks(3 * SIDE)) {
        assert!(row.chunks(3).eq(mirrored.chunks(3).rev()));
    }
}

#[test]
fn training_depends_only_on_its_random_numbers() {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    let preprocessor = original(16);
    let train = |name: &str, seed, objects: &[Bounds]| {
        let mut out = vec![f32::NAN; preprocessor.values()];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        preprocessor
            .train(&read(name), objects, &mut rng, &mut out)
            .map(|()| out)
    };
    let outs: Vec<_> = (0..20).map(|seed| train("small.jpg", seed, &[]).unwrap()).collect();
    for (seed, out) in (0..).zip(&outs) {
        assert_eq!(train("small.jpg", seed, &[[0.0, 0.0, 1.0, 1.0]]).as_ref(), Ok(out));
        assert!(outs[..seed as usize].iter().all(|other| other != out));
    }
    // No part of so wide a picture is large enough: it is the whole, of which the central part is taken.
    let mut middle = vec![f32::NAN; preprocessor.values()];
    preprocessor.eval(&read("wide.jpg"), &mut middle).unwrap();
    let wides: Vec<_> = (0..8).map(|seed| train("wide.jpg", seed, &[]).unwrap()).collect();
    assert!(
        wides.contains(&middle) && wides.iter().any(|out| *out != middle),
        "mirrored or not"
    );
    let mirrored = part(&read("wide.jpg"), 16, central(37, 640, 16), true).unwrap();
    assert!(wides.iter().all(|out| *out == middle || *out == mirrored));
    let found = [0.0, 0.0, 1.5, 1.0];
    assert_eq!(train("small.jpg", 0, &[found]), Err(imagenet::Error::Bounds { found }));
    let message = original(8)
        .eval(&read("small.jpg"), &mut [0.0; 5])
        .unwrap_err()
        .to_string();
    assert_eq!(message, "a buffer of 5 numbers, expected 192 for one picture");
}
