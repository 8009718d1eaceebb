//! Pictures damaged as by a bad disk or an adversary: a number selects the mutation, and each must be refused or made ready
//! without a panic, an abort, or more memory than its bytes justify.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::path::Path;

use rigl_xla::data::imagenet::{Kind, Preprocessor};
use sparse::rng::{BoundedRng, Stream, stream};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Small, so that most of the time is the decoder's.
const SIZE: usize = 8;

/// Good pictures.
pub struct Pictures(Vec<Vec<u8>>);

impl Pictures {
    /// Those of `tests/data/pictures` that are small.
    pub fn new() -> Self {
        const SMALL: [&str; 12] = [
            "small.jpg",
            "progressive.jpg",
            "turned.jpg",
            "grey.jpg",
            "cmyk.jpg",
            "cmyk_plain.jpg",
            "ycck.jpg",
            "rgb.jpg",
            "tiny.jpg",
            "two.jpg",
            "one.jpg",
            "grey_alpha.png",
        ];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures");
        Pictures(SMALL.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect())
    }

    /// Makes one input and prepares it for training and evaluation. Returns whether either accepted it.
    pub fn run(&self, number: u64) -> bool {
        let mut random = stream(0, "mutation", "picture", number);
        let mut bytes = pick(&mut random, &self.0).clone();
        mutate(&mut random, &mut bytes);
        let kind = *pick(&mut random, &[Kind::Original, Kind::Antialiased]);
        let preprocessor = Preprocessor { size: SIZE, kind };
        let mut out = [0.0; SIZE * SIZE * 3];
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let trained = preprocessor.train(&bytes, &[], &mut rng, &mut out);
        let evaluated = preprocessor.eval(&bytes, &mut out);
        assert!(out.iter().all(|x| x.is_finite()), "{number}");
        trained.is_ok() || evaluated.is_ok()
    }
}

/// Up to four changes: bits, bytes, pairs of bytes, as sizes are; cut, removed, repeated, and segments of one length put in.
fn mutate(random: &mut Stream, bytes: &mut Vec<u8>) {
    for _ in 0..1 + below(random, 4) {
        // Half of them among the headers, where the structure is.
        let reach = if below(random, 2) == 0 {
            bytes.len().min(700)
        } else {
            bytes.len()
        };
        let at = below(random, reach + 1);
        let end = at + below(random, (bytes.len() - at).min(64) + 1);
        match below(random, 8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            2 if at < bytes.len() => bytes[at] = *pick(random, &[0, 1, 2, 4, 0x11, 0x22, 0x7f, 0x80, 0xc2, 0xda, 0xff]),
            3 if at + 1 < bytes.len() => {
                let pair: u16 = *pick(random, &[0, 1, 2, 0xff, 0x100, 0x7fff, 0x8000, 0xffdc, 0xffff]);
                bytes[at..at + 2].copy_from_slice(&pair.to_be_bytes());
            }
            4 => bytes.truncate(at.max(3)),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].to_vec();
                let to = below(random, bytes.len() + 1);
                drop(bytes.splice(to..to, again));
            }
            7 => {
                let marker = *pick(
                    random,
                    &[0xc0, 0xc2, 0xc4, 0xc9, 0xd0, 0xd8, 0xd9, 0xda, 0xdb, 0xdd, 0xee, 0xfe],
                );
                drop(bytes.splice(at..at, [0xff, marker, 0, 3, 1]));
            }
            _ => {}
        }
    }
}

fn below(random: &mut Stream, bound: usize) -> usize {
    random.up_to(bound as u64 - 1) as usize
}

fn pick<'a, T>(random: &mut Stream, of: &'a [T]) -> &'a T {
    &of[below(random, of.len())]
}
